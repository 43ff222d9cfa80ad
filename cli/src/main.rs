//! `kubectl leasehold`: run a command under a lock that lives in the Kubernetes API server, list locks, look at one.

mod args;
mod ask;
mod backend;
mod breaking;
mod child;
mod complete;
mod config;
mod doctor;
#[cfg(test)]
mod documents;
mod elect;
mod exit;
mod follow;
mod forbidden;
mod generate;
mod graph;
mod handles;
mod held;
mod output;
mod read;
mod run;
mod serve;
mod signals;
mod strays;
mod supervise;
mod terminal;
mod ui;
mod view;
mod wait;
mod waiting;
mod watchdog;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};
use exit::Failure;
use read::Leases;

/// Turns on the client's log, for instance `LEASEHOLD_LOG=leasehold=debug`.
const LOG_VARIABLE: &str = "LEASEHOLD_LOG";

fn main() -> ExitCode {
    // A shell asks for a completion by the environment, and then nothing else is done.
    clap_complete::CompleteEnv::with_factory(Cli::command).complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    if std::env::var_os(LOG_VARIABLE).is_some() {
        let filter = EnvFilter::from_env(LOG_VARIABLE);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    // The main thread looks after the command; the lease is renewed on threads on which nothing else goes on.
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(Failure::internal(&error))),
    };
    let outcome = runtime.block_on(dispatch(cli));
    // Whatever still goes on in the background has had its time.
    runtime.shutdown_background();
    end(outcome)
}

async fn dispatch(cli: Cli) -> Result<u8, Failure> {
    match cli.command {
        Command::Run(args) => return run::run(&cli.cluster, &args).await,
        Command::Elect(args) => return elect::elect(&cli.cluster, &args).await,
        Command::Acquire(args) => return handles::acquire(&cli.cluster, &args).await,
        Command::Renew(args) => return handles::renew(&cli.cluster, &args).await,
        Command::Release(args) => return handles::release(&cli.cluster, &args).await,
        Command::Wait(args) => {
            let config = config::load(&cli.cluster).await?;
            wait::wait(&Leases::new(config)?, &args).await?;
        }
        Command::Ask(args) => return ask::ask(config::load(&cli.cluster).await?, &args).await,
        Command::Break(args) => return breaking::run(config::load(&cli.cluster).await?, &args).await,
        Command::Doctor(args) => return doctor::run(&cli.cluster, &args).await,
        Command::List(args) => {
            let config = config::load(&cli.cluster).await?;
            read::list(&Leases::new(config)?, &args).await?;
        }
        Command::Status(args) => {
            let config = config::load(&cli.cluster).await?;
            read::status(&Leases::new(config)?, &args).await?;
        }
        Command::Graph(args) => {
            let config = config::load(&cli.cluster).await?;
            return graph::graph(&Leases::new(config)?, &args).await;
        }
        Command::Ui(args) => return ui::ui(&cli.cluster, &args).await,
        Command::Name(args) => read::name(&args)?,
        Command::Complete { words } => return complete::for_kubectl(&words),
        Command::Generate(what) => return generate::generate(&what),
    }
    Ok(0)
}

fn end(outcome: Result<u8, Failure>) -> ExitCode {
    match outcome {
        Ok(code) => code.into(),
        Err(failure) => {
            if !failure.message.is_empty() {
                exit::say(&failure.message);
            }
            failure.code.into()
        }
    }
}
