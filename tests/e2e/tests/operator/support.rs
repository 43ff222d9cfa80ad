//! An operator in a namespace of its own, and clients played by hand.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::core::object::HasStatus;
use kube::{Api, Resource};
use leasehold::protocol::record::SessionRecord;
use leasehold::protocol::write::Term;
use leasehold::protocol::write::shared::{self, Round};
use leasehold::protocol::{HolderId, Mode, Record, SessionId, Want, Write, write};
use leasehold::{Failure, KubeStore, Store as _, clock};
use leasehold_operator::crd::{DistributedLock, DistributedLockStatus};
use leasehold_testkit::{Cluster, DumpOnFailure, Namespace, Process, Program, bin, eventually};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::proxy::Proxy;

/// Longer than anything here takes, on a busy machine too.
pub(crate) const SOON: Duration = Duration::from_secs(45);
/// How long a session of these tests lives.
pub(crate) const D: Duration = Duration::from_secs(2);

pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A namespace with an operator in it.
pub(crate) struct Scene {
    pub(crate) namespace: Namespace,
    pub(crate) operator: Operator,
    store: KubeStore,
    _dump: DumpOnFailure,
}

/// A running operator.
pub(crate) struct Operator {
    pub(crate) process: Process,
    address: String,
    pub(crate) log: PathBuf,
    _folder: TempDir,
}

impl Scene {
    /// The operator works in this namespace alone, with the shipped rules bound there.
    pub(crate) async fn new() -> Result<Self> {
        Self::with_rules(shipped_rules()?).await
    }

    /// The same, without the rules for Pods.
    pub(crate) async fn without_pods() -> Result<Self> {
        let mut rules = shipped_rules()?;
        rules.retain(|rule| rule.resources.as_ref().is_none_or(|all| all.iter().all(|one| one != "pods")));
        Self::with_rules(rules).await
    }

    async fn with_rules(rules: Vec<PolicyRule>) -> Result<Self> {
        let namespace = Self::namespace(Cluster::shared().await?).await?;
        let account = namespace.service_account("operator", rules).await?;
        let operator = Operator::start(&account, &["--namespace", namespace.name()]).await?;
        Self::with(namespace, operator)
    }

    /// The same, but it may only read Leases.
    pub(crate) async fn new_that_only_reads_leases() -> Result<Self> {
        let namespace = Self::namespace(Cluster::shared().await?).await?;
        let mut rules = shipped_rules()?;
        for rule in &mut rules {
            if rule.resources.iter().flatten().any(|resource| resource == "leases") {
                rule.verbs = ["get", "list", "watch"].map(str::to_owned).into();
            }
        }
        let account = namespace.service_account("operator", rules).await?;
        let args = ["--namespace", namespace.name(), "--leader-election", "false"];
        let operator = Operator::start(&account, &args).await?;
        Self::with(namespace, operator)
    }

    /// The same, with more arguments.
    pub(crate) async fn with_args(args: &[&str]) -> Result<Self> {
        let namespace = Self::namespace(Cluster::shared().await?).await?;
        let account = namespace.service_account("operator", shipped_rules()?).await?;
        let args = [&["--namespace", namespace.name()], args].concat();
        let operator = Operator::start(&account, &args).await?;
        Self::with(namespace, operator)
    }

    /// The operator works in two namespaces, that of the scene and the first of these.
    pub(crate) async fn in_two_of_three() -> Result<(Self, [Namespace; 2])> {
        let cluster = Cluster::shared().await?;
        let namespace = Self::namespace(cluster).await?;
        let others = [cluster.namespace("operator").await?, cluster.namespace("operator").await?];
        let account = namespace.cluster_account("operator", shipped_rules()?).await?;
        let args = ["--namespace", namespace.name(), "--namespace", others[0].name()];
        let operator = Operator::start(&account, &args).await?;
        Ok((Self::with(namespace, operator)?, others))
    }

    /// The operator speaks to the API server through this.
    pub(crate) async fn behind(proxy: &Proxy) -> Result<Self> {
        let namespace = Self::namespace(Cluster::shared().await?).await?;
        let account = namespace.service_account("operator", shipped_rules()?).await?;
        let operator = Operator::start_at(&account, &["--namespace", namespace.name()], Some(proxy)).await?;
        Self::with(namespace, operator)
    }

