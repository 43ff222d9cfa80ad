//! The command line of `elect`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::acquire::{VoiceArgs, grace, program};
use super::{duration, lease_duration};

pub(super) const ABOUT: &str = "\
Elect a leader among replicas, and run a command or answer probes while leading

Replicas that name the same election take part in it; one of them leads, and another does when it ends or is cut off. It \
contends correctly with client-go's leader election on the same Lease.

With CMD: it runs while this replica leads, and is stopped (SIGTERM, then SIGKILL) before another can lead. When it ends by \
itself, this steps down and ends with its exit code. --on-loss says what comes after a loss.

With --serve, for containers beside this one: GET / answers who leads as JSON, GET /readyz with 200 while this replica leads and \
503 otherwise, GET /healthz with 200 as long as this process lets go of what it has lost.";

pub(super) const EXAMPLES: &str = "\
Exit codes:
  CMD's own, or 128 plus the signal that ended it; 0 without CMD when told to end
  69   the API server cannot be reached
  76   the leadership was lost, with --on-loss exit
  77   forbidden

Examples:
  # One of the replicas works, and works again when it has lost and won
  kubectl leasehold elect reports -- ./worker

  # As a sidecar: the container beside it asks http://127.0.0.1:4040/readyz
  kubectl leasehold elect reports --serve 127.0.0.1:4040 --label-pod";

/// What comes after a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AfterLoss {
    /// Stand for election again, and start CMD anew when it is won
    Restart,
    /// End with 76, for whoever looks after this process to start it anew
    Exit,
}

#[derive(Debug, Args)]
pub(crate) struct ElectArgs {
    /// The election: all replicas name the same
    pub(crate) name: String,
    /// What to do when the leadership was lost
    #[arg(long, value_enum, value_name = "WHAT", default_value = "restart")]
    pub(crate) on_loss: AfterLoss,
    // Rustdoc would take the address for a link.
    #[arg(long, value_name = "ADDR", help = "Answer HTTP requests here, such as 127.0.0.1:4040 or [::]:4040")]
    pub(crate) serve: Option<SocketAddr>,
    /// How long others leave a leader in peace after its last renewal: 1s to 60s
    #[arg(long, value_name = "DUR", value_parser = lease_duration, default_value = "15s")]
    pub(crate) lease_duration: Duration,
    /// How long CMD has between SIGTERM and SIGKILL when the leadership is lost, at most half of the lease duration
    /// [default: 5s, or a sixth of the lease duration if that is less]
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) grace: Option<Duration>,
    /// Show people this text beside the leader, and whoever asks GET /: where it can be reached, for example
    #[arg(long, value_name = "TEXT")]
    pub(crate) payload: Option<String>,
    /// Label the Pod this runs in (`$POD_NAME`) while it leads [default key: leader.leasehold.dev/NAME]
    #[arg(long, value_name = "KEY", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) label_pod: Option<String>,
    /// CMD is a text for `sh -c`; what follows it are $1, $2 …
    #[arg(long)]
    pub(crate) shell: bool,
    #[command(flatten)]
    pub(crate) voice: VoiceArgs,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD", required_unless_present = "serve", help_heading = None)]
    pub(crate) command: Vec<OsString>,
}

impl ElectArgs {
    pub(crate) fn grace(&self) -> Result<Duration, String> {
        grace(self.grace, self.lease_duration)
    }

    /// What is started, if anything is.
    pub(crate) fn program(&self) -> Option<Vec<OsString>> {
        (!self.command.is_empty()).then(|| program(self.shell, &self.command))
    }
}
