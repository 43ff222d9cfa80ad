//! Leasehold side by side with what a user would take instead: in one run, on one machine, with one API server and one
//! etcd. ../../README.md says how it measures.

mod audit;
mod conditions;
mod contestants;
mod document;
mod peer;
mod plot;
mod results;
mod stage;
mod targets;
mod workloads;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use tokio::time::Instant;

use crate::contestants::{ALL, Contestant, FLOOR_EVENT, FLOOR_PUT, Family, LEASEHOLD};
use crate::results::{Entry, Results};
use crate::stage::Stage;
use crate::workloads::{Plan, Run, within};

/// Measures Leasehold and its peers in one run, and writes down what came out.
#[derive(Debug, Parser)]
struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// In how many of the runs others than Leasehold hold very many locks: they keep the API server busy with it.
    #[arg(long, default_value_t = 5)]
    held_runs: u32,
    /// In how many of the runs is measured what takes long and says little new: those cycle and contend that look seldom, 32
    /// contend, and holders crash whose leases last as long as they have them.
    #[arg(long, default_value_t = 5)]
    slow_runs: u32,
    /// A smoke run of a minute or two: its figures are worth nothing.
    #[arg(long)]
    quick: bool,
    /// Only these contestants, and the floor.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these parts: uncontended, contended, overlaps, handoff, aside, held, in-process.
    #[arg(long, value_delimiter = ',')]
    parts: Vec<String>,
    /// The folder for benchmarks.json, benchmarks.md and plots; `docs` takes those of a whole run only.
    #[arg(long, default_value = "target/bench-peers")]
    out: PathBuf,
    /// Measure nothing: write document and plots anew from this benchmarks.json, beside it.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// With --from: what this other benchmarks.json has, of some parts, takes the place of the same there.
    #[arg(long, value_name = "FILE", requires = "from", conflicts_with = "check")]
    with: Option<PathBuf>,
    /// With --from: write nothing, fail if they are not as they should be.
    #[arg(long, requires = "from")]
    check: bool,
}

impl Options {
    fn plan(&self) -> Plan {
        let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
        if self.quick {
            return Plan {
                cycles: (50, millis(500)),
                contenders: vec![(8, millis(500)), (32, millis(500))],
                overlaps: (8, millis(500)),
                patient: false,
                warm_up: millis(300),
                hand_offs: (5, seconds(1)),
                idle: seconds(5),
                held: (500, seconds(1), seconds(1), seconds(2)),
            };
        }
        Plan {
            cycles: (500, millis(1500)),
            contenders: vec![(8, millis(1500)), (32, seconds(2)), (128, seconds(3))],
            overlaps: (8, seconds(2)),
            patient: true,
            warm_up: millis(500),
            hand_offs: (20, seconds(3)),
            idle: seconds(40),
            held: (10_000, seconds(8), seconds(10), seconds(30)),
        }
    }
}

/// A crowd between a small and a large one.
const MIDDLING: usize = 32;

struct Bench {
    options: Options,
    plan: Plan,
    stage: Stage,
    results: Results,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut options = Options::parse();
    if let Some(from) = &options.from {
        let (mut results, folder) = (Results::read(from)?, from.parent().context("a folder")?);
        if let Some(with) = &options.with {
            results.replace_by(Results::read(with)?)?;
            results.write(from)?;
        }
        return if options.check { document::check(&results, folder) } else { document::write(&results, folder) };
    }
    if options.quick {
        options.runs = 1;
    }
    let part_of_it = options.quick || !options.only.is_empty() || !options.parts.is_empty() || cfg!(debug_assertions);
    ensure!(
        !(options.out.ends_with("docs") && part_of_it),
        "the figures of docs/ come from a whole run of an optimized build: no --quick, --only or --parts"
    );
    std::fs::create_dir_all(&options.out)?;
    let programs = std::env::current_exe()?.parent().context("a folder")?.to_owned();
    let mut bench =
        Bench { plan: options.plan(), options, stage: Stage::build(&programs).await?, results: Results::default() };
    bench.run().await
}

