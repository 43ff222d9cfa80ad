//! What is to be done about one lock: pure.
//!
//! Whoever has ended is taken off the lock, and nobody else is. Everything here is conditional on the Lease as it was
//! seen, so that any number of operators and clients may come to the same conclusion at once: one of them succeeds.

use std::time::Duration;

use jiff::Timestamp;
use leasehold::protocol::observer::Verdict;
use leasehold::protocol::write::shared;
use leasehold::protocol::{Holder, HolderId, Kind, Liveness, Record, SessionId, Waiter, Write, grant, write};

use super::holders::Why;

/// How long a Lease made on the spot may be free before it is removed. Clients remove theirs with their release.
pub(crate) const LEFTOVER: Duration = Duration::from_secs(5);
/// How long a lock may be free with somebody waiting before it is granted. Waiters take a free lock themselves.
pub(crate) const STUCK: Duration = Duration::from_secs(2);

/// One lock, and what is known of those on it.
pub(super) struct Sight<'a> {
    pub(super) record: &'a Record,
    /// What observers say of a session.
    pub(super) verdict: &'a dyn Fn(&SessionId) -> Verdict,
    /// Why a holder is to be evicted, if it is.
    pub(super) gone: &'a dyn Fn(&Holder) -> Option<Why>,
    /// For how long nobody has used it, or there has been room for somebody who waits.
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
    /// Holders have ended: what they held goes to those who are next, or to nobody.
    Evict { holders: Vec<Evicted>, to: Vec<HolderId> },
    /// There is room for those who are next, and they have not taken it.
    Grant { to: Vec<HolderId> },
    /// Waiters have ended.
    PassOver,
    /// The Lease was made on the spot, and nobody uses it.
    Remove,
    /// The waiter came last of some who wait for each other in this circle, and its lock wants it to give up.
    GiveUp { waiter: HolderId, circle: String },
}

/// A holder that is evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    pub identity: String,
    pub why: Why,
    /// It lives as long as its session does.
    pub by_session: bool,
}

/// What is to be done about this lock now, if anything.
pub(super) fn decide(sight: &Sight<'_>, stamp: Timestamp) -> Option<Deed> {
    match sight.record.kind {
        Kind::Lock => decide_exclusive(sight, stamp),
        Kind::Semaphore | Kind::ReadWriteLock => decide_shared(sight, stamp),
    }
}

