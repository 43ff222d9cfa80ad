//! The one request to send next, derived from what is known and what is wanted.

use std::time::Duration;

use super::super::record::{CROWDED_BYTES, HOLDS};
use super::super::write::shared::{self, Round};
use super::super::write::{self, Term};
use super::super::{HolderId, Kind, Liveness, Mode, Moment, Now, Record, Waiter, Want, grant};
use super::{Contender, Exit, Heard, Hold, Holder, Known, Next, Stage, Step, Turn};

impl Contender {
    pub(super) fn next(&self, now: Now) -> Step {
        if now.moment < self.retry_at {
            return Next::Wait(Some(self.retry_at)).into();
        }
        if let Some(step) = self.clean_up(now).or_else(|| self.see_to_the_next(now)) {
            return step;
        }
        let exits = self.exits.iter().map(|exit| self.depart_from(exit, now));
        let holds = self.holds.iter().map(|hold| self.go_on_holding(hold, now));
        let turn = self.turn.iter().map(|turn| self.go_on(turn, now));
        let mut wake: Option<Moment> = None;
        for step in exits.chain(holds).chain(turn) {
            match step.next {
                Next::Wait(at) => wake = wake.into_iter().chain(at).min(),
                _ => return step,
            }
        }
        match (wake, self.is_engaged()) {
            (None, false) if self.ghosts.is_empty() => self.tidy(),
            (None, false) => self.read_when_due(now),
            (wake, _) => Next::Wait(wake),
        }
        .into()
    }

    // ----------------------------------------------------------------------------------------------------- on the way in

    fn go_on(&self, turn: &Turn, now: Now) -> Step {
        match (turn.stage, &self.known) {
            // What was known before it began may be out of date.
            (Stage::Seeking, _) if !turn.fresh && self.obstacle(turn).is_some() => Next::Read.into(),
            (Stage::Seeking, Known::Absent) => self.create(turn, now),
            (Stage::Seeking, Known::Unknown) if turn.heard == Heard::NothingAndAbsent => self.create(turn, now),
            (Stage::Seeking, Known::Present(record)) => self.seek(turn, record, now),
            (Stage::Waiting, Known::Present(record)) => self.wait(turn, record, now),
            (Stage::Confirming, Known::Present(record)) => match record.holding(&turn.id) {
                Some(holder) if record.kind != Kind::Lock => self.renewing(turn, shared::renew(record, holder)),
                _ => self.renewing(turn, write::renew(record, self.term(turn), now.stamp)),
            },
            (Stage::Seeking, Known::Unknown) => self.seek_outrun(turn),
            (_, Known::Unknown | Known::Absent) => Next::Read.into(),
        }
    }

    fn create(&self, turn: &Turn, now: Now) -> Step {
        let (id, stamp) = (&turn.id, now.stamp);
        let (kind, permits) = (turn.wish.kind, turn.wish.permits);
        let write = match kind {
            Kind::Lock => write::create(&self.name, id, self.term(turn), stamp),
            _ => shared::create(&self.name, kind, permits, id, self.want(turn), stamp),
        };
        self.renewing(turn, write.with_id(turn.wish.resource_id.as_deref()))
    }

    /// Whoever has been outrun queues up without another look: a join asks for nothing but that it is the same Lease.
    fn seek_outrun(&self, turn: &Turn) -> Step {
        match &self.outdated {
            Some(record) if turn.wish.kind == Kind::Lock && self.queues(turn, record) => {
                Next::Write(write::join(record, &turn.id, &self.want(turn))).into()
            }
            _ => Next::Read.into(),
        }
    }

    fn seek(&self, turn: &Turn, record: &Record, now: Now) -> Step {
        let join = || Next::Write(write::join(record, &turn.id, &self.want(turn))).into();
        // Whoever has been outrun once makes sure of a place: a join cannot be outrun.
        let queues = self.queues(turn, record);
        let outrun = queues && (self.refusals > 0 || now.moment < self.outrun_until);
        match self.takeable(record, turn, now.moment) {
            Some(_) if outrun => join(),
            Some(round) if record.kind == Kind::Lock => {
                let (term, passed_over) = (self.term(turn), &round.passed_over);
                let write = write::acquire(record, &turn.id, passed_over, term, now.stamp);
                self.renewing(turn, write.with_id(turn.wish.resource_id.as_deref()))
            }
            Some(round) => {
                let write = shared::acquire(record, &turn.id, self.want(turn), &round, now.stamp);
                self.renewing(turn, write.with_id(turn.wish.resource_id.as_deref()))
            }
            None if queues => join(),
            None if !turn.fresh => Next::Read.into(),
            // An observer's word on the sessions in its way is awaited.
            None => Next::Wait(Some(turn.started + turn.wish.patience)).into(),
        }
    }

