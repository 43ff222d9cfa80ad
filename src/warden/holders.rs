//! When what a holder has may be taken from it, as the lock's policy wants it: pure.

use std::time::Duration;

use leasehold::protocol::observer::End;
use leasehold::protocol::policy::Reclaim;
use leasehold::protocol::{Holder, LONGEST_SESSION, Liveness, Moment, ReleaseRequest};

use super::lock::Lock;

/// Why a holder is evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has ended.
    Ended,
    /// It is alive, and did not let go when it was asked to.
    Asked(ReleaseRequest),
    /// It has held for longer than so, whether it lives or not.
    HeldTooLong(Duration),
}

impl Lock {
    /// Why the holder is to be evicted now, if it is. `ended` tells of the session by which it lives.
    pub(super) fn gone(&self, holder: &Holder, ended: Option<End>, now: Moment) -> Option<Why> {
        self.ends(holder, ended, now).into_iter().flatten().find(|(at, _)| *at <= now).map(|(_, why)| why)
    }

    /// The holder is dead, and nobody but a person may take from it what it has.
    pub(super) fn is_abandoned(&self, holder: &Holder, ended: Option<End>, now: Moment) -> bool {
        // What was left there for a time ends with that time, as it was meant to.
        self.record.policy.reclaim == Reclaim::Never
            && !holder.kept
            && self.dead_from(holder, ended).is_some_and(|at| at <= now)
    }

    /// When there may be something to do about the holder, if nothing else happens before.
    pub(super) fn holder_wakes_at(&self, holder: &Holder, ended: Option<End>, now: Moment) -> Option<Moment> {
        let ends = self.ends(holder, ended, now).into_iter().flatten().map(|(at, _)| at);
        ends.chain(self.dead_from(holder, ended)).filter(|at| *at > now).min()
    }

    /// From when on it is to be evicted, for each of the reasons.
    fn ends(&self, holder: &Holder, ended: Option<End>, now: Moment) -> [Option<(Moment, Why)>; 3] {
        if self.is_abandoned(holder, ended, now) {
            return [None, None, None];
        }
        let policy = &self.record.policy;
        let dead = match &holder.liveness {
            Liveness::Own(_) => self.own_ends(holder).and_then(|at| policy.evicts_expired(at, holder.kept)),
            Liveness::Session(_) => ended.and_then(|end| policy.evicts_ended(end)),
        };
        let asked =
            self.asked_of(holder).map(|(request, since)| (*since + request.within, Why::Asked(request.clone())));
        // What has fallen silent is given to nobody before its delay is over, for however long it was held.
        let silent = dead.filter(|_| self.dead_from(holder, ended).is_some_and(|at| at <= now));
        let held = policy.max_hold.zip(self.held_since(holder)).map(|(longest, since)| {
            let at = since + evicted_after(longest, holder.kept);
            (silent.map_or(at, |silent| silent.max(at)), Why::HeldTooLong(longest))
        });
        [dead.map(|at| (at, Why::Ended)), asked, held]
    }

    /// From when on it is certainly dead: already, or if nothing more is heard of it.
    fn dead_from(&self, holder: &Holder, ended: Option<End>) -> Option<Moment> {
        match &holder.liveness {
            Liveness::Own(_) => self.own_ends(holder),
            Liveness::Session(_) => ended.map(|end| end.since),
        }
    }
}

