//! The control plane, the workers and the operator of one run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use kube::config::Kubeconfig;
use leasehold::protocol::record::{Record, SESSION_PREFIX, SessionRecord, UPGRADE, WANT};
use leasehold_testkit::{Account, Cluster, Namespace, Process, Program, Signal, bin, eventually};
use serde_json::json;
use tempfile::TempDir;

use super::checker::Stored;
use super::history::{History, read};
use super::proxy::{Mode, Proxy};

/// Longer than anything here takes, on a busy machine too.
const SOON: Duration = Duration::from_secs(90);
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The locks that are contended for. The first has a custom resource.
pub const LOCKS: [&str; 3] = ["alpha", "beta", "gamma"];
/// The semaphore. Whoever comes first makes it.
pub const POOL: &str = "pool";
/// How many permits it has.
pub const PERMITS: u32 = 3;
/// The read-write lock.
pub const SHELF: &str = "shelf";
/// All of them, the locks first.
pub const NAMES: [&str; 5] = [LOCKS[0], LOCKS[1], LOCKS[2], POOL, SHELF];
/// Those under which something is written where tokens are compared.
const FENCED: [&str; 4] = [LOCKS[0], LOCKS[1], LOCKS[2], SHELF];

/// All that a run has.
#[expect(missing_debug_implementations, reason = "nobody prints it, and a client cannot be printed")]
pub struct Stage {
    pub(super) cluster: Cluster,
    pub(super) namespace: Namespace,
    pub(super) admin: Client,
    pub(super) accounts: Vec<Account>,
    pub(super) places: Vec<Place>,
    pub(super) operator: Operator,
    pub(super) folder: TempDir,
    pub(super) session: Duration,
    seed: u64,
    /// Workers that ended though nobody had killed them.
    pub(super) ended: Vec<String>,
}

/// The place of one worker: what outlives its process.
#[derive(Debug)]
pub struct Place {
    pub(super) number: usize,
    pub(super) account: usize,
    pub(super) proxy: Proxy,
    pub(super) process: Option<Process>,
    /// How many processes there have been.
    processes: u32,
    /// How often they said that they had got something.
    got: u64,
    pub(super) token_file: PathBuf,
    /// The file that says by how much its wall clock is off, where that can be done.
    pub(super) clock_file: Option<PathBuf>,
}

/// The operator, and its way to the API server.
#[derive(Debug)]
pub struct Operator {
    pub(super) proxy: Proxy,
    pub(super) process: Option<Process>,
    starts: u32,
    /// How often it ended by itself.
    pub(super) ended: u32,
}

impl Stage {
    /// Starts a control plane with an operator and workers.
    pub async fn set(workers: usize, session: Duration, seed: u64) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("leasehold-torture-").tempdir()?;
        let cluster = Cluster::start().await?;
        cluster.kubectl(&["apply", "-k", &format!("{ROOT}/crds")]).await?;
        cluster.kubectl(&["wait", "--for=condition=Established", "crd", "distributedlocks.leasehold.dev"]).await?;
        let namespace = cluster.namespace("torture").await?;
        // Two accounts, so that rights can be taken from half of the workers.
        let mut accounts = Vec::new();
        for name in ["one", "other"] {
            accounts.push(namespace.service_account(name, worker_rules()).await?);
        }
        let operator_account = namespace.service_account("operator", shipped_rules()?).await?;
        let admin = cluster.client()?;
        let upstream = upstream(&cluster)?;

        let token_file = folder.path().join("operator.token");
        fs::write(&token_file, operator_account.token())?;
        let proxy = Proxy::start(upstream).await?;
        let kubeconfig = folder.path().join("operator.kubeconfig");
        write_kubeconfig(&cluster, &namespace, Some(proxy.port()), &token_file, &kubeconfig)?;
        let operator = Operator { proxy, process: None, starts: 0, ended: 0 };

