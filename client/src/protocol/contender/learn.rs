//! What the answers and events teach.

use super::super::{LATEST_COMMIT, Liveness, Moment, Record, SessionId, Version, deadline, renew_interval};
use super::{
    Answer, Contender, Denial, Exit, Ghost, Hold, InFlight, Known, Loss, NEAR, Notice, OwnRecord, OwnTerm, Phase,
    Refusal, Turn,
};
use std::time::Duration;

impl Contender {
    /// The answer to the request last polled, received at `now`.
    pub fn answer(&mut self, answer: Answer, now: Moment) {
        let Some(request) = self.in_flight.take() else { return };
        match answer {
            Answer::Is(record) => {
                self.reached(&request);
                if !request.is_read {
                    self.refusals = 0;
                    self.may_have_left(&request);
                } else if record.version < request.floor && self.floor == request.floor {
                    // A consistent read shows less than was seen before it began: the API server's history was
                    // set back, by a restored backup. What is there now is what counts.
                    self.floor = Version::default();
                }
                self.settle_ghosts(Some(&record), request.sent);
                let own = request.renews.map(|duration| self.own_term(&request, duration));
                self.adopt(*record, now);
                self.confirm(own, now);
                self.look_again(now);
            }
            Answer::Absent | Answer::Removed => {
                self.reached(&request);
                if matches!(answer, Answer::Removed) {
                    self.refusals = 0;
                    self.may_have_left(&request);
                }
                self.settle_ghosts(None, request.sent);
                // What a watch showed meanwhile may be the newer news.
                self.known = if self.floor == request.floor { Known::Absent } else { Known::Unknown };
                self.own_seen = None;
                self.look_again(now);
            }
            Answer::Refused => {
                self.known = Known::Unknown;
                // Once is what contention looks like. Again and again is not.
                let pause = if self.refusals == 0 { Duration::ZERO } else { self.backoff(self.refusals) };
                self.refusals += 1;
                self.retry_at = now + pause;
            }
            Answer::Unclear(why) => {
                if !request.is_read {
                    self.known = Known::Unknown;
                    self.may_have_left(&request);
                    if let Some(id) = request.claim {
                        self.ghosts.push(Ghost { id, until: now + LATEST_COMMIT });
                    }
                }
                self.failed(why, now);
            }
            Answer::Throttled(why) => self.failed(why, now),
            // The lock can be freed all the same.
            Answer::Denied(_, why) if request.is_removal => {
                self.keep_lease = true;
                self.failed(why, now);
            }
            Answer::Denied(denial, why) => match &self.phase {
                Phase::Seeking(turn) if request.sent >= turn.started => self.refuse(Refusal::Denied(denial, why)),
                _ => self.failed(why, now),
            },
            Answer::Skipped => self.look_again(now),
        }
    }

    /// A write of this client's may have ended what it is leaving.
    fn may_have_left(&mut self, request: &InFlight) {
        if let (Phase::Leaving(exit), true) = (&mut self.phase, request.leaving) {
            exit.ours = true;
        }
    }

    /// A clear answer has come.
    fn reached(&mut self, request: &InFlight) {
        self.failures = 0;
        match &mut self.phase {
            Phase::Seeking(turn) if request.sent >= turn.started => turn.fresh = true,
            _ => {}
        }
    }

    fn failed(&mut self, why: String, now: Moment) {
        self.retry_at = now + self.backoff(self.failures);
        self.failures += 1;
        self.last_failure = why;
    }

    /// Takes a record for what is known, unless something newer has been seen.
    pub(super) fn adopt(&mut self, record: Record, now: Moment) {
        if record.version < self.floor || (record.version == self.floor && matches!(self.known, Known::Present(_))) {
            return;
        }
        self.floor = record.version;
        let own = record.holder.as_ref().and_then(|holder| match holder.liveness {
            Liveness::Session(_) => None,
            Liveness::Own(duration) => Some(OwnRecord {
                tenancy: record.tenancy(),
                identity: holder.identity.clone(),
                renewed: holder.renewed,
                duration,
            }),
        });
        if self.own_seen.as_ref().map(|(seen, _)| seen) != own.as_ref() {
            self.own_seen = own.map(|own| (own, now));
        }
        let head = record.waiters.first().map(|waiter| waiter.id.clone());
        let same =
            self.front.as_ref().is_some_and(|(tenancy, first, _)| *tenancy == record.tenancy() && *first == head);
        if !same {
            self.front = Some((record.tenancy(), head, now));
        }
        self.verdicts.retain(|session, _| record.names(session));
        self.known = Known::Present(Box::new(record));
    }

