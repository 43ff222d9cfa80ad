//! `kubert`'s lease: as its documents have it (`spawn`), or asked as often as one likes (`sync`, `ensure_claimed`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi_25::api::coordination::v1::Lease;
use kube_v1::config::{KubeConfigOptions, Kubeconfig};
use kube_v1::{Api, Client, Config};
use kubert::lease::{Claim, ClaimParams, Error, LeaseManager};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::serve::{Connection, Contender};
use crate::{Options, identity};

pub(crate) struct Leases {
    api: Api<Lease>,
    options: Options,
}

pub(crate) struct Claimant {
    api: Api<Lease>,
    lock: String,
    identity: String,
    params: ClaimParams,
    retry: Option<Duration>,
    held: Option<Held>,
}

enum Held {
    Spawned(watch::Receiver<Arc<Claim>>, JoinHandle<Result<(), Error>>),
    Asked(Arc<LeaseManager>, JoinHandle<()>),
}

pub(crate) async fn connect(options: Options) -> Result<Leases> {
    let kubeconfig = Kubeconfig::read_from(options.kubeconfig()?)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Leases { api: Api::namespaced(Client::try_from(config)?, &options.namespace), options })
}

impl Connection for Leases {
    type Contender = Claimant;

    async fn contender(&self, lock: &str, index: usize) -> Result<Claimant> {
        let mut params = ClaimParams::default();
        params.lease_duration = self.options.lease_or(params.lease_duration.as_secs());
        Ok(Claimant {
            api: self.api.clone(),
            lock: lock.to_owned(),
            identity: identity(lock, index),
            params,
            retry: self.options.retry.map(Duration::from_millis),
            held: None,
        })
    }
}

impl Claimant {
    async fn spawned(&self) -> Result<Held> {
        let manager = LeaseManager::init(self.api.clone(), &self.lock).await?;
        let (mut claims, task) = manager.spawn(&self.identity, self.params.clone()).await?;
        claims.wait_for(|claim| claim.is_current_for(&self.identity)).await?;
        Ok(Held::Spawned(claims, task))
    }

    async fn asked(&self, retry: Duration) -> Result<Held> {
        // One GET in each turn. A manager that is kept spares it not: `vacate` leaves it with the version that was there
        // before, so that the next turn would begin with a conflict, and then the same GET.
        let manager = Arc::new(LeaseManager::init(self.api.clone(), &self.lock).await?);
        let mut claim = manager.ensure_claimed(&self.identity, &self.params).await?;
        while !claim.is_current_for(&self.identity) {
            tokio::time::sleep(retry).await;
            manager.sync().await?;
            claim = manager.ensure_claimed(&self.identity, &self.params).await?;
        }
        let (renews, identity, params) = (manager.clone(), self.identity.clone(), self.params.clone());
        let renewal = tokio::spawn(async move {
            loop {
                claim.expire_with_grace(params.renew_grace_period).await;
                match renews.ensure_claimed(&identity, &params).await {
                    Ok(renewed) => claim = renewed,
                    Err(_) => tokio::time::sleep(retry).await,
                }
            }
        });
        Ok(Held::Asked(manager, renewal))
    }
}

impl Contender for Claimant {
    async fn acquire(&mut self) -> Result<()> {
        self.held = Some(match self.retry {
            None => self.spawned().await?,
            Some(retry) => self.asked(retry).await?,
        });
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        match self.held.take().context("not held")? {
            Held::Spawned(claims, task) => {
                drop(claims);
                task.await??;
            }
            Held::Asked(manager, renewal) => {
                renewal.abort();
                let _ = renewal.await;
                manager.vacate(&self.identity).await?;
            }
        }
        Ok(())
    }

    fn holds(&self) -> bool {
        match &self.held {
            None => false,
            Some(Held::Spawned(claims, _)) => claims.borrow().is_current_for(&self.identity),
            Some(Held::Asked(_, renewal)) => !renewal.is_finished(),
        }
    }
}
