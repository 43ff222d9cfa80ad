//! A lock: taken, refused to somebody else, waited for, and handed on.
//!
//! Run it: make example NAME=basic-lock
//!
//! Look for: the second process is told who holds the lock; then it waits, and has it as soon as the first lets go. Its
//! token is greater. While it runs: kubectl get leases

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use leasehold::{Client, TryAcquireError};

#[tokio::main]
async fn main() -> Result<()> {
    // Each has a client of its own, as two processes would.
    let (first, second) = (Client::try_default().await?, Client::try_default().await?);
    let guard = first.lock("basic-lock").build()?.acquire().await?;
    println!("first: acquired, token {}", guard.token());

    let lock = second.lock("basic-lock").build()?;
    match lock.try_acquire().await {
        Err(TryAcquireError::Held { holder, .. }) => println!("second: it is held by {holder}"),
        outcome => bail!("the second got what the first holds: {outcome:?}"),
    }

    let waiting = tokio::spawn(async move { lock.acquire_timeout(Duration::from_secs(30)).await });
    // Work under the lock. Before each step that counts, see that it is still held.
    guard.check()?;
    let token = guard.token();
    guard.release().await?;
    println!("first: released");

    let guard = waiting.await?.context("the second waited in vain")?;
    println!("second: acquired, token {}", guard.token());
    ensure!(guard.token() > token, "tokens have to grow");
    guard.release().await?;

    first.shutdown().await;
    second.shutdown().await;
    println!("ok");
    Ok(())
}
