//! What a lock costs, measured on a real API server against the floor: a bare PUT, and a PUT's watch event.

mod counting;
mod local;
mod many;
mod measure;
mod operator;
mod reclaim;
mod report;
mod scale;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use leasehold_testkit::Cluster;

use crate::measure::{Bench, What};
use crate::report::Report;

/// Measures what a lock costs on a real API server, and writes a summary.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  leasehold-bench --seconds 10 --contenders 8,32\n  leasehold-bench --only operator --scale 10000"
)]
struct Options {
    /// Where to write the figures, as JSON.
    #[arg(long, default_value = "target/bench/summary.json")]
    summary: PathBuf,
    /// Measure only this part.
    #[arg(long)]
    only: Option<Part>,
    /// Rounds of each measurement of one operation.
    #[arg(long, default_value_t = 500)]
    rounds: usize,
    /// For how many seconds contenders contend, times one for every 32 of them.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// How many contend. Alone they are measured in any case.
    #[arg(long, value_delimiter = ',', default_value = "2,8,32,128")]
    contenders: Vec<usize>,
    /// How many contend for a semaphore.
    #[arg(long, value_delimiter = ',', default_value = "20,100,200")]
    sharers: Vec<usize>,
    /// How many read under a read-write lock. A hundred who come and go without a pause overwhelm the API server.
    #[arg(long, value_delimiter = ',', default_value = "8,20")]
    readers: Vec<usize>,
    /// How many permits that semaphore has.
    #[arg(long, default_value_t = 10)]
    permits: u32,
    /// How many hold permits of one semaphore while as many wait.
    #[arg(long, default_value_t = 100)]
    fan_out: u32,
    /// How often a lock is taken from a client whose Pod has terminated.
    #[arg(long, default_value_t = 20)]
    reclaims: u64,
    /// How many locks one client holds at once.
    #[arg(long, default_value_t = 10_000)]
    held: usize,
    /// For how many seconds idle clients are watched.
    #[arg(long, default_value_t = 60)]
    idle_seconds: u64,
    /// Over how many held locks the operator is measured.
    #[arg(long, default_value_t = 10_000)]
    scale: usize,
}

/// What there is to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What clients do.
    Clients,
    /// What the operator does where there are very many locks.
    Operator,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let mut report = Report::default();
    if options.only != Some(Part::Operator) {
        clients(&options, &mut report).await?;
    }
    if options.only != Some(Part::Clients) && options.scale > 0 {
        scale::operator(&mut report, options.scale, Duration::from_secs(options.idle_seconds.max(1))).await?;
    }
    report.write(&options.summary)?;
    println!("\n{}\n\nwritten to {}", report.table(), options.summary.display());
    Ok(())
}

async fn clients(options: &Options, report: &mut Report) -> Result<()> {
    let cluster = Cluster::named_or_start().await?;
    let namespace = cluster.namespace("bench").await?;
    let mut bench =
        Bench { config: namespace.config(), namespace: namespace.name().to_owned(), report: std::mem::take(report) };
    bench.uncontended(options.rounds).await?;
    bench.local(options.rounds).await?;
    let put_to_event = bench.hand_off(options.rounds / 2).await?;
    if options.reclaims > 0 {
        bench.reclaim(&namespace, options.reclaims, put_to_event).await?;
    }
    let time = Duration::from_secs(options.seconds);
    // Long enough for everybody to have many turns.
    let long = |contenders: usize| time * u32::try_from(contenders.div_ceil(32)).unwrap_or(u32::MAX);
    let alone = bench.contended(What::Lock, 1, time, None).await?;
    for contenders in options.contenders.iter().copied() {
        bench.contended(What::Lock, contenders, long(contenders), Some(alone)).await?;
    }
    for contenders in options.sharers.iter().copied() {
        bench.contended(What::Semaphore(options.permits), contenders, long(contenders), Some(alone)).await?;
    }
    for contenders in options.readers.iter().copied() {
        bench.contended(What::Readers, contenders, long(contenders), Some(alone)).await?;
    }
    if options.fan_out > 0 {
        bench.fan_out(options.fan_out).await?;
    }
    bench.three_at_once(100).await?;
    if options.held > 0 {
        bench.held(options.held, Duration::from_secs(options.idle_seconds.max(1))).await?;
    }
    if options.idle_seconds > 0 {
        bench.idle(Duration::from_secs(options.idle_seconds)).await?;
    }
    *report = bench.report;
    Ok(())
}
