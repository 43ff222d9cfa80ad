//! Work under a lock, with a return value.
//!
//! Run it: make example NAME=with-lock
//!
//! Look for: ten tasks add to one number by reading it and writing it back later. None of the additions is lost, each
//! gets its own number as the result, and nobody has to remember to release.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use leasehold::{Client, OnLost};

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::try_default().await?;
    let number = Arc::new(AtomicU32::new(0));
    let tasks = (0..10).map(|_| {
        let (client, number) = (client.clone(), number.clone());
        tokio::spawn(async move {
            let lock = client.lock("with-lock").build()?;
            // If the lock is lost meanwhile, the work is dropped at its next .await, and that is an error.
            let mine = lock.with_lock(OnLost::Cancel, async |guard| {
                let before = number.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                number.store(before + 1, Ordering::SeqCst);
                println!("number {} with token {}", before + 1, guard.token());
                before + 1
            });
            anyhow::Ok(mine.await?)
        })
    });
    let mut mine: Vec<u32> = try_join_all(tasks).await?.into_iter().collect::<Result<_>>()?;
    mine.sort_unstable();
    ensure!(mine.iter().copied().eq(1..=10), "a number was given twice: {mine:?}");
    ensure!(!client.lock("with-lock").build()?.is_locked().await?, "it was not released");
    client.shutdown().await;
    println!("ok: {} additions, none lost", number.load(Ordering::SeqCst));
    Ok(())
}
