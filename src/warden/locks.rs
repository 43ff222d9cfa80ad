//! The warden's part in locks: see them, tell when a hold was broken, find what is to be done.

use std::collections::BTreeSet;
use std::sync::Arc;

use leasehold::protocol::observer::{End, Verdict};
use leasehold::protocol::{Holder, Liveness, Moment, Now, Record, SessionId, Version};

use super::Place;
use super::decide::{Sight, decide};
use super::lock::Lock;
use super::state::{Warden, What};

impl Warden {
    pub(super) fn saw_lock(&mut self, place: &Place, record: Record, now: Moment) {
        let record = Arc::new(record);
        if let Some(lock) = self.locks.get_mut(place) {
            if record.version < lock.record.version {
                return;
            }
            let before = Arc::clone(&lock.record);
            if record.version == before.version {
                lock.doubtful = false;
                return;
            }
            self.note_losses(place, &before, Some(&record), now);
            if let Some(lock) = self.locks.get_mut(place) {
                lock.take(Arc::clone(&record), now);
            }
            self.rename(place, Some(&before), Some(&record), now);
        } else {
            self.rename(place, None, Some(&record), now);
            self.locks.insert(place.clone(), Lock::new(record, now));
        }
        self.touch(place, now);
    }

    /// A consistent read did not find this lock's Lease.
    pub(super) fn absent(&mut self, place: &Place, known: Option<Version>, now: Moment) {
        // It may have been made since then, by somebody whose event was faster than the answer.
        if self.version(place) != known {
            self.doubt(place, now);
            return;
        }
        if let Some(before) = self.locks.get(place).map(|lock| Arc::clone(&lock.record)) {
            self.note_losses(place, &before, None, now);
            self.drop_lock(place, now);
        }
    }

    pub(super) fn drop_lock(&mut self, place: &Place, now: Moment) {
        if let Some(lock) = self.locks.remove(place) {
            self.rename(place, Some(&lock.record), None, now);
        }
        self.forget(place);
    }

    /// Whether a holder lived until now, as far as can be told.
    pub(super) fn is_alive(&self, place: &Place, holder: &Holder, now: Moment) -> bool {
        match &holder.liveness {
            Liveness::Session(_) => self.ended(place, holder).is_none(),
            Liveness::Own(_) => {
                let ends = self.locks.get(place).and_then(|lock| lock.own_ends(holder));
                ends.is_none_or(|at| now < at)
            }
        }
    }

    /// The end of the session by which a holder lives, if it has come.
    pub(super) fn ended(&self, place: &Place, holder: &Holder) -> Option<End> {
        match &holder.liveness {
            Liveness::Session(id) => self.sessions.get(&session_place(place, id))?.observer.end(),
            Liveness::Own(_) => None,
        }
    }

    /// The sessions that a lock names have changed.
    fn rename(&mut self, place: &Place, before: Option<&Record>, after: Option<&Record>, now: Moment) {
        let (before, after) = (named(before), named(after));
        for id in before.difference(&after) {
            let at = session_place(place, id);
            if let Some(session) = self.sessions.get_mut(&at) {
                session.named_by.remove(place);
                self.touch(&at, now);
            }
        }
        for id in after.difference(&before) {
            let at = session_place(place, id);
            self.sessions.entry(at.clone()).or_default().named_by.insert(place.clone());
            self.touch(&at, now);
        }
    }

    pub(super) fn poll_lock(&mut self, place: &Place, now: Now) -> Option<What> {
        let lock = self.locks.get(place)?;
        if lock.doubtful {
            return Some(What::Read);
        }
        let verdict = |id: &SessionId| {
            self.sessions.get(&session_place(place, id)).map_or(Verdict::Unknown, |session| session.observer.verdict())
        };
        let ended = |holder: &Holder| self.ended(place, holder);
        let sight = Sight {
            record: &lock.record,
            verdict: &verdict,
            gone: &|holder| lock.gone(holder, ended(holder), now.moment),
            free_for: lock.free_for(now.moment),
            owned: crate::controller::is_owned(&lock.record),
        };
        let deed = decide(&sight, now.stamp).or_else(|| self.give_up(place));
        let wake_at = lock.wake_at(ended, now.moment);
        let abandoned = lock.record.holders().filter(|holder| lock.is_abandoned(holder, ended(holder), now.moment));
        let abandoned: Vec<String> = abandoned.map(|holder| holder.identity.clone()).collect();
        self.note_abandoned(place, abandoned);
        if deed.is_none()
            && let Some(at) = wake_at
        {
            self.alarms.set(place, at);
        }
        deed.map(What::Do)
    }

    /// These are dead, and nobody but a person may evict them. Whoever follows the lock is told when they change.
    fn note_abandoned(&mut self, place: &Place, abandoned: Vec<String>) {
        if let Some(lock) = self.locks.get_mut(place).filter(|lock| lock.abandoned != abandoned) {
            lock.abandoned = abandoned;
            self.tell_of(place);
        }
    }
}

fn session_place(lock: &Place, id: &SessionId) -> Place {
    Place { namespace: lock.namespace.clone(), name: id.lease_name() }
}

/// The sessions of those who hold it or wait for it.
fn named(record: Option<&Record>) -> BTreeSet<SessionId> {
    record.into_iter().flat_map(Record::ids).map(|id| id.session.clone()).collect()
}
