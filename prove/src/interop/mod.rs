//! client-go's leader election and ours contend for one Lease.
//!
//! Processes of both sides take the lead in turn; now and then one is asked to step down, killed and replaced, or stopped
//! for a while. What they say of themselves is judged by [`history::check`]: never two leaders, and a dead one is
//! followed in time.
//!
//! client-go gives no guarantee to a leader that is stopped past its lease: when it wakes it leads on for up to its
//! renew deadline before it notices. That is counted apart. One that frees the Lease when it steps down may then free it
//! though somebody else has taken it: such ones are not stopped. Nothing like it is granted to our side.

pub mod harness;
pub mod history;

use std::time::Duration;

use anyhow::Result;
use jiff::SignedDuration;

use crate::report::Report;

/// Options of this layer.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How long to let them contend.
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub duration: Duration,
    /// What chance begins with. Default: a new one each time.
    #[arg(long)]
    pub seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { duration: Duration::from_secs(60), seed: None }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = text.parse().map_err(|_| "not a duration such as 90s or 10m".to_owned())?;
    parsed.try_into().map_err(|_| "a duration cannot be negative".to_owned())
}

/// Runs this layer.
///
/// # Errors
/// Where it could not be run. What it finds to be wrong is in the report.
pub fn run(options: &Options) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(harness::contend(options))?;
    Ok(outcome.report())
}
