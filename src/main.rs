//! The operator's process.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use leasehold_operator::args::{Cli, Command, LogFormat, RunArgs};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Crds { name } => print_crds(name.as_deref()),
        Command::Run(args) => run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leasehold-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_crds(name: Option<&str>) -> Result<()> {
    let yaml = leasehold_operator::crd::as_yaml(name)?;
    if yaml.is_empty() {
        bail!("there is no custom resource {:?}: leave the name out to see all", name.unwrap_or_default());
    }
    io::stdout().write_all(yaml.as_bytes()).context("cannot write to standard output")
}

fn run(args: RunArgs) -> Result<()> {
    start_log(&args)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(leasehold_operator::run(args))
}

fn start_log(args: &RunArgs) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log)
        .with_context(|| format!("{:?} is no log filter: write for instance info or info,kube=debug", args.log))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match args.log_format {
        LogFormat::Human => log.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
