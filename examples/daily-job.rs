//! A job that every replica's clock starts, and one of them does: once a day, though their clocks differ a little.
//!
//! Run it: make example NAME=daily-job
//!
//! Look for: the job takes no time at all, so a plain lock would be free again before the last replica's clock strikes, and the
//! job would be done three times. `hold_at_least` leaves it taken for the rest of its time. `max_clock_skew` lets a
//! replica believe that the time of yesterday's has passed, without having watched it all night.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use leasehold::{Client, TryAcquireError};

/// How far the replicas' clocks are behind.
const BEHIND: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(300)];
/// Longer than clocks can be behind, and shorter than a day. Hours, in production.
const AT_LEAST: Duration = Duration::from_secs(3);
/// Here a day is short.
const DAY: Duration = Duration::from_secs(6);
const DAYS: u32 = 2;

async fn replica(number: usize, done: Arc<AtomicU32>) -> Result<()> {
    let client = Client::try_default().await?;
    let lock = client.lock("daily-job").hold_at_least(AT_LEAST).max_clock_skew(Duration::from_secs(1)).build()?;
    tokio::time::sleep(BEHIND[number]).await;
    let mut midnight = tokio::time::interval(DAY);
    for day in 1..=DAYS {
        midnight.tick().await;
        match lock.try_acquire().await {
            Ok(guard) => {
                done.fetch_add(1, Ordering::SeqCst);
                println!("day {day}: replica {number} does it, token {}", guard.token());
                guard.release().await?;
            }
            Err(TryAcquireError::Held { .. }) => println!("day {day}: replica {number} has nothing to do"),
            Err(error) => return Err(error.into()),
        }
    }
    client.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let done = Arc::new(AtomicU32::new(0));
    let replicas = (0..BEHIND.len()).map(|number| tokio::spawn(replica(number, done.clone())));
    try_join_all(replicas).await?.into_iter().collect::<Result<()>>()?;
    let done = done.load(Ordering::SeqCst);
    ensure!(done == DAYS, "it was done {done} times in {DAYS} days");
    println!("ok: done once a day, {done} times in {DAYS} days");
    Ok(())
}
