//! What is acquired, how long it is waited for, and what is done with it.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCandidates;

use super::wanted::{KindArgs, Wanted, What};
use super::{duration, lease_duration, term};
use crate::complete;
use crate::exit;

pub(super) const RUN_ABOUT: &str = "\
Run a command while holding a lock

Waits for the lock, first come first served, runs CMD (no shell) while the lock is held, and releases it \
when CMD itself has ended. CMD inherits stdin, stdout and stderr, and finds LEASEHOLD_NAME, \
LEASEHOLD_NAMESPACE, LEASEHOLD_HOLDER and LEASEHOLD_TOKEN in its environment. Signals go to CMD and \
everything it started.

What is named together is held all or not at all, and no order of it can lead to a deadlock. NAMEs are locks, or of \
the one kind that --semaphore, --read or --write says. Where kinds are mixed, each is named by its option.

If the lock is lost, CMD gets SIGTERM and, when the grace is over, SIGKILL; so does everything it started.";

pub(super) const RUN_EXAMPLES: &str = "\
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

  # Once an hour at most, whoever comes first; again at once if it fails
  kubectl leasehold run report --no-wait -E 0 --keep 1h --max-clock-skew 10s -- ./report.sh

  # Two of five connections, for all processes together
  kubectl leasehold run db --semaphore --permits 2 --size 5 -- ./import

  # Two locks or none
  kubectl leasehold run account-1 account-2 -- ./transfer

  # A lock, two permits and a look at a table, all or none
  kubectl leasehold run --lock tenant-7 --semaphore db --permits 2 --size 5 --read prices -- ./invoice

  # Shell syntax needs a shell
  kubectl leasehold run report --shell -- './report --token \"$LEASEHOLD_TOKEN\" | gzip > report.gz'";

pub(super) const ACQUIRE_ABOUT: &str = "\
Acquire a lock for a fixed term, and print a handle of it

For scripts that cannot wrap their work in `run`. The lock stays held for the term, whatever becomes of the script; `renew` \
and `release` take the handle. The term counts from when the request was sent: behind it, on standard error or by -o, stands \
how many seconds are left. When they are over, so is the handle, and somebody else may have the lock.

Nothing stops the script when that happens. Use `run` wherever it will do.";

pub(super) const ACQUIRE_EXAMPLES: &str = "\
Exit codes:
  75   the lock was not acquired (-E changes it)
  77   forbidden

Examples:
  handle=$(kubectl leasehold acquire deploy --for 10m) || exit
  ./step-one
  handle=$(kubectl leasehold renew \"$handle\" --for 10m) || exit
  ./step-two
  kubectl leasehold release \"$handle\"

  # All that there is to know, as variables of the shell
  eval \"$(kubectl leasehold acquire deploy --for 10m -o env)\"
  ./deploy --token \"$LEASEHOLD_TOKEN\" && kubectl leasehold release \"$LEASEHOLD_HANDLE\"";

pub(super) const RENEW_ABOUT: &str = "\
Let what a handle names stay held for another term, and print the handle of that

Use the new handle from then on: the old one ends with its own term. What is over, or has been taken over by somebody else, \
cannot be brought back: then the exit code is 79.";

pub(super) const RELEASE_ABOUT: &str = "\
Release what a handle names, to whoever is first in the queue

It never releases another's hold. What was over already, so that somebody else may have had it, is told by exit code 79.";

const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// As what a name is acquired.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "What is acquired [default: locks]")]
pub(crate) struct WantArgs {
    /// Permits of a semaphore
    #[arg(long, conflicts_with_all = ["read", "write"])]
    pub(crate) semaphore: bool,
    /// So many permits [default: 1]
    #[arg(long, value_name = "N", requires = "semaphore", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) permits: Option<u32>,
    /// How many permits there are in all, where no custom resource says so. All who use the semaphore say the same
    #[arg(long, value_name = "N", requires = "semaphore", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) size: Option<u32>,
    /// A read-write lock, beside other readers
    #[arg(long, conflicts_with = "write")]
    pub(crate) read: bool,
    /// A read-write lock, alone
    #[arg(long)]
    pub(crate) write: bool,
    /// Rely on it that no two machines' clocks differ by more than this (1s to 24h): then what was kept can be taken as
    /// soon as its time has passed, by a program that was not there to watch it. Where clocks differ by more, two can hold
    #[arg(long, value_name = "DUR", value_parser = duration, conflicts_with_all = ["read", "write"])]
    pub(crate) max_clock_skew: Option<Duration>,
}

impl WantArgs {
    pub(crate) fn wanted(&self, name: &str) -> Wanted {
        let what = match self {
            Self { semaphore: true, permits, size, .. } => {
                What::Semaphore { permits: permits.unwrap_or(1), size: *size }
            }
            Self { read: true, .. } => What::Read,
            Self { write: true, .. } => What::Write,
            _ => What::Lock,
        };
        Wanted { name: name.to_owned(), what }
    }
}

/// For how long it is waited for.
#[derive(Debug, Args)]
#[command(next_help_heading = "Waiting")]
pub(crate) struct WaitingArgs {
    /// Give up when it was not acquired in this time (30s, 5m, 1h30m) [default: wait for ever]
    #[arg(long, value_name = "DUR", value_parser = duration, conflicts_with = "no_wait")]
    pub(crate) wait: Option<Duration>,
    /// Give up at once if somebody holds it
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Exit code for what was not acquired
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = exit::NOT_ACQUIRED)]
    pub(crate) conflict_exit_code: u8,
}

