//! What nothing can be below: a PUT, and how long it takes until another process has its event.

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::serve::{Connection, Contender};
use crate::{Options, Peer};

pub(crate) struct Floor {
    leases: Api<Lease>,
    watches: bool,
}

pub(crate) struct Bare {
    leases: Api<Lease>,
    lease: Lease,
    events: Option<BoxStream<'static, kube::Result<WatchEvent<Lease>>>>,
}

pub(crate) async fn connect(options: Options) -> Result<Floor> {
    let kubeconfig = Kubeconfig::read_from(options.kubeconfig()?)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let leases = Api::namespaced(Client::try_from(config)?, &options.namespace);
    Ok(Floor { leases, watches: matches!(options.peer, Peer::FloorEvent) })
}

impl Connection for Floor {
    type Contender = Bare;

    async fn contender(&self, lock: &str, _index: usize) -> Result<Bare> {
        let lease = self.leases.get(lock).await?;
        let mut bare = Bare { leases: self.leases.clone(), lease, events: None };
        if self.watches {
            let version = bare.lease.metadata.resource_version.as_deref().context("a version")?;
            let only = WatchParams::default().fields(&format!("metadata.name={lock}"));
            bare.events = Some(self.leases.watch(&only, version).await?.boxed());
        }
        Ok(bare)
    }
}

impl Bare {
    async fn put(&mut self) -> Result<()> {
        let spec = self.lease.spec.get_or_insert_default();
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
        let name = self.lease.metadata.name.clone().context("a name")?;
        self.lease = self.leases.replace(&name, &PostParams::default(), &self.lease).await?;
        Ok(())
    }
}

impl Contender for Bare {
    async fn acquire(&mut self) -> Result<()> {
        let Some(events) = &mut self.events else { return self.put().await };
        match events.next().await.context("the watch ended")?? {
            WatchEvent::Modified(_) => Ok(()),
            other => bail!("{other:?}"),
        }
    }

    async fn release(&mut self) -> Result<()> {
        self.put().await
    }

    fn holds(&self) -> bool {
        false
    }
}
