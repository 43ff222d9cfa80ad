//! What the warden makes of a policy.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use leasehold::protocol::record::{ENDED_FOR, EVIDENCE, SessionRecord};
use leasehold::protocol::{HolderId, Mode, Record, write};
use leasehold::{AcquireError, KubeStore, Store as _};
use leasehold_operator::crd::{DistributedLockStatus, Semaphore, SemaphoreStatus, State};
use leasehold_testkit::{Cluster, Namespace, Process, Program, Signal, bin, eventually};

use crate::policy::condition;
use crate::support::{SOON, Scene, holder, lock_yaml, waiters};

/// A process that holds a lock until it is killed. Its session lasts 3 s.
async fn holding(scene: &Scene, host: &str, lock: &str) -> Result<Process> {
    let folder = tempfile::tempdir()?;
    let (kubeconfig, file) = (folder.path().join("kubeconfig"), folder.path().join("work"));
    scene.namespace.service_account(host, vec![leases()]).await?.write_kubeconfig(&kubeconfig)?;
    let program = Program::new(bin("worker")?).args(["--name", lock, "hold", &file.to_string_lossy()]);
    let mut process = program.env("KUBECONFIG", &kubeconfig).env("POD_NAME", host).named(host).start()?;
    process.wait_for_line(SOON, |line| line.starts_with("acquired")).await?;
    Ok(process)
}

fn leases() -> k8s_openapi::api::rbac::v1::PolicyRule {
    k8s_openapi::api::rbac::v1::PolicyRule {
        api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
        resources: Some(vec!["leases".to_owned()]),
        verbs: vec!["*".to_owned()],
        ..Default::default()
    }
}

#[tokio::test]
async fn what_is_held_for_too_long_passes_on_before_its_own_time_is_over() -> Result<()> {
    let scene = Scene::new().await?;
    for name in ["build", "unlimited"] {
        scene.lock(name).await?;
    }
    let (first, second) = (scene.client("pod-a").await?, scene.client("pod-b").await?.keep_alive());
    let held = first.acquire("build", 1).await?;
    // As another client would leave it: ours does not keep for longer than it may. A living one has a minute more.
    let keep = write::keep(&held, Duration::from_hours(1), leasehold::clock::now().stamp);
    first.send("build", &keep).await?;
    let first = first.keep_alive();
    first.acquire("unlimited", 2).await?;
    second.join("build", 1).await?;
    // The policy comes while it is held.
    scene.apply(&lock_yaml("build", "{maxHoldSeconds: 3}")).await?;
    let next = scene.record("build", |record| holder(record) == second.id(1).to_string()).await?;
    assert!(next.holder.context("a holder")?.token > held.holder.context("a holder")?.token);
    let note = scene.event("build", "Evicted").await?;
    let why = format!("{} has held it for longer than 3 s (maxHoldSeconds) and was evicted from build", first.id(1));
    ensure!(note.starts_with(&why) && note.ends_with(&format!("{} holds it now", second.id(1))), "{note}");
    // Whoever lives has longer, and what the first holds elsewhere is not touched.
    assert_eq!(holder(&scene.record("unlimited", |_| true).await?), first.id(2).to_string());
    first.stop().await?;
    second.stop().await
}

#[tokio::test]
async fn of_those_who_share_only_who_has_held_for_too_long_is_evicted_kept_or_not() -> Result<()> {
    let scene = Scene::new().await?;
    let yaml = "{apiVersion: leasehold.dev/v1alpha1, kind: Semaphore, metadata: {name: db}, \
                spec: {permits: 3, maxHoldSeconds: 20}}";
    scene.apply(yaml).await?;
    scene.record("db", |record| record.capacity == 3).await?;
    // As another client would leave it: ours does not keep for longer than it may.
    let left = scene.client_for("gone", Duration::from_mins(1)).await?;
    left.share("db", 1, Mode::Permits(1)).await?;
    let record = scene.record("db", |record| record.shared.len() == 1).await?;
    let keep = write::shared::keep(&record, &record.shared[0], Duration::from_hours(1), leasehold::clock::now().stamp);
    left.send("db", &keep).await?;
    let kept = |status: &SemaphoreStatus| status.holders.iter().any(|one| one.holder.kept);
    scene.status_of::<Semaphore>("db", kept).await?;
    eventually(SOON, "half of its time", async || {
        let age = leasehold::clock::now().stamp.duration_since(record.shared[0].acquired.context("since")?);
        ensure!(age.as_secs() >= 10);
        Ok(())
    })
    .await?;
    left.share("db", 2, Mode::Permits(1)).await?;
    scene.record("db", |record| record.shared.len() == 1 && !record.shared[0].kept).await?;
    let note = scene.event("db", "Evicted").await?;
    ensure!(note.contains("for longer than 20 s"), "{note}");
    Ok(())
}

