//! `doctor`: a healthy namespace, and one broken thing after the other, each with the command that mends it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams, PostParams};
use leasehold_testkit::{Cluster, Namespace, Program, bin, eventually};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{Outcome, RUN, SOON, Scene, end};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const LONG_AGO: &str = "2026-01-01T00:00:00.000000Z";

/// Within this it has watched for a minute, and looked at the rest.
const WATCHED: Duration = Duration::from_secs(120);

/// What it found, and its exit code.
struct Report {
    code: Option<i32>,
    report: Value,
}

impl Report {
    async fn of(program: Program) -> Result<Self> {
        let mut process = program.args(["-o", "json"]).start()?;
        process.wait_exit(WATCHED).await?;
        let Outcome { code, output } = end(&mut process).await?;
        // Standard error may be in between.
        let json: String = output.lines().filter(|line| !line.starts_with("leasehold: ")).collect();
        let report = serde_json::from_str(&json).with_context(|| output.clone())?;
        Ok(Self { code, report })
    }

    fn findings(&self) -> &[Value] {
        self.report["findings"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The messages of those of this check and verdict.
    fn messages(&self, check: &str, verdict: &str) -> Vec<&str> {
        let of = self.findings().iter().filter(|one| one["check"] == check && one["verdict"] == verdict);
        of.filter_map(|one| one["message"].as_str()).collect()
    }

    /// The one that says so.
    fn finding(&self, check: &str, verdict: &str, says: &str) -> Result<&Value> {
        let is = |one: &&Value| {
            one["check"] == check
                && one["verdict"] == verdict
                && one["message"].as_str().is_some_and(|message| message.contains(says))
        };
        self.findings().iter().find(is).with_context(|| format!("no {verdict} {says:?} of {check}: {:#}", self.report))
    }

    fn says_nothing_of(&self, check: &str) -> Result<()> {
        let bad: Vec<_> =
            self.findings().iter().filter(|one| one["check"] == check && one["verdict"] != "ok").collect();
        ensure!(bad.is_empty(), "{bad:#?}");
        Ok(())
    }
}

fn command(finding: &Value) -> Result<&str> {
    finding["command"].as_str().with_context(|| format!("no command: {finding:#}"))
}

impl Scene {
    async fn doctor(&self, args: &[&str]) -> Result<Report> {
        Report::of(self.cli(["doctor"])?.args(args)).await
    }

    async fn create(&self, lease: Value) -> Result<()> {
        create(&self.namespace, lease).await
    }

    /// Types a command as the worker.
    async fn type_in(&self, command: &str) -> Result<()> {
        type_in(self.namespace.cluster(), &self.kubeconfig(), command).await
    }
}

async fn create(namespace: &Namespace, lease: Value) -> Result<()> {
    let lease: Lease = serde_json::from_value(lease)?;
    namespace.api::<Lease>().create(&PostParams::default(), &lease).await?;
    Ok(())
}

/// Types a command into a shell, at the top of the repository.
async fn type_in(cluster: &Cluster, kubeconfig: &Path, command: &str) -> Result<()> {
    let kubectl = cluster.kubectl_path().await?;
    let folders = [kubectl.parent(), bin("kubectl-leasehold")?.parent()].map(|folder| folder.map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(folders.into_iter().flatten().chain(std::env::split_paths(&path)))?;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).current_dir(ROOT).env("KUBECONFIG", kubeconfig).env("PATH", path);
    let output = shell.kill_on_drop(true).output().await?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn session(name: &str, holder: &str, renewed: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"leasehold.dev/kind": "session"}},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 30, "renewTime": renewed},
    })
}

