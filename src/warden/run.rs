//! The warden's loop: watches in, requests out.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Config};
use leasehold::clock;
use leasehold::protocol::{HolderId, Kind, Moment, record};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::state::{Task, What};
use super::{Place, Warden};
use crate::hearing::{self, Ear, ROUND};
use crate::lead::Office;
use crate::leases::{Failure, Leases};
use crate::metrics::Metrics;
use crate::scope::Scope;
use crate::spans;

/// How many requests are on their way at once.
const AT_ONCE: usize = 32;
/// How often the loop goes round though nothing happens, so that others can see that it does.
const BEAT: Duration = Duration::from_secs(1);
/// How long requests on their way are waited for at the end.
const FINISH: Duration = Duration::from_secs(4);

/// The warden as its loop and the controllers share it.
#[derive(Debug)]
pub(crate) struct Post {
    state: Mutex<Warden>,
    nudge: Notify,
    pulse: Mutex<Pulse>,
}

/// Signs of life of the loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulse {
    /// When it last went round.
    pub(crate) beat: Moment,
    /// Every watch has shown all there is.
    pub(crate) synced: bool,
    /// Since when one of the watches has heard nothing of the API server, or less long ago.
    pub(crate) heard: Moment,
}

impl Post {
    pub(crate) fn new(warden: Warden, now: Moment) -> Self {
        let pulse = Pulse { beat: now, synced: false, heard: now };
        Self { state: Mutex::new(warden), nudge: Notify::new(), pulse: Mutex::new(pulse) }
    }

    /// Looks at the warden, or tells it something.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Warden) -> T) -> T {
        let answer = look(&mut self.lock());
        self.nudge.notify_one();
        answer
    }

    pub(crate) fn pulse(&self) -> Pulse {
        *self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Warden> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beat(&self, pulse: Pulse) {
        *self.pulse.lock().unwrap_or_else(PoisonError::into_inner) = pulse;
    }
}

/// What the loop works with.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) post: Arc<Post>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether it is for this replica to act.
    pub(crate) office: Office,
    /// Told of every followed lock that has changed.
    pub(crate) changed: UnboundedSender<(Place, Kind)>,
}

pub(crate) type Watches = SelectAll<BoxStream<'static, (Scope, watcher::Result<Event<Lease>>)>>;

/// The watches, begun by each scope's own connection, and what each of them hears.
///
/// # Errors
/// The configuration cannot be used.
pub(crate) fn watch(config: &Config, scopes: &[Scope]) -> Result<(Watches, Vec<Ear>), kube::Error> {
    let selected = watcher::Config::default().labels(record::KIND).timeout(ROUND);
    let ears: Vec<Ear> = scopes.iter().map(|_| Ear::new(clock::now().moment)).collect();
    let watch = |(scope, ear): (&Scope, &Ear)| {
        let (scope, client) = (scope.clone(), hearing::client(config.clone(), ear)?);
        let api: Api<Lease> = scope.api(client);
        let events = watcher(api, selected.clone()).backoff(hearing::pauses());
        Ok(events.map(move |event| (scope.clone(), event)).boxed())
    };
    let watches: Result<Vec<_>, kube::Error> = scopes.iter().zip(&ears).map(watch).collect();
    Ok((futures::stream::select_all(watches?), ears))
}

