//! Watches that break, or cannot be resumed: who holds and who waits hears of what happens all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::{Version, Write};
use leasehold::{Client, Failure, LockGuard, MemoryStore, Sight, Store};
use tokio_util::sync::CancellationToken;

/// A store that has forgotten what happened before now, as an API server has after a restart.
#[derive(Debug)]
struct Forgetful(MemoryStore);

impl Store for Forgetful {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        self.0.read(name)
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        self.0.write(name, write)
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        match from {
            Some(_) => futures::stream::iter([Err(Failure::Refused)]).boxed(),
            None => self.0.watch(name, label, None),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_cannot_be_resumed_begins_anew() {
    let store = MemoryStore::new();
    let client = |store: Arc<dyn Store>| {
        Client::builder().store(store).session_duration(Duration::from_secs(60)).build().unwrap()
    };
    let holder = client(Arc::new(store.clone())).lock("a").build().unwrap();
    let forgetful = client(Arc::new(Forgetful(store.clone()))).lock("a").build().unwrap();
    let guard = holder.acquire().await.unwrap();
    let waiting = tokio::spawn({
        let forgetful = forgetful.clone();
        async move { forgetful.acquire().await.unwrap() }
    });
    while holder.status().await.unwrap().waiters.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Until it has noticed, and begun anew. It reads by itself only after eighteen seconds.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    guard.release().await.unwrap();
    let guard =
        tokio::time::timeout(Duration::from_secs(8), waiting).await.expect("it hears of its grant by reading only");
    let guard = guard.unwrap();
    // A hold that is to be told of its loss at once is watched in the same way.
    let lost = guard.lost();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let lease = store.read("a").await.unwrap().metadata;
    let version = lease.resource_version.unwrap().parse().unwrap();
    store.write("a", &Write::Delete { uid: lease.uid.unwrap(), version }).await.unwrap();
    tokio::time::timeout(Duration::from_secs(8), lost.cancelled()).await.expect("the loss was not told at once");
    let free = tokio::time::timeout(Duration::from_secs(8), forgetful.wait_until_free()).await;
    free.expect("it waits for what is free").unwrap();
}

/// A store whose watches can all be broken off, and whose reads are counted.
#[derive(Debug)]
struct Breakable {
    store: MemoryStore,
    breaks: tokio::sync::watch::Sender<u64>,
    reads: AtomicU64,
    watches: AtomicU64,
}

impl Store for Breakable {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.store.read(name)
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        self.store.write(name, write)
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        self.watches.fetch_add(1, Ordering::SeqCst);
        let end = futures::stream::iter([Err(Failure::Unclear("the connection broke".to_owned()))]);
        let mut breaks = self.breaks.subscribe();
        if *breaks.borrow() == FOR_GOOD {
            return end.boxed();
        }
        let broken = async move { breaks.changed().await };
        self.store.watch(name, label, from).take_until(broken).chain(end).boxed()
    }
}

const LOCKS: usize = 20;

/// So often watches break that none can be begun any more.
const FOR_GOOD: u64 = u64::MAX;

/// So many locks that are held, and watched for their loss.
async fn watched_holds(store: &MemoryStore) -> (Arc<Breakable>, Client, Vec<(CancellationToken, LockGuard)>) {
    let (reads, watches) = (AtomicU64::new(0), AtomicU64::new(0));
    let breaks = tokio::sync::watch::Sender::new(0);
    let breakable = Arc::new(Breakable { store: store.clone(), breaks, reads, watches });
    let client = Client::builder().store(breakable.clone()).build().unwrap();
    let mut guards = Vec::new();
    for n in 0..LOCKS {
        let guard = client.lock(format!("lock-{n}")).build().unwrap().acquire().await.unwrap();
        guards.push((guard.lost(), guard));
    }
    while breakable.watches.load(Ordering::SeqCst) < LOCKS as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (breakable, client, guards)
}

/// Thousands may have lost their watches at once, and all have their sessions to renew.
#[tokio::test(flavor = "multi_thread")]
async fn holders_whose_watches_broke_do_not_all_ask_at_once_and_hear_of_their_loss_all_the_same() {
    let store = MemoryStore::new();
    let (breakable, _client, guards) = watched_holds(&store).await;
    let counts = || (breakable.reads.load(Ordering::SeqCst), breakable.watches.load(Ordering::SeqCst));
    let before = counts();
    breakable.breaks.send_modify(|breaks| *breaks += 1);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let after = counts();
    assert_eq!(after.0, before.0, "they read what nobody waits for");
    assert!(after.1 - before.1 <= LOCKS as u64 / 2, "{} of {LOCKS} watch at once", after.1 - before.1);
    all_hear_of_their_loss(&store, guards).await;
}

/// A watch can be forbidden, or fail each time, where reads do not.
#[tokio::test(flavor = "multi_thread")]
async fn holders_who_can_watch_no_more_hear_of_their_loss_by_reading() {
    let store = MemoryStore::new();
    let (breakable, _client, guards) = watched_holds(&store).await;
    breakable.breaks.send_replace(FOR_GOOD);
    all_hear_of_their_loss(&store, guards).await;
}

/// All their Leases are removed.
async fn all_hear_of_their_loss(store: &MemoryStore, guards: Vec<(CancellationToken, LockGuard)>) {
    for n in 0..LOCKS {
        let name = format!("lock-{n}");
        let lease = store.read(&name).await.unwrap().metadata;
        let version = lease.resource_version.unwrap().parse().unwrap();
        store.write(&name, &Write::Delete { uid: lease.uid.unwrap(), version }).await.unwrap();
    }
    // A renew interval, and as much again for a slow machine: none is as long as it takes until a session is lost.
    for (lost, _guard) in &guards {
        tokio::time::timeout(Duration::from_secs(20), lost.cancelled()).await.expect("a loss was not told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_after_a_watch_of_a_hold_broke_is_told_of_its_grant_by_a_watch() {
    let store = MemoryStore::new();
    let (breakable, client, guards) = watched_holds(&store).await;
    breakable.breaks.send_modify(|breaks| *breaks += 1);
    let other = Client::builder().store(Arc::new(store.clone())).build().unwrap();
    let (mut others, mut waiting) = (Vec::new(), Vec::new());
    for (n, (_, guard)) in guards.into_iter().enumerate() {
        guard.release().await.unwrap();
        let lock = other.lock(format!("lock-{n}")).build().unwrap();
        others.push((lock.acquire().await.unwrap(), lock));
        let lock = client.lock(format!("lock-{n}")).build().unwrap();
        waiting.push(tokio::spawn(async move { lock.acquire().await.unwrap() }));
    }
    for (guard, lock) in others {
        while lock.status().await.unwrap().waiters.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        guard.release().await.unwrap();
    }
    // They look for themselves only after nine seconds.
    for waiter in waiting {
        let granted = tokio::time::timeout(Duration::from_secs(4), waiter).await;
        granted.expect("it heard nothing of its grant").unwrap().release().await.unwrap();
    }
}
