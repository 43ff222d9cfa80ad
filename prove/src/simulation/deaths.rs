//! Whether the dead are evicted no sooner than the resource allows.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use leasehold::protocol::record::{Holder, SessionRecord};
use leasehold::protocol::{Liveness, Reclaim, Record, Version};

use super::rules::{Author, Change};

/// No clock is faster than that.
const FASTEST: f64 = 0.99;

/// Since when the dead are dead, by the API server's own knowledge. Nobody else can have known earlier.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    /// When a session's Lease was ended or removed, by its name.
    sessions: BTreeMap<String, Death>,
    /// Since when a record that lives by itself stands there like this.
    own: BTreeMap<(String, String), (State, Duration)>,
}

#[derive(Debug)]
struct Death {
    since: Duration,
    /// What was written first.
    tombstone: Option<SessionRecord>,
    /// Somebody has said that its process has ended, then or later.
    is_evident: bool,
}

/// What a renewal changes.
type State = (i32, Option<Version>, Option<Timestamp>);

impl Deaths {
    /// A session's Lease is like this now, or is not there any more.
    pub(super) fn saw_session(&mut self, name: &str, record: Option<SessionRecord>, now: Duration) {
        if record.as_ref().is_none_or(|record| record.ended) {
            let is_evident = record.as_ref().is_some_and(|record| record.by_evidence);
            let death = || Death { since: now, tombstone: record, is_evident };
            // Who knows that its process has ended may say so of one that had fallen silent before.
            self.sessions.entry(name.to_owned()).or_insert_with(death).is_evident |= is_evident;
        }
    }

    /// Who was evicted too early by this change of a lock.
    pub(super) fn judge(&mut self, name: &str, change: &Change<'_>, now: Duration) -> Vec<String> {
        let stays = |holder: &Holder| {
            let after = change.after.iter().flat_map(Record::holders);
            after.into_iter().any(|after| after.identity == holder.identity)
        };
        let evicted = change.before.iter().flat_map(|record| record.holders().map(move |holder| (record, holder)));
        let evicted = evicted.filter(|(_, holder)| !stays(holder) && !holder.kept).filter(|(_, holder)| {
            let by_itself = holder.id.as_ref().is_some_and(|id| change.author.is(&id.session));
            !by_itself && *change.author != Author::Person
        });
        let early = evicted.filter_map(|(record, holder)| {
            let early = self.too_early(name, record, holder, now)?;
            Some(format!("{} was evicted from {name} by {}: {early}", holder.identity, change.author))
        });
        let early = early.collect();
        let mut before: BTreeMap<_, _> = self.own.extract_if(.., |(place, _), _| place == name).collect();
        if let Some(record) = &change.after {
            for holder in record.holders().filter(|holder| matches!(holder.liveness, Liveness::Own(_))) {
                let place = (name.to_owned(), holder.identity.clone());
                let transitions = if holder.granted.is_none() { record.transitions } else { 0 };
                let state = (transitions, holder.granted, holder.renewed);
                let since = before.remove(&place).filter(|(known, _)| *known == state).map(|(_, since)| since);
                self.own.insert(place, (state, since.unwrap_or(now)));
            }
        }
        early
    }

    /// Why this holder may not be evicted yet.
    fn too_early(&self, name: &str, record: &Record, holder: &Holder, now: Duration) -> Option<String> {
        let policy = &record.policy;
        if policy.reclaim == Reclaim::Never {
            return Some("nobody but a person may do that".to_owned());
        }
        let (since, wait) = match &holder.liveness {
            Liveness::Session(session) => {
                // Whether it has ended at all is another rule.
                let death = self.sessions.get(&session.lease_name())?;
                let before_its_time = death.tombstone.as_ref().filter(|tombstone| tombstone.by_evidence);
                let wait = match (policy.reclaim, before_its_time) {
                    (Reclaim::Expiry, Some(tombstone)) => tombstone.duration + policy.lock_delay,
                    (Reclaim::Evidence, _) if death.is_evident => Duration::ZERO,
                    _ => policy.lock_delay,
                };
                (death.since, wait)
            }
            Liveness::Own(term) => {
                let (_, since) = self.own.get(&(name.to_owned(), holder.identity.clone()))?;
                (*since, *term + policy.lock_delay)
            }
        };
        let passed = now.saturating_sub(since);
        (passed < wait.mul_f64(FASTEST)).then(|| format!("it was dead for {passed:?}, and {wait:?} have to pass"))
    }
}
