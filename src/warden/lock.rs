//! What the operator knows of one lock's Lease.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use leasehold::protocol::observer::End;
use leasehold::protocol::record::Tenancy;
use leasehold::protocol::{Holder, HolderId, Kind, Liveness, Moment, Record, ReleaseRequest, grant};

use super::ages::Ages;
use super::decide::{LEFTOVER, STUCK};

/// One lock's Lease, and since when it is as it is.
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) record: Arc<Record>,
    /// It is to be read anew: something was refused, unclear, or a watch no longer shows it.
    pub(super) doubtful: bool,
    /// The holders that live by their own records, by identity, and when each was first seen so.
    own: HashMap<String, (OwnRecord, Moment)>,
    /// What holders are asked that are evicted if they do not do it, by identity, and since when.
    asked: HashMap<String, (ReleaseRequest, Moment)>,
    /// Since when each holder has been seen to hold it, by identity; and its stay.
    held: HashMap<String, (Stay, Moment)>,
    /// The dead whom nobody but a person may evict.
    pub(super) abandoned: Vec<String>,
    /// When the lock was first seen idle in this way.
    idle: Option<(Idle, Moment)>,
    pub(super) ages: Ages,
}

/// What changes with each renewal of a holder that lives by its own record.
#[derive(Debug, PartialEq, Eq)]
struct OwnRecord {
    tenancy: Tenancy,
    renewed: Option<Timestamp>,
    duration: Duration,
}

/// One holder's stay, whether it renews, upgrades or downgrades. The identity of one that shares it is never used twice.
#[derive(Debug, PartialEq, Eq)]
struct Stay {
    uid: String,
    transitions: Option<i32>,
}

/// Nobody uses it, or there is room for somebody who waits.
#[derive(Debug, PartialEq, Eq)]
struct Idle {
    tenancy: Tenancy,
    /// Who of those that share it could be let in.
    head: Option<HolderId>,
}

impl Lock {
    pub(super) fn new(record: Arc<Record>, now: Moment) -> Self {
        let mut lock = Self {
            record: Arc::clone(&record),
            doubtful: false,
            own: HashMap::new(),
            asked: HashMap::new(),
            held: HashMap::new(),
            abandoned: Vec::new(),
            idle: None,
            ages: Ages::default(),
        };
        lock.take(record, now);
        lock
    }

    /// The Lease was seen like this, in an answer or event received at `now`.
    pub(super) fn take(&mut self, record: Arc<Record>, now: Moment) {
        let mut before = std::mem::take(&mut self.own);
        for holder in record.holders() {
            let Some(own) = own_record(&record, holder) else { continue };
            let known = before.remove(&holder.identity).filter(|(known, _)| *known == own);
            let since = known.map_or(now, |(_, since)| since);
            self.own.insert(holder.identity.clone(), (own, since));
        }
        let mut before = std::mem::take(&mut self.asked);
        for holder in record.holders().filter(|_| record.evicts_on_request) {
            let Some(request) = &holder.request else { continue };
            let known = before.remove(&holder.identity).filter(|(known, _)| known == request);
            self.asked.insert(holder.identity.clone(), known.unwrap_or_else(|| (request.clone(), now)));
        }
        let mut before = std::mem::take(&mut self.held);
        for holder in record.holders() {
            let transitions = (record.kind == Kind::Lock).then_some(record.transitions);
            let stay = Stay { uid: record.uid.clone(), transitions };
            let since = before.remove(&holder.identity).filter(|(known, _)| *known == stay).map(|(_, since)| since);
            self.held.insert(holder.identity.clone(), (stay, since.unwrap_or(now)));
        }
        let idle = idle(&record);
        if self.idle.as_ref().map(|(known, _)| known) != idle.as_ref() {
            self.idle = idle.map(|idle| (idle, now));
        }
        self.ages.take(&record, now);
        self.record = record;
        self.doubtful = false;
    }

    /// The holder lives by its own record: when that will not have changed for its whole duration.
    pub(super) fn own_ends(&self, holder: &Holder) -> Option<Moment> {
        self.own.get(&holder.identity).map(|(own, since)| *since + own.duration)
    }

    /// What the holder is asked, and since when, where it is evicted if it does not do it.
    pub(super) fn asked_of(&self, holder: &Holder) -> Option<&(ReleaseRequest, Moment)> {
        self.asked.get(&holder.identity)
    }

    /// Since when it has been seen to hold it.
    pub(super) fn held_since(&self, holder: &Holder) -> Option<Moment> {
        self.held.get(&holder.identity).map(|(_, since)| *since)
    }

    /// For how long nobody has used it, or there has been room for somebody who waits.
    pub(super) fn free_for(&self, now: Moment) -> Duration {
        self.idle.as_ref().map_or(Duration::ZERO, |(_, since)| now.since(*since))
    }

    /// When there may be something to do, if nothing else happens before. `ended` tells of the session of a holder.
    pub(super) fn wake_at(&self, ended: impl Fn(&Holder) -> Option<End>, now: Moment) -> Option<Moment> {
        let holders = self.record.holders().filter_map(|holder| self.holder_wakes_at(holder, ended(holder), now));
        let idle = self.idle.as_ref().and_then(|(_, since)| match &self.record {
            record if !record.waiters.is_empty() => Some(*since + STUCK),
            record if record.ephemeral => Some(*since + LEFTOVER),
            _ => None,
        });
        holders.chain(idle.filter(|at| *at > now)).min()
    }
}

