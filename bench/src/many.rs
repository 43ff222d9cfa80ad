//! Many locks of one client, and several at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use hdrhistogram::Histogram;
use leasehold::protocol::Record;
use leasehold::{MultiLock, Store, clock};
use tokio::task::JoinSet;

use crate::counting::Counts;
use crate::measure::{Bench, What, millis, ratio};
use crate::usage;

/// How many locks are acquired at a time.
const AT_ONCE: usize = 64;

impl Bench {
    /// How many requests it takes to acquire and release three at once, and nothing is in the way.
    pub(crate) async fn three_at_once(&mut self, rounds: u64) -> Result<()> {
        let counts = Arc::new(Counts::default());
        let client = self.client(&counts)?;
        let mut three = MultiLock::new();
        for name in ["multi-a", "multi-b", "multi-c"] {
            self.lease(name).await?;
            three = three.lock(&client.lock(name).build()?);
        }
        let three = three.build()?;
        three.acquire().await?.release().await?;
        let before = counts.now();
        for _ in 0..rounds {
            three.acquire().await?.release().await?;
        }
        let spent = counts.now() - before;
        self.report.add("multi_3_requests", ratio(spent.writes + spent.reads, rounds), "", None, rounds);
        client.shutdown().await;
        Ok(())
    }

    /// Who is told of it when one of many holders goes and one of as many waiters comes in, one after the other.
    pub(crate) async fn fan_out(&mut self, permits: u32) -> Result<()> {
        let counts = Arc::new(Counts::default());
        self.make("fan-out", What::Semaphore(permits)).await?;
        let semaphore = || anyhow::Ok(self.client(&counts)?.semaphore("fan-out").build()?);
        let mut holders = Vec::new();
        for _ in 0..permits {
            holders.push(semaphore()?.acquire(1).await?);
        }
        let (looks, mut waiters) = (semaphore()?, JoinSet::new());
        for place in 1..=usize::try_from(permits)? {
            let semaphore = semaphore()?;
            waiters.spawn(async move { semaphore.acquire(1).await });
            while looks.status().await?.waiters.len() < place {}
        }
        let bytes = Record::parse(self.store()?.read("fan-out").await?)?.annotation_bytes();
        let (before, mut handed, mut served) = (counts.now(), Histogram::<u64>::new(3)?, Vec::new());
        for holder in holders {
            let begun = clock::moment();
            holder.release().await?;
            served.push(waiters.join_next().await.context("a waiter")???);
            handed.record(u64::try_from(clock::moment().since(begun).as_nanos())?)?;
        }
        let spent = counts.now() - before;
        let each = |count: u64| ratio(count, u64::from(permits));
        let rounds = u64::from(permits);
        self.report.add(&format!("fan_out_writes_{permits}"), each(spent.writes), "", None, rounds);
        self.report.add(&format!("fan_out_reads_{permits}"), each(spent.reads), "", None, rounds);
        self.report.add(&format!("fan_out_events_{permits}"), each(spent.events), "", None, rounds);
        self.report.add(&format!("fan_out_ms_{permits}"), millis(&handed), "ms", None, rounds);
        let bytes = ratio(u64::try_from(bytes)?, 1);
        self.report.add(&format!("fan_out_annotation_bytes_{permits}"), bytes, "B", None, 1);
        Ok(())
    }

    /// What a client costs that holds very many locks, and how long it takes to give them all back.
    pub(crate) async fn held(&mut self, locks: usize, time: Duration) -> Result<()> {
        let counts = Arc::new(Counts::default());
        let client = self.client(&counts)?;
        let memory = usage::memory(std::process::id())?.0;
        let guards: Vec<_> = futures::stream::iter(0..locks)
            .map(|n| {
                let lock = client.lock(format!("held-{n}")).build();
                async move { anyhow::Ok(lock?.acquire().await?) }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let each = ratio(usage::memory(std::process::id())?.0.saturating_sub(memory), u64::try_from(locks)?) / 1024.0;
        let (before, begun) = (counts.now(), clock::moment());
        tokio::time::sleep(time).await;
        let (spent, elapsed) = (counts.now() - before, clock::moment().since(begun));
        guards.iter().try_for_each(|guard| guard.check())?;
        let requests = spent.heartbeats + spent.writes + spent.reads;
        let rate = ratio(requests, 1) / elapsed.as_secs_f64();
        self.report.add(&format!("held_{locks}_requests_per_s"), rate, "1/s", None, requests);
        self.report.add(&format!("held_{locks}_memory_each"), each, "KiB", None, u64::try_from(locks)?);
        let begun = clock::moment();
        client
            .shutdown_with_progress(|done, all| {
                if done % 1000 == 0 {
                    eprintln!("{done} of {all} locks released");
                }
            })
            .await;
        let took = clock::moment().since(begun).as_secs_f64();
        self.report.add(&format!("held_{locks}_shutdown"), took, "s", None, u64::try_from(locks)?);
        Ok(())
    }
}