    /// Forgets those of which nothing can come true any more: a read begun after the last time they could be carried
    /// out shows nothing of them.
    fn settle_ghosts(&mut self, record: Option<&Record>, read_begun: Moment) {
        let current = self.current().cloned();
        self.ghosts.retain(|ghost| {
            let there = |record: &Record| record.is_held_by(&ghost.id) || record.position(&ghost.id).is_some();
            // What is wanted at present may stand there, and still nothing more can come of it.
            (record.is_some_and(there) && current.as_ref() != Some(&ghost.id)) || read_begun < ghost.until
        });
    }

    fn own_term(&self, request: &InFlight, duration: Duration) -> OwnTerm {
        let renewal = match &self.phase {
            Phase::Holding(hold) => hold.wish.renewal,
            _ => self.turn().is_none_or(|turn| turn.wish.renewal),
        };
        OwnTerm {
            duration,
            deadline: deadline(request.sent, duration, self.grace),
            renew_at: renewal.then(|| request.sent + renew_interval(duration)),
        }
    }

    /// A write of this client's has been carried out that started or renewed a hold living by its own record.
    fn confirm(&mut self, own: Option<OwnTerm>, now: Moment) {
        let (Some(own), Known::Present(record)) = (own, &self.known) else { return };
        let lives_by_itself =
            |record: &Record| record.holder.as_ref().is_some_and(|holder| matches!(holder.liveness, Liveness::Own(_)));
        match &mut self.phase {
            Phase::Seeking(turn) | Phase::Confirming(turn)
                if record.is_held_by(&turn.id) && lives_by_itself(record) =>
            {
                let turn = turn.clone();
                self.hold(turn, Some(own));
            }
            // An answer that comes after the deadline changes nothing: lost is for good.
            Phase::Holding(hold) if hold.own.is_some_and(|before| now >= before.deadline) => {}
            Phase::Holding(hold) if !hold.lost && record.is_held_by(&hold.id) && hold.own.is_some() => {
                hold.own = Some(own);
                self.notices.push_back(Notice::Renewed(own.deadline));
            }
            _ => {}
        }
    }

    /// The lock is held, and the user is told.
    fn hold(&mut self, turn: Turn, own: Option<OwnTerm>) {
        let Known::Present(record) = &self.known else { return };
        // Where the Lease tells no token, this client made it, and nobody can have had a larger one before.
        let token = record.holder.as_ref().and_then(|holder| holder.token).unwrap_or(record.version.0);
        let id = turn.id.clone();
        let tenancy = record.tenancy();
        self.refusals = 0;
        self.notices.push_back(Notice::Acquired { id, token, deadline: own.map(|own| own.deadline) });
        self.phase = Phase::Holding(Hold { id: turn.id, wish: turn.wish, tenancy, own, lost: false });
    }

    fn refuse(&mut self, why: Refusal) {
        if let Some(turn) = self.turn() {
            self.notices.push_back(Notice::Refused { id: turn.id.clone(), why });
        }
        self.phase = Phase::Idle;
    }

    /// Moves to the phase that what is known, and the time, say.
    pub(super) fn advance(&mut self, now: Moment) {
        self.stuck = self.is_stuck(now);
        if let Known::Present(record) = &self.known {
            self.vacant = self.is_vacant(record, now);
        }
        match self.phase.clone() {
            Phase::Idle => {}
            Phase::Seeking(turn) => self.advance_seeking(turn, now),
            Phase::Waiting(turn) | Phase::Confirming(turn) => match &self.known {
                Known::Unknown => {}
                Known::Present(record) if record.is_held_by(&turn.id) => self.granted(turn),
                Known::Present(record) if record.position(&turn.id).is_some() => self.phase = Phase::Waiting(turn),
                // Its place is gone: the Lease was removed, or somebody removed its key. It queues up again.
                Known::Present(_) | Known::Absent => {
                    self.phase = Phase::Seeking(Turn { started: now, fresh: true, ..turn });
                }
            },
            Phase::Holding(hold) => self.advance_holding(&hold, now),
            Phase::Leaving(exit) => match &self.known {
                Known::Unknown => {}
                Known::Present(record) if record.is_held_by(&exit.id) || record.position(&exit.id).is_some() => {}
                Known::Present(_) | Known::Absent => self.left(&exit),
            },
        }
    }

