//! What is worth being remembered of a lock by a client that has nothing to do with it any more.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::observer::End;
use super::super::record::Tenancy;
use super::super::{LONGEST_SESSION, Moment, SessionId};
use super::{Contender, Known, OwnRecord};

/// What was seen of holders that live by their own records, and since when; and of those whose sessions have ended.
#[derive(Clone, Debug, Hash)]
pub struct Recollection {
    own: BTreeMap<String, (OwnRecord, Moment)>,
    tenancy: Option<(Tenancy, Moment)>,
    ended: BTreeMap<SessionId, End>,
    lock_delay: Duration,
}

impl Recollection {
    /// Whether any of it is worth being remembered: until a holder may be evicted, and for as long again.
    #[must_use]
    pub fn is_of_use(&self, now: Moment) -> bool {
        let delay = self.lock_delay;
        self.own.values().any(|(seen, since)| now < *since + (seen.duration + delay) * 2)
            || self.tenancy.as_ref().is_some_and(|(_, since)| now < *since + LONGEST_SESSION * 2)
            || self.ended.values().any(|end| !delay.is_zero() && now < end.since + (end.duration + delay) * 2)
    }
}

impl Contender {
    /// What this client has seen of holders that may be evicted one day, for one that begins anew after it.
    #[must_use]
    pub fn recollect(&self) -> Recollection {
        let lock_delay = match &self.known {
            Known::Present(record) => record.policy.lock_delay,
            Known::Unknown | Known::Absent => Duration::ZERO,
        };
        let ended = self.verdicts.iter().filter_map(|(session, end)| Some((session.clone(), (*end)?))).collect();
        let tenancy =
            self.tenancy.clone().filter(|_| matches!(&self.known, Known::Present(record) if record.is_held()));
        Recollection { own: self.own_seen.clone(), tenancy, ended, lock_delay }
    }

    /// This has been seen before, by the same clock. What stands there unchanged has stood there since then.
    pub fn recall(&mut self, seen: Recollection) {
        (self.own_seen, self.tenancy) = (seen.own, seen.tenancy);
        self.verdicts = seen.ended.into_iter().map(|(session, end)| (session, Some(end))).collect();
    }
}
