//! What tasks of one process pass on among themselves, and what lingers: how many requests that takes, and that others get it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::record::SESSION_PREFIX;
use leasehold::protocol::{Version, Write};
use leasehold::{Client, Failure, KubeStore, Lock, Sight, Store};
use leasehold_testkit::{Namespace, eventually};

use crate::support::{SOON, client, lock, namespace, record, waiters};

/// What went to the lock's Lease, but for what lists.
#[derive(Debug, Default)]
struct Counts {
    reads: AtomicU64,
    writes: AtomicU64,
    watches: AtomicU64,
    events: AtomicU64,
}

impl Counts {
    /// Reads, writes, and watches begun.
    fn requests(&self) -> [u64; 3] {
        [&self.reads, &self.writes, &self.watches].map(|count| count.load(Ordering::SeqCst))
    }
}

#[derive(Debug)]
struct Counting {
    store: KubeStore,
    counts: Arc<Counts>,
}

impl Store for Counting {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        self.counts.reads.fetch_add(u64::from(!name.starts_with(SESSION_PREFIX)), Ordering::SeqCst);
        self.store.read(name)
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        self.counts.writes.fetch_add(u64::from(!name.starts_with(SESSION_PREFIX)), Ordering::SeqCst);
        self.store.write(name, write)
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        self.counts.watches.fetch_add(1, Ordering::SeqCst);
        let counts = self.counts.clone();
        let count = move |_: &_| {
            counts.events.fetch_add(1, Ordering::SeqCst);
        };
        self.store.watch(name, label, from).inspect(count).boxed()
    }
}

fn counted(namespace: &Namespace) -> Result<(Client, Arc<Counts>)> {
    let counts = Arc::<Counts>::default();
    let store = Counting { store: KubeStore::new(namespace.config(), namespace.name())?, counts: counts.clone() };
    Ok((Client::builder().store(Arc::new(store)).namespace(namespace.name()).build()?, counts))
}

/// Takes it, and releases it when the watch is open.
async fn comes_to_linger(lock: &Lock, counts: &Counts) -> Result<()> {
    let guard = lock.acquire().await?;
    eventually(SOON, "the watch shows the Lease", async || {
        ensure!(counts.events.load(Ordering::SeqCst) > 0);
        Ok(())
    })
    .await?;
    guard.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_pass_it_on_by_a_few_requests() -> Result<()> {
    let (namespace, _dump) = namespace("local").await?;
    let (client, counts) = counted(&namespace)?;
    // Longer than any machine takes for this, so that requests can be counted.
    let lock = client.lock("a").local_handoff(Duration::from_mins(1)).build()?;
    let inside = Arc::new(AtomicUsize::new(0));
    let tasks = (0..1000).map(|_| {
        let (lock, inside) = (lock.clone(), inside.clone());
        tokio::spawn(async move {
            let guard = lock.acquire().await?;
            ensure!(inside.fetch_add(1, Ordering::SeqCst) == 0, "two at once");
            let token = guard.token();
            guard.check()?;
            inside.fetch_sub(1, Ordering::SeqCst);
            guard.release().await?;
            Ok(token)
        })
    });
    let mut tokens = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        tokens.push(task.await??);
    }
    tokens.dedup();
    let [reads, writes, watches] = counts.requests();
    // A task that is late for its turn on a busy machine costs two more.
    ensure!(reads <= 2 && watches == 0, "{reads} reads, {watches} watches");
    ensure!(writes <= 20 && tokens.len() <= 10, "{writes} writes, tokens {tokens:?}");
    client.shutdown().await;
    ensure!(record(&namespace, "a").await?.is_none_or(|record| !record.is_held()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lingers_is_had_again_without_a_request_and_by_others_at_once() -> Result<()> {
    let (namespace, _dump) = namespace("linger").await?;
    let (here, counts) = counted(&namespace)?;
    let mine = here.lock("a").linger(Duration::from_mins(30)).build()?;
    comes_to_linger(&mine, &counts).await?;
    let before = counts.requests();
    let mut token = 0;
    for _ in 0..200 {
        let guard = mine.acquire().await?;
        token = guard.token();
        guard.check()?;
        guard.release().await?;
    }
    // The session outlives no renew interval here: 10 s, in which nothing is read.
    let after = counts.requests();
    ensure!(after[1..] == before[1..] && after[0] <= before[0] + 1, "{before:?}, then {after:?}");
    // Somebody else who waits has it long before it would have lingered for long enough.
    let there = lock(&namespace, "a")?;
    let guard = tokio::time::timeout(SOON, there.acquire()).await??;
    ensure!(guard.token() > token);
    // And now it waits itself.
    let again = tokio::spawn({
        let mine = mine.clone();
        async move { mine.acquire().await }
    });
    waiters(&namespace, "a", 1).await?;
    guard.release().await?;
    let guard = tokio::time::timeout(SOON, again).await???;
    guard.release().await?;
    // Asked to let go, or broken, it is nobody's at once.
    client(&namespace, 6)?.lock("a").build()?.request_release(Duration::from_secs(5), "please").await?;
    eventually(SOON, "what lingers is given back", async || {
        ensure!(record(&namespace, "a").await?.is_none_or(|record| !record.is_held()));
        Ok(())
    })
    .await?;
    here.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_gives_back_what_lingers() -> Result<()> {
    let (namespace, _dump) = namespace("linger-end").await?;
    let (here, counts) = counted(&namespace)?;
    let mine = here.lock("a").linger(Duration::from_mins(30)).build()?;
    comes_to_linger(&mine, &counts).await?;
    ensure!(record(&namespace, "a").await?.is_some_and(|record| record.is_held()));
    here.shutdown().await;
    lock(&namespace, "a")?.try_acquire().await?.release().await?;
    Ok(())
}
