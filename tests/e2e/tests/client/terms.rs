//! Permits that come back by themselves, clients that do not agree, and very many holds of one process.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use leasehold::protocol::record::{KIND, KIND_SESSION};
use leasehold::{AcquireError, LossReason, TryAcquireError, clock};

use crate::support::{SOON, client, namespace};

#[tokio::test(flavor = "multi_thread")]
async fn so_many_permits_in_a_time_and_no_more() -> Result<()> {
    const TERM: Duration = Duration::from_secs(2);
    let (namespace, _dump) = namespace("rate").await?;
    let limiter = || {
        let semaphore = client(&namespace, 6)?.semaphore("calls").with_permits(2);
        anyhow::Ok(semaphore.lease_duration(TERM).renewal(false).build()?)
    };
    let (one, two) = (limiter()?, limiter()?);
    let begun = clock::moment();
    let spent = [one.acquire(1).await?, two.acquire(1).await?];
    assert!(matches!(two.try_acquire(1).await, Err(TryAcquireError::Held { .. })));
    // Nobody gives anything back.
    let next = tokio::time::timeout(SOON, two.acquire(1)).await.context("no permit came back")??;
    let waited = clock::moment().since(begun);
    ensure!(waited >= TERM, "it came back after {waited:?}");
    assert_eq!(spent[0].check().expect_err("it is over").reason, LossReason::Expired);
    next.check()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_agree_on_the_permits_is_told_both_numbers() -> Result<()> {
    let (namespace, _dump) = namespace("agree").await?;
    let semaphore = |permits: u32| anyhow::Ok(client(&namespace, 6)?.semaphore("db").with_permits(permits).build()?);
    let _held = semaphore(5)?.acquire(1).await?;
    let error = semaphore(7)?.acquire(1).await.expect_err("it has five").to_string();
    ensure!(error.contains("has 7 permits, but it has 5"), "{error}");
    let error = semaphore(5)?.acquire(6).await.expect_err("it has five");
    ensure!(matches!(error, AcquireError::Api { .. }) && !error.is_retryable(), "{error}");
    ensure!(error.to_string().contains("6 permits of \"db\" are wanted, but there are 5"), "{error}");
    let error = client(&namespace, 6)?.semaphore("none").build()?.acquire(1).await.expect_err("nobody made it");
    ensure!(error.to_string().contains("create the custom resource, or say how many permits it has"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_heartbeat_for_hundreds_of_holds_which_are_given_back_together() -> Result<()> {
    const LOCKS: usize = 400;
    let (namespace, _dump) = namespace("many").await?;
    let client = client(&namespace, 6)?;
    let permits = client.semaphore("db").with_permits(9).build()?.acquire(2).await?;
    let names = (0..LOCKS).map(|n| client.lock(format!("lock-{n}")).build());
    let guards: Vec<_> = futures::stream::iter(names)
        .map(|lock| async move { anyhow::Ok(lock?.acquire().await?) })
        .buffer_unordered(32)
        .try_collect()
        .await?;
    let leases = async |labels: &str| {
        let params = ListParams::default().labels(labels);
        anyhow::Ok(namespace.api::<Lease>().list(&params).await?.items)
    };
    let sessions = leases(&format!("{KIND}={KIND_SESSION}")).await?;
    assert_eq!((leases("").await?.len(), sessions.len()), (LOCKS + 2, 1));
    let (mut told, mut all) = (0, 0);
    client.shutdown_with_progress(|done, of| (told, all) = (done.max(told), of)).await;
    assert_eq!((told, all), (LOCKS + 1, LOCKS + 1));
    assert_eq!(leases("").await?.len(), 0, "something was left");
    ensure!(guards.iter().all(|guard| guard.check().is_err()) && permits.check().is_err());
    Ok(())
}
