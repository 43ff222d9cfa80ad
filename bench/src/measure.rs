//! The measurements. Each floor is taken in the same run as what it is held against, turn by turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use hdrhistogram::Histogram;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Config;
use kube::api::PostParams;
use leasehold::protocol::record::{KIND, PERMITS};
use leasehold::protocol::{Kind, Record, Write};
use leasehold::{Client, KubeStore, Lock, Sight, Store, clock};

use tokio::sync::Semaphore;

use crate::counting::{CountingStore, Counts};
use crate::report::Report;

/// How long it takes until those who wait without end have found their pace.
const SETTLE: Duration = Duration::from_secs(45);

/// Where to measure.
pub(crate) struct Bench {
    pub(crate) config: Config,
    pub(crate) namespace: String,
    pub(crate) report: Report,
}

impl Bench {
    pub(crate) fn store(&self) -> Result<KubeStore> {
        Ok(KubeStore::new(self.config.clone(), &self.namespace)?)
    }

    /// A client with a connection of its own, and default options.
    pub(crate) fn client(&self, counts: &Arc<Counts>) -> Result<Client> {
        let store = CountingStore { store: self.store()?, counts: counts.clone() };
        Ok(Client::builder().store(Arc::new(store)).namespace(&self.namespace).build()?)
    }

    pub(crate) async fn lease(&self, name: &str) -> Result<Lease> {
        self.make(name, What::Lock).await
    }

    /// A Lease that stays when it is free, as the operator makes them.
    pub(crate) async fn make(&self, name: &str, what: What) -> Result<Lease> {
        let leases = kube::Api::<Lease>::namespaced(kube::Client::try_from(self.config.clone())?, &self.namespace);
        let mut metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let kind = |kind: Kind| Some([(KIND.to_owned(), kind.name().to_owned())].into());
        match what {
            What::Lock => {}
            What::Semaphore(permits) => {
                metadata.labels = kind(Kind::Semaphore);
                metadata.annotations = Some([(PERMITS.to_owned(), permits.to_string())].into());
            }
            What::Readers => metadata.labels = kind(Kind::ReadWriteLock),
        }
        let lease = Lease { metadata, spec: Some(LeaseSpec::default()) };
        Ok(leases.create(&PostParams::default(), &lease).await?)
    }

    /// A bare PUT, and what an uncontended cycle costs beside two of them.
    pub(crate) async fn uncontended(&mut self, rounds: usize) -> Result<()> {
        let store = self.store()?;
        let mut floor = self.lease("floor").await?;
        // A lock that stays when it is free, as the operator makes them: a cycle is two PUTs.
        self.lease("standing").await?;
        let client = self.client(&Arc::default())?;
        let standing = client.lock("standing").build()?;
        let on_the_spot = client.lock("on-the-spot").build()?;
        self.make("permits", What::Semaphore(10)).await?;
        let permits = client.semaphore("permits").build()?;
        let turns = async move {
            let [mut put, mut two, mut cycle, mut ephemeral, mut shared] = [new()?, new()?, new()?, new()?, new()?];
            for round in 0..rounds + rounds / 10 {
                let measured = round >= rounds / 10;
                // The middle of two in a row is not twice the middle of one: those that take long count more.
                let first = clock::moment();
                for _ in 0..2 {
                    let begun = clock::moment();
                    floor = bare_put(&store, floor).await?;
                    record(&mut put, begun, measured)?;
                }
                record(&mut two, first, measured)?;
                let begun = clock::moment();
                standing.acquire().await?.release().await?;
                record(&mut cycle, begun, measured)?;
                let begun = clock::moment();
                on_the_spot.acquire().await?.release().await?;
                record(&mut ephemeral, begun, measured)?;
                let begun = clock::moment();
                permits.acquire(1).await?.release().await?;
                record(&mut shared, begun, measured)?;
            }
            anyhow::Ok([put, two, cycle, ephemeral, shared])
        };
        // In a task, as they do it who use a lock: what `main` itself awaits, it hears of later.
        let [put, two, cycle, ephemeral, shared] = tokio::spawn(turns).await??;
        let floor = millis(&two);
        self.report.add("put", millis(&put), "ms", None, put.len());
        self.report.add("two_puts", floor, "ms", None, two.len());
        self.report.add("uncontended_cycle", millis(&cycle), "ms", Some(floor), cycle.len());
        self.report.add("uncontended_cycle_on_the_spot", millis(&ephemeral), "ms", Some(floor), ephemeral.len());
        self.report.add("sem_cycle_vs_lock", millis(&shared), "ms", Some(millis(&cycle)), shared.len());
        client.shutdown().await;
        Ok(())
    }

