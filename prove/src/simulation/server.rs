//! The API server of the simulation: carries requests out, one by one, and has each change judged by the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::record::{KIND, SESSION_PREFIX, SessionRecord};
use leasehold::protocol::{Liveness, Record, SessionId, Version, Write};
use leasehold::testing::{ApiServer, Watch};
use leasehold::{Failure, MemoryStore, Sight, Store as _};
use tokio::sync::watch;

use super::deaths::Deaths;
use super::lent::Joins;
use super::log::Log;
use super::rules::{self, Author, Change, Heads};

pub(super) const NAMESPACE: &str = "simulated";

/// Where nothing goes wrong, who can be let in is let in as soon as that, and who watches is told of a loss.
pub(super) const AT_ONCE: Duration = Duration::from_millis(300);

/// The API server, the one there is.
#[derive(Debug)]
pub(super) struct Server {
    store: MemoryStore,
    log: Arc<Log>,
    /// It is being restarted: nothing is carried out.
    down: AtomicBool,
    /// How many writes have changed something.
    writes: AtomicU64,
    /// How often it was restarted. Connections break when it is.
    restarts: watch::Sender<u64>,
    /// The Leases of sessions that were removed. A session's name never lives twice: one of these that stands there again
    /// was made by a request that was carried out a second time.
    removed: Mutex<BTreeSet<String>>,
    /// Nothing goes wrong.
    calm: bool,
    /// What is kept: where, by whom it was, since when, and for how long.
    kept: Mutex<BTreeMap<(String, String), (Duration, Duration)>>,
    /// Since when the dead are dead.
    deaths: Mutex<Deaths>,
    joins: Mutex<Joins>,
    /// One write at a time is carried out and judged.
    judging: Mutex<Heads>,
}

impl Server {
    pub(super) fn new(log: Arc<Log>, calm: bool) -> Arc<Self> {
        Arc::new(Self {
            store: ApiServer::new().store(NAMESPACE),
            log,
            down: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            restarts: watch::Sender::new(0),
            removed: Mutex::default(),
            calm,
            kept: Mutex::default(),
            deaths: Mutex::default(),
            joins: Mutex::default(),
            judging: Mutex::default(),
        })
    }

    fn up(&self) -> Result<(), Failure> {
        if self.down.load(Ordering::SeqCst) { Err(down()) } else { Ok(()) }
    }

    pub(super) fn read(&self, name: &str) -> Result<Lease, Failure> {
        self.up()?;
        self.store.read(name).now_or_never().unwrap_or_else(|| Err(down()))
    }

