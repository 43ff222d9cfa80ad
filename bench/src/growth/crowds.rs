//! Those beside whom operations are measured: each grows from size to size.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use leasehold::protocol::Record;
use leasehold::{Client, Lock, LockGuard, Store as _, clock};
use leasehold_testkit::Namespace;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;

use super::{AT_ONCE, Growth, STORES};
use crate::counting::{CountingStore, Counts};
use crate::measure::What;
use crate::stamping::{self, Stamp, StampingStore};

const SOON: Duration = Duration::from_secs(60);
/// So often [`AT_ONCE`] sessions are opened. What they cost in the end is measured here, not what a start of all at once does
/// to two processors that carry the servers as well.
const OPENING: Duration = Duration::from_millis(640);

impl Growth<'_> {
    /// Locks that one process holds, and one more of its own.
    pub(super) async fn held(&mut self) -> Result<()> {
        let counts = Arc::new(Counts::default());
        let client = self.client(&counts, 0)?;
        self.bench.lease("growth-one-more").await?;
        let one_more = client.lock("growth-one-more").build()?;
        let mut guards = Vec::new();
        for size in self.plan.up_to(usize::MAX) {
            let more: Vec<LockGuard> = futures::stream::iter(guards.len()..size)
                .map(|n| {
                    let lock = client.lock(format!("growth-held-{n}")).build();
                    async move { anyhow::Ok(lock?.acquire().await?) }
                })
                .buffer_unordered(AT_ONCE)
                .try_collect()
                .await?;
            guards.extend(more);
            let idle = self.idle(("locks held", size), 1, &counts).await?;
            self.operate(&idle, ("cycle", 2, self.plan.rounds), &counts, async || cycle(&one_more).await).await?;
            guards.iter().try_for_each(|guard| guard.check())?;
            self.stands(&idle, None);
        }
        client.shutdown().await;
        Ok(())
    }

    /// Other clients of the namespace, each with a session and a lock.
    pub(super) async fn sessions(&mut self) -> Result<()> {
        let counts = Arc::new(Counts::default());
        let probe = self.client(&counts, 99_999)?;
        self.bench.lease("growth-beside-sessions").await?;
        let lock = probe.lock("growth-beside-sessions").build()?;
        let mut others: Vec<(Client, LockGuard)> = Vec::new();
        for size in self.plan.up_to(self.plan.sessions) {
            let mut pace = tokio::time::interval(OPENING);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while others.len() < size {
                pace.tick().await;
                let (this, counts_of) = (&*self, &counts);
                let more: Vec<_> = futures::stream::iter(others.len()..size.min(others.len() + AT_ONCE))
                    .map(|n| async move {
                        let client = this.client(counts_of, n)?;
                        let guard = client.lock(format!("growth-of-session-{n}")).build()?.acquire().await?;
                        anyhow::Ok((client, guard))
                    })
                    .buffer_unordered(AT_ONCE)
                    .try_collect()
                    .await?;
                others.extend(more);
            }
            let idle = self.idle(("sessions", size), size, &counts).await?;
            self.operate(&idle, ("cycle", 2, self.plan.rounds), &counts, async || cycle(&lock).await).await?;
            others.iter().try_for_each(|(_, guard)| guard.check())?;
            self.stands(&idle, None);
        }
        shut_down(others.into_iter().map(|(client, _)| client).chain([probe])).await;
        Ok(())
    }

    /// Waiters for one lock: what it costs one more to join and leave again, and to hand it to the next.
    pub(super) async fn waiters(&mut self) -> Result<()> {
        const NAME: &str = "growth-waited-for";
        let counts = Arc::new(Counts::default());
        self.bench.lease(NAME).await?;
        let (tell, mut told) = unbounded_channel();
        // The first of them holds it.
        let mut stage = Waiters { clients: Vec::new(), locks: Vec::new(), tell };
        stage.comes(self.client(&counts, 0)?, NAME)?;
        let mut held = Some(granted(&mut told).await?);
        let (mut probe, looks) = (Joiner::new(self, &counts, NAME).await?, self.bench.store()?);
        let waiting = async || anyhow::Ok(Record::parse(looks.read(NAME).await?)?);
        for size in self.plan.up_to(self.plan.on_one_object) {
            while stage.locks.len() <= size {
                for n in stage.locks.len()..=size.min(stage.locks.len() + AT_ONCE) {
                    stage.comes(self.client(&counts, n)?, NAME)?;
                }
                until(async || Ok(waiting().await?.waiters.len() + 1 == stage.locks.len())).await?;
            }
            let bytes = waiting().await?.annotation_bytes();
            let idle = self.idle(("waiters", size), size + 1, &counts).await?;
            let rounds = self.plan.rounds.div_ceil(4);
            self.operate(&idle, ("join and leave", 2, rounds), &counts, async || probe.join_and_leave().await).await?;
            // Whoever held it comes back, which is no part of the hand-off.
            let former = Cell::new(None);
            let comes_back = async || {
                former.take().into_iter().for_each(|former| stage.joins(former));
                until(async || Ok(waiting().await?.waiters.len() >= size)).await
            };
            let hand_off = async || {
                let (holder, guard, _) = held.take().context("held")?;
                let begun = clock::moment();
                guard.release().await?;
                let next = granted(&mut told).await?;
                let took = next.2.since(begun);
                held = Some(next);
                former.set(Some(holder));
                Ok(took)
            };
            self.operate_after(&idle, ("hand-off", 1, rounds), &counts, comes_back, hand_off).await?;
            comes_back().await?;
            self.stands(&idle, Some(bytes));
        }
        shut_down(stage.clients.into_iter().chain([probe.client])).await;
        Ok(())
    }

    /// Holders of permits of one semaphore, and one more who comes and goes.
    pub(super) async fn holders(&mut self) -> Result<()> {
        const NAME: &str = "growth-shared";
        let counts = Arc::new(Counts::default());
        let sizes = self.plan.up_to(self.plan.on_one_object);
        let most = u32::try_from(sizes.last().copied().unwrap_or(0))?;
        self.bench.make(NAME, What::Semaphore(most + 10)).await?;
        let probe = self.client(&counts, 99_999)?;
        let (semaphore, looks) = (probe.semaphore(NAME).build()?, self.bench.store()?);
        let mut others = Vec::new();
        for size in sizes {
            while others.len() < size {
                let client = self.client(&counts, others.len())?;
                let permit = client.semaphore(NAME).build()?.acquire(1).await?;
                others.push((client, permit));
            }
            let bytes = Record::parse(looks.read(NAME).await?)?.annotation_bytes();
            let idle = self.idle(("holders of a semaphore", size), size, &counts).await?;
            let once = async || {
                let begun = clock::moment();
                semaphore.acquire(1).await?.release().await?;
                Ok(clock::moment().since(begun))
            };
            self.operate(&idle, ("cycle", 2, self.plan.rounds), &counts, once).await?;
            others.iter().try_for_each(|(_, permit)| permit.check())?;
            self.stands(&idle, Some(bytes));
        }
        shut_down(others.into_iter().map(|(client, _)| client).chain([probe])).await;
        Ok(())
    }

    /// Namespaces in each of which one process holds a lock.
    pub(super) async fn namespaces(&mut self) -> Result<()> {
        let counts = Arc::new(Counts::default());
        self.bench.lease("growth-beside-namespaces").await?;
        let probe = self.client(&counts, 99_999)?;
        let lock = probe.lock("growth-beside-namespaces").build()?;
        let mut others: Vec<(Namespace, Client, LockGuard)> = Vec::new();
        for size in self.plan.up_to(self.plan.namespaces) {
            let (this, counts_of) = (&*self, &counts);
            let more: Vec<_> = futures::stream::iter(others.len()..size)
                .map(|n| async move {
                    let namespace = this.cluster.namespace("growth").await?;
                    let store = this.stores[n % STORES].in_namespace(namespace.name());
                    let store = CountingStore { store, counts: counts_of.clone() };
                    let client = Client::builder().store(Arc::new(store)).namespace(namespace.name()).build()?;
                    let guard = client.lock("held").build()?.acquire().await?;
                    anyhow::Ok((namespace, client, guard))
                })
                .buffer_unordered(AT_ONCE / 2)
                .try_collect()
                .await?;
            others.extend(more);
            let idle = self.idle(("namespaces", size), size, &counts).await?;
            self.operate(&idle, ("cycle", 2, self.plan.rounds), &counts, async || cycle(&lock).await).await?;
            self.stands(&idle, None);
        }
        shut_down(others.iter().map(|(_, client, _)| client.clone()).chain([probe])).await;
        Ok(())
    }
}

