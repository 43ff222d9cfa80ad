//! What a lock costs that stays with one process: passed on from task to task, and taken again while it lingers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use futures::FutureExt as _;
use leasehold::{Client, KubeStore, Lock, clock};
use tokio::sync::Notify;

use crate::counting::Counts;
use crate::measure::{Bench, millis, new, ratio, record};

/// Long enough for no measurement to be cut in two.
const LONG: Duration = Duration::from_mins(1);

/// So many tasks wait for one lock, so many times.
const TASKS: u64 = 1000;
const CROWDS: u64 = 5;

impl Bench {
    /// Hand-offs among tasks of one client, and acquisitions of what lingers, each against a cycle of two PUTs.
    pub(crate) async fn local(&mut self, rounds: usize) -> Result<()> {
        self.lease("local").await?;
        let counts = Arc::<Counts>::default();
        let client = self.client(&counts)?;
        let strict = client.lock("local").build()?;
        let passed_on = client.lock("local").local_handoff(LONG).build()?;
        let lingering = client.lock("local").linger(LONG).build()?;
        let cycles = async move {
            let mut cycle = new()?;
            for round in 0..rounds + rounds / 10 {
                let begun = clock::moment();
                strict.acquire().await?.release().await?;
                record(&mut cycle, begun, round >= rounds / 10)?;
            }
            anyhow::Ok(cycle)
        };
        let cycle = tokio::spawn(cycles).await??;
        let floor = millis(&cycle) * 1000.0;
        self.report.add("strict_cycle", floor, "µs", None, cycle.len());

        let before = counts.now();
        let each = tokio::spawn(crowds(passed_on)).await??;
        let requests = counts.now() - before;
        self.report.add("local_handoff", each, "µs", Some(floor), TASKS * CROWDS);
        let sent = ratio(requests.writes + requests.reads, TASKS * CROWDS);
        self.report.add("local_handoff_requests", sent, "each", Some(2.0), TASKS * CROWDS);
        let (store, namespace) = (self.store()?, self.namespace.clone());
        let (each, bare) = tokio::task::spawn_blocking(move || one_thread(store, &namespace)).await??;
        self.report.add("local_handoff_one_thread", each, "µs", Some(bare), TASKS * CROWDS);

        let guard = lingering.acquire().await?;
        // Until it watches.
        tokio::time::sleep(Duration::from_millis(100)).await;
        guard.release().await?;
        let before = counts.now();
        let takes = async move {
            let mut again = new()?;
            for _ in 0..rounds * 10 {
                let begun = clock::moment();
                let guard = lingering.acquire().await?;
                record(&mut again, begun, true)?;
                guard.release().await?;
            }
            anyhow::Ok(again)
        };
        let again = tokio::spawn(takes).await??;
        let requests = counts.now() - before;
        self.report.add("linger_acquire", millis(&again) * 1000.0, "µs", Some(floor), again.len());
        let sent = ratio(requests.writes + requests.reads, again.len());
        self.report.add("linger_acquire_requests", sent, "each", Some(2.0), again.len());
        client.shutdown().await;
        Ok(())
    }
}

/// What a hand-off takes, in microseconds: the middle of so many crowds.
async fn crowds(lock: Lock) -> Result<f64> {
    let mut each = Vec::new();
    for _ in 0..CROWDS {
        each.push(crowd(lock.clone()).await?);
    }
    Ok(middle(each))
}

/// A crowd of which it is heard only when the last has had it: hearing of each would cost more than what is measured.
struct Through {
    left: AtomicU64,
    last: Notify,
}

impl Through {
    fn new() -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(TASKS), last: Notify::new() })
    }
}

/// One of them, until it has got it or has failed.
struct One(Arc<Through>);

impl Drop for One {
    fn drop(&mut self) {
        if self.0.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.last.notify_one();
        }
    }
}

/// So many tasks take it once each. How long a hand-off takes, on average, from the first holder to the last: that one
/// hands it on to nobody, and gives it back to the API server.
async fn crowd(lock: Lock) -> Result<Duration> {
    let first = lock.acquire().await?;
    let through = Through::new();
    let waiting: Vec<_> = (0..TASKS)
        .map(|_| {
            let (lock, one) = (lock.clone(), One(through.clone()));
            tokio::spawn(async move {
                let guard = lock.acquire().await;
                drop(one);
                anyhow::Ok(guard?.release().await?)
            })
        })
        .collect();
    // They all wait.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = clock::moment();
    first.release().await?;
    through.last.notified().await;
    let took = clock::moment().since(begun);
    for task in waiting {
        task.await??;
    }
    Ok(took / u32::try_from(TASKS)?)
}

/// The same on a runtime of one thread, and beside it what a lock takes there that knows of no other process.
fn one_thread(store: KubeStore, namespace: &str) -> Result<(f64, f64)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::builder().store(Arc::new(store)).namespace(namespace).build()?;
        let lock = client.lock("local").local_handoff(LONG).build()?;
        let ours = tokio::spawn(crowds(lock)).await??;
        let mut bare = Vec::new();
        for _ in 0..CROWDS {
            bare.push(tokio::spawn(bare_crowd()).await??);
        }
        client.shutdown().await;
        Ok((ours, middle(bare)))
    })
}

async fn bare_crowd() -> Result<Duration> {
    let lock = Arc::<tokio::sync::Mutex<()>>::default();
    let first = lock.clone().lock_owned().await;
    let through = Through::new();
    let waiting: Vec<_> = (0..TASKS)
        .map(|_| {
            let one = One(through.clone());
            tokio::spawn(lock.clone().lock_owned().map(move |guard| drop((one, guard))))
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = clock::moment();
    drop(first);
    through.last.notified().await;
    let took = clock::moment().since(begun);
    for task in waiting {
        task.await?;
    }
    Ok(took / u32::try_from(TASKS)?)
}

fn middle(mut each: Vec<Duration>) -> f64 {
    each.sort_unstable();
    each[each.len() / 2].as_secs_f64() * 1e6
}
