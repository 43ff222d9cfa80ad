//! Real processes on a real API server, and real faults.
//!
//! Workers take a few locks, permits of a semaphore and a read-write lock again and again, through proxies, and write down
//! what they did and when; every few seconds something befalls them, the operator, the API server, etcd or the ways between. When it is over, a [`checker`] reads
//! the histories. A worker in twenty does not look whether it still holds: what it does then is counted where nothing
//! compares tokens, and must do no harm where something does.

pub mod checker;
pub mod faults;
mod guard;
mod hands;
pub mod history;
pub mod proxy;
mod sharing;
pub mod stage;
mod tell;
pub mod worker;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;

use crate::report::Report;
use checker::{Quiet, Run, Violation};
use faults::{Deck, Fault, Kind, nanos};
use history::{FaultLine, Journal, Nanos, Span, now};
use proxy::Mode;
use stage::{PERMITS, Stage};

/// Options of this layer.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// For how long faults are inflicted, in seconds. What follows takes about a minute.
    #[arg(long, default_value_t = 60)]
    pub duration: u64,
    /// The seed of all choices.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many workers there are.
    #[arg(long, default_value_t = 8)]
    pub workers: usize,
    /// How many seconds are between two faults, on average.
    #[arg(long, default_value_t = 3.0)]
    pub every: f64,
    /// For how many seconds sessions last.
    #[arg(long, default_value_t = 3)]
    pub session: u64,
    /// Keep the folder with histories and logs also if nothing is wrong.
    #[arg(long)]
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { duration: 60, seed: 1, workers: 8, every: 3.0, session: 3, keep: false }
    }
}

/// How often everybody must have got a lock, or a part of something, before the run ends.
const SERVED: u64 = 4;
const LAYER: &str = "torture";
/// How many go on at a time, at most.
const AT_ONCE: usize = 3;
/// How often the run is looked at.
const TICK: Duration = Duration::from_millis(50);
const PROGRESS: Duration = Duration::from_secs(5);
/// What waiting for one's turn may take, besides what the protocol says.
const MARGIN: Duration = Duration::from_secs(25);
/// For how long others believe in a session whose Lease was deleted.
const ABSENT: Duration = Duration::from_secs(60);
/// How long a tombstone stands where an operator sweeps, and some time.
const SWEPT: Duration = Duration::from_secs(180);
/// A run of this length also waits until all tombstones are swept.
const LONG: u64 = 300;

/// Runs this layer.
///
/// # Errors
/// Where it could not be run. What it finds to be wrong is in the report.
pub fn run(options: &Options) -> Result<Report> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(torture(options))
}

/// What has happened so far.
#[derive(Debug)]
struct Course {
    journal: Journal,
    lines: Vec<FaultLine>,
    by_kind: BTreeMap<Kind, u32>,
    active: Vec<Fault>,
    settled: Nanos,
}

async fn torture(options: &Options) -> Result<Report> {
    let session = Duration::from_secs(options.session);
    let mut stage = Stage::set(options.workers, session, options.seed).await?;
    let mut course = Course {
        journal: Journal::create(&stage.path("faults.jsonl"))?,
        lines: Vec::new(),
        by_kind: BTreeMap::new(),
        active: Vec::new(),
        settled: 0,
    };
    inflict(options, &mut stage, &mut course).await?;
    while let Some(fault) = course.active.pop() {
        course.heal(fault, &mut stage).await?;
    }
    while now() < course.settled {
        stage.tend()?;
        sleep(TICK).await;
    }
    fs::write(stage.path("quiet"), "")?;
    let healed = serve(options, &mut stage, "after the last fault", Duration::ZERO, course.absent()).await?;
    // Nobody hears of grants any more; what waits has to look.
    stage.set_all(Mode::NoEvents);
    // Each turn may take as long as nobody looks, and once more where somebody becomes the writer.
    let unheard = session / 3 * 2 * u32::try_from(options.workers)?;
    let deaf = serve(options, &mut stage, "while watches were silent", session * 4, unheard).await?;
    stage.set_all(Mode::Open);
    let ending = now();
    stage.end_workers().await?;
    let (remains, tombstones) = clear(options, &stage, &course).await?;

    let run = Run {
        histories: stage.histories()?,
        faults: course.lines.clone(),
        stored: stage.stored().await?,
        // What the client keeps between its deadline and anybody else's chance.
        slack: nanos(session) / 50,
        permits: PERMITS,
        quiet: vec![healed, deaf],
    };
    let mut verdict = checker::check(&run);
    let at = Span { from: ending, to: ending };
    verdict.violations.extend(stage.ended.drain(..).map(|told| Violation { told, at }));
    verdict.violations.extend(remains.into_iter().map(|what| {
        let told = format!("{what} is still there, long after all workers have ended");
        Violation { told, at }
    }));
    let report = tell::report(options, &stage, &course, &run, &verdict, tombstones);
    if options.keep || !verdict.violations.is_empty() {
        stage.folder.disable_cleanup(true);
        eprintln!("torture: histories and logs are in {}", stage.folder.path().display());
        for log in stage.cluster.log_files().await {
            fs::copy(&log, stage.path(&log.file_name().unwrap_or_default().to_string_lossy()))?;
        }
    }
    Ok(report)
}