        let library = faketime();
        let mut places = Vec::new();
        for number in 0..workers {
            let path = |what: &str| folder.path().join(format!("w{number}.{what}"));
            let place = Place {
                number,
                account: number % accounts.len(),
                proxy: Proxy::start(upstream).await?,
                process: None,
                processes: 0,
                got: 0,
                token_file: path("token"),
                clock_file: (library.is_some() && number % 4 == 1).then(|| path("clock")),
            };
            fs::write(&place.token_file, accounts[place.account].token())?;
            write_kubeconfig(&cluster, &namespace, Some(place.proxy.port()), &place.token_file, &path("kubeconfig"))?;
            write_kubeconfig(&cluster, &namespace, None, &place.token_file, &path("direct"))?;
            places.push(place);
        }
        let mut stage =
            Self { cluster, namespace, admin, accounts, places, operator, folder, session, seed, ended: Vec::new() };
        stage.furnish().await?;
        stage.start_operator()?;
        for number in 0..workers {
            stage.start_worker(number)?;
        }
        Ok(stage)
    }

    /// The objects that workers write to.
    async fn furnish(&self) -> Result<()> {
        let cells: Api<ConfigMap> = self.namespace.api();
        for lock in FENCED {
            let cell = serde_json::from_value(json!({ "metadata": { "name": lock } }))?;
            cells.create(&PostParams::default(), &cell).await?;
        }
        let path = self.path("lock.yaml");
        let lock = json!({ "apiVersion": "leasehold.dev/v1alpha1", "kind": "DistributedLock", "metadata": { "name": LOCKS[0] } });
        fs::write(&path, lock.to_string())?;
        self.namespace.kubectl(&["apply", "-f", &path.to_string_lossy()]).await.map(drop)
    }

    /// A path in the folder of the run.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The Leases, by the administrator.
    pub(super) fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.admin.clone(), self.namespace.name())
    }

    /// Starts a worker, with a history of its own.
    pub(super) fn start_worker(&mut self, number: usize) -> Result<()> {
        let (seed, session, folder) = (self.seed, self.session, self.folder.path().to_owned());
        let place = &mut self.places[number];
        place.processes += 1;
        let name = format!("w{number}-{}", place.processes);
        let path = |what: &str| folder.join(format!("w{number}.{what}"));
        let seed = seed.wrapping_mul(1_000_003) ^ (u64::from(place.processes) << 16 | number as u64);
        let mut program = Program::new(bin("torture-worker")?)
            .named(&name)
            .arg("--history")
            .arg(folder.join(format!("{name}.jsonl")))
            .arg("--folder")
            .arg(&folder)
            .arg("--direct")
            .arg(path("direct"))
            .args(LOCKS.map(|lock| format!("--lock={lock}")))
            .arg(format!("--semaphore={POOL}"))
            .arg(format!("--permits={PERMITS}"))
            .arg(format!("--read-write-lock={SHELF}"))
            .arg(format!("--session={}", session.as_secs()))
            .arg(format!("--seed={seed}"))
            .args((number % 4 == 3).then_some("--own"))
            .env("KUBECONFIG", path("kubeconfig"))
            .env("POD_NAME", format!("w{number}"))
            .env("RUST_LOG", "warn,leasehold=debug")
            .log(folder.join(format!("{name}.log")));
        if let (Some(file), Some(library)) = (&place.clock_file, faketime()) {
            fs::write(file, "+0")?;
            program = program
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", file)
                .env("FAKETIME_CACHE_DURATION", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        place.process = Some(program.start()?);
        Ok(())
    }

    /// Starts the operator.
    pub(super) fn start_operator(&mut self) -> Result<()> {
        self.operator.starts += 1;
        let process = Program::new(bin("leasehold-operator")?)
            .args(["run", "--metrics-addr", "127.0.0.1:0", "--log", "info,leasehold_operator=debug"])
            .args(["--namespace", self.namespace.name()])
            // Each acts as soon as it is there, also when the one before was killed just now.
            .arg("--leader-election=false")
            .env("KUBECONFIG", self.path("operator.kubeconfig"))
            .log(self.path(&format!("operator-{}.log", self.operator.starts)))
            .start()?;
        self.operator.process = Some(process);
        Ok(())
    }

    /// All proxies.
    pub(super) fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.places.iter().map(|place| &place.proxy).chain([&self.operator.proxy])
    }

    /// Sets all proxies.
    pub(super) fn set_all(&self, mode: Mode) {
        self.proxies().for_each(|proxy| proxy.set(mode));
    }

    /// Counts what workers say, and starts again what has ended by itself.
    pub(super) fn tend(&mut self) -> Result<()> {
        for number in 0..self.places.len() {
            let Some(process) = &mut self.places[number].process else { continue };
            self.places[number].got += process.drain_lines().len() as u64;
            let Some(process) = &mut self.places[number].process else { continue };
            if let Some(status) = process.try_wait()? {
                let output = process.output();
                let tail: Vec<&str> = output.lines().rev().take(8).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                self.ended.push(format!("w{number} ended by itself: {status}\n{}", tail.join("\n")));
                self.start_worker(number)?;
            }
        }
        if let Some(process) = &mut self.operator.process
            && process.try_wait()?.is_some()
        {
            let output = process.output();
            if output.contains("panicked at") {
                self.ended.push(format!("the operator panicked:\n{output}"));
            }
            self.operator.ended += 1;
            self.start_operator()?;
        }
        Ok(())
    }

    /// How often each worker's processes got something so far, as they say on the way.
    pub(super) fn got(&self) -> impl Iterator<Item = u64> {
        self.places.iter().map(|place| place.got)
    }

    /// The names of the processes that work now.
    pub(super) fn live(&self) -> Vec<String> {
        self.places.iter().map(|place| format!("w{}-{}", place.number, place.processes)).collect()
    }

    /// Asks all workers to end, and waits until they have.
    pub(super) async fn end_workers(&mut self) -> Result<()> {
        for place in &self.places {
            place.process.as_ref().map_or(Ok(()), |process| process.signal(Signal::TERM))?;
        }
        for place in &mut self.places {
            if let Some(mut process) = place.process.take()
                && let Err(error) = process.wait_success(SOON).await
            {
                self.ended.push(format!("w{} did not end well: {error:#}", place.number));
            }
        }
        Ok(())
    }

    /// What holders, waiters and sessions are still there, and how many tombstones.
    pub(super) async fn remains(&self) -> Result<(Vec<String>, usize)> {
        let (mut remains, mut tombstones) = (Vec::new(), 0);
        for lease in self.leases().list(&ListParams::default()).await? {
            let name = lease.metadata.name.clone().unwrap_or_default();
            if name.starts_with(SESSION_PREFIX) {
                if SessionRecord::parse(lease)?.ended {
                    tombstones += 1;
                } else {
                    remains.push(format!("the session {name}"));
                }
                continue;
            }
            let record = Record::parse(lease)?;
            remains.extend(record.holders().map(|holder| format!("the holder {} of {name}", holder.identity)));
            remains.extend(record.waiters.iter().map(|waiter| format!("the waiter {} for {name}", waiter.id)));
            // What is neither a holder's nor a waiter's is of one who is no more.
            let stray = record.lease.metadata.annotations.iter().flatten().filter(|(key, _)| {
                let id = [WANT, UPGRADE].iter().find_map(|prefix| key.strip_prefix(prefix));
                id.is_some_and(|id| !record.ids().any(|named| named.to_string() == id))
            });
            remains.extend(stray.map(|(key, value)| format!("{key}: {value} on {name}")));
        }
        Ok((remains, tombstones))
    }

    /// What is stored where tokens are compared.
    pub(super) async fn stored(&self) -> Result<BTreeMap<String, Stored>> {
        let cells: Api<ConfigMap> = self.namespace.api();
        let mut stored = BTreeMap::new();
        for lock in FENCED {
            let cell = eventually(SOON, "a cell to be read", async || Ok(cells.get(lock).await?)).await?;
            let data = cell.data.unwrap_or_default();
            let number = |key: &str| data.get(key).map_or(Ok(0), |text| text.parse::<u64>());
            stored.insert(lock.to_owned(), Stored { counter: number("counter")?, token: number("token")? });
        }
        Ok(stored)
    }

    /// What all workers wrote down, by process.
    pub(super) fn histories(&self) -> Result<Vec<History>> {
        let mut histories = Vec::new();
        for place in &self.places {
            for process in 1..=place.processes {
                let worker = format!("w{}-{process}", place.number);
                let path = self.path(&format!("{worker}.jsonl"));
                // One that was killed at once has written nothing.
                if path.exists() {
                    histories.push(History { lines: read(&path)?, worker });
                }
            }
        }
        Ok(histories)
    }
}

