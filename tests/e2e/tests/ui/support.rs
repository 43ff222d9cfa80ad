//! A namespace with somebody in it who may use locks, and the page of it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::PostParams;
use leasehold_testkit::{Cluster, DumpOnFailure, Namespace, Process, Program, bin};
use serde_json::json;
use tempfile::TempDir;

/// Longer than anything here takes, on a busy machine too.
pub(crate) const SOON: Duration = Duration::from_secs(60);
const VERBS: [&str; 7] = ["get", "list", "watch", "create", "update", "patch", "delete"];

pub(crate) struct Scene {
    pub(crate) namespace: Namespace,
    folder: TempDir,
    _dump: DumpOnFailure,
}

impl Scene {
    pub(crate) async fn new() -> Result<Self> {
        Self::with(Cluster::shared().await?, &VERBS).await
    }

    pub(crate) async fn in_cluster(cluster: &Cluster) -> Result<Self> {
        Self::with(cluster, &VERBS).await
    }

    pub(crate) async fn with(cluster: &Cluster, verbs: &[&str]) -> Result<Self> {
        let namespace = cluster.namespace("ui").await?;
        let rules = vec![PolicyRule {
            api_groups: Some(vec!["coordination.k8s.io".into()]),
            resources: Some(vec!["leases".into()]),
            verbs: verbs.iter().map(|&verb| verb.into()).collect(),
            ..PolicyRule::default()
        }];
        let account = namespace.service_account("viewer", rules).await?;
        let folder = tempfile::tempdir()?;
        account.write_kubeconfig(&folder.path().join("kubeconfig"))?;
        let dump = DumpOnFailure::new(&namespace);
        Ok(Self { namespace, folder, _dump: dump })
    }

    /// The program, as somebody in this Pod.
    pub(crate) fn cli(&self, pod: &str, args: &[&str]) -> Result<Program> {
        let kubeconfig = self.folder.path().join("kubeconfig");
        Ok(Program::new(bin("kubectl-leasehold")?).env("KUBECONFIG", kubeconfig).env("POD_NAME", pod).args(args))
    }

    /// Somebody who wants a lock, and holds it until its standard input is closed.
    pub(crate) fn contender(&self, pod: &str, name: &str, options: &[&str]) -> Result<Process> {
        let args = [&["run", name], options, &["--", "/bin/sh", "-c", "echo ready; exec cat"]].concat();
        self.cli(pod, &args)?.piped_stdin().named(pod).start()
    }

    /// Somebody who holds it already.
    pub(crate) async fn holder(&self, pod: &str, name: &str, options: &[&str]) -> Result<Process> {
        let mut holder = self.contender(pod, name, options)?;
        holder.wait_for_line(SOON, |line| line == "ready").await?;
        Ok(holder)
    }

    /// The page, at any free port.
    pub(crate) async fn ui(&self, options: &[&str]) -> Result<Ui> {
        let args = [&["ui", "--port", "0"], options].concat();
        let mut process = self.cli("viewer", &args)?.named("ui").start()?;
        let url = process.wait_for_line(SOON, |_| true).await?;
        ensure!(url.starts_with("http://127.0.0.1:") && url.ends_with('/'), "{url}");
        Ok(Ui { process, url })
    }

    /// Two locks whose holders wait for each other, as their Leases have it once both have said what they hold.
    pub(crate) async fn plant_deadlock(&self) -> Result<()> {
        let (one, other) = ("left_aaaaaaaaaa", "right_bbbbbbbbbb");
        for (ticket, name, holder, waiter) in [("11", "apples", one, other), ("12", "pears", other, one)] {
            let lease: Lease = serde_json::from_value(json!({
                "metadata": {
                    "name": name, "labels": { "leasehold.dev/kind": "lock" },
                    "annotations": {
                        "leasehold.dev/format": "1",
                        format!("join.leasehold.dev/{waiter}.2"): ticket,
                        format!("holds.leasehold.dev/{waiter}.2"): format!("{waiter}.1"),
                    },
                },
                "spec": { "holderIdentity": format!("{holder}.1"), "leaseDurationSeconds": 30 },
            }))?;
            self.namespace.api().create(&PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

pub(crate) struct Ui {
    pub(crate) process: Process,
    pub(crate) url: String,
}

impl Ui {
    /// Its host and port.
    pub(crate) fn authority(&self) -> Result<&str> {
        let rest = self.url.strip_prefix("http://").context("no http")?;
        Ok(rest.trim_end_matches('/'))
    }
}
