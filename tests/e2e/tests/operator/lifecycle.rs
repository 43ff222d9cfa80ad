//! A lock's life: made, used, changed, adopted, broken, deleted.

use anyhow::{Context as _, Result, ensure};
use leasehold::clock;
use leasehold::protocol::Record;
use leasehold::protocol::record::{DEFAULT_DURATION, EPHEMERAL, KIND, KIND_LOCK};
use leasehold::protocol::write::{self, Term};
use leasehold_operator::crd::{DistributedLockStatus, State};
use leasehold_testkit::Cluster;

use crate::support::{D, Scene, holder, lock_yaml, waiters};

fn condition<'a>(status: &'a DistributedLockStatus, type_: &str) -> (&'a str, &'a str) {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_);
    found.map_or(("", ""), |condition| (&condition.status, &condition.reason))
}

/// Of which kind the resource is to which the Lease belongs, and its name and uid.
fn owner(record: &Record) -> Option<String> {
    record.lease.metadata.annotations.as_ref()?.get("leasehold.dev/owner").cloned()
}

#[tokio::test]
async fn a_new_lock_gets_a_lease_that_follows_its_spec() -> Result<()> {
    let scene = Scene::cluster_wide(Cluster::shared().await?).await?;
    scene.apply(&lock_yaml("build", "{leaseDurationSeconds: 20}")).await?;
    let status = scene.status("build", |status| status.state == Some(State::Free)).await?;
    assert_eq!(condition(&status, "Ready"), ("True", "LeaseReady"));
    assert_eq!(condition(&status, "Held"), ("False", "Free"));
    assert_eq!((status.observed_generation, status.lease_name.as_deref()), (Some(1), Some("build")));

    let record = scene.record("build", |record| holder(record).is_empty()).await?;
    assert_eq!(status.lease_uid.as_deref(), Some(&*record.uid));
    let meta = &record.lease.metadata;
    let uid = scene.namespace.kubectl(&["get", "dlock", "build", "-o", "jsonpath={.metadata.uid}"]).await?;
    assert_eq!(owner(&record), Some(format!("DistributedLock/build/{}", uid.trim())));
    assert!(meta.owner_references.is_none(), "the collector of garbage acts upon these");
    assert_eq!(meta.labels.as_ref().and_then(|labels| labels.get(KIND)).map(String::as_str), Some(KIND_LOCK));
    assert_eq!(record.default_duration, Some(std::time::Duration::from_secs(20)));

    scene.apply(&lock_yaml("build", "{leaseDurationSeconds: 7}")).await?;
    scene.record("build", |record| record.default_duration == Some(std::time::Duration::from_secs(7))).await?;
    scene.status("build", |status| status.observed_generation == Some(2)).await?;
    scene.apply(&lock_yaml("build", "{}")).await?;
    scene.record("build", |record| record.default_duration.is_none()).await?;
    Ok(())
}

#[tokio::test]
async fn invalid_locks_are_refused_with_a_clear_message() -> Result<()> {
    let scene = Scene::new().await?;
    for (name, spec, message) in [
        ("session-x", "{}", "names that begin with \"session-\" belong to the Leases of client sessions"),
        ("short", "{leaseDurationSeconds: 0}", "leaseDurationSeconds in body should be greater than or equal to 1"),
        ("long", "{leaseDurationSeconds: 3601}", "leaseDurationSeconds in body should be less than or equal to 3600"),
    ] {
        let refused = scene.apply(&lock_yaml(name, spec)).await.expect_err(name).to_string();
        assert!(refused.contains(message), "{name}: {refused}");
    }
    scene.apply(&lock_yaml("shortest", "{leaseDurationSeconds: 1}")).await?;
    scene.apply(&lock_yaml("longest", "{leaseDurationSeconds: 3600}")).await?;
    // No spec at all is one that asks for nothing.
    scene.apply("{apiVersion: leasehold.dev/v1alpha1, kind: DistributedLock, metadata: {name: bare}}").await?;
    scene.status("bare", |status| status.state == Some(State::Free)).await?;
    let help = scene.namespace.kubectl(&["explain", "distributedlock"]).await?;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(help.contains("Deleting a DistributedLock never interrupts whoever holds the lock"), "{help}");
    Ok(())
}