#[tokio::test]
async fn a_healthy_namespace_has_nothing_to_be_done_about() -> Result<()> {
    let scene = Scene::new().await?;
    let _holder = scene.holder("job", &[]).await?;
    let report = scene.doctor(&[]).await?;
    ensure!(report.code == Some(0), "{:#}", report.report);
    for check in ["server", "caller", "clock", "rights", "leases", "holders", "waiters", "leftovers"] {
        ensure!(report.report["findings"].as_array().is_some_and(|all| all.iter().any(|one| one["check"] == check)));
        if check != "rights" {
            report.says_nothing_of(check)?;
        }
    }
    let caller = report.messages("caller", "ok")[0];
    ensure!(caller.contains("system:serviceaccount:") && caller.contains(scene.namespace.name()), "{caller}");
    report.finding("leases", "ok", "1 of locks, semaphores and read-write locks, 1 of sessions")?;
    report.finding("holders", "ok", "of context leasehold-test: 1 holds")?;
    // The worker may not look at them.
    report.finding("strict", "skipped", "may not list validatingadmissionpolicies")?;
    ensure!(report.report["namespace"] == scene.namespace.name() && report.report["counts"]["failed"] == 0);

    let text = scene.outcome(&["doctor", "--watch-for", "1s"]).await?;
    text.is(0, &["leasehold: watching 2 Leases for 1s", "holders\n  ok      Leases in namespace ", " 0 failed, "]);
    ensure!(!text.output.contains('\u{1b}'), "colours for a pipe: {}", text.output);
    // Whoever administers the cluster sees the rest as well.
    let admin = scene.namespace.cluster().kubeconfig_path().display().to_string();
    let all = scene.doctor(&["--kubeconfig", &admin, "-A"]).await?;
    ensure!(all.report["allNamespaces"] == true && all.messages("strict", "skipped").is_empty(), "{:#}", all.report);
    Ok(())
}

#[tokio::test]
async fn leases_that_nobody_of_ours_would_write_are_named_and_mended() -> Result<()> {
    let scene = Scene::new().await?;
    let labels = json!({"leasehold.dev/kind": "lock"});
    scene
        .create(json!({"metadata": {"name": "a", "labels": labels, "annotations": {"join.leasehold.dev/nobody": "5"}}}))
        .await?;
    scene.create(json!({"metadata": {"name": "b", "labels": {"leasehold.dev/kind": "mutex"}}})).await?;
    scene.create(session("heartbeat", "web-0_x1", LONG_AGO)).await?;
    let later = json!({"metadata": {"name": "c", "labels": labels, "annotations": {"leasehold.dev/format": "2"}}});
    scene.create(later).await?;

    let report = scene.doctor(&[]).await?;
    ensure!(report.code == Some(1), "{:#}", report.report);
    let place = format!("in namespace {} of context leasehold-test: ", scene.namespace.name());
    report.finding("leases", "failed", &format!("Lease c {place}it cannot be read: it is of format 2"))?;
    for (verdict, says) in [
        ("warning", format!("Lease a {place}annotation join.leasehold.dev/nobody cannot be read")),
        ("warning", format!("Lease b {place}its label leasehold.dev/kind says \"mutex\"")),
        ("failed", format!("Lease heartbeat {place}it cannot be read: its name is not a session's")),
    ] {
        scene.type_in(command(report.finding("leases", verdict, &says)?)?).await?;
    }
    scene.namespace.kubectl(&["delete", "lease", "c"]).await?;
    let mended = scene.doctor(&[]).await?;
    mended.says_nothing_of("leases")?;
    ensure!(mended.code == Some(0), "{:#}", mended.report);
    Ok(())
}

#[tokio::test]
async fn a_dead_holder_is_told_for_certain_only_by_watching() -> Result<()> {
    let scene = Scene::new().await?;
    let mut holder = scene.holder("job", &["--lease-duration", "3s"]).await?;
    let live = scene.doctor(&["--watch-for", "1m"]).await?;
    live.says_nothing_of("holders")?;
    holder.kill();
    holder.wait_exit(SOON).await?;

    let report = scene.doctor(&["--watch-for", "1m"]).await?;
    let dead = report.finding(
        "holders",
        "warning",
        "whose session was not renewed for the whole of its 3s while this watched",
    )?;
    ensure!(dead["object"] == json!({"kind": "Lease", "name": "job", "namespace": scene.namespace.name()}), "{dead:#}");
    // By itself one look says only what the timestamps do.
    let careful = eventually(SOON, "its timestamp to be old", async || {
        let report = scene.doctor(&[]).await?;
        Ok(report.finding("holders", "warning", "by its own timestamps; one look cannot tell")?.clone())
    })
    .await?;
    ensure!(command(&careful)?.contains("doctor --watch-for 4s"), "{careful:#}");
    ensure!(report.code == Some(0) && scene.doctor(&["--fail-on", "warning"]).await?.code == Some(1));
    scene.outcome(&["doctor", "-q"]).await?.is(0, &["holders\n  warning Lease job in namespace "]);

    // At a terminal it would ask.
    scene.type_in(&command(dead)?.replace(" -n ", " --yes -n ")).await?;
    scene.outcome(&["status", "job"]).await?.is(0, &["State:     Free"]);
    let report = scene.doctor(&["--watch-for", "1m"]).await?;
    report.says_nothing_of("holders")?;
    for says in ["1 session is named by nothing", "it was made on the spot"] {
        scene.type_in(command(report.finding("leftovers", "note", says)?)?).await?;
    }
    scene.doctor(&[]).await?.says_nothing_of("leftovers")
}

