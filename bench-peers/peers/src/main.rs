//! A process that contends for locks as a benchmark tells it to, by one of the crates that there are for it. What it
//! understands and answers is described in ../../README.md.

mod floor;
mod kube_leader_election;
mod kube_lease_manager;
mod kubert;
mod leasehold;
mod redis;
mod serve;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::{Parser, ValueEnum};

/// What a peer is told when it is started.
#[derive(Clone, Debug, Parser)]
struct Options {
    #[arg(long)]
    peer: Peer,
    /// Whom to talk to.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Where the Leases are.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Redis: its socket, as a URL.
    #[arg(long)]
    endpoint: Option<String>,
    /// The duration of a lease or a session in seconds, if not the peer's own default.
    #[arg(long)]
    lease: Option<u64>,
    /// How long before the end of its lease a holder renews, in seconds.
    #[arg(long)]
    grace: Option<u64>,
    /// The pause between two attempts, in milliseconds.
    #[arg(long)]
    retry: Option<u64>,
    /// For how long a lock is kept after its release if nobody else wants it, in milliseconds.
    #[arg(long)]
    linger: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Peer {
    /// Acquiring and releasing are a PUT each.
    FloorPut,
    /// Acquiring is to wait for the next event of a watch, releasing is a PUT.
    FloorEvent,
    Leasehold,
    KubeLeaderElection,
    KubeLeaseManager,
    Kubert,
    Redis,
}

impl Options {
    fn kubeconfig(&self) -> Result<&PathBuf> {
        self.kubeconfig.as_ref().context("--kubeconfig")
    }

    fn lease_or(&self, default: u64) -> Duration {
        Duration::from_secs(self.lease.unwrap_or(default))
    }

    fn retry_or(&self, default: u64) -> Duration {
        Duration::from_millis(self.retry.unwrap_or(default))
    }
}

/// Who a contender says it is: nobody else in the run does.
fn identity(lock: &str, index: usize) -> String {
    format!("{lock}-{}-{index}", std::process::id())
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    rustls::crypto::ring::default_provider().install_default().map_err(|_| anyhow!("there is a provider already"))?;
    match options.peer {
        Peer::FloorPut | Peer::FloorEvent => serve::serve(&options, floor::connect).await,
        Peer::Leasehold => serve::serve(&options, leasehold::connect).await,
        Peer::KubeLeaderElection => serve::serve(&options, kube_leader_election::connect).await,
        Peer::KubeLeaseManager => serve::serve(&options, kube_lease_manager::connect).await,
        Peer::Kubert => serve::serve(&options, kubert::connect).await,
        Peer::Redis => serve::serve(&options, redis::connect).await,
    }
}
