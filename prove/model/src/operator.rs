//! The operator's warden for one lock: it observes every session, and takes off the lock who has ended.
//!
//! The deciding is the warden's (`src/warden/decide.rs`), said again over the protocol's own observers and writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use leasehold::protocol::observer::Verdict;
use leasehold::protocol::record::Tenancy;
use leasehold::protocol::write::shared;
use leasehold::protocol::{
    Holder, HolderId, Kind, Liveness, Moment, Record, SessionId, Version, Waiter, Write, grant, write,
};

use super::client::{At, Slot};
use super::eyes::{Call, Eyes};
use super::wire::{Place, Reply, Server, Stored, What};

const LEFTOVER: Duration = Duration::from_secs(5);
const STUCK: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Operator {
    known: Option<Arc<Stored>>,
    /// To be read anew.
    doubtful: bool,
    /// What its watch of the lock has shown last. Events in between are shown as one.
    shown: Version,
    /// Since when nobody has used it, or there has been room for this one.
    free_since: Option<(Tenancy, Option<HolderId>, Moment)>,
    own: Option<(Version, Duration, Moment)>,
    retry_at: Moment,
    pub(super) call: Option<Call>,
    pub(super) eyes: Eyes,
    pub(super) wake: Option<Moment>,
}

impl Operator {
    /// Its watch shows that a session is there.
    pub(super) fn meet(&mut self, session: &SessionId, now: Moment) {
        let mut all: BTreeSet<_> = self.eyes.open.keys().cloned().collect();
        if all.insert(session.clone()) {
            self.eyes.observe(&all);
            self.wake = Some(now);
        }
    }

    pub(super) fn has_met(&self, session: &SessionId) -> bool {
        self.eyes.open.contains_key(session)
    }

    pub(super) fn has_news(&self, server: &Server) -> bool {
        self.call.is_none() && server.version(&Place::Lock) > self.shown
    }

    /// Its watch of the lock shows what there is.
    pub(super) fn show(&mut self, server: &Server, now: Moment) {
        self.wake = Some(now);
        self.shown = server.version(&Place::Lock);
        match server.get(&Place::Lock) {
            Some(stored) => self.take(stored, now),
            None => self.known = None,
        }
    }

    fn take(&mut self, stored: &Arc<Stored>, now: Moment) {
        self.doubtful = false;
        let Some(record) = stored.lock() else { return };
        if self.known.as_ref().is_some_and(|known| known.version >= stored.version) {
            return;
        }
        let free = idle(record);
        let known = self.free_since.as_ref().map(|(tenancy, head, _)| (tenancy, head));
        if known != free.as_ref().map(|(tenancy, head)| (tenancy, head)) {
            self.free_since = free.map(|(tenancy, head)| (tenancy, head, now));
        }
        let before = self.known.as_ref().and_then(|known| known.lock());
        let same = before.is_some_and(|before| before.holder == record.holder && before.tenancy() == record.tenancy());
        if !same {
            self.own = match record.holder.as_ref().map(|holder| &holder.liveness) {
                Some(Liveness::Own(duration)) => Some((record.version, *duration, now)),
                _ => None,
            };
        }
        for id in record.ids() {
            self.meet(&id.session, now);
        }
        self.known = Some(stored.clone());
    }

    pub(super) fn answer(&mut self, slot: &Slot, reply: Option<&Reply>, now: Moment) {
        self.wake = Some(now);
        match (slot, reply) {
            (Slot::Heart(_), _) => {}
            (Slot::Eye(session), _) => self.eyes.answer(session, reply, now),
            (Slot::Lock, Some(Reply::Is(stored))) => {
                self.call = None;
                self.take(&stored.clone(), now);
            }
            (Slot::Lock, Some(Reply::Removed | Reply::Absent)) => {
                (self.call, self.known, self.doubtful) = (None, None, false);
            }
            (Slot::Lock, reply) => {
                if reply.is_none() {
                    self.retry_at = now + PAUSE;
                }
                (self.call, self.doubtful) = (None, true);
            }
        }
    }

