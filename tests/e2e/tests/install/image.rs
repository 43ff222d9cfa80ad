//! The program of the image, in a root of its own with nothing else in it, as the kubelet would start it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use leasehold_testkit::{Cluster, Program, eventually};
use serde_json::Value;
use tokio::net::UdpSocket;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::support::{ROOT, SOON, SYSTEM, check_log, run};

/// Where the kubelet puts what a pod needs to reach the API server.
const ACCOUNT: &str = "var/run/secrets/kubernetes.io/serviceaccount";
/// What the API server's certificate is for.
const NAME: &str = "kubernetes.default.svc";
const DNS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

fn layout() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), PathBuf::from);
    let layout = target.join("image/test/oci");
    ensure!(layout.is_dir(), "there is no {}; make it with: make test-image", layout.display());
    Ok(layout)
}

/// The bytes of a blob: of the size and the digest that are told.
async fn blob(layout: &Path, told: &Value) -> Result<PathBuf> {
    let digest = told["digest"].as_str().and_then(|text| text.strip_prefix("sha256:")).context("a digest")?;
    let path = layout.join("blobs/sha256").join(digest);
    let sum = run(Command::new("sha256sum").arg(&path)).await?;
    ensure!(sum.starts_with(digest), "{sum}");
    assert_eq!(told["size"], fs::metadata(&path)?.len());
    Ok(path)
}

async fn read(layout: &Path, told: &Value) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(blob(layout, told).await?)?)?)
}

/// Answers every question for the name with 127.0.0.1, and counts them.
async fn name_server() -> Result<(JoinHandle<()>, Arc<AtomicUsize>)> {
    let socket = UdpSocket::bind((DNS, 53)).await?;
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    let answering = tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((size, from)) = socket.recv_from(&mut question).await {
            // The head, the name as labels that end with an empty one, type and class.
            let Some(labels) = question[12..size].iter().position(|byte| *byte == 0) else { continue };
            let end = 12 + labels + 5;
            let address = question[end - 4..end - 2] == [0, 1];
            let mut answer = question[..end].to_vec();
            // An answer; recursion is available; one question, one address or none, nothing else.
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, address.into(), 0, 0, 0, 0]);
            if address {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
            }
            count.fetch_add(1, Ordering::Relaxed);
            let _ = socket.send_to(&answer, from).await;
        }
    });
    Ok((answering, asked))
}

/// With the devices that every container has, and then into the root: where this process is root, as the image's user. The right
/// to chroot goes along, and the kernel's promise to end it with this process.
const ENTER: &str = r#"
root=$1 user=$2 group=$3
shift 3
mount --bind /dev "$root/dev" || exit
if [ "$user" = own ]; then exec chroot "$root" "$@"; fi
exec setpriv --reuid "$user" --regid "$group" --clear-groups --inh-caps +sys_chroot --ambient-caps +sys_chroot \
    --pdeathsig KILL chroot "$root" "$@"
"#;

/// A program in this root, and in a namespace of mounts of its own.
fn within(root: &Path, user: &str) -> Program {
    let unshare = Program::new("unshare").args(["--mount", "--propagation", "private"]);
    let (unshare, user) = if rustix::process::geteuid().is_root() {
        (unshare, user)
    } else {
        (unshare.args(["--user", "--map-root-user"]), "own:own")
    };
    let (user, group) = user.split_once(':').unwrap_or((user, user));
    unshare.args(["sh", "-c", ENTER, "sh"]).arg(root).args([user, group])
}

