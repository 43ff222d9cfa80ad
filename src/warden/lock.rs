//! What the operator knows of one lock's Lease.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use leasehold::protocol::record::Tenancy;
use leasehold::protocol::{Liveness, Moment, Record};

use super::decide::{LEFTOVER, STUCK};

/// One lock's Lease, and since when it is as it is.
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) record: Arc<Record>,
    /// It is to be read anew: something was refused, unclear, or a watch no longer shows it.
    pub(super) doubtful: bool,
    /// The holder that lives by its own record, and when that was first seen so.
    own: Option<(OwnRecord, Moment)>,
    /// When the lock was first seen free in this tenancy.
    free_since: Option<(Tenancy, Moment)>,
}

/// What changes with each renewal of a holder that lives by its own record.
#[derive(Debug, PartialEq, Eq)]
struct OwnRecord {
    tenancy: Tenancy,
    identity: String,
    renewed: Option<Timestamp>,
    duration: Duration,
}

impl Lock {
    pub(super) fn new(record: Arc<Record>, now: Moment) -> Self {
        let mut lock = Self { record: Arc::clone(&record), doubtful: false, own: None, free_since: None };
        lock.take(record, now);
        lock
    }

    /// The Lease was seen like this, in an answer or event received at `now`.
    pub(super) fn take(&mut self, record: Arc<Record>, now: Moment) {
        let own = own_record(&record);
        if self.own.as_ref().map(|(known, _)| known) != own.as_ref() {
            self.own = own.map(|own| (own, now));
        }
        let free = record.holder.is_none().then(|| record.tenancy());
        if self.free_since.as_ref().map(|(known, _)| known) != free.as_ref() {
            self.free_since = free.map(|free| (free, now));
        }
        self.record = record;
        self.doubtful = false;
    }

    /// The holder lives by its own record, and that has not changed for its whole duration.
    pub(super) fn own_expired(&self, now: Moment) -> bool {
        self.own.as_ref().is_some_and(|(own, since)| now >= *since + own.duration)
    }

    pub(super) fn free_for(&self, now: Moment) -> Duration {
        self.free_since.as_ref().map_or(Duration::ZERO, |(_, since)| now.since(*since))
    }

    /// When there may be something to do, if nothing else happens before.
    pub(super) fn wake_at(&self, now: Moment) -> Option<Moment> {
        let at = match (&self.own, &self.free_since) {
            (Some((own, since)), _) => Some(*since + own.duration),
            (None, Some((_, since))) if !self.record.waiters.is_empty() => Some(*since + STUCK),
            (None, Some((_, since))) if self.record.ephemeral => Some(*since + LEFTOVER),
            _ => None,
        };
        at.filter(|at| *at > now)
    }
}

fn own_record(record: &Record) -> Option<OwnRecord> {
    let holder = record.holder.as_ref()?;
    let Liveness::Own(duration) = holder.liveness else {
        return None;
    };
    Some(OwnRecord { tenancy: record.tenancy(), identity: holder.identity.clone(), renewed: holder.renewed, duration })
}