    /// Whether so little has happened for so long that this client, far back in the queue, sees itself to whether the
    /// holder lives: the further back, the longer, so that not all begin at once.
    fn is_stuck(&self, now: Moment) -> bool {
        let (Some(turn), Known::Present(record)) = (self.turn(), &self.known) else { return self.stuck };
        let places = u32::try_from(record.position(&turn.id).unwrap_or(0) / NEAR).unwrap_or(u32::MAX);
        let since = self.front.as_ref().map_or(now, |(_, _, since)| *since);
        now.since(since) >= self.session_duration.saturating_mul(places)
    }

    fn advance_seeking(&mut self, turn: Turn, now: Moment) {
        match &self.known {
            Known::Present(record) if record.is_held_by(&turn.id) => return self.granted(turn),
            Known::Present(record) if record.position(&turn.id).is_some() => {
                self.phase = Phase::Waiting(turn);
                return;
            }
            _ => {}
        }
        if let Some(own) = self.own_duration().filter(|own| *own <= self.grace) {
            let grace = self.grace;
            let why = format!("its lease duration, {own:?}, is not longer than this client's grace, {grace:?}");
            return self.refuse(Refusal::Denied(Denial::Invalid, why));
        }
        let too_late = now >= turn.started + turn.wish.patience;
        if too_late && !turn.fresh {
            return self.refuse(Refusal::Unavailable(self.last_failure.clone()));
        }
        if turn.wish.queue || !turn.fresh {
            return;
        }
        let Known::Present(record) = &self.known else { return };
        let awaited = record.holder.as_ref().is_some_and(
            |holder| matches!(&holder.liveness, Liveness::Session(session) if !self.verdicts.contains_key(session)),
        );
        if self.takeable(record, &turn.id, now).is_none() && (too_late || !awaited) {
            let holder = record.holder.as_ref().map(|holder| holder.identity.clone()).unwrap_or_default();
            self.refuse(Refusal::Held { holder });
        }
    }

    fn granted(&mut self, turn: Turn) {
        if self.own_duration().is_some() {
            self.phase = Phase::Confirming(turn);
        } else {
            self.hold(turn, None);
        }
    }

    fn advance_holding(&mut self, hold: &Hold, now: Moment) {
        let loss = match &self.known {
            _ if hold.lost => None,
            _ if hold.own.is_some_and(|own| now >= own.deadline) => Some(Loss::Expired),
            Known::Absent => Some(Loss::Broken),
            Known::Present(record) if !record.is_held_by(&hold.id) || record.tenancy() != hold.tenancy => {
                Some(Loss::Broken)
            }
            Known::Unknown | Known::Present(_) => None,
        };
        if let (Some(loss), Phase::Holding(hold)) = (loss, &mut self.phase) {
            hold.lost = true;
            self.notices.push_back(Notice::Lost(loss));
        }
    }

    fn left(&mut self, exit: &Exit) {
        self.notices.push_back(Notice::Left { clean: exit.ours && !exit.lost });
        self.phase = Phase::Idle;
    }

    pub(super) fn has_ended(&self, session: &SessionId) -> bool {
        self.verdicts.get(session).copied().unwrap_or(false)
    }

    /// Something is known now: when to look again though nothing happens.
    fn look_again(&mut self, now: Moment) {
        self.retry_at = now;
        let every = renew_interval(self.session_duration);
        let every = match (&self.phase, &self.known) {
            (Phase::Waiting(turn), Known::Present(record)) => {
                let every = match record.holder.as_ref().map(|holder| &holder.liveness) {
                    Some(Liveness::Own(duration)) => every.min(renew_interval(*duration)),
                    _ => every,
                };
                match record.position(&turn.id).unwrap_or(0) {
                    0..4 => every,
                    4..16 => every * 2,
                    _ => every * 4,
                }
            }
            (Phase::Holding(_), _) if self.watched => every * 6,
            _ => every,
        };
        self.read_at = now + every.mul_f64(0.9 + 0.1 * self.random());
    }

    /// The pause after so many failures.
    fn backoff(&mut self, failures: u32) -> Duration {
        let most = renew_interval(self.session_duration).min(Duration::from_secs(2));
        let pause = Duration::from_millis(20) * (1 << failures.min(8));
        pause.min(most).mul_f64(0.75 + 0.5 * self.random())
    }

    /// A number from 0 to 1. Marsaglia's xorshift: it need not be good, only different from client to client.
    #[expect(clippy::cast_precision_loss, reason = "only so much precision is wanted")]
    fn random(&mut self) -> f64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        (self.jitter >> 32) as f64 / f64::from(u32::MAX)
    }
}
