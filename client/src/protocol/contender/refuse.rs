//! Why an acquisition is not to go on.

use super::super::record::CROWDED_BYTES;
use super::super::{Kind, Liveness, Mode, Moment, leaves_time_to_renew};
use super::{Contender, Denial, Known, Refusal, Turn};

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
        if turn.wish.queue || !turn.fresh {
            return None;
        }
        let Known::Present(record) = &self.known else { return None };
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
        match &self.known {
            Known::Present(record) if record.bytes_to_come() >= CROWDED_BYTES => {
                Some(Refusal::Full { holders: record.holders().count(), waiters: record.waiters.len() })
            }
            _ => None,
        }
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