#[tokio::test]
async fn what_a_killed_holder_had_is_given_to_nobody_before_the_lock_delay_is_over() -> Result<()> {
    let scene = Scene::new().await?;
    scene.apply(&lock_yaml("delayed", "{lockDelaySeconds: 15}")).await?;
    scene.lock("at-once").await?;
    scene.record("delayed", |record| !record.policy.lock_delay.is_zero()).await?;
    let (one, other) = (holding(&scene, "one", "delayed").await?, holding(&scene, "other", "at-once").await?);
    let (dead, next) = (scene.client("dead").await?, scene.client("next").await?.keep_alive());
    dead.join("delayed", 1).await?;
    next.join("delayed", 1).await?;
    let held = scene.record("delayed", |record| record.waiters.len() == 2).await?;
    one.signal(Signal::KILL)?;
    other.signal(Signal::KILL)?;
    // Both fell silent at the same time, and so did who waits: there is no delay for these.
    scene.record("at-once", |record| holder(record).is_empty()).await?;
    let session = held.holder.as_ref().and_then(|holder| holder.id.as_ref()).context("a session")?.session.lease_name();
    eventually(SOON, "the holder's session to be ended", async || {
        ensure!(SessionRecord::parse(scene.lease(&session).await?)?.ended);
        Ok(())
    })
    .await?;
    let waited = scene.record("delayed", |record| waiters(record) == [next.id(1).to_string()].into()).await?;
    assert_eq!((holder(&waited), waited.transitions), (holder(&held), held.transitions), "it was evicted at once");
    // A status and Events tell that it is held; and then the next one has it.
    scene.status("delayed", |status| status.state == Some(State::Held)).await?;
    scene.record("delayed", |record| holder(record) == next.id(1).to_string()).await?;
    next.stop().await
}

/// Ends a session as whoever knows that its process has ended.
async fn end_by_evidence(scene: &Scene, session: &str) -> Result<()> {
    let mut lease = scene.lease(session).await?;
    lease.spec.get_or_insert_default().holder_identity = Some(String::new());
    let annotations: BTreeMap<_, _> = [(ENDED_FOR.to_owned(), EVIDENCE.to_owned())].into();
    lease.metadata.annotations.get_or_insert_default().extend(annotations);
    scene.namespace.api::<Lease>().replace(session, &PostParams::default(), &lease).await?;
    Ok(())
}

