//! What can stand on the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;

use crate::breaking::{self, BreakArgs};
use crate::exit;

const EXAMPLES: &str = "\
Examples:
  # Run a backup unless somebody runs it already
  kubectl leasehold run backup --no-wait -- ./backup.sh

  # Wait for at most five minutes, then run
  kubectl leasehold run -n ops migrations --wait 5m -- ./migrate --all

  # Who holds what, and who waits
  kubectl leasehold list -A
  kubectl leasehold status backup -o yaml";

const RUN_ABOUT: &str = "\
Run a command while holding a lock

Waits for the lock, first come first served, runs CMD (no shell) while the lock is held, and releases it \
when CMD itself has ended. CMD inherits stdin, stdout and stderr, and finds LEASEHOLD_NAME, \
LEASEHOLD_NAMESPACE, LEASEHOLD_HOLDER and LEASEHOLD_TOKEN in its environment. Signals go to CMD and \
everything it started.

If the lock is lost, CMD gets SIGTERM and, when the grace is over, SIGKILL.";

const RUN_EXAMPLES: &str = "\
Exit codes:
  CMD's own, or 128 plus the signal that ended it
  64   wrong usage
  69   the API server cannot be reached
  75   the lock was not acquired (-E changes it)
  76   the lock was lost while CMD ran
  77   forbidden
  126  CMD cannot be run
  127  CMD was not found

Examples:
  # One at a time, in the order in which they came
  kubectl leasehold run deploy -- helm upgrade web ./chart

  # Skip this turn if the last one still runs
  kubectl leasehold run nightly --no-wait -E 0 -- ./nightly.sh

  # Shell syntax needs a shell
  kubectl leasehold run report -- sh -c './report --token \"$LEASEHOLD_TOKEN\" | gzip > report.gz'";

const NAME_ABOUT: &str = "\
Print the name of the Lease on which a lock, semaphore or read-write lock stands

A lock can be named by any text; a Lease cannot. Where the text is no object's name, its Lease has a name that is made \
of it, and says in the annotation leasehold.dev/id what it is for. Nothing is asked of the cluster.";

const NAME_EXAMPLES: &str = "\
Examples:
  # Look at the Lease itself
  kubectl get lease \"$(kubectl leasehold name order:payment:4711)\" -o yaml";

const ASK_ABOUT: &str = "\
Ask whoever holds something to let go

Holders are told who asks, why, and in what time, and decide themselves. One that has not let go in that time is \
evicted only where the custom resource says so (spec.releaseRequests: Evict), and by the operator.";

const ASK_EXAMPLES: &str = "\
Examples:
  # Could the backup make room?
  kubectl leasehold ask backup --within 2m --reason 'the migration is due'

  # One of those who hold permits
  kubectl leasehold ask db-connections --holder web-0_k3j9x2m1qa.7";

/// The longest that the client lets a session live.
const LONGEST_LEASE: Duration = Duration::from_mins(1);
const SHORTEST_LEASE: Duration = Duration::from_secs(1);
const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// Locks that live in the Kubernetes API server
#[derive(Debug, Parser)]
#[command(name = "kubectl-leasehold", bin_name = "kubectl leasehold", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which cluster, as which user, in which namespace.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Kubeconfig file instead of $KUBECONFIG or ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig instead of its current one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Namespace instead of the context's
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(about = "Run a command while holding a lock", long_about = RUN_ABOUT, after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// List locks, who holds them and how many wait
    List(ListArgs),
    /// Show a lock: its holder, since when, its queue
    Status(StatusArgs),
    #[command(about = "Print the name of the Lease on which a lock stands", long_about = NAME_ABOUT, after_help = NAME_EXAMPLES)]
    Name(NameArgs),
    #[command(about = "Ask whoever holds something to let go", long_about = ASK_ABOUT, after_help = ASK_EXAMPLES)]
    Ask(AskArgs),
    #[command(about = "Break what others hold", long_about = breaking::ABOUT, after_help = breaking::EXAMPLES)]
    Break(BreakArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The lock, by any text (order:payment:4711). It need not exist: naming it is enough
    pub(crate) name: String,
    /// Give up when the lock was not acquired in this time (30s, 5m, 1h30m) [default: wait for ever]
    #[arg(long, value_name = "DUR", value_parser = duration, conflicts_with = "no_wait")]
    pub(crate) wait: Option<Duration>,
    /// Give up at once if somebody holds the lock
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long the lock stays taken when this process dies or is cut off: 1s to 60s
    #[arg(long, value_name = "DUR", value_parser = lease_duration, default_value = "30s")]
    pub(crate) lease_duration: Duration,
    /// How long CMD has between SIGTERM and SIGKILL when the lock is lost, at most half of the lease
    /// duration [default: 5s, or a sixth of the lease duration if that is less]
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) grace: Option<Duration>,
    /// Exit code for a lock that was not acquired
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = exit::NOT_ACQUIRED)]
    pub(crate) conflict_exit_code: u8,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

