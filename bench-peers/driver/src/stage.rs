//! The servers that keep the locks, and who is known to them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use leasehold_testkit::{Account, Cluster, Namespace, eventually};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::audit::Audit;
use crate::contestants::{Contestant, Family, Lasts};
use crate::peer::{Peer, SOON, Start};

/// One control plane and as many Redis as there are places for it.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) audit: Audit,
    folder: TempDir,
    programs: PathBuf,
    /// None where it is not installed.
    redis: Option<String>,
    places: BTreeMap<String, Place>,
}

/// Where a contestant's locks are, and by which identity they are asked for.
struct Place {
    /// Of the API server.
    kubernetes: Option<(Namespace, Account, PathBuf)>,
    redis: Option<Redis>,
}

/// Which of a contestant's places: what is done in each counts by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Main,
    /// Where nobody has anything to do, and everybody's lease lasts equally long.
    Equal,
    /// Where holders crash, and waiters sleep.
    Aside,
}

struct Redis {
    socket: PathBuf,
    _server: Child,
}

impl Stage {
    pub(crate) async fn build(programs: &Path) -> Result<Self> {
        for name in ["peer", "peer-go"] {
            ensure!(programs.join(name).is_file(), "there is no {name} in {}", programs.display());
        }
        let cluster = Cluster::start_audited().await?;
        let audit = Audit::new(&cluster.audit_log().await?)?;
        let redis = Command::new("redis-server").arg("--version").output().await;
        let redis = redis.ok().filter(|output| output.status.success());
        let redis = redis.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        let folder = tempfile::Builder::new().prefix("peers-").tempdir()?;
        Ok(Self { cluster, audit, folder, programs: programs.to_owned(), redis, places: BTreeMap::new() })
    }

    /// What Redis says that it is.
    pub(crate) fn redis(&self) -> Option<&str> {
        self.redis.as_deref()
    }

    pub(crate) fn can(&self, contestant: &Contestant) -> bool {
        contestant.family != Family::Redis || self.redis.is_some()
    }

    /// Prepares the places of one contestant.
    pub(crate) async fn prepare(&mut self, contestant: &Contestant) -> Result<()> {
        for at in [At::Main, At::Equal, At::Aside] {
            let name = place_name(contestant, at);
            if self.places.contains_key(&name) {
                continue;
            }
            let place = match contestant.family {
                Family::Floor | Family::Kubernetes => {
                    Place { kubernetes: Some(self.account(&name).await?), redis: None }
                }
                Family::Etcd => Place { kubernetes: None, redis: None },
                Family::Redis => Place { kubernetes: None, redis: Some(self.start_redis(&name).await?) },
            };
            self.places.insert(name, place);
        }
        Ok(())
    }

    async fn account(&self, name: &str) -> Result<(Namespace, Account, PathBuf)> {
        let namespace = self.cluster.namespace(name).await?;
        let rule = PolicyRule {
            api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
            resources: Some(vec!["leases".to_owned()]),
            verbs: vec!["*".to_owned()],
            ..PolicyRule::default()
        };
        let account = namespace.service_account("bench", vec![rule]).await?;
        let kubeconfig = self.folder.path().join(format!("{name}.kubeconfig"));
        account.write_kubeconfig(&kubeconfig)?;
        Ok((namespace, account, kubeconfig))
    }

    async fn start_redis(&self, name: &str) -> Result<Redis> {
        let socket = self.folder.path().join(format!("{name}.sock"));
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        eventually(SOON, "Redis to answer", async || redis_commands(&socket).await.map(drop)).await?;
        Ok(Redis { socket, _server: server })
    }

    fn place(&self, contestant: &Contestant, at: At) -> Result<&Place> {
        self.places.get(&place_name(contestant, at)).context("a place")
    }

    /// A contestant's process, with leases as it has them by itself or as long as everybody's.
    pub(crate) async fn peer(&self, contestant: &Contestant, at: At, lease: Lasts) -> Result<Peer> {
        let place = self.place(contestant, at)?;
        let mut arguments: Vec<String> = contestant.arguments(lease).iter().map(|&word| word.to_owned()).collect();
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        if let Some((namespace, _, kubeconfig)) = &place.kubernetes {
            add("--kubeconfig", kubeconfig.display().to_string());
            add("--namespace", namespace.name().to_owned());
        }
        match contestant.family {
            Family::Etcd => add("--endpoint", format!("unix://{}", self.etcd_socket()?.display())),
            Family::Redis => {
                let redis = place.redis.as_ref().context("a Redis")?;
                add("--endpoint", format!("redis+unix://{}", redis.socket.display()));
            }
            Family::Floor | Family::Kubernetes => {}
        }
        let program = self.programs.join(if contestant.go { "peer-go" } else { "peer" });
        Peer::start(&Start { program, arguments }).await
    }

