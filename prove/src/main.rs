//! Runs the layers of the proof, and prints what they found.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use leasehold_prove::{interop, model, report::Report, simulation, torture};

/// Proves that the guarantees of Leasehold hold, as far as that can be done.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Search the protocol's states, all of them within bounds.
    Model(model::Options),
    /// Run clients and operator on simulated clocks, with a seed.
    Simulate(simulation::Options),
    /// Run processes on a real API server, and let real faults befall them.
    Torture(torture::Options),
    /// Let client-go's leader election contend with ours.
    Interop(interop::Options),
    /// Run all of them, one after the other, and print one table.
    All(All),
}

#[derive(Debug, clap::Args)]
struct All {
    #[command(flatten)]
    model: model::Options,
    /// How many seconds of simulation.
    #[arg(long, default_value_t = 180)]
    simulate: u64,
    /// How many seconds of real faults.
    #[arg(long, default_value_t = 180)]
    torture: u64,
    /// How many seconds with client-go.
    #[arg(long, default_value_t = 60)]
    interop: u64,
}

/// What goes wrong in one layer is told after all have run.
fn run_all(all: &All) -> Result<Report> {
    let mut report = Report::default();
    eprintln!("model: every order of events, within bounds");
    report.absorb(model::run(&all.model)?);
    eprintln!("simulation: {} s", all.simulate);
    let simulation = simulation::Options { seeds: u64::MAX / 2, at_most: Some(all.simulate), ..Default::default() };
    report.absorb(simulation::run(&simulation)?);
    eprintln!("torture: {} s of real faults", all.torture);
    report.absorb(torture::run(&torture::Options { duration: all.torture, ..Default::default() })?);
    eprintln!("interop: {} s with client-go", all.interop);
    let duration = Duration::from_secs(all.interop);
    report.absorb(interop::run(&interop::Options { duration, ..Default::default() })?);
    Ok(report)
}

fn main() -> Result<ExitCode> {
    let report: Report = match Options::parse().what {
        What::Model(options) => model::run(&options)?,
        What::Simulate(options) => simulation::run(&options)?,
        What::Torture(options) => torture::run(&options)?,
        What::Interop(options) => interop::run(&options)?,
        What::All(all) => run_all(&all)?,
    };
    println!("{report}");
    Ok(if report.violations().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