#[tokio::test]
async fn evidence_needs_no_delay_and_counts_only_where_it_is_believed() -> Result<()> {
    const LONG: Duration = Duration::from_secs(12);
    let scene = Scene::new().await?;
    scene.apply(&lock_yaml("evident", "{lockDelaySeconds: 3600}")).await?;
    scene.apply(&lock_yaml("patient", "{reclaim: Expiry}")).await?;
    scene.record("evident", |record| !record.policy.lock_delay.is_zero()).await?;
    scene.record("patient", |record| record.policy.reclaim != leasehold::protocol::policy::Reclaim::Evidence).await?;
    let dead = scene.client_for("dead", LONG).await?;
    dead.acquire("evident", 1).await?;
    let held = dead.acquire("patient", 2).await?;
    end_by_evidence(&scene, &dead.session.lease_name()).await?;
    scene.record("evident", |record| holder(record).is_empty()).await?;
    assert_eq!(holder(&scene.record("patient", |_| true).await?), holder(&held), "evidence was believed");
    scene.record("patient", |record| holder(record).is_empty()).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_never_reclaimed_waits_for_a_person_who_is_told_once() -> Result<()> {
    let scene = Scene::new().await?;
    scene.apply(&lock_yaml("precious", "{reclaim: Never}")).await?;
    scene.lock("plain").await?;
    scene.record("precious", |record| record.policy != leasehold::protocol::policy::Policy::default()).await?;
    let (dead, next) = (scene.client("dead").await?, scene.client("next").await?.keep_alive());
    dead.acquire("precious", 1).await?;
    dead.acquire("plain", 2).await?;
    next.join("precious", 1).await?;
    let abandoned =
        |is: &'static str| move |status: &DistributedLockStatus| condition(&status.conditions, "Abandoned").0 == is;
    let status = scene.status("precious", abandoned("True")).await?;
    let message = condition(&status.conditions, "Abandoned").1.to_owned();
    let told = format!(
        "{} is dead and stays, since reclaim is Never: only a break ends that (kubectl leasehold break precious)",
        dead.id(1)
    );
    assert_eq!((&*message, status.state), (&*told, Some(State::Held)));
    assert_eq!(scene.event("precious", "Abandoned").await?, told);
    // It is told of nobody else, and what has no such policy goes as ever.
    scene.record("plain", |record| holder(record).is_empty()).await?;
    assert_eq!(condition(&scene.status("plain", |_| true).await?.conditions, "Abandoned"), ("", ""));
    let record = scene.record("precious", |_| true).await?;
    assert_eq!(holder(&record), dead.id(1).to_string());

    // A person breaks it.
    scene
        .namespace
        .kubectl(&["patch", "lease", "precious", "--type=merge", "-p", r#"{"spec":{"holderIdentity":""}}"#])
        .await?;
    scene.record("precious", |record| holder(record) == next.id(1).to_string()).await?;
    scene.status("precious", abandoned("False")).await?;
    next.stop().await
}

/// What a task says that waits there and holds something elsewhere.
async fn say(store: &KubeStore, lock: &str, holds: &HolderId) -> Result<()> {
    let waits = eventually(SOON, "somebody to wait", async || {
        let record = Record::parse(store.read(lock).await?)?;
        ensure!(record.waiters.len() == 1, "{:#?}", record.lease);
        Ok(record)
    });
    let record = waits.await?;
    store.write(lock, &write::report(&record, &record.waiters[0], std::slice::from_ref(holds))).await?;
    Ok(())
}

/// A client of one process in one namespace.
fn user(namespace: &Namespace, host: &str) -> Result<leasehold::Client> {
    let builder = leasehold::Client::builder().kube_config(namespace.config());
    Ok(builder.namespace(namespace.name()).host(host).build()?)
}

#[tokio::test]
async fn the_youngest_in_a_circle_over_two_namespaces_is_told_to_give_up_where_its_lock_wants_that() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let scene = Scene::cluster_wide(cluster).await?;
    let other = cluster.namespace("other").await?;
    let (here, there) = (&scene.namespace, &other);
    let stores = [KubeStore::new(here.config(), here.name())?, KubeStore::new(there.config(), there.name())?];
    // The one that comes last waits for a lock that does not want it: so it is the one before.
    scene.apply(&lock_yaml("orders", "{deadlocks: BreakYoungest}")).await?;
    scene.record("orders", |record| record.policy.breaks_deadlocks).await?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), lock_yaml("accounts", "{}"))?;
    there.kubectl(&["apply", "-f", &file.path().to_string_lossy()]).await?;
    there.kubectl(&["wait", "--for=condition=Ready", "dlock/accounts", "--timeout=30s"]).await?;

    // Each of two processes works in both namespaces.
    let (billing, shipping) =
        ([user(here, "billing")?, user(there, "billing")?], [user(here, "shipping")?, user(there, "shipping")?]);
    let orders = shipping[0].lock("orders").build()?.acquire().await?;
    let accounts = billing[1].lock("accounts").build()?.acquire().await?;
    let older = tokio::spawn({
        let lock = billing[0].lock("orders").build()?;
        async move { lock.acquire().await }
    });
    say(&stores[0], "orders", &accounts.holder_identity().parse()?).await?;
    let younger = tokio::spawn({
        let lock = shipping[1].lock("accounts").build()?;
        async move { lock.acquire().await }
    });
    say(&stores[1], "accounts", &orders.holder_identity().parse()?).await?;

    let gave_up = tokio::time::timeout(SOON, older).await.context("nobody gave up")??;
    let Err(AcquireError::Deadlock { deadlock, .. }) = gave_up else { panic!("{gave_up:?}") };
    let circle = deadlock.to_string();
    for part in [format!("{}/orders", here.name()), format!("{}/accounts", there.name())] {
        ensure!(circle.contains(&part), "{circle}");
    }
    let note = scene.event("orders", "ToldToGiveUp").await?;
    ensure!(note.starts_with("billing_") && note.contains("was told to give up") && note.contains(&circle), "{note}");
    ensure!(scene.event("orders", "Deadlock").await?.contains(&circle));
    assert_eq!(scene.operator.metric("leasehold_told_to_give_up_total").await?, 1);
    // It is over, and both resources say so.
    let over = |status: &DistributedLockStatus| condition(&status.conditions, "Deadlocked").0 == "False";
    scene.status("orders", over).await?;
    let waited = ["wait", "--for=condition=Deadlocked=False", "dlock/accounts", "--timeout=30s"];
    there.kubectl(&waited).await?;
    ensure!(!younger.is_finished());
    accounts.release().await?;
    tokio::time::timeout(SOON, younger).await.context("it never got it")???.release().await?;
    orders.release().await?;
    Ok(())
}
