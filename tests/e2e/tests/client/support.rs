use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::PolicyRule;
use leasehold::protocol::Record;
use leasehold::{Client, Lock};
use leasehold_testkit::{Cluster, DumpOnFailure, Namespace, Process, Program, bin};

/// Long enough for a machine with better things to do.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A namespace of a test's own, with a dump of it if the test fails.
pub(crate) async fn namespace(prefix: &str) -> Result<(Namespace, DumpOnFailure)> {
    let namespace = Cluster::shared().await?.namespace(prefix).await?;
    let dump = DumpOnFailure::new(&namespace);
    Ok((namespace, dump))
}

/// A client by a connection of its own, whose session lasts so many seconds.
pub(crate) fn client(namespace: &Namespace, session: u64) -> Result<Client> {
    let builder = Client::builder().kube_config(namespace.config()).namespace(namespace.name());
    Ok(builder.session_duration(Duration::from_secs(session)).build()?)
}

pub(crate) fn lock(namespace: &Namespace, name: &str) -> Result<Lock> {
    Ok(client(namespace, 6)?.lock(name).build()?)
}

/// What a client of locks needs, and no more.
pub(crate) fn rules() -> Vec<PolicyRule> {
    vec![PolicyRule {
        api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
        resources: Some(vec!["leases".to_owned()]),
        verbs: ["get", "watch", "create", "update", "patch", "delete"].map(str::to_owned).into(),
        ..PolicyRule::default()
    }]
}

/// Starts worker processes, all under one service account that may do what locks take.
pub(crate) struct Workers {
    folder: tempfile::TempDir,
}

impl Workers {
    pub(crate) async fn new(namespace: &Namespace) -> Result<Self> {
        Self::with_rules(namespace, rules()).await
    }

    pub(crate) async fn with_rules(namespace: &Namespace, rules: Vec<PolicyRule>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let account = namespace.service_account("worker", rules).await?;
        account.write_kubeconfig(&folder.path().join("kubeconfig"))?;
        Ok(Self { folder })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn start(&self, host: &str, args: &[&str]) -> Result<Process> {
        self.program(host, args)?.start()
    }

    pub(crate) fn program(&self, host: &str, args: &[&str]) -> Result<Program> {
        let program = Program::new(bin("worker")?).args(args);
        Ok(program.env("KUBECONFIG", self.path().join("kubeconfig")).env("POD_NAME", host).named(host))
    }
}

/// What stands on a lock's Lease. `None` where there is none.
pub(crate) async fn record(namespace: &Namespace, name: &str) -> Result<Option<Record>> {
    Ok(match namespace.api::<Lease>().get_opt(name).await? {
        Some(lease) => Some(Record::parse(lease)?),
        None => None,
    })
}

/// Waits until so many wait for a lock.
pub(crate) async fn waiters(namespace: &Namespace, name: &str, count: usize) -> Result<Record> {
    leasehold_testkit::eventually(SOON, &format!("{count} waiters for {name}"), async || {
        let record = record(namespace, name).await?;
        let waiting = record.as_ref().map_or(0, |record| record.waiters.len());
        anyhow::ensure!(waiting == count, "there are {waiting}");
        record.ok_or_else(|| anyhow::anyhow!("there is no Lease"))
    })
    .await
}

/// The tokens in a worker's file, in the order in which they were written.
pub(crate) fn tokens(file: &Path) -> Result<Vec<u64>> {
    let text = std::fs::read_to_string(file)?;
    Ok(text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect())
}
