//! The API server is away, or says no.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leasehold::{AcquireError, ApiError, Client, LossReason, TryAcquireError};
use leasehold_testkit::{Cluster, eventually};

use crate::support::{SOON, client, namespace, rules, waiters};

#[tokio::test(flavor = "multi_thread")]
async fn without_permission_the_error_names_what_is_missing() -> Result<()> {
    let (namespace, _dump) = namespace("forbidden").await?;
    let nobody = namespace.service_account("nobody", Vec::new()).await?;
    let client = Client::builder().kube_config(nobody.config()).namespace(namespace.name()).build()?;
    let lock = client.lock("a").build()?;
    let error = lock.acquire().await.err().context("it was acquired")?;
    let AcquireError::Api { source: ApiError::Forbidden { message }, .. } = &error else {
        anyhow::bail!("not what it should be: {error}")
    };
    for part in ["nobody", "create", "leases", "coordination.k8s.io", namespace.name()] {
        ensure!(message.contains(part), "{part:?} is not in: {message}");
    }
    ensure!(!error.is_retryable());
    // It may have a session, but not take the lock.
    let mut only_create = rules();
    only_create[0].verbs = vec!["create".to_owned()];
    let half = namespace.service_account("half", only_create).await?;
    let client = Client::builder().kube_config(half.config()).namespace(namespace.name()).build()?;
    let error = client.lock("a").build()?.try_acquire().await.err().context("it was acquired")?;
    ensure!(matches!(&error, TryAcquireError::Api { source: ApiError::Forbidden { .. }, .. }), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_not_there_is_told_after_the_contact_timeout() -> Result<()> {
    let config = kube::Config::new("https://127.0.0.1:1".parse()?);
    let client = Client::builder().kube_config(config).contact_timeout(Duration::from_millis(300)).build()?;
    let error = client.lock("a").build()?.acquire().await.err().context("it was acquired")?;
    let AcquireError::Api { source: ApiError::Unavailable { message }, .. } = &error else {
        anyhow::bail!("not what it should be: {error}")
    };
    ensure!(message.to_lowercase().contains("refused"), "the cause is missing: {message}");
    ensure!(error.is_retryable());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_outage_costs_nobody_his_lock_or_his_place() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = cluster.namespace("outage").await?;
    let holder = client(&namespace, 60)?;
    let guard = holder.lock("a").build()?.acquire().await?;
    let next = client(&namespace, 60)?.lock("a").build()?;
    let waiting = tokio::spawn(async move { next.acquire().await });
    waiters(&namespace, "a", 1).await?;
    cluster.kill_apiserver().await?;
    let releasing = tokio::spawn(guard.release());
    cluster.start_apiserver().await?;
    let release = tokio::time::timeout(SOON, releasing).await.context("the release never ends")??;
    ensure!(matches!(&release, Ok(()) | Err(leasehold::ReleaseError::Unsettled { .. })), "{release:?}");
    let guard = tokio::time::timeout(SOON, waiting).await.context("the waiter was forgotten")???;
    guard.check()?;
    guard.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_server_a_guard_is_lost_before_its_session_can_pass() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = cluster.namespace("cut-off").await?;
    let client = client(&namespace, 3)?;
    let lock = client.lock("a").build()?;
    let guard = lock.acquire().await?;
    let lost = guard.lost();
    cluster.stop_apiserver().await?;
    tokio::time::timeout(Duration::from_secs(4), lost.cancelled()).await.context("it believes in it for ever")?;
    assert_eq!(guard.check().unwrap_err().reason, LossReason::Expired);
    cluster.start_apiserver().await?;
    // The renewals that succeed now change nothing.
    assert!(guard.check().is_err());
    drop(guard);
    let guard = tokio::time::timeout(SOON * 2, lock.acquire()).await.context("it never recovers")??;
    guard.release().await?;
    eventually(SOON, "the lock to be free", async || {
        ensure!(!lock.is_locked().await?, "it is held");
        Ok(())
    })
    .await
}
