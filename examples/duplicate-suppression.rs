//! Duplicates are suppressed: a message that is delivered again within some time is not handled again, wherever it arrives.
//!
//! Run it: make example NAME=duplicate-suppression
//!
//! Look for: whoever handles a message leaves its lock on the Lease (`keep`) for as long as it may come again. It stays there
//! though that process ends. Where the work fails the lock is released instead, and the next delivery tries again.

use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold::{Client, TryAcquireError, clock};

/// For so long a message may come again. Hours, in production.
const WINDOW: Duration = Duration::from_secs(4);

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Handled,
    Failed,
    Duplicate,
}

async fn deliver(client: &Client, message: &str, works: bool) -> Result<Outcome> {
    // A name is any text.
    let guard = match client.lock(format!("message:{message}")).build()?.try_acquire().await {
        Ok(guard) => guard,
        // It was handled already, or is just being handled.
        Err(TryAcquireError::Held { .. }) => return Ok(Outcome::Duplicate),
        Err(error) => return Err(error.into()),
    };
    if works {
        guard.keep(WINDOW).await?;
        Ok(Outcome::Handled)
    } else {
        guard.release().await?;
        Ok(Outcome::Failed)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let (first, second) = (Client::try_default().await?, Client::try_default().await?);
    let deliveries = [
        (&first, "payment 4711", false, Outcome::Failed),
        (&second, "payment 4711", true, Outcome::Handled),
        (&first, "payment 4711", true, Outcome::Duplicate),
        (&second, "payment 4711", true, Outcome::Duplicate),
        (&first, "payment 0815", true, Outcome::Handled),
    ];
    let mut kept = clock::moment();
    for (client, message, works, expected) in deliveries {
        let before = clock::moment();
        let outcome = deliver(client, message, works).await?;
        println!("{message}: {outcome:?}");
        ensure!(outcome == expected, "{message}: {outcome:?} instead of {expected:?}");
        if outcome == Outcome::Handled && message == "payment 4711" {
            kept = before;
        }
    }
    // The process that handled it ends. That changes nothing: nobody holds the lock, and nobody can.
    second.shutdown().await;
    for message in ["payment 4711", "payment 0815"] {
        let lock = first.lock(format!("message:{message}")).build()?;
        let guard = lock.acquire_timeout(Duration::from_secs(60)).await?;
        let after = clock::moment().since(kept);
        println!("{message}: would be handled again after {:.1} s", after.as_secs_f32());
        ensure!(after >= WINDOW, "it was forgotten too early");
        guard.release().await?;
    }
    first.shutdown().await;
    println!("ok: each was handled once");
    Ok(())
}