impl Bench {
    async fn run(&mut self) -> Result<()> {
        self.results.quick = self.options.quick;
        self.results.runs = self.options.runs;
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        self.results.conditions = conditions::conditions(&self.stage, &arguments.join(" ")).await?;
        for contestant in [&FLOOR_PUT, &FLOOR_EVENT].into_iter().chain(ALL) {
            if !self.takes_part(contestant) {
                continue;
            }
            if !self.stage.can(contestant) {
                let why = "LEFT OUT, there is no redis-server here (apt-get install redis-server)";
                self.note(format!("{}: {why}", contestant.id));
                continue;
            }
            self.stage.prepare(contestant).await?;
            self.results.contestants.push(Entry {
                id: contestant.id.to_owned(),
                name: contestant.name.to_owned(),
                version: conditions::version(contestant, self.stage.redis()),
                options: contestant.options.to_owned(),
                kubernetes: matches!(contestant.family, Family::Kubernetes | Family::Floor),
            });
        }
        for number in 1..=self.options.runs {
            self.one(number).await?;
            // What has been measured is not lost if the rest is.
            self.results.write(&self.options.out.join("benchmarks.json"))?;
        }
        self.results.conditions.push(("load at the end".to_owned(), conditions::load()));
        self.results.write(&self.options.out.join("benchmarks.json"))?;
        document::write(&self.results, &self.options.out)?;
        println!();
        for target in targets::targets(&self.results) {
            let met = match target.met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "NOT KNOWN",
            };
            println!("{met:9} {}: {}, wanted {}", target.what, target.measured, target.wanted);
        }
        println!();
        for note in &self.results.notes {
            println!("{note}");
        }
        println!("written to {}", self.options.out.join("benchmarks.md").display());
        Ok(())
    }

    fn takes_part(&self, contestant: &Contestant) -> bool {
        let only = &self.options.only;
        contestant.family == Family::Floor || only.is_empty() || only.iter().any(|id| id == contestant.id)
    }

    fn part(&self, name: &str) -> bool {
        self.options.parts.is_empty() || self.options.parts.iter().any(|part| part == name)
    }

    fn note(&mut self, note: String) {
        eprintln!("{note}");
        self.results.notes.push(note);
    }

    /// Everybody, one after the other, part by part; another one is the first in each run.
    async fn one(&mut self, number: u32) -> Result<()> {
        let mut all: Vec<&Contestant> =
            ALL.iter().filter(|contestant| self.takes_part(contestant) && self.stage.can(contestant)).collect();
        let turn = number as usize % all.len().max(1);
        all.rotate_left(turn);
        let (plan, mut failures, mut asides, mut parts) = (self.plan.clone(), Vec::new(), Vec::new(), Vec::new());
        let mut run = Run::new(&self.stage, &plan, number, self.options.runs);
        let mut since = Instant::now();
        let mut over = |name: &str, since: &mut Instant| {
            parts.push((name.to_owned(), since.elapsed().as_secs_f64()));
            *since = Instant::now();
        };
        let mut failed = |contestant: &Contestant, part: &str, result: Result<()>| {
            if let Err(error) = result {
                let note = format!("run {number}, {}, {part}: {error:#}", contestant.id);
                eprintln!("{note}");
                failures.push(note);
            }
        };
        let long = Duration::from_secs(180);
        // Who looks seldom has few turns, and as many in each run.
        let all_of_it = number <= self.options.slow_runs;
        if self.part("uncontended") {
            let quick = all.iter().copied().filter(|one| all_of_it || !one.slow);
            for contestant in std::iter::once(&FLOOR_PUT).chain(quick) {
                failed(contestant, "uncontended", within(long, run.uncontended(contestant)).await);
            }
            over("uncontended", &mut since);
        }
        let contend: Vec<&Contestant> = all.iter().copied().filter(|contestant| !contestant.alone_only).collect();
        let crowds: Vec<&Contestant> = contend.iter().copied().filter(|one| all_of_it || !one.slow).collect();
        if self.part("contended") {
            for (contenders, time) in plan.contenders.iter().filter(|(many, _)| all_of_it || *many != MIDDLING) {
                for contestant in &crowds {
                    failed(contestant, "contended", within(long, run.contended(contestant, *contenders, *time)).await);
                }
            }
            over("contended", &mut since);
        }
        if self.part("overlaps") {
            for contestant in &crowds {
                failed(contestant, "overlaps", within(long, run.overlaps(contestant)).await);
            }
            over("overlaps", &mut since);
        }
        if self.part("handoff") {
            failed(&FLOOR_EVENT, "handoff", within(long, run.floor_event(&FLOOR_EVENT)).await);
            for contestant in contend.iter().filter(|contestant| !contestant.slow) {
                failed(contestant, "handoff", within(long, run.hand_off(contestant)).await);
            }
            over("handoff", &mut since);
        }
        if self.part("in-process") {
            for contestant in contend.iter().filter(|contestant| contestant.id.starts_with(LEASEHOLD)) {
                failed(contestant, "in-process", within(long, run.in_process(contestant)).await);
            }
            over("in-process", &mut since);
        }
        if self.part("aside") {
            for failure in run.aside(&contend, all_of_it).await {
                let note = format!("run {number}, {failure}");
                eprintln!("{note}");
                asides.push(note);
            }
            over("aside", &mut since);
        }
        if self.part("held") {
            for contestant in &contend {
                let leasehold = contestant.id == LEASEHOLD && all_of_it;
                let turn = leasehold || number <= self.options.held_runs;
                if turn && !contestant.holds_alike {
                    failed(contestant, "held", within(long, run.held(contestant)).await);
                }
            }
            over("held", &mut since);
        }
        let figures = run.finish().settle(&mut self.stage.audit).await?;
        self.results.figures.extend(figures);
        self.results.notes.extend(failures);
        self.results.notes.extend(asides);
        for (name, seconds) in parts {
            *self.results.parts.entry(name).or_default() += seconds;
        }
        Ok(())
    }
}
