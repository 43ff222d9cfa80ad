//! A control plane of this process' own: etcd, API server and controllers.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::assets::Assets;
use crate::certs::Certs;
use crate::spawn::{Watchdog, spawn};

/// Time for a process to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);
/// How often the controllers are started again at most.
const RESTARTS: u32 = 20;
/// The longest path that a Unix socket can have, less the socket's own name.
const LONGEST_FOLDER: usize = 90;

/// The controllers that a cluster without nodes can use.
const CONTROLLERS: &str = "\
garbage-collector-controller,\
horizontal-pod-autoscaler-controller,\
namespace-controller,\
serviceaccount-controller,\
root-ca-certificate-publisher-controller,\
clusterrole-aggregation-controller,\
validatingadmissionpolicy-status-controller";

/// What the API server writes down: one line of JSON for each request of a service account that has come to its end.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
  userGroups: [\"system:serviceaccounts\"]
- level: None
";
const AUDIT_LOG: &str = "audit.log";
const ETCD_SOCKET: &str = "etcd.sock";

/// What the API server does beside its work.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras {
    /// It writes down what service accounts ask of it.
    pub(crate) audited: bool,
    /// It tells where its time goes.
    pub(crate) profiled: bool,
}

/// One process of the control plane; dropping it kills it.
#[derive(Debug)]
struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Server {
    fn start(name: &'static str, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Not to be hit by a Ctrl-C that is meant for this process.
            .process_group(0);
        let child = spawn(command).with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, log })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Asks it to end, kills it if it does not.
    async fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        // It may have been paused.
        self.signal(Signal::CONT)?;
        let status = timeout(GRACE, async {
            loop {
                if let Some(status) = self.child.try_wait()? {
                    return anyhow::Ok(status);
                }
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        status.unwrap_or_else(|_| {
            self.child.kill()?;
            Ok(self.child.wait()?)
        })
    }

    /// An error with the end of its log if it has ended.
    fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}):\n{}", self.name, log_tail(&self.log));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log, cut to a readable width.
fn log_tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(20)..];
    let mut out = format!("the end of {}:\n", path.display());
    for line in tail {
        out.extend(line.chars().take(300));
        out.push('\n');
    }
    out
}

/// A port of 127.0.0.1 that stays this cluster's also while its API server is
/// down: a socket is bound to it that never listens, and the API server binds
/// beside it (`--permit-port-sharing`). Nobody can take it in between, and a
/// connection is refused while no API server runs.
#[derive(Debug)]
struct Port {
    number: u16,
    _bound: OwnedFd,
}

impl Port {
    fn reserve() -> Result<Self> {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let address = SocketAddr::try_from(getsockname(&socket)?)?;
        Ok(Self { number: address.port(), _bound: socket })
    }
}

/// The processes and files of one control plane. Fields are dropped in this
/// order: processes, folder, watchdog.
#[derive(Debug)]
pub(crate) struct Local {
    controllers: Option<Server>,
    restarts: u32,
    apiserver: Option<Server>,
    etcd: Option<Server>,
    assets: Assets,
    certs: Certs,
    port: Port,
    extras: Extras,
    folder: TempDir,
    _watchdog: Watchdog,
}

impl Local {
    /// Starts etcd and the API server; whoever called waits until it is ready.
    /// Blocks, for minutes where the binaries are not built yet.
    pub(crate) fn start(token: &str, extras: Extras) -> Result<Self> {
        let assets = Assets::find()?;
        let folder = temporary_folder()?;
        let watchdog = Watchdog::over(folder.path()).context("cannot start a watchdog")?;
        let certs = Certs::create(folder.path())?;
        fs::write(
            folder.path().join("tokens.csv"),
            format!("{token},leasehold-test-admin,leasehold-test-admin,\"system:masters\"\n"),
        )?;
        if extras.audited {
            fs::write(folder.path().join("audit.yaml"), AUDIT_POLICY)?;
        }
        let etcd = Server::start("etcd", etcd_command(&assets, folder.path()), folder.path())?;
        let mut local = Self {
            controllers: None,
            restarts: 0,
            apiserver: None,
            etcd: Some(etcd),
            assets,
            certs,
            port: Port::reserve()?,
            extras,
            folder,
            _watchdog: watchdog,
        };
        local.start_apiserver()?;
        Ok(local)
    }