#[tokio::test]
async fn status_columns_and_events_follow_the_lease() -> Result<()> {
    let scene = Scene::new().await?;
    scene.lock("build").await?;
    let (first, second) = (scene.client("pod-a").await?.keep_alive(), scene.client("pod-b").await?.keep_alive());
    let held = first.acquire("build", 1).await?;
    second.join("build", 1).await?;

    let status = scene.status("build", |status| status.waiters == 1 && status.holder.is_some()).await?;
    assert_eq!((status.state, condition(&status, "Held")), (Some(State::Held), ("True", "Held")));
    let told = status.holder.context("no holder")?;
    let token = held.holder.as_ref().and_then(|holder| holder.token).context("no token")?;
    assert_eq!((&told.id, told.pod.as_deref()), (&first.id(1).to_string(), Some("pod-a")));
    assert_eq!((told.session.as_deref(), told.token), (Some(first.session.as_str()), Some(i64::try_from(token)?)));
    assert!(told.since.is_some());

    let table = scene.namespace.kubectl(&["get", "dlock", "-o", "wide"]).await?;
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        lines.next().context("no head")?,
        ["NAME", "STATE", "HOLDER", "SINCE", "WAITERS", "TOKEN", "DURATION", "AGE"]
    );
    let row = lines.next().context("no row")?;
    assert_eq!((row[0], row[1], row[2], row[4], row[5]), ("build", "Held", &*told.id, "1", &*token.to_string()));

    let note = scene.event("build", "Acquired").await?;
    assert_eq!(note, format!("{} acquired build with token {token}", told.id));
    first.stop().await?;
    second.stop().await
}

#[tokio::test]
async fn leases_made_by_others_are_adopted_and_their_users_left_alone() -> Result<()> {
    let scene = Scene::new().await?;
    // Made by a person, without anything of ours.
    scene
        .apply("{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: foreign}, \
                spec: {holderIdentity: somebody, leaseDurationSeconds: 3600, renewTime: \"2026-01-01T00:00:00.000000Z\"}}")
        .await?;
    scene.lock("foreign").await?;
    let status = scene.status("foreign", |status| status.state == Some(State::Held)).await?;
    assert_eq!(status.holder.context("no holder")?.id, "somebody");
    let adopted = scene.record("foreign", |record| owner(record).is_some()).await?;
    assert_eq!(holder(&adopted), "somebody");
    assert_eq!(adopted.lease.metadata.labels.as_ref().context("no labels")?[KIND], KIND_LOCK);

    // Made on the spot by a client, with one that waits.
    let (first, second) = (scene.client("pod-a").await?, scene.client("pod-b").await?);
    let create = write::create("spot", &first.id(1), Term { duration: D, own: false }, clock::now().stamp);
    let made = first.send("spot", &create).await?.context("made")?;
    second.join("spot", 1).await?;
    let (first, second) = (first.keep_alive(), second.keep_alive());
    scene.lock("spot").await?;
    let adopted = scene.record("spot", |record| !record.ephemeral).await?;
    assert_eq!((&adopted.uid, adopted.transitions), (&made.uid, made.transitions));
    assert_eq!((holder(&adopted), waiters(&adopted)), (&*first.id(1).to_string(), [second.id(1).to_string()].into()));
    assert!(owner(&adopted).is_some());
    first.stop().await?;
    second.stop().await
}

#[tokio::test]
async fn a_lease_that_belongs_to_somebody_else_is_left_alone_and_said_so() -> Result<()> {
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
    scene.apply(&lock_yaml("taken", "{}")).await?;
    let status = scene.status("taken", |status| status.state == Some(State::Blocked)).await?;
    assert_eq!(condition(&status, "Ready"), ("False", "LeaseOwnedByOther"));
    assert_eq!(scene.lease("taken").await?.metadata.resource_version, before.metadata.resource_version);

    // It goes without the Lease that is not its own.
    scene.namespace.kubectl(&["delete", "dlock", "taken", "--timeout=30s"]).await?;
    scene.lease("taken").await?;
    Ok(())
}

#[tokio::test]
async fn a_deleted_lock_takes_a_free_lease_along() -> Result<()> {
    let scene = Scene::new().await?;
    scene.lock("build").await?;
    scene.namespace.kubectl(&["delete", "dlock", "build", "--timeout=30s"]).await?;
    scene.no_lease("build").await
}

#[tokio::test]
async fn a_deleted_lock_leaves_its_lease_to_holder_and_waiters() -> Result<()> {
    let scene = Scene::new().await?;
    scene.apply(&lock_yaml("build", "{leaseDurationSeconds: 20}")).await?;
    scene.status("build", |status| status.state.is_some()).await?;
    let (first, second) = (scene.client("pod-a").await?.keep_alive(), scene.client("pod-b").await?.keep_alive());
    let held = first.acquire("build", 1).await?;
    second.join("build", 1).await?;
    scene.namespace.kubectl(&["delete", "dlock", "build", "--timeout=30s"]).await?;

    let left = scene.record("build", |record| record.ephemeral).await?;
    assert_eq!((&left.uid, left.transitions), (&held.uid, held.transitions));
    assert_eq!((holder(&left), waiters(&left)), (&*first.id(1).to_string(), [second.id(1).to_string()].into()));
    assert_eq!(owner(&left), None);
    assert!(!left.lease.metadata.annotations.as_ref().context("annotations")?.contains_key(DEFAULT_DURATION));
    assert_eq!(left.lease.metadata.annotations.as_ref().context("annotations")?[EPHEMERAL], "true");
    ensure!(scene.event("build", "HandedOver").await?.contains("its Lease stays until the last user releases it"));

    let last = first.hand_off("build", &left, &second.id(1)).await?;
    second.release("build", &last).await?;
    scene.no_lease("build").await?;
    first.stop().await?;
    second.stop().await
}

