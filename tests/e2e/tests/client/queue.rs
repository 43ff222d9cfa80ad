//! Waiting: in order, without leftovers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::{Version, Write};
use leasehold::{Client, Failure, KubeStore, Sight, Store};
use leasehold_testkit::{Signal, eventually};

use crate::support::{SOON, Workers, client, lock, namespace, record, waiters};

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_served_in_the_order_of_their_joins() -> Result<()> {
    let (namespace, _dump) = namespace("fifo").await?;
    let guard = lock(&namespace, "a")?.acquire().await?;
    let (served, mut order) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = Vec::new();
    for n in 0..8 {
        let (lock, served) = (lock(&namespace, "a")?, served.clone());
        waiting.push(tokio::spawn(async move {
            let guard = lock.acquire().await?;
            served.send((n, guard.token()))?;
            guard.release().await?;
            anyhow::Ok(())
        }));
        waiters(&namespace, "a", n + 1).await?;
    }
    guard.release().await?;
    for task in waiting {
        task.await??;
    }
    drop(served);
    let mut seen = Vec::new();
    while let Some((n, token)) = order.recv().await {
        seen.push((n, token));
    }
    assert_eq!(seen.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    assert!(seen.is_sorted_by_key(|(_, token)| *token), "{seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_wait_leaves_no_waiter_and_nobody_waits_for_it() -> Result<()> {
    let (namespace, _dump) = namespace("cancel").await?;
    let guard = lock(&namespace, "a")?.acquire().await?;
    for n in 0..10 {
        let lock = lock(&namespace, "a")?;
        let cancelled = tokio::spawn(async move { lock.acquire().await });
        if n % 2 == 0 {
            waiters(&namespace, "a", 1).await?;
        } // otherwise somewhere on its way into the queue
        cancelled.abort();
        waiters(&namespace, "a", 0).await?;
    }
    // Cancelled at the very time at which it is granted, it hands the lock on.
    let (first, second) = (lock(&namespace, "a")?, lock(&namespace, "a")?);
    let cancelled = tokio::spawn(async move { first.acquire().await });
    waiters(&namespace, "a", 1).await?;
    let second = tokio::spawn(async move { second.acquire().await });
    waiters(&namespace, "a", 2).await?;
    cancelled.abort();
    guard.release().await?;
    let guard = tokio::time::timeout(SOON, second).await.context("the lock is stuck")???;
    guard.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_waiter_is_passed_over() -> Result<()> {
    let (namespace, _dump) = namespace("dead-waiter").await?;
    let workers = Workers::new(&namespace).await?;
    let file = workers.path().join("work");
    let guard = lock(&namespace, "a")?.acquire().await?;
    let dead = workers.start("dead", &["--name", "a", "hold", &file.to_string_lossy()])?;
    waiters(&namespace, "a", 1).await?;
    let next = lock(&namespace, "a")?;
    let next = tokio::spawn(async move { next.acquire().await });
    waiters(&namespace, "a", 2).await?;
    dead.signal(Signal::KILL)?;
    guard.release().await?;
    let guard = tokio::time::timeout(SOON, next).await.context("the dead waiter holds everybody up")???;
    assert!(record(&namespace, "a").await?.context("the Lease")?.waiters.is_empty());
    guard.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_try_leaves_nothing_and_a_process_says_who_holds() -> Result<()> {
    let (namespace, _dump) = namespace("try").await?;
    let workers = Workers::new(&namespace).await?;
    let guard = lock(&namespace, "a")?.acquire().await?;
    let mut process = workers.start("second", &["--name", "a", "try"])?;
    let line = process.wait_for_line(SOON, |line| line.starts_with("refused")).await?;
    ensure!(line.contains(&guard.holder_identity()), "{line}");
    process.wait_success(SOON).await?;
    assert!(record(&namespace, "a").await?.context("the Lease")?.waiters.is_empty());
    guard.release().await?;
    Ok(())
}

/// A store whose watches never show anything.
#[derive(Debug)]
struct Deaf(KubeStore);

impl Store for Deaf {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        self.0.read(name).boxed()
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        self.0.write(name, write).boxed()
    }

    fn watch(&self, _: &str, _: Option<&str>, _: Option<Version>) -> BoxStream<'static, Result<Sight, Failure>> {
        futures::stream::pending().boxed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_with_a_deaf_watch_gets_the_lock() -> Result<()> {
    let (namespace, _dump) = namespace("deaf").await?;
    let guard = lock(&namespace, "a")?.acquire().await?;
    let store = Deaf(KubeStore::new(namespace.config(), namespace.name())?);
    let deaf = Client::builder().store(std::sync::Arc::new(store)).session_duration(Duration::from_secs(3)).build()?;
    let deaf = deaf.lock("a").build()?;
    let waiting = tokio::spawn(async move { deaf.acquire().await });
    waiters(&namespace, "a", 1).await?;
    guard.release().await?;
    let guard = tokio::time::timeout(SOON, waiting).await.context("it hears nothing, and waits for ever")???;
    guard.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_closes_its_session_and_opens_another() -> Result<()> {
    let (namespace, _dump) = namespace("idle").await?;
    let client = client(&namespace, 3)?;
    let lock = client.lock("a").build()?;
    lock.acquire().await?.release().await?;
    eventually(SOON, "the session to be closed", async || {
        let leases = namespace.api::<Lease>().list(&kube::api::ListParams::default()).await?;
        ensure!(leases.items.is_empty(), "{} Leases are there", leases.items.len());
        Ok(())
    })
    .await?;
    lock.acquire().await?.release().await?;
    Ok(())
}
