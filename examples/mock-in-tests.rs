//! Code that takes a lock, and unit tests of it that need no cluster.
//!
//! Run it: make example NAME=mock-in-tests; its tests: cargo test -p leasehold-examples
//!
//! Look for: the code takes a `leasehold::Client` and does not know where the Leases are. In production they are in the
//! API server; in the tests they are in a `MemoryStore` (feature `memory`), which behaves the same.

use anyhow::{Result, ensure};
use leasehold::{Client, TryAcquireError};

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Sent(u32),
    SomebodyElseDoes,
}

/// Sends the invoices, unless another replica is at it.
async fn send_invoices(client: &Client, invoices: &mut Vec<&str>) -> Result<Outcome> {
    let guard = match client.lock("mock-in-tests").build()?.try_acquire().await {
        Ok(guard) => guard,
        Err(TryAcquireError::Held { .. }) => return Ok(Outcome::SomebodyElseDoes),
        Err(error) => return Err(error.into()),
    };
    let mut sent = 0;
    while let Some(invoice) = invoices.pop() {
        guard.check()?;
        println!("sent {invoice}");
        sent += 1;
    }
    guard.release().await?;
    Ok(Outcome::Sent(sent))
}

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::try_default().await?;
    let outcome = send_invoices(&client, &mut vec!["4711", "0815"]).await?;
    ensure!(outcome == Outcome::Sent(2), "{outcome:?}");
    client.shutdown().await;
    println!("ok: {outcome:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use leasehold::MemoryStore;

    use super::*;

    /// Clients of one store are to each other as processes of one cluster.
    fn client(store: &MemoryStore) -> Client {
        Client::builder().store(Arc::new(store.clone())).build().unwrap()
    }

    #[tokio::test]
    async fn all_are_sent_and_the_lock_is_free_afterwards() {
        let store = MemoryStore::new();
        let mut invoices = vec!["1", "2", "3"];
        assert_eq!(send_invoices(&client(&store), &mut invoices).await.unwrap(), Outcome::Sent(3));
        let lock = client(&store).lock("mock-in-tests").build().unwrap();
        assert!(!lock.is_locked().await.unwrap());
    }

    #[tokio::test]
    async fn none_are_sent_while_somebody_else_is_at_it() {
        let store = MemoryStore::new();
        let other = client(&store).lock("mock-in-tests").build().unwrap().acquire().await.unwrap();
        let mut invoices = vec!["1"];
        assert_eq!(send_invoices(&client(&store), &mut invoices).await.unwrap(), Outcome::SomebodyElseDoes);
        assert_eq!(invoices, ["1"]);
        other.release().await.unwrap();
        assert_eq!(send_invoices(&client(&store), &mut invoices).await.unwrap(), Outcome::Sent(1));
    }
}
