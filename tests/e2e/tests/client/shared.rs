//! What several can hold: semaphores and read-write locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use leasehold::protocol::Kind;
use leasehold::protocol::record::{KIND, PERMITS};
use leasehold::{MultiLock, ReadWriteLock, Semaphore, TryAcquireError};
use leasehold_testkit::{Namespace, eventually};
use serde_json::json;

use crate::support::{SOON, client, namespace, record, waiters};

fn semaphore(namespace: &Namespace, permits: u32) -> Result<Semaphore> {
    Ok(client(namespace, 6)?.semaphore("db").with_permits(permits).build()?)
}

fn rwlock(namespace: &Namespace) -> Result<ReadWriteLock> {
    Ok(client(namespace, 6)?.read_write_lock("catalog")?)
}

/// A semaphore that stays, as the operator makes it.
async fn standing(namespace: &Namespace, permits: u32) -> Result<Semaphore> {
    let metadata = ObjectMeta {
        name: Some("db".to_owned()),
        labels: Some([(KIND.to_owned(), Kind::Semaphore.name().to_owned())].into()),
        annotations: Some([(PERMITS.to_owned(), permits.to_string())].into()),
        ..ObjectMeta::default()
    };
    namespace.api::<Lease>().create(&PostParams::default(), &Lease { metadata, spec: None }).await?;
    Ok(client(namespace, 6)?.semaphore("db").build()?)
}