fn decide_exclusive(sight: &Sight<'_>, stamp: Timestamp) -> Option<Deed> {
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
        Some(holder) if holder_is_gone(sight, holder, next.is_some()) => {
            let to = next.map(|next| next.id.clone());
            let write = match &to {
                Some(to) => write::grant(record, to, &ended, stamp),
                None => write::release(record, &ended, false),
            };
            let holders = vec![evicted(sight, holder)];
            deed(DeedKind::Evict { holders, to: to.into_iter().collect() }, write)
        }
        None => match next {
            Some(next) if sight.free_for >= STUCK => {
                let to = next.id.clone();
                let write = write::grant(record, &to, &ended, stamp);
                deed(DeedKind::Grant { to: vec![to] }, write)
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

/// Where somebody has ended, whoever fits then is let in with the same write.
fn decide_shared(sight: &Sight<'_>, stamp: Timestamp) -> Option<Deed> {
    let record = sight.record;
    let has_ended = |waiter: &Waiter| (sight.verdict)(&waiter.id.session) == Verdict::Ended;
    let round = grant::round(record, |holder| holder_is_gone(sight, holder, true), has_ended);
    if round.served.iter().any(|waiter| (sight.verdict)(&waiter.id.session) == Verdict::Unknown) {
        return None; // It is being read, and the answer leads here again.
    }
    let passed_over = round.passed_over.len();
    let unused = record.shared.len() == round.dead.len() && record.waiters.len() == passed_over;
    let holders: Vec<Evicted> = round.dead.iter().map(|holder| evicted(sight, holder)).collect();
    let to: Vec<HolderId> = round.served.iter().map(|waiter| waiter.id.clone()).collect();
    let kind = match (holders.is_empty(), to.is_empty()) {
        (false, _) => DeedKind::Evict { holders, to },
        (true, false) if passed_over > 0 || sight.free_for >= STUCK => DeedKind::Grant { to },
        (true, true) if passed_over > 0 => DeedKind::PassOver,
        (true, true) if record.ephemeral && unused && sight.free_for >= LEFTOVER => DeedKind::Remove,
        _ => return None,
    };
    let write = match kind {
        DeedKind::Evict { .. } | DeedKind::Remove if record.ephemeral && unused => shared::remove(record),
        _ if round.served.is_empty() => shared::remove_dead(record, &round),
        _ => shared::grant(record, &round, stamp),
    };
    Some(Deed { kind, write, passed_over })
}

fn evicted(sight: &Sight<'_>, holder: &Holder) -> Evicted {
    Evicted {
        identity: holder.identity.clone(),
        why: (sight.gone)(holder).unwrap_or(Why::Ended),
        by_session: matches!(holder.liveness, Liveness::Session(_)),
    }
}

/// A Lease of somebody else's leader election stays as it is while nobody of ours has to do with it.
fn holder_is_gone(sight: &Sight<'_>, holder: &Holder, wanted: bool) -> bool {
    match ((sight.gone)(holder), &holder.liveness) {
        (None, _) => false,
        (Some(Why::Ended), Liveness::Own(_)) => wanted || sight.owned || sight.record.ephemeral,
        (Some(_), _) => true,
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

    fn by_name(holder: &Holder) -> Option<Why> {
        match holder.id.as_ref().map(|id| id.session.host()) {
            Some("dead") => Some(Why::Ended),
            Some("long") => Some(Why::HeldTooLong(Duration::from_secs(9))),
            _ => None,
        }
    }

    fn names(ids: &[HolderId]) -> String {
        ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn told(sight: &Sight<'_>) -> String {
        match decide(sight, Timestamp::UNIX_EPOCH) {
            None => "nothing".to_owned(),
            Some(Deed { kind, passed_over, .. }) => match kind {
                DeedKind::Evict { to, .. } if to.is_empty() => format!("evict, without {passed_over}"),
                DeedKind::Evict { to, .. } => format!("evict for {}, without {passed_over}", names(&to)),
                DeedKind::Grant { to } => format!("grant to {}, without {passed_over}", names(&to)),
                DeedKind::PassOver => format!("pass over {passed_over}"),
                DeedKind::Remove => "remove".to_owned(),
                DeedKind::GiveUp { waiter, .. } => format!("{waiter} is to give up"),
            },
        }
    }

    #[test]
    fn only_what_has_ended_is_acted_upon() {
        let holder = |identity: &str| json!({ "holderIdentity": identity });
        let (free, alive, dead, long) = (json!({}), holder("alive_h.1"), holder("dead_h.1"), holder("long_h.1"));
        let minute = Duration::from_mins(1);
        for (holder, waiters, ephemeral, free_for, wanted) in [
            (&alive, vec![], false, Duration::ZERO, "nothing"),
            (&alive, vec!["alive_w.1"], true, Duration::ZERO, "nothing"),
            (&alive, vec!["dead_w.1", "alive_w.1", "dead_w.2"], false, Duration::ZERO, "pass over 2"),
            (&dead, vec![], false, Duration::ZERO, "evict, without 0"),
            (&dead, vec!["dead_w.1"], true, Duration::ZERO, "evict, without 1"),
            (&dead, vec!["alive_w.1", "alive_w.2"], false, Duration::ZERO, "evict for alive_w.1, without 0"),
            (&dead, vec!["dead_w.1", "alive_w.1"], true, Duration::ZERO, "evict for alive_w.1, without 1"),
            (&long, vec!["dead_w.1", "alive_w.1"], false, Duration::ZERO, "evict for alive_w.1, without 1"),
            (&long, vec![], true, Duration::ZERO, "evict, without 0"),
            // Who comes first is not known before its session has been read.
            (&dead, vec!["dead_w.1", "new_w.1", "alive_w.1"], false, Duration::ZERO, "nothing"),
            (&free, vec![], false, minute, "nothing"),
            (&free, vec![], true, LEFTOVER / 2, "nothing"),
            (&free, vec![], true, LEFTOVER, "remove"),
            (&free, vec!["alive_w.1"], true, STUCK / 2, "nothing"),
            (&free, vec!["dead_w.1", "alive_w.1"], true, STUCK, "grant to alive_w.1, without 1"),
            (&free, vec!["dead_w.1"], false, minute, "pass over 1"),
        ] {
            let record = record(ephemeral, holder, &waiters, 9);
            let sight = Sight { record: &record, verdict: &verdict, gone: &by_name, free_for, owned: true };
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
            let sight = Sight {
                record: &record,
                verdict: &verdict,
                gone: &|_| own_expired.then_some(Why::Ended),
                free_for,
                owned,
            };
            assert_eq!(told(&sight), wanted, "{own_expired} {waiters:?} {ephemeral} {owned}");
        }
    }

    /// A semaphore's Lease: holders and waiters, each with what it has or wants.
    fn semaphore(ephemeral: bool, permits: u32, holders: &[(&str, &str)], waiters: &[(&str, &str)]) -> Record {
        let mut annotations = json!({ "leasehold.dev/permits": permits.to_string() });
        if ephemeral {
            annotations["leasehold.dev/ephemeral"] = json!("true");
        }
        let (held, waiting) = ("holder.leasehold.dev/", "join.leasehold.dev/");
        let all = holders.iter().map(|one| (held, one)).chain(waiters.iter().map(|one| (waiting, one)));
        for (ticket, (prefix, (id, want))) in all.enumerate() {
            annotations[format!("{prefix}{id}")] = json!((ticket + 1).to_string());
            annotations[format!("want.leasehold.dev/{id}")] = json!(want);
        }
        let lease = json!({
            "metadata": { "name": "a", "namespace": "ns", "uid": "u", "resourceVersion": "9",
                "annotations": annotations, "labels": { "leasehold.dev/kind": "semaphore" } },
            "spec": { "holderIdentity": "semaphore" },
        });
        Record::parse(serde_json::from_value(lease).unwrap()).unwrap()
    }

    #[test]
    fn whoever_fits_is_let_in_for_the_dead_and_nobody_else() {
        let (one, two) = ("1", "2");
        let (alive, dead) = ([("alive_h.1", two)], [("alive_h.1", one), ("dead_h.1", one)]);
        let now = Duration::ZERO;
        for (what, record, free_for, wanted) in [
            ("all live", semaphore(true, 2, &alive, &[("alive_w.1", one)]), STUCK, "nothing"),
            ("a dead holder", semaphore(false, 2, &dead, &[]), now, "evict, without 0"),
            ("one fits", semaphore(false, 2, &dead, &[("alive_w.1", one)]), now, "evict for alive_w.1, without 0"),
            (
                "held too long",
                semaphore(false, 2, &[("alive_h.1", one), ("long_h.1", one)], &[("alive_w.1", one)]),
                now,
                "evict for alive_w.1, without 0",
            ),
            ("too large", semaphore(false, 2, &dead, &[("alive_w.1", two)]), now, "evict, without 0"),
            (
                "behind a dead one",
                semaphore(false, 2, &dead, &[("dead_w.1", two), ("alive_w.1", one)]),
                now,
                "evict for alive_w.1, without 1",
            ),
            ("unknown", semaphore(false, 2, &dead, &[("new_w.1", one)]), now, "nothing"),
            ("shrunk", semaphore(false, 1, &dead, &[("alive_w.1", one)]), now, "evict, without 0"),
            ("dead waiter", semaphore(false, 2, &alive, &[("dead_w.1", one)]), now, "pass over 1"),
            ("just let in", semaphore(false, 3, &alive, &[("alive_w.1", one)]), STUCK / 2, "nothing"),
            ("stuck", semaphore(false, 3, &alive, &[("alive_w.1", one)]), STUCK, "grant to alive_w.1, without 0"),
            (
                "as many as fit",
                semaphore(false, 4, &alive, &[("alive_w.1", one), ("alive_w.2", one), ("alive_w.3", one)]),
                STUCK,
                "grant to alive_w.1 alive_w.2, without 0",
            ),
            ("unused", semaphore(true, 2, &[], &[]), LEFTOVER, "remove"),
            ("unused and kept", semaphore(false, 2, &[], &[]), LEFTOVER, "nothing"),
        ] {
            let sight = Sight { record: &record, verdict: &verdict, gone: &by_name, free_for, owned: true };
            assert_eq!(told(&sight), wanted, "{what}");
        }
    }

    #[test]
    fn a_lease_made_on_the_spot_goes_with_the_last_of_the_dead() {
        let record = semaphore(true, 2, &[("dead_h.1", "1"), ("dead_h.2", "1")], &[("dead_w.1", "1")]);
        let (free_for, owned) = (Duration::ZERO, false);
        let sight = Sight { record: &record, verdict: &verdict, gone: &by_name, free_for, owned };
        let deed = decide(&sight, Timestamp::UNIX_EPOCH).unwrap();
        assert!(matches!(deed.write, Write::Delete { .. }), "{:?}", deed.write);
    }

    #[test]
    fn a_term_that_has_passed_is_over_though_its_client_lives() {
        let record = semaphore(false, 2, &[("alive_h.1", "1 own=5"), ("alive_h.2", "1 own=9")], &[("alive_w.1", "1")]);
        let short = Liveness::Own(Duration::from_secs(5));
        let gone = |holder: &Holder| (holder.liveness == short).then_some(Why::Ended);
        let (free_for, owned) = (Duration::ZERO, false);
        let sight = Sight { record: &record, verdict: &verdict, gone: &gone, free_for, owned };
        assert_eq!(told(&sight), "evict for alive_w.1, without 0");
    }
}