    /// Makes a Lease for those that need one, free as the operator makes them.
    pub(crate) async fn lease(&self, contestant: &Contestant, at: At, name: &str) -> Result<()> {
        if let (true, Some((namespace, ..))) = (contestant.needs_lease, &self.place(contestant, at)?.kubernetes) {
            let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(LeaseSpec::default()) };
            namespace.api::<Lease>().create(&PostParams::default(), &lease).await?;
        }
        Ok(())
    }

    /// As whom a contestant is known to the API server.
    pub(crate) fn user(&self, contestant: &Contestant, at: At) -> Result<Option<String>> {
        Ok(self.place(contestant, at)?.kubernetes.as_ref().map(|(_, account, _)| account.username()))
    }

    /// How many commands a contestant's Redis has been sent so far.
    pub(crate) async fn redis_commands(&self, contestant: &Contestant, at: At) -> Result<Option<u64>> {
        match &self.place(contestant, at)?.redis {
            Some(redis) => Ok(Some(redis_commands(&redis.socket).await?)),
            None => Ok(None),
        }
    }

    fn etcd_socket(&self) -> Result<PathBuf> {
        let folder = self.cluster.kubeconfig_path().parent().context("a folder")?;
        Ok(folder.join("etcd.sock"))
    }

    /// How many messages etcd has been sent so far, by anybody.
    pub(crate) async fn etcd_messages(&self) -> Result<u64> {
        Ok(sum(&self.etcd_metrics().await?, "grpc_server_msg_received_total{"))
    }

    pub(crate) async fn etcd_version(&self) -> Result<String> {
        let metrics = self.etcd_metrics().await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix("etcd_server_version{server_version=\""));
        Ok(line.and_then(|line| line.split('"').next()).context("a version")?.to_owned())
    }

    async fn etcd_metrics(&self) -> Result<String> {
        let request = b"GET /metrics HTTP/1.0\r\nHost: etcd\r\n\r\n";
        exchange(&self.etcd_socket()?, request, |_| false).await
    }
}

fn place_name(contestant: &Contestant, at: At) -> String {
    let which = match at {
        At::Main => "",
        At::Equal => "-equal",
        At::Aside => "-aside",
    };
    format!("{}{which}", contestant.id)
}

/// What clients send. A script's own commands are counted by Redis as well, and are left out.
async fn redis_commands(socket: &Path) -> Result<u64> {
    // A bulk string: its length, and then so many bytes.
    let whole = |answer: &str| {
        let head = answer.strip_prefix('$').and_then(|rest| rest.split_once("\r\n"));
        head.is_some_and(|(length, rest)| length.parse().is_ok_and(|length: usize| rest.len() >= length))
    };
    let answer = exchange(socket, b"INFO commandstats\r\n", whole).await?;
    let calls = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let sent = ["set", "eval", "evalsha", "script|load"].contains(&name);
        if sent { rest.split(',').next()?.parse::<u64>().ok() } else { None }
    };
    Ok(answer.lines().filter_map(calls).sum())
}

/// Sends a request to a socket, and reads until it is closed or enough is there.
async fn exchange(socket: &Path, request: &[u8], enough: impl Fn(&str) -> bool) -> Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(request).await?;
    let (mut answer, mut part) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut part)).await??;
        answer.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&answer);
        if read == 0 || enough(&text) {
            if text.is_empty() {
                bail!("no answer from {}", socket.display());
            }
            return Ok(text.into_owned());
        }
    }
}

/// All values of a metric.
fn sum(metrics: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse::<f64>().ok();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters are whole and not negative")]
    let whole = |value: f64| value as u64;
    metrics.lines().filter_map(value).map(whole).sum()
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn values_of_all_labels_are_summed() {
        let metrics = "# HELP a b\na{x=\"1\"} 2\na{x=\"2\"} 1.2e+06\nab{x=\"1\"} 5\n";
        assert_eq!(sum(metrics, "a{"), 1_200_002);
    }
}
