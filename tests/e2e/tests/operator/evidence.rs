//! Locks of dead Pods: passed on by evidence, and by nothing less.
//!
//! No kubelet runs here, so the tests write what one would. Sessions live for a minute, which no test waits for: whatever
//! passes on does so by evidence.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use leasehold::protocol::record::{ENDED_BY, POD, POD_UID, SessionRecord};
use leasehold::protocol::{HolderId, SessionId};
use leasehold::{Client, LockGuard, clock};
use leasehold_testkit::{Account, eventually};
use serde_json::{Value, json};

use crate::support::{SOON, Scene, holder};

/// The longest there is.
const SESSION: Duration = Duration::from_secs(60);
const BY_EVIDENCE: &str = "leasehold_sessions_ended_total{reason=\"evidence\"}";
const BY_SILENCE: &str = "leasehold_sessions_ended_total{reason=\"silence\"}";

/// A client in a Pod of its own, that holds a lock.
struct Holder {
    pod: Pod,
    session: SessionId,
    guard: LockGuard,
    _client: Client,
}

fn client(
    account: &Account,
    change: impl FnOnce(leasehold::ClientBuilder) -> leasehold::ClientBuilder,
) -> Result<Client> {
    let builder = Client::builder().kube_config(account.config()).session_duration(SESSION);
    Ok(change(builder).build()?)
}

async fn app(scene: &Scene) -> Result<Account> {
    scene.namespace.service_account("app", crate::support::user_rules()).await
}

impl Holder {
    async fn new(app: &Account, lock: &str, pod: Value) -> Result<Self> {
        Self::with(app, lock, pod, |builder| builder).await
    }

    async fn with(
        app: &Account,
        lock: &str,
        pod: Value,
        change: impl FnOnce(leasehold::ClientBuilder) -> leasehold::ClientBuilder,
    ) -> Result<Self> {
        let account = app.in_pod_like(&format!("pod-of-{lock}"), &pod).await?;
        let client = client(&account, change)?;
        let guard = client.lock(lock).build()?.acquire().await?;
        let session = guard.holder_identity().parse::<HolderId>()?.session;
        Ok(Self { pod: account.pod().context("a pod")?.clone(), session, guard, _client: client })
    }

    fn pod_name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    async fn set_status(&self, scene: &Scene, status: Value) -> Result<()> {
        set_status(scene, self.pod_name(), status).await
    }

    async fn record(&self, scene: &Scene) -> Result<SessionRecord> {
        Ok(SessionRecord::parse(scene.lease(&self.session.lease_name()).await?)?)
    }
}

async fn set_status(scene: &Scene, pod: &str, status: Value) -> Result<()> {
    let patch = Patch::Merge(json!({ "status": status }));
    scene.namespace.api::<Pod>().patch_status(pod, &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn delete(scene: &Scene, pod: &str) -> Result<()> {
    scene.namespace.api::<Pod>().delete(pod, &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}

fn status_of(name: &str, state: &Value) -> Value {
    json!({ "name": name, "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
        "containerID": format!("containerd://{name}"), "state": state })
}

fn terminated(name: &str) -> Value {
    let end = json!({ "exitCode": 137, "reason": "Error", "containerID": format!("containerd://{name}") });
    status_of(name, &json!({ "terminated": end }))
}

fn running(name: &str) -> Value {
    status_of(name, &json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } }))
}

fn status(phase: &str, reason: &str, containers: &[Value]) -> Value {
    let ready = json!({ "type": "ContainersReady", "status": "False", "reason": reason });
    json!({ "phase": phase, "conditions": [ready], "containerStatuses": containers })
}

/// What the kubelet writes of a Pod that is over.
fn over(containers: &[Value]) -> Value {
    status("Failed", "PodFailed", containers)
}

/// What it writes of one whose containers it is about to restart.
fn crashed(containers: &[Value]) -> Value {
    status("Running", "ContainersNotReady", containers)
}

fn finalizer() -> Value {
    json!({ "metadata": { "finalizers": ["leasehold.dev/test"] } })
}

