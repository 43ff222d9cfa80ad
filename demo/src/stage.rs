//! Everything around the workers: control plane, manifests, identities, operator.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use leasehold::clock;
use leasehold_testkit::{Cluster, Process, Program, Signal, bin, eventually};

use crate::typed::Shell;

const NAMESPACE: &str = "demo";
const SOON: Duration = Duration::from_secs(60);

/// A running control plane with Leasehold installed.
pub(crate) struct Stage {
    cluster: Cluster,
    operator: Process,
    lock: &'static str,
    folder: tempfile::TempDir,
    /// Who installs Leasehold, in the folder of this repository.
    admin: Shell,
    /// Who uses it, and may do nothing else.
    worker: Shell,
}

impl Stage {
    /// Starts the control plane, installs Leasehold as a user would, and starts its operator.
    pub(crate) async fn set(lock: &'static str) -> Result<Self> {
        step("starting etcd, kube-apiserver and kube-controller-manager");
        let cluster = Cluster::named_or_start().await?;
        let folder = tempfile::tempdir()?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let programs = furnish(&cluster, folder.path(), &root).await?;
        let admin = Shell::new(&root, cluster.kubeconfig_path(), &programs);

        step("installing Leasehold");
        for line in [
            "kubectl apply -k config/crd",
            "kubectl apply -f config/manager/namespace.yaml",
            "kubectl apply -k config/rbac",
            "kubectl wait --for=condition=Established crd/distributedlocks.leasehold.dev crd/semaphores.leasehold.dev",
        ] {
            admin.run(line, 0).await?;
        }
        step("letting a service account use locks in a namespace");
        for line in [
            format!("kubectl create namespace {NAMESPACE}"),
            format!("kubectl create serviceaccount worker -n {NAMESPACE}"),
            format!(
                "kubectl create rolebinding worker --clusterrole=leasehold-user --serviceaccount={NAMESPACE}:worker -n {NAMESPACE}"
            ),
        ] {
            admin.run(&line, 0).await?;
        }
        log_in(&cluster, &folder.path().join("worker.kubeconfig"), NAMESPACE, "worker").await?;
        let worker = Shell::new(folder.path(), folder.path().join("worker.kubeconfig"), &programs);

        step("starting the operator under its own service account");
        let kubeconfig = folder.path().join("operator.kubeconfig");
        log_in(&cluster, &kubeconfig, "leasehold-system", "leasehold-operator").await?;
        let mut operator = Program::new(bin("leasehold-operator")?)
            .args(["run", "--metrics-addr", "127.0.0.1:0"])
            .env("KUBECONFIG", &kubeconfig)
            .log(folder.path().join("operator.log"))
            .start()?;

        admin.run(&format!("kubectl apply -n {NAMESPACE} -f examples/distributedlock.yaml"), 0).await?;
        let ready = format!("kubectl wait --for=condition=Ready dlock/{lock} -n {NAMESPACE} --timeout=60s");
        if let Err(error) = admin.run(&ready, 0).await {
            let _ = operator.try_wait();
            bail!("{error:#}\nThe operator says:\n{}", operator.output());
        }
        Ok(Self { cluster, operator, lock, folder, admin, worker })
    }

    /// Who uses locks.
    pub(crate) fn worker(&self) -> &Shell {
        &self.worker
    }

    /// A file in the folder in which the workers are.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What has been written to it.
    pub(crate) fn read(&self, name: &str) -> Result<String> {
        std::fs::read_to_string(self.file(name)).with_context(|| format!("there is no file {name}"))
    }

    /// Starts the worker that is a program of its own, with the client crate in it.
    pub(crate) fn program(&self, name: &str) -> Result<Process> {
        println!("{name} $ leasehold-demo worker file     # a program that uses the crate");
        Program::new(std::env::current_exe()?)
            .arg("worker")
            .arg(self.file("file"))
            .env("KUBECONFIG", self.file("worker.kubeconfig"))
            .env("POD_NAME", name)
            .named(name)
            .start()
    }

    /// Makes a semaphore, with the permits that its example has.
    pub(crate) async fn add_semaphore(&self, name: &str) -> Result<()> {
        self.admin.run(&format!("kubectl apply -n {NAMESPACE} -f examples/semaphore.yaml"), 0).await?;
        let ready = format!("kubectl wait --for=condition=Ready sem/{name} -n {NAMESPACE} --timeout=60s");
        self.admin.run(&ready, 0).await.map(drop)
    }

    /// Gives a semaphore so many permits.
    pub(crate) async fn scale(&self, name: &str, permits: i64) -> Result<()> {
        let scale = format!("kubectl scale sem/{name} --replicas={permits} -n {NAMESPACE}");
        self.admin.run(&scale, 0).await.map(drop)
    }

    /// Shows the lock as [`show`](Self::show) does.
    pub(crate) async fn show_lock(&self, time: Duration) -> Result<()> {
        self.show(&format!("dlock/{}", self.lock), time).await
    }

    /// Shows something as kubectl does: now, and again every half second whenever it has changed, for so long.
    pub(crate) async fn show(&self, what: &str, time: Duration) -> Result<()> {
        let end = clock::moment() + time;
        let mut last = String::new();
        println!("$ kubectl get {what} -n {NAMESPACE}     # every half second, shown where it has changed");
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

/// Puts what the workers run into their folder, and what is found by its name into another, which is returned.
async fn furnish(cluster: &Cluster, folder: &Path, root: &Path) -> Result<PathBuf> {
    let programs = folder.join("bin");
    std::fs::create_dir(&programs)?;
    symlink(cluster.kubectl_path().await?, programs.join("kubectl"))?;
    symlink(bin("kubectl-leasehold")?, programs.join("kubectl-leasehold"))?;
    for script in ["add-lines.sh", "build.sh", "transfer.sh"] {
        symlink(root.join("demo/scripts").join(script).canonicalize()?, folder.join(script))?;
    }
    for (file, text) in [("file", ""), ("site", ""), ("account-1", "100\n"), ("account-2", "100\n")] {
        std::fs::write(folder.join(file), text)?;
    }
    Ok(programs)
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
