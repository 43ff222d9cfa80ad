//! What can stand on the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;

use crate::breaking::{self, BreakArgs};
use crate::doctor::{self, DoctorArgs};
use crate::generate::Generate;
use crate::graph::{self, GraphArgs};

mod acquire;
mod elect;
mod look;
mod ui;
mod wanted;

pub(crate) use acquire::{AcquireArgs, ReleaseArgs, RenewArgs, RunArgs, VoiceArgs};
pub(crate) use elect::{AfterLoss, ElectArgs};
pub(crate) use look::{AskArgs, Awaited, ListArgs, ListFormat, NameArgs, StatusArgs, WaitArgs};
pub(crate) use ui::UiArgs;
pub(crate) use wanted::{Wanted, What};

const EXAMPLES: &str = "\
Examples:
  # Run a backup unless somebody runs it already
  kubectl leasehold run backup --no-wait -- ./backup.sh

  # Wait for at most five minutes, then run
  kubectl leasehold run -n ops migrations --wait 5m -- ./migrate --all

  # Who holds what, and who waits
  kubectl leasehold list -A
  kubectl leasehold status backup -o yaml";

/// The longest that the client lets a session live.
const LONGEST_LEASE: Duration = Duration::from_mins(1);
const SHORTEST_LEASE: Duration = Duration::from_secs(1);
/// The longest time for which something can be kept.
const LONGEST_TERM: Duration = Duration::from_hours(10 * 366 * 24);

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
#[derive(Clone, Debug, Default, Args)]
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
    #[command(about = "Run a command while holding a lock", long_about = acquire::RUN_ABOUT, after_help = acquire::RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    #[command(about = "Elect a leader, and run a command or answer probes while leading", long_about = elect::ABOUT, after_help = elect::EXAMPLES)]
    Elect(ElectArgs),
    #[command(about = "Acquire a lock for a fixed term, and print a handle", long_about = acquire::ACQUIRE_ABOUT, after_help = acquire::ACQUIRE_EXAMPLES)]
    Acquire(Box<AcquireArgs>),
    #[command(about = "Let what a handle names stay held for another term", long_about = acquire::RENEW_ABOUT)]
    Renew(RenewArgs),
    #[command(about = "Release what a handle names", long_about = acquire::RELEASE_ABOUT)]
    Release(ReleaseArgs),
    #[command(about = "Wait until something is free, or held", long_about = look::WAIT_ABOUT, after_help = look::WAIT_EXAMPLES)]
    Wait(WaitArgs),
    /// List locks, semaphores and read-write locks, who holds them and how many wait
    List(ListArgs),
    /// Show one: its holders, since when, its queue
    Status(StatusArgs),
    #[command(about = "Draw who waits for what, and who holds that", long_about = graph::ABOUT, after_help = graph::EXAMPLES)]
    Graph(GraphArgs),
    #[command(about = "Show them all on a web page, on this machine only", long_about = ui::ABOUT, after_help = ui::EXAMPLES)]
    Ui(UiArgs),
    #[command(about = "Print the name of the Lease on which a lock stands", long_about = look::NAME_ABOUT, after_help = look::NAME_EXAMPLES)]
    Name(NameArgs),
    #[command(about = "Ask whoever holds something to let go", long_about = look::ASK_ABOUT, after_help = look::ASK_EXAMPLES)]
    Ask(AskArgs),
    #[command(about = "Break what others hold", long_about = breaking::ABOUT, after_help = breaking::EXAMPLES)]
    Break(BreakArgs),
    #[command(about = "Check an installation, and say what to do", long_about = doctor::ABOUT, after_help = doctor::EXAMPLES)]
    Doctor(DoctorArgs),
    #[command(name = "__complete", hide = true)]
    Complete {
        #[arg(last = true)]
        words: Vec<OsString>,
    },
    #[command(subcommand, name = "__generate", hide = true)]
    Generate(Generate),
}

/// How a handle is printed, instead of alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HandleFormat {
    Json,
    /// Variables for a shell's eval
    Env,
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
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

/// For how long something is held, in whole seconds.
fn term(text: &str) -> Result<Duration, String> {
    let term = duration(text)?;
    if term.subsec_nanos() != 0 {
        return Err("a Lease counts whole seconds".to_owned());
    }
    if (SHORTEST_LEASE..=LONGEST_TERM).contains(&term) {
        Ok(term)
    } else {
        Err("not between 1s and 10 years".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(args: &str) -> Result<RunArgs, clap::Error> {
        let cli = Cli::try_parse_from(format!("kubectl-leasehold run {args}").split(' '))?;
        match cli.command {
            Command::Run(run) => Ok(*run),
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
        for name in [
            "run", "elect", "acquire", "renew", "release", "wait", "list", "status", "graph", "ui", "name", "ask",
            "break", "doctor",
        ] {
            let command = cli.find_subcommand_mut(name).unwrap();
            insta::assert_snapshot!(format!("help_{name}"), command.render_long_help());
        }
    }

    #[test]
    fn what_stands_behind_two_dashes_is_the_command() {
        let run = parse("backup --wait 1m30s -- ls -n --wait").unwrap();
        assert_eq!((run.names, run.waiting.limit()), (vec!["backup".to_owned()], Some(Duration::from_secs(90))));
        assert_eq!(run.command, ["ls", "-n", "--wait"]);
        assert_eq!(parse("a b -- ls").unwrap().names, ["a", "b"]);
        assert!(parse("backup ls").is_err());
        assert!(parse("backup --").is_err());
    }

    #[test]
    fn limits_of_waiting() {
        assert_eq!(parse("x -- y").unwrap().waiting.limit(), None);
        assert_eq!(parse("x --no-wait -- y").unwrap().waiting.limit(), Some(Duration::ZERO));
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

    #[test]
    fn what_does_not_go_together_is_refused() {
        for bad in [
            "x --semaphore --permits 0 -- y",
            "x --read --keep 1h -- y",
            "x --keep 0s -- y",
            "x --max-hold 1500ms -- y",
            "x -q -v -- y",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let run = parse("x --semaphore --permits 2 --size 5 --keep 1h --label-pod -- y").unwrap();
        assert_eq!(run.label_pod, Some(String::new()));
        assert_eq!(parse("x --label-pod=a/b -- y").unwrap().label_pod, Some("a/b".to_owned()));
    }

    #[test]
    fn a_shell_is_given_a_text_and_arguments() {
        assert_eq!(parse("x --shell -- y z").unwrap().program(), ["/bin/sh", "-c", "y", "sh", "z"]);
        assert_eq!(parse("x -- y z").unwrap().program(), ["y", "z"]);
    }
}