/// What the documentation says that a client needs, and its cells.
fn worker_rules() -> Vec<PolicyRule> {
    let rule = |group: &str, resource: &str, names: &[&str], verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: (!names.is_empty()).then(|| names.iter().map(|&name| name.to_owned()).collect()),
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        ..PolicyRule::default()
    };
    vec![
        rule("coordination.k8s.io", "leases", &[], &["get", "watch", "create", "update", "patch", "delete"]),
        rule("", "configmaps", &FENCED, &["get", "update"]),
    ]
}

/// What `config/rbac` gives the operator.
fn shipped_rules() -> Result<Vec<PolicyRule>> {
    let yaml = fs::read_to_string(format!("{ROOT}/config/rbac/operator_role.yaml"))?;
    let role: ClusterRole = serde_yaml_ng::from_str(&yaml)?;
    role.rules.context("the shipped role has no rules")
}

/// The API server's port.
fn upstream(cluster: &Cluster) -> Result<u16> {
    cluster.config().cluster_url.port_u16().context("the API server has no port")
}

/// A kubeconfig that reads its token from a file, by a proxy's port or straight to the API server.
fn write_kubeconfig(
    cluster: &Cluster,
    namespace: &Namespace,
    proxy: Option<u16>,
    token_file: &Path,
    path: &Path,
) -> Result<()> {
    let admin = Kubeconfig::read_from(cluster.kubeconfig_path())?;
    let named = admin.clusters.first().and_then(|named| named.cluster.as_ref()).context("no cluster")?;
    ensure!(named.certificate_authority.is_some(), "the cluster has no authority of its own");
    let server = proxy.map_or_else(|| named.server.clone(), |port| Some(format!("https://127.0.0.1:{port}")));
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "torture",
            "cluster": { "server": server, "certificate-authority": named.certificate_authority },
        }],
        "users": [{ "name": "torture", "user": { "tokenFile": token_file } }],
        "contexts": [{
            "name": "torture",
            "context": { "cluster": "torture", "user": "torture", "namespace": namespace.name() },
        }],
        "current-context": "torture",
    });
    Ok(fs::write(path, kubeconfig.to_string())?)
}

/// The library that puts a process' wall clock off: what `LEASEHOLD_FAKETIME` names, or where Debian has it.
pub(super) fn faketime() -> Option<PathBuf> {
    let named = std::env::var_os("LEASEHOLD_FAKETIME").map(PathBuf::from);
    let usual = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    named.into_iter().chain([usual.into()]).find(|path| path.is_file())
}
