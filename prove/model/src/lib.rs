//! The pure protocol in every order of events, within bounds.
//!
//! A *world* is some client processes, perhaps an operator, an exact store, and what is on its way between them. All
//! deciding is done by [`leasehold::protocol`] itself; what the client's drivers do around it is said again here in plain
//! synchronous code. From a scenario's first world every possible next step is taken, and from each world that this leads
//! to again, until the scenario's bounds are reached. Every state and step is judged by the invariants; some states are
//! followed to a fair end, in which nothing goes wrong any more, and that is judged too.

mod client;
mod ending;
mod eyes;
mod happening;
mod heart;
mod invariants;
mod lent;
mod moves;
mod operator;
pub mod report;
mod scenario;
mod scenarios;
mod search;
mod sharing;
mod story;
mod watch;
mod wire;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use leasehold::clock;
use leasehold::protocol::Record;
use leasehold::protocol::record::{JOIN, Waiter};

use report::Report;
use scenario::Scenario;
use search::{Outcome, search};

const LAYER: &str = "model";

/// Options of this layer.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Only the small scenarios.
    #[arg(long)]
    pub quick: bool,
    /// Only scenarios whose names contain this.
    #[arg(long)]
    pub only: Option<String>,
    /// Give up a scenario after so many states: the default takes some 5 GB for two at a time.
    #[arg(long, default_value_t = 700_000)]
    pub most: usize,
    /// Begin no other scenario once something is found to be wrong.
    #[arg(long)]
    pub stop: bool,
    /// How many scenarios are searched at a time. One for every processor if nothing is said.
    #[arg(long)]
    pub threads: Option<usize>,
}

/// Runs this layer.
///
/// # Errors
/// Where there is no such scenario. What it finds to be wrong is in the report.
pub fn run(options: &Options) -> Result<Report> {
    let begin = clock::moment();
    let all = if options.quick { scenarios::quick() } else { scenarios::all() };
    let wanted = |scenario: &Scenario| options.only.as_ref().is_none_or(|only| scenario.name.contains(only));
    let scenarios: Vec<_> = all.into_iter().filter(wanted).collect();
    ensure!(!scenarios.is_empty(), "there is no such scenario");
    let outcomes = search_all(&scenarios, options);
    let mut report = Report::default();
    for (scenario, outcome) in scenarios.iter().zip(&outcomes) {
        if *outcome == Outcome::default() {
            continue; // not begun
        }
        let Outcome { states, transitions, depth, ends, longest_wait, took, cut, violation } = outcome;
        let cut = if *cut { ", not all of it" } else { "" };
        let told = format!(
            "{states} states, {transitions} steps, depth {depth}, {ends} ends, longest wait {longest_wait:.0?}, {took:.1?}{cut}"
        );
        report.figure(LAYER, scenario.name, told);
        if let Some(told) = violation {
            report.violation(told.clone());
        }
    }
    report.figure(LAYER, "states in all", states(&outcomes));
    report.figure(LAYER, "steps in all", outcomes.iter().map(|outcome| outcome.transitions).sum::<u64>());
    report.figure(LAYER, "time in all", format!("{:.1?}", clock::moment().since(begin)));
    Ok(report)
}

fn states(outcomes: &[Outcome]) -> usize {
    outcomes.iter().map(|outcome| outcome.states).sum()
}

/// Searches them, some at a time. The outcomes are in the order of the scenarios.
fn search_all(scenarios: &[Scenario], options: &Options) -> Vec<Outcome> {
    let threads = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![Outcome::default(); scenarios.len()]);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((number, scenario)) = {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    scenarios.get(number).map(|scenario| (number, scenario))
                } {
                    let outcome = search(scenario, options.most);
                    if options.stop && outcome.violation.is_some() {
                        next.store(scenarios.len(), Ordering::Relaxed);
                    }
                    eprintln!("{}: {} states, {:.1?}", scenario.name, outcome.states, outcome.took);
                    outcomes.lock().expect("nobody panics with it")[number] = outcome;
                }
            });
        }
    });
    outcomes.into_inner().expect("nobody panics with it")
}

/// Whether this is what a join leaves that was carried out once more after its waiter had been folded into the queue: a key
/// that counts for nothing, until its waiter is let in by whoever has not seen it.
#[must_use]
pub fn is_left_over(before: &Record, after: &Record, waiter: &Waiter) -> bool {
    let key = format!("{JOIN}{}", waiter.id);
    let stood = before.lease.metadata.annotations.as_ref().and_then(|annotations| annotations.get(&key));
    after.is_held_by(&waiter.id) && stood.is_some_and(|ticket| *ticket == waiter.ticket.to_string())
}