#[tokio::test]
async fn the_images_program_works_where_there_is_nothing_else() -> Result<()> {
    let layout = layout()?;
    let json = |name: &str| anyhow::Ok(serde_json::from_slice::<Value>(&fs::read(layout.join(name))?)?);
    assert_eq!(json("oci-layout")?["imageLayoutVersion"], "1.0.0");
    let manifest = read(&layout, &json("index.json")?["manifests"][0]).await?;
    let config = read(&layout, &manifest["config"]).await?;
    let layers = manifest["layers"].as_array().context("layers")?;
    assert_eq!(layers.len(), 1);
    let layer = blob(&layout, &layers[0]).await?;
    let folder = tempfile::Builder::new().prefix("leasehold-image-").tempdir_in("/tmp")?;
    let root = folder.path().join("root");
    fs::create_dir(&root)?;
    run(Command::new("tar").arg("-xzf").arg(&layer).arg("-C").arg(&root)).await?;
    let found: Vec<_> = fs::read_dir(&root)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    assert_eq!(found, ["leasehold-operator"], "there is more in it");
    let sum = run(Command::new("sh").args(["-c", "gzip -dc \"$1\" | sha256sum", "sh"]).arg(&layer)).await?;
    let diff = config["rootfs"]["diff_ids"][0].as_str().context("a diff id")?;
    ensure!(sum.starts_with(diff.trim_start_matches("sha256:")), "{sum} is not {diff}");

    // The folders have to be open for a user who owns none of them.
    let user = config["config"]["User"].as_str().context("a user")?.to_owned();
    let open = async || run(Command::new("chmod").args(["-R", "a+rX"]).arg(folder.path())).await;
    open().await?;
    let entry = config["config"]["Entrypoint"][0].as_str().context("an entry point")?.to_owned();
    let version = run(Command::new(root.join(entry.trim_start_matches('/'))).arg("--version")).await?;
    ensure!(version.starts_with("leasehold-operator "), "{version}");
    fs::create_dir(root.join("dev"))?;
    let mut tried = within(&root, &user).arg(&entry).arg("--version").start()?;
    if !tried.wait_exit(SOON).await?.success() {
        let why = tried.output();
        eprintln!("no root of its own can be made here: the image's program was NOT tried in one: {why}");
        return Ok(());
    }
    assert_eq!(tried.output(), version);

    let cluster = Cluster::start().await?;
    cluster.kubectl(&["apply", "-k", &format!("{ROOT}/config/default")]).await?;
    let url = cluster.config().cluster_url;
    let port = url.port_u16().context("a port")?;
    let token = cluster.kubectl(&["create", "token", "leasehold-operator", "-n", SYSTEM]).await?;
    let authority =
        cluster.kubectl(&["config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.certificate-authority}"]);
    let account = root.join(ACCOUNT);
    fs::create_dir_all(&account)?;
    fs::write(account.join("token"), token.trim())?;
    fs::copy(authority.await?.trim(), account.join("ca.crt"))?;
    fs::write(account.join("namespace"), SYSTEM)?;
    fs::create_dir(root.join("etc"))?;
    // By DNS where this process may serve it, which is what a name takes in a pod.
    let server = name_server().await;
    match &server {
        Ok(_) => fs::write(root.join("etc/resolv.conf"), format!("nameserver {DNS}\noptions ndots:1\n"))?,
        Err(error) => {
            eprintln!("{DNS}:53 cannot be served ({error}): the name is in /etc/hosts, and DNS is NOT tried");
            fs::write(root.join("etc/hosts"), format!("127.0.0.1 {NAME}\n"))?;
        }
    }
    open().await?;
    let operator = within(&root, &user)
        .arg(&entry)
        .args(["run", "--log-format=json", "--metrics-addr=127.0.0.1:0"])
        .env_remove("KUBECONFIG")
        .env_remove("HOME")
        .env("KUBERNETES_SERVICE_HOST", NAME)
        .env("KUBERNETES_SERVICE_PORT", port.to_string())
        .env("POD_NAME", "leasehold-operator-0")
        .env("POD_NAMESPACE", SYSTEM)
        .start()?;
    let lock = folder.path().join("lock.yaml");
    fs::write(&lock, "{apiVersion: leasehold.dev/v1alpha1, kind: DistributedLock, metadata: {name: build}}")?;
    eventually(SOON, "the definitions to be served", async || {
        cluster.kubectl(&["apply", "-f", &lock.to_string_lossy()]).await
    })
    .await?;
    let reconciled = eventually(SOON, "the lock to be reconciled", async || {
        let state = cluster.kubectl(&["get", "dlock", "build", "-o", "jsonpath={.status.state}"]).await?;
        ensure!(state == "Free", "{state:?}\n{}", operator.output());
        Ok(())
    });
    reconciled.await?;
    // One who died, for a line that tells of more than a start.
    let dead = "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: left, labels: {leasehold.dev/kind: lock}, \
                annotations: {leasehold.dev/ephemeral: \"true\"}}, spec: {holderIdentity: gone, leaseDurationSeconds: 1}}";
    fs::write(&lock, dead)?;
    cluster.kubectl(&["apply", "-f", &lock.to_string_lossy()]).await?;
    eventually(SOON, "an eviction to be logged", async || {
        let output = operator.output();
        let logged = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let evicted = logged.map(|line| line["fields"].clone()).find(|fields| fields["holders"] == "gone");
        let place = evicted.with_context(|| output.clone())?["place"].clone();
        ensure!(place == "default/left", "{place}");
        Ok(())
    })
    .await?;
    check_log(&operator.output())?;
    if let Ok((_, asked)) = server {
        ensure!(asked.load(Ordering::Relaxed) > 0, "it was reached without DNS");
    }
    Ok(())
}
