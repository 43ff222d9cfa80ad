//! A semaphore that is resized while it is used.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use leasehold::{Client, Semaphore};
use tokio::task::JoinSet;

use crate::stage::Stage;

/// How many want a permit at a time.
const WORKERS: usize = 6;
/// How long each keeps it.
const WORK: Duration = Duration::from_millis(250);

/// How many were at work.
#[derive(Debug, Default)]
struct Site {
    inside: AtomicI64,
    /// The most at a time since this was last looked at.
    most: AtomicI64,
    over: AtomicBool,
}

impl Site {
    fn most(&self) -> i64 {
        self.most.swap(self.inside.load(Ordering::SeqCst), Ordering::SeqCst)
    }
}

/// The most at work at a time, with as many permits.
pub(crate) type Seen = Vec<(i64, i64)>;

/// Lets workers share a semaphore, and scales it as `kubectl scale` does.
pub(crate) async fn perform(stage: &Stage, semaphore: &str) -> Result<Seen> {
    let site = Arc::new(Site::default());
    let mut workers = JoinSet::new();
    for n in 0..WORKERS {
        let client = client(&stage.worker_kubeconfig(), &format!("builder-{n}")).await?;
        let semaphore = client.semaphore(semaphore).build()?;
        workers.spawn(work(client, semaphore, site.clone()));
    }
    let mut seen = Vec::new();
    for permits in [2, 4, 1] {
        println!("\n--- kubectl scale sem/{semaphore} --replicas={permits} ---\n");
        stage.scale(semaphore, permits).await?;
        // Whoever is inside when it shrinks may finish.
        tokio::time::sleep(WORK * 4).await;
        site.most();
        stage.show(&format!("sem/{semaphore}"), Duration::from_secs(3)).await?;
        seen.push((permits, site.most()));
    }
    site.over.store(true, Ordering::SeqCst);
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    for (permits, most) in &seen {
        ensure!(most <= permits, "CHECK FAILED: {most} were at work with {permits} permits");
        ensure!(most == permits, "CHECK FAILED: only {most} were at work at a time, with {permits} permits");
    }
    Ok(seen)
}

async fn work(client: Client, semaphore: Semaphore, site: Arc<Site>) -> Result<()> {
    while !site.over.load(Ordering::SeqCst) {
        let permit = semaphore.acquire(1).await?;
        let inside = site.inside.fetch_add(1, Ordering::SeqCst) + 1;
        site.most.fetch_max(inside, Ordering::SeqCst);
        tokio::time::sleep(WORK).await;
        site.inside.fetch_sub(1, Ordering::SeqCst);
        permit.release().await.context("a permit was lost")?;
    }
    client.shutdown().await;
    Ok(())
}

async fn client(kubeconfig: &Path, host: &str) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::builder().kube_config(config).host(host).session_duration(Duration::from_secs(5)).build()?)
}
