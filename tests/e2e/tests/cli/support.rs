//! A namespace with somebody in it who may use locks and nothing else.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::PolicyRule;
use leasehold_testkit::{Cluster, DumpOnFailure, Namespace, Process, Program, bin, eventually};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// Longer than anything here takes, on a busy machine too.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What `run` needs, as its message for the forbidden says.
pub(crate) const RUN: [&str; 6] = ["get", "watch", "create", "update", "patch", "delete"];
/// What `list` needs.
pub(crate) const LIST: &str = "list";

/// A script for the command that tells that it runs, and ends when its standard input does.
pub(crate) const UNTIL_EOF: &str = "echo ready; exec cat";

pub(crate) struct Scene {
    pub(crate) namespace: Namespace,
    pub(crate) folder: TempDir,
    _dump: DumpOnFailure,
}

pub(crate) fn leases(verbs: &[&str]) -> Vec<PolicyRule> {
    vec![PolicyRule {
        api_groups: Some(vec!["coordination.k8s.io".into()]),
        resources: Some(vec!["leases".into()]),
        verbs: verbs.iter().map(|&verb| verb.into()).collect(),
        ..PolicyRule::default()
    }]
}

impl Scene {
    pub(crate) async fn new() -> Result<Self> {
        let verbs = [&RUN[..], &[LIST]].concat();
        Self::with(Cluster::shared().await?, &verbs).await
    }

    pub(crate) async fn with(cluster: &Cluster, verbs: &[&str]) -> Result<Self> {
        let namespace = cluster.namespace("cli").await?;
        let account = namespace.service_account("worker", leases(verbs)).await?;
        let folder = tempfile::tempdir()?;
        account.write_kubeconfig(&folder.path().join("kubeconfig"))?;
        let dump = DumpOnFailure::new(&namespace);
        Ok(Self { namespace, folder, _dump: dump })
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// The program, as the worker.
    pub(crate) fn cli(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Program> {
        Ok(Program::new(bin("kubectl-leasehold")?)
            .env("KUBECONFIG", self.kubeconfig())
            .env("POD_NAME", "worker")
            .args(args))
    }

    /// `run` with options, and a shell script as the command.
    pub(crate) fn script(&self, options: &[&str], script: &str) -> Result<Program> {
        self.cli(["run"]).map(|program| program.args(options).args(["--", "/bin/sh", "-c", script]))
    }

    /// Runs it to its end.
    pub(crate) async fn outcome(&self, args: &[&str]) -> Result<Outcome> {
        outcome(self.cli(args)?).await
    }

    /// Somebody who holds the lock until its standard input is closed.
    pub(crate) async fn holder(&self, name: &str, options: &[&str]) -> Result<Process> {
        let options = [&[name], options].concat();
        let program = self.script(&options, UNTIL_EOF)?.piped_stdin();
        let mut holder = program.named("holder").start()?;
        holder.wait_for_line(SOON, |line| line == "ready").await?;
        Ok(holder)
    }

    pub(crate) async fn lease(&self, name: &str) -> Result<Option<Lease>> {
        Ok(self.namespace.api::<Lease>().get_opt(name).await?)
    }

    /// The join keys on a lock's Lease.
    pub(crate) async fn joins(&self, name: &str) -> Result<Vec<String>> {
        let annotations = self.lease(name).await?.and_then(|lease| lease.metadata.annotations);
        let keys = annotations.unwrap_or_default().into_keys();
        Ok(keys.filter(|key| key.starts_with("join.leasehold.dev/")).collect())
    }

    pub(crate) async fn wait_joins(&self, name: &str, count: usize) -> Result<()> {
        eventually(SOON, "waiters in the queue", async || {
            let joins = self.joins(name).await?;
            ensure!(joins.len() == count, "{joins:?}");
            Ok(())
        })
        .await
    }
}

/// How a program ended, and what it wrote to both streams.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
}

impl Outcome {
    pub(crate) fn of(status: ExitStatus, process: &Process) -> Self {
        Self { code: status.code(), output: process.output() }
    }

    /// Requires an exit code, and that all of these were written.
    #[track_caller]
    pub(crate) fn is(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.output);
        for text in texts {
            assert!(self.output.contains(text), "no {text:?} in: {}", self.output);
        }
    }
}

pub(crate) async fn outcome(program: Program) -> Result<Outcome> {
    let mut process = program.start()?;
    end(&mut process).await
}

pub(crate) async fn end(process: &mut Process) -> Result<Outcome> {
    let status = process.wait_exit(SOON).await?;
    // What is still in the pipes.
    timeout(SOON, async { while process.next_line().await.is_some() {} }).await?;
    Ok(Outcome::of(status, process))
}

/// Whether a process is there and not just waiting to be reaped.
pub(crate) fn runs(pid: u32) -> bool {
    // The state stands behind the name, which stands in brackets.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

/// Looks so often that it can be told when it ended.
pub(crate) async fn wait_dead(pid: u32) -> Result<()> {
    let ended = async {
        while runs(pid) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, ended).await.with_context(|| format!("{pid} runs"))
}

/// Reads lines up to one that starts so, and returns the rest of it.
pub(crate) async fn line_after(process: &mut Process, start: &str) -> Result<String> {
    let line = process.wait_for_line(SOON, |line| line.starts_with(start)).await?;
    Ok(line.strip_prefix(start).context("it starts so")?.to_owned())
}
