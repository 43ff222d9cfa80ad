//! Everything around the workers: control plane, manifests, identities, operator.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use leasehold::clock;
use leasehold_testkit::{Cluster, Process, Program, Signal, bin, eventually};

const NAMESPACE: &str = "demo";
const SOON: Duration = Duration::from_secs(60);

/// A running control plane with Leasehold installed.
pub(crate) struct Stage {
    cluster: Cluster,
    operator: Process,
    lock: &'static str,
    folder: tempfile::TempDir,
}

impl Stage {
    /// Starts the control plane, installs Leasehold as a user would, and starts its operator.
    pub(crate) async fn set(lock: &'static str) -> Result<Self> {
        step("starting etcd, kube-apiserver and kube-controller-manager");
        let cluster = Cluster::named_or_start().await?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("file"), "")?;

        step("applying the CRDs and the roles (kubectl apply)");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let path = |path: &str| root.join(path).to_string_lossy().into_owned();
        kubectl(&cluster, &["apply", "-k", &path("config/crd")]).await?;
        kubectl(&cluster, &["apply", "-f", &path("config/manager/namespace.yaml")]).await?;
        kubectl(&cluster, &["apply", "-k", &path("config/rbac")]).await?;
        for crd in ["crd/distributedlocks.leasehold.dev", "crd/semaphores.leasehold.dev"] {
            kubectl(&cluster, &["wait", "--for=condition=Established", crd]).await?;
        }
        kubectl(&cluster, &["create", "namespace", NAMESPACE]).await?;
        kubectl(&cluster, &["create", "serviceaccount", "worker", "-n", NAMESPACE]).await?;
        let subject = format!("--serviceaccount={NAMESPACE}:worker");
        let bind = ["create", "rolebinding", "worker", "--clusterrole=leasehold-user", &subject, "-n", NAMESPACE];
        kubectl(&cluster, &bind).await?;

        step("starting the operator under its own service account");
        let kubeconfig = folder.path().join("operator.kubeconfig");
        log_in(&cluster, &kubeconfig, "leasehold-system", "leasehold-operator").await?;
        let mut operator = Program::new(bin("leasehold-operator")?)
            .args(["run", "--metrics-addr", "127.0.0.1:0"])
            .env("KUBECONFIG", &kubeconfig)
            .log(folder.path().join("operator.log"))
            .start()?;
        log_in(&cluster, &folder.path().join("worker.kubeconfig"), NAMESPACE, "worker").await?;

