//! Clients and operator as they are, on simulated clocks and a simulated network, with a seed.
//!
//! Every client is a [`leasehold::Client`] with its own drivers, in a [`Process`](leasehold::testing::Process) whose clock
//! runs up to half a percent too fast or too slow and whose wall clock shows anything. The operator is its warden. Between
//! them and the API server in memory is a network that delays, loses, repeats and holds back; processes are paused and
//! killed; people break locks. Everything is drawn from the seed, so a run is made again by its seed alone.
//!
//! | module | what it does |
//! | --- | --- |
//! | `plan` | what is to happen, drawn before the run |
//! | `server`, `rules`, `deaths` | carries requests out, and judges each change of a lock |
//! | `lent` | judges what processes pass on within, and what lingers |
//! | `network` | what becomes of requests, answers and watches on their way |
//! | `world`, `workload`, `operator` | processes, what they do, and what they believe |
//! | `nemesis` | lets faults befall |
//! | `ending` | after the last fault: everybody is served, and nothing is left over |

mod deaths;
mod dice;
mod ending;
mod guard;
mod lent;
mod log;
mod nemesis;
mod network;
mod operator;
mod plan;
mod rules;
mod server;
mod workload;
mod world;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use leasehold::clock;

use self::plan::Plan;
use self::world::{Counts, World};
use crate::report::Report;

const LAYER: &str = "simulation";

/// Options of the simulation.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How many runs.
    #[arg(long, default_value_t = 1000)]
    pub seeds: u64,
    /// The first run's seed.
    #[arg(long, default_value_t = 1)]
    pub first: u64,
    /// Begin no run after so many seconds.
    #[arg(long)]
    pub at_most: Option<u64>,
    /// Print the history of the first run.
    #[arg(long)]
    pub told: bool,
    /// Stop at the first violation, and say little of it.
    #[arg(long)]
    pub brief: bool,
    /// How many runs at once.
    #[arg(long, default_value_t = 2)]
    pub jobs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { seeds: 1000, first: 1, at_most: None, told: false, brief: false, jobs: 2 }
    }
}

/// What came of one run.
#[derive(Debug, Default)]
struct Outcome {
    counts: Counts,
    writes: u64,
    time: Duration,
    violations: Vec<String>,
    lines: Vec<String>,
    #[cfg_attr(not(test), expect(dead_code, reason = "a test compares it"))]
    trace: u64,
}

/// What came of all runs.
#[derive(Debug, Default)]
struct Total {
    runs: u64,
    counts: Counts,
    writes: u64,
    time: Duration,
    violations: Vec<String>,
    told: u64,
}

/// Runs the simulation.
///
/// # Errors
/// Where a runtime could not be made. What is found to be wrong is in the report.
pub fn run(options: &Options) -> Result<Report> {
    note_panics();
    if options.told {
        let outcome = simulate(Plan::of(options.first), true)?;
        outcome.lines.iter().for_each(|line| println!("{line}"));
    }
    let begun = clock::moment();
    let next = AtomicU64::new(options.first);
    let total = Mutex::new(Total::default());
    let lock = || total.lock().unwrap_or_else(PoisonError::into_inner);
    let enough = if options.brief { 1 } else { 3 };
    let work = || -> Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let spent = clock::moment().since(begun).as_secs();
            let late = options.at_most.is_some_and(|most| spent >= most);
            if seed - options.first >= options.seeds || late || lock().violations.len() >= enough {
                return Ok(());
            }
            let outcome = simulate(Plan::of(seed), false)?;
            let violation = match outcome.violations.first() {
                None => None,
                Some(first) if options.brief => Some(format!("seed {seed}: {first}")),
                Some(_) => Some(explain(seed)?),
            };
            lock().add(outcome, violation, clock::moment().since(begun).as_secs());
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().ok().context("a worker panicked")?)
    })?;
    let spent = clock::moment().since(begun);
    Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner).report(options, spent))
}

/// One run, from its plan alone.
fn simulate(plan: Plan, told: bool) -> Result<Outcome> {
    PANICS.take();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let mut outcome = runtime.block_on(async {
        let world = World::new(plan, told);
        for who in 0..=world.plan.clients.len() {
            world.start(who, 0);
        }
        let whole = async {
            nemesis::run(&world).await;
            if !world.log.is_violated() {
                ending::run(&world).await;
            }
        };
        tokio::select! {
            biased;
            () = whole => {}
            () = nemesis::free_from_the_dead(&world) => {}
        }
        let counts = world.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let outcome = Outcome {
            counts,
            writes: world.server.writes(),
            time: world.log.time(),
            violations: world.log.violations(),
            lines: world.log.lines(),
            trace: world.log.traced(),
        };
        world.forget();
        outcome
    });
    drop(runtime);
    outcome.violations.extend(PANICS.take());
    Ok(outcome)
}

