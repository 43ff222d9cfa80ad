//! What is said beside a hold: payloads, requests to let go. And who no longer finds room there.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use leasehold::protocol::record::CROWDED_BYTES;
use leasehold::{AcquireError, Client, PublishError, TryAcquireError};
use leasehold_testkit::{Namespace, eventually};
use serde_json::json;
use std::time::Duration;

use crate::support::{SOON, client, namespace, record, waiters};

fn named(namespace: &Namespace, host: &str) -> Result<Client> {
    let builder = Client::builder().kube_config(namespace.config()).namespace(namespace.name()).host(host);
    Ok(builder.session_duration(Duration::from_secs(6)).build()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_asks_the_holder_to_let_go_and_is_served() -> Result<()> {
    let (namespace, _dump) = namespace("ask").await?;
    let guard = named(&namespace, "holder")?.lock("job").build()?.acquire().await?;
    guard.publish("step 3 of 7").await?;
    let impatient = tokio::spawn({
        let lock = named(&namespace, "impatient")?.lock("job").build()?;
        async move {
            let status = lock.status().await?.holder.context("a holder")?;
            let asked = lock.request_release(Duration::from_secs(20), "a release is due").await?;
            let guard = lock.acquire().await?;
            anyhow::Ok((status.payload, asked, guard))
        }
    });
    let request = tokio::time::timeout(SOON, guard.release_requested()).await.context("nobody asked")?;
    assert_eq!(
        (&*request.by, request.within, &*request.reason),
        ("impatient", Duration::from_secs(20), "a release is due")
    );
    waiters(&namespace, "job", 1).await?;
    let held = record(&namespace, "job").await?.and_then(|record| record.holder).context("a holder")?;
    assert_eq!((held.payload.as_deref(), held.request), (Some("step 3 of 7"), Some(request)));
    let identity = guard.holder_identity();
    guard.release().await?;
    let (payload, asked, guard) = impatient.await??;
    assert_eq!((payload.as_deref(), asked), (Some("step 3 of 7"), vec![identity]));
    // Nothing of it concerns the next one.
    let held = record(&namespace, "job").await?.and_then(|record| record.holder).context("a holder")?;
    assert_eq!((held.payload, held.request, guard.release_request()), (None, None, None));
    guard.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_share_each_has_its_payload_and_its_own_request() -> Result<()> {
    let (namespace, _dump) = namespace("beside").await?;
    let semaphore = |host: &str| anyhow::Ok(named(&namespace, host)?.semaphore("db").with_permits(3).build()?);
    let (first, second) = (semaphore("first")?.acquire(1).await?, semaphore("second")?.acquire(1).await?);
    tokio::try_join!(first.publish("the first's"), second.publish("the second's"))?;
    let asked = semaphore("third")?
        .request_release(Some(&second.holder_identity()), Duration::from_secs(20), "you alone")
        .await?;
    assert_eq!(asked, [second.holder_identity()]);
    assert_eq!(tokio::time::timeout(SOON, second.release_requested()).await?.reason, "you alone");
    let status = semaphore("third")?.status().await?;
    let shown =
        status.holders.iter().map(|share| (share.holder.payload.as_deref(), share.holder.release_request.is_some()));
    assert_eq!(shown.collect::<Vec<_>>(), [(Some("the first's"), false), (Some("the second's"), true)]);
    second.release().await?;
    eventually(SOON, "the first to be alone", async || {
        let record = record(&namespace, "db").await?.context("a Lease")?;
        let annotations = record.lease.metadata.annotations.clone().unwrap_or_default();
        let beside =
            annotations.keys().filter(|key| key.starts_with("payload.") || key.starts_with("request.")).count();
        ensure!((record.shared.len(), beside) == (1, 1), "{annotations:?}");
        Ok(())
    })
    .await?;
    assert_eq!(first.release_request(), None);
    first.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_lease_takes_nobody_more_and_lets_everybody_out() -> Result<()> {
    let (namespace, _dump) = namespace("full").await?;
    let semaphore = || anyhow::Ok(client(&namespace, 6)?.semaphore("db").with_permits(1).build()?);
    let permits = semaphore()?.acquire(1).await?;
    let waiting = tokio::spawn({
        let semaphore = semaphore()?;
        async move { semaphore.acquire(1).await }
    });
    let already = waiters(&namespace, "db", 1).await?.annotation_bytes();
    let leases = namespace.api::<Lease>();
    let fill = async |bytes: usize| {
        let text = "x".repeat(bytes - already - "filler".len());
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { "filler": text } } }));
        leases.patch("db", &PatchParams::default(), &patch).await
    };
    fill(CROWDED_BYTES).await?;
    let error = semaphore()?.acquire(1).await.expect_err("there is no room");
    assert!(matches!(error, AcquireError::Full { holders: 1, waiters: 1, .. }), "{error}");
    let error = semaphore()?.try_acquire(1).await.expect_err("there is no room");
    assert!(matches!(error, TryAcquireError::Full { holders: 1, waiters: 1, .. }), "{error}");
    // This is where the API server draws the line.
    let error = fill(256 * 1024 + 1).await.expect_err("more than an object may have");
    assert!(error.to_string().contains("Too long"), "{error}");
    fill(256 * 1024 - 100).await?;
    let error = permits.publish("x".repeat(1024)).await.expect_err("there is no room");
    assert!(matches!(error, PublishError::Refused { .. }), "{error}");
    permits.release().await?;
    let permits = tokio::time::timeout(SOON, waiting).await.context("not served")???;
    permits.release().await?;
    Ok(())
}