    /// Whether it is to join the queue, and there is room in it.
    fn queues(&self, turn: &Turn, record: &Record) -> bool {
        turn.wish.queue && self.crowd(turn, record, &record.waiters).is_none()
    }

    fn wait(&self, turn: &Turn, record: &Record, now: Now) -> Step {
        let round = self.round(record, now.moment);
        if record.kind == Kind::Lock {
            if round.served.first().is_some_and(|first| first.id == turn.id) {
                let passed_over: Vec<_> = record.waiters.iter().take_while(|waiter| waiter.id != turn.id).collect();
                let least = self.folds_from();
                return Next::Write(write::grant_and_fold(record, &turn.id, &passed_over, least, now.stamp)).into();
            }
        } else if self.is_for_me(turn, record, &round, now.moment) {
            // The first in the queue lets itself in, and with it whoever else fits.
            if !round.served.is_empty() {
                return shifting(shared::grant(record, &round, now.stamp));
            }
            if !round.dead.is_empty() || !round.passed_over.is_empty() {
                return shifting(shared::remove_dead(record, &round));
            }
        }
        if let Some((waiter, holds)) = unreported(turn, record) {
            return Step { reports: true, ..Next::Write(write::report(record, waiter, holds)).into() };
        }
        // Then there may be more to look at.
        let soon = [self.settled_from(), self.halted_from(record), self.stuck_from(turn, record)];
        let soon = soon.into_iter().flatten().filter(|from| *from > now.moment).min();
        let next = match (self.read_when_due(now), soon) {
            (Next::Wait(Some(at)), Some(from)) => Next::Wait(Some(at.min(from))),
            (next, _) => next,
        };
        self.until_an_eviction(next, record, now.moment).into()
    }

    /// Whether it is for this waiter to let in who fits: it is the first, or nothing has happened there for too long.
    fn is_for_me(&self, turn: &Turn, record: &Record, round: &Round<'_>, now: Moment) -> bool {
        let first = round.served.first().or(round.next.as_ref()).is_some_and(|first| first.id == turn.id);
        first || self.halted_from(record).is_some_and(|from| now >= from)
    }

