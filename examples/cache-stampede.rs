//! No stampede: what is missing in a cache is computed once, however many miss it at the same time.
//!
//! Run it: make example NAME=cache-stampede
//!
//! Look for: twenty requests in four processes find the cache empty at once. One computes; the others wait for it, look
//! again, and find the value.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use leasehold::Client;
use tokio::sync::{Barrier, RwLock};

const PROCESSES: usize = 4;
const REQUESTS: usize = 5;

/// Stands for the cache that they share, wherever that is.
#[derive(Debug)]
struct Cache {
    value: RwLock<Option<String>>,
    computed: AtomicU32,
    /// All requests have missed it before any goes on.
    missed: Barrier,
}

impl Cache {
    async fn get(&self) -> Option<String> {
        self.value.read().await.clone()
    }

    /// Takes long, and is dear.
    async fn compute(&self) -> String {
        tokio::time::sleep(Duration::from_millis(200)).await;
        format!("report {}", self.computed.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

async fn request(client: Client, cache: Arc<Cache>) -> Result<String> {
    if let Some(value) = cache.get().await {
        return Ok(value);
    }
    cache.missed.wait().await;
    let guard = client.lock("cache-stampede").build()?.acquire().await?;
    // It may have come while we waited. Without this second look everybody computes, one after the other.
    let value = if let Some(value) = cache.get().await {
        value
    } else {
        let value = cache.compute().await;
        guard.check()?;
        *cache.value.write().await = Some(value.clone());
        println!("computed: {value}");
        value
    };
    guard.release().await?;
    Ok(value)
}

#[tokio::main]
async fn main() -> Result<()> {
    let missed = Barrier::new(PROCESSES * REQUESTS);
    let cache = Arc::new(Cache { value: RwLock::default(), computed: AtomicU32::new(0), missed });
    let clients = try_join_all((0..PROCESSES).map(|_| Client::try_default())).await?;
    let requests =
        (0..PROCESSES * REQUESTS).map(|n| tokio::spawn(request(clients[n % PROCESSES].clone(), cache.clone())));
    let values: Vec<String> = try_join_all(requests).await?.into_iter().collect::<Result<_>>()?;
    ensure!(values.iter().all(|value| value == "report 1"), "{values:?}");
    ensure!(cache.computed.load(Ordering::SeqCst) == 1, "it was computed more than once");
    for client in clients {
        client.shutdown().await;
    }
    println!("ok: {} requests, computed once", values.len());
    Ok(())
}
