//! What befell a lock, and who is told.

use std::collections::HashMap;

use leasehold::protocol::deadlock::Deadlock;
use leasehold::protocol::observer::End;
use leasehold::protocol::{Holder, HolderId, Kind, Moment, Record};

use super::breaks::{Break, broken, told};
use super::decide::Evicted;
use super::{Place, Warden, Why};

/// Something that befell a lock, for people to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incident {
    Evicted {
        holder: String,
        to: Vec<HolderId>,
        why: Why,
        /// Its process is known to have ended.
        by_evidence: bool,
    },
    Broken {
        holder: String,
        how: Break,
    },
    /// Those who wait for it, and others, wait for each other.
    Deadlock(Deadlock),
    /// One of those was told to give up.
    ToldToGiveUp {
        waiter: HolderId,
        circle: String,
    },
}

impl Warden {
    /// Tell of this lock from now on, those who are concerned with this kind.
    pub fn follow(&mut self, place: &Place, kind: Kind) {
        self.followed.entry(place.clone()).or_default().entry(kind).or_default();
    }

    /// Tell these of this lock no more.
    pub fn unfollow(&mut self, place: &Place, kind: Kind) {
        if let Some(kinds) = self.followed.get_mut(place) {
            kinds.remove(&kind);
            if kinds.is_empty() {
                self.followed.remove(place);
            }
        }
    }

    /// Tell nobody of any lock any more.
    pub fn unfollow_all(&mut self) {
        self.followed.clear();
        self.changed.clear();
    }

    /// The followed locks that have changed since the last call, and the kinds as which they are followed.
    pub fn take_changed(&mut self) -> Vec<(Place, Kind)> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let kinds = |place: Place| {
            let kinds = self.followed.get(&place).into_iter().flat_map(HashMap::keys);
            kinds.map(|kind| (place.clone(), *kind)).collect::<Vec<_>>()
        };
        changed.flat_map(kinds).collect()
    }

    /// What befell a followed lock since the last call.
    pub fn take_incidents(&mut self, place: &Place, kind: Kind) -> Vec<Incident> {
        let kinds = self.followed.get_mut(place);
        kinds.and_then(|kinds| kinds.get_mut(&kind)).map(std::mem::take).unwrap_or_default()
    }

    /// Whether something befell a followed lock that nobody was told yet.
    pub fn has_incidents(&self, place: &Place, kind: Kind) -> bool {
        let kinds = self.followed.get(place);
        kinds.and_then(|kinds| kinds.get(&kind)).is_some_and(|incidents| !incidents.is_empty())
    }

    /// Whoever follows this lock as what it is, is to be told.
    pub(super) fn note_incidents(&mut self, place: &Place, incidents: impl IntoIterator<Item = Incident>) {
        let kind = self.locks.get(place).map(|lock| lock.record.kind);
        let kinds = self.followed.get_mut(place).zip(kind);
        if let Some(known) = kinds.and_then(|(kinds, kind)| kinds.get_mut(&kind)) {
            known.extend(incidents);
        }
    }

    /// Something is to be told of this, if anybody follows it.
    pub(super) fn tell_of(&mut self, place: &Place) {
        if self.followed.contains_key(place) {
            self.changed.insert(place.clone());
        }
    }

    /// Tells of those who lost what they held, whoever took it: this operator, another one, or a client that waited.
    pub(super) fn note_losses(&mut self, place: &Place, before: &Record, after: Option<&Record>, now: Moment) {
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

    /// Those whose sessions have ended are told of when they are seen to be gone, whoever evicted them.
    pub(super) fn note_evictions(&mut self, place: &Place, holders: &[Evicted], to: &[HolderId]) {
        let evicted = |evicted: &Evicted| Incident::Evicted {
            holder: evicted.identity.clone(),
            to: to.to_vec(),
            why: evicted.why.clone(),
            by_evidence: false,
        };
        let ended = |id: HolderId| {
            let session = Place { namespace: place.namespace.clone(), name: id.session.lease_name() };
            self.sessions.get(&session).is_some_and(|session| session.observer.end().is_some())
        };
        let untold = |evicted: &&Evicted| !(evicted.by_session && evicted.identity.parse().is_ok_and(ended));
        let evicted: Vec<Incident> = holders.iter().filter(untold).map(evicted).collect();
        self.note_incidents(place, evicted);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::coordination::v1::Lease;
    use serde_json::{Value, json};

    use leasehold::protocol::Now;

    use super::super::What;
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
        let tombstone = json!({ "leasehold.dev/ended-by": "a test", "leasehold.dev/ended-for": "evidence" });
        let (annotations, holder) = if ended { (tombstone, "") } else { (json!({}), identity) };
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