#[tokio::test]
async fn a_missing_right_says_what_does_not_work_without_it() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let without: Vec<&str> = RUN.into_iter().filter(|verb| *verb != "update").collect();
    let scene = Scene::with(cluster, &without).await?;
    let report = scene.doctor(&[]).await?;
    ensure!(report.code == Some(1), "{:#}", report.report);
    let missing = report.finding("rights", "failed", "update is missing: no session can be renewed")?;
    let account = format!("--serviceaccount={}:worker", scene.namespace.name());
    ensure!(command(missing)?.contains(&account), "{missing:#}");
    ensure!(report.messages("rights", "failed").len() == 1, "{:#}", report.report);
    // Without list the Leases are not looked at, and that is no failure.
    report.finding("leases", "skipped", "may not list leases")?;
    report.finding("rights", "note", "list is missing")?;

    // What is to be typed grants it, where the ClusterRole is there: as who may do so.
    cluster.kubectl(&["apply", "-f", &format!("{ROOT}/config/rbac/user_roles.yaml")]).await?;
    type_in(cluster, cluster.kubeconfig_path(), command(missing)?).await?;
    eventually(SOON, "the right to count", async || scene.doctor(&[]).await?.says_nothing_of("rights")).await?;

    let looker = Scene::with(cluster, &["get", "list", "watch"]).await?;
    let report = looker.doctor(&[]).await?;
    report.finding("rights", "note", "this caller may look at them and not write any")?;
    ensure!(report.code == Some(0), "{:#}", report.report);
    Ok(())
}