/// The collector of garbage deletes at once what names such a resource as its owner.
#[tokio::test]
async fn a_deletion_in_the_foreground_takes_no_lease_from_its_holder() -> Result<()> {
    let scene = Scene::new().await?;
    let client = scene.client("pod-a").await?.keep_alive();
    let names: Vec<String> = (0..10).map(|number| format!("lock-{number}")).collect();
    let mut held = Vec::new();
    for (number, name) in (1..).zip(&names) {
        let policy = if number % 2 == 0 { "{deletionPolicy: Wait}" } else { "{}" };
        scene.apply(&lock_yaml(name, policy)).await?;
        scene.status(name, |status| status.state == Some(State::Free)).await?;
        held.push(client.acquire(name, number).await?);
    }
    let mut delete = vec!["delete", "dlock", "--cascade=foreground", "--wait=false"];
    delete.extend(names.iter().map(String::as_str));
    scene.namespace.kubectl(&delete).await?;
    for (number, (name, before)) in (1..).zip(names.iter().zip(&held)) {
        if number % 2 == 0 {
            scene.status(name, |status| condition(status, "Terminating").0 == "True").await?;
        } else {
            scene.record(name, |record| record.ephemeral).await?;
        }
        let now = scene.record(name, |_| true).await?;
        assert_eq!((&now.uid, holder(&now)), (&before.uid, &*client.id(number).to_string()), "{name}");
    }
    for (number, name) in (1..).zip(&names) {
        let record = scene.record(name, |record| holder(record) == client.id(number).to_string()).await?;
        client.release(name, &record).await?;
        scene.no_lease(name).await?;
    }
    client.stop().await
}

#[tokio::test]
async fn a_lease_of_a_later_format_is_told_and_keeps_nobody_from_going() -> Result<()> {
    let scene = Scene::new().await?;
    scene
        .apply("{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: later, labels: \
                {leasehold.dev/kind: lock}, annotations: {leasehold.dev/format: \"2\"}}, spec: {holderIdentity: somebody}}")
        .await?;
    let before = scene.lease("later").await?;
    scene.apply(&lock_yaml("later", "{}")).await?;
    let status = scene.status("later", |status| status.state == Some(State::Blocked)).await?;
    assert_eq!(condition(&status, "Ready"), ("False", "LeaseUnreadable"));
    scene.namespace.kubectl(&["delete", "dlock", "later", "--timeout=30s"]).await?;
    assert_eq!(scene.lease("later").await?.metadata.resource_version, before.metadata.resource_version);
    Ok(())
}

#[tokio::test]
async fn a_lease_deleted_under_its_holder_is_told_and_made_again() -> Result<()> {
    let scene = Scene::new().await?;
    scene.lock("build").await?;
    let client = scene.client("pod-a").await?.keep_alive();
    let held = client.acquire("build", 1).await?;
    scene.status("build", |status| status.state == Some(State::Held)).await?;
    scene.namespace.kubectl(&["delete", "lease", "build"]).await?;
    let again = scene.record("build", |record| record.uid != held.uid).await?;
    assert_eq!(holder(&again), "");
    let note = scene.event("build", "Broken").await?;
    assert_eq!(note, format!("{} lost build while it was alive: its Lease was deleted", client.id(1)));
    scene.status("build", |status| status.lease_uid.as_deref() == Some(&*again.uid)).await?;
    client.stop().await
}

#[tokio::test]
async fn a_holder_removed_by_hand_is_told_and_a_release_is_not() -> Result<()> {
    let scene = Scene::new().await?;
    scene.lock("released").await?;
    scene.lock("broken").await?;
    let client = scene.client("pod-a").await?.keep_alive();
    let record = client.acquire("released", 1).await?;
    scene.status("released", |status| status.state == Some(State::Held)).await?;
    client.release("released", &record).await?;
    scene.status("released", |status| status.state == Some(State::Free)).await?;

    client.acquire("broken", 2).await?;
    scene.status("broken", |status| status.state == Some(State::Held)).await?;
    let patch = r#"{"spec":{"holderIdentity":""}}"#;
    scene.namespace.kubectl(&["patch", "lease", "broken", "--type=merge", "-p", patch]).await?;
    let note = scene.event("broken", "Broken").await?;
    ensure!(note.contains("the holder was removed from its Lease by hand"), "{note}");
    let events = scene.namespace.kubectl(&["get", "events", "-o", "jsonpath={.items[*].note}"]).await?;
    ensure!(!events.contains("lost released"), "{events}");
    client.stop().await
}