    /// Does all that is due now.
    pub(super) fn step(&mut self, at: &At<'_>) {
        let now = at.now.moment;
        self.eyes.look(now, at.real, "operator");
        let retry = Some(self.retry_at).filter(|then| now < *then);
        if self.call.is_none() && retry.is_none() {
            let what = match self.known.as_ref().and_then(|known| known.lock()) {
                Some(_) if self.doubtful => Some(What::Read),
                Some(record) if record.kind == Kind::Lock => self.decide(record, at).map(What::Write),
                Some(record) => self.decide_shared(record, at).map(What::Write),
                None => None,
            };
            self.call = what.map(|what| Call::new(Place::Lock, what, at.real));
        }
        let free = self.free_since.as_ref().map(|(_, _, since)| *since);
        let due = [free.map(|since| since + STUCK), free.map(|since| since + LEFTOVER)];
        let own = self.own.map(|(_, duration, since)| since + duration);
        let later = due.into_iter().chain([own]).flatten().filter(|then| *then > now);
        self.wake = later.chain(self.eyes.wake_at()).chain(retry).min();
    }

    fn decide(&self, record: &Record, at: &At<'_>) -> Option<Write> {
        let now = at.now.moment;
        let (ended, live): (Vec<&Waiter>, Vec<&Waiter>) =
            record.waiters.iter().partition(|waiter| self.eyes.verdict(&waiter.id.session) == Verdict::Ended);
        let next = live.first();
        if next.is_some_and(|next| self.eyes.verdict(&next.id.session) == Verdict::Unknown) {
            return None;
        }
        let free_for = self.free_since.as_ref().map_or(Duration::ZERO, |(_, _, since)| now.since(*since));
        let gone = match record.holder.as_ref().map(|holder| &holder.liveness) {
            None => None,
            Some(Liveness::Session(session)) => Some(self.eyes.verdict(session) == Verdict::Ended),
            Some(Liveness::Own(_)) => {
                let expired = self.own.is_some_and(|(_, duration, since)| now >= since + duration);
                Some(expired && (next.is_some() || record.ephemeral))
            }
        };
        match (gone, next) {
            (Some(true), Some(next)) => Some(write::grant(record, &next.id, &ended, at.now.stamp)),
            (Some(true), None) => Some(write::release(record, &ended, false)),
            (None, Some(next)) if free_for >= STUCK => Some(write::grant(record, &next.id, &ended, at.now.stamp)),
            (None, None) if record.ephemeral && free_for >= LEFTOVER => Some(write::release(record, &ended, false)),
            _ if !ended.is_empty() => Some(write::pass_over(record, &ended)),
            _ => None,
        }
    }

    /// Of those that live by their sessions, which all do here.
    fn decide_shared(&self, record: &Record, at: &At<'_>) -> Option<Write> {
        let ended = |session: &SessionId| self.eyes.verdict(session) == Verdict::Ended;
        let is_dead = |holder: &Holder| matches!(&holder.liveness, Liveness::Session(session) if ended(session));
        let round = grant::round(record, is_dead, |waiter| ended(&waiter.id.session));
        if round.served.iter().any(|waiter| self.eyes.verdict(&waiter.id.session) == Verdict::Unknown) {
            return None;
        }
        let free_for = self.free_since.as_ref().map_or(Duration::ZERO, |(_, _, since)| at.now.moment.since(*since));
        let unused = record.shared.len() == round.dead.len() && record.waiters.len() == round.passed_over.len();
        let removable = record.ephemeral && unused;
        let anybody_ended = !round.dead.is_empty() || !round.passed_over.is_empty();
        match round.served.is_empty() {
            true if removable && !round.dead.is_empty() => Some(shared::remove(record)),
            true if anybody_ended => Some(shared::remove_dead(record, &round)),
            true if removable && free_for >= LEFTOVER => Some(shared::remove(record)),
            false if anybody_ended || free_for >= STUCK => Some(shared::grant(record, &round, at.now.stamp)),
            _ => None,
        }
    }
}

/// The tenancy in which nobody uses it, or in which there is room for this waiter.
fn idle(record: &Record) -> Option<(Tenancy, Option<HolderId>)> {
    let tenancy = record.tenancy();
    if record.kind == Kind::Lock {
        return record.holder.is_none().then_some((tenancy, None));
    }
    let round = grant::round(record, |_| false, |_| false);
    let head = round.served.first().map(|waiter| waiter.id.clone());
    let unused = !record.is_held() && record.waiters.is_empty();
    (unused || head.is_some()).then_some((tenancy, head))
}
