//! For how long holders hold and waiters wait, as far as this process has seen: for people, and never for a decision.

use std::collections::HashMap;
use std::time::Duration;

use leasehold::protocol::record::Tenancy;
use leasehold::protocol::{HolderId, Liveness, Moment, Record};

use super::state::Warden;

/// When each of one lock's holders and waiters was first seen.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// By identity.
    holders: HashMap<String, (Tenancy, Moment)>,
    waiters: HashMap<HolderId, Moment>,
}

/// The longest times of all locks, counted from when this process first saw it.
///
/// Those that live by their own records stand apart: a leader holds its Lease, and candidates wait for it, for as long as
/// they run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Longest {
    pub hold: ByLiveness,
    /// Of what somebody waits for.
    pub contended_hold: ByLiveness,
    pub wait: ByLiveness,
}

/// One time for those that live by a session, one for those that live by their own records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByLiveness {
    pub session: Duration,
    pub own: Duration,
}

impl ByLiveness {
    fn note(&mut self, own: bool, age: Duration) {
        let longest = if own { &mut self.own } else { &mut self.session };
        *longest = age.max(*longest);
    }
}

impl Ages {
    /// The Lease was seen like this, in an answer or event received at `now`.
    pub(super) fn take(&mut self, record: &Record, now: Moment) {
        let mut before = std::mem::take(&mut self.holders);
        for holder in record.holders() {
            let tenancy = record.tenancy_of(holder);
            let known = before.remove(&holder.identity).filter(|(known, _)| *known == tenancy);
            self.holders.insert(holder.identity.clone(), known.unwrap_or((tenancy, now)));
        }
        let mut before = std::mem::take(&mut self.waiters);
        for waiter in &record.waiters {
            let since = before.remove(&waiter.id).unwrap_or(now);
            self.waiters.insert(waiter.id.clone(), since);
        }
    }

    fn tell(&self, record: &Record, longest: &mut Longest, now: Moment) {
        for holder in record.holders() {
            if let Some((_, since)) = self.holders.get(&holder.identity) {
                let (own, age) = (matches!(holder.liveness, Liveness::Own(_)), now.since(*since));
                longest.hold.note(own, age);
                if !record.waiters.is_empty() {
                    longest.contended_hold.note(own, age);
                }
            }
        }
        for waiter in &record.waiters {
            if let Some(since) = self.waiters.get(&waiter.id) {
                longest.wait.note(waiter.want.own.is_some(), now.since(*since));
            }
        }
    }
}

impl Warden {
    /// The longest that anything is held and waited for, of what is there now.
    #[must_use]
    pub fn longest(&self, now: Moment) -> Longest {
        let mut longest = Longest::default();
        for lock in self.locks.values() {
            lock.ages.tell(&lock.record, &mut longest, now);
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    fn lock(
        version: u64,
        transitions: u32,
        holder: &str,
        annotations: &Value,
    ) -> k8s_openapi::api::coordination::v1::Lease {
        serde_json::from_value(json!({
            "metadata": { "namespace": "ns", "name": "a", "uid": "u", "resourceVersion": version.to_string(),
                "labels": { "leasehold.dev/kind": "lock" }, "annotations": annotations },
            "spec": { "holderIdentity": holder, "leaseTransitions": transitions, "leaseDurationSeconds": 30,
                "renewTime": "2026-01-01T00:00:00.000000Z" },
        }))
        .unwrap()
    }

    #[test]
    fn times_count_from_when_it_was_first_seen_and_end_with_the_tenancy() {
        let mut warden = Warden::new("test");
        let waits = json!({ "join.leasehold.dev/b_x.1": "7", "leasehold.dev/session": "true" });
        let secs = |age: ByLiveness| (age.session.as_secs(), age.own.as_secs());
        warden.saw(lock(9, 1, "someone", &waits), at(10));
        // A renewal of the holder is nothing new, and a leader is told apart from who waits by its session.
        warden.saw(lock(10, 1, "someone", &waits), at(20));
        let longest = warden.longest(at(25));
        assert_eq!((secs(longest.hold), secs(longest.wait)), ((0, 15), (15, 0)));
        // It held it, lost it, and holds it again.
        warden.saw(lock(11, 3, "someone", &waits), at(30));
        let longest = warden.longest(at(31));
        assert_eq!((secs(longest.hold), secs(longest.wait)), ((0, 1), (21, 0)));
        assert_eq!(longest.contended_hold, longest.hold);
        // Nobody waits for it any more.
        warden.saw(lock(12, 3, "someone", &json!({})), at(35));
        let longest = warden.longest(at(36));
        assert_eq!(
            (secs(longest.hold), longest.contended_hold, secs(longest.wait)),
            ((0, 6), ByLiveness::default(), (0, 0))
        );
        warden.saw(lock(13, 4, "", &json!({})), at(40));
        assert_eq!(warden.longest(at(99)), Longest::default());
    }
}
