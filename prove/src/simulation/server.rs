//! The API server of the simulation: carries requests out, one by one, and has each change judged by the rules.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::record::{KIND, SESSION_PREFIX, SessionRecord};
use leasehold::protocol::{Record, SessionId, Version, Write};
use leasehold::{Failure, MemoryStore, Sight, Store as _};
use tokio::sync::{mpsc, watch};

use super::log::Log;
use super::rules::{self, Author, Change};

pub(super) const NAMESPACE: &str = "simulated";

/// What has changed: the name, and what it is now.
pub(super) type News = (String, Option<Lease>);

/// The API server, the one there is.
#[derive(Debug)]
pub(super) struct Server {
    store: MemoryStore,
    log: Arc<Log>,
    state: Mutex<State>,
    /// How often it was restarted. Watches end when it is.
    restarts: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    leases: BTreeMap<String, Lease>,
    /// Who is told of everything.
    feeds: Vec<mpsc::UnboundedSender<News>>,
    /// It is being restarted: nothing is carried out.
    down: bool,
    /// What happened before is forgotten.
    horizon: Version,
    writes: u64,
}

impl Server {
    pub(super) fn new(log: Arc<Log>) -> Arc<Self> {
        Arc::new(Self { store: MemoryStore::new(), log, state: Mutex::default(), restarts: watch::Sender::new(0) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self, name: &str) -> Result<Lease, Failure> {
        if self.state().down {
            return Err(down());
        }
        let lease = self.store.read(name).now_or_never().unwrap_or_else(|| Err(down()))?;
        Ok(named(name, lease))
    }

    /// Carries a write out, or refuses it.
    pub(super) fn write(&self, author: &Author, name: &str, write: &Write) -> Result<Option<Lease>, Failure> {
        if self.state().down {
            return Err(down());
        }
        let before = self.state().leases.get(name).cloned();
        let answer = self.store.write(name, write).now_or_never().unwrap_or_else(|| Err(down()));
        self.log.tell(|| format!("{author} {}: {}", rules::tell(name, write), outcome(&answer)));
        let after = answer?.map(|lease| named(name, lease));
        let version = |lease: &Option<Lease>| lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if after.is_some() && version(&before) == version(&after) {
            return Ok(after); // nothing has changed
        }
        let mut state = self.state();
        state.writes += 1;
        match &after {
            Some(after) => drop(state.leases.insert(name.to_owned(), after.clone())),
            None => drop(state.leases.remove(name)),
        }
        if !name.starts_with(SESSION_PREFIX) {
            let parse = |lease: &Option<Lease>| lease.clone().and_then(|lease| Record::parse(lease).ok());
            let alive = |session: &SessionId| {
                let lease = state.leases.get(&session.lease_name()).cloned();
                lease.and_then(|lease| SessionRecord::parse(lease).ok()).is_some_and(|record| !record.ended)
            };
            let change = Change { before: parse(&before), after: parse(&after), author, alive: &alive };
            if let Err(broken) = change.judge() {
                self.log.violation(format!("{broken}: {author} wrote to {name}"));
            }
        }
        state.feeds.retain(|feed| feed.send((name.to_owned(), after.clone())).is_ok());
        Ok(after)
    }

    pub(super) fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> Result<BoxStream<'static, Result<Sight, Failure>>, Failure> {
        let state = self.state();
        if state.down {
            return Err(down());
        }
        if from.is_some_and(|from| from < state.horizon) {
            return Err(Failure::Unclear("410: too old resource version".to_owned()));
        }
        drop(state);
        Ok(self.store.watch(name, label, from))
    }

    /// All Leases of Leasehold's, and every change from here on.
    pub(super) fn list_and_watch(&self) -> Result<(Vec<Lease>, mpsc::UnboundedReceiver<News>), Failure> {
        let mut state = self.state();
        if state.down {
            return Err(down());
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        state.feeds.push(sender);
        let ours = |lease: &&Lease| lease.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(KIND));
        Ok((state.leases.values().filter(ours).cloned().collect(), receiver))
    }

    /// Takes it down. All watches end.
    pub(super) fn stop(&self) {
        self.log.tell(|| "the API server stops".to_owned());
        let mut state = self.state();
        state.down = true;
        state.feeds.clear();
        drop(state);
        self.restarts.send_modify(|restarts| *restarts += 1);
    }

    /// Starts it again. What happened before it knows no more.
    pub(super) fn start(&self) {
        self.log.tell(|| "the API server starts".to_owned());
        let mut state = self.state();
        state.down = false;
        let versions = state.leases.values().filter_map(|lease| lease.metadata.resource_version.as_ref()?.parse().ok());
        state.horizon = versions.max().unwrap_or_default();
    }

    /// Changes whenever it is stopped.
    pub(super) fn restarts(&self) -> watch::Receiver<u64> {
        self.restarts.subscribe()
    }

    /// All Leases, by name.
    pub(super) fn leases(&self) -> BTreeMap<String, Lease> {
        self.state().leases.clone()
    }

    /// How many writes have changed something.
    pub(super) fn writes(&self) -> u64 {
        self.state().writes
    }
}

fn down() -> Failure {
    Failure::Unclear("connection refused".to_owned())
}

fn outcome(answer: &Result<Option<Lease>, Failure>) -> String {
    match answer {
        Ok(Some(lease)) => format!("version {}", lease.metadata.resource_version.as_deref().unwrap_or("?")),
        Ok(None) => "removed".to_owned(),
        Err(failure) => failure.to_string(),
    }
}

fn named(name: &str, mut lease: Lease) -> Lease {
    lease.metadata.name = Some(name.to_owned());
    lease.metadata.namespace = Some(NAMESPACE.to_owned());
    lease
}