    /// The operator works in all namespaces.
    pub(crate) async fn cluster_wide(cluster: &Cluster) -> Result<Self> {
        let namespace = Self::namespace(cluster).await?;
        let account = namespace.cluster_account("operator", shipped_rules()?).await?;
        let operator = Operator::start(&account, &[]).await?;
        Self::with(namespace, operator)
    }

    pub(crate) async fn namespace(cluster: &Cluster) -> Result<Namespace> {
        // Tests that start at the same time get into each other's way here.
        eventually(SOON, "the CRDs to be applied", async || {
            cluster.kubectl(&["apply", "-k", &format!("{ROOT}/crds")]).await
        })
        .await?;
        let crds =
            ["distributedlocks", "semaphores", "readwritelocks"].map(|plural| format!("crd/{plural}.leasehold.dev"));
        cluster.kubectl(&["wait", "--for=condition=Established", &crds[0], &crds[1], &crds[2]]).await?;
        cluster.namespace("operator").await
    }

    pub(crate) fn with(namespace: Namespace, operator: Operator) -> Result<Self> {
        let store = KubeStore::new(namespace.config(), namespace.name())?;
        let dump = DumpOnFailure::new(&namespace).log_file(&operator.log);
        Ok(Self { namespace, operator, store, _dump: dump })
    }

    /// Another operator beside the first one.
    pub(crate) async fn another_operator(&self) -> Result<Operator> {
        self.another_operator_with(&[]).await
    }

    /// The same, with more arguments.
    pub(crate) async fn another_operator_with(&self, args: &[&str]) -> Result<Operator> {
        let account = self.namespace.service_account("another-operator", shipped_rules()?).await?;
        Operator::start(&account, &[&["--namespace", self.namespace.name()], args].concat()).await
    }

    /// Creates a lock and waits until it is ready.
    pub(crate) async fn lock(&self, name: &str) -> Result<()> {
        self.apply(&lock_yaml(name, "{}")).await?;
        self.status(name, |status| status.state.is_some()).await?;
        Ok(())
    }