impl WaitingArgs {
    /// How long to wait: `None` without a limit, zero not at all.
    pub(crate) fn limit(&self) -> Option<Duration> {
        if self.no_wait { Some(Duration::ZERO) } else { self.wait }
    }
}

/// How much is said on standard error.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Messages")]
pub(crate) struct VoiceArgs {
    /// Say nothing but why this fails
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say also what goes well
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The lock, by any text (order:payment:4711). It need not exist: naming it is enough
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(complete::names))]
    pub(crate) names: Vec<String>,
    /// How long the lock stays taken when this process dies or is cut off: 1s to 60s
    #[arg(long, value_name = "DUR", value_parser = lease_duration, default_value = "30s")]
    pub(crate) lease_duration: Duration,
    /// How long CMD has between SIGTERM and SIGKILL when the lock is lost, at most half of the lease
    /// duration [default: 5s, or a sixth of the lease duration if that is less]
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) grace: Option<Duration>,
    /// Leave it held for so long when CMD has succeeded, so that nobody does the same again. It is released when CMD fails
    #[arg(long, value_name = "DUR", value_parser = term, conflicts_with = "read")]
    pub(crate) keep: Option<Duration>,
    /// Let nobody have it before so much time has passed since it was acquired, however CMD ends
    #[arg(long, value_name = "DUR", value_parser = term)]
    pub(crate) hold_at_least: Option<Duration>,
    /// Stop CMD, as if the lock were lost, when it was held for so long
    #[arg(long, value_name = "DUR", value_parser = term)]
    pub(crate) max_hold: Option<Duration>,
    /// Show people this text beside the hold, in `status` and in the custom resource: up to 1024 bytes
    #[arg(long, value_name = "TEXT")]
    pub(crate) payload: Option<String>,
    /// Label the Pod this runs in (`$POD_NAME`) while it is held [default key: held.leasehold.dev/NAME]
    #[arg(long, value_name = "KEY", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) label_pod: Option<String>,
    /// CMD is a text for `sh -c`; what follows it are $1, $2 …
    #[arg(long)]
    pub(crate) shell: bool,
    #[command(flatten)]
    pub(crate) kinds: KindArgs,
    #[command(flatten)]
    pub(crate) waiting: WaitingArgs,
    #[command(flatten)]
    pub(crate) voice: VoiceArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD", help_heading = None)]
    pub(crate) command: Vec<OsString>,
}

impl RunArgs {
    /// All that is to be acquired, in the order of the command line.
    pub(crate) fn wanted(&self) -> Result<Vec<Wanted>, String> {
        self.kinds.wanted(&self.names)
    }

    pub(crate) fn grace(&self) -> Result<Duration, String> {
        grace(self.grace, self.lease_duration)
    }

    /// What is started.
    pub(crate) fn program(&self) -> Vec<OsString> {
        program(self.shell, &self.command)
    }
}

/// The time between SIGTERM and SIGKILL: it is kept free at the end of the lease, so it cannot be long.
pub(super) fn grace(said: Option<Duration>, lease: Duration) -> Result<Duration, String> {
    let grace = said.unwrap_or(DEFAULT_GRACE.min(lease / 6));
    if grace > lease / 2 {
        return Err(format!(
            "--grace {grace:?} is more than half of --lease-duration {lease:?}: too little time would be left to renew the lease"
        ));
    }
    Ok(grace)
}

pub(super) fn program(shell: bool, command: &[OsString]) -> Vec<OsString> {
    match command {
        [text, arguments @ ..] if shell => {
            let begin = ["/bin/sh".into(), "-c".into(), text.clone(), "sh".into()];
            begin.into_iter().chain(arguments.iter().cloned()).collect()
        }
        command => command.to_vec(),
    }
}

#[derive(Debug, Args)]
pub(crate) struct AcquireArgs {
    /// The lock, by any text (order:payment:4711). It need not exist: naming it is enough
    #[arg(add = ArgValueCandidates::new(complete::names))]
    pub(crate) name: String,
    /// The term: 1s and more, counted from when it was asked for
    #[arg(long = "for", value_name = "DUR", value_parser = term)]
    pub(crate) term: Duration,
    /// Show people this text beside the hold: up to 1024 bytes
    #[arg(long, value_name = "TEXT")]
    pub(crate) payload: Option<String>,
    /// Instead of the handle alone
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<super::HandleFormat>,
    #[command(flatten)]
    pub(crate) want: WantArgs,
    #[command(flatten)]
    pub(crate) waiting: WaitingArgs,
    #[command(flatten)]
    pub(crate) voice: VoiceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    /// What `acquire`, or the last `renew`, has printed
    pub(crate) handle: String,
    /// The new term: 1s and more, counted from when it was asked for
    #[arg(long = "for", value_name = "DUR", value_parser = term)]
    pub(crate) term: Duration,
    /// Instead of the handle alone
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<super::HandleFormat>,
    #[command(flatten)]
    pub(crate) voice: VoiceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// What `acquire`, or the last `renew`, has printed
    pub(crate) handle: String,
    #[command(flatten)]
    pub(crate) voice: VoiceArgs,
}