/// Keeps watch until told to stop, then finishes what is on its way.
pub(crate) async fn run(tools: Tools, mut watches: Watches, ears: Vec<Ear>, stop: CancellationToken) {
    let mut sights = Sights { expected: ears.len(), ..Sights::default() };
    let mut on_their_way = JoinSet::new();
    let mut looked = Moment::default();
    while !stop.is_cancelled() {
        let now = clock::now();
        let heard = ears.iter().map(Ear::heard).min().unwrap_or(now.moment);
        tools.post.beat(Pulse { beat: now.moment, synced: sights.synced(), heard });
        tools.post.lock().set_acts(tools.office.is_ours(), now.moment);
        // Before everything has been seen, everybody looks absent.
        while sights.synced() && on_their_way.len() < AT_ONCE {
            let Some(task) = tools.post.lock().poll(now) else {
                break;
            };
            on_their_way.spawn(send(Arc::clone(&tools.leases), task));
        }
        tools.find_deadlocks(&mut looked, now.moment);
        tools.tell_changes();
        let pause = tools.post.lock().wake_at().map_or(BEAT, |at| at.since(now.moment).min(BEAT));
        // While nothing more can be sent, what is due waits for an answer.
        let pause = if on_their_way.len() < AT_ONCE && sights.synced() { pause } else { BEAT };
        tokio::select! {
            () = stop.cancelled() => {}
            Some((scope, event)) = watches.next() => tools.see(&mut sights, &scope, event),
            Some(answer) = on_their_way.join_next() => tools.answer(answer),
            () = tools.post.nudge.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    let finish = async {
        while let Some(answer) = on_their_way.join_next().await {
            tools.answer(answer);
        }
    };
    if tokio::time::timeout(FINISH, finish).await.is_err() {
        tracing::warn!("requests were still on their way at the end; each is safe to be carried out late");
    }
}

async fn send(leases: Arc<Leases>, task: Task) -> (Task, Result<Option<Lease>, Failure>) {
    let answer = async {
        match &task.what {
            What::Read => leases.read(&task.place).await.and_then(|lease| lease.map(Some).ok_or(Failure::Absent)),
            What::End(write) | What::EndByEvidence(write) | What::Sweep(write) => {
                leases.write(&task.place, write).await
            }
            What::Do(deed) => leases.write(&task.place, &deed.write).await,
        }
    };
    let answer = spans::request(&task.place, named(&task.what), answer).await;
    (task, answer)
}

/// How far the watches have come.
#[derive(Debug, Default)]
struct Sights {
    expected: usize,
    done: HashSet<Scope>,
    /// What a watch that begins anew has shown so far.
    shown: HashMap<Scope, HashSet<Place>>,
}

impl Sights {
    fn synced(&self) -> bool {
        self.done.len() == self.expected
    }
}

impl Tools {
    fn see(&self, sights: &mut Sights, scope: &Scope, event: watcher::Result<Event<Lease>>) {
        // The receipt: everything that expires is counted from here.
        let now = clock::now().moment;
        let mut warden = self.post.lock();
        match event {
            Ok(Event::Init) => {
                sights.shown.insert(scope.clone(), HashSet::new());
            }
            Ok(Event::InitApply(lease)) => {
                sights.shown.entry(scope.clone()).or_default().extend(place_of(&lease));
                warden.saw(lease, now);
            }
            Ok(Event::InitDone) => {
                let shown = sights.shown.remove(scope).unwrap_or_default();
                warden.relisted(scope.namespace(), &shown, now);
                sights.done.insert(scope.clone());
                tracing::info!(%scope, leases = shown.len(), "watching Leases");
            }
            Ok(Event::Apply(lease)) => warden.saw(lease, now),
            Ok(Event::Delete(lease)) => {
                if let Some(place) = place_of(&lease) {
                    warden.out_of_sight(&place, now);
                }
            }
            Err(error) => {
                self.metrics.watch_failed("leases");
                tracing::warn!(%scope, %error, "the watch of Leases failed and is begun anew");
            }
        }
    }

    fn answer(&self, answer: Result<(Task, Result<Option<Lease>, Failure>), tokio::task::JoinError>) {
        let (task, answer) = match answer {
            Ok(answer) => answer,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let now = clock::now().moment;
        match (&task.what, &answer) {
            (What::Read, Ok(_)) | (_, Err(Failure::Refused | Failure::Absent)) => {
                tracing::debug!(place = %task.place, done = answer.is_ok(), "{}", tell(&task.what));
            }
            (what, Ok(_)) => {
                let (holders, to) = concerned(what);
                tracing::info!(place = %task.place, holders, to, "{}", tell(what));
            }
            (what, Err(error)) => {
                tracing::warn!(place = %task.place, %error, "could not: {}", tell(what));
            }
        }
        if let Some(done) = self.post.lock().answer(&task, answer, now) {
            self.metrics.done(done);
        }
    }

    /// Looks for deadlocks, at most once a beat.
    fn find_deadlocks(&self, looked: &mut Moment, now: Moment) {
        if now.since(*looked) < BEAT || !self.office.is_ours() {
            return;
        }
        *looked = now;
        let found = self.post.lock().find_deadlocks(now);
        for deadlock in found {
            tracing::warn!(%deadlock, "a deadlock: these wait for each other");
            self.metrics.deadlock();
        }
    }

    fn tell_changes(&self) {
        for changed in self.post.lock().take_changed() {
            // Nobody listens any more when all stops.
            let _ = self.changed.send(changed);
        }
    }
}

fn place_of(lease: &Lease) -> Option<Place> {
    Some(Place::new(lease.metadata.namespace.as_ref()?, lease.metadata.name.as_ref()?))
}

/// Who was evicted, and who was let in, as fields of the log.
fn concerned(what: &What) -> (Option<String>, Option<String>) {
    use super::decide::DeedKind;
    let What::Do(deed) = what else { return (None, None) };
    let told = |ids: &[HolderId]| (!ids.is_empty()).then(|| names(ids));
    match &deed.kind {
        DeedKind::Evict { holders, to } => {
            let evicted: Vec<&str> = holders.iter().map(|one| &*one.identity).collect();
            (Some(evicted.join(", ")), told(to))
        }
        DeedKind::Grant { to } => (None, told(to)),
        DeedKind::PassOver | DeedKind::Remove | DeedKind::GiveUp { .. } => (None, None),
    }
}

/// What is sent, in one word.
fn named(what: &What) -> &'static str {
    use super::decide::DeedKind;
    match what {
        What::Read => "read",
        What::End(_) => "end_session",
        What::EndByEvidence(_) => "end_session_by_evidence",
        What::Sweep(_) => "sweep_session",
        What::Do(deed) => match &deed.kind {
            DeedKind::Evict { .. } => "evict",
            DeedKind::Grant { .. } => "grant",
            DeedKind::PassOver => "pass_over",
            DeedKind::Remove => "remove",
            DeedKind::GiveUp { .. } => "tell_to_give_up",
        },
    }
}

fn tell(what: &What) -> String {
    use super::decide::{DeedKind, Evicted};
    use super::holders::Why;
    let evicted = |holders: &[Evicted]| {
        let why = |why: &Why| match why {
            Why::Ended => "ended",
            Why::Asked(_) => "asked to let go",
            Why::HeldTooLong(_) => "held for too long",
        };
        let told = holders.iter().map(|one| format!("{} ({})", one.identity, why(&one.why)));
        told.collect::<Vec<_>>().join(", ")
    };
    match what {
        What::Read => "read the Lease".to_owned(),
        What::End(_) => "ended a session that had fallen silent".to_owned(),
        What::EndByEvidence(_) => "ended a session whose Pod has terminated".to_owned(),
        What::Sweep(_) => "removed the tombstone of an ended session".to_owned(),
        What::Do(deed) => match &deed.kind {
            DeedKind::Evict { holders, to } if to.is_empty() => {
                format!("evicted {}: what was held is free", evicted(holders))
            }
            DeedKind::Evict { holders, to } => {
                format!("evicted {}: it is held now by {}", evicted(holders), names(to))
            }
            DeedKind::Grant { to } => format!("let in, where there was room: {}", names(to)),
            DeedKind::PassOver => format!("removed {} waiters that have ended", deed.passed_over),
            DeedKind::Remove => "removed a Lease that nobody uses".to_owned(),
            DeedKind::GiveUp { waiter, circle } => {
                format!("told {waiter} to give up, since it waits in a circle: {circle}")
            }
        },
    }
}

fn names(ids: &[HolderId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
