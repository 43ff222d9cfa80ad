//! A store that counts what goes through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::record::SESSION_PREFIX;
use leasehold::protocol::{Version, Write};
use leasehold::{Failure, KubeStore, Sight, Store};

/// Requests and events of all the clients that share it.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    heartbeats: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
    watches: AtomicU64,
    events: AtomicU64,
}

/// A moment's counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    /// Writes of sessions: they cost per client and time, not per cycle.
    pub(crate) heartbeats: u64,
    /// Writes of the lock's Lease.
    pub(crate) writes: u64,
    /// Reads, and beginnings of watches: both are GETs.
    pub(crate) reads: u64,
    pub(crate) events: u64,
}

impl Counts {
    pub(crate) fn now(&self) -> Tally {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            heartbeats: get(&self.heartbeats),
            writes: get(&self.writes),
            reads: get(&self.reads) + get(&self.watches),
            events: get(&self.events),
        }
    }
}

impl std::ops::Sub for Tally {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            heartbeats: self.heartbeats - earlier.heartbeats,
            writes: self.writes - earlier.writes,
            reads: self.reads - earlier.reads,
            events: self.events - earlier.events,
        }
    }
}

/// A [`KubeStore`] whose traffic is counted.
#[derive(Debug)]
pub(crate) struct CountingStore {
    pub(crate) store: KubeStore,
    pub(crate) counts: Arc<Counts>,
}

impl Store for CountingStore {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        self.counts.reads.fetch_add(1, Ordering::Relaxed);
        self.store.read(name)
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        let session = name.starts_with(SESSION_PREFIX);
        let counter = if session { &self.counts.heartbeats } else { &self.counts.writes };
        counter.fetch_add(1, Ordering::Relaxed);
        self.store.write(name, write).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Lease>, Failure>> {
        self.counts.reads.fetch_add(1, Ordering::Relaxed);
        self.store.list()
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        self.counts.watches.fetch_add(1, Ordering::Relaxed);
        let counts = self.counts.clone();
        let count = move |sight: &Result<Sight, Failure>| {
            if matches!(sight, Ok(Sight::Shows(_) | Sight::Hides(_))) {
                counts.events.fetch_add(1, Ordering::Relaxed);
            }
        };
        self.store.watch(name, label, from).inspect(count).boxed()
    }
}
