//! What the answers and events teach.

use super::super::record::FULL_BYTES;
use super::super::{HolderId, LATEST_COMMIT, Liveness, Moment, Record, Version, deadline, renew_interval};
use super::{
    Answer, Contender, Denial, Exit, Ghost, Heard, Hold, Holder, InFlight, Kind, Known, Loss, Notice, OwnRecord,
    OwnTerm, Refusal, Stage, Turn,
};
use std::time::Duration;

/// For so long after it was forbidden to remove whoever has ended a client does not try that again.
const LEFT_TO_OTHERS: Duration = Duration::from_secs(60);

/// For so long a watch has time to show what stood in the way of a write.
const SHOWN_WITHIN: Duration = Duration::from_millis(50);

/// For so long after it was outrun a client takes a place in the queue at once, where several share.
const CROWDED: Duration = Duration::from_secs(1);

impl Contender {
    /// The answer to the request last polled, received at `now`.
    pub fn answer(&mut self, answer: Answer, now: Moment) {
        let Some(request) = self.in_flight.take() else { return };
        self.turn.iter_mut().for_each(|turn| turn.heard = Heard::Something);
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
                self.untold = request.shifts;
                self.adopt(*record, now);
                self.confirm(&request, now);
                self.see_what_is_shown(&request);
                self.see_what_is_reported(&request);
                self.look_again(now);
            }
            Answer::Absent | Answer::Removed => {
                self.reached(&request);
                if matches!(answer, Answer::Removed) {
                    self.refusals = 0;
                    self.may_have_left(&request);
                }
                self.settle_ghosts(None, request.sent);
                self.outdated = None;
                // What a watch showed meanwhile may be the newer news.
                self.known = if self.floor == request.floor { Known::Absent } else { Known::Unknown };
                self.own_seen.clear();
                self.held_since.clear();
                self.look_again(now);
            }
            // Whether it is there is not known yet, and what is there need not be created.
            Answer::Refused | Answer::Denied(..) if request.supposes_absent => {}
            Answer::Refused => {
                self.not_as_seen(&request, now);
                // Once is what contention looks like. Again and again is not.
                let pause = if self.refusals == 0 { Duration::ZERO } else { self.backoff(self.refusals) };
                self.refusals += 1;
                self.retry_at = now + pause;
                // Where several share, others come and go all the time: a while later it would be no better.
                if self.turn.as_ref().is_some_and(|turn| turn.wish.kind != Kind::Lock && request.of_turn(turn)) {
                    self.outrun_until = now + CROWDED;
                }
            }
            Answer::Unclear(why) => {
                if !request.is_read {
                    self.forget();
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
            Answer::Denied(_, why) if request.publishes.is_some() => {
                self.give_up_publishing(&request, &why);
                self.known = Known::Unknown;
            }
            // A policy knows every key by its own name: the queue is not folded any more.
            Answer::Denied(..) if !request.is_read && self.may_have_folded() => {
                self.fold_from = usize::MAX;
                self.known = Known::Unknown;
            }
            // It is not for this client to remove who has ended: whoever may, does, and until then it waits as behind the
            // living.
            Answer::Denied(Denial::Forbidden, why) if !request.is_read && self.would_remove_the_dead(now) => {
                self.leaves_the_dead_until = Some(now + LEFT_TO_OTHERS);
                self.known = Known::Unknown;
                self.last_failure = why;
            }
            // It waits all the same, and says nothing.
            Answer::Denied(..) if request.reports => {
                self.turn.iter_mut().for_each(|turn| turn.holds = None);
                self.known = Known::Unknown;
            }
            // What stands there is of a format that this client does not know: it is not written to.
            Answer::Denied(denial, why) if request.is_read && denial == Denial::Invalid => {
                self.known = Known::Unknown;
                self.leave_unread(now);
                self.look_again(now);
                self.failed(why.clone(), now);
                self.refuse(Refusal::Denied(denial, why));
            }
            Answer::Denied(denial, why) => match &self.turn {
                Some(turn) if turn.stage == Stage::Seeking && request.of_turn(turn) => {
                    self.refuse(Refusal::Denied(denial, why));
                }
                _ if request.is_read => self.failed(why, now),
                // Perhaps it was written by what is true no more, and the same would be refused for ever.
                _ => {
                    self.known = Known::Unknown;
                    self.retry_at = now + self.backoff(self.refusals);
                    self.refusals += 1;
                    self.last_failure = why;
                }
            },
            Answer::Skipped => self.look_again(now),
        }
    }

    /// Whether the last write may have folded the queue.
    fn may_have_folded(&self) -> bool {
        matches!(&self.known, Known::Present(record) if record.kind == Kind::Lock && record.waiters.len() > self.fold_from)
    }

