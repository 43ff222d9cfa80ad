//! `kube-lease-manager`, in its manual way: `changed()` and `release()`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use kube_lease_manager::{
    DEFAULT_LEASE_DURATION_SECONDS, DEFAULT_LEASE_GRACE_SECONDS, LeaseManager, LeaseManagerBuilder,
};
use tokio::task::JoinHandle;

use crate::serve::{Connection, Contender};
use crate::{Options, identity};

/// After an error.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Api {
    client: Client,
    options: Options,
}

pub(crate) struct Candidate {
    manager: Arc<LeaseManager>,
    leads: Arc<AtomicBool>,
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
        let identity = identity(lock, index);
        let manager = LeaseManagerBuilder::new(self.client.clone(), lock)
            .with_namespace(&self.options.namespace)
            .with_field_manager(identity.clone())
            .with_identity(identity)
            .with_duration(self.options.lease.unwrap_or(DEFAULT_LEASE_DURATION_SECONDS))
            .with_grace(self.options.grace.unwrap_or(DEFAULT_LEASE_GRACE_SECONDS))
            .build()
            .await?;
        Ok(Candidate { manager: Arc::new(manager), leads: Arc::default(), renewal: None })
    }
}

impl Contender for Candidate {
    async fn acquire(&mut self) -> Result<()> {
        loop {
            match self.manager.changed().await {
                Ok(true) => break,
                Ok(false) => {}
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        self.leads.store(true, Ordering::Relaxed);
        let (manager, leads) = (self.manager.clone(), self.leads.clone());
        self.renewal = Some(tokio::spawn(async move {
            loop {
                match manager.changed().await {
                    Ok(state) => leads.store(state, Ordering::Relaxed),
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        }));
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
            let _ = renewal.await;
        }
        self.leads.store(false, Ordering::Relaxed);
        Ok(self.manager.release().await?)
    }

    fn holds(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }
}
