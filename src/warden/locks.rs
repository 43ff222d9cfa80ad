//! The warden's part in locks: see them, tell when a hold was broken, find what is to be done.

use std::collections::BTreeSet;
use std::sync::Arc;

use leasehold::protocol::observer::{End, Verdict};
use leasehold::protocol::{Holder, Liveness, Moment, Now, Record, SessionId, Version};

use super::Place;
use super::breaks::{Break, broken, told};
use super::decide::{Sight, decide};
use super::holders::Why;
use super::lock::Lock;
use super::state::{Incident, Warden, What};

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

    /// Tells of those who lost what they held, whoever took it: this operator, another one, or a client that waited.
    fn note_losses(&mut self, place: &Place, before: &Record, after: Option<&Record>, now: Moment) {
        let lost = |holder: &Holder| {
            let said = after.and_then(|after| told(before, holder, after));
            if let Some(end) = self.ended(place, holder) {
                // Of one who had died anyway only what somebody says is told as a break.
                return said.map(|how| broken_by(holder, how)).or_else(|| evicted(before, holder, after, end));
            }
            let how = said.or_else(|| broken(before, holder, after).filter(|_| self.is_alive(place, holder, now)))?;
            Some(broken_by(holder, how))
        };
        let lost: Vec<Incident> = before.holders().filter_map(lost).collect();
        if let Some(incidents) = self.followed.get_mut(place).and_then(|kinds| kinds.get_mut(&before.kind)) {
            incidents.extend(lost);
        }
    }

    /// Whether a holder lived until now, as far as can be told.
    fn is_alive(&self, place: &Place, holder: &Holder, now: Moment) -> bool {
        match &holder.liveness {
            Liveness::Session(_) => self.ended(place, holder).is_none(),
            Liveness::Own(_) => {
                let ends = self.locks.get(place).and_then(|lock| lock.own_ends(holder));
                ends.is_none_or(|at| now < at)
            }
        }
    }

    /// The end of the session by which a holder lives, if it has come.
    fn ended(&self, place: &Place, holder: &Holder) -> Option<End> {
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

fn broken_by(holder: &Holder, how: Break) -> Incident {
    Incident::Broken { holder: holder.identity.clone(), how }
}

/// This holder, whose session has ended, was evicted between one sight of a Lease and the next one.
fn evicted(before: &Record, holder: &Holder, after: Option<&Record>, end: End) -> Option<Incident> {
    let holds = |record: &Record, holder: &Holder| record.holders().any(|other| other.identity == holder.identity);
    let after = after.filter(|after| after.uid == before.uid);
    // What was written before the session's end was a release.
    let released = after.is_some_and(|after| end.version.is_some_and(|version| after.version < version));
    if released || after.is_some_and(|after| holds(after, holder)) {
        return None;
    }
    let to = after.into_iter().flat_map(Record::holders).filter(|now| !holds(before, now));
    Some(Incident::Evicted {
        holder: holder.identity.clone(),
        to: to.filter_map(|now| now.id.clone()).collect(),
        why: Why::Ended,
        by_evidence: end.by_evidence,
    })
}

fn session_place(lock: &Place, id: &SessionId) -> Place {
    Place { namespace: lock.namespace.clone(), name: id.lease_name() }
}

/// The sessions of those who hold it or wait for it.
fn named(record: Option<&Record>) -> BTreeSet<SessionId> {
    record.into_iter().flat_map(Record::ids).map(|id| id.session.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::coordination::v1::Lease;
    use leasehold::protocol::Kind;
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    fn lease(name: &str, version: u64, annotations: &Value, labels: &Value, spec: &Value) -> Lease {
        let metadata = json!({ "namespace": "ns", "name": name, "uid": name, "resourceVersion": version.to_string(),
            "annotations": annotations, "labels": labels });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
    }

    /// The Lease of a lock that `identity` holds.
    fn held_by(identity: &str, version: u64, transitions: i32) -> Lease {
        let session = identity.split('.').next().unwrap_or_default();
        let mut labels = json!({ "leasehold.dev/kind": "lock" });
        if !session.is_empty() {
            labels[format!("holder.leasehold.dev/{session}")] = json!("4");
        }
        let spec = json!({ "holderIdentity": identity, "leaseDurationSeconds": 10, "leaseTransitions": transitions });
        lease("build", version, &json!({}), &labels, &spec)
    }

    /// The Lease of a session, or its tombstone.
    fn session(identity: &str, version: u64, ended: bool) -> Lease {
        let annotations = match ended {
            true => json!({ "leasehold.dev/ended-by": "a test", "leasehold.dev/ended-for": "evidence" }),
            false => json!({}),
        };
        let holder = if ended { "" } else { identity };
        let name = format!("session-{}", identity.replace('_', "."));
        let spec = json!({ "holderIdentity": holder, "leaseDurationSeconds": 10 });
        lease(&name, version, &annotations, &json!({ "leasehold.dev/kind": "session" }), &spec)
    }

    #[test]
    fn who_is_evicted_is_told_of_whoever_did_it_and_who_released_before_his_end_is_not() {
        let place = Place::new("ns", "build");
        let evicted = |to: &[&str]| Incident::Evicted {
            holder: "pod_x1.1".to_owned(),
            to: to.iter().map(|id| id.parse().unwrap()).collect(),
            why: Why::Ended,
            by_evidence: true,
        };
        for (what, sights, wanted) in [
            (
                "by one that waited",
                vec![session("pod_x1", 20, true), held_by("pod_y1.3", 21, 2)],
                vec![evicted(&["pod_y1.3"])],
            ),
            ("by a release for it", vec![session("pod_x1", 20, true), held_by("", 21, 2)], vec![evicted(&[])]),
            (
                "seen twice",
                vec![session("pod_x1", 20, true), held_by("pod_y1.3", 21, 2), held_by("pod_y1.3", 22, 2)],
                vec![evicted(&["pod_y1.3"])],
            ),
            ("released, as is seen later", vec![session("pod_x1", 20, true), held_by("pod_y1.3", 19, 2)], vec![]),
            ("it lives", vec![session("pod_x1", 20, false), held_by("pod_y1.3", 21, 2)], vec![]),
            ("it still holds", vec![session("pod_x1", 20, true), held_by("pod_x1.1", 21, 1)], vec![]),
        ] {
            let mut warden = Warden::new("test");
            warden.follow(&place, Kind::Lock);
            warden.saw(session("pod_x1", 9, false), at(1));
            warden.saw(held_by("pod_x1.1", 10, 1), at(1));
            for sight in sights {
                warden.saw(sight, at(2));
            }
            assert_eq!(warden.take_incidents(&place, Kind::Lock), wanted, "{what}");
        }
    }

    #[test]
    fn what_it_evicts_itself_is_told_once_whether_the_answer_or_the_watch_is_first() {
        let place = Place::new("ns", "build");
        for watch_first in [false, true] {
            let mut warden = Warden::new("test");
            warden.follow(&place, Kind::Lock);
            warden.saw(session("pod_x1", 9, true), at(1));
            warden.saw(held_by("pod_x1.1", 10, 1), at(1));
            let now = Now { moment: at(2), stamp: jiff::Timestamp::UNIX_EPOCH };
            let task = std::iter::from_fn(|| warden.poll(now)).find(|task| task.place == place).expect("an eviction");
            assert!(matches!(task.what, What::Do(_)), "{task:?}");
            if watch_first {
                warden.saw(held_by("", 11, 2), at(3));
            }
            let done = warden.answer(&task, Ok(Some(held_by("", 11, 2))), at(3));
            assert!(done.is_some());
            if !watch_first {
                warden.saw(held_by("", 11, 2), at(4));
            }
            let told = warden.take_incidents(&place, Kind::Lock);
            assert!(matches!(&*told, [Incident::Evicted { by_evidence: true, .. }]), "{told:?}");
        }
    }
}
