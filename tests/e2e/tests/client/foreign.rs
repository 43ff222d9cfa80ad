//! Leases that were not made by this crate.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::support::{SOON, lock, namespace, record, waiters};

async fn by_kubectl(leases: &Api<Lease>, spec: serde_json::Value) -> Result<()> {
    let lease = serde_json::from_value(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"}, "spec": spec,
    }))?;
    leases.create(&PostParams::default(), &lease).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_without_anything_works_alone_and_with_a_queue() -> Result<()> {
    let (namespace, _dump) = namespace("bare").await?;
    let leases = namespace.api::<Lease>();
    by_kubectl(&leases, json!({})).await?;
    lock(&namespace, "a")?.acquire().await?.release().await?;
    let free = record(&namespace, "a").await?.context("it is not ours to remove")?;
    assert_eq!((free.holder, free.transitions), (None, 2));
    assert!(free.lease.metadata.managed_fields.as_ref().is_none_or(Vec::is_empty), "tracked fields cost a fifth");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_lease_can_be_queued_for_and_handed_on() -> Result<()> {
    let (namespace, _dump) = namespace("bare-queue").await?;
    let leases = namespace.api::<Lease>();
    // Held by something else that names no duration; it lets go by an update.
    by_kubectl(&leases, json!({"holderIdentity": "somebody"})).await?;
    let (one, two) = (lock(&namespace, "a")?, lock(&namespace, "a")?);
    ensure!(one.try_acquire().await.is_err());
    let one = tokio::spawn(async move { one.acquire().await });
    waiters(&namespace, "a", 1).await?;
    let two = tokio::spawn(async move { two.acquire().await });
    waiters(&namespace, "a", 2).await?;
    // As client-go releases: nobody holds it, and the duration is a second.
    let released = json!({"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}});
    leases.patch("a", &PatchParams::default(), &Patch::Merge(released)).await?;
    let one = tokio::time::timeout(SOON, one).await.context("nobody took the free lock")???;
    one.release().await?;
    two.await??.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_released_as_client_go_does_is_free() -> Result<()> {
    let (namespace, _dump) = namespace("client-go").await?;
    let spec = json!({
        "holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": 41,
        "acquireTime": "2020-01-01T00:00:00.000000Z", "renewTime": "2020-01-01T00:00:00.000000Z",
    });
    by_kubectl(&namespace.api(), spec).await?;
    let guard = lock(&namespace, "a")?.try_acquire().await?;
    assert_eq!(record(&namespace, "a").await?.context("the Lease")?.transitions, 42);
    guard.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_holder_is_passed_over_when_its_record_does_not_change() -> Result<()> {
    let (namespace, _dump) = namespace("foreign-dead").await?;
    // Its clock is years ahead: that means nothing.
    let spec = json!({
        "holderIdentity": "pod-1_3f6c2f0e-1111", "leaseDurationSeconds": 2, "leaseTransitions": 2_147_483_647,
        "acquireTime": "2099-01-01T00:00:00.000000Z", "renewTime": "2099-01-01T00:00:00.000000Z",
    });
    by_kubectl(&namespace.api(), spec).await?;
    let guard = tokio::time::timeout(SOON, lock(&namespace, "a")?.acquire()).await.context("a dead holder stays")??;
    assert_eq!(record(&namespace, "a").await?.context("the Lease")?.transitions, 0, "the largest is followed by 0");
    guard.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn annotations_written_by_hand_do_no_harm() -> Result<()> {
    let (namespace, _dump) = namespace("by-hand").await?;
    let leases = namespace.api::<Lease>();
    by_kubectl(&leases, json!({})).await?;
    let nonsense = json!({"metadata": {
        "annotations": {
            "join.leasehold.dev/": "1", "join.leasehold.dev/nobody": "1", "join.leasehold.dev/x_a.1": "soon",
            "join.leasehold.dev/x_a.2": "-5", "leasehold.dev/liveness": "eternal",
            "leasehold.dev/default-duration-seconds": "-3", "want.leasehold.dev/x_a.1": "lots",
        },
        "labels": {"holder.leasehold.dev/x_a": "first"},
    }});
    // One of the keys is not even a valid name: the API server refuses it, so it is left out.
    let mut nonsense = nonsense;
    nonsense["metadata"]["annotations"].as_object_mut().context("a map")?.remove("join.leasehold.dev/");
    leases.patch("a", &PatchParams::default(), &Patch::Merge(nonsense)).await?;
    let (one, two) = (lock(&namespace, "a")?, lock(&namespace, "a")?);
    let guard = one.acquire().await?;
    let two = tokio::spawn(async move { two.acquire().await });
    waiters(&namespace, "a", 1).await?;
    guard.release().await?;
    two.await??.release().await?;
    Ok(())
}