fn own_record(record: &Record, holder: &Holder) -> Option<OwnRecord> {
    let Liveness::Own(duration) = holder.liveness else {
        return None;
    };
    Some(OwnRecord { tenancy: record.tenancy_of(holder), renewed: holder.renewed, duration })
}

fn idle(record: &Record) -> Option<Idle> {
    let tenancy = record.tenancy();
    if record.kind == Kind::Lock {
        return record.holder.is_none().then_some(Idle { tenancy, head: None });
    }
    let round = grant::round(record, |_| false, |_| false);
    let head = round.served.first().map(|waiter| waiter.id.clone());
    let unused = !record.is_held() && record.waiters.is_empty();
    (unused || head.is_some()).then_some(Idle { tenancy, head })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn semaphore(version: u64, permits: u32, holders: &[(&str, &str)], waiters: &[&str]) -> Arc<Record> {
        let mut lease = json!({ "metadata": { "name": "a", "uid": "u", "resourceVersion": version.to_string(),
            "labels": { "leasehold.dev/kind": "semaphore" },
            "annotations": { "leasehold.dev/permits": permits.to_string() } } });
        for (id, granted) in holders {
            lease["metadata"]["annotations"][format!("holder.leasehold.dev/{id}")] = json!(granted);
            lease["metadata"]["annotations"][format!("want.leasehold.dev/{id}")] = json!("1 own=5");
        }
        for (ticket, id) in waiters.iter().enumerate() {
            lease["metadata"]["annotations"][format!("join.leasehold.dev/{id}")] = json!((ticket + 1).to_string());
        }
        Arc::new(Record::parse(serde_json::from_value(lease).unwrap()).unwrap())
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn each_that_lives_by_its_own_record_has_its_own_time() {
        let mut lock = Lock::new(semaphore(9, 2, &[("a_x.1", "1"), ("b_x.1", "2")], &[]), at(10));
        assert_eq!(lock.wake_at(|_| None, at(10)), Some(at(15)));
        // One renews, and that is no news of the other.
        lock.take(semaphore(10, 2, &[("a_x.1", "9"), ("b_x.1", "2")], &[]), at(13));
        let expired =
            |now| lock.record.holders().map(|holder| lock.gone(holder, None, now).is_some()).collect::<Vec<_>>();
        assert_eq!(
            (expired(at(14)), expired(at(15)), expired(at(18))),
            (vec![false; 2], vec![true, false], vec![true; 2])
        );
        assert_eq!((lock.wake_at(|_| None, at(13)), lock.wake_at(|_| None, at(15))), (Some(at(15)), Some(at(18))));
    }

    #[test]
    fn whoever_does_not_let_go_in_time_is_overdue_where_the_resource_says_so() {
        let asked = |version: u64, evicts: bool, request: &str| {
            let before = semaphore(version, 2, &[("a_x.1", "1"), ("b_x.1", "2")], &[]);
            let mut lease = (*before.lease).clone();
            let annotations = lease.metadata.annotations.as_mut().unwrap();
            annotations.insert("request.leasehold.dev/a_x.1".to_owned(), request.to_owned());
            annotations.insert("leasehold.dev/evict-on-request".to_owned(), evicts.to_string());
            annotations.retain(|_, value| !value.starts_with("1 own"));
            Arc::new(Record::parse(lease).unwrap())
        };
        let overdue = |lock: &Lock, now: u64| {
            lock.record.holders().map(|holder| lock.gone(holder, None, at(now)).is_some()).collect::<Vec<_>>()
        };
        let mut lock = Lock::new(asked(9, true, "20 me now"), at(10));
        assert_eq!(lock.wake_at(|_| None, at(10)), Some(at(30)));
        assert_eq!((overdue(&lock, 29), overdue(&lock, 30)), (vec![false, false], vec![true, false]));
        // The same again is nothing new, and something else is.
        lock.take(asked(10, true, "20 me now"), at(25));
        assert_eq!(overdue(&lock, 30), [true, false]);
        lock.take(asked(11, true, "20 me at once"), at(26));
        assert_eq!((overdue(&lock, 30), lock.wake_at(|_| None, at(30))), (vec![false, false], Some(at(46))));
        lock.take(asked(12, false, "20 me at once"), at(27));
        assert_eq!((overdue(&lock, 99), lock.wake_at(|_| None, at(30))), (vec![false, false], None));
    }

    #[test]
    fn room_for_the_head_counts_from_when_there_is_some_for_it() {
        let full = semaphore(9, 1, &[("a_x.1", "1")], &["w_x.1"]);
        let mut lock = Lock::new(full, at(10));
        assert_eq!(lock.free_for(at(20)), Duration::ZERO);
        lock.take(semaphore(10, 1, &[], &["w_x.1"]), at(20));
        assert_eq!(
            (lock.free_for(at(21)), lock.wake_at(|_| None, at(20))),
            (Duration::from_secs(1), Some(at(20) + STUCK))
        );
        lock.take(semaphore(11, 1, &[], &["w_x.1", "w_x.2"]), at(21));
        assert_eq!(lock.free_for(at(22)), Duration::from_secs(2), "a join behind it changes nothing");
        lock.take(semaphore(12, 1, &[], &["w_x.2"]), at(23));
        assert_eq!(lock.free_for(at(24)), Duration::from_secs(1), "it is another's turn");
        lock.take(semaphore(13, 0, &[], &["w_x.2"]), at(25));
        assert_eq!(
            (lock.free_for(at(99)), lock.wake_at(|_| None, at(25))),
            (Duration::ZERO, None),
            "there are no permits"
        );
    }
}
