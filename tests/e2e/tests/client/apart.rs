//! Clients that live on a thread of the crate's own.

use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold::{Client, LossReason, TryAcquireError};
use leasehold_testkit::Namespace;

use crate::support::{lock, namespace};

const SESSION: Duration = Duration::from_secs(3);

fn client(namespace: &Namespace, apart: bool) -> Result<Client> {
    let options = Client::builder().kube_config(namespace.config()).namespace(namespace.name());
    let options = if apart { options.dedicated_runtime() } else { options };
    Ok(options.session_duration(SESSION).build()?)
}

#[tokio::test]
async fn who_blocks_its_runtime_keeps_its_locks_only_if_its_client_lives_apart() -> Result<()> {
    let (namespace, _dump) = namespace("apart").await?;
    let (apart, here) = (client(&namespace, true)?, client(&namespace, false)?);
    let (kept, lost) = (apart.lock("kept").build()?, here.lock("lost").build()?);
    // The first connection is made by a request of this task's.
    ensure!(!kept.is_locked().await? && !lost.is_locked().await?);
    let (kept, lost) = (kept.acquire().await?, lost.acquire().await?);
    // This is the mistake.
    std::thread::sleep(SESSION * 3);
    assert_eq!(lost.check().expect_err("nobody renewed it").reason, LossReason::Expired);
    kept.check()?;
    let rival = lock(&namespace, "kept")?.try_acquire().await;
    ensure!(matches!(rival, Err(TryAcquireError::Held { .. })), "{rival:?}");
    kept.release().await?;
    lock(&namespace, "kept")?.acquire().await?.release().await?;
    apart.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_runtimes_only_thread_can_block_for_a_lock() -> Result<()> {
    let (namespace, _dump) = namespace("blocking").await?;
    let client = client(&namespace, true)?;
    let lock = client.lock("order:payment:4711").build()?;
    let guard = lock.blocking_acquire(None)?;
    ensure!(lock.blocking_status()?.holder.is_some());
    guard.blocking_publish("on its way")?;
    guard.blocking_release()?;
    let token = lock.blocking_with_lock(|guard| guard.token())?;
    ensure!(lock.acquire().await?.token() > token);
    client.blocking_shutdown();
    Ok(())
}
