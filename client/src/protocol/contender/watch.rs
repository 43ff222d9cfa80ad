//! What a client has to look at, and what it sees of those ahead.

use std::collections::BTreeSet;

use super::super::write::shared::is_told;
use super::super::{Kind, Liveness, Mode, Moment, Record, SessionId, Version, renew_interval};
use super::{Contender, Known, NEAR, Stage};

impl Contender {
    /// From which version on the Lease is to be watched for this session's grant, while it waits, and whether all that
    /// happens there has to be seen: it is for this client to go ahead, and nobody may have known.
    #[must_use]
    pub fn watch_from(&self) -> Option<(Version, bool)> {
        let Known::Present(record) = &self.known else { return None };
        if self.holds.iter().any(|hold| hold.change.is_some() && !hold.lost) {
            return Some((record.version, false));
        }
        let turn = self.turn.as_ref().filter(|turn| turn.stage == Stage::Waiting)?;
        let first = record.kind != Kind::Lock && record.position(&turn.id) == Some(0);
        Some((record.version, turn.quiet || (first && !is_told(record, &turn.id.session))))
    }

    /// From which version on the Lease is to be watched for the loss of what is held.
    #[must_use]
    pub fn watch_hold_from(&self) -> Option<Version> {
        match &self.known {
            Known::Present(record) if self.holds.iter().any(|hold| !hold.lost) => Some(record.version),
            _ => None,
        }
    }

    /// Whether this was before something that has been seen.
    #[must_use]
    pub fn knows_more_than(&self, record: &Record) -> bool {
        record.version < self.floor
    }

    /// The sessions whose end would let this client go ahead. `None` while that is not known.
    #[must_use]
    pub fn sessions_to_observe(&self, now: Moment) -> Option<BTreeSet<SessionId>> {
        let mut sessions = BTreeSet::new();
        let upgrading = self.holds.iter().any(|hold| hold.change == Some(Mode::Write) && !hold.lost);
        if self.turn.is_none() && !upgrading {
            return Some(sessions);
        }
        let record = match &self.known {
            Known::Present(record) => record,
            Known::Absent => return Some(sessions),
            Known::Unknown => return None,
        };
        let turn = self.turn.as_ref();
        let position = turn.and_then(|turn| record.position(&turn.id)).unwrap_or(record.waiters.len());
        let queues = turn.is_some_and(|turn| turn.wish.queue);
        let joining = queues && turn.is_some_and(|turn| turn.stage == Stage::Seeking);
        if let Some(turn) = turn.filter(|turn| joining && self.crowd(turn, record, &record.waiters).is_some()) {
            return Some(self.sessions_in_the_way(record, &turn.id.session));
        }
        let halted = self.halted_from(record).is_none_or(|from| now >= from);
        let near = position < NEAR;
        if !upgrading && (joining || !(near || self.stuck)) {
            return Some(sessions);
        }
        for holder in record.holders() {
            // Many come and go where many share. Only who stays for long may have died; and whoever has a lock only for a
            // moment is not looked at.
            let since = holder.id.as_ref().and_then(|id| self.held_since.get(id));
            let long = match record.kind {
                Kind::Lock => !queues || self.settled_from().is_none_or(|from| now >= from),
                _ => since.is_none_or(|since| now >= *since + renew_interval(self.session_duration)),
            };
            if let Liveness::Session(session) = &holder.liveness
                && (long || self.is_looked_at(record, session))
            {
                sessions.insert(session.clone());
            }
        }
        // Who is far back looks at those ahead only when the lock waits for one of them. Who does not queue, never.
        if queues && (near || self.vacant) {
            let ahead = record.waiters[..position].iter().map(|waiter| &waiter.id.session);
            sessions.extend(ahead.filter(|session| halted || self.is_looked_at(record, session)).cloned());
        }
        if let Some(own) = self.current() {
            sessions.remove(&own.session);
        }
        Some(sessions)
    }

    /// The sessions by which somebody holds what this client waits for.
    pub fn sessions_of_holders(&self) -> impl Iterator<Item = &SessionId> {
        let record = match (&self.known, &self.turn) {
            (Known::Present(record), Some(_)) => Some(record),
            _ => None,
        };
        record.into_iter().flat_map(|record| record.holders()).filter_map(|holder| match &holder.liveness {
            Liveness::Session(session) => Some(session),
            Liveness::Own(_) => None,
        })
    }

    /// Whoever is looked at already is not let out of sight for a while, only since a lock has changed hands.
    fn is_looked_at(&self, record: &Record, session: &SessionId) -> bool {
        record.kind == Kind::Lock && self.verdicts.contains_key(session)
    }

    /// From when on whoever holds the lock has had it for so long that it may have died.
    pub(super) fn settled_from(&self) -> Option<Moment> {
        let (_, since) = self.tenancy.as_ref()?;
        Some(*since + renew_interval(self.session_duration) / 10)
    }

    /// From when on the front of the queue has stood still for so long that somebody there may have died. Where several
    /// share, it moves on all the time, and who has died holds up nobody at first.
    pub(super) fn halted_from(&self, record: &Record) -> Option<Moment> {
        let (_, _, since) = self.front.as_ref()?;
        let part = if record.kind == Kind::Lock { 10 } else { 2 };
        Some(*since + renew_interval(self.session_duration) / part)
    }

    /// The sessions that may be in the way of one who finds no room in the queue: if one of them has ended, there is.
    pub(super) fn sessions_in_the_way(&self, record: &Record, own: &SessionId) -> BTreeSet<SessionId> {
        let holders = record.holders().take(NEAR).filter_map(|holder| match &holder.liveness {
            Liveness::Session(session) => Some(session),
            Liveness::Own(_) => None,
        });
        let waiters = record.waiters.iter().filter(|waiter| !self.has_ended(&waiter.id.session)).take(NEAR);
        let sessions = holders.chain(waiters.map(|waiter| &waiter.id.session));
        sessions.filter(|session| *session != own).cloned().collect()
    }

    /// No more may wait, so that whoever does not get it at once does not get it.
    #[must_use]
    pub fn lets_nobody_wait(&self) -> bool {
        matches!(&self.known, Known::Present(record) if record.policy.max_waiters == Some(0))
    }

    /// Who is ahead, for people: the holder's identity, and how many wait before this client.
    #[must_use]
    pub fn ahead(&self) -> (String, usize) {
        match (&self.turn, &self.known) {
            (Some(turn), Known::Present(record)) => (
                record.holders().next().map(|holder| holder.identity.clone()).unwrap_or_default(),
                record.position(&turn.id).unwrap_or(record.waiters.len()),
            ),
            _ => (String::new(), 0),
        }
    }
}