    /// From a PUT to its watch event, which is returned, and from a release to the return of the acquire that waited.
    pub(crate) async fn hand_off(&mut self, rounds: usize) -> Result<f64> {
        let (store, watching) = (self.store()?, self.store()?);
        let mut lease = self.lease("watched").await?;
        let version = lease.metadata.resource_version.clone().context("a version")?.parse()?;
        let mut sights = watching.watch("watched", None, Some(version));
        let counts = Arc::default();
        let clients = [self.client(&counts)?, self.client(&counts)?];
        let [one, two] = [clients[0].lock("handed").build()?, clients[1].lock("handed").build()?];
        let [mut to_event, mut handed] = [new()?, new()?];
        let mut turn = [one, two];
        let mut guard = turn[0].acquire().await?;
        for round in 0..rounds + rounds / 10 {
            let measured = round >= rounds / 10;
            let begun = clock::moment();
            let put = bare_put(&store, lease);
            let event = async {
                loop {
                    if let Sight::Shows(_) = sights.next().await.context("the watch ended")?? {
                        return anyhow::Ok(clock::moment());
                    }
                }
            };
            let (put, event) = futures::join!(put, event);
            lease = put?;
            if measured {
                to_event.record(u64::try_from(event?.since(begun).as_nanos())?)?;
            }

            let waiter = tokio::spawn({
                let lock = turn[1].clone();
                async move { lock.acquire().await.map(|guard| (guard, clock::moment())) }
            });
            while turn[0].status().await?.waiters.is_empty() {}
            let begun = clock::moment();
            guard.release().await?;
            let (next, acquired) = waiter.await??;
            if measured {
                handed.record(u64::try_from(acquired.since(begun).as_nanos())?)?;
            }
            guard = next;
            turn.swap(0, 1);
        }
        guard.release().await?;
        let floor = millis(&to_event);
        self.report.add("put_to_event", floor, "ms", None, to_event.len());
        self.report.add("handoff_1_waiter", millis(&handed), "ms", Some(floor), handed.len());
        for client in clients {
            client.shutdown().await;
        }
        Ok(floor)
    }

    /// Cycles of many contenders, each with a connection of its own, for so long.
    pub(crate) async fn contended(
        &mut self,
        what: What,
        contenders: usize,
        time: Duration,
        alone: Option<f64>,
    ) -> Result<f64> {
        let counts = Arc::new(Counts::default());
        let (prefix, name) = (what.prefix(), format!("{}contended-{contenders}", what.prefix().replace('_', "-")));
        self.make(&name, what).await?;
        let clients: Vec<_> = (0..contenders).map(|_| self.client(&counts)).collect::<Result<_>>()?;
        let (counting, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let warm = Arc::new(Semaphore::new(0));
        let workers: Vec<_> = clients
            .iter()
            .map(|client| {
                let target = what.target(client, &name)?;
                Ok(tokio::spawn(contend(target, counting.clone(), over.clone(), warm.clone())))
            })
            .collect::<Result<_>>()?;
        let _all = warm.acquire_many(u32::try_from(contenders)?).await?;
        let (before, begun) = (counts.now(), clock::moment());
        counting.store(true, Ordering::SeqCst);
        tokio::time::sleep(time).await;
        let bytes = Record::parse(self.store()?.read(&name).await?)?.annotation_bytes();
        counting.store(false, Ordering::SeqCst);
        let (spent, elapsed) = (counts.now() - before, clock::moment().since(begun));
        over.store(true, Ordering::SeqCst);
        let mut shares = Vec::new();
        for worker in workers {
            shares.push(worker.await??);
        }
        for client in clients {
            client.shutdown().await;
        }
        let cycles: u64 = shares.iter().sum();
        let per_cycle = |count: u64| ratio(count, cycles);
        let rate = ratio(cycles, 1) / elapsed.as_secs_f64();
        let fewest = shares.iter().copied().min().unwrap_or(0);
        let most = shares.iter().copied().max().unwrap_or(0);
        let rate_of = if matches!(what, What::Readers) { "throughput" } else { "cycles_per_s" };
        self.report.add(&format!("{prefix}{rate_of}_{contenders}"), rate, "1/s", alone, cycles);
        if contenders > 1 {
            let heartbeats = ratio(spent.heartbeats, 1) / elapsed.as_secs_f64();
            self.report.add(
                &format!("{prefix}heartbeats_per_s_{contenders}"),
                heartbeats,
                "1/s",
                None,
                spent.heartbeats,
            );
            self.report.add(
                &format!("{prefix}writes_per_cycle_{contenders}"),
                per_cycle(spent.writes),
                "",
                None,
                cycles,
            );
            self.report.add(&format!("{prefix}reads_per_cycle_{contenders}"), per_cycle(spent.reads), "", None, cycles);
            self.report.add(
                &format!("{prefix}events_per_cycle_{contenders}"),
                per_cycle(spent.events),
                "",
                None,
                cycles,
            );
            self.report.add(&format!("{prefix}fairness_{contenders}"), ratio(fewest, most), "", None, cycles);
            let bytes = ratio(u64::try_from(bytes)?, 1);
            self.report.add(&format!("{prefix}annotation_bytes_{contenders}"), bytes, "B", None, 1);
        }
        Ok(rate)
    }

    /// What a holder and nine waiters cost that have nothing to do but hold and wait, and have done so for a while.
    pub(crate) async fn idle(&mut self, time: Duration) -> Result<()> {
        let counts = Arc::new(Counts::default());
        let clients: Vec<_> = (0..10).map(|_| self.client(&counts)).collect::<Result<_>>()?;
        let locks: Vec<_> = clients.iter().map(|client| client.lock("idle").build()).collect::<Result<_, _>>()?;
        let guard = locks[0].acquire().await?;
        let waiters: Vec<_> =
            locks[1..].iter().cloned().map(|lock| tokio::spawn(async move { lock.acquire().await })).collect();
        while locks[0].status().await?.waiters.len() < 9 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(SETTLE).await;
        let (before, begun) = (counts.now(), clock::moment());
        tokio::time::sleep(time).await;
        let (spent, elapsed) = (counts.now() - before, clock::moment().since(begun));
        guard.check()?;
        let requests = spent.heartbeats + spent.writes + spent.reads;
        self.report.add("idle_requests_per_s_10", ratio(requests, 1) / elapsed.as_secs_f64(), "1/s", None, requests);
        waiters.iter().for_each(tokio::task::JoinHandle::abort);
        guard.release().await?;
        for client in clients {
            client.shutdown().await;
        }
        Ok(())
    }
}

/// What is contended for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Lock,
    Semaphore(u32),
    /// A read-write lock, by readers alone.
    Readers,
}