    /// A write was refused, since the Lease is not as it was seen.
    fn not_as_seen(&mut self, request: &InFlight, now: Moment) {
        // What a watch has shown since it was sent is what stood in its way, or more.
        if self.floor > request.floor && matches!(self.known, Known::Present(_)) {
            return;
        }
        let seen = match std::mem::replace(&mut self.known, Known::Unknown) {
            Known::Present(record) => Some(record),
            Known::Unknown | Known::Absent => None,
        };
        // A holder's watch shows whatever happens to its Lease, and as a rule sooner than a read would.
        let holds = |id: &HolderId| seen.as_ref().is_some_and(|record| record.is_held_by(id));
        if self.refusals == 0 && self.watched && request.leaving.as_ref().is_some_and(holds) {
            self.shown_until = now + SHOWN_WITHIN;
        }
        self.outdated = seen.filter(|_| request.replaces);
    }

    /// What may stand on a Lease that cannot be read is not to be given back: it is left there, and looked after as what may
    /// come true. The driver gives its session up, so that others pass it over.
    fn leave_unread(&mut self, now: Moment) {
        let until = now + LATEST_COMMIT;
        for exit in std::mem::take(&mut self.exits) {
            self.ghosts.push(Ghost { id: exit.id.clone(), until });
            self.notices.push_back(Notice::Abandoned { id: exit.id });
        }
        if let Some(turn) = self.turn.as_ref() {
            if turn.stage != Stage::Seeking {
                self.ghosts.push(Ghost { id: turn.id.clone(), until });
            }
            if self.ghosts.iter().any(|ghost| ghost.id == turn.id) {
                self.notices.push_back(Notice::Abandoned { id: turn.id.clone() });
            }
        }
    }

    /// What was carried out and does not stand there was changed on the way, and would be again.
    fn see_what_is_shown(&mut self, request: &InFlight) {
        let (Some((id, text)), Known::Present(record)) = (&request.publishes, &self.known) else { return };
        if record.holding(id).is_some_and(|holder| !holder.shows(text)) {
            self.give_up_publishing(request, "something else stands there than what was written");
        }
    }

    /// The same of what a waiter says that it holds.
    fn see_what_is_reported(&mut self, request: &InFlight) {
        let (Some(turn), Known::Present(record), true) = (&mut self.turn, &self.known, request.reports) else { return };
        let stands = record.waiters.iter().find(|waiter| waiter.id == turn.id);
        if stands.is_some_and(|waiter| Some(&waiter.holds) != turn.holds.as_ref()) {
            turn.holds = None;
        }
    }

    /// What this request was to say will not be said, unless something else is wanted by now.
    fn give_up_publishing(&mut self, request: &InFlight, why: &str) {
        let Some((id, text)) = &request.publishes else { return };
        let hold = self.holds.iter_mut().find(|hold| hold.id == *id);
        if let Some(hold) = hold
            && hold.payload.take_if(|payload| payload.text == *text).is_some_and(|payload| payload.awaited)
        {
            self.notices.push_back(Notice::Published { id: id.clone(), outcome: Err(why.to_owned()) });
        }
    }

    /// A write of this client's may have ended what it is leaving.
    fn may_have_left(&mut self, request: &InFlight) {
        let exits = self.exits.iter_mut().filter(|exit| Some(&exit.id) == request.leaving.as_ref());
        exits.for_each(|exit| exit.ours = true);
    }