/// For how long after it was first seen somebody is left there who may hold it for so long.
///
/// A client ends its own hold before, by its own clock and from when it knew of it, which may be later than when it was
/// seen here; and it takes a while over it. What was left there (`kept`) is nobody's.
fn evicted_after(longest: Duration, kept: bool) -> Duration {
    let by_any_clock = longest + longest / 50;
    if kept { by_any_clock } else { by_any_clock + LONGEST_SESSION }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use leasehold::protocol::Record;
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    /// A lock whose holder was first seen at 10: by its session, by itself (`own 5`), or left there (`kept 60`), for so
    /// many seconds.
    fn lock(liveness: &str, policy: &[(&str, &str)], request: bool) -> Lock {
        let mut annotations = json!({});
        let (liveness, seconds) = liveness.split_once(' ').unwrap_or(("", "5"));
        if !liveness.is_empty() {
            annotations["leasehold.dev/liveness"] = json!(liveness);
        }
        for (key, value) in policy {
            annotations[format!("leasehold.dev/{key}")] = json!(value);
        }
        if request {
            annotations["leasehold.dev/evict-on-request"] = json!("true");
            annotations["request.leasehold.dev/pod_x.1"] = json!("3 me please");
        }
        Lock::new(held(&annotations, 9, "pod_x.1", 1, seconds.parse().unwrap()), at(10))
    }

    fn held(annotations: &Value, version: u64, identity: &str, transitions: i32, seconds: u32) -> Arc<Record> {
        let lease = json!({ "metadata": { "name": "a", "uid": "u", "resourceVersion": version.to_string(),
            "labels": { "leasehold.dev/kind": "lock", "holder.leasehold.dev/pod_x": "4" }, "annotations": annotations },
            "spec": { "holderIdentity": identity, "leaseDurationSeconds": seconds, "leaseTransitions": transitions } });
        Arc::new(Record::parse(serde_json::from_value(lease).unwrap()).unwrap())
    }

    /// At which seconds after 10 it is evicted first and why, and when it is first told to be abandoned.
    fn fate(lock: &Lock, ended: Option<End>) -> (Option<(u64, &'static str)>, Option<u64>) {
        let holder = lock.record.holder.clone().unwrap();
        let told = |why| match why {
            Why::Ended => "ended",
            Why::Asked(_) => "asked",
            Why::HeldTooLong(_) => "too long",
        };
        let seen = |now: u64| ended.filter(|ended| ended.since <= at(now));
        let gone = (10..200).find_map(|now| Some((now - 10, told(lock.gone(&holder, seen(now), at(now))?))));
        let abandoned = (10..200).find(|now| lock.is_abandoned(&holder, seen(*now), at(*now)));
        // It wakes up for each of them.
        for change in [gone.map(|(at, _)| at), abandoned.map(|at| at - 10)].into_iter().flatten() {
            let certain = ended.map_or(0, |ended| ended.since.since(at(10)).as_secs());
            let wakes =
                (10..10 + change).any(|now| lock.holder_wakes_at(&holder, seen(now), at(now)) == Some(at(10 + change)));
            assert!(wakes || change == certain, "nobody wakes it at {change}");
        }
        (gone, abandoned.map(|at| at - 10))
    }

    #[test]
    fn each_policy_has_its_time() {
        let silent = Some(End { since: at(12), by_evidence: false, duration: Duration::from_secs(7), version: None });
        let evident = silent.map(|end| End { by_evidence: true, ..end });
        // It would be evicted while the delay is not over.
        let late = silent.map(|end| End { since: at(110), ..end });
        let late_evident = evident.map(|end| End { since: at(110), ..end });
        // Seen at 10, allowed for 50, and with what clocks and clients need evicted 111 later.
        let (never, expiry, delay, longest) =
            (("reclaim", "never"), ("reclaim", "expiry"), ("lock-delay-seconds", "20"), ("max-hold-seconds", "50"));
        for (what, liveness, policy, request, ended, wanted, abandoned) in [
            ("alive", "", vec![delay], false, None, None, None),
            ("silent", "", vec![], false, silent, Some((2, "ended")), None),
            ("silent, with a delay", "", vec![delay], false, silent, Some((22, "ended")), None),
            ("by evidence", "", vec![], false, evident, Some((2, "ended")), None),
            ("by evidence there is no delay", "", vec![delay], false, evident, Some((2, "ended")), None),
            ("silent, expiry", "", vec![expiry], false, silent, Some((2, "ended")), None),
            ("evidence that does not count", "", vec![expiry], false, evident, Some((9, "ended")), None),
            ("and is none for the delay", "", vec![expiry, delay], false, evident, Some((29, "ended")), None),
            ("never", "", vec![never], false, silent, None, Some(2)),
            ("never, by evidence", "", vec![never], false, evident, None, Some(2)),
            ("never, alive", "", vec![never], false, None, None, None),
            ("its own", "own 5", vec![], false, None, Some((5, "ended")), None),
            ("its own, with a delay", "own 5", vec![delay], false, None, Some((25, "ended")), None),
            ("its own, never", "own 5", vec![never], false, None, None, Some(5)),
            ("kept", "kept 60", vec![delay], false, None, Some((60, "ended")), None),
            ("kept, never", "kept 60", vec![never], false, None, Some((60, "ended")), None),
            ("kept for too long", "kept 60", vec![longest], false, None, Some((51, "too long")), None),
            ("alive for too long", "", vec![longest], false, None, Some((111, "too long")), None),
            ("its own for too long", "own 150", vec![longest], false, None, Some((111, "too long")), None),
            ("dead before that", "", vec![longest], false, silent, Some((2, "ended")), None),
            ("held for too long while delayed", "", vec![longest, delay], false, late, Some((120, "ended")), None),
            ("and by its own record", "own 100", vec![longest, delay], false, None, Some((120, "ended")), None),
            ("and with evidence", "", vec![longest, delay, expiry], false, late_evident, Some((127, "ended")), None),
            ("asked", "", vec![longest], true, None, Some((3, "asked")), None),
            ("asked when it was alive, never", "", vec![never], true, None, Some((3, "asked")), None),
            ("asked, and dead before, never", "", vec![never], true, silent, None, Some(2)),
        ] {
            assert_eq!(fate(&lock(liveness, &policy, request), ended), (wanted, abandoned), "{what}");
        }
    }

    #[test]
    fn how_long_somebody_holds_counts_over_renewals_and_anew_for_the_next() {
        let policy = json!({ "leasehold.dev/max-hold-seconds": "50", "leasehold.dev/liveness": "own" });
        let mut lock = Lock::new(held(&json!({ "leasehold.dev/liveness": "own" }), 9, "pod_x.1", 1, 500), at(10));
        let gone = |lock: &Lock, now| lock.gone(lock.record.holder.as_ref().unwrap(), None, at(now));
        // The policy comes while it is held, and counts from the beginning.
        lock.take(held(&policy, 10, "pod_x.1", 1, 500), at(14));
        assert_eq!((gone(&lock, 120), gone(&lock, 121)), (None, Some(Why::HeldTooLong(Duration::from_secs(50)))));
        lock.take(held(&policy, 11, "elected", 1, 500), at(15));
        lock.take(held(&policy, 12, "elected", 2, 500), at(17));
        let mut renewed = (*held(&policy, 13, "elected", 2, 500).lease).clone();
        renewed.spec.as_mut().unwrap().renew_time =
            Some(serde_json::from_str("\"2026-01-01T00:00:00.000000Z\"").unwrap());
        lock.take(Arc::new(Record::parse(renewed).unwrap()), at(21));
        assert_eq!((gone(&lock, 127), gone(&lock, 128)), (None, Some(Why::HeldTooLong(Duration::from_secs(50)))));
    }
}
