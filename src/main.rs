//! The operator's process.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use leasehold_operator::args::{Cli, Command, LogFormat, RunArgs};
#[cfg(feature = "otlp")]
use leasehold_operator::otlp::Traces;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let log = log(&args)?;
    #[cfg(feature = "otlp")]
    let traces = args.traces_to().map(|to| Traces::start(to, &args.name, runtime.handle())).transpose()?;
    #[cfg(feature = "otlp")]
    let log: Vec<_> = std::iter::once(log).chain(traces.iter().map(|traces| traces.layer().boxed())).collect();
    tracing_subscriber::registry().with(log).init();
    let ended = runtime.block_on(leasehold_operator::run(args));
    #[cfg(feature = "otlp")]
    if let Some(traces) = traces {
        traces.flush(leasehold_operator::FLUSH);
    }
    ended
}

fn log(args: &RunArgs) -> Result<Box<dyn Layer<Registry> + Send + Sync>> {
    let filter = EnvFilter::try_new(&args.log)
        .with_context(|| format!("{:?} is no log filter: write for instance info or info,kube=debug", args.log))?;
    let log = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    Ok(match args.log_format {
        LogFormat::Human => log.with_ansi(io::stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => log.json().with_filter(filter).boxed(),
    })
}
