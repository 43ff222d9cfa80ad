//! A semaphore's life: made, scaled while it is used, left behind by the dead, deleted.

use anyhow::{Context as _, Result, ensure};
use leasehold::Permits;
use leasehold::protocol::record::ENDED_BY;
use leasehold::protocol::{Kind, Mode, Record};
use leasehold_operator::crd::{Semaphore, SemaphoreStatus};
use tokio::task::JoinHandle;

use crate::support::{SOON, Scene};

fn yaml(name: &str, spec: &str) -> String {
    format!("apiVersion: leasehold.dev/v1alpha1\nkind: Semaphore\nmetadata:\n  name: {name}\nspec: {spec}\n")
}

fn condition<'a>(status: &'a SemaphoreStatus, type_: &str) -> (&'a str, &'a str) {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_);
    found.map_or(("", ""), |condition| (&condition.status, &condition.reason))
}

/// Makes a semaphore and waits until it is ready.
async fn semaphore(scene: &Scene, name: &str, permits: i32) -> Result<()> {
    scene.apply(&yaml(name, &format!("{{permits: {permits}}}"))).await?;
    scene.status_of::<Semaphore>(name, |status| condition(status, "Ready").0 == "True").await?;
    Ok(())
}

/// Queues up for one permit, as `place`-th waiter.
async fn queue_up(scene: &Scene, name: &str, place: usize) -> Result<JoinHandle<Result<Permits>>> {
    let semaphore = scene.user("waiter")?.semaphore(name).build()?;
    let waiting = tokio::spawn(async move { Ok(semaphore.acquire(1).await?) });
    scene.record(name, |record| record.waiters.len() == place).await?;
    Ok(waiting)
}

async fn served(waiting: JoinHandle<Result<Permits>>) -> Result<Permits> {
    tokio::time::timeout(SOON, waiting).await.context("nobody let the waiter in")??
}

#[tokio::test]
async fn a_new_semaphore_gets_a_lease_that_follows_its_spec() -> Result<()> {
    let scene = Scene::new().await?;
    scene.apply(&yaml("db", "{permits: 3, leaseDurationSeconds: 20}")).await?;
    let status = scene.status_of::<Semaphore>("db", |status| status.permits == 3).await?;
    assert_eq!((condition(&status, "Ready"), condition(&status, "Held")), (("True", "LeaseReady"), ("False", "Free")));
    assert_eq!((status.held, status.available, status.holder_count, status.waiters), (0, 3, 0, 0));
    let record = scene.record("db", |record| record.capacity == 3).await?;
    assert_eq!((record.kind, record.ephemeral, record.is_held()), (Kind::Semaphore, false, false));
    assert_eq!(record.default_duration, Some(std::time::Duration::from_secs(20)));
    assert_eq!(status.lease_uid.as_deref(), Some(&*record.uid));
    let owner = &record.lease.metadata.annotations.as_ref().context("no annotations")?["leasehold.dev/owner"];
    ensure!(owner.starts_with("Semaphore/db/"), "{owner}");

    for (name, spec, message) in [
        ("none", "{}", "spec.permits: Required value"),
        ("negative", "{permits: -1}", "permits in body should be greater than or equal to 0"),
        ("session-x", "{permits: 1}", "names that begin with \"session-\" belong to the Leases of client sessions"),
    ] {
        let refused = scene.apply(&yaml(name, spec)).await.expect_err(name).to_string();
        ensure!(refused.contains(message), "{name}: {refused}");
    }
    Ok(())
}