impl RunArgs {
    /// The time between SIGTERM and SIGKILL: it is kept free at the end of the lease, so it cannot be long.
    pub(crate) fn grace(&self) -> Result<Duration, String> {
        let lease = self.lease_duration;
        let grace = self.grace.unwrap_or(DEFAULT_GRACE.min(lease / 6));
        if grace > lease / 2 {
            return Err(format!(
                "--grace {grace:?} is more than half of --lease-duration {lease:?}: too little time would be left to renew the lease"
            ));
        }
        Ok(grace)
    }

    /// How long to wait for the lock: `None` without a limit, zero not at all.
    pub(crate) fn limit(&self) -> Option<Duration> {
        if self.no_wait { Some(Duration::ZERO) } else { self.wait }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Instead of a table
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<ListFormat>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The lock
    pub(crate) name: String,
    /// Instead of text
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The lock, semaphore or read-write lock
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// The lock, semaphore or read-write lock
    pub(crate) name: String,
    /// In what time to let go: 1s to 24h
    #[arg(long, value_name = "DUR", value_parser = duration, default_value = "30s")]
    pub(crate) within: Duration,
    /// What for, so that people understand
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
    /// Only this one of several holders, by its identity [default: all]
    #[arg(long, value_name = "IDENTITY")]
    pub(crate) holder: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    Json,
    Yaml,
    /// lease.coordination.k8s.io/NAME, one a line
    Name,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = text.parse().map_err(|_| "not a duration such as 30s, 5m or 1h30m".to_owned())?;
    parsed.try_into().map_err(|_| "a duration cannot be negative".to_owned())
}

fn lease_duration(text: &str) -> Result<Duration, String> {
    let lease = duration(text)?;
    if lease.subsec_nanos() != 0 {
        return Err("a Lease counts whole seconds".to_owned());
    }
    if (SHORTEST_LEASE..=LONGEST_LEASE).contains(&lease) { Ok(lease) } else { Err("not between 1s and 60s".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(args: &str) -> Result<RunArgs, clap::Error> {
        let cli = Cli::try_parse_from(format!("kubectl-leasehold run {args}").split(' '))?;
        match cli.command {
            Command::Run(run) => Ok(run),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_is_what_it_was() {
        let mut cli = Cli::command().term_width(100);
        cli.build();
        insta::assert_snapshot!("help", cli.render_help());
        for name in ["run", "list", "status", "name", "ask", "break"] {
            let command = cli.find_subcommand_mut(name).unwrap();
            insta::assert_snapshot!(format!("help_{name}"), command.render_long_help());
        }
    }

    #[test]
    fn what_stands_behind_two_dashes_is_the_command() {
        let run = parse("backup --wait 1m30s -- ls -n --wait").unwrap();
        assert_eq!((run.name.as_str(), run.limit()), ("backup", Some(Duration::from_secs(90))));
        assert_eq!(run.command, ["ls", "-n", "--wait"]);
        assert!(parse("backup ls").is_err());
        assert!(parse("backup --").is_err());
    }

    #[test]
    fn limits_of_waiting() {
        assert_eq!(parse("x -- y").unwrap().limit(), None);
        assert_eq!(parse("x --no-wait -- y").unwrap().limit(), Some(Duration::ZERO));
        assert!(parse("x --no-wait --wait 1s -- y").is_err());
        for bad in ["5", "soon", "-5s", ""] {
            assert!(parse(&format!("x --wait={bad} -- y")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_grace_leaves_time_to_renew() {
        assert_eq!(parse("x -- y").unwrap().grace(), Ok(Duration::from_secs(5)));
        assert_eq!(parse("x --lease-duration 60s -- y").unwrap().grace(), Ok(Duration::from_secs(5)));
        assert_eq!(parse("x --lease-duration 3s -- y").unwrap().grace(), Ok(Duration::from_millis(500)));
        assert_eq!(parse("x --lease-duration 4s --grace 2s -- y").unwrap().grace(), Ok(Duration::from_secs(2)));
        insta::assert_snapshot!(
            parse("x --lease-duration 4s --grace 5s -- y").unwrap().grace().unwrap_err(),
            @"--grace 5s is more than half of --lease-duration 4s: too little time would be left to renew the lease"
        );
        for bad in ["0s", "61s", "1500ms"] {
            assert!(parse(&format!("x --lease-duration {bad} -- y")).is_err(), "{bad}");
        }
    }
}