async fn resize(namespace: &Namespace, permits: u32) -> Result<()> {
    let patch = json!({ "metadata": { "annotations": { PERMITS: permits.to_string() } } });
    namespace.api::<Lease>().patch("db", &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_permits_are_out_than_there_are() -> Result<()> {
    const LIMIT: i64 = 4;
    let (namespace, _dump) = namespace("permits").await?;
    let out = Arc::new(AtomicI64::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..12 {
        let (semaphore, out) = (semaphore(&namespace, 4)?, out.clone());
        workers.spawn(async move {
            for round in 0..8 {
                let wanted = 1 + (worker + round) % 3;
                let permits = semaphore.acquire(u32::try_from(wanted)?).await?;
                let before = out.fetch_add(wanted, Ordering::SeqCst);
                ensure!(before + wanted <= LIMIT, "{before} are out, and {wanted} more");
                permits.check()?;
                out.fetch_sub(wanted, Ordering::SeqCst);
                permits.release().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    // The Lease was made on the spot, and goes with the last of them.
    eventually(SOON, "the Lease to go", async || {
        ensure!(record(&namespace, "db").await?.is_none());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_for_permits_are_served_in_the_order_of_their_joins() -> Result<()> {
    let (namespace, _dump) = namespace("sem-fifo").await?;
    let all = semaphore(&namespace, 3)?.acquire(3).await?;
    let (served, mut order) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = tokio::task::JoinSet::new();
    // The third is too large to be served beside the second, and the fourth does not overtake it.
    for (n, wanted) in [1, 2, 3, 1, 2].into_iter().enumerate() {
        let (semaphore, served) = (semaphore(&namespace, 3)?, served.clone());
        waiting.spawn(async move {
            let permits = semaphore.acquire(wanted).await?;
            served.send((n, permits.token()))?;
            permits.release().await?;
            anyhow::Ok(())
        });
        waiters(&namespace, "db", n + 1).await?;
    }
    all.release().await?;
    while let Some(waiter) = waiting.join_next().await {
        waiter??;
    }
    drop(served);
    let mut tokens = Vec::new();
    while let Some(served) = order.recv().await {
        tokens.push(served);
    }
    // Who is let in by one write has one token.
    tokens.sort_unstable();
    assert!(tokens.is_sorted_by_key(|(_, token)| *token) && tokens.len() == 5, "{tokens:?}");
    assert!(tokens[1].1 < tokens[2].1 && tokens[2].1 < tokens[3].1, "{tokens:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn growing_lets_in_at_once_and_shrinking_nobody_until_there_is_room() -> Result<()> {
    let (namespace, _dump) = namespace("resize").await?;
    let one = standing(&namespace, 1).await?.acquire(1).await?;
    let waiting = tokio::spawn({
        let semaphore = client(&namespace, 30)?.semaphore("db").build()?;
        async move { semaphore.acquire(1).await }
    });
    waiters(&namespace, "db", 1).await?;
    resize(&namespace, 3).await?;
    // Sooner than it reads by itself, which is every ten seconds.
    let two = tokio::time::timeout(Duration::from_secs(5), waiting).await.context("it is not told")???;
    resize(&namespace, 1).await?;
    two.check()?;
    let semaphore = client(&namespace, 6)?.semaphore("db").build()?;
    let status = semaphore.status().await?;
    assert_eq!((status.permits, status.held, status.available), (1, 2, 0), "nobody loses what he has");
    one.release().await?;
    assert!(matches!(semaphore.try_acquire(1).await, Err(TryAcquireError::Held { .. })), "there is no room");
    two.release().await?;
    semaphore.try_acquire(1).await?.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_processs_permits_are_taken_over() -> Result<()> {
    let (namespace, _dump) = namespace("sem-dead").await?;
    let semaphore = standing(&namespace, 2).await?;
    // Its runtime is dropped: nobody renews, and nobody releases.
    let dead = client(&namespace, 2)?.semaphore("db").build()?;
    let token = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let permits = runtime.block_on(dead.acquire(2))?;
        let token = permits.token();
        runtime.shutdown_background();
        std::mem::forget(permits);
        anyhow::Ok(token)
    })
    .await??;
    let next = tokio::time::timeout(SOON, semaphore.acquire(2)).await.context("they are never free")??;
    assert!(next.token() > token);
    next.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_permit_is_revoked_and_the_others_stay() -> Result<()> {
    let (namespace, _dump) = namespace("revoke").await?;
    let semaphore = semaphore(&namespace, 3)?;
    let (one, two) = (semaphore.acquire(1).await?, semaphore.acquire(2).await?);
    let lost = one.lost();
    assert!(client(&namespace, 6)?.semaphore("db").build()?.revoke(&one.holder_identity()).await?);
    tokio::time::timeout(SOON, lost.cancelled()).await.context("it is not told")?;
    one.check().expect_err("it is lost");
    two.check()?;
    assert!(!semaphore.revoke("nobody_x.1").await?);
    assert_eq!(semaphore.available_permits().await?, 1);
    two.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_share_and_neither_they_nor_writers_starve() -> Result<()> {
    let (namespace, _dump) = namespace("rw").await?;
    let (one, two) = (rwlock(&namespace)?.read().await?, rwlock(&namespace)?.read().await?);
    let write = tokio::spawn({
        let lock = rwlock(&namespace)?;
        async move { lock.write().await }
    });
    waiters(&namespace, "catalog", 1).await?;
    let mut reads = tokio::task::JoinSet::new();
    for n in 0..3 {
        let lock = rwlock(&namespace)?;
        reads.spawn(async move { lock.read().await });
        waiters(&namespace, "catalog", n + 2).await?;
    }
    one.release().await?;
    two.check()?;
    assert!(!write.is_finished(), "it writes what is read");
    two.release().await?;
    let writer = tokio::time::timeout(SOON, write).await.context("the writer starves")???;
    assert!(reads.try_join_next().is_none(), "it is read while it is written");
    writer.release().await?;
    // All three are let in together.
    let mut guards = Vec::new();
    while let Some(guard) = tokio::time::timeout(SOON, reads.join_next()).await.context("readers starve")? {
        guards.push(guard??);
    }
    let tokens: Vec<_> = guards.iter().map(|guard| guard.token()).collect();
    assert!(tokens.iter().all(|token| *token == tokens[0]), "{tokens:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_and_a_downgrade_let_nobody_write_in_between() -> Result<()> {
    let (namespace, _dump) = namespace("upgrade").await?;
    let reader = rwlock(&namespace)?.read().await?;
    let upgradeable = rwlock(&namespace)?.upgradeable_read().await?;
    let token = upgradeable.token();
    let upgrade = tokio::spawn(upgradeable.upgrade());
    eventually(SOON, "the wish to become the writer", async || {
        let record = record(&namespace, "catalog").await?.context("no Lease")?;
        ensure!(record.upgrading.is_some());
        Ok(())
    })
    .await?;
    let writing = tokio::spawn({
        let lock = rwlock(&namespace)?;
        async move { lock.write().await.map(|guard| guard.token()) }
    });
    waiters(&namespace, "catalog", 1).await?;
    assert!(matches!(rwlock(&namespace)?.try_read().await, Err(TryAcquireError::Held { .. })));
    reader.release().await?;
    let writer = tokio::time::timeout(SOON, upgrade).await.context("never alone")???;
    assert!(writer.token() > token && !writing.is_finished());
    let reader = writer.downgrade().await?;
    reader.check()?;
    assert!(!writing.is_finished(), "somebody writes what is read");
    reader.release().await?;
    let later = tokio::time::timeout(SOON, writing).await.context("the writer starves")???;
    assert!(later > token);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_are_acquired_in_one_order_whatever_order_they_are_named_in() -> Result<()> {
    let (namespace, _dump) = namespace("multi").await?;
    let inside = Arc::new(AtomicI64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let (client, inside) = (client(&namespace, 6)?, inside.clone());
        tasks.spawn(async move {
            let [a, b] = if task % 2 == 0 { ["a", "b"] } else { ["b", "a"] };
            let (one, two) = (client.lock(a).build()?, client.lock(b).build()?);
            let permits = client.semaphore("db").with_permits(3).build()?;
            let all = MultiLock::new().lock(&one).permits(&permits, 2).lock(&two).build()?;
            for _ in 0..5 {
                let guard = all.acquire_timeout(SOON).await?;
                ensure!(inside.fetch_add(1, Ordering::SeqCst) == 0, "two at once");
                guard.check()?;
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.release().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    for name in ["a", "b", "db"] {
        assert!(record(&namespace, name).await?.is_none(), "{name} is left over");
    }
    Ok(())
}