#[tokio::test]
async fn what_is_left_over_is_named_and_removed() -> Result<()> {
    let scene = Scene::new().await?;
    let mut old = session("session-old.x9", "", LONG_AGO);
    old["spec"]["leaseDurationSeconds"] = 1.into();
    scene.create(old).await?;
    let free = json!({"leasehold.dev/ephemeral": "true", "leasehold.dev/format": "1"});
    let labels = json!({"leasehold.dev/kind": "lock"});
    scene.create(json!({"metadata": {"name": "free", "labels": labels, "annotations": free}, "spec": {"holderIdentity": ""}})).await?;
    let ahead = session("session-fast.x1", "fast_x1", "2099-01-01T00:00:00.000000Z");
    scene.create(ahead).await?;

    let report = scene.doctor(&[]).await?;
    report.finding("clock", "note", "the clock of fast is ahead")?;
    let old = report.finding("leftovers", "note", "last renewed more than five minutes ago by their own timestamps")?;
    ensure!(command(old)?.contains("doctor --watch-for 61s"), "{old:#}");
    let report = scene.doctor(&["--watch-for", "2s"]).await?;
    for says in
        ["1 tombstone, of sessions that have ended, which stood there", "it was made on the spot, nobody holds it"]
    {
        scene.type_in(command(report.finding("leftovers", "note", says)?)?).await?;
    }
    scene.doctor(&[]).await?.says_nothing_of("leftovers")?;
    ensure!(scene.lease("free").await?.is_none() && scene.lease("session-old.x9").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn who_waits_without_a_session_is_named_and_taken_off() -> Result<()> {
    let scene = Scene::new().await?;
    let _holder = scene.holder("job", &[]).await?;
    let annotations = json!({"metadata": {"annotations": {"join.leasehold.dev/gone_z3.1": "1", "want.leasehold.dev/gone_z3.1": "1"}}});
    scene.namespace.api::<Lease>().patch("job", &PatchParams::default(), &Patch::Merge(annotations)).await?;
    // One look is not enough: it might just have been removed, and its process not know yet.
    let report = scene.doctor(&[]).await?;
    let absent = report.finding("waiters", "warning", "1 of 1 who wait for it have no sessions: gone_z3.1")?;
    ensure!(command(absent)?.contains("doctor --watch-for 61s"), "{absent:#}");
    let report = scene.doctor(&["--watch-for", "61s"]).await?;
    let gone = report.finding("waiters", "warning", "1 of 1 who wait for it are gone, by their sessions: gone_z3.1")?;
    scene.type_in(command(gone)?).await?;
    let report = scene.doctor(&[]).await?;
    report.says_nothing_of("waiters")?;
    report.says_nothing_of("leases")
}

/// Without its label a session is in no list, and its process renews it all the same.
#[tokio::test]
async fn a_session_without_its_label_is_found_by_its_name() -> Result<()> {
    let scene = Scene::new().await?;
    let _holder = scene.holder("job", &[]).await?;
    let leases = scene.namespace.api::<Lease>();
    let all = leases.list(&kube::api::ListParams::default().labels("leasehold.dev/kind=session")).await?;
    let name = all.items[0].metadata.name.clone().context("no name")?;
    scene.namespace.kubectl(&["label", "lease", &name, "leasehold.dev/kind-"]).await?;
    let report = scene.doctor(&[]).await?;
    report.says_nothing_of("holders")?;
    scene.type_in(command(report.finding("leases", "warning", "does not say so")?)?).await?;
    scene.doctor(&[]).await?.says_nothing_of("leases")
}

#[tokio::test]
async fn many_leases_are_counted_and_a_few_told() -> Result<()> {
    const MANY: usize = 1100;
    let scene = Scene::new().await?;
    let create = |n: usize| {
        let holder = json!({"holderIdentity": format!("gone_z3.{n}"), "leaseDurationSeconds": 30});
        let labels = json!({"leasehold.dev/kind": "lock", "holder.leasehold.dev/gone_z3": "1"});
        scene.create(json!({"metadata": {"name": format!("l{n}"), "labels": labels}, "spec": holder}))
    };
    futures::stream::iter(0..MANY).map(create).buffer_unordered(16).try_collect::<()>().await?;
    let report = scene.doctor(&["-q"]).await?;
    let told = report.messages("holders", "warning");
    ensure!(told.len() == 21, "{told:#?}");
    ensure!(told[20].contains("there are 1080 more of this check"), "{}", told[20]);
    ensure!(report.report["counts"]["warning"].as_u64() >= Some(MANY as u64), "{}", report.report["counts"]);
    ensure!(report.findings().iter().all(|one| one["verdict"] != "ok" && one["verdict"] != "note"));
    Ok(())
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_told_by_the_exit_code() -> Result<()> {
    let scene = Scene::new().await?;
    let config = std::fs::read_to_string(scene.kubeconfig())?;
    let altered = async |from: &str, to: String| {
        let path = scene.folder.path().join("altered");
        let line = config.lines().find(|line| line.trim_start().starts_with(from)).context("no such line")?;
        std::fs::write(
            &path,
            config.replace(line, &format!("{}{from} {to}", &line[..line.len() - line.trim_start().len()])),
        )?;
        let program = Program::new(bin("kubectl-leasehold")?).env("KUBECONFIG", path).args(["doctor"]);
        Report::of(program).await
    };
    let nobody = altered("server:", "https://127.0.0.1:1/".to_owned()).await?;
    ensure!(nobody.code == Some(69), "{:#}", nobody.report);
    nobody.finding("server", "failed", "it cannot be reached")?;
    let stranger = altered("token:", "nonsense".to_owned()).await?;
    ensure!(stranger.code == Some(77), "{:#}", stranger.report);
    stranger.finding("server", "failed", "it does not accept the credentials")?;
    Ok(())
}

/// A cluster of its own: definitions and policies are everybody's.
#[tokio::test]
async fn an_installation_is_told_what_it_lacks_until_it_is_whole() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = cluster.namespace("doctor").await?;
    let doctor = async |args: &[&str]| {
        let kubeconfig = cluster.kubeconfig_path().as_os_str();
        let program = Program::new(bin("kubectl-leasehold")?).env("KUBECONFIG", kubeconfig).args([
            "doctor",
            "-n",
            namespace.name(),
        ]);
        Report::of(program.args(args)).await
    };
    let type_in = async |finding: &Value| type_in(&cluster, cluster.kubeconfig_path(), command(finding)?).await;

    let bare = doctor(&[]).await?;
    ensure!(bare.code == Some(0), "{:#}", bare.report);
    type_in(bare.finding("definitions", "note", "its resources are not defined")?).await?;
    bare.finding("operator", "note", "there is no operator")?;
    let whole = async || doctor(&[]).await?.says_nothing_of("definitions");
    eventually(SOON, "the definitions to be whole", whole).await?;

    // One that is older, and one that is missing.
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/maxWaiters";
    let older = json!([{"op": "remove", "path": path}]).to_string();
    cluster.kubectl(&["patch", "crd", "semaphores.leasehold.dev", "--type=json", "-p", &older]).await?;
    cluster.kubectl(&["delete", "crd", "readwritelocks.leasehold.dev"]).await?;
    let report = doctor(&[]).await?;
    ensure!(report.code == Some(1), "{:#}", report.report);
    let missing = "CustomResourceDefinition readwritelocks.leasehold.dev of context leasehold-test: it is missing";
    report.finding("definitions", "failed", missing)?;
    type_in(report.finding("definitions", "warning", "it lacks spec.maxWaiters")?).await?;
    eventually(SOON, "the definitions to be whole again", whole).await?;

    // Now there are resources, somebody should look after them.
    let lock = json!({"apiVersion": "leasehold.dev/v1alpha1", "kind": "DistributedLock", "metadata": {"name": "job"}});
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), lock.to_string())?;
    namespace.kubectl(&["apply", "-f", &file.path().to_string_lossy()]).await?;
    let report = doctor(&[]).await?;
    let none = report.finding("operator", "warning", "there is no operator")?;
    ensure!(command(none)?.starts_with("kubectl apply -k config/default "), "{none:#}");

    operator(&cluster, &namespace, &doctor).await?;

    // A label alone makes nothing strict.
    cluster.kubectl(&["label", "namespace", namespace.name(), "leasehold.dev/strict=enabled"]).await?;
    let report = doctor(&[]).await?;
    type_in(report.finding("strict", "failed", "there are no policies: strict mode does not count")?).await?;
    let report = doctor(&[]).await?;
    report.says_nothing_of("strict")?;
    report.finding("operator", "failed", "in strict mode nothing that a dead holder had passes on")?;
    type_in(report.finding("fencing", "note", "not installed")?).await?;
    cluster.kubectl(&["delete", "validatingadmissionpolicybinding", "leasehold-fencing"]).await?;
    cluster.kubectl(&["delete", "validatingadmissionpolicy", "leasehold-strict-locks"]).await?;
    let report = doctor(&[]).await?;
    type_in(report.finding("fencing", "warning", "no binding names it: it counts nowhere")?).await?;
    type_in(report.finding("strict", "failed", "its policy leasehold-strict-locks is not there")?).await?;
    type_in(report.finding("flow", "note", "not installed")?).await?;
    let report = doctor(&[]).await?;
    ["strict", "fencing", "flow"].iter().try_for_each(|check| report.says_nothing_of(check))
}

