//! The API server in memory against the real one: the same requests, the same answers, the same events.
//!
//! Sequences of requests are made up by chance, the same for the same number. They are sent to both servers, and every
//! answer is compared: code, reason, whether it names causes, and the object, with uids and versions replaced by the order in
//! which they were first seen. So are the events of watches. Where the two differ, the sequence is shortened as far as it
//! goes, and shown.
//!
//! `LEASEHOLD_API_SEQUENCES` sets how many (300), `LEASEHOLD_API_FIRST` the number of the first (0).

mod chance;
mod compare;
mod forgotten;
mod lease;
mod patch;
mod run;
mod side;
mod step;
mod watches;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};
use leasehold_testkit::Cluster;

use crate::run::{Pair, run, shortened};
use crate::step::sequence;

const WORKERS: u64 = 6;
const STEPS: usize = 30;

fn setting(name: &str, default: u64) -> Result<u64> {
    Ok(std::env::var(name).ok().map(|value| value.parse()).transpose()?.unwrap_or(default))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_in_memory_answers_as_the_real_one() -> Result<()> {
    let first = setting("LEASEHOLD_API_FIRST", 0)?;
    let end = first + setting("LEASEHOLD_API_SEQUENCES", 300)?;
    let next = Arc::new(AtomicU64::new(first));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..WORKERS.min(end - first) {
        let next = next.clone();
        workers.spawn(async move {
            let cluster = Cluster::shared().await?;
            let (one, two) = (cluster.namespace("api-one").await?, cluster.namespace("api-two").await?);
            let pair =
                Pair { client: side::client(cluster)?, namespaces: [one.name().to_owned(), two.name().to_owned()] };
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= end {
                    return anyhow::Ok(());
                }
                let steps = sequence(number, STEPS);
                let Some(difference) = run(&pair, &steps).await? else { continue };
                next.store(end, Ordering::SeqCst);
                let difference = shortened(&pair, steps, difference).await?;
                bail!("sequence {number} (LEASEHOLD_API_FIRST={number} LEASEHOLD_API_SEQUENCES=1)\n{difference}");
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    Ok(())
}