async fn cycle(lock: &Lock) -> Result<Duration> {
    let begun = clock::moment();
    lock.acquire().await?.release().await?;
    Ok(clock::moment().since(begun))
}

/// Few at a time: those who stand on one object are in each other's way.
async fn shut_down(clients: impl Iterator<Item = Client>) {
    futures::stream::iter(clients).for_each_concurrent(4, |client| async move { client.shutdown().await }).await;
}

/// Looks until it is so. Who looks is not counted.
async fn until(so: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let begun = clock::moment();
    while !so().await? {
        ensure!(clock::moment().since(begun) < SOON, "it did not come about within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

type Granted = (usize, LockGuard, leasehold::protocol::Moment);

/// Those who wait, each for itself.
struct Waiters {
    clients: Vec<Client>,
    locks: Vec<Lock>,
    tell: UnboundedSender<Result<Granted>>,
}

impl Waiters {
    /// One more.
    fn comes(&mut self, client: Client, lock: &str) -> Result<()> {
        self.locks.push(client.lock(lock).build()?);
        self.clients.push(client);
        self.joins(self.locks.len() - 1);
        Ok(())
    }

    /// Lets one of them wait.
    fn joins(&self, n: usize) {
        let (lock, tell) = (self.locks[n].clone(), self.tell.clone());
        tokio::spawn(async move {
            let granted = lock.acquire().await.map(|guard| (n, guard, clock::moment()));
            let _ = tell.send(granted.map_err(Into::into));
        });
    }
}

async fn granted(told: &mut UnboundedReceiver<Result<Granted>>) -> Result<Granted> {
    tokio::time::timeout(SOON, told.recv()).await?.context("nobody waits")?
}

/// One more who joins the queue and leaves it.
struct Joiner {
    client: Client,
    lock: Lock,
    name: &'static str,
    stamps: UnboundedReceiver<Stamp>,
    /// Keeps the session open.
    _guard: LockGuard,
}

impl Joiner {
    async fn new(growth: &Growth<'_>, counts: &Arc<Counts>, name: &'static str) -> Result<Self> {
        let (tell, stamps) = unbounded_channel();
        let store = CountingStore { store: growth.bench.store()?, counts: counts.clone() };
        let store = StampingStore { store, tell };
        let client = Client::builder().store(Arc::new(store)).namespace(&growth.bench.namespace).build()?;
        let guard = client.lock("growth-of-joiner").build()?.acquire().await?;
        Ok(Self { lock: client.lock(name).build()?, client, name, stamps, _guard: guard })
    }

    /// When its next write of the lock's Lease was carried out.
    async fn written(&mut self) -> Result<leasehold::protocol::Moment> {
        tokio::time::timeout(SOON, async {
            while let Some(stamp) = self.stamps.recv().await {
                if stamp.name == self.name && stamp.what == stamping::What::WriteAnswered(true) {
                    return Ok(stamp.at);
                }
            }
            anyhow::bail!("the store is gone")
        })
        .await?
    }

    /// How long it took until it stood in the queue, and until it had left it.
    async fn join_and_leave(&mut self) -> Result<Duration> {
        while self.stamps.try_recv().is_ok() {}
        let lock = self.lock.clone();
        let begun = clock::moment();
        let waits = tokio::spawn(async move { lock.acquire().await.map(drop) });
        let joined = self.written().await?;
        // What it begins to watch then is not to be in the way.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let leaves = clock::moment();
        waits.abort();
        let left = self.written().await?;
        Ok(joined.since(begun) + left.since(leaves))
    }
}