/// Lets one fault after the other befall the run.
async fn inflict(options: &Options, stage: &mut Stage, course: &mut Course) -> Result<()> {
    let mut chance = StdRng::seed_from_u64(options.seed);
    let mut deck = Deck::new(StdRng::seed_from_u64(chance.random()));
    let every = Duration::from_secs_f64(options.every);
    let begun = now();
    let end = begun + nanos(Duration::from_secs(options.duration));
    let (mut next, mut say) = (begun + nanos(every), begun);
    while now() < end {
        stage.tend()?;
        course.heal_due(stage).await?;
        if now() >= say {
            say = now() + nanos(PROGRESS);
            let faults: u32 = course.by_kind.values().sum();
            let seconds = (now() - begun) / 1_000_000_000;
            let under_way: Vec<&str> = course.active.iter().map(|fault| fault.kind.name()).collect();
            let acquisitions: u64 = stage.got().sum();
            eprintln!("torture: {seconds} s, {acquisitions} acquisitions, {faults} faults; now: {under_way:?}");
        }
        if now() >= next && course.active.len() < AT_ONCE {
            next = now() + nanos(every.mul_f64(chance.random_range(0.5..1.5)));
            let left = Duration::from_nanos(end.saturating_sub(now()));
            if let Some(fault) = deck.draw(stage, &course.active, left) {
                course.inflict(fault, stage).await?;
            }
        }
        sleep(TICK).await;
    }
    // From the end, so servers are the last in the list: others need them to be healed.
    let (waiting, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut course.active).into_iter().partition(|fault| fault.kind.needs_server());
    course.active = waiting.into_iter().chain(others).collect();
    Ok(())
}

impl Course {
    fn tell(&mut self, line: FaultLine) -> Result<()> {
        self.journal.write(&line)?;
        self.lines.push(line);
        Ok(())
    }

    async fn inflict(&mut self, mut fault: Fault, stage: &mut Stage) -> Result<()> {
        let from = now();
        let inflicted = fault.inflict(stage).await;
        let span = Span { from, to: now() };
        let (kind, broke, permits) = (fault.kind.name().to_owned(), fault.broke.clone(), fault.permits);
        // A person's request that was not answered may be carried out all the same.
        if inflicted.is_ok() || !broke.is_empty() {
            self.tell(FaultLine { span, kind, whom: fault.tell(), healed: false, broke, permits })?;
        }
        match &inflicted {
            Ok(()) => *self.by_kind.entry(fault.kind).or_default() += 1,
            Err(error) => eprintln!("torture: no {} this time: {error:#}", fault.kind.name()),
        }
        if inflicted.is_ok() || fault.may_stand() {
            self.active.push(fault);
        }
        Ok(())
    }

    async fn heal_due(&mut self, stage: &mut Stage) -> Result<()> {
        loop {
            let due = |fault: &Fault| fault.until <= now() && !fault.must_wait(&self.active);
            let Some(place) = self.active.iter().position(due) else { return Ok(()) };
            let fault = self.active.remove(place);
            self.heal(fault, stage).await?;
        }
    }

    async fn heal(&mut self, mut fault: Fault, stage: &mut Stage) -> Result<()> {
        let from = now();
        fault.heal(stage).await?;
        let span = Span { from, to: now() };
        let (kind, permits) = (fault.kind.name().to_owned(), fault.permits);
        self.tell(FaultLine { span, kind, whom: fault.tell(), healed: true, broke: Vec::new(), permits })?;
        self.settled = self.settled.max(fault.settled);
        Ok(())
    }

    /// Somebody's session was deleted not long ago: if that process died as well, others wait it out.
    fn absent(&self) -> Duration {
        let deleted = self.lines.iter().any(|line| line.kind == Kind::SessionDeleted.name());
        if deleted { ABSENT } else { Duration::ZERO }
    }
}

/// Waits until everybody has got locks, a few times, and at least so long. The first may take so much more than usual.
async fn serve(
    options: &Options,
    stage: &mut Stage,
    when: &'static str,
    least: Duration,
    more: Duration,
) -> Result<Quiet> {
    let session = Duration::from_secs(options.session);
    stage.tend()?;
    let from = now();
    let limit = from + nanos(session + session / 3 + MARGIN + more);
    let got: Vec<u64> = stage.got().collect();
    let done = |stage: &Stage| stage.got().zip(&got).all(|(now, before)| now >= before + SERVED);
    while now() < from + nanos(least) || (now() < limit && !done(stage)) {
        sleep(TICK).await;
        stage.tend()?;
    }
    // Three times for each worker of the queue: a join takes its time on a busy machine.
    Ok(Quiet { when, from, to: now(), limit, live: stage.live(), turns: options.workers * 3 })
}

/// Waits until nothing is left of the workers. The answer is what is, and how many tombstones there were at the end.
async fn clear(options: &Options, stage: &Stage, course: &Course) -> Result<(Vec<String>, usize)> {
    let session = Duration::from_secs(options.session);
    let (from, long) = (now(), options.duration >= LONG);
    let limit = from + nanos(session + session / 3 + MARGIN + course.absent());
    loop {
        let (mut remains, tombstones) = stage.remains().await?;
        let tombstones_too = from + nanos(SWEPT);
        if remains.is_empty() && (tombstones == 0 || !long) {
            return Ok((remains, tombstones));
        }
        if now() >= limit && (!remains.is_empty() || now() >= tombstones_too) {
            if long && tombstones > 0 {
                remains.push(format!("{tombstones} tombstones"));
            }
            return Ok((remains, tombstones));
        }
        sleep(TICK * 5).await;
    }
}
