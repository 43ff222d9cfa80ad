//! Everything the warden knows, as a machine: sights and answers in, requests out. No clock, no network.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use leasehold::protocol::deadlock::Deadlock;
use leasehold::protocol::observer::Observer;
use leasehold::protocol::record::{KIND, Pod, SessionRecord};
use leasehold::protocol::{HolderId, Kind, Moment, Now, Record, Version, Write};

use super::Place;
use super::alarms::Alarms;
use super::decide::{Deed, DeedKind};
use super::evidence::Homes;
use super::incidents::Incident;
use super::lock::Lock;
use crate::leases::Failure;

/// The first pause after a request that failed, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// One request, to be sent once and answered by [`Warden::answer`].
#[derive(Clone, Debug)]
pub struct Task {
    pub place: Place,
    pub what: What,
    /// The version at which the Lease was known when the request was made.
    known: Option<Version>,
}

/// What to send.
#[derive(Clone, Debug)]
pub enum What {
    Read,
    /// End a session.
    End(Write),
    /// End a session whose process is known to have ended.
    EndByEvidence(Write),
    /// Remove the tombstone of a session.
    Sweep(Write),
    /// Write to a lock's Lease.
    Do(Deed),
}

/// What has been done, for whoever counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    SessionEnded { by_evidence: bool },
    SessionSwept,
    HoldersEvicted { count: usize, granted: bool },
    WaitersPassedOver(usize),
    Granted(usize),
    LeaseRemoved,
    ToldToGiveUp,
}

/// How many there are, for whoever counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub held: usize,
    pub free: usize,
    pub waiters: usize,
    pub sessions: usize,
    /// Of all semaphores together.
    pub permits_held: u64,
    pub permits_available: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Warden {
    /// It acts on what it knows. Otherwise it only keeps watch.
    acts: bool,
    /// Told on the tombstones of sessions that this process ends.
    pub(super) by: String,
    pub(super) locks: HashMap<Place, Lock>,
    pub(super) sessions: HashMap<Place, Session>,
    /// Places of which the controllers of some kinds want to be told, and what to tell.
    pub(super) followed: HashMap<Place, HashMap<Kind, Vec<Incident>>>,
    pub(super) changed: BTreeSet<Place>,
    /// Those that there were when they were last looked for.
    pub(super) deadlocks: Vec<Deadlock>,
    /// Who of these is to give up where, and the circle.
    pub(super) giving_up: HashMap<Place, BTreeMap<HolderId, String>>,
    pub(super) alarms: Alarms<Place>,
    pub(super) homes: Homes,
    pub(super) requests: HashMap<Place, Attempts>,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) observer: Observer,
    /// What stands there now cannot be read.
    pub(super) unreadable: bool,
    /// Its Lease is there, as far as is known.
    pub(super) present: bool,
    /// The Pod in which its process runs, if it says so.
    pub(super) home: Option<Pod>,
    /// The locks that it holds or waits for.
    pub(super) named_by: BTreeSet<Place>,
}

/// Requests are sent one at a time for each Lease, and rarer while they fail.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    in_flight: bool,
    failures: u32,
    pub(super) not_before: Moment,
}

impl Warden {
    /// A warden that has seen nothing. `by` stands on the tombstones it makes.
    pub fn new(by: impl Into<String>) -> Self {
        Self {
            acts: true,
            by: by.into(),
            locks: HashMap::new(),
            sessions: HashMap::new(),
            followed: HashMap::new(),
            changed: BTreeSet::new(),
            deadlocks: Vec::new(),
            giving_up: HashMap::new(),
            alarms: Alarms::default(),
            homes: Homes::default(),
            requests: HashMap::new(),
        }
    }

    /// Whether this warden acts on what it knows, or only keeps watch: then it reads, and writes nothing. What it has seen by
    /// the time it is to act counts: no clock is started anew. At first it acts.
    pub fn set_acts(&mut self, acts: bool, now: Moment) {
        if acts && !self.acts {
            let all: Vec<Place> = self.locks.keys().chain(self.sessions.keys()).cloned().collect();
            for place in &all {
                self.touch(place, now);
            }
        }
        if !acts {
            // It looks for them no more: by the time it acts again they may be over.
            self.deadlocks.clear();
            self.giving_up.clear();
        }
        self.acts = acts;
    }

    // ----------------------------------------------------------------------------------------------- what was seen

