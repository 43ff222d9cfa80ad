//! What is to be done about one lock: pure.
//!
//! Whoever has ended is taken off the lock, and nobody else is. Everything here is conditional on the Lease as it was
//! seen, so that any number of operators and clients may come to the same conclusion at once: one of them succeeds.

use std::time::Duration;

use jiff::Timestamp;
use leasehold::protocol::observer::Verdict;
use leasehold::protocol::{HolderId, Liveness, Record, SessionId, Waiter, Write, write};

/// How long a Lease made on the spot may be free before it is removed. Clients remove theirs with their release.
pub(crate) const LEFTOVER: Duration = Duration::from_secs(5);
/// How long a lock may be free with somebody waiting before it is granted. Waiters take a free lock themselves.
pub(crate) const STUCK: Duration = Duration::from_secs(2);

/// One lock, and what is known of those on it.
pub(super) struct Sight<'a> {
    pub(super) record: &'a Record,
    /// What observers say of a session.
    pub(super) verdict: &'a dyn Fn(&SessionId) -> Verdict,
    /// The holder lives by its own record, and that has not changed for its whole duration.
    pub(super) own_expired: bool,
    /// For how long the lock has been free.
    pub(super) free_for: Duration,
    /// The Lease belongs to a custom resource.
    pub(super) owned: bool,
}

/// One write to a lock's Lease, and what it is for.
#[derive(Clone, Debug)]
pub struct Deed {
    pub kind: DeedKind,
    pub write: Write,
    /// Waiters that are removed with it, since their sessions have ended.
    pub passed_over: usize,
}

/// What a write to a lock's Lease is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeedKind {
    /// The holder has ended: the lock goes to the next waiter, or to nobody.
    Evict { holder: String, to: Option<HolderId> },
    /// The lock is free, and the first waiter has not taken it.
    Grant { to: HolderId },
    /// Waiters have ended.
    PassOver,
    /// The Lease was made on the spot, and nobody uses it.
    Remove,
}

/// What is to be done about this lock now, if anything.
pub(super) fn decide(sight: &Sight<'_>, stamp: Timestamp) -> Option<Deed> {
    let record = sight.record;
    let (ended, live): (Vec<&Waiter>, Vec<&Waiter>) =
        record.waiters.iter().partition(|waiter| (sight.verdict)(&waiter.id.session) == Verdict::Ended);
    let next = live.first().copied();
    if next.is_some_and(|next| (sight.verdict)(&next.id.session) == Verdict::Unknown) {
        return None; // It is being read, and the answer leads here again.
    }
    let passed_over = ended.len();
    let deed = |kind, write| Some(Deed { kind, write, passed_over });
    match &record.holder {
        Some(holder) if holder_is_gone(sight, &holder.liveness, next.is_some()) => {
            let to = next.map(|next| next.id.clone());
            let write = match &to {
                Some(to) => write::grant(record, to, &ended, stamp),
                None => write::release(record, &ended, false),
            };
            deed(DeedKind::Evict { holder: holder.identity.clone(), to }, write)
        }
        None => match next {
            Some(next) if sight.free_for >= STUCK => {
                let to = next.id.clone();
                deed(DeedKind::Grant { to: to.clone() }, write::grant(record, &to, &ended, stamp))
            }
            None if record.ephemeral && sight.free_for >= LEFTOVER => {
                deed(DeedKind::Remove, write::release(record, &ended, false))
            }
            _ if passed_over > 0 => deed(DeedKind::PassOver, write::pass_over(record, &ended)),
            _ => None,
        },
        Some(_) if passed_over > 0 => deed(DeedKind::PassOver, write::pass_over(record, &ended)),
        Some(_) => None,
    }
}

