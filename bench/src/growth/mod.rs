//! How what an operation costs grows with what there is beside it.
//!
//! Each operation is timed turn by turn with a bare PUT, so that a machine that gets slower does not count as growth. What is
//! asked in the background, by those who hold and wait, is measured first, where nothing happens, and left out.

mod crowds;
mod table;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::{Client, KubeStore, clock};
use leasehold_testkit::Cluster;

use crate::counting::{CountingStore, Counts};
use crate::measure::{Bench, bare_put, millis, ratio};
use crate::usage::{self, Servers};

/// Renewals of a session a second: three in its duration, which is 30 s.
const HEARTBEAT: f64 = 0.1;
/// What is still on its way when an operation has returned, events for others above all, has arrived after this.
const SETTLE: Duration = Duration::from_millis(5);
/// How many connections clients share, watches aside.
const STORES: usize = 16;
/// How many requests are on their way at once while a crowd comes together.
const AT_ONCE: usize = 32;

/// How many of each kind there are, and how long each is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) sizes: Vec<usize>,
    /// At most so many waiters, or holders of one semaphore: what fits on one object.
    pub(crate) on_one_object: usize,
    pub(crate) sessions: usize,
    pub(crate) namespaces: usize,
    /// For how long those who have nothing to do are watched.
    pub(crate) idle: Duration,
    pub(crate) rounds: usize,
}

impl Plan {
    /// The sizes up to this one, and this one.
    fn up_to(&self, most: usize) -> Vec<usize> {
        let most = most.min(self.sizes.iter().copied().max().unwrap_or(0));
        let mut sizes: Vec<usize> = self.sizes.iter().copied().filter(|size| *size <= most).collect();
        if most > 0 && !sizes.contains(&most) {
            sizes.push(most);
        }
        sizes.sort_unstable();
        sizes
    }
}

/// An operation beside so many.
#[derive(Clone, Debug)]
struct Row {
    what: &'static str,
    size: usize,
    operation: &'static str,
    ms: f64,
    /// As a multiple of as many bare PUTs as it has to be.
    floors: f64,
    /// Of the Lease, by all clients together.
    writes: f64,
    /// By all clients together, less those of the background.
    reads: f64,
    /// Events that all clients together are sent.
    events: f64,
    /// How many reads of the background were left out: what is a small part of them cannot be told.
    background: f64,
}

/// What so many cost that do nothing but hold and wait.
#[derive(Clone, Debug, Default)]
struct Idle {
    what: &'static str,
    size: usize,
    heartbeats: f64,
    /// One in ten seconds for each session.
    heartbeats_expected: f64,
    writes: f64,
    reads: f64,
    events: f64,
    annotation_bytes: Option<usize>,
    clients_mb: f64,
    apiserver_mb: Option<f64>,
    etcd_mb: Option<f64>,
}

pub(crate) struct Growth<'a> {
    bench: &'a mut Bench,
    cluster: Cluster,
    servers: Option<Servers>,
    plan: Plan,
    /// What a PUT is timed with.
    floor: (KubeStore, Option<Lease>),
    stores: Vec<KubeStore>,
    rows: Vec<Row>,
    idles: Vec<Idle>,
}

impl<'a> Growth<'a> {
    pub(crate) async fn measure(bench: &'a mut Bench, cluster: &Cluster, plan: Plan) -> Result<()> {
        let stores = (0..STORES).map(|_| bench.store()).collect::<Result<Vec<_>>>()?;
        let floor = (bench.store()?, Some(bench.lease("growth-floor").await?));
        let servers = Servers::of(cluster).await;
        let (rows, idles) = (Vec::new(), Vec::new());
        let mut growth = Self { bench, cluster: cluster.clone(), servers, plan, floor, stores, rows, idles };
        growth.held().await?;
        growth.sessions().await?;
        growth.waiters().await?;
        growth.holders().await?;
        growth.namespaces().await?;
        println!("\n{}\n\n{}", table::operations(&growth.rows), table::idles(&growth.idles));
        Ok(())
    }

    /// A client with a session of its own, and connections that it shares with others.
    fn client(&self, counts: &Arc<Counts>, n: usize) -> Result<Client> {
        let store = CountingStore { store: self.stores[n % STORES].clone(), counts: counts.clone() };
        // As long as the names of Pods are.
        let host = format!("worker-6c8f9d7b5c-{n:05}");
        Ok(Client::builder().store(Arc::new(store)).namespace(&self.bench.namespace).host(host).build()?)
    }