    /// A Lease was seen like this, in an answer or event received at `now`.
    pub fn saw(&mut self, mut lease: Lease, now: Moment) {
        let (Some(namespace), Some(name)) = (&lease.metadata.namespace, &lease.metadata.name) else {
            return;
        };
        let place = Place::new(namespace, name);
        // That there are some is all that anybody wants to know of them.
        if let Some(fields) = lease.metadata.managed_fields.as_mut().filter(|fields| !fields.is_empty()) {
            *fields = vec![ManagedFieldsEntry::default()];
        }
        if place.is_session() {
            match SessionRecord::parse(lease) {
                Ok(record) => self.saw_session(&place, record, now),
                Err(error) => self.unreadable_session(&place, &error, now),
            }
        } else if is_known(&lease) {
            match Record::parse(lease) {
                Ok(record) => self.saw_lock(&place, record, now),
                Err(error) => {
                    tracing::warn!(%place, %error, "a lock's Lease cannot be read and is left alone");
                    // What was known of it counts no more, and nothing can be said of it until it is shown otherwise.
                    self.drop_lock(&place, now);
                }
            }
        } else {
            // It may have been a lock's until now.
            self.drop_lock(&place, now);
        }
    }

    /// A watch no longer shows this Lease: it was removed, lost its label, or that is old news.
    pub fn out_of_sight(&mut self, place: &Place, now: Moment) {
        if let Some(session) = self.sessions.get_mut(place) {
            session.observer.hint_gone();
            if session.named_by.is_empty() {
                self.drop_session(place);
                self.forget(place);
                return;
            }
        } else if !self.followed.contains_key(place) {
            self.drop_lock(place, now);
            return;
        } else if let Some(lock) = self.locks.get_mut(place) {
            lock.doubtful = true;
        }
        self.touch(place, now);
    }

    /// A watch began anew and has shown these: everything else of that namespace, or of all, is out of its sight.
    pub fn relisted(&mut self, namespace: Option<&str>, shown: &HashSet<Place>, now: Moment) {
        let known = self.locks.keys().chain(self.sessions.keys());
        let missing: Vec<Place> = known
            .filter(|place| namespace.is_none_or(|namespace| namespace == place.namespace) && !shown.contains(place))
            .cloned()
            .collect();
        for place in missing {
            self.out_of_sight(&place, now);
        }
    }

    /// Somebody else asked for this lock's Lease when it was known at `known`, and this is the answer.
    pub fn told(&mut self, place: &Place, known: Option<Version>, lease: Option<Lease>, now: Moment) {
        match lease {
            Some(lease) => self.saw(lease, now),
            None => self.absent(place, known, now),
        }
    }

    /// What somebody else wrote was refused: the lock is not as it is known.
    pub fn doubt(&mut self, place: &Place, now: Moment) {
        if let Some(lock) = self.locks.get_mut(place) {
            lock.doubtful = true;
            self.touch(place, now);
        }
    }

    // ------------------------------------------------------------------------------------------------ what is known

    /// The lock's Lease as it was last seen, if that is not in doubt.
    pub fn record(&self, place: &Place) -> Option<Arc<Record>> {
        self.locks.get(place).filter(|lock| !lock.doubtful).map(|lock| Arc::clone(&lock.record))
    }

    /// The version of the lock's Lease as it was last seen.
    pub fn version(&self, place: &Place) -> Option<Version> {
        self.locks.get(place).map(|lock| lock.record.version)
    }

    /// How many there are.
    pub fn census(&self) -> Census {
        let mut census = Census { sessions: self.sessions.len(), ..Census::default() };
        for lock in self.locks.values() {
            census.waiters += lock.record.waiters.len();
            if lock.record.kind == Kind::Semaphore {
                census.permits_held += u64::from(lock.record.held_permits());
                census.permits_available += u64::from(lock.record.available_permits());
            }
            *if lock.record.is_held() { &mut census.held } else { &mut census.free } += 1;
        }
        census
    }

    // ----------------------------------------------------------------------------------------------- what is to do

    /// The next request to send now, if any.
    pub fn poll(&mut self, now: Now) -> Option<Task> {
        while let Some(place) = self.alarms.pop(now.moment) {
            let attempts = self.requests.entry(place.clone()).or_default();
            if attempts.in_flight {
                continue; // Its answer touches it.
            }
            if attempts.not_before > now.moment {
                let not_before = attempts.not_before;
                self.alarms.set(&place, not_before);
                continue;
            }
            let what = if place.is_session() { self.poll_session(&place, now) } else { self.poll_lock(&place, now) };
            if let Some(what) = what.filter(|what| self.acts || matches!(what, What::Read)) {
                self.requests.entry(place.clone()).or_default().in_flight = true;
                let known = self.version(&place);
                return Some(Task { place, what, known });
            }
            self.requests.remove(&place);
        }
        None
    }

    /// When [`poll`](Self::poll) may have something to do, if nothing else happens before.
    pub fn wake_at(&self) -> Option<Moment> {
        self.alarms.next()
    }