#[tokio::test]
async fn it_is_scaled_while_it_is_used_and_nobody_loses_what_he_has() -> Result<()> {
    let scene = Scene::new().await?;
    semaphore(&scene, "db", 1).await?;
    let first = scene.user("first")?.semaphore("db").build()?.acquire(1).await?;
    let second = queue_up(&scene, "db", 1).await?;
    let status = scene.status_of::<Semaphore>("db", |status| (status.held, status.waiters) == (1, 1)).await?;
    let told = &status.holders[0];
    assert_eq!((&*told.holder.id, told.permits), (&*first.holder_identity(), 1));
    assert_eq!((told.holder.pod.as_deref(), told.holder.token), (Some("first"), Some(i64::try_from(first.token())?)));
    let table = scene.namespace.kubectl(&["get", "sem"]).await?;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "PERMITS", "HELD", "AVAILABLE", "WAITERS", "AGE"]);
    assert_eq!(lines[1][..5], ["db", "1", "1", "0", "1"]);

    // More: whoever waits is let in.
    scene.namespace.kubectl(&["scale", "sem/db", "--replicas=2"]).await?;
    let second = served(second).await?;
    scene.status_of::<Semaphore>("db", |status| (status.permits, status.held) == (2, 2)).await?;
    let scale = [
        "get",
        "sem/db",
        "--subresource=scale",
        "-o",
        "jsonpath={.spec.replicas} {.status.replicas} {.status.selector}",
    ];
    assert_eq!(scene.namespace.kubectl(&scale).await?.trim(), "2 2 leasehold.dev/semaphore=db");

    // Fewer: nobody loses anything, and nobody is let in until less is held than there is.
    scene.namespace.kubectl(&["scale", "sem/db", "--replicas=1"]).await?;
    scene.status_of::<Semaphore>("db", |status| (status.permits, status.held, status.available) == (1, 2, 0)).await?;
    let third = queue_up(&scene, "db", 1).await?;
    first.check()?;
    first.release().await?;
    scene.status_of::<Semaphore>("db", |status| (status.held, status.waiters) == (1, 1)).await?;
    second.check()?;
    assert!(!third.is_finished(), "as much is held as there is");
    let before = second.token();
    second.release().await?;
    let third = served(third).await?;
    assert!(third.token() > before);

    // Drained: nobody is let in.
    scene.namespace.kubectl(&["scale", "sem/db", "--replicas=0"]).await?;
    scene.record("db", |record| record.capacity == 0).await?;
    third.check()?;
    third.release().await?;
    scene.namespace.kubectl(&["wait", "--for=condition=Held=false", "sem/db", "--timeout=30s"]).await?;
    Ok(())
}

#[tokio::test]
async fn whoever_does_not_go_ahead_though_there_is_room_is_let_in() -> Result<()> {
    let scene = Scene::new().await?;
    semaphore(&scene, "db", 0).await?;
    let waiter = scene.client("deaf").await?.keep_alive();
    waiter.join("db", 1).await?;
    scene.namespace.kubectl(&["scale", "sem/db", "--replicas=4"]).await?;
    let record = scene.record("db", |record| record.is_held_by(&waiter.id(1))).await?;
    assert_eq!((record.held_permits(), record.waiters.len()), (1, 0));
    scene.status_of::<Semaphore>("db", |status| status.held == 1).await?;
    assert_eq!(scene.operator.metric("leasehold_grants_total").await?, 1);
    assert_eq!(scene.operator.metric("leasehold_permits{state=\"available\"}").await?, 3);
    waiter.stop().await
}

#[tokio::test]
async fn what_the_dead_held_comes_back_and_goes_to_the_next_who_lives() -> Result<()> {
    let scene = Scene::new().await?;
    semaphore(&scene, "db", 3).await?;
    let alive = scene.client("alive").await?.keep_alive();
    let (dead, dead_waiter) = (scene.client("dead").await?, scene.client("dead-waiter").await?);
    dead.share("db", 1, Mode::Permits(3)).await?;
    dead_waiter.join("db", 1).await?;
    alive.join("db", 1).await?;
    // Whoever is found dead a moment after the other may have been let in until then.
    let settled = |record: &Record| record.is_held_by(&alive.id(1)) && record.shared.len() == 1;
    let record = scene.record("db", |record| settled(record) && record.waiters.is_empty()).await?;
    assert_eq!(record.available_permits(), 2);
    assert!(!record.names(&dead.session) && !record.names(&dead_waiter.session));
    let tombstone = scene.lease(&dead.session.lease_name()).await?;
    let by = tombstone.metadata.annotations.as_ref().and_then(|all| all.get(ENDED_BY));
    ensure!(by.is_some_and(|by| by.starts_with("operator ")), "{by:?}");
    let note = scene.event("db", "Evicted").await?;
    ensure!(note.contains(&format!("{} fell silent and was evicted from db", dead.id(1))), "{note}");
    alive.stop().await
}

