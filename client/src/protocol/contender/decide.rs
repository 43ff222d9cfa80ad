//! The one request to send next, derived from what is known and what is wanted.

use std::time::Duration;

use super::super::write::{self, Term};
use super::super::{HolderId, Liveness, Moment, Now, Record, Waiter, grant};
use super::{Contender, Hold, Known, Next, Phase, Step, Turn};

impl Contender {
    pub(super) fn next(&self, now: Now) -> Step {
        if now.moment < self.retry_at {
            return Step::Plain(Next::Wait(Some(self.retry_at)));
        }
        if let Some(cleaning) = self.clean_up(now) {
            return Step::Plain(cleaning);
        }
        match (&self.phase, &self.known) {
            (Phase::Seeking(turn), Known::Absent) => {
                Step::Renewing(write::create(&self.name, &turn.id, self.term(), now.stamp))
            }
            (Phase::Seeking(turn), Known::Present(record)) => self.seek(turn, record, now),
            (Phase::Holding(hold), Known::Present(record)) => self.keep(hold, record, now),
            (Phase::Confirming(_), Known::Present(record)) => {
                Step::Renewing(write::renew(record, self.term(), now.stamp))
            }
            (Phase::Waiting(turn), Known::Present(record)) => Step::Plain(self.wait(turn, record, now)),
            (Phase::Leaving(exit), Known::Present(record)) => Step::Plain(self.depart(&exit.id, record, now)),
            (Phase::Idle, _) if self.ghosts.is_empty() => Step::Plain(Next::Wait(None)),
            (Phase::Idle, _) => Step::Plain(self.read_when_due(now)),
            (Phase::Holding(hold), Known::Unknown | Known::Absent) if hold.lost => Step::Plain(Next::Wait(None)),
            (_, Known::Unknown | Known::Absent) => Step::Plain(Next::Read),
        }
    }

    fn seek(&self, turn: &Turn, record: &Record, now: Now) -> Step {
        Step::Plain(match self.takeable(record, &turn.id, now.moment) {
            // Whoever has been outrun once makes sure of a place: a join cannot be outrun.
            Some(_) if turn.wish.queue && self.refusals > 0 => Next::Write(write::join(record, &turn.id)),
            Some(passed_over) => {
                return Step::Renewing(write::acquire(record, &turn.id, &passed_over, self.term(), now.stamp));
            }
            None if turn.wish.queue => Next::Write(write::join(record, &turn.id)),
            None if !turn.fresh => Next::Read,
            // An observer's word on the holder's session is awaited.
            None => Next::Wait(Some(turn.started + turn.wish.patience)),
        })
    }

    fn wait(&self, turn: &Turn, record: &Record, now: Now) -> Next {
        if let Some(passed_over) = self.takeable(record, &turn.id, now.moment) {
            return Next::Write(write::grant(record, &turn.id, &passed_over, now.stamp));
        }
        match (self.read_when_due(now), self.own_expiry()) {
            // One that has passed is of no use while others are ahead.
            (Next::Wait(Some(at)), Some(expiry)) if expiry > now.moment => Next::Wait(Some(at.min(expiry))),
            (next, _) => next,
        }
    }

    fn keep(&self, hold: &Hold, record: &Record, now: Now) -> Step {
        if hold.lost {
            return Step::Plain(Next::Wait(None));
        }
        if hold.own.is_some_and(|own| own.renew_at.is_some_and(|at| now.moment >= at)) {
            return Step::Renewing(write::renew(record, self.term(), now.stamp));
        }
        let next = match self.read_when_due(now) {
            Next::Read if self.ghosts.is_empty() => Next::Check,
            next => next,
        };
        Step::Plain(match (next, hold.own) {
            (Next::Wait(Some(at)), Some(own)) => {
                Next::Wait(Some(own.renew_at.map_or(own.deadline, |renew| renew.min(own.deadline)).min(at)))
            }
            (next, _) => next,
        })
    }