    pub(crate) async fn apply(&self, yaml: &str) -> Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), yaml)?;
        self.namespace.kubectl(&["apply", "-f", &file.path().to_string_lossy()]).await
    }

    /// Waits until the lock's status is as wanted.
    pub(crate) async fn status(
        &self,
        name: &str,
        wanted: impl Fn(&DistributedLockStatus) -> bool,
    ) -> Result<DistributedLockStatus> {
        self.status_of::<DistributedLock>(name, wanted).await
    }

    /// Waits until the status of a resource of any kind is as wanted.
    pub(crate) async fn status_of<K>(&self, name: &str, wanted: impl Fn(&K::Status) -> bool) -> Result<K::Status>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + HasStatus + Clone + Debug + DeserializeOwned,
        K::Status: Clone + Debug,
    {
        let resources: Api<K> = self.namespace.api();
        eventually(SOON, "the status", async || {
            let status = resources.get(name).await?.status().cloned().context("there is no status")?;
            ensure!(wanted(&status), "the status is {status:#?}");
            Ok(status)
        })
        .await
    }

    /// Waits until the lock's Lease is as wanted.
    pub(crate) async fn record(&self, name: &str, wanted: impl Fn(&Record) -> bool) -> Result<Record> {
        eventually(SOON, "the Lease", async || {
            let record = self.read(name).await?.context("there is no Lease")?;
            ensure!(wanted(&record), "the Lease is {:#?}", record.lease);
            Ok(record)
        })
        .await
    }

    /// Waits until there is no such Lease.
    pub(crate) async fn no_lease(&self, name: &str) -> Result<()> {
        eventually(SOON, "the Lease to go", async || {
            ensure!(self.read(name).await?.is_none(), "{name} is still there");
            Ok(())
        })
        .await
    }

    pub(crate) async fn read(&self, name: &str) -> Result<Option<Record>> {
        match self.store.read(name).await {
            Ok(lease) => Ok(Some(Record::parse(lease)?)),
            Err(Failure::Absent) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    pub(crate) async fn lease(&self, name: &str) -> Result<Lease> {
        Ok(self.store.read(name).await?)
    }

    /// Waits for an Event with this reason on the lock, and returns its note.
    pub(crate) async fn event(&self, lock: &str, reason: &str) -> Result<String> {
        let events: Api<Event> = self.namespace.api();
        eventually(SOON, "an Event", async || {
            let list = events.list(&kube::api::ListParams::default()).await?;
            let found = list.items.into_iter().find(|event| {
                event.reason.as_deref() == Some(reason)
                    && event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some(lock)
            });
            found.and_then(|event| event.note).with_context(|| format!("there is no {reason}"))
        })
        .await
    }

    /// A client as users have it.
    pub(crate) fn user(&self, host: &str) -> Result<leasehold::Client> {
        let builder = leasehold::Client::builder().kube_config(self.namespace.config());
        Ok(builder.namespace(self.namespace.name()).host(host).build()?)
    }

    /// A client with a session that is open and not renewed.
    pub(crate) async fn client(&self, host: &str) -> Result<Client> {
        self.client_for(host, D).await
    }

    /// The same, with a session that lives for so long.
    pub(crate) async fn client_for(&self, host: &str, duration: Duration) -> Result<Client> {
        let random: String = self.namespace.name().chars().rev().take(5).collect();
        let session = SessionId::new(host, &format!("{random}x"));
        let lease = self
            .store
            .write(&session.lease_name(), &write::open_session(&session, duration, clock::now().stamp))
            .await?;
        let record = SessionRecord::parse(lease.context("opened")?)?;
        Ok(Client { store: self.store.clone(), session, record })
    }
}

impl Operator {
    async fn start(account: &leasehold_testkit::Account, args: &[&str]) -> Result<Self> {
        Self::start_at(account, args, None).await
    }

    async fn start_at(account: &leasehold_testkit::Account, args: &[&str], proxy: Option<&Proxy>) -> Result<Self> {
        let kubeconfig = tempfile::NamedTempFile::new()?;
        account.write_kubeconfig(kubeconfig.path())?;
        if let Some(proxy) = proxy {
            let yaml = std::fs::read_to_string(kubeconfig.path())?;
            std::fs::write(kubeconfig.path(), proxy.in_place_of_server(&yaml))?;
        }
        Self::start_by(kubeconfig.path(), args).await
    }

    /// It logs in by a kubeconfig, which is copied.
    pub(crate) async fn start_by(from: &Path, args: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::copy(from, &kubeconfig)?;
        let log = folder.path().join("operator.log");
        let process = Program::new(bin("leasehold-operator")?)
            .args(["run", "--metrics-addr", "127.0.0.1:0", "--log", "info,leasehold_operator=debug"])
            .args(args)
            .env("KUBECONFIG", kubeconfig)
            .log(&log)
            .start()?;
        let mut operator = Self { process, address: String::new(), log, _folder: folder };
        operator.address = eventually(SOON, "the operator to serve", async || {
            let output = operator.process.output();
            let (_, rest) = output.split_once("address=").with_context(|| output.clone())?;
            Ok(rest.split_whitespace().next().unwrap_or_default().to_owned())
        })
        .await?;
        eventually(SOON, "the operator to be ready", async || {
            let answer = operator.get("/readyz").await?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}\n{}", operator.process.output());
            Ok(())
        })
        .await?;
        Ok(operator)
    }

    /// The whole answer, head and body.
    pub(crate) async fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// The value of a metric, 0 if there is none yet.
    pub(crate) async fn metric(&self, name: &str) -> Result<u64> {
        let answer = self.get("/metrics").await?;
        let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.unwrap_or("0").trim().parse()?)
    }
}

/// A client played by hand: its session is open, and renewed only when told.
pub(crate) struct Client {
    store: KubeStore,
    pub(crate) session: SessionId,
    record: SessionRecord,
}

impl Client {
    pub(crate) fn id(&self, n: u32) -> HolderId {
        HolderId { session: self.session.clone(), n }
    }

    /// Renews the session once.
    pub(crate) async fn renew(&mut self) -> Result<()> {
        let write = write::renew_session(&self.record, self.record.duration, clock::now().stamp);
        let lease = self.store.write(&self.session.lease_name(), &write).await?;
        self.record = SessionRecord::parse(lease.context("renewed")?)?;
        Ok(())
    }

    /// Renews the session again and again. The answer is the error by which it failed: it should never come.
    pub(crate) fn keep_alive(mut self) -> Alive {
        let (store, session) = (self.store.clone(), self.session.clone());
        let beating = tokio::spawn(async move {
            loop {
                tokio::time::sleep(D / 5).await;
                if let Err(error) = self.renew().await {
                    return error;
                }
            }
        });
        Alive { store, session, beating }
    }

