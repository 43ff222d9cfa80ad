//! A rate limit for all processes together: three calls a second, whoever makes them.
//!
//! Run it: make example NAME=rate-limit
//!
//! Look for: each call takes a permit that comes back by itself after its term, and is not given back before. Calls come
//! in threes, with a pause of a term between. The semaphore is FIFO: no process is starved by a busier one.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use leasehold::{Client, clock};

const CALLS: u32 = 9;
const PROCESSES: u32 = 3;
/// So many …
const PERMITS: u32 = 3;
/// … in so long.
const TERM: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<()> {
    let begun = clock::moment();
    let processes = (0..PROCESSES).map(|process| {
        tokio::spawn(async move {
            let client = Client::try_default().await?;
            let limit = client.semaphore("rate-limit").with_permits(PERMITS);
            // A fixed term: it is not renewed.
            let limit = limit.lease_duration(TERM).renewal(false).build()?;
            // A permit that is dropped within its term comes back at once, so they are kept.
            let mut spent = Vec::new();
            for _ in 0..CALLS / PROCESSES {
                spent.retain(|permit: &leasehold::Permits| permit.check().is_ok());
                spent.push(limit.acquire(1).await?);
                println!("process {process}: a call after {:.1} s", clock::moment().since(begun).as_secs_f32());
            }
            anyhow::Ok((client, spent))
        })
    });
    let processes: Vec<_> = try_join_all(processes).await?.into_iter().collect::<Result<_>>()?;
    // Those that came first had to be over before those that came next, and so on.
    let took = clock::moment().since(begun);
    ensure!(took >= TERM * (CALLS / PERMITS - 1), "{CALLS} calls in {took:?} are too many");
    for (client, _) in processes {
        client.shutdown().await;
    }
    println!("ok: {CALLS} calls took {:.1} s", took.as_secs_f32());
    Ok(())
}