#[tokio::test]
async fn what_a_terminated_pod_held_passes_on_at_once() -> Result<()> {
    let scene = Scene::new().await?;
    scene.lock("build").await?;
    let app = app(&scene).await?;
    let begun = clock::now().moment;
    let dead = Holder::new(&app, "build", finalizer()).await?;
    let told = dead.record(&scene).await?;
    let annotations = told.lease.metadata.annotations.clone().unwrap_or_default();
    assert_eq!(annotations.get(POD).map(String::as_str), Some("pod-of-build"));
    assert_eq!(annotations.get(POD_UID), dead.pod.metadata.uid.as_ref());

    let waiting = client(&app.in_pod("waiter").await?, |builder| builder)?.lock("build").build()?;
    let waiter = tokio::spawn(async move { waiting.acquire().await });
    scene.record("build", |record| record.waiters.len() == 1).await?;
    delete(&scene, dead.pod_name()).await?;
    dead.set_status(&scene, over(&[terminated("main")])).await?;
    let guard = waiter.await??;
    let took = clock::now().moment.since(begun);
    ensure!(took < SESSION, "its session could have ended by its silence: {took:?}");
    guard.check()?;
    // It goes on in a thread of this process, and finds that its session was ended.
    eventually(SOON, "it to learn that it has lost it", async || {
        ensure!(dead.guard.check().is_err(), "there are two of them");
        Ok(())
    })
    .await?;

    let tombstone = dead.record(&scene).await?;
    ensure!(tombstone.ended && tombstone.by_evidence, "{tombstone:?}");
    let by = tombstone.lease.metadata.annotations.as_ref().and_then(|all| all.get(ENDED_BY)).context("by")?.clone();
    ensure!(
        by.starts_with("operator ") && by.ends_with(": every container of Pod pod-of-build has terminated"),
        "{by}"
    );
    let note = scene.event("build", "Evicted").await?;
    ensure!(note.contains("has ended with its Pod and was evicted from build"), "{note}");
    assert_eq!((scene.operator.metric(BY_EVIDENCE).await?, scene.operator.metric(BY_SILENCE).await?), (1, 0));
    assert_eq!(scene.operator.metric("leasehold_evidence").await?, 1);
    guard.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_job_that_nothing_restarts_needs_no_word_of_the_kubelet() -> Result<()> {
    let scene = Scene::new().await?;
    let app = app(&scene).await?;
    let once = json!({ "spec": { "restartPolicy": "Never" } });
    let dead = Holder::new(&app, "job", once).await?;
    dead.set_status(&scene, crashed(&[terminated("main")])).await?;
    ended(&scene, &dead).await?;
    // Made on the spot, and free.
    scene.no_lease("job").await
}

/// The Pod is there no longer than its status needs to be seen.
#[tokio::test]
async fn a_pod_that_is_removed_at_once_was_seen_all_the_same() -> Result<()> {
    let scene = Scene::new().await?;
    let app = app(&scene).await?;
    let dead = Holder::new(&app, "gone", json!({})).await?;
    dead.set_status(&scene, over(&[terminated("main")])).await?;
    delete(&scene, dead.pod_name()).await?;
    ended(&scene, &dead).await
}

async fn ended(scene: &Scene, dead: &Holder) -> Result<()> {
    eventually(SOON, "the session to be ended by evidence", async || {
        let record = dead.record(scene).await?;
        ensure!(record.ended && record.by_evidence, "it stands");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nothing_less_is_evidence() -> Result<()> {
    let scene = Scene::new().await?;
    let app = app(&scene).await?;
    let two = json!({ "spec": { "containers": [{ "name": "main", "image": "i" }, { "name": "side", "image": "i" }] } });
    let (plain, once) = (json!({}), json!({ "spec": { "restartPolicy": "Never" } }));
    let unseen = json!({ "terminated": { "exitCode": 137, "reason": "ContainerStatusUnknown" } });
    let gc = json!({ "phase": "Failed", "observedGeneration": 2, "containerStatuses": [terminated("main")],
        "conditions": [{ "type": "ContainersReady", "status": "False", "reason": "ContainersNotReady" },
            { "type": "Ready", "status": "False", "reason": "ContainersNotReady" }] });
    let mut standing = Vec::new();
    for (lock, pod, status) in [
        ("phase-alone", &plain, over(&[running("main")])),
        ("no-statuses", &plain, over(&[])),
        ("one-of-two", &two, over(&[terminated("main"), running("side")])),
        ("one-of-two-told", &two, over(&[terminated("main")])),
        ("about-to-restart", &plain, crashed(&[terminated("main")])),
        ("not-seen", &once, over(&[status_of("main", &unseen)])),
    ] {
        let holder = Holder::new(&app, lock, pod.clone()).await?;
        holder.set_status(&scene, status).await?;
        standing.push((lock, holder));
    }
    for (lock, first) in [
        ("deleted", running("main")),
        // Written before the deletion: it may have been restarted in between.
        ("deleted-after-a-crash", terminated("main")),
        ("collected", terminated("main")),
    ] {
        let holder = Holder::new(&app, lock, finalizer()).await?;
        holder.set_status(&scene, crashed(&[first])).await?;
        delete(&scene, holder.pod_name()).await?;
        if lock == "collected" {
            // As the garbage collection of Pods does where it hears nothing of a node.
            holder.set_status(&scene, gc.clone()).await?;
        }
        standing.push((lock, holder));
    }
    let forced = Holder::new(&app, "force-deleted", plain.clone()).await?;
    forced.set_status(&scene, crashed(&[running("main")])).await?;
    delete(&scene, forced.pod_name()).await?;
    standing.push(("force-deleted", forced));

    let former = Holder::new(&app, "another-uid", plain.clone()).await?;
    delete(&scene, former.pod_name()).await?;
    app.in_pod(former.pod_name()).await?;
    former.set_status(&scene, over(&[terminated("main")])).await?;
    standing.push(("another-uid", former));

    let untold = Holder::with(&app, "tells-no-pod", plain.clone(), leasehold::ClientBuilder::without_pod).await?;
    ensure!(untold.record(&scene).await?.pod.is_none());
    untold.set_status(&scene, over(&[terminated("main")])).await?;
    standing.push(("tells-no-pod", untold));

    // A watch shows Pods in the order of their changes: when these have been acted upon, so would all before have been.
    for lock in ["surely-dead", "surely-dead-too"] {
        let dead = Holder::new(&app, lock, plain.clone()).await?;
        dead.set_status(&scene, over(&[terminated("main")])).await?;
        ended(&scene, &dead).await?;
        scene.no_lease(lock).await?;
    }
    for (lock, standing) in &standing {
        // After a force deletion its token is void, so it is asked of the Lease and not of the client.
        let record = standing.record(&scene).await?;
        ensure!(!record.ended, "{lock}: {record:?}");
        let held = scene.record(lock, |_| true).await?;
        assert_eq!(holder(&held), standing.guard.holder_identity(), "{lock}");
        standing.guard.check().with_context(|| (*lock).to_owned())?;
    }
    assert_eq!((scene.operator.metric(BY_EVIDENCE).await?, scene.operator.metric(BY_SILENCE).await?), (2, 0));
    Ok(())
}

#[tokio::test]
async fn without_the_right_to_watch_pods_only_the_evidence_is_missing() -> Result<()> {
    let scene = Scene::without_pods().await?;
    let app = app(&scene).await?;
    scene.lock("build").await?;
    let stands = Holder::new(&app, "stands", json!({})).await?;
    stands.set_status(&scene, over(&[terminated("main")])).await?;
    eventually(SOON, "the watch to fail again", async || {
        let failed = scene.operator.metric("leasehold_watch_errors_total{resource=\"pods\"}").await?;
        ensure!(failed >= 2, "{failed}");
        Ok(())
    })
    .await?;
    assert_eq!(scene.operator.metric("leasehold_evidence").await?, 0);
    // Who falls silent is found as ever.
    scene.client("silent").await?.acquire("build", 1).await?;
    scene.record("build", |record| holder(record).is_empty() && record.transitions == 2).await?;
    assert_eq!((scene.operator.metric(BY_EVIDENCE).await?, scene.operator.metric(BY_SILENCE).await?), (0, 1));
    let told = scene.operator.process.output().matches("Pods cannot be watched").count();
    assert_eq!(told, 1, "people are told once");
    stands.guard.check()?;
    Ok(())
}