    /// A clear answer has come.
    fn reached(&mut self, request: &InFlight) {
        self.failures = 0;
        if let Some(turn) = self.turn.as_mut().filter(|turn| request.of_turn(turn)) {
            turn.fresh = true;
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
        self.outdated = None;
        let mut seen = std::mem::take(&mut self.own_seen);
        for holder in record.holders() {
            let Liveness::Own(duration) = holder.liveness else { continue };
            let (tenancy, identity) = (record.tenancy_of(holder), holder.identity.clone());
            let own = OwnRecord { tenancy, identity, renewed: holder.renewed, duration };
            let since =
                seen.remove(&holder.identity).filter(|(before, _)| *before == own).map_or(now, |(_, since)| since);
            self.own_seen.insert(holder.identity.clone(), (own, since));
        }
        let mut since = std::mem::take(&mut self.held_since);
        let holders = record.shared.iter().filter_map(|holder| holder.id.clone());
        self.held_since = holders.map(|id| (id.clone(), since.remove(&id).unwrap_or(now))).collect();
        let head = record.waiters.first().map(|waiter| waiter.id.clone());
        let same =
            self.front.as_ref().is_some_and(|(tenancy, first, _)| *tenancy == record.tenancy() && *first == head);
        if !same {
            self.front = Some((record.tenancy(), head, now));
        }
        if self.tenancy.as_ref().is_none_or(|(tenancy, _)| *tenancy != record.tenancy()) {
            self.tenancy = Some((record.tenancy(), now));
        }
        self.verdicts.retain(|session, _| record.names(session));
        self.known = Known::Present(Box::new(record));
    }

    /// Forgets those of which nothing can come true any more: a read begun after the last time they could be carried
    /// out shows nothing of them.
    fn settle_ghosts(&mut self, record: Option<&Record>, read_begun: Moment) {
        let mut ghosts = std::mem::take(&mut self.ghosts);
        ghosts.retain(|ghost| {
            let there = |record: &Record| record.is_held_by(&ghost.id) || record.position(&ghost.id).is_some();
            // What is wanted at present may stand there, and still nothing more can come of it.
            (record.is_some_and(there) && !self.has(&ghost.id)) || read_begun < ghost.until
        });
        self.ghosts = ghosts;
    }

    /// A write of this client's has been carried out that started or renewed a hold living by its own record.
    fn confirm(&mut self, request: &InFlight, now: Moment) {
        let (Some((id, duration)), Known::Present(record)) = (&request.renews, &self.known) else { return };
        // Whatever came of it, the next renewal is due when it is due.
        let hold = self.holds.iter_mut().find(|hold| hold.id == *id);
        if let Some((own, wish)) = hold.and_then(|hold| hold.own.as_mut().map(|own| (own, &hold.wish))) {
            own.renew_at = wish.renewal.then(|| request.sent + renew_interval(*duration));
        }
        let Some(holder) = record.holding(id).filter(|holder| matches!(holder.liveness, Liveness::Own(_))) else {
            return;
        };
        let tenancy = record.tenancy_of(holder);
        let own = |renewal: bool| OwnTerm {
            duration: *duration,
            deadline: deadline(request.sent, *duration, self.grace),
            renew_at: renewal.then(|| request.sent + renew_interval(*duration)),
        };
        if let Some(turn) = self.turn.take_if(|turn| turn.id == *id && turn.stage != Stage::Waiting) {
            let own = own(turn.wish.renewal);
            self.hold(turn, Some(own), now);
            return;
        }
        let hold = self.holds.iter_mut().find(|hold| hold.id == *id && !hold.lost);
        let Some((hold, before)) = hold.and_then(|hold| hold.own.map(|own| (hold, own))) else { return };
        // An answer that comes after the deadline changes nothing: lost is for good.
        if now < before.deadline {
            let own = own(hold.wish.renewal);
            (hold.own, hold.tenancy) = (Some(own), tenancy);
            self.notices.push_back(Notice::Renewed { id: id.clone(), deadline: own.deadline });
        }
    }

    /// The lock is held, and the user is told.
    fn hold(&mut self, turn: Turn, own: Option<OwnTerm>, now: Moment) {
        let Known::Present(record) = &self.known else { return };
        let Some(holder) = record.holding(&turn.id) else { return };
        // Where the Lease tells no token, this client made it, and nobody can have had a larger one before.
        let token = holder.token.unwrap_or(record.version.0);
        let tenancy = record.tenancy_of(holder);
        self.refusals = 0;
        let since = turn.held_since.unwrap_or(now);
        let allowed_until = record.policy.max_hold.map(|most| super::super::deadline(since, most, self.grace));
        let deadline = own.map(|own| own.deadline);
        self.notices.push_back(Notice::Acquired { id: turn.id.clone(), token, deadline, allowed_until });
        self.holds.push(Hold {
            id: turn.id,
            wish: turn.wish,
            token,
            tenancy,
            own,
            change: None,
            payload: None,
            request: None,
            lost: false,
        });
    }

    fn refuse(&mut self, why: Refusal) {
        if let Some(turn) = self.turn.take() {
            self.notices.push_back(Notice::Refused { id: turn.id, why });
        }
    }

    /// Moves on to where what is known, and the time, say.
    pub(super) fn advance(&mut self, now: Moment) {
        self.stuck = self.is_stuck(now);
        if self.relies_on_watch && !(self.sees_all || (self.watched && self.turn.is_none())) {
            self.relies_on_watch = false;
            self.read_at = self.read_at.min(now + renew_interval(self.session_duration));
        }
        if let Known::Present(record) = &self.known {
            self.vacant = self.is_vacant(record, now);
        }
        if let Some(turn) = self.turn.take() {
            self.turn = self.advance_turn(turn, now);
        }
        self.settle_down(now);
        self.advance_holds(now);
        self.advance_exits();
    }

    /// What becomes of a turn. `None`: it is over, one way or another.
    fn advance_turn(&mut self, mut turn: Turn, now: Moment) -> Option<Turn> {
        let (held, queued) = match &self.known {
            Known::Present(record) => (record.is_held_by(&turn.id), record.position(&turn.id).is_some()),
            Known::Absent => (false, false),
            Known::Unknown if turn.stage == Stage::Seeking => (false, false),
            Known::Unknown => return Some(turn),
        };
        if held {
            turn.held_since.get_or_insert(now);
        }
        if held && self.own_duration(&turn).is_some() {
            turn.stage = Stage::Confirming;
        } else if held {
            self.hold(turn, None, now);
            return None;
        } else if queued {
            if let Some(why) = self.is_sent_away(&turn) {
                self.notices.push_back(Notice::Refused { id: turn.id.clone(), why });
                self.exits.push(Exit { id: turn.id, lost: false, ours: true, keep: None });
                return None;
            }
            turn.stage = Stage::Waiting;
        } else {
            if turn.stage != Stage::Seeking {
                // Its place is gone: the Lease was removed, or somebody removed its key. It queues up again, if it can.
                turn =
                    Turn { stage: Stage::Seeking, started: now, fresh: true, held_since: None, quiet: false, ..turn };
            }
            if let Some(why) = self.is_refused(&turn, now) {
                self.notices.push_back(Notice::Refused { id: turn.id, why });
                return None;
            }
        }
        Some(turn)
    }

    fn advance_holds(&mut self, now: Moment) {
        let known = &self.known;
        for hold in self.holds.iter_mut().filter(|hold| !hold.lost) {
            let record = match known {
                Known::Present(record) => Some(record),
                _ => None,
            };
            let holder = record.and_then(|record| record.holding(&hold.id).map(|holder| (record, holder)));
            // Who shares it is told apart by its key: that is never written twice.
            let ours = holder.is_some_and(|(record, holder)| {
                let tenancy = record.tenancy_of(holder);
                tenancy == hold.tenancy || (record.kind != Kind::Lock && tenancy.uid == hold.tenancy.uid)
            });
            let loss = match known {
                _ if hold.own.is_some_and(|own| now >= own.deadline) => Some(Loss::Expired),
                Known::Unknown => None,
                Known::Absent | Known::Present(_) => (!ours).then_some(Loss::Broken),
            };
            if let Some(loss) = loss {
                hold.lost = true;
                self.notices.push_back(Notice::Lost { id: hold.id.clone(), loss });
                continue;
            }
            let Some((record, holder)) = holder else { continue };
            if hold.request != holder.request {
                hold.request.clone_from(&holder.request);
                self.notices.push_back(Notice::Requested { id: hold.id.clone(), request: hold.request.clone() });
            }
            let outcome = match &hold.payload {
                Some(payload) if holder.shows(&payload.text) => payload.awaited.then_some(Ok(())),
                Some(payload) if !has_room(record, holder, &payload.text) => {
                    Some(Err("there is no room for it beside all who hold this or wait for it".to_owned()))
                }
                _ => None,
            };
            if let Some(outcome) = outcome {
                hold.payload = hold.payload.take().filter(|_| outcome.is_ok());
                hold.payload.iter_mut().for_each(|payload| payload.awaited = false);
                self.notices.push_back(Notice::Published { id: hold.id.clone(), outcome });
            }
            if let Some(mode) = hold.change
                && holder.mode == mode
                && record.upgrading.as_ref() != Some(&hold.id)
            {
                hold.change = None;
                hold.wish.mode = mode;
                // Where the Lease tells none, it is the one that this client was told when it made it.
                hold.token = holder.token.unwrap_or(hold.token);
                self.notices.push_back(Notice::Changed { id: hold.id.clone(), mode, token: hold.token });
            }
        }
    }

    fn advance_exits(&mut self) {
        let record = match &self.known {
            Known::Unknown => return,
            Known::Absent => None,
            Known::Present(record) => Some(record),
        };
        let gone = |id: &HolderId| record.is_none_or(|record| !record.is_held_by(id) && record.position(id).is_none());
        let kept = |id: &HolderId| {
            record.is_some_and(|record| record.holders().any(|holder| holder.kept && holder.id.as_ref() == Some(id)))
        };
        for exit in self.exits.extract_if(.., |exit| gone(&exit.id)) {
            // What was to stay stands there, or it is not known that it ever did.
            let ours = if exit.keep.is_some() { kept(&exit.id) } else { exit.ours };
            self.notices.push_back(Notice::Left { clean: ours && !exit.lost, id: exit.id });
        }
    }
}

/// Whether this text finds room beside a hold. One that is no longer than what stands there always does.
fn has_room(record: &Record, holder: &Holder, text: &str) -> bool {
    let before = holder.payload.as_ref().map_or(0, String::len);
    text.len() <= before || record.bytes_to_come() + text.len() - before <= FULL_BYTES
}

impl InFlight {
    /// It was sent since this turn began, and not to give up something.
    fn of_turn(&self, turn: &Turn) -> bool {
        self.sent >= turn.started && self.leaving.is_none()
    }
}
