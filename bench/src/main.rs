//! What a lock costs, measured on a real API server against the floor: a bare PUT, and a PUT's watch event.

#![deny(unsafe_code)]

mod allocations;
mod breakdown;
mod counting;
mod flame;
mod growth;
mod load;
mod local;
mod many;
mod measure;
mod operator;
mod outage;
mod page;
mod profile;
mod reclaim;
mod report;
mod scale;
mod stamping;
mod usage;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use leasehold_testkit::{Cluster, Namespace};

use crate::measure::{Bench, What};
use crate::report::Report;

/// Measures what a lock costs on a real API server, and writes a summary.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples:\n  leasehold-bench --seconds 10 --contenders 8,32\n  leasehold-bench --only operator --scale 10000\n  leasehold-bench --only growth --sizes 1,10,100 --growth-seconds 10"
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
    /// Beside how many others operations are measured, to see what grows.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000,10000")]
    sizes: Vec<usize>,
    /// At most so many of these wait for one lock, or hold permits of one semaphore.
    #[arg(long, default_value_t = 1000)]
    most_on_one: usize,
    /// At most so many of these are sessions in one namespace.
    #[arg(long, default_value_t = 5000)]
    most_sessions: usize,
    /// At most so many of these are namespaces.
    #[arg(long, default_value_t = 100)]
    most_namespaces: usize,
    /// For how many seconds those are watched who have nothing to do, at each size. Sessions are renewed every 10 s.
    #[arg(long, default_value_t = 20)]
    growth_seconds: u64,
    /// How many sessions there are when the API server falls silent for 8 s.
    #[arg(long, default_value_t = 5000)]
    silenced: usize,
    /// How many there are when it is killed, and started again after 3 s.
    #[arg(long, default_value_t = 2000)]
    killed: usize,
    /// For how many seconds the API server is profiled under each load.
    #[arg(long, default_value_t = 20)]
    profile_seconds: u64,
    /// Profile these loads only, by the names of their files in the folder, as `cycles` or `holders-1000`.
    #[arg(long, value_delimiter = ',')]
    loads: Vec<String>,
    /// The folder for profiles.
    #[arg(long, default_value = "target/bench/profile")]
    profiles: PathBuf,
    /// Measure nothing: write the page of arithmetic from the figures of `--from`, which are kept beside it as JSON.
    #[arg(long, value_name = "FILE", requires = "from")]
    page: Option<PathBuf>,
    /// Where the figures of that page are. Of one that is in several, the last is taken.
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    from: Vec<PathBuf>,
}

/// What there is to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What clients do.
    Clients,
    /// How what an operation costs grows with what there is beside it.
    Growth,
    /// Where the time of an operation goes, and what it takes of processors, memory and etcd.
    Breakdown,
    /// What a request costs by the way it is sent: PUT or PATCH, JSON or protobuf, HTTP/1.1 or HTTP/2.
    Wire,
    /// What the operator does where there are very many locks.
    Operator,
    /// What becomes of sessions when the API server falls silent or is killed. Only where it is asked for.
    Outage,
    /// Where the API server spends its time. Only where it is asked for: it slows down what it looks at.
    Profile,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(page) = &options.page {
        return page::write(&options.from, page);
    }
    usage::allow_many_files()?;
    let mut report = Report::default();
    let wanted = |part| options.only.map_or(!matches!(part, Part::Outage | Part::Profile), |only| only == part);
    if wanted(Part::Clients) {
        clients(&options, &mut report).await?;
    }
    if wanted(Part::Growth) {
        let (cluster, _namespace, mut bench) = begin(&mut report, Cluster::named_or_start().await?).await?;
        let plan = growth::Plan {
            sizes: options.sizes.clone(),
            on_one_object: options.most_on_one,
            sessions: options.most_sessions,
            namespaces: options.most_namespaces,
            idle: Duration::from_secs(options.growth_seconds),
            rounds: options.rounds.div_ceil(3),
        };
        growth::Growth::measure(&mut bench, &cluster, plan).await?;
        report = bench.report;
    }
    if wanted(Part::Breakdown) {
        let (cluster, _namespace, mut bench) = begin(&mut report, Cluster::named_or_start().await?).await?;
        let time = Duration::from_secs(options.seconds.max(1));
        breakdown::breakdown(&mut bench, &cluster, options.rounds, time).await?;
        report = bench.report;
    }
    if wanted(Part::Wire) {
        let (cluster, _namespace, mut bench) = begin(&mut report, Cluster::named_or_start().await?).await?;
        wire::wire(&mut bench, &cluster, options.rounds * 2).await?;
        report = bench.report;
    }
    if wanted(Part::Operator) && options.scale > 0 {
        scale::operator(&mut report, options.scale, Duration::from_secs(options.idle_seconds.max(1))).await?;
    }
    if wanted(Part::Outage) {
        let (cluster, _namespace, mut bench) = begin(&mut report, Cluster::start().await?).await?;
        let (silent_for, killed_for) = (Duration::from_secs(8), Duration::from_secs(3));
        let plan = outage::Plan { silent_for, silenced: options.silenced, killed_for, killed: options.killed };
        outage::outage(&mut bench, &cluster, plan).await?;
        report = bench.report;
    }
    if wanted(Part::Profile) {
        let (cluster, _namespace, mut bench) = begin(&mut report, Cluster::start_profiled().await?).await?;
        let time = Duration::from_secs(options.profile_seconds);
        profile::profile(&mut bench, &cluster, time, &options.profiles, &options.loads).await?;
        report = bench.report;
    }
    report.write(&options.summary)?;
    println!("\n{}\n\nwritten to {}", report.table(), options.summary.display());
    Ok(())
}

/// A namespace to measure in, of a cluster.
async fn begin(report: &mut Report, cluster: Cluster) -> Result<(Cluster, Namespace, Bench)> {
    let namespace = cluster.namespace("bench").await?;
    let (config, name) = (namespace.config(), namespace.name().to_owned());
    Ok((cluster, namespace, Bench { config, namespace: name, report: std::mem::take(report) }))
}

async fn clients(options: &Options, report: &mut Report) -> Result<()> {
    let (_cluster, namespace, mut bench) = begin(report, Cluster::named_or_start().await?).await?;
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
