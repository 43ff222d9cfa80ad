//! `kube-leader-election`: one attempt at a time; when to try again is left to whoever uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use kube_leader_election::{Error, LeaseLock, LeaseLockParams, LeaseLockResult};
use kube_v4::config::{KubeConfigOptions, Kubeconfig};
use kube_v4::{Client, Config};
use tokio::task::JoinHandle;

use crate::serve::{Connection, Contender, now};
use crate::{Options, identity};

/// What its documents renew and try with.
const INTERVAL: u64 = 5000;
const TTL: u64 = 15;

pub(crate) struct Api {
    client: Client,
    options: Options,
}

pub(crate) struct Candidate {
    lock: Arc<LeaseLock>,
    ttl: Duration,
    retry: Duration,
    /// Until when it leads, by this process's clock.
    until: Arc<AtomicU64>,
    renewal: Option<JoinHandle<()>>,
}

pub(crate) async fn connect(options: Options) -> Result<Api> {
    let kubeconfig = Kubeconfig::read_from(options.kubeconfig()?)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Api { client: Client::try_from(config)?, options })
}

impl Connection for Api {
    type Contender = Candidate;

    async fn contender(&self, lock: &str, index: usize) -> Result<Candidate> {
        let ttl = self.options.lease_or(TTL);
        let holder_id = identity(lock, index);
        let params = LeaseLockParams { holder_id, lease_name: lock.to_owned(), lease_ttl: ttl };
        let lock = Arc::new(LeaseLock::new(self.client.clone(), &self.options.namespace, params));
        let retry = self.options.retry_or(INTERVAL);
        Ok(Candidate { lock, ttl, retry, until: Arc::default(), renewal: None })
    }
}

/// Whether it leads, and until when.
async fn attempt(lock: &LeaseLock, ttl: Duration, until: &AtomicU64) -> bool {
    let sent = now();
    let leads = matches!(lock.try_acquire_or_renew().await, Ok(LeaseLockResult::Acquired(_)));
    if leads {
        until.store(sent + u64::try_from(ttl.as_nanos()).unwrap_or(0), Ordering::Relaxed);
    }
    leads
}

impl Contender for Candidate {
    async fn acquire(&mut self) -> Result<()> {
        while !attempt(&self.lock, self.ttl, &self.until).await {
            tokio::time::sleep(self.retry).await;
        }
        let (lock, ttl, until) = (self.lock.clone(), self.ttl, self.until.clone());
        self.renewal = Some(tokio::spawn(async move {
            loop {
                tokio::time::sleep(ttl / 3).await;
                attempt(&lock, ttl, &until).await;
            }
        }));
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
            let _ = renewal.await;
        }
        self.until.store(0, Ordering::Relaxed);
        match self.lock.step_down().await {
            // Somebody has taken it over meanwhile: its writes have no condition.
            Ok(()) | Err(Error::ReleaseLockWhenNotLeading { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn holds(&self) -> bool {
        now() < self.until.load(Ordering::Relaxed)
    }
}