/// What went wrong with a seed, with as few faults as it takes, and what happened then.
fn explain(seed: u64) -> Result<String> {
    let mut plan = Plan::of(seed);
    let mut index = 0;
    let mut tries = 0;
    while index < plan.faults.len() && tries < 100 {
        tries += 1;
        let mut fewer = plan.clone();
        fewer.faults.remove(index);
        if simulate(fewer.clone(), false)?.violations.is_empty() {
            index += 1;
        } else {
            plan = fewer;
        }
    }
    let outcome = simulate(plan.clone(), true)?;
    let file = std::env::temp_dir().join(format!("leasehold-simulation-{seed}.txt"));
    std::fs::write(&file, outcome.lines.join("\n"))?;
    let end = outcome.lines.iter().position(|line| line.contains("VIOLATION")).map_or(outcome.lines.len(), |at| at + 1);
    let mut text = vec![
        format!("seed {seed}: {}", outcome.violations.join("\n  ")),
        format!("{:?}, {:?}, operator: {}", plan.clients, plan.locks, plan.operator),
        "faults:".to_owned(),
    ];
    text.extend(plan.faults.iter().map(|fault| format!("  {fault}")));
    text.push(format!("history until then (all of it: {}):", file.display()));
    text.extend(outcome.lines[end.saturating_sub(60)..end].iter().map(|line| format!("  {line}")));
    Ok(text.join("\n"))
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A task that panics is a violation: tokio alone would keep it to itself.
fn note_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = PANICS.try_with(|panics| panics.borrow_mut().push(format!("panicked: {panic}")));
            before(panic);
        }));
    });
}

impl Total {
    fn add(&mut self, outcome: Outcome, violation: Option<String>, spent: u64) {
        self.runs += 1;
        self.writes += outcome.writes;
        self.time += outcome.time;
        let (sum, counts) = (&mut self.counts, outcome.counts);
        sum.acquired += counts.acquired;
        sum.released += counts.released;
        sum.lost += counts.lost;
        sum.changed += counts.changed;
        sum.refused += counts.refused;
        sum.cancelled += counts.cancelled;
        sum.failed += counts.failed;
        sum.worst_wait = sum.worst_wait.max(counts.worst_wait);
        for (fault, count) in counts.faults {
            *sum.faults.entry(fault).or_default() += count;
        }
        self.violations.extend(violation);
        if spent >= self.told + 5 {
            self.told = spent;
            eprintln!("simulation: {spent} s, {} runs, {} acquisitions", self.runs, self.counts.acquired);
        }
    }

    fn report(self, options: &Options, spent: Duration) -> Report {
        let mut report = Report::default();
        let Counts { acquired, released, lost, changed, refused, cancelled, failed, faults, worst_wait } = self.counts;
        let befallen: u64 = faults.values().sum();
        let seeds = format!("{} from {}", self.runs, options.first);
        let hours = format!("{:.1} h in {:.0} s", self.time.as_secs_f64() / 3600.0, spent.as_secs_f64());
        let figures: [(&str, String); 12] = [
            ("seeds", seeds),
            ("time simulated", hours),
            ("lock operations", (acquired + released + lost + changed + refused + cancelled).to_string()),
            ("acquisitions", acquired.to_string()),
            ("released", released.to_string()),
            ("made more or less", changed.to_string()),
            ("found lost by their holders", lost.to_string()),
            ("refused or cancelled", (refused + cancelled).to_string()),
            ("failed for want of an answer", failed.to_string()),
            ("writes that changed something", self.writes.to_string()),
            ("longest wait after the last fault", format!("{:.0} s", worst_wait.as_secs_f64())),
            ("faults", befallen.to_string()),
        ];
        for (what, value) in figures {
            report.figure(LAYER, what, value);
        }
        for (fault, count) in faults {
            report.figure(LAYER, format!("fault: {fault}"), count);
        }
        self.violations.into_iter().for_each(|violation| report.violation(violation));
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// But for one thing: tokio draws the order in which it wakes those who wait for one `watch` channel. Where two locks of one
    /// client wait for the end of the same session, as in the run of seed 1, either can go first.
    #[test]
    fn a_run_is_the_same_each_time() {
        for seed in 2..7 {
            let (first, second) = (simulate(Plan::of(seed), false).unwrap(), simulate(Plan::of(seed), true).unwrap());
            assert!(first.counts.acquired > 10, "seed {seed} does little: {:?}", first.counts);
            assert_eq!((first.trace, first.writes), (second.trace, second.writes), "seed {seed}");
        }
    }
}
