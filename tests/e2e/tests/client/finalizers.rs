//! A Lease made on the spot that somebody else holds fast by a finalizer.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::support::{client, namespace, record, waiters};

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_stays_for_its_finalizers_is_released_all_the_same() -> Result<()> {
    let (namespace, _dump) = namespace("finalizers").await?;
    let leases = namespace.api::<Lease>();
    let finalizers = async |name: &str, all: serde_json::Value| {
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": all } }));
        leases.patch(name, &PatchParams::default(), &patch).await
    };
    let free = async |name: &str| {
        let record = record(&namespace, name).await?.context("its finalizer is there")?;
        ensure!(!record.is_held(), "it is held by nobody who lives: {:#?}", record.lease);
        ensure!(record.lease.metadata.deletion_timestamp.is_some(), "it was to go");
        anyhow::Ok(())
    };
    let (one, other) = (client(&namespace, 30)?, client(&namespace, 30)?);

    let guard = one.lock("a").build()?.acquire().await?;
    finalizers("a", json!(["example.com/kept"])).await?;
    guard.release().await?;
    free("a").await?;
    // It works on as long as it is there.
    let guard = other.lock("a").build()?.acquire().await?;
    let next = one.lock("a").build()?;
    let waiting = tokio::spawn(async move { next.acquire().await });
    waiters(&namespace, "a", 1).await?;
    guard.release().await?;
    waiting.await??.release().await?;
    free("a").await?;

    let permit = one.semaphore("s").with_permits(2).build()?.acquire(1).await?;
    finalizers("s", json!(["example.com/kept"])).await?;
    permit.release().await?;
    free("s").await?;

    for name in ["a", "s"] {
        finalizers(name, json!(null)).await?;
        ensure!(record(&namespace, name).await?.is_none(), "{name} is still there");
    }
    Ok(())
}
