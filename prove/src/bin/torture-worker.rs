//! One of the processes that the torture kills, stops and cuts off.

use anyhow::Result;
use clap::Parser;
use leasehold_prove::torture::worker;
use tracing_subscriber::EnvFilter;

/// Takes locks and works under them until SIGTERM. `leasehold-prove torture` starts it.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    options: worker::Options,
}

// One thread: what the process does first after a pause is then the work, and not the client's own tasks.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env());
    log.with_writer(std::io::stderr).with_ansi(false).init();
    worker::work(Arguments::parse().options).await
}
