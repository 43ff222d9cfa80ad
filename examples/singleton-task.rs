//! A background task that runs in one of several replicas, and goes on in another when that one ends.
//!
//! Run it: make example NAME=singleton-task
//!
//! Look for: one replica works, the others stand by without polling. When it shuts down, as in a rolling update, the next
//! one goes on at once where the first left off. Never do two work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use leasehold::Client;

const REPLICAS: u32 = 3;
const STEPS: u32 = 5;

#[derive(Debug, Default)]
struct Task {
    running: AtomicBool,
    steps: AtomicU32,
}

impl Task {
    async fn step(&self, replica: u32) -> Result<()> {
        ensure!(!self.running.swap(true, Ordering::SeqCst), "two replicas work at the same time");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let step = self.steps.fetch_add(1, Ordering::SeqCst) + 1;
        println!("replica {replica}: step {step}");
        self.running.store(false, Ordering::SeqCst);
        Ok(())
    }
}

async fn replica(number: u32, task: Arc<Task>) -> Result<()> {
    let client = Client::try_default().await?;
    let guard = client.lock("singleton-task").build()?.acquire().await?;
    println!("replica {number}: it is mine, token {}", guard.token());
    let lost = guard.lost();
    for _ in 0..STEPS {
        // A step is dropped when the lock is lost. A replica that lives on would acquire again then.
        tokio::select! {
            biased;
            () = lost.cancelled() => guard.check()?,
            outcome = task.step(number) => outcome?,
        }
    }
    // The replica ends, as by SIGTERM: the lock goes straight to the next.
    client.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let task = Arc::new(Task::default());
    let replicas = (0..REPLICAS).map(|number| tokio::spawn(replica(number, task.clone())));
    try_join_all(replicas).await?.into_iter().collect::<Result<()>>()?;
    let steps = task.steps.load(Ordering::SeqCst);
    ensure!(steps == REPLICAS * STEPS, "there were {steps} steps");
    println!("ok: {steps} steps by {REPLICAS} replicas, one at a time");
    Ok(())
}
