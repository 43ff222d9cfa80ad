//! The operator where there are very many locks, each with its resource, and each held.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use hdrhistogram::Histogram;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams, WatchEvent, WatchParams};
use leasehold::protocol::Moment;
use leasehold::{Client, KubeStore, Lock, LockGuard, clock};
use leasehold_testkit::{Account, Cluster, Namespace, Signal, eventually};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use crate::counting::{CountingStore, Counts};
use crate::measure::ratio;
use crate::operator::{Audit, Operator, ROOT, SOON, all, count, shipped_rules, status_writes, writes};
use crate::report::Report;

/// By how many sessions everything is held.
const SESSIONS: usize = 5;
/// How many requests are on their way at once while everything is made.
const AT_ONCE: usize = 32;
/// How many changes of hands are timed.
const SAMPLES: usize = 100;
/// A second has so many cycles of others while they are timed in company: two changes each.
const CYCLES_PER_SECOND: u64 = 50;
/// How long an operator is left alone before its memory and its requests are counted.
const SETTLE: Duration = Duration::from_secs(15);

const READY: &str = "leasehold_reconciles_total{result=\"ok\"}";
const WRITTEN: &str = "leasehold_status_writes_total{result=\"ok\"}";

/// Where there are so many locks.
struct Stage<'a> {
    report: &'a mut Report,
    locks: usize,
    namespace: Namespace,
    account: Account,
    audit: Audit,
    counts: Arc<Counts>,
    held: Vec<(Lock, Option<LockGuard>)>,
}

/// Measures what an operator costs over this many held locks, idle for so long.
pub(crate) async fn operator(report: &mut Report, locks: usize, idle: Duration) -> Result<()> {
    let cluster = Cluster::start_audited().await?;
    cluster.kubectl(&["apply", "-k", &format!("{ROOT}/crds")]).await?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all"]).await?;
    let namespace = cluster.namespace("scale").await?;
    let account = namespace.cluster_account("operator", shipped_rules()?).await?;
    let audit = Audit::new(cluster.audit_log().await?);
    let held = Vec::with_capacity(locks);
    let mut stage = Stage { report, locks, namespace, account, audit, counts: Arc::default(), held };
    let empty = stage.empty().await?;
    stage.make().await?;
    let operator = stage.cold().await?;
    stage.idle(&operator, empty, idle).await?;
    stage.lags().await?;
    let operator = stage.restart(operator).await?;
    stage.failover(operator).await
}