    pub(crate) async fn acquire(&self, lock: &str, n: u32) -> Result<Record> {
        acquire(&self.store, &self.id(n), lock).await
    }

    pub(crate) async fn join(&self, lock: &str, n: u32) -> Result<Record> {
        join(&self.store, &self.id(n), lock).await
    }

    /// Takes a part of what several can hold.
    pub(crate) async fn share(&self, lock: &str, n: u32, mode: Mode) -> Result<Record> {
        let record = Record::parse(self.store.read(lock).await?)?;
        let want = Want { mode, ..Want::default() };
        let write = shared::acquire(&record, &self.id(n), want, &Round::default(), clock::now().stamp);
        self.send(lock, &write).await?.context("acquired")
    }

    pub(crate) async fn send(&self, lock: &str, write: &Write) -> Result<Option<Record>> {
        send(&self.store, lock, write).await
    }
}

/// A client whose session is renewed in the background.
pub(crate) struct Alive {
    store: KubeStore,
    pub(crate) session: SessionId,
    beating: JoinHandle<anyhow::Error>,
}

impl Alive {
    pub(crate) fn id(&self, n: u32) -> HolderId {
        HolderId { session: self.session.clone(), n }
    }

    pub(crate) async fn join(&self, lock: &str, n: u32) -> Result<Record> {
        join(&self.store, &self.id(n), lock).await
    }

    pub(crate) async fn acquire(&self, lock: &str, n: u32) -> Result<Record> {
        acquire(&self.store, &self.id(n), lock).await
    }

    /// Hands a held lock to somebody who waits for it.
    pub(crate) async fn hand_off(&self, lock: &str, record: &Record, to: &HolderId) -> Result<Record> {
        let write = write::grant(record, to, &[], clock::now().stamp);
        send(&self.store, lock, &write).await?.context("handed off")
    }

    pub(crate) async fn release(&self, lock: &str, record: &Record) -> Result<()> {
        send(&self.store, lock, &write::release(record, &[], false)).await.map(drop)
    }

    /// Checks that no renewal has failed so far, and stops renewing.
    pub(crate) async fn stop(self) -> Result<()> {
        if self.beating.is_finished() {
            bail!("the session {} was taken from its client: {}", self.session, self.beating.await?);
        }
        self.beating.abort();
        Ok(())
    }
}

async fn acquire(store: &KubeStore, id: &HolderId, lock: &str) -> Result<Record> {
    let record = Record::parse(store.read(lock).await?)?;
    ensure!(record.holder.is_none() && record.waiters.is_empty(), "{lock} is not free");
    let write = write::acquire(&record, id, &[], Term { duration: D, own: false }, clock::now().stamp);
    send(store, lock, &write).await?.context("acquired")
}

async fn join(store: &KubeStore, id: &HolderId, lock: &str) -> Result<Record> {
    let record = Record::parse(store.read(lock).await?)?;
    send(store, lock, &write::join(&record, id, &Want::default())).await?.context("joined")
}

async fn send(store: &KubeStore, lock: &str, write: &Write) -> Result<Option<Record>> {
    Ok(store.write(lock, write).await?.map(Record::parse).transpose()?)
}

pub(crate) fn lock_yaml(name: &str, spec: &str) -> String {
    format!("apiVersion: leasehold.dev/v1alpha1\nkind: DistributedLock\nmetadata:\n  name: {name}\nspec: {spec}\n")
}

/// The identity of the holder, empty where there is none.
pub(crate) fn holder(record: &Record) -> &str {
    record.holder.as_ref().map_or("", |holder| &holder.identity)
}

pub(crate) fn waiters(record: &Record) -> BTreeSet<String> {
    record.waiters.iter().map(|waiter| waiter.id.to_string()).collect()
}

/// What a client of locks needs, and no more.
pub(crate) fn user_rules() -> Vec<PolicyRule> {
    vec![PolicyRule {
        api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
        resources: Some(vec!["leases".to_owned()]),
        verbs: ["get", "watch", "create", "update", "patch", "delete"].map(str::to_owned).into(),
        ..PolicyRule::default()
    }]
}

/// What `config/rbac` gives the operator.
fn shipped_rules() -> Result<Vec<PolicyRule>> {
    let yaml = std::fs::read_to_string(format!("{ROOT}/config/rbac/operator_role.yaml"))?;
    let role: ClusterRole = serde_yaml_ng::from_str(&yaml)?;
    role.rules.context("the shipped role has no rules")
}
