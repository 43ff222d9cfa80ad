//! Clients that die, and what becomes of what they held.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use leasehold::clock;
use leasehold::protocol::record::{ENDED_BY, SessionRecord};
use leasehold::protocol::write::{self, Term};
use leasehold_testkit::eventually;

use crate::support::{D, SOON, Scene, holder, waiters};

#[tokio::test]
async fn a_dead_holder_is_ended_and_its_lock_goes_to_the_next_who_lives() -> Result<()> {
    let scene = Scene::new().await?;
    scene.lock("build").await?;
    let first = scene.client("first").await?.keep_alive();
    let dead = scene.client("dead-holder").await?.keep_alive();
    let dead_waiter = scene.client("dead-waiter").await?.keep_alive();
    let alive = scene.client("alive").await?.keep_alive();
    first.acquire("build", 1).await?;
    for client in [&dead, &dead_waiter, &alive] {
        client.join("build", 1).await?;
    }
    let record = scene.record("build", |record| record.waiters.len() == 3).await?;
    first.hand_off("build", &record, &dead.id(1)).await?;
    let (holder_session, waiter_session) = (dead.session.clone(), dead_waiter.session.clone());
    dead.stop().await?;
    dead_waiter.stop().await?;

    let granted = scene.record("build", |record| holder(record) == alive.id(1).to_string()).await?;
    assert_eq!(waiters(&granted), [].into());
    for session in [holder_session, waiter_session] {
        let tombstone = scene.lease(&session.lease_name()).await?;
        let by = tombstone.metadata.annotations.as_ref().and_then(|all| all.get(ENDED_BY));
        ensure!(by.is_some_and(|by| by.starts_with("operator ")), "{by:?}");
        ensure!(SessionRecord::parse(tombstone)?.ended);
    }
    // Those who renew in time are never ended.
    alive.stop().await?;
    first.stop().await?;
    let note = scene.event("build", "Evicted").await?;
    ensure!(note.contains("fell silent and was evicted from build"), "{note}");
    assert!(scene.operator.metric("leasehold_evictions_total{to=\"waiter\"}").await? >= 1);
    Ok(())
}

#[tokio::test]
async fn a_dead_holder_without_waiters_leaves_the_lock_free() -> Result<()> {
    let scene = Scene::new().await?;
    scene.lock("build").await?;
    let mut client = scene.client("dead").await?;
    client.acquire("build", 1).await?;
    let free = scene.record("build", |record| holder(record).is_empty() && record.transitions == 2).await?;
    assert!(!free.ephemeral);
    scene.status("build", |status| status.holder.is_none()).await?;
    ensure!(scene.event("build", "Evicted").await?.contains("what it held is free"));
    ensure!(client.renew().await.is_err(), "what is ended cannot be renewed");
    Ok(())
}

#[tokio::test]
async fn leases_made_on_the_spot_go_when_nobody_lives_who_uses_them() -> Result<()> {
    let scene = Scene::new().await?;
    let client = scene.client("dead").await?;
    let term = Term { duration: D, own: false };
    let create = |name: &str| write::create(name, &client.id(1), term, clock::now().stamp);
    client.send("held-by-the-dead", &create("held-by-the-dead")).await?;
    let record = client.send("left-free", &create("left-free")).await?.context("made")?;
    // Free, and nobody removed it.
    let mut lease = (*record.lease).clone();
    lease.spec.as_mut().context("spec")?.holder_identity = Some(String::new());
    scene.namespace.api::<Lease>().replace("left-free", &PostParams::default(), &lease).await?;
    scene.no_lease("held-by-the-dead").await?;
    scene.no_lease("left-free").await?;
    assert!(scene.read("held-by-the-dead").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_holder_that_lives_by_its_own_record_is_evicted_only_for_somebody() -> Result<()> {
    let scene = Scene::new().await?;
    let foreign = |name: &str| {
        format!(
            "{{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {{name: {name}, labels: {{leasehold.dev/kind: lock}}}}, \
             spec: {{holderIdentity: elected, leaseDurationSeconds: 1, renewTime: \"2026-01-01T00:00:00.000000Z\"}}}}"
        )
    };
    scene.apply(&foreign("unwanted")).await?;
    scene.apply(&foreign("wanted")).await?;
    let before = scene.lease("unwanted").await?;
    let client = scene.client("pod-a").await?.keep_alive();
    client.join("wanted", 1).await?;
    scene.record("wanted", |record| holder(record) == client.id(1).to_string()).await?;
    // That one expired no later than the other, and nobody asked for it.
    assert_eq!(scene.lease("unwanted").await?.metadata.resource_version, before.metadata.resource_version);
    client.stop().await
}

#[tokio::test]
async fn a_session_deleted_by_hand_counts_as_alive_at_first() -> Result<()> {
    let scene = Scene::new().await?;
    scene.lock("build").await?;
    let (client, waiter) = (scene.client("gone").await?, scene.client("waiter").await?.keep_alive());
    client.acquire("build", 1).await?;
    waiter.join("build", 1).await?;
    scene.namespace.kubectl(&["delete", "lease", &client.session.lease_name()]).await?;
    // The operator looks, finds nothing, and waits for the longest that a session can live.
    eventually(SOON, "the operator to look", async || {
        let output = scene.operator.process.output();
        ensure!(output.contains("read the Lease"), "{output}");
        Ok(())
    })
    .await?;
    assert_eq!(holder(&scene.record("build", |_| true).await?), client.id(1).to_string());
    waiter.stop().await
}
