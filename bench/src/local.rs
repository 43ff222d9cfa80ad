//! What a lock costs that stays with one process: passed on from task to task, and taken again while it lingers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use leasehold::{Lock, clock};

use crate::counting::Counts;
use crate::measure::{Bench, millis, new, ratio, record};

/// Long enough for no measurement to be cut in two.
const LONG: Duration = Duration::from_mins(1);

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

        let (tasks, before) = (1000, counts.now());
        let each = tokio::spawn(crowd(passed_on, tasks)).await??;
        let requests = counts.now() - before;
        self.report.add("local_handoff", each.as_secs_f64() * 1e6, "µs", Some(floor), tasks);
        let sent = ratio(requests.writes + requests.reads, tasks);
        self.report.add("local_handoff_requests", sent, "each", Some(2.0), tasks);

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

/// So many tasks take it once each. How long one takes, on average.
async fn crowd(lock: Lock, tasks: u64) -> Result<Duration> {
    let first = lock.acquire().await?;
    let waiting: Vec<_> = (0..tasks)
        .map(|_| {
            let lock = lock.clone();
            tokio::spawn(async move { anyhow::Ok(lock.acquire().await?.release().await?) })
        })
        .collect();
    // They all wait.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = clock::moment();
    first.release().await?;
    for task in waiting {
        task.await??;
    }
    let count = u32::try_from(tasks).context("so many tasks")?;
    Ok(clock::moment().since(begun) / count)
}