    /// Whether a newcomer can take the lock now: it is free or its holder dead, and so are all who are ahead.
    pub(super) fn takeable<'a>(&self, record: &'a Record, turn: &Turn, now: Moment) -> Option<Round<'a>> {
        let round = self.round(record, now);
        let alone = round.served.is_empty() && round.next.is_none();
        let mode = turn.wish.mode;
        let room = mode.permits(record.capacity) <= round.free;
        let upgradeable = |holder: &&Holder| {
            holder.mode == Mode::Upgradeable && !round.dead.iter().any(|dead| dead.identity == holder.identity)
        };
        let taken = mode == Mode::Upgradeable && record.holders().any(|holder| upgradeable(&holder));
        (alone && room && !taken).then_some(round)
    }

    /// Who can be let in, as far as this client can tell.
    pub(super) fn round<'a>(&self, record: &'a Record, now: Moment) -> Round<'a> {
        let dead = |holder: &Holder| self.is_dead(record, holder, now);
        grant::round(record, dead, |waiter| self.has_ended(&waiter.id.session))
    }

    // --------------------------------------------------------------------------------------------------- while it is held

    fn go_on_holding(&self, hold: &Hold, now: Now) -> Step {
        let record = match &self.known {
            _ if hold.lost => return Next::Wait(None).into(),
            Known::Present(record) => record,
            Known::Unknown | Known::Absent => return Next::Read.into(),
        };
        let Some(holder) = record.holding(&hold.id) else { return Next::Wait(None).into() };
        if let Some(own) = hold.own.filter(|own| own.renew_at.is_some_and(|at| now.moment >= at)) {
            let term = Term { duration: own.duration, own: true };
            let next = Next::Write(match record.kind {
                Kind::Lock => write::renew(record, term, now.stamp),
                _ => shared::renew(record, holder),
            });
            return Step { renews: Some((hold.id.clone(), own.duration)), ..next.into() };
        }
        if let Some(write) = hold.change.and_then(|mode| self.changing(record, holder, mode, now)) {
            return changing(hold, write);
        }
        // What was taken back has been carried out after all: it would keep everybody else out.
        let permits = |mode: Mode| mode.permits(record.capacity);
        let more = record.upgrading == holder.id || permits(holder.mode) > permits(hold.wish.mode);
        if more && record.kind != Kind::Lock && hold.change.is_none() {
            return changing(hold, shared::downgrade(record, holder, hold.wish.mode));
        }
        if let Some(payload) = hold.payload.as_ref().filter(|payload| !holder.shows(&payload.text)) {
            let write = write::publish(record, holder, &payload.text);
            return Step { publishes: Some((hold.id.clone(), payload.text.clone())), ..Next::Write(write).into() };
        }
        let next = match self.read_when_due(now) {
            _ if self.look_at.is_some_and(|at| now.moment >= at) => Next::Read,
            Next::Wait(at) => Next::Wait(at.into_iter().chain(self.look_at).min()),
            Next::Read if self.ghosts.is_empty() && hold.change.is_none() && self.turn.is_none() => Next::Check,
            next => next,
        };
        let next = if hold.change.is_some() { self.until_an_eviction(next, record, now.moment) } else { next };
        match (next, hold.own) {
            (Next::Wait(Some(at)), Some(own)) => {
                Next::Wait(Some(own.renew_at.map_or(own.deadline, |renew| renew.min(own.deadline)).min(at)))
            }
            (next, _) => next,
        }
        .into()
    }

    /// The write by which a holder becomes more or less than it was. `None`: others are in the way still.
    fn changing(&self, record: &Record, holder: &Holder, mode: Mode, now: Now) -> Option<write::Write> {
        if mode.permits(record.capacity) <= holder.mode.permits(record.capacity) {
            return Some(shared::downgrade(record, holder, mode));
        }
        let (dead, alive): (Vec<_>, Vec<_>) = record
            .holders()
            .filter(|other| other.identity != holder.identity)
            .partition(|other| self.is_dead(record, other, now.moment));
        if alive.is_empty() {
            return Some(shared::upgrade(record, holder, &Round { dead, ..Round::default() }, now.stamp));
        }
        (record.upgrading != holder.id).then(|| shared::ask_upgrade(record, holder))
    }

    // ---------------------------------------------------------------------------------------------------- on the way out

    fn depart_from(&self, exit: &Exit, now: Now) -> Step {
        let id = &exit.id;
        let step = match &self.known {
            Known::Present(record) => match (exit.keep, record.holding(id)) {
                (Some(duration), Some(_)) if record.kind == Kind::Lock => {
                    Next::Write(write::keep(record, duration, now.stamp)).into()
                }
                (Some(duration), Some(holder)) => Next::Write(shared::keep(record, holder, duration, now.stamp)).into(),
                _ => self.depart(id, record, now),
            },
            Known::Unknown if now.moment < self.shown_until => Next::Wait(Some(self.shown_until)).into(),
            Known::Unknown | Known::Absent => Next::Read.into(),
        };
        Step { leaving: Some(id.clone()), ..step }
    }

    /// Hands the lock on, or frees it, or leaves the queue: whichever there is of `id`.
    fn depart(&self, id: &HolderId, record: &Record, now: Now) -> Step {
        match (record.holding(id), record.waiters.iter().find(|waiter| waiter.id == *id)) {
            (Some(_), _) if record.kind == Kind::Lock => Next::Write(self.hand_on(id, record, now)).into(),
            (Some(holder), _) => Next::Write(shared::release(record, holder, self.keep_lease)).into(),
            (None, Some(waiter)) => shifting(write::cancel(record, waiter)),
            (None, None) => Next::Wait(None).into(),
        }
    }

    fn hand_on(&self, id: &HolderId, record: &Record, now: Now) -> write::Write {
        let waits = |waiter: &&Waiter| {
            let ours = waiter.id.session == id.session;
            (!ours || self.turn.as_ref().is_some_and(|turn| turn.id == waiter.id))
                && !self.has_ended(&waiter.id.session)
        };
        match record.waiters.iter().find(waits) {
            Some(head) => {
                let passed_over: Vec<_> = record.waiters.iter().take_while(|waiter| waiter.id != head.id).collect();
                write::grant_and_fold(record, &head.id, &passed_over, self.folds_from(), now.stamp)
            }
            None => write::release(record, &record.waiters.iter().collect::<Vec<_>>(), self.keep_lease),
        }
    }

    /// Whoever leaves the queue stands in the way of its being folded: that is not tried twice.
    fn folds_from(&self) -> usize {
        if self.refusals > 0 { usize::MAX } else { self.fold_from }
    }

    /// What this client finds of itself on the Lease and does not want: it came true after all, and is given back.
    fn clean_up(&self, now: Now) -> Option<Step> {
        let Known::Present(record) = &self.known else { return None };
        let unwanted = |id: &&HolderId| {
            !self.has(id)
                && (self.ghosts.iter().any(|ghost| ghost.id == **id)
                    || self.ids().any(|current| current.session == id.session))
        };
        if record.kind == Kind::Lock && !self.exits.is_empty() {
            return None;
        }
        let id = record.ids().find(unwanted)?;
        Some(self.depart(id, record, now))
    }

    /// Somebody joined while this client went ahead, and does not know that it has come to the head of the queue: it is
    /// let in, or told.
    fn see_to_the_next(&self, now: Now) -> Option<Step> {
        let Known::Present(record) = &self.known else { return None };
        // A lock's first waiter looks for itself.
        let told = record.kind == Kind::Lock || !self.untold;
        let first = record.waiters.first().filter(|first| !told && !self.has(&first.id))?;
        if shared::is_told(record, &first.id.session) {
            return None;
        }
        let round = self.round(record, now.moment);
        Some(if round.served.is_empty() {
            Next::Write(shared::tell(record, first)).into()
        } else {
            shifting(shared::grant(record, &round, now.stamp))
        })
    }

    /// A Lease made on the spot that nobody needs any more is removed.
    fn tidy(&self) -> Next {
        match &self.known {
            Known::Present(record)
                if record.kind != Kind::Lock
                    && record.ephemeral
                    && !self.keep_lease
                    && !record.is_held()
                    && record.waiters.is_empty() =>
            {
                Next::Write(shared::remove(record))
            }
            _ => Next::Wait(None),
        }
    }

    // --------------------------------------------------------------------------------------------------------- judgements

    /// Whether there is something to be had: it is free, or its holder dead.
    pub(super) fn is_vacant(&self, record: &Record, now: Moment) -> bool {
        let round = self.round(record, now);
        round.free > 0 || !round.served.is_empty()
    }

    fn read_when_due(&self, now: Now) -> Next {
        if now.moment >= self.read_at { Next::Read } else { Next::Wait(Some(self.read_at)) }
    }

    // --------------------------------------------------------------------------------------------------- what is asked for

    /// The lock's own duration, where the hold is to live by the lock's own record.
    ///
    /// It is what the user asked for, or else what the custom resource says, or else as near to the session's as the
    /// resource's bounds allow; unless that is just the session's.
    pub(super) fn own_duration(&self, turn: &Turn) -> Option<Duration> {
        let Known::Present(record) = &self.known else { return turn.wish.own_duration };
        // What was taken by a request whose answer never came lives by what that request said.
        let said = record.holding(&turn.id).map(|holder| match holder.liveness {
            Liveness::Own(duration) => Some(duration),
            Liveness::Session(_) => None,
        });
        // Where several share, it was said at the join, and a renewal says nothing else.
        if let (Some(said), false) = (said, record.kind == Kind::Lock) {
            return said;
        }
        let default = record.policy.nearest(record.default_duration.unwrap_or(self.session_duration));
        let default = (default != self.session_duration).then_some(default);
        turn.wish.own_duration.or(default).or(said.flatten())
    }

    fn term(&self, turn: &Turn) -> Term {
        let own = self.own_duration(turn);
        Term { duration: own.unwrap_or(self.session_duration), own: own.is_some() }
    }

    fn want(&self, turn: &Turn) -> Want {
        match turn.wish.kind {
            Kind::Lock => Want::default(),
            _ => Want { mode: turn.wish.mode, own: self.own_duration(turn), ..Want::default() },
        }
    }

    /// It starts a hold, which lives by its own record if that is wanted.
    fn renewing(&self, turn: &Turn, write: write::Write) -> Step {
        let renews = self.own_duration(turn).map(|duration| (turn.id.clone(), duration));
        Step { renews, ..Next::Write(write).into() }
    }
}

/// What is to be said of this waiter, does not stand there, and finds room.
fn unreported<'a>(turn: &'a Turn, record: &'a Record) -> Option<(&'a Waiter, &'a [HolderId])> {
    let holds = turn.holds.as_deref()?;
    let waiter = record.waiters.iter().find(|waiter| waiter.id == turn.id)?;
    let bytes: usize = holds.iter().map(|id| id.session.as_str().len() + 12).sum();
    // Whoever comes later has to find room as well.
    let room = holds.is_empty() || record.bytes_to_come() + HOLDS.len() + 80 + bytes <= CROWDED_BYTES / 2;
    (room && waiter.holds != holds).then_some((waiter, holds))
}

/// It makes more or less of a hold.
fn changing(hold: &Hold, write: write::Write) -> Step {
    Step { changes: Some(hold.id.clone()), ..Next::Write(write).into() }
}

/// After this write somebody else may be at the head of the queue.
fn shifting(write: write::Write) -> Step {
    Step { shifts: true, ..Next::Write(write).into() }
}
