//! Why an acquisition is not to go on.

use super::super::record::CROWDED_BYTES;
use super::super::{Kind, Liveness, Mode, Moment, Record, Waiter, leaves_time_to_renew};
use super::{Contender, Denial, Known, Refusal, Stage, Turn};
use std::time::Duration;

impl Contender {
    /// Why an acquisition that has no place in the queue yet is not to go on.
    pub(super) fn is_refused(&self, turn: &Turn, now: Moment) -> Option<Refusal> {
        let invalid = |why: String| Some(Refusal::Denied(Denial::Invalid, why));
        if let Some(own) = self.own_duration(turn).filter(|own| *own <= self.grace) {
            let grace = self.grace;
            return invalid(format!("its lease duration, {own:?}, is not longer than this client's grace, {grace:?}"));
        }
        let own = self.own_duration(turn).filter(|_| turn.wish.renewal);
        if let Some(own) = own.filter(|own| !leaves_time_to_renew(*own, self.grace)) {
            let grace = self.grace;
            return invalid(format!(
                "its lease duration, {own:?}, leaves no time to renew with this client's grace, {grace:?}"
            ));
        }
        if let Some(obstacle) = self.obstacle(turn).filter(|_| turn.fresh) {
            return Some(obstacle);
        }
        let too_late = now >= turn.started + turn.wish.patience;
        if too_late && !turn.fresh {
            return Some(Refusal::Unavailable(self.last_failure.clone()));
        }
        let Known::Present(record) = &self.known else { return None };
        let crowd = self.crowd(turn, record, &record.waiters).filter(|_| turn.wish.queue);
        if !turn.fresh || (turn.wish.queue && crowd.is_none()) {
            return None;
        }
        if let Some((waiters, limit)) = crowd {
            // They may all be dead.
            let ways = self.sessions_in_the_way(record, &turn.id.session);
            let awaited = ways.iter().any(|session| !self.verdicts.contains_key(session));
            let go_on = self.takeable(record, turn, now).is_some() || (awaited && !too_late);
            let holders = record.holders().count();
            return (!go_on).then_some(Refusal::Full { holders, waiters, limit: Some(limit) });
        }
        let awaited = record.holder.as_ref().is_some_and(
            |holder| matches!(&holder.liveness, Liveness::Session(session) if !self.verdicts.contains_key(session)),
        );
        if self.takeable(record, turn, now).is_some() || (awaited && !too_late) {
            return None;
        }
        let holder = record.holders().next().map(|holder| holder.identity.clone()).unwrap_or_default();
        Some(Refusal::Held { holder })
    }

    /// Why this cannot be had here, as far as is known. What was known before the turn began may be out of date.
    pub(super) fn obstacle(&self, turn: &Turn) -> Option<Refusal> {
        if let Some(why) = self.is_misfit(turn) {
            return Some(Refusal::Denied(Denial::Invalid, why));
        }
        let Known::Present(record) = &self.known else { return None };
        if record.bytes_to_come() >= CROWDED_BYTES {
            let (holders, waiters) = (record.holders().count(), record.waiters.len());
            return Some(Refusal::Full { holders, waiters, limit: None });
        }
        if let Some(most) = record.policy.max_hold.filter(|most| *most <= self.grace) {
            let grace = self.grace;
            let why = format!(
                "its custom resource lets nobody hold it for longer than {most:?}, which is not longer than this client's \
                 grace, {grace:?}"
            );
            return Some(Refusal::Denied(Denial::Invalid, why));
        }
        let out_of_bounds = |asked: &Duration| record.policy.nearest(*asked) != *asked;
        turn.wish.own_duration.filter(out_of_bounds).map(|asked| {
            let allowed = record.policy.durations();
            Refusal::Denied(
                Denial::Invalid,
                format!(
                    "a lease duration of {asked:?} is asked for, but its custom resource allows {allowed}: set lease_duration \
                     to one of these, or leave it out"
                ),
            )
        })
    }

    /// Why a place in the queue, just found or taken before, is to be given up.
    pub(super) fn is_sent_away(&self, turn: &Turn) -> Option<Refusal> {
        // It would never be let in, and nobody behind it.
        if let Some(why) = self.is_too_much(turn) {
            return Some(Refusal::Denied(Denial::Invalid, why));
        }
        let Known::Present(record) = &self.known else { return None };
        let position = record.position(&turn.id)?;
        if let Some(circle) = &record.waiters[position].told_to_give_up {
            return Some(Refusal::Deadlock(circle.clone()));
        }
        // Whoever has waited before stays, also if fewer may wait by now.
        let joined = turn.stage == Stage::Seeking;
        let (waiters, limit) = self.crowd(turn, record, &record.waiters[..position]).filter(|_| joined)?;
        Some(Refusal::Full { holders: record.holders().count(), waiters, limit: Some(limit) })
    }

    /// How many of these wait, and how many may, where there is no room for one more. This client does not count, nor
    /// whose sessions are known to have ended: whoever is let in next passes them over.
    pub(super) fn crowd(&self, turn: &Turn, record: &Record, waiters: &[Waiter]) -> Option<(usize, u32)> {
        let limit = record.policy.max_waiters?;
        let counts = |waiter: &&Waiter| waiter.id.session != turn.id.session && !self.has_ended(&waiter.id.session);
        let waits = waiters.iter().filter(counts).count();
        (waits >= usize::try_from(limit).unwrap_or(usize::MAX)).then_some((waits, limit))
    }

    /// Why what is wanted is not what the Lease is for.
    fn is_misfit(&self, turn: &Turn) -> Option<String> {
        let wish = &turn.wish;
        let name = wish.resource_id.as_deref().unwrap_or(&self.name);
        match &self.known {
            Known::Absent if wish.kind == Kind::Semaphore && wish.permits.is_none() => Some(format!(
                "there is no semaphore {name:?}: create the custom resource, or say how many permits it has"
            )),
            Known::Unknown => None,
            Known::Absent => self.is_too_much(turn),
            Known::Present(record) if record.is_of_another(name).is_some() => record.is_of_another(name),
            Known::Present(record) if record.kind != wish.kind => {
                Some(format!("{name:?} is a {}, not a {}", record.kind.name(), wish.kind.name()))
            }
            Known::Present(record) => match wish.permits {
                Some(said) if said != record.capacity => Some(format!(
                    "this client says that the semaphore {name:?} has {said} permits, but it has {}",
                    record.capacity
                )),
                _ => self.is_too_much(turn),
            },
        }
    }

    /// Why as many permits as are wanted can never be had. A semaphore without any is only closed for a while.
    pub(super) fn is_too_much(&self, turn: &Turn) -> Option<String> {
        let there_are = match &self.known {
            Known::Unknown => return None,
            // Whoever makes it says so.
            Known::Absent => turn.wish.permits?,
            Known::Present(record) => record.capacity,
        };
        match turn.wish.mode {
            Mode::Permits(wanted) if wanted > there_are && there_are > 0 => {
                let name = turn.wish.resource_id.as_deref().unwrap_or(&self.name);
                Some(format!("{wanted} permits of {name:?} are wanted, but there are {there_are}"))
            }
            _ => None,
        }
    }
}