/// A Lease of somebody else's leader election stays as it is while nobody of ours has to do with it.
fn holder_is_gone(sight: &Sight<'_>, liveness: &Liveness, wanted: bool) -> bool {
    match liveness {
        Liveness::Session(session) => (sight.verdict)(session) == Verdict::Ended,
        Liveness::Own(_) => sight.own_expired && (wanted || sight.owned || sight.record.ephemeral),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A lock's Lease: made on the spot or not, with this holder, and waiters in this order.
    pub(in super::super) fn record(ephemeral: bool, spec: &Value, waiters: &[&str], version: u32) -> Record {
        let mut annotations = serde_json::Map::new();
        for (ticket, waiter) in waiters.iter().enumerate() {
            annotations.insert(format!("join.leasehold.dev/{waiter}"), json!((ticket + 1).to_string()));
        }
        if ephemeral {
            annotations.insert("leasehold.dev/ephemeral".to_owned(), json!("true"));
        }
        let label = spec["holderIdentity"].as_str().and_then(|id| id.parse::<HolderId>().ok());
        let labels = label.map(|id| json!({ (format!("holder.leasehold.dev/{}", id.session)): "3" }));
        let lease = json!({
            "metadata": { "name": "a", "namespace": "ns", "uid": "u", "resourceVersion": version.to_string(),
                "annotations": annotations, "labels": labels },
            "spec": spec,
        });
        Record::parse(serde_json::from_value(lease).unwrap()).unwrap()
    }

    /// Sessions are called after what is said of them.
    fn verdict(session: &SessionId) -> Verdict {
        match session.host() {
            "dead" => Verdict::Ended,
            "new" => Verdict::Unknown,
            _ => Verdict::Alive,
        }
    }

    fn told(sight: &Sight<'_>) -> String {
        match decide(sight, Timestamp::UNIX_EPOCH) {
            None => "nothing".to_owned(),
            Some(Deed { kind, passed_over, .. }) => match kind {
                DeedKind::Evict { to: Some(to), .. } => format!("evict for {to}, without {passed_over}"),
                DeedKind::Evict { to: None, .. } => format!("evict, without {passed_over}"),
                DeedKind::Grant { to } => format!("grant to {to}, without {passed_over}"),
                DeedKind::PassOver => format!("pass over {passed_over}"),
                DeedKind::Remove => "remove".to_owned(),
            },
        }
    }

    #[test]
    fn only_what_has_ended_is_acted_upon() {
        let (free, alive, dead) =
            (json!({}), json!({ "holderIdentity": "alive_h.1" }), json!({ "holderIdentity": "dead_h.1" }));
        let long = Duration::from_mins(1);
        for (holder, waiters, ephemeral, free_for, wanted) in [
            (&alive, vec![], false, Duration::ZERO, "nothing"),
            (&alive, vec!["alive_w.1"], true, Duration::ZERO, "nothing"),
            (&alive, vec!["dead_w.1", "alive_w.1", "dead_w.2"], false, Duration::ZERO, "pass over 2"),
            (&dead, vec![], false, Duration::ZERO, "evict, without 0"),
            (&dead, vec!["dead_w.1"], true, Duration::ZERO, "evict, without 1"),
            (&dead, vec!["alive_w.1", "alive_w.2"], false, Duration::ZERO, "evict for alive_w.1, without 0"),
            (&dead, vec!["dead_w.1", "alive_w.1"], true, Duration::ZERO, "evict for alive_w.1, without 1"),
            // Who comes first is not known before its session has been read.
            (&dead, vec!["dead_w.1", "new_w.1", "alive_w.1"], false, Duration::ZERO, "nothing"),
            (&free, vec![], false, long, "nothing"),
            (&free, vec![], true, LEFTOVER / 2, "nothing"),
            (&free, vec![], true, LEFTOVER, "remove"),
            (&free, vec!["alive_w.1"], true, STUCK / 2, "nothing"),
            (&free, vec!["dead_w.1", "alive_w.1"], true, STUCK, "grant to alive_w.1, without 1"),
            (&free, vec!["dead_w.1"], false, long, "pass over 1"),
        ] {
            let record = record(ephemeral, holder, &waiters, 9);
            let sight = Sight { record: &record, verdict: &verdict, own_expired: false, free_for, owned: true };
            assert_eq!(told(&sight), wanted, "{holder} {waiters:?} {ephemeral} {free_for:?}");
        }
    }

    #[test]
    fn who_lives_by_the_lease_itself_is_evicted_once_expired_and_in_the_way() {
        let elected = json!({ "holderIdentity": "elected", "leaseDurationSeconds": 15 });
        for (own_expired, waiters, ephemeral, owned, wanted) in [
            (false, vec!["alive_w.1"], true, true, "nothing"),
            (true, vec![], false, false, "nothing"),
            (true, vec!["dead_w.1"], false, false, "pass over 1"),
            (true, vec!["alive_w.1"], false, false, "evict for alive_w.1, without 0"),
            (true, vec![], true, false, "evict, without 0"),
            (true, vec![], false, true, "evict, without 0"),
        ] {
            let record = record(ephemeral, &elected, &waiters, 9);
            let free_for = Duration::ZERO;
            let sight = Sight { record: &record, verdict: &verdict, own_expired, free_for, owned };
            assert_eq!(told(&sight), wanted, "{own_expired} {waiters:?} {ephemeral} {owned}");
        }
    }
}