    /// What those cost that are there and have nothing to do.
    async fn idle(&mut self, crowd: (&'static str, usize), sessions: usize, counts: &Counts) -> Result<Idle> {
        // Whoever has held something for a renew interval begins to watch it, once.
        tokio::time::sleep(self.plan.idle.min(Duration::from_secs(12))).await;
        let (before, begun) = (counts.now(), clock::moment());
        tokio::time::sleep(self.plan.idle).await;
        let (spent, time) = (counts.now() - before, clock::moment().since(begun).as_secs_f64());
        let (apiserver_mb, etcd_mb) = match &self.servers {
            Some(servers) => (Some(megabytes(servers.memory()?)), Some(megabytes(servers.stored().await?))),
            None => (None, None),
        };
        let idle = Idle {
            what: crowd.0,
            size: crowd.1,
            heartbeats: ratio(spent.heartbeats, 1) / time,
            heartbeats_expected: HEARTBEAT * ratio(u64::try_from(sessions)?, 1),
            writes: ratio(spent.writes, 1) / time,
            reads: ratio(spent.reads, 1) / time,
            events: ratio(spent.events, 1) / time,
            annotation_bytes: None,
            clients_mb: megabytes(usage::memory(std::process::id())?.0),
            apiserver_mb,
            etcd_mb,
        };
        let name = |figure: &str| format!("growth_{}_{}_{figure}", idle.what.replace(' ', "_"), idle.size);
        let report = &mut self.bench.report;
        let expected = Some(idle.heartbeats_expected);
        report.add(&name("heartbeats_per_s"), idle.heartbeats, "1/s", expected, spent.heartbeats);
        report.add(&name("idle_writes_per_s"), idle.writes, "1/s", None, spent.writes);
        report.add(&name("idle_reads_per_s"), idle.reads, "1/s", None, spent.reads);
        report.add(&name("idle_events_per_s"), idle.events, "1/s", None, spent.events);
        report.add(&name("clients_mb"), idle.clients_mb, "MB", None, 1);
        if let (Some(apiserver), Some(etcd)) = (apiserver_mb, etcd_mb) {
            report.add(&name("apiserver_mb"), apiserver, "MB", None, 1);
            report.add(&name("etcd_mb"), etcd, "MB", None, 1);
        }
        Ok(idle)
    }

    fn stands(&mut self, idle: &Idle, annotation_bytes: Option<usize>) {
        if let Some(bytes) = annotation_bytes {
            let name = format!("growth_{}_{}_annotation_bytes", idle.what.replace(' ', "_"), idle.size);
            self.bench.report.add(&name, ratio(bytes as u64, 1), "B", None, 1);
        }
        self.idles.push(Idle { annotation_bytes, ..idle.clone() });
    }

    /// Carries out an operation again and again, each time after a bare PUT. It says how long it took, and is held against
    /// so many PUTs.
    async fn operate(
        &mut self,
        idle: &Idle,
        operation: (&'static str, u32, usize),
        counts: &Counts,
        once: impl AsyncFnMut() -> Result<Duration>,
    ) -> Result<()> {
        self.operate_after(idle, operation, counts, async || Ok(()), once).await
    }

    /// The same, each time after something that does not count.
    async fn operate_after(
        &mut self,
        idle: &Idle,
        operation: (&'static str, u32, usize),
        counts: &Counts,
        before: impl AsyncFn() -> Result<()>,
        mut once: impl AsyncFnMut() -> Result<Duration>,
    ) -> Result<()> {
        let (operation, puts, rounds) = operation;
        let [mut put, mut took] = [Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?];
        let (mut writes, mut reads, mut events, mut time) = (0, 0, 0, 0.0);
        // Connections are made, and watches begun.
        let warm_up = rounds.div_ceil(10);
        for round in 0..warm_up + rounds {
            before().await?;
            // Both come after a pause, so that neither finds everything warm.
            tokio::time::sleep(SETTLE).await;
            let begun = clock::moment();
            for _ in 0..puts {
                let lease = self.floor.1.take().expect("it is put back");
                self.floor.1 = Some(bare_put(&self.floor.0, lease).await?);
            }
            let put_took = clock::moment().since(begun);
            tokio::time::sleep(SETTLE).await;
            let (counted, begun) = (counts.now(), clock::moment());
            let once_took = once().await?;
            tokio::time::sleep(SETTLE).await;
            if round >= warm_up {
                let spent = counts.now() - counted;
                put.record(u64::try_from(put_took.as_nanos())?)?;
                took.record(u64::try_from(once_took.as_nanos())?)?;
                writes += spent.writes;
                reads += spent.reads;
                events += spent.events;
                time += clock::moment().since(begun).as_secs_f64();
            }
        }
        let each =
            |count: u64, background: f64| (ratio(count, 1) - background * time).max(0.0) / ratio(rounds as u64, 1);
        let floor = millis(&put);
        let row = Row {
            what: idle.what,
            size: idle.size,
            operation,
            ms: millis(&took),
            floors: if floor > 0.0 { millis(&took) / floor } else { 0.0 },
            writes: each(writes, idle.writes),
            reads: each(reads, idle.reads),
            events: each(events, idle.events),
            background: idle.reads * time / ratio(rounds as u64, 1),
        };
        let operation = operation.replace([' ', '-'], "_");
        let name = |figure: &str| format!("growth_{}_{}_{operation}_{figure}", row.what.replace(' ', "_"), row.size);
        self.bench.report.add(&name("ms"), row.ms, "ms", Some(floor), took.len());
        self.bench.report.add(&name("writes"), row.writes, "", None, writes);
        self.bench.report.add(&name("reads"), row.reads, "", None, reads);
        self.bench.report.add(&name("events"), row.events, "", None, events);
        self.rows.push(row);
        Ok(())
    }
}

fn megabytes(bytes: u64) -> f64 {
    ratio(bytes, 1024 * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_most_is_measured_as_well() {
        let plan = Plan {
            sizes: vec![1, 10, 100],
            on_one_object: 1,
            sessions: 1,
            namespaces: 1,
            idle: Duration::ZERO,
            rounds: 1,
        };
        assert_eq!(plan.up_to(50), [1, 10, 50]);
        assert_eq!(plan.up_to(10), [1, 10]);
        assert_eq!(plan.up_to(5000), [1, 10, 100]);
        assert_eq!(plan.up_to(0), [0; 0]);
    }
}
