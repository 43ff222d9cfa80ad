//! An operator as a process of its own, and what it costs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use leasehold::clock;
use leasehold::protocol::Moment;
use leasehold_testkit::{Account, Process, Program, bin, eventually};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::usage;

pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// How long anything is waited for.
pub(crate) const SOON: Duration = Duration::from_mins(15);

/// A running operator.
pub(crate) struct Operator {
    pub(crate) process: Process,
    pub(crate) started: Moment,
    address: String,
    folder: TempDir,
}

impl Operator {
    pub(crate) async fn start(account: &Account, name: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        account.write_kubeconfig(&kubeconfig)?;
        let started = clock::moment();
        let process = Program::new(bin("leasehold-operator")?)
            .args([
                "run",
                "--metrics-addr",
                "127.0.0.1:0",
                "--log",
                "warn,leasehold_operator::run=info",
                "--name",
                name,
            ])
            .env("KUBECONFIG", kubeconfig)
            .log(folder.path().join("log"))
            .start()?;
        let mut operator = Self { process, started, address: String::new(), folder };
        operator.address = eventually(SOON, "the operator to serve", async || {
            let output = operator.process.output();
            let (_, rest) = output.split_once("address=").with_context(|| output.clone())?;
            Ok(rest.split_whitespace().next().unwrap_or_default().to_owned())
        })
        .await?;
        Ok(operator)
    }

    /// How long after its start it was ready.
    pub(crate) async fn ready(&self) -> Result<Duration> {
        eventually(SOON, "the operator to be ready", async || {
            let answer = self.get("/readyz").await?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}\n{}", self.process.output());
            Ok(clock::moment().since(self.started))
        })
        .await
    }

    async fn get(&self, path: &str) -> Result<String> {
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

    /// Waits until a metric is at least so large.
    pub(crate) async fn reaches(&self, name: &str, value: u64) -> Result<()> {
        eventually(SOON, name, async || {
            let now = self.metric(name).await?;
            ensure!(now >= value, "{name} is {now}");
            Ok(())
        })
        .await
    }

    /// How much of it is in memory, now and at most so far, in bytes.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        usage::memory(self.process.id())
    }

    /// How many seconds of a processor it has used.
    pub(crate) fn cpu(&self) -> Result<f64> {
        usage::cpu(self.process.id())
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

/// What `config/rbac` gives the operator.
pub(crate) fn shipped_rules() -> Result<Vec<PolicyRule>> {
    let mut rules = Vec::new();
    for file in ["operator_role.yaml", "leader_election_role.yaml"] {
        let yaml = fs::read_to_string(Path::new(ROOT).join("config/rbac").join(file))?;
        for document in yaml.split("\n---") {
            let role: Result<ClusterRole, _> = serde_yaml_ng::from_str(document);
            rules.extend(role.ok().and_then(|role| role.rules).into_iter().flatten());
        }
    }
    ensure!(!rules.is_empty(), "the shipped roles have no rules");
    Ok(rules)
}

/// What the API server has written down of the operators' requests since the last look.
pub(crate) struct Audit {
    log: PathBuf,
    offset: u64,
}

/// Requests by verb and resource, as in `patch distributedlocks/status`, and whether they were carried out.
pub(crate) type Requests = BTreeMap<(String, bool), u64>;

impl Audit {
    pub(crate) fn new(log: PathBuf) -> Self {
        Self { log, offset: 0 }
    }

    pub(crate) fn take(&mut self) -> Result<Requests> {
        let mut file = fs::File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.offset += u64::try_from(whole)?;
        let mut requests = Requests::new();
        for line in text[..whole].lines() {
            let event: Value = serde_json::from_str(line)?;
            let word = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let mut what = format!("{} {}", word("/verb"), word("/objectRef/resource"));
            if let Some(sub) = event.pointer("/objectRef/subresource").and_then(Value::as_str) {
                what = format!("{what}/{sub}");
            }
            let ok = event.pointer("/responseStatus/code").and_then(Value::as_u64).is_some_and(|code| code < 300);
            *requests.entry((what, ok)).or_default() += 1;
        }
        Ok(requests)
    }
}

pub(crate) fn all(requests: &Requests) -> u64 {
    requests.values().sum()
}

/// How many were of this verb and on such resources, carried out or not.
pub(crate) fn count(requests: &Requests, verb: &str, resource: impl Fn(&str) -> bool) -> u64 {
    let of = |what: &str| what.split_once(' ').is_some_and(|(is, of)| is == verb && resource(of));
    requests.iter().filter(|((what, _), _)| of(what)).map(|(_, count)| count).sum()
}

pub(crate) fn status_writes(requests: &Requests) -> u64 {
    count(requests, "patch", |resource| resource.ends_with("/status"))
}

pub(crate) fn writes(requests: &Requests) -> u64 {
    ["create", "update", "patch", "delete"].iter().map(|verb| count(requests, verb, |_| true)).sum()
}
