//! What processes use of the machine, as the kernel and etcd tell it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use leasehold_testkit::Cluster;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Ticks of a process's CPU time in a second: the same on every Linux that there is.
const TICKS: f64 = 100.0;

/// How much of a process is in memory, now and at most so far, in bytes.
pub(crate) fn memory(process: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let bytes = |field| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
        anyhow::Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    };
    Ok((bytes("VmRSS:")?, bytes("VmHWM:")?))
}

/// How many seconds of a processor a process has used.
pub(crate) fn cpu(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("a stat without a name")?;
    let ticks: Result<Vec<f64>, _> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect();
    Ok(ticks?.iter().sum::<f64>() / TICKS)
}

/// Lets this process, and those it starts, open as many files as they may: each watch is a connection.
pub(crate) fn allow_many_files() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// The servers of a control plane that this process has started.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    etcd: u32,
    apiserver: u32,
    socket: PathBuf,
}

/// Seconds of a processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// By this process, in which all clients are.
    pub(crate) clients: f64,
    pub(crate) apiserver: f64,
    pub(crate) etcd: f64,
}

impl std::ops::Add for Spent {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            clients: self.clients + other.clients,
            apiserver: self.apiserver + other.apiserver,
            etcd: self.etcd + other.etcd,
        }
    }
}

impl std::ops::Sub for Spent {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            clients: self.clients - earlier.clients,
            apiserver: self.apiserver - earlier.apiserver,
            etcd: self.etcd - earlier.etcd,
        }
    }
}

impl Servers {
    /// None where somebody else runs the cluster.
    pub(crate) async fn of(cluster: &Cluster) -> Option<Self> {
        let (etcd, apiserver) = cluster.server_ids().await.ok()?;
        Some(Self { etcd, apiserver, socket: cluster.etcd_socket().await.ok()? })
    }

    pub(crate) fn spent(&self) -> Result<Spent> {
        Ok(Spent { clients: cpu(std::process::id())?, apiserver: cpu(self.apiserver)?, etcd: cpu(self.etcd)? })
    }

    /// What the API server has in memory, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        Ok(memory(self.apiserver)?.0)
    }

    /// What etcd has stored, in bytes, with what was before as far as it keeps that.
    pub(crate) async fn stored(&self) -> Result<u64> {
        // It tells what it had when it last committed, which it does ten times a second.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: etcd\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let value = |line: &str| line.strip_prefix("etcd_mvcc_db_total_size_in_use_in_bytes ")?.parse::<f64>().ok();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of bytes")]
        answer.lines().find_map(value).map(|bytes| bytes as u64).context("etcd does not say how much it stores")
    }
}