        step("applying the lock (kubectl apply)");
        let manifest = path("examples/distributedlock.yaml");
        kubectl(&cluster, &["apply", "-n", NAMESPACE, "-f", &manifest]).await?;
        let ready = ["wait", "--for=condition=Ready", &format!("dlock/{lock}"), "-n", NAMESPACE, "--timeout=60s"];
        if let Err(error) = kubectl(&cluster, &ready).await {
            let _ = operator.try_wait();
            bail!("{error:#}\nThe operator says:\n{}", operator.output());
        }
        Ok(Self { cluster, operator, lock, folder })
    }

    /// The file to which the workers write.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("file")
    }

    /// Starts a worker.
    pub(crate) fn worker(&self, name: &str) -> Result<Process> {
        Program::new(std::env::current_exe()?)
            .arg("worker")
            .arg(self.file())
            .env("KUBECONFIG", self.folder.path().join("worker.kubeconfig"))
            .env("POD_NAME", name)
            .named(name)
            .start()
    }

    /// A kubeconfig by which one is a worker.
    pub(crate) fn worker_kubeconfig(&self) -> PathBuf {
        self.folder.path().join("worker.kubeconfig")
    }

    /// Makes a semaphore, with the permits that its example has.
    pub(crate) async fn add_semaphore(&self, name: &str) -> Result<()> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/semaphore.yaml");
        kubectl(&self.cluster, &["apply", "-n", NAMESPACE, "-f", &manifest.to_string_lossy()]).await?;
        let ready = ["wait", "--for=condition=Ready", &format!("sem/{name}"), "-n", NAMESPACE, "--timeout=60s"];
        kubectl(&self.cluster, &ready).await.map(drop)
    }

    /// Gives a semaphore so many permits.
    pub(crate) async fn scale(&self, name: &str, permits: i64) -> Result<()> {
        let (semaphore, replicas) = (format!("sem/{name}"), format!("--replicas={permits}"));
        kubectl(&self.cluster, &["scale", &semaphore, &replicas, "-n", NAMESPACE]).await.map(drop)
    }

    /// Shows the lock as [`show`](Self::show) does.
    pub(crate) async fn show_lock(&self, time: Duration) -> Result<()> {
        self.show(&format!("dlock/{}", self.lock), time).await
    }

    /// Shows something as kubectl does: now, and again every half second whenever it has changed, for so long.
    pub(crate) async fn show(&self, what: &str, time: Duration) -> Result<()> {
        let end = clock::moment() + time;
        let mut last = String::new();
        loop {
            let table = kubectl(&self.cluster, &["get", what, "-n", NAMESPACE]).await?;
            let (header, row) = table.trim_end().split_once('\n').context("a table")?;
            if last.is_empty() {
                println!("    {header}");
            }
            if row != last {
                println!("    {row}");
                row.clone_into(&mut last);
            }
            if clock::moment() >= end {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Waits until the operator says that the lock is free.
    pub(crate) async fn wait_free(&self) -> Result<()> {
        eventually(SOON, "the lock to be free", async || {
            let args = ["get", "dlock", self.lock, "-n", NAMESPACE, "-o", "jsonpath={.status.state}"];
            let state = kubectl(&self.cluster, &args).await?;
            ensure!(state == "Free", "it is {state}");
            Ok(())
        })
        .await
    }

    /// Stops everything, and waits until nothing of it is left.
    pub(crate) async fn strike(mut self) -> Result<()> {
        self.operator.signal(Signal::TERM)?;
        self.operator.wait_success(SOON).await.context("the operator did not stop in good order")?;
        drop(self);
        eventually(SOON, "all processes to end", async || {
            let left = children()?;
            ensure!(left.is_empty(), "CHECK FAILED: still running: {}", left.join(", "));
            Ok(())
        })
        .await
    }
}

/// The programs that this process has started and that have not ended.
fn children() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        for child in std::fs::read_to_string(task?.path().join("children"))?.split_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            names.push(format!("{} ({child})", name.trim()));
        }
    }
    Ok(names)
}

fn step(what: &str) {
    println!("» {what}");
}

async fn kubectl(cluster: &Cluster, args: &[&str]) -> Result<String> {
    cluster.kubectl(args).await
}

/// Writes a kubeconfig by which one is this service account, and nobody else.
async fn log_in(cluster: &Cluster, file: &Path, namespace: &str, account: &str) -> Result<()> {
    let token = kubectl(cluster, &["create", "token", account, "-n", namespace, "--duration=1h"]).await?;
    let raw = ["config", "view", "--raw", "--minify", "--flatten", "-o"];
    let part = async |path: &str| {
        let jsonpath = format!("jsonpath={path}");
        kubectl(cluster, &[&raw[..], &[jsonpath.as_str()]].concat()).await
    };
    let server = part("{.clusters[0].cluster.server}").await?;
    let ca = part("{.clusters[0].cluster.certificate-authority-data}").await?;
    let text = format!(
        "apiVersion: v1
kind: Config
current-context: demo
clusters:
- name: demo
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: {account}
  user:
    token: {token}
contexts:
- name: demo
  context:
    cluster: demo
    user: {account}
    namespace: {NAMESPACE}
",
        token = token.trim(),
    );
    std::fs::write(file, text)?;
    Ok(())
}
