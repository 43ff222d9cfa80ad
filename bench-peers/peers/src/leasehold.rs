//! Leasehold.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use leasehold::{Client, Lock, LockGuard};

use crate::Options;
use crate::serve::{Connection, Contender};

/// A client, and so a session.
pub(crate) struct Session {
    client: Client,
    linger: Option<Duration>,
}

pub(crate) struct Holder {
    lock: Lock,
    guard: Option<LockGuard>,
}

pub(crate) async fn connect(options: Options) -> Result<Session> {
    let kubeconfig = Kubeconfig::read_from(options.kubeconfig()?)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let mut client = Client::builder().kube_config(config).namespace(&options.namespace);
    if let Some(seconds) = options.lease {
        client = client.session_duration(Duration::from_secs(seconds));
    }
    Ok(Session { client: client.build()?, linger: options.linger.map(Duration::from_millis) })
}

impl Connection for Session {
    type Contender = Holder;

    async fn contender(&self, lock: &str, _index: usize) -> Result<Holder> {
        let lock = self.client.lock(lock);
        let lock = match self.linger {
            Some(linger) => lock.linger(linger),
            None => lock,
        };
        Ok(Holder { lock: lock.build()?, guard: None })
    }
}

impl Contender for Holder {
    async fn acquire(&mut self) -> Result<()> {
        self.guard = Some(self.lock.acquire().await?);
        Ok(())
    }

    async fn release(&mut self) -> Result<()> {
        Ok(self.guard.take().context("not held")?.release().await?)
    }

    fn holds(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.check().is_ok())
    }
}
