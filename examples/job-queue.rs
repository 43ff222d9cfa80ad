//! A job queue with many workers: each job is done once, and one that a dead worker left is done by another.
//!
//! Run it: make example NAME=job-queue
//!
//! Look for: the jobs are in a `ConfigMap`, and there is a lock for each. A worker takes any job whose lock is free, and
//! looks again under the lock whether the job is still to be done: that makes it once. Nobody waits for a lock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use leasehold::{Client, TryAcquireError};
use serde_json::json;

const JOBS: usize = 12;
const WORKERS: usize = 4;
const QUEUE: &str = "job-queue";

type Done = Arc<Mutex<Vec<String>>>;

async fn jobs() -> Result<Api<ConfigMap>> {
    Ok(Api::default_namespaced(kube::Client::try_default().await?))
}

async fn work(worker: usize, done: Done) -> Result<()> {
    let (client, jobs) = (Client::try_default().await?, jobs().await?);
    loop {
        let mut left = 0;
        let mut all: Vec<_> = jobs.get(QUEUE).await?.data.unwrap_or_default().into_iter().collect();
        // Each begins elsewhere, so that they seldom meet.
        all.rotate_left(worker * JOBS / WORKERS);
        for (job, state) in all {
            if state == "done" {
                continue;
            }
            left += 1;
            let guard = match client.lock(format!("{QUEUE}-{job}")).build()?.try_acquire().await {
                Ok(guard) => guard,
                Err(TryAcquireError::Held { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            // Somebody may have done it before we had the lock.
            if jobs.get(QUEUE).await?.data.unwrap_or_default()[&job] != "done" {
                tokio::time::sleep(Duration::from_millis(20)).await;
                guard.check()?;
                println!("worker {worker} did {job}");
                done.lock().expect("nobody panics").push(job.clone());
                let patch = Patch::Merge(json!({ "data": { job: "done" } }));
                jobs.patch(QUEUE, &PatchParams::default(), &patch).await?;
            }
            guard.release().await?;
        }
        if left == 0 {
            client.shutdown().await;
            return Ok(());
        }
        // What is left is being done by others; should one of them die, its job's lock comes free.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let queue = jobs().await?;
    let names: Vec<String> = (0..JOBS).map(|n| format!("job-{n:02}")).collect();
    let mut draft = ConfigMap::default();
    draft.metadata.name = Some(QUEUE.to_owned());
    draft.data = Some(names.iter().map(|name| (name.clone(), "waiting".to_owned())).collect());
    let _ = queue.delete(QUEUE, &DeleteParams::default()).await; // what an earlier run has left
    queue.create(&PostParams::default(), &draft).await?;

    let done = Done::default();
    let workers = (0..WORKERS).map(|worker| tokio::spawn(work(worker, done.clone())));
    try_join_all(workers).await?.into_iter().collect::<Result<()>>()?;

    let mut done = done.lock().expect("nobody panics").clone();
    done.sort_unstable();
    ensure!(done == names, "not each was done once: {done:?}");
    queue.delete(QUEUE, &DeleteParams::default()).await?;
    println!("ok: {JOBS} jobs, each done once");
    Ok(())
}