    /// Hands the lock on, or frees it, or leaves the queue: whichever there is of `id`.
    fn depart(&self, id: &HolderId, record: &Record, now: Now) -> Next {
        if record.is_held_by(id) {
            let waiting = |waiter: &&Waiter| {
                let ours = waiter.id.session == id.session;
                (!ours || self.turn().is_some_and(|turn| turn.id == waiter.id)) && !self.has_ended(&waiter.id.session)
            };
            let head = record.waiters.iter().find(waiting);
            // A mutex has one permit, whatever its waiter asked for.
            let permits = head.map(|head| head.permits.min(1));
            if let (Some(head), 1) = (head, grant::served(1, permits)) {
                let passed_over: Vec<_> = record.waiters.iter().take_while(|waiter| waiter.id != head.id).collect();
                return Next::Write(write::grant(record, &head.id, &passed_over, now.stamp));
            }
            let dropped: Vec<_> = record.waiters.iter().collect();
            return Next::Write(write::release(record, &dropped, self.keep_lease));
        }
        match record.waiters.iter().find(|waiter| waiter.id == *id) {
            Some(waiter) => Next::Write(write::cancel(record, waiter)),
            None => Next::Wait(None),
        }
    }

    /// What this client finds of itself on the Lease and does not want: it came true after all, and is given back.
    fn clean_up(&self, now: Now) -> Option<Next> {
        let Known::Present(record) = &self.known else { return None };
        if matches!(self.phase, Phase::Leaving(_)) {
            return None;
        }
        let current = self.current();
        let unwanted = |id: &&HolderId| {
            Some(*id) != current
                && (self.ghosts.iter().any(|ghost| ghost.id == **id)
                    || current.is_some_and(|current| current.session == id.session))
        };
        let held = record.holder.as_ref().and_then(|holder| holder.id.as_ref());
        let id = held.into_iter().chain(record.waiters.iter().map(|waiter| &waiter.id)).find(unwanted)?;
        Some(self.depart(id, record, now))
    }

    /// Whether `id` can take the lock now, and who is passed over: the lock is free or its holder dead, and so are all
    /// who are ahead.
    pub(super) fn takeable<'a>(&self, record: &'a Record, id: &HolderId, now: Moment) -> Option<Vec<&'a Waiter>> {
        let free = self.is_vacant(record, now);
        let ahead = record.waiters.iter().take_while(|waiter| waiter.id != *id);
        let passed_over: Vec<_> = ahead.collect();
        (free && passed_over.iter().all(|waiter| self.has_ended(&waiter.id.session))).then_some(passed_over)
    }

    /// Whether the lock is free, or its holder dead.
    pub(super) fn is_vacant(&self, record: &Record, now: Moment) -> bool {
        match record.holder.as_ref().map(|holder| &holder.liveness) {
            None => true,
            Some(Liveness::Session(session)) => self.has_ended(session),
            Some(Liveness::Own(_)) => self.own_expiry().is_some_and(|expiry| now >= expiry),
        }
    }

    /// When the holder expires, if it lives by its own record and does not renew it.
    fn own_expiry(&self) -> Option<Moment> {
        self.own_seen.as_ref().map(|(seen, since)| *since + seen.duration)
    }

    fn read_when_due(&self, now: Now) -> Next {
        if now.moment >= self.read_at { Next::Read } else { Next::Wait(Some(self.read_at)) }
    }

    /// The lock's own duration, where the hold is to live by the lock's own record.
    ///
    /// It is what the user asked for, or else what the custom resource says, unless that is just the session's.
    pub(super) fn own_duration(&self) -> Option<Duration> {
        let turn = match &self.phase {
            Phase::Holding(hold) => return hold.own.map(|own| own.duration),
            _ => self.turn()?,
        };
        let Known::Present(record) = &self.known else { return turn.wish.own_duration };
        let default = record.default_duration.filter(|default| *default != self.session_duration);
        // What was taken by a request whose answer never came lives by what that request said.
        let said = match record.holder.as_ref().map(|holder| &holder.liveness) {
            Some(Liveness::Own(duration)) if record.is_held_by(&turn.id) => Some(*duration),
            _ => None,
        };
        turn.wish.own_duration.or(default).or(said)
    }

    fn term(&self) -> Term {
        let own = self.own_duration();
        Term { duration: own.unwrap_or(self.session_duration), own: own.is_some() }
    }
}