#[tokio::test]
async fn a_deleted_semaphore_leaves_its_lease_to_those_who_use_it() -> Result<()> {
    let scene = Scene::new().await?;
    semaphore(&scene, "db", 2).await?;
    let held = scene.user("holder")?.semaphore("db").build()?.acquire(2).await?;
    let waiting = queue_up(&scene, "db", 1).await?;
    scene.namespace.kubectl(&["delete", "sem", "db", "--timeout=30s"]).await?;
    let left = scene.record("db", |record| record.ephemeral).await?;
    assert_eq!((left.capacity, left.held_permits(), left.waiters.len()), (2, 2, 1));
    assert!(!left.lease.metadata.annotations.as_ref().is_some_and(|all| all.contains_key("leasehold.dev/owner")));
    ensure!(scene.event("db", "HandedOver").await?.contains("its Lease stays until the last user releases it"));
    held.check()?;
    held.release().await?;
    served(waiting).await?.release().await?;
    scene.no_lease("db").await?;

    semaphore(&scene, "free", 2).await?;
    scene.namespace.kubectl(&["delete", "sem", "free", "--timeout=30s"]).await?;
    scene.no_lease("free").await
}

#[tokio::test]
async fn a_lease_that_is_something_else_is_left_alone_and_said_so() -> Result<()> {
    let scene = Scene::new().await?;
    let pod = scene.namespace.pod("web", None).await?;
    let uid = pod.metadata.uid.context("no uid")?;
    scene
        .apply(&format!(
            "{{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {{name: taken, ownerReferences: \
             [{{apiVersion: v1, kind: Pod, name: web, uid: {uid}, controller: true}}]}}, spec: {{}}}}"
        ))
        .await?;
    let before = scene.lease("taken").await?;
    scene.apply(&yaml("taken", "{permits: 1}")).await?;
    let status = scene.status_of::<Semaphore>("taken", |status| !status.conditions.is_empty()).await?;
    assert_eq!(condition(&status, "Ready"), ("False", "LeaseOwnedByOther"));
    assert_eq!(scene.lease("taken").await?.metadata.resource_version, before.metadata.resource_version);

    // Somebody uses the name for a lock, and when he has gone it can be a semaphore.
    let lock = scene.user("locker")?.lock("used").build()?.acquire().await?;
    scene.apply(&yaml("used", "{permits: 1}")).await?;
    let status = scene.status_of::<Semaphore>("used", |status| !status.conditions.is_empty()).await?;
    assert_eq!(condition(&status, "Ready"), ("False", "LeaseOfOtherKind"));
    lock.check()?;
    lock.release().await?;
    scene.status_of::<Semaphore>("used", |status| condition(status, "Ready").0 == "True").await?;
    scene.record("used", |record| record.kind == Kind::Semaphore && record.capacity == 1).await?;
    Ok(())
}

#[tokio::test]
async fn one_made_on_the_spot_is_adopted_with_its_users() -> Result<()> {
    let scene = Scene::new().await?;
    let held = scene.user("holder")?.semaphore("db").with_permits(1).build()?.acquire(1).await?;
    let waiting = queue_up(&scene, "db", 1).await?;
    let made = scene.record("db", |record| record.ephemeral).await?;
    semaphore(&scene, "db", 2).await?;
    let adopted = scene.record("db", |record| !record.ephemeral && record.capacity == 2).await?;
    assert_eq!(adopted.uid, made.uid);
    let other = served(waiting).await?;
    held.check()?;
    held.release().await?;
    other.release().await?;
    scene.record("db", |record| !record.is_held()).await?;
    Ok(())
}

/// Without any metrics an autoscaler keeps what it scales within its bounds, which takes all of the scale subresource.
#[tokio::test]
async fn an_autoscaler_scales_it() -> Result<()> {
    let scene = Scene::new().await?;
    semaphore(&scene, "db", 2).await?;
    let held = scene.user("holder")?.semaphore("db").build()?.acquire(2).await?;
    let waiting = queue_up(&scene, "db", 1).await?;
    let autoscaler = |least: u32, most: u32| {
        format!(
            "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {{name: db}}\nspec:\n  \
             minReplicas: {least}\n  maxReplicas: {most}\n  \
             scaleTargetRef: {{apiVersion: leasehold.dev/v1alpha1, kind: Semaphore, name: db}}\n  \
             metrics: [{{type: External, external: {{metric: {{name: load}}, target: {{type: Value, value: \"1\"}}}}}}]\n"
        )
    };
    scene.apply(&autoscaler(4, 6)).await?;
    scene.status_of::<Semaphore>("db", |status| (status.permits, status.held) == (4, 3)).await?;
    served(waiting).await?.release().await?;
    scene.apply(&autoscaler(1, 1)).await?;
    scene.status_of::<Semaphore>("db", |status| (status.permits, status.held) == (1, 2)).await?;
    held.check()?;
    held.release().await?;
    Ok(())
}