/// An operator that acts, one that has fallen silent, and what it says of a resource.
async fn operator(
    cluster: &Cluster,
    namespace: &Namespace,
    doctor: &impl AsyncFn(&[&str]) -> Result<Report>,
) -> Result<()> {
    let there = ["--operator-namespace", namespace.name()];
    // Somebody else's, who is there: garbage collection leaves it.
    let owner = namespace.pod("other", None).await?.metadata;
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": owner.uid, "controller": true});
    create(namespace, json!({"metadata": {"name": "taken", "ownerReferences": [owner]}})).await?;
    let lock =
        json!({"apiVersion": "leasehold.dev/v1alpha1", "kind": "DistributedLock", "metadata": {"name": "taken"}});
    let mut operator = Program::new(bin("leasehold-operator")?)
        .args(["run", "--metrics-addr", "127.0.0.1:0", "--namespace", namespace.name()])
        .args(["--leader-election-namespace", namespace.name()])
        .env("KUBECONFIG", cluster.kubeconfig_path())
        .start()?;
    eventually(SOON, "an operator to act", async || {
        doctor(&there).await?.finding("operator", "ok", "acts, last renewed").map(drop)
    })
    .await?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), lock.to_string())?;
    namespace.kubectl(&["apply", "-f", &file.path().to_string_lossy()]).await?;
    eventually(SOON, "the resource to be blocked", async || {
        doctor(&there).await?.finding("resources", "failed", "(LeaseOwnedByOther)").map(drop)
    })
    .await?;
    operator.kill();
    operator.wait_exit(SOON).await?;
    let old = json!({"spec": {"renewTime": LONG_AGO}});
    let leases = namespace.api::<Lease>();
    leases.patch("leasehold-operator", &PatchParams::default(), &Patch::Merge(old)).await?;
    let report = doctor(&there).await?;
    let silent = report.finding("operator", "warning", "most likely none acts")?;
    ensure!(command(silent)?.contains("get pods -l app.kubernetes.io/name=leasehold-operator"), "{silent:#}");
    namespace
        .kubectl(&["patch", "dlock", "taken", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])
        .await?;
    Ok(())
}