impl Stage<'_> {
    fn add(&mut self, name: &str, value: f64, unit: &'static str, n: u64) {
        let name = if name.ends_with('_') { format!("{name}{}", self.locks) } else { name.to_owned() };
        self.report.add(&format!("operator_{name}"), value, unit, None, n);
    }

    fn number(&self) -> u64 {
        u64::try_from(self.locks).unwrap_or(u64::MAX)
    }

    async fn start(&self, name: &str) -> Result<Operator> {
        Operator::start(&self.account, name).await
    }

    fn resources(&self) -> Result<Api<DynamicObject>> {
        let kind = GroupVersionKind::gvk("leasehold.dev", "v1alpha1", "DistributedLock");
        let client = kube::Client::try_from(self.namespace.config())?;
        Ok(Api::namespaced_with(client, self.namespace.name(), &ApiResource::from_gvk(&kind)))
    }

    /// What an operator takes that has nothing to do.
    async fn empty(&mut self) -> Result<u64> {
        let mut operator = self.start("empty").await?;
        operator.ready().await?;
        tokio::time::sleep(SETTLE).await;
        let (memory, _) = operator.memory()?;
        self.add("rss_mb_0", megabytes(memory), "MB", 1);
        stop(&mut operator).await?;
        Ok(memory)
    }

    /// Makes all resources, and takes each lock, over several connections.
    async fn make(&mut self) -> Result<()> {
        let begun = clock::moment();
        let apis: Vec<_> = (0..SESSIONS).map(|_| self.resources()).collect::<Result<_>>()?;
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("leasehold.dev", "v1alpha1", "DistributedLock"));
        let create = |n: usize| {
            let object = DynamicObject::new(&name(n), &kind).data(json!({ "spec": {} }));
            let api = &apis[n % SESSIONS];
            async move { anyhow::Ok(api.create(&PostParams::default(), &object).await.map(drop)?) }
        };
        futures::stream::iter(0..self.locks).map(create).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let clients: Vec<Client> = (0..SESSIONS).map(|n| self.client(n)).collect::<Result<_>>()?;
        let acquire = |n: usize| {
            let lock = clients[n % SESSIONS].lock(name(n)).build();
            async move {
                let lock = lock?;
                let guard = lock.acquire().await?;
                anyhow::Ok((lock, Some(guard)))
            }
        };
        self.held = futures::stream::iter(0..self.locks).map(acquire).buffered(AT_ONCE).try_collect().await?;
        eprintln!("{} resources made and locks taken in {:?}", self.locks, clock::moment().since(begun));
        Ok(())
    }

    fn client(&self, n: usize) -> Result<Client> {
        let store = KubeStore::new(self.namespace.config(), self.namespace.name())?;
        let store = CountingStore { store, counts: self.counts.clone() };
        let builder = Client::builder().store(Arc::new(store)).namespace(self.namespace.name());
        Ok(builder.host(format!("bench-{n}")).build()?)
    }

    /// From its start until every status tells the holder, none having been written before.
    async fn cold(&mut self) -> Result<Operator> {
        self.audit.take()?;
        let mut changes = self.changes().await?;
        let operator = self.start("first").await?;
        let ready = operator.ready().await?;
        let mut told = BTreeSet::new();
        while told.len() < self.locks {
            let (name, holder, _) = changes.recv().await.context("the watch of resources ended")?;
            if holder.is_some() {
                told.insert(name);
            }
        }
        let took = clock::moment().since(operator.started);
        let requests = self.audit.take()?;
        let number = self.number();
        self.add("cold_ready_s_", ready.as_secs_f64(), "s", 1);
        self.add("cold_all_told_s_", took.as_secs_f64(), "s", number);
        self.add("cold_requests_each_", ratio(all(&requests), number), "", all(&requests));
        self.add("cold_status_writes_each_", ratio(status_writes(&requests), number), "", status_writes(&requests));
        self.add("cold_writes_per_s_", ratio(writes(&requests), 1) / took.as_secs_f64(), "1/s", writes(&requests));
        eprintln!("{requests:#?}");
        Ok(operator)
    }

    /// What it costs when nothing happens but heartbeats.
    async fn idle(&mut self, operator: &Operator, empty: u64, time: Duration) -> Result<()> {
        tokio::time::sleep(SETTLE).await;
        self.audit.take()?;
        let (before, begun, cpu) = (self.counts.now(), clock::moment(), operator.cpu()?);
        tokio::time::sleep(time).await;
        let elapsed = clock::moment().since(begun).as_secs_f64();
        let (requests, events) = (self.audit.take()?, self.counts.now() - before);
        let (memory, peak) = operator.memory()?;
        let number = self.number();
        let each = ratio(memory.saturating_sub(empty), number) / 1024.0;
        self.add("rss_mb_", megabytes(memory), "MB", 1);
        self.add("rss_peak_mb_", megabytes(peak), "MB", 1);
        self.add("memory_each_", each, "KiB", number);
        self.add("idle_cpu_s_per_min_", (operator.cpu()? - cpu) / elapsed * 60.0, "s", 1);
        self.add("idle_requests_per_s_", ratio(all(&requests), 1) / elapsed, "1/s", all(&requests));
        let told = events.heartbeats + events.writes;
        self.add("idle_events_per_s_", ratio(told, 1) / elapsed, "1/s", told);
        eprintln!("{requests:#?}");
        Ok(())
    }

    /// From a change of hands until the resource tells it: in quiet, and while others change hands as well.
    async fn lags(&mut self) -> Result<()> {
        let samples = SAMPLES.min(self.locks / 4);
        let quiet = self.lag(0..samples).await?;
        self.add("status_lag_ms", millis_at(&quiet, 0.5), "ms", quiet.len());
        self.add("status_lag_p95_ms", millis_at(&quiet, 0.95), "ms", quiet.len());
        let others: Vec<_> = self.held.drain(2 * samples..).collect();
        let changes = Arc::new(AtomicU64::new(0));
        let begun = clock::moment();
        let over = Arc::new(AtomicBool::new(false));
        let company = tokio::spawn(cycle(others, changes.clone(), over.clone()));
        tokio::time::sleep(Duration::from_secs(3)).await;
        let busy = self.lag(samples..2 * samples).await?;
        let rate = ratio(changes.load(Ordering::Relaxed), 1) / clock::moment().since(begun).as_secs_f64();
        over.store(true, Ordering::Relaxed);
        self.held.extend(company.await?);
        self.add("busy_changes_per_s_", rate, "1/s", changes.load(Ordering::Relaxed));
        self.add("busy_status_lag_ms_", millis_at(&busy, 0.5), "ms", busy.len());
        self.add("busy_status_lag_p95_ms_", millis_at(&busy, 0.95), "ms", busy.len());
        Ok(())
    }

    async fn lag(&mut self, locks: std::ops::Range<usize>) -> Result<Histogram<u64>> {
        let mut changes = self.changes().await?;
        let mut lags = Histogram::<u64>::new(3)?;
        for n in locks {
            let guard = self.held[n].1.take().context("it is held")?;
            guard.release().await?;
            let released = clock::moment();
            loop {
                let (told, holder, heard) = changes.recv().await.context("the watch of resources ended")?;
                if told == name(n) && holder.is_none() {
                    lags.record(u64::try_from(heard.since(released).as_nanos())?)?;
                    break;
                }
            }
        }
        Ok(lags)
    }

    /// An orderly end and another start, with nothing to tell.
    async fn restart(&mut self, mut operator: Operator) -> Result<Operator> {
        self.still(&operator).await?;
        stop(&mut operator).await?;
        self.audit.take()?;
        let operator = self.start("second").await?;
        let ready = operator.ready().await?;
        operator.reaches(READY, self.number()).await?;
        let all_seen = clock::moment().since(operator.started);
        tokio::time::sleep(SETTLE).await;
        let requests = self.audit.take()?;
        self.add("restart_ready_s_", ready.as_secs_f64(), "s", 1);
        self.add("restart_all_seen_s_", all_seen.as_secs_f64(), "s", self.number());
        self.add("restart_writes_", ratio(writes(&requests), 1), "", writes(&requests));
        self.add("restart_status_writes_", ratio(status_writes(&requests), 1), "", status_writes(&requests));
        let gets = count(&requests, "get", |resource| resource == "leases");
        self.add("restart_lease_reads_", ratio(gets, 1), "", gets);
        eprintln!("{requests:#?}");
        Ok(operator)
    }

    /// Waits until no status has been written for a while.
    async fn still(&self, operator: &Operator) -> Result<()> {
        let mut last = u64::MAX;
        eventually(SOON, "the last status to be written", async || {
            let now = operator.metric(WRITTEN).await?;
            let before = std::mem::replace(&mut last, now);
            tokio::time::sleep(Duration::from_secs(3)).await;
            ensure!(now == before, "it is still writing");
            Ok(())
        })
        .await
    }

    /// Two of them, and the one that acts is killed.
    async fn failover(&mut self, first: Operator) -> Result<()> {
        let next = self.start("third").await?;
        next.ready().await?;
        tokio::time::sleep(SETTLE).await;
        let (memory, _) = next.memory()?;
        self.add("standby_rss_mb_", megabytes(memory), "MB", 1);
        self.audit.take()?;
        first.process.signal(Signal::KILL)?;
        let killed = clock::moment();
        next.reaches("leasehold_leading", 1).await?;
        let leads = clock::moment().since(killed);
        next.reaches(READY, self.number()).await?;
        let all_seen = clock::moment().since(killed);
        tokio::time::sleep(SETTLE).await;
        let requests = self.audit.take()?;
        self.add("failover_leads_s_", leads.as_secs_f64(), "s", 1);
        self.add("failover_all_seen_s_", all_seen.as_secs_f64(), "s", self.number());
        self.add("failover_status_writes_", ratio(status_writes(&requests), 1), "", status_writes(&requests));
        eprintln!("{requests:#?}\n{}", std::fs::read_to_string(next.log())?);
        Ok(())
    }

    /// Every change of a resource from now on: its name, who holds it, and when that was heard.
    async fn changes(&self) -> Result<UnboundedReceiver<(String, Option<String>, Moment)>> {
        let api = self.resources()?;
        let mut from = api.list(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
        let (tell, told) = unbounded_channel();
        tokio::spawn(async move {
            while !tell.is_closed() {
                let mut watch = api.watch(&WatchParams::default(), &from).await?.boxed();
                while let Some(event) = watch.try_next().await? {
                    let heard = clock::moment();
                    let (WatchEvent::Added(object) | WatchEvent::Modified(object)) = event else { continue };
                    let holder = object.data.pointer("/status/holder/id").and_then(|id| id.as_str());
                    let told = (object.metadata.name.unwrap_or_default(), holder.map(str::to_owned), heard);
                    from = object.metadata.resource_version.unwrap_or_default();
                    if tell.send(told).is_err() {
                        break;
                    }
                }
            }
            anyhow::Ok(())
        });
        Ok(told)
    }
}

