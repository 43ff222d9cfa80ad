//! What may happen to the Lease of a semaphore or a read-write lock.

use std::collections::BTreeMap;
use std::time::Duration;

use leasehold::protocol::{Holder, HolderId, Kind, Liveness, Mode, Record, grant, write};

use super::Change;

impl Change<'_> {
    /// The first rule that it breaks.
    pub(super) fn judge_shared(&self) -> Result<(), String> {
        match (&self.before, &self.after) {
            (None, Some(after)) => self.who_makes_it_is_alone(after),
            (Some(before), None) => self.only_what_nobody_needs_is_removed(before),
            (Some(before), Some(after)) => self.judge_between(before, after),
            (None, None) => Ok(()),
        }
    }

    fn judge_between(&self, before: &Record, after: &Record) -> Result<(), String> {
        if before.uid != after.uid || before.kind != after.kind || before.capacity != after.capacity {
            return Err("a Lease changed its uid, its kind or its permits".to_owned());
        }
        self.a_living_holder_is_removed_by_itself_alone(before, after)?;
        self.nobody_changes_what_another_holds(before, after)?;
        self.never_is_more_held_than_there_is(before, after)?;
        self.nobody_is_let_in_while_somebody_waits_to_become_the_writer(before, after)?;
        self.nobody_is_overtaken(before, after)?;
        self.nobody_else_removes_a_living_waiter()?;
        self.a_ticket_is_written_once()?;
        self.who_is_let_in_gets_what_it_wanted(before, after)?;
        self.admissions_are_told_apart_and_tokens_grow(before, after)
    }

    /// Who holds something now and did not, or more than it did.
    fn admitted<'a>(before: &Record, after: &'a Record) -> Vec<&'a Holder> {
        // Who can become the writer has more than any other reader.
        let rank = |holder: &Holder| (holder.mode.permits(after.capacity), holder.mode == Mode::Upgradeable);
        let admitted = |holder: &&Holder| {
            let had = before.shared.iter().find(|had| had.identity == holder.identity);
            had.is_none_or(|had| rank(had) < rank(holder))
        };
        after.shared.iter().filter(admitted).collect()
    }

    fn who_makes_it_is_alone(&self, after: &Record) -> Result<(), String> {
        let [holder] = after.shared.as_slice() else { return Err("it was made for several".to_owned()) };
        let ours = holder.id.as_ref().is_some_and(|id| self.author.is(&id.session));
        if !ours || !after.ephemeral || !after.waiters.is_empty() || after.held_permits() > after.capacity {
            return Err(format!("{} made it as it may not be", holder.identity));
        }
        Ok(())
    }

    fn only_what_nobody_needs_is_removed(&self, before: &Record) -> Result<(), String> {
        if !before.ephemeral {
            return Err("a Lease was removed that was not made on the spot".to_owned());
        }
        // Whether a term has passed only a clock can tell: that is seen by the guards.
        let by_session = before.shared.iter().filter(|holder| matches!(holder.liveness, Liveness::Session(_)));
        let ids =
            by_session.filter_map(|holder| holder.id.as_ref()).chain(before.waiters.iter().map(|waiter| &waiter.id));
        match ids.into_iter().find(|id| !self.author.is(&id.session) && (self.alive)(&id.session)) {
            Some(id) => Err(format!("it was removed though {id} lives")),
            None => Ok(()),
        }
    }

    fn a_living_holder_is_removed_by_itself_alone(&self, before: &Record, after: &Record) -> Result<(), String> {
        for holder in before.shared.iter().filter(|holder| !after.shared.iter().any(|now| now.id == holder.id)) {
            // Whether a term has passed only a clock can tell: that is seen by the guards.
            let Liveness::Session(session) = &holder.liveness else { continue };
            if !self.author.is(session) && (self.alive)(session) {
                return Err(format!("{} was evicted though its session has not been ended", holder.identity));
            }
        }
        Ok(())
    }

    fn nobody_changes_what_another_holds(&self, before: &Record, after: &Record) -> Result<(), String> {
        for holder in &before.shared {
            let Some(now) = after.shared.iter().find(|now| now.id == holder.id) else { continue };
            let asks = |record: &Record| record.upgrading == holder.id;
            // Anybody may ask a holder to let go, and that changes nothing.
            let now = Holder { request: holder.request.clone(), ..now.clone() };
            let same = now == *holder && asks(before) == asks(after);
            if !same && !holder.id.as_ref().is_some_and(|id| self.author.is(&id.session)) {
                return Err(format!("what {} holds was changed", holder.identity));
            }
        }
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "a rule as the others")]
    fn never_is_more_held_than_there_is(&self, before: &Record, after: &Record) -> Result<(), String> {
        let (held, capacity) = (after.held_permits(), after.capacity);
        if held > capacity && !Self::admitted(before, after).is_empty() {
            return Err(format!("{held} permits are held, and there are {capacity}"));
        }
        let count = |mode| after.shared.iter().filter(|holder| holder.mode == mode).count();
        if count(Mode::Write) > 0 && after.shared.len() > 1 {
            return Err("a writer is not alone".to_owned());
        }
        if count(Mode::Upgradeable) > 1 {
            return Err("two readers can become the writer".to_owned());
        }
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "a rule as the others")]
    fn nobody_is_let_in_while_somebody_waits_to_become_the_writer(
        &self,
        before: &Record,
        after: &Record,
    ) -> Result<(), String> {
        let stays = |id: &&HolderId| after.is_held_by(id);
        let Some(upgrading) = before.upgrading.as_ref().filter(stays) else { return Ok(()) };
        match Self::admitted(before, after).iter().find(|holder| holder.id.as_ref() != Some(upgrading)) {
            Some(holder) => Err(format!("{} was let in while {upgrading} waits to be alone", holder.identity)),
            None => Ok(()),
        }
    }

    fn nobody_is_overtaken(&self, before: &Record, after: &Record) -> Result<(), String> {
        for holder in after.shared.iter().filter(|holder| !before.shared.iter().any(|had| had.id == holder.id)) {
            let ahead = before.waiters.iter().take_while(|waiter| Some(&waiter.id) != holder.id.as_ref());
            let mut stay = ahead.filter(|waiter| !after.is_held_by(&waiter.id));
            if let Some(waiter) = stay.find(|waiter| (self.alive)(&waiter.id.session)) {
                return Err(format!("{} overtook {}, who lives and joined before", holder.identity, waiter.id));
            }
        }
        Ok(())
    }

    fn who_is_let_in_gets_what_it_wanted(&self, before: &Record, after: &Record) -> Result<(), String> {
        for waiter in &before.waiters {
            if after.waiters.iter().any(|now| now.id == waiter.id && now.want != waiter.want) {
                return Err(format!("{} wants something else than before", waiter.id));
            }
        }
        for holder in Self::admitted(before, after) {
            let Some(id) = &holder.id else { continue };
            let own = match holder.liveness {
                Liveness::Own(duration) => Some(duration),
                Liveness::Session(_) => None,
            };
            let wanted = before.waiters.iter().find(|waiter| waiter.id == *id);
            if wanted.is_some_and(|waiter| waiter.want.mode != holder.mode || waiter.want.own != own) {
                return Err(format!("{id} got something else than it wanted"));
            }
            if wanted.is_none() && !self.author.is(&id.session) {
                return Err(format!("{id} was let in though it does not wait"));
            }
        }
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "a rule as the others")]
    fn admissions_are_told_apart_and_tokens_grow(&self, before: &Record, after: &Record) -> Result<(), String> {
        let admitted = Self::admitted(before, after);
        if admitted.is_empty() {
            return Ok(());
        }
        if after.transitions != write::next_transition(before.transitions) {
            return Err("somebody was let in without a new tenancy".to_owned());
        }
        let identity = after.lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if identity != Some(after.kind.name()) {
            return Err(format!("the holder's name is {identity:?}"));
        }
        match admitted.iter().find(|holder| holder.token != Some(before.version.0 + 1)) {
            Some(holder) => Err(format!("token {:?} of {} is not new", holder.token, holder.identity)),
            None => Ok(()),
        }
    }
}

/// Since when the first in each queue could have been let in.
#[derive(Debug, Default)]
pub(in super::super) struct Heads(BTreeMap<String, (HolderId, Duration)>);

impl Heads {
    /// How long somebody who waits no more could have been let in, at this time.
    pub(in super::super) fn saw(&mut self, name: &str, record: Option<&Record>, now: Duration) -> Option<Duration> {
        let round = record.filter(|record| record.kind != Kind::Lock);
        let round = round.map(|record| grant::round(record, |_| false, |_| false));
        let head = round.and_then(|round| round.served.first().map(|waiter| waiter.id.clone()));
        let before = self.0.get(name).filter(|(id, _)| Some(id) != head.as_ref()).map(|(_, since)| *since);
        match head {
            None => drop(self.0.remove(name)),
            Some(head) if before.is_some() => drop(self.0.insert(name.to_owned(), (head, now))),
            Some(head) => drop(self.0.entry(name.to_owned()).or_insert((head, now))),
        }
        before.map(|since| now.saturating_sub(since))
    }
}