    /// Carries a write out, or refuses it.
    pub(super) fn write(&self, author: &Author, name: &str, write: &Write) -> Result<Option<Lease>, Failure> {
        self.up()?;
        let mut heads = self.judging.lock().unwrap_or_else(PoisonError::into_inner);
        let is_lock = !name.starts_with(SESSION_PREFIX);
        let before = if is_lock { self.read(name).ok() } else { None };
        let version = self.store.server().version();
        let answer = self.store.write(name, write).now_or_never().unwrap_or_else(|| Err(down()));
        self.log.tell(|| format!("{author} {}: {}", rules::tell(name, write), outcome(&answer)));
        let after = answer?;
        if self.store.server().version() == version {
            return Ok(after); // nothing has changed
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        if !is_lock {
            let record = after.clone().and_then(|lease| SessionRecord::parse(lease).ok());
            self.deaths.lock().unwrap_or_else(PoisonError::into_inner).saw_session(name, record, self.log.time());
        }
        if !is_lock && after.is_none() {
            self.removed.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        }
        if is_lock {
            let parse = |lease: Option<Lease>| lease.and_then(|lease| Record::parse(lease).ok());
            let alive = |session: &SessionId| self.is_alive(session);
            let change = Change { before: parse(before), after: parse(after.clone()), author, alive: &alive };
            if let Err(broken) = change.judge() {
                self.log.violation(format!("{broken}: {author} wrote to {name}"));
            }
            let deaths =
                self.deaths.lock().unwrap_or_else(PoisonError::into_inner).judge(name, &change, self.log.time());
            for early in deaths {
                self.log.violation(early);
            }
            for left in self.judge_kept(name, &change) {
                self.log.violation(left);
            }
            self.joins().saw(name, change.after.as_ref(), self.log.time());
            let waited = heads.saw(name, change.after.as_ref(), self.log.time());
            if let Some(waited) = waited.filter(|waited| self.calm && *waited > AT_ONCE) {
                self.log.violation(format!("the first could have been let in {waited:?} before: {name}"));
            }
        }
        Ok(after)
    }

    fn joins(&self) -> MutexGuard<'_, Joins> {
        self.joins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who waits for longest for what this one holds, of other processes, and since when.
    pub(super) fn longest_wait(&self, name: &str, id: &str) -> Option<(String, Duration)> {
        self.joins().longest(name, id)
    }

    /// What is kept stays for its time, by anybody's clock, whatever becomes of whoever kept it.
    fn judge_kept(&self, name: &str, change: &Change<'_>) -> Vec<String> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.log.time();
        let holders = change.after.iter().flat_map(Record::holders).filter(|holder| holder.kept);
        let stands: BTreeMap<_, _> = holders
            .filter_map(|holder| match holder.liveness {
                Liveness::Own(term) => Some(((name.to_owned(), holder.identity.clone()), term)),
                Liveness::Session(_) => None,
            })
            .collect();
        let gone = kept.extract_if(.., |place, _| place.0 == name && !stands.contains_key(place));
        // No clock is faster than that.
        let early =
            gone.filter(|(_, (since, term))| *change.author != Author::Person && now < *since + term.mul_f64(0.98));
        let told = early.map(|((name, identity), (since, term))| {
            format!(
                "{name}, kept by {identity} for {term:?}, was taken after {:?} by {}",
                now.saturating_sub(since),
                change.author
            )
        });
        let told = told.collect();
        for (place, term) in stands {
            kept.entry(place).or_insert((now, term));
        }
        told
    }

    /// Whether the session's Lease stands there and has not been ended.
    pub(super) fn is_alive(&self, session: &SessionId) -> bool {
        let name = session.lease_name();
        let lease = self.store.read(&name).now_or_never().and_then(Result::ok);
        let stands = lease.and_then(|lease| SessionRecord::parse(lease).ok()).is_some_and(|record| !record.ended);
        stands && !self.removed.lock().unwrap_or_else(PoisonError::into_inner).contains(&name)
    }

    pub(super) fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> Result<BoxStream<'static, Result<Sight, Failure>>, Failure> {
        self.up()?;
        Ok(self.store.watch(name, label, from))
    }

    /// All Leases of Leasehold's, and every change from there on.
    pub(super) fn list_and_watch(&self) -> Result<(Vec<Lease>, Watch), Failure> {
        self.up()?;
        let (leases, version) = self.store.server().list(Some(NAMESPACE), KIND)?;
        let watch = self.store.server().watch(Some(NAMESPACE), KIND, version)?;
        Ok((leases.into_iter().map(Arc::unwrap_or_clone).collect(), watch))
    }

    /// Takes it down. All connections break.
    pub(super) fn stop(&self) {
        self.log.tell(|| "the API server stops".to_owned());
        self.down.store(true, Ordering::SeqCst);
        self.restarts.send_modify(|restarts| *restarts += 1);
    }

    /// Starts it again. What happened before it knows no more.
    pub(super) fn start(&self) {
        if self.down.swap(false, Ordering::SeqCst) {
            self.log.tell(|| "the API server starts".to_owned());
            self.store.server().restart();
        }
    }

    /// Changes whenever it is stopped.
    pub(super) fn restarts(&self) -> watch::Receiver<u64> {
        self.restarts.subscribe()
    }

    /// All Leases, by name.
    pub(super) fn leases(&self) -> BTreeMap<String, Lease> {
        let listed = self.store.server().list(Some(NAMESPACE), "").map(|(leases, _)| leases).unwrap_or_default();
        let named = |lease: Arc<Lease>| Some((lease.metadata.name.clone()?, Arc::unwrap_or_clone(lease)));
        listed.into_iter().filter_map(named).collect()
    }

    /// How many writes have changed something.
    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
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