    /// Where the administrator's kubeconfig belongs.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port.number)
    }

    pub(crate) fn authority(&self) -> &Path {
        &self.certs.ca
    }

    /// The logs of its processes, the most telling one first.
    pub(crate) fn logs(&self) -> Vec<PathBuf> {
        ["kube-apiserver", "kube-controller-manager", "etcd"]
            .iter()
            .map(|name| self.folder.path().join(format!("{name}.log")))
            .filter(|path| path.exists())
            .collect()
    }

    /// Where the API server writes down what service accounts ask of it.
    pub(crate) fn audit_log(&self) -> Option<PathBuf> {
        self.extras.audited.then(|| self.folder.path().join(AUDIT_LOG))
    }

    /// The processes of etcd and of the API server, where they run.
    pub(crate) fn process_ids(&self) -> (Option<u32>, Option<u32>) {
        let id = |server: &Option<Server>| server.as_ref().map(|server| server.child.id());
        (id(&self.etcd), id(&self.apiserver))
    }

    /// Where etcd listens for clients.
    pub(crate) fn etcd_socket(&self) -> PathBuf {
        self.folder.path().join(ETCD_SOCKET)
    }

    /// Starts the API server, on the same port and data as before.
    pub(crate) fn start_apiserver(&mut self) -> Result<()> {
        if self.apiserver.is_some() {
            bail!("the API server is running already");
        }
        let folder = self.folder.path();
        let in_folder = |option: &str, name: &str| format!("--{option}={}", folder.join(name).display());
        let path = |option: &str, path: &Path| format!("--{option}={}", path.display());
        let mut command = Command::new(&self.assets.apiserver);
        command
            .arg(format!("--etcd-servers=unix://{}", folder.join(ETCD_SOCKET).display()))
            .arg("--bind-address=127.0.0.1")
            .arg(format!("--secure-port={}", self.port.number))
            .arg("--permit-port-sharing=true")
            .arg(in_folder("cert-dir", "certs"))
            .arg(path("tls-cert-file", &self.certs.server))
            .arg(path("tls-private-key-file", &self.certs.server_key))
            .arg(in_folder("token-auth-file", "tokens.csv"))
            .arg("--authorization-mode=RBAC")
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(path("service-account-signing-key-file", &self.certs.account_key))
            .arg(path("service-account-key-file", &self.certs.account_public_key))
            .arg("--service-cluster-ip-range=10.0.0.0/24")
            // There is no node and no service to route to.
            .arg("--endpoint-reconciler-type=none")
            // An orderly stop ends watches instead of waiting for them.
            .arg("--shutdown-watch-termination-grace-period=2s")
            .arg(format!("--profiling={}", self.extras.profiled));
        if self.extras.audited {
            command.arg(in_folder("audit-policy-file", "audit.yaml")).arg(in_folder("audit-log-path", AUDIT_LOG));
        }
        self.apiserver = Some(Server::start("kube-apiserver", command, folder)?);
        Ok(())
    }

    /// Starts the controllers, which log in with the kubeconfig in the folder.
    pub(crate) fn start_controllers(&mut self) -> Result<()> {
        let Some(program) = &self.assets.controller_manager else {
            return Ok(());
        };
        let mut command = Command::new(program);
        command
            .arg(format!("--kubeconfig={}", self.kubeconfig().display()))
            .arg(format!("--root-ca-file={}", self.certs.ca.display()))
            .arg(format!("--controllers={CONTROLLERS}"))
            .args(["--leader-elect=false", "--secure-port=0", "--profiling=false"])
            .arg("--horizontal-pod-autoscaler-sync-period=1s")
            .args(["--kube-api-qps=200", "--kube-api-burst=400"]);
        self.controllers = Some(Server::start("kube-controller-manager", command, self.folder.path())?);
        Ok(())
    }

    pub(crate) fn has_controllers(&self) -> bool {
        self.controllers.is_some()
    }

    pub(crate) fn has_apiserver(&self) -> bool {
        self.apiserver.is_some()
    }

    /// Stops the API server, with SIGKILL if `at_once`.
    pub(crate) async fn stop_apiserver(&mut self, at_once: bool) -> Result<()> {
        let server = self.apiserver.take().context("the API server is not running")?;
        if !at_once {
            server.stop().await?;
        }
        Ok(())
    }

    /// Kills etcd with SIGKILL.
    pub(crate) fn kill_etcd(&mut self) -> Result<()> {
        self.etcd.take().map(drop).context("etcd is not running")
    }

    /// Starts etcd again, on the same data as before.
    pub(crate) fn start_etcd(&mut self) -> Result<()> {
        if self.etcd.is_some() {
            bail!("etcd is running already");
        }
        let folder = self.folder.path();
        // One that was killed leaves its sockets behind, and they are in the way of the next one.
        for socket in [ETCD_SOCKET, "peer.sock"] {
            let _ = fs::remove_file(folder.join(socket));
        }
        self.etcd = Some(Server::start("etcd", etcd_command(&self.assets, folder), folder)?);
        Ok(())
    }

    /// The key that signs tokens of service accounts.
    pub(crate) fn account_key(&self) -> &Path {
        &self.certs.account_key
    }

    pub(crate) fn signal_apiserver(&self, signal: Signal) -> Result<()> {
        self.apiserver.as_ref().context("the API server is not running")?.signal(signal)
    }

    /// An error if etcd or the API server has ended though it should run.
    ///
    /// The controllers are started again instead: while they start they give up
    /// where the API server is slow (ten seconds) or goes away.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(etcd) = &mut self.etcd {
            etcd.check()?;
        }
        if let Some(server) = &mut self.apiserver {
            server.check()?;
        }
        if let Some(server) = &mut self.controllers
            && let Err(error) = server.check()
        {
            ensure!(self.restarts < RESTARTS, error);
            self.restarts += 1;
            self.start_controllers()?;
        }
        Ok(())
    }

    /// The end of the API server's log.
    pub(crate) fn apiserver_log_tail(&self) -> String {
        log_tail(&self.folder.path().join("kube-apiserver.log"))
    }
}

/// A folder whose path leaves room for a socket's name.
fn temporary_folder() -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("leasehold-");
    let folder = builder.tempdir().context("cannot make a temporary folder")?;
    if folder.path().as_os_str().len() <= LONGEST_FOLDER {
        return Ok(folder);
    }
    builder.tempdir_in("/tmp").context("cannot make a folder in /tmp")
}

/// Clients and peers are on sockets in the folder: no port, and nobody else's
/// business. The addresses that etcd would announce to other members have to be
/// well-formed, but nobody ever uses them.
fn etcd_command(assets: &Assets, folder: &Path) -> Command {
    let socket = |name: &str| format!("unix://{}", folder.join(name).display());
    let mut command = Command::new(&assets.etcd);
    command
        .args(["--unsafe-no-fsync", "--log-level=warn"])
        .arg(format!("--data-dir={}", folder.join("etcd").display()))
        .arg(format!("--listen-client-urls={}", socket(ETCD_SOCKET)))
        .arg("--advertise-client-urls=http://127.0.0.1:2379")
        .arg(format!("--listen-peer-urls={}", socket("peer.sock")));
    command
}
