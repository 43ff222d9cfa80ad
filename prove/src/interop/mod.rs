//! To come.

use anyhow::Result;

use crate::report::Report;

/// Options of this layer.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {}

/// Runs this layer.
///
/// # Errors
/// Where it could not be run. What it finds to be wrong is in the report.
pub fn run(_options: &Options) -> Result<Report> {
    Ok(Report::default())
}