/// Others give locks back and take them again, so many a second, until it is over.
async fn cycle(
    mut others: Vec<(Lock, Option<LockGuard>)>,
    changes: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) -> Vec<(Lock, Option<LockGuard>)> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(CYCLES_PER_SECOND).unwrap_or(1));
    let mut cycles = JoinSet::new();
    while !over.load(Ordering::Relaxed)
        && let Some((lock, Some(guard))) = others.pop()
    {
        ticks.tick().await;
        let changes = changes.clone();
        cycles.spawn(async move {
            guard.release().await?;
            changes.fetch_add(1, Ordering::Relaxed);
            let guard = lock.acquire().await?;
            changes.fetch_add(1, Ordering::Relaxed);
            anyhow::Ok((lock, Some(guard)))
        });
    }
    others.extend(cycles.join_all().await.into_iter().flatten());
    others
}

async fn stop(operator: &mut Operator) -> Result<()> {
    operator.process.signal(Signal::TERM)?;
    operator.process.wait_success(SOON).await
}

fn name(n: usize) -> String {
    format!("lock-{n:05}")
}

fn megabytes(bytes: u64) -> f64 {
    ratio(bytes, 1024 * 1024)
}

fn millis_at(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    Duration::from_nanos(histogram.value_at_quantile(quantile)).as_secs_f64() * 1000.0
}