pub(crate) enum Target {
    Lock(Lock),
    Semaphore(leasehold::Semaphore),
    Readers(leasehold::ReadWriteLock),
}

impl What {
    fn prefix(self) -> &'static str {
        match self {
            Self::Lock => "",
            Self::Semaphore(_) => "sem_",
            Self::Readers => "rw_read_",
        }
    }

    pub(crate) fn target(self, client: &Client, name: &str) -> Result<Target> {
        Ok(match self {
            Self::Lock => Target::Lock(client.lock(name).build()?),
            Self::Semaphore(_) => Target::Semaphore(client.semaphore(name).build()?),
            Self::Readers => Target::Readers(client.read_write_lock(name)?),
        })
    }
}

impl Target {
    pub(crate) async fn cycle(&self, acquired: impl FnOnce()) -> Result<()> {
        match self {
            Self::Lock(lock) => {
                let guard = lock.acquire().await?;
                acquired();
                guard.release().await?;
            }
            Self::Semaphore(semaphore) => {
                let permit = semaphore.acquire(1).await?;
                acquired();
                permit.release().await?;
            }
            Self::Readers(lock) => {
                let guard = lock.read().await?;
                acquired();
                guard.release().await?;
            }
        }
        Ok(())
    }
}

/// Cycles until it is over. Whoever has been through twice, has a session, a watch and a place in the queue: `warm`.
async fn contend(
    target: Target,
    counting: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    warm: Arc<Semaphore>,
) -> Result<u64> {
    let (mut all, mut counted) = (0_u64, 0);
    while !over.load(Ordering::SeqCst) {
        target.cycle(|| counted += u64::from(counting.load(Ordering::SeqCst))).await?;
        all += 1;
        if all == 2 {
            warm.add_permits(1);
        }
    }
    Ok(counted)
}

/// A PUT that changes one field.
pub(crate) async fn bare_put(store: &KubeStore, mut lease: Lease) -> Result<Lease> {
    let spec = lease.spec.get_or_insert_default();
    spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
    let name = lease.metadata.name.clone().context("a name")?;
    store.write(&name, &Write::Replace(Box::new(lease))).await?.context("an answer")
}

pub(crate) fn new() -> Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

pub(crate) fn record(histogram: &mut Histogram<u64>, begun: leasehold::protocol::Moment, measured: bool) -> Result<()> {
    if measured {
        histogram.record(u64::try_from(clock::moment().since(begun).as_nanos())?)?;
    }
    Ok(())
}

/// The median, in milliseconds.
pub(crate) fn millis(histogram: &Histogram<u64>) -> f64 {
    Duration::from_nanos(histogram.value_at_quantile(0.5)).as_secs_f64() * 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are small")]
pub(crate) fn ratio(count: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { count as f64 / of as f64 }
}