    /// The answer to a task, received at `now`.
    pub fn answer(&mut self, task: &Task, answer: Result<Option<Lease>, Failure>, now: Moment) -> Option<Done> {
        let place = &task.place;
        self.settle(task, &answer, now);
        let done = match answer {
            Ok(lease) => {
                let done = self.carried_out(task, now);
                match lease {
                    Some(lease) if place.is_session() => self.read_session(place, Some(lease), now),
                    Some(lease) => self.saw(lease, now),
                    None => self.removed(task, now),
                }
                done
            }
            Err(Failure::Absent) => {
                self.removed(task, now);
                None
            }
            Err(_) => {
                if let Some(session) = self.sessions.get_mut(place) {
                    session.observer.refused();
                } else if let Some(lock) = self.locks.get_mut(place) {
                    lock.doubtful = true;
                }
                None
            }
        };
        self.touch(place, now);
        done
    }

    // ------------------------------------------------------------------------------------------------------ answers

    /// Notes what a task that was carried out has done.
    fn carried_out(&mut self, task: &Task, now: Moment) -> Option<Done> {
        match &task.what {
            What::Read => None,
            What::End(_) => Some(Done::SessionEnded { by_evidence: false }),
            What::EndByEvidence(_) => Some(Done::SessionEnded { by_evidence: true }),
            What::Sweep(_) => Some(Done::SessionSwept),
            What::Do(deed) => {
                self.touch(&task.place, now);
                Some(match &deed.kind {
                    DeedKind::Evict { holders, to } => {
                        self.note_evictions(&task.place, holders, to);
                        Done::HoldersEvicted { count: holders.len(), granted: !to.is_empty() }
                    }
                    DeedKind::Grant { to } => Done::Granted(to.len()),
                    DeedKind::PassOver => Done::WaitersPassedOver(deed.passed_over),
                    DeedKind::Remove => Done::LeaseRemoved,
                    DeedKind::GiveUp { waiter, circle } => {
                        let (waiter, circle) = (waiter.clone(), circle.clone());
                        self.note_incidents(&task.place, [Incident::ToldToGiveUp { waiter, circle }]);
                        Done::ToldToGiveUp
                    }
                })
            }
        }
    }

    /// The Lease of this task is not there, or no longer.
    fn removed(&mut self, task: &Task, now: Moment) {
        let place = &task.place;
        if !place.is_session() {
            self.absent(place, task.known, now);
        } else if matches!(task.what, What::Sweep(_)) {
            self.drop_session(place);
            self.forget(place);
        } else {
            self.read_session(place, None, now);
        }
    }

    fn settle(&mut self, task: &Task, answer: &Result<Option<Lease>, Failure>, now: Moment) {
        let attempts = self.requests.entry(task.place.clone()).or_default();
        attempts.in_flight = false;
        match answer {
            // A read between two writes that fail does not make these any better.
            Ok(_) if matches!(task.what, What::Read) => {}
            Ok(_) | Err(Failure::Absent) => *attempts = Attempts::default(),
            Err(failure) => {
                let pause = PAUSES.0 * 2_u32.pow(attempts.failures.min(6));
                // A refusal is what contention looks like. Only again and again it is not.
                let first = attempts.failures == 0 && *failure == Failure::Refused;
                attempts.failures += 1;
                attempts.not_before = if first { now } else { now + pause.min(PAUSES.1) };
            }
        }
    }

    /// Look at this now.
    pub(super) fn touch(&mut self, place: &Place, now: Moment) {
        self.alarms.set_by(place, now);
        self.tell_of(place);
    }

    pub(super) fn forget(&mut self, place: &Place) {
        self.alarms.clear(place);
        self.requests.remove(place);
        self.tell_of(place);
    }
}

/// Only what is labelled as a lock, a semaphore or a read-write lock is anybody's business here.
pub(crate) fn is_known(lease: &Lease) -> bool {
    let labels = lease.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(KIND)).is_some_and(|kind| Kind::named(kind).is_some())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    #[test]
    fn who_only_keeps_watch_writes_nothing_and_its_clock_runs_all_the_same() {
        let at =
            |seconds| Now { moment: Moment::from_start(Duration::from_secs(seconds)), stamp: Timestamp::UNIX_EPOCH };
        let session = json!({
            "metadata": { "namespace": "ns", "name": "session-pod.x1", "uid": "u", "resourceVersion": "5" },
            "spec": { "holderIdentity": "pod_x1", "leaseDurationSeconds": 10 },
        });
        let mut warden = Warden::new("test");
        warden.set_acts(false, at(0).moment);
        warden.saw(serde_json::from_value(session).unwrap(), at(0).moment);
        assert!(warden.poll(at(0)).is_none());
        assert!(warden.poll(at(10)).is_none(), "it wrote");
        warden.set_acts(true, at(11).moment);
        let task = warden.poll(at(11)).expect("its time had run before");
        assert!(matches!(task.what, What::End(_)), "{task:?}");
    }
}
