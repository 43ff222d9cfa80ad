//! A control plane as tests see it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, ServiceAccount};
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::{Mutex, OnceCell};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::assets;
use crate::local::{Extras, Local};
use crate::namespace::Namespace;

/// Names the kubeconfig of the cluster to test in.
pub const KUBECONFIG_VARIABLE: &str = "LEASEHOLD_TEST_KUBECONFIG";
/// Set, with any value, where the cluster that [`KUBECONFIG_VARIABLE`] names is
/// thrown away after the tests, so that they need not tidy up in it.
pub const DISPOSABLE_VARIABLE: &str = "LEASEHOLD_TEST_DISPOSABLE";

/// Time for the API server to become ready. It takes three seconds on a quiet
/// machine; a busy one may be many times slower.
const READY: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(25);

/// A Kubernetes control plane: etcd, API server and the controllers that a
/// cluster without nodes can use. Pods can be created in it; nothing runs them.
///
/// A cheap handle; what it stands for ends with the last clone of it. The
/// processes and files of a cluster that this process started are gone when
/// this process is, even if it was killed.
#[derive(Debug, Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    kubeconfig: Kubeconfig,
    kubeconfig_path: PathBuf,
    config: Config,
    disposable: bool,
    /// `None` where somebody else runs the cluster.
    local: Option<Mutex<Local>>,
}

