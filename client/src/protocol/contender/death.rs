//! Who is dead, and from when on a dead holder may be evicted.

use std::time::Duration;

use jiff::SignedDuration;

use super::super::{Liveness, Moment, Record, SessionId};
use super::{Contender, Holder, Next};

impl Contender {
    /// Whether this session has ended. Who waited by it is passed over, whatever the policy says of holders.
    pub(super) fn has_ended(&self, session: &SessionId) -> bool {
        self.verdicts.get(session).is_some_and(Option::is_some)
    }

    /// Whether this holder may be evicted.
    pub(super) fn is_dead(&self, record: &Record, holder: &Holder, now: Moment) -> bool {
        self.evictable_from(record, holder).is_some_and(|from| now >= from)
    }

    /// From when on this holder may be evicted, as far as is known: if it does not renew its own record until then.
    pub(super) fn evictable_from(&self, record: &Record, holder: &Holder) -> Option<Moment> {
        match &holder.liveness {
            Liveness::Session(session) => record.policy.evicts_ended((*self.verdicts.get(session)?)?),
            Liveness::Own(_) => record.policy.evicts_expired(self.own_expiry(holder)?, holder.kept),
        }
    }

    /// Waits no longer than until the next of the holders may be evicted.
    ///
    /// A time that has passed is of no use: others are ahead.
    pub(super) fn until_an_eviction(&self, next: Next, record: &Record, now: Moment) -> Next {
        let evictions = record.holders().filter_map(|holder| self.evictable_from(record, holder));
        match (next, evictions.filter(|from| *from > now).min()) {
            (Next::Wait(Some(at)), Some(from)) => Next::Wait(Some(at.min(from))),
            (next, _) => next,
        }
    }

    /// When a holder expires, if it lives by its own record and does not renew it.
    fn own_expiry(&self, holder: &Holder) -> Option<Moment> {
        let (seen, since) = self.own_seen.get(&holder.identity)?;
        let by_watching = *since + seen.duration;
        let by_the_wall = || {
            let (now, skew) = self.wall?;
            let lived = now.stamp.duration_since(holder.renewed?);
            let term = SignedDuration::try_from(seen.duration + skew).ok()?;
            let left = term.checked_sub(lived)?;
            // It may have been over for long.
            let (left, over) = (Duration::try_from(left), Duration::try_from(lived.checked_sub(term)?));
            Some(left.map_or_else(|_| now.moment - over.unwrap_or_default(), |left| now.moment + left))
        };
        Some(by_the_wall().map_or(by_watching, |by_the_wall| by_the_wall.min(by_watching)))
    }
}
