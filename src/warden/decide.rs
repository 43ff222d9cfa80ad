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
pub(crate) struct Deed {
    pub(crate) kind: DeedKind,
    pub(crate) write: Write,
    /// Waiters that are removed with it, since their sessions have ended.
    pub(crate) passed_over: usize,
}

/// What a write to a lock's Lease is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeedKind {
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
                None => write::release(record, &ended),
            };
            deed(DeedKind::Evict { holder: holder.identity.clone(), to }, write)
        }
        None => match next {
            Some(next) if sight.free_for >= STUCK => {
                let to = next.id.clone();
                deed(DeedKind::Grant { to: to.clone() }, write::grant(record, &to, &ended, stamp))
            }
            None if record.ephemeral && sight.free_for >= LEFTOVER => {
                deed(DeedKind::Remove, write::release(record, &ended))
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