impl Cluster {
    /// The cluster of this process: the first call does what
    /// [`named_or_start`](Self::named_or_start) does, the others return the same.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::named_or_start).await
    }

    /// The cluster whose kubeconfig `LEASEHOLD_TEST_KUBECONFIG` names, or a new
    /// one where it names none.
    pub async fn named_or_start() -> Result<Self> {
        match env::var_os(KUBECONFIG_VARIABLE) {
            Some(path) if !path.is_empty() => Self::from_kubeconfig(Path::new(&path)).await,
            _ => Self::start().await,
        }
    }

    /// The cluster of the current context of a kubeconfig; who uses it there
    /// has to be its administrator.
    pub async fn from_kubeconfig(path: &Path) -> Result<Self> {
        let kubeconfig =
            Kubeconfig::read_from(path).with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
        let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default())
            .await
            .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?;
        let cluster = Self {
            inner: Arc::new(Inner {
                kubeconfig,
                kubeconfig_path: fs::canonicalize(path)?,
                config,
                disposable: env::var_os(DISPOSABLE_VARIABLE).is_some(),
                local: None,
            }),
        };
        let client = cluster.client()?;
        timeout(Duration::from_secs(10), client.apiserver_version())
            .await
            .map_err(|_| anyhow!("no answer in ten seconds"))
            .and_then(|answer| Ok(answer?))
            .with_context(|| format!("cannot reach the cluster of {}", path.display()))?;
        Ok(cluster)
    }

    /// Starts a cluster of one's own, for instance to stop its API server.
    ///
    /// Builds the binaries first where needed, which takes minutes, and
    /// returns when the API server is ready. Takes its binaries from
    /// `KUBEBUILDER_ASSETS` if that is set.
    pub async fn start() -> Result<Self> {
        Self::start_own(Extras::default()).await
    }

    /// The same, and its API server writes down what service accounts ask of
    /// it, see [`audit_log`](Self::audit_log).
    pub async fn start_audited() -> Result<Self> {
        Self::start_own(Extras { audited: true, ..Extras::default() }).await
    }

    /// The same as [`start`](Self::start), and its API server tells at
    /// `/debug/pprof` where its time goes.
    pub async fn start_profiled() -> Result<Self> {
        Self::start_own(Extras { profiled: true, ..Extras::default() }).await
    }

    async fn start_own(extras: Extras) -> Result<Self> {
        let token = format!("{:032x}", rand::random::<u128>());
        let local = {
            let token = token.clone();
            spawn_blocking(move || Local::start(&token, extras)).await??
        };
        let kubeconfig_path = local.kubeconfig();
        let kubeconfig = kubeconfig_for(&local.url(), local.authority(), &token)?;
        write_kubeconfig(&kubeconfig, &kubeconfig_path)?;
        let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await?;
        let cluster = Self {
            inner: Arc::new(Inner {
                kubeconfig,
                kubeconfig_path,
                config,
                disposable: true,
                local: Some(Mutex::new(local)),
            }),
        };
        let mut local = cluster.local()?.lock().await;
        local.start_controllers()?;
        cluster.wait_ready(&mut local).await?;
        if local.has_controllers() {
            cluster.wait_controllers(&mut local).await?;
        }
        drop(local);
        Ok(cluster)
    }

    /// A client of the administrator. Each call makes a new one with its own
    /// connections: a client belongs to the runtime that it was made in, and
    /// each test has a runtime of its own.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::try_from(self.config())?)
    }

    /// The administrator's configuration.
    #[must_use]
    pub fn config(&self) -> Config {
        self.inner.config.clone()
    }

    /// The administrator's kubeconfig, as a file.
    #[must_use]
    pub fn kubeconfig_path(&self) -> &Path {
        &self.inner.kubeconfig_path
    }

    pub(crate) fn kubeconfig(&self) -> &Kubeconfig {
        &self.inner.kubeconfig
    }

    /// Whether nobody minds what is left in it.
    pub(crate) fn is_disposable(&self) -> bool {
        self.inner.disposable
    }

    /// A new namespace with a unique name that starts with `prefix`. Its
    /// default service account is there.
    ///
    /// It is deleted on drop if this cluster outlives the tests. It stays in
    /// one that they throw away anyway, and where a test panics.
    pub async fn namespace(&self, prefix: &str) -> Result<Namespace> {
        let client = self.client()?;
        let object: NamespaceObject = serde_json::from_value(json!({
            "metadata": {
                "generateName": format!("{prefix}-"),
                "labels": { "app.kubernetes.io/managed-by": "leasehold-testkit" },
            },
        }))?;
        let created = Api::<NamespaceObject>::all(client.clone())
            .create(&PostParams::default(), &object)
            .await
            .context("cannot create a namespace")?;
        let namespace = Namespace::new(self.clone(), client, created)?;
        namespace.ensure_default_account().await?;
        Ok(namespace)
    }

    /// The path of a kubectl that fits this cluster.
    pub async fn kubectl_path(&self) -> Result<PathBuf> {
        spawn_blocking(assets::find_kubectl).await?
    }

    /// Runs kubectl as the administrator and returns what it wrote to standard
    /// output.
    ///
    /// # Errors
    ///
    /// Where it fails; the error has what it wrote to standard error.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = tokio::process::Command::new(self.kubectl_path().await?)
            .arg("--kubeconfig")
            .arg(self.kubeconfig_path())
            .args(args)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot run kubectl")?;
        ensure!(
            output.status.success(),
            "kubectl {}: {}\n{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The logs of the control plane's processes; none where somebody else
    /// runs it.
    pub async fn log_files(&self) -> Vec<PathBuf> {
        match &self.inner.local {
            Some(local) => local.lock().await.logs(),
            None => Vec::new(),
        }
    }

    /// Where the API server of an audited cluster writes a line of JSON (an
    /// `Event` of `audit.k8s.io/v1`) for each request of a service account that
    /// has come to its end.
    pub async fn audit_log(&self) -> Result<PathBuf> {
        self.local()?.lock().await.audit_log().context("this cluster was not started with start_audited")
    }

    /// The processes of etcd and of the API server, in this order.
    ///
    /// # Errors
    ///
    /// Where one of them does not run, and where somebody else runs the cluster.
    pub async fn server_ids(&self) -> Result<(u32, u32)> {
        let (etcd, apiserver) = self.local()?.lock().await.process_ids();
        Ok((etcd.context("etcd is not running")?, apiserver.context("the API server is not running")?))
    }

    /// The Unix socket at which etcd listens for clients, and tells its metrics.
    ///
    /// # Errors
    ///
    /// Where somebody else runs the cluster.
    pub async fn etcd_socket(&self) -> Result<PathBuf> {
        Ok(self.local()?.lock().await.etcd_socket())
    }

    /// What service accounts have asked of the API server so far, each as an
    /// `Event` of `audit.k8s.io`. A request is there soon after its answer.
    ///
    /// # Errors
    ///
    /// Where the cluster was not started by [`start_audited`](Self::start_audited).
    pub async fn audit_events(&self) -> Result<Vec<serde_json::Value>> {
        let text = fs::read_to_string(self.audit_log().await?)?;
        // The last line may be half written.
        let (lines, _) = text.rsplit_once('\n').unwrap_or_default();
        lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Stops the API server in an orderly way; connections to it are refused
    /// until [`start_apiserver`](Self::start_apiserver).
    ///
    /// # Errors
    ///
    /// Like all the methods that touch processes: where it is not running, and
    /// where this process did not start the cluster.
    pub async fn stop_apiserver(&self) -> Result<()> {
        self.local()?.lock().await.stop_apiserver(false).await
    }

    /// Kills the API server with SIGKILL.
    pub async fn kill_apiserver(&self) -> Result<()> {
        self.local()?.lock().await.stop_apiserver(true).await
    }

    /// Starts the API server again, with the port and the data that it had,
    /// and returns when it is ready.
    pub async fn start_apiserver(&self) -> Result<()> {
        let mut local = self.local()?.lock().await;
        local.start_apiserver()?;
        self.wait_ready(&mut local).await
    }

    /// Sends the API server a signal, for instance [`Signal::STOP`]: it then
    /// takes connections and answers nothing until [`Signal::CONT`].
    pub async fn signal_apiserver(&self, signal: Signal) -> Result<()> {
        self.local()?.lock().await.signal_apiserver(signal)
    }

    /// Kills etcd with SIGKILL. The API server runs on, and can neither read nor write.
    pub async fn kill_etcd(&self) -> Result<()> {
        self.local()?.lock().await.kill_etcd()
    }

    /// Starts etcd again, with the data that it had, and returns when the API
    /// server is ready, if that is running.
    pub async fn start_etcd(&self) -> Result<()> {
        let mut local = self.local()?.lock().await;
        local.start_etcd()?;
        if local.has_apiserver() { self.wait_ready(&mut local).await } else { Ok(()) }
    }

    /// The key that signs tokens of service accounts, as PEM.
    pub(crate) async fn account_key(&self) -> Result<String> {
        let path = self.local()?.lock().await.account_key().to_owned();
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn local(&self) -> Result<&Mutex<Local>> {
        self.inner
            .local
            .as_ref()
            .context("this process did not start this cluster; use Cluster::start for one of its own")
    }

    async fn wait_ready(&self, local: &mut Local) -> Result<()> {
        let client = self.client()?;
        let ready = timeout(READY, async {
            loop {
                local.check()?;
                let request = http_get("/readyz")?;
                if client.request_text(request).await.is_ok() {
                    return anyhow::Ok(());
                }
                sleep(POLL).await;
            }
        });
        match ready.await {
            Ok(result) => result,
            Err(_) => bail!("the API server is not ready after {READY:?}; {}", local.apiserver_log_tail()),
        }
    }

    /// Until the service account controller has been at work.
    async fn wait_controllers(&self, local: &mut Local) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client()?, "default");
        let working = timeout(READY, async {
            loop {
                local.check()?;
                let listed = accounts.list(&ListParams::default()).await;
                if listed.is_ok_and(|list| !list.items.is_empty()) {
                    return anyhow::Ok(());
                }
                sleep(POLL).await;
            }
        });
        match working.await {
            Ok(result) => result,
            Err(_) => bail!("the controllers do nothing after {READY:?}"),
        }
    }
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get(path).body(Vec::new())?)
}

/// A kubeconfig with one cluster and one user.
fn kubeconfig_for(url: &str, authority: &Path, token: &str) -> Result<Kubeconfig> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "leasehold-test",
            "cluster": { "server": url, "certificate-authority": authority },
        }],
        "users": [{ "name": "admin", "user": { "token": token } }],
        "contexts": [{
            "name": "leasehold-test",
            "context": { "cluster": "leasehold-test", "user": "admin" },
        }],
        "current-context": "leasehold-test",
    }))?)
}

/// Writes a kubeconfig that only this user can read.
pub(crate) fn write_kubeconfig(kubeconfig: &Kubeconfig, path: &Path) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(serde_yaml_ng::to_string(kubeconfig)?.as_bytes())?;
    Ok(())
}
