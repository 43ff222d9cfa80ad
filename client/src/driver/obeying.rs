//! What a driver is asked to do.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{Driver, Engaged};
use crate::clock;
use crate::error::LossReason;
use crate::protocol::{HolderId, Moment};
use crate::slot::{Command, GuardId, rest};

impl Driver {
    pub(super) fn obey(&mut self, command: Command) {
        self.take_back();
        let now = clock::moment();
        match command {
            // Whoever asked hears that nobody answers.
            Command::Acquire(_) if self.is_shut_down => {}
            Command::Acquire(order) => self.take_on(order),
            Command::Release(guard, keep, reply) => self.release(guard, keep, reply),
            Command::Renew(guard, done) => {
                let Some(id) = self.id_of(guard) else { return };
                self.contender.renew_now(&id, now);
                self.renewals.push((id, done));
            }
            Command::Change(guard, mode, done) => {
                let Some(id) = self.id_of(guard) else { return };
                self.contender.change(&id, mode);
                self.changes.retain(|(other, ..)| *other != id);
                self.changes.push((id, mode, done));
            }
            Command::Publish(guard, text, done) => {
                let Some(id) = self.id_of(guard) else { return };
                // Whoever asked before hears that it was not to be.
                self.publications.retain(|(other, _)| *other != id);
                if self.contender.publish(&id, text) {
                    self.publications.push((id, done));
                }
            }
            Command::Stay(guard, until) => {
                let engaged = self.engaged.iter_mut().filter(|engaged| engaged.guard == guard);
                engaged.for_each(|engaged| engaged.stay_until = Some(until));
            }
            Command::Report(id, holds) => self.contender.report(&id, holds),
            Command::WatchForLoss(guard) => {
                let engaged = self.engaged.iter_mut().filter(|engaged| engaged.guard == guard);
                engaged.for_each(|engaged| engaged.watch_for_loss = true);
            }
            Command::EndRests => self.give_all_back(),
            Command::ShutDown(done) => {
                self.is_shut_down = true;
                self.shut_down.push(done);
                self.next = None;
                for engaged in &mut self.engaged {
                    engaged.reply = None;
                    engaged.validity.as_ref().inspect(|validity| validity.lose(LossReason::Released));
                }
                let stays =
                    self.engaged.iter().filter_map(|engaged| Some((engaged.id.clone(), rest(engaged.stay_until)?)));
                for (id, rest) in stays.collect::<Vec<_>>() {
                    self.leave(&id, Some(rest));
                }
                self.contender.leave_all();
            }
        }
    }

    /// The hold that this guard has, if it has it still. Where it has not, whoever asks hears nothing.
    fn id_of(&self, guard: GuardId) -> Option<HolderId> {
        let has = |engaged: &&Engaged| engaged.guard == guard && !engaged.lending.rests();
        self.engaged.iter().find(has).map(|engaged| engaged.id.clone())
    }

    /// This guard is given back.
    fn release(&mut self, guard: GuardId, keep: Option<Duration>, reply: Option<oneshot::Sender<bool>>) {
        let has = |engaged: &Engaged| engaged.guard == guard && !engaged.lending.rests();
        let Some(at) = self.engaged.iter().position(has) else {
            reply.map(|reply| reply.send(false));
            return;
        };
        match reply {
            Some(reply) if keep.is_none() && self.rests(at) => {
                self.engaged[at].course.over();
                let _ = reply.send(true);
                self.pass_on(at);
            }
            reply => {
                self.engaged[at].course.leaving();
                let id = self.engaged[at].id.clone();
                self.releases.extend(reply.map(|reply| (id.clone(), reply)));
                self.leave(&id, keep);
            }
        }
    }

    pub(super) fn leave(&mut self, id: &HolderId, keep: Option<Duration>) {
        let allowed = self.engaged.iter().find(|engaged| engaged.id == *id).and_then(|engaged| engaged.allowed_until);
        let left = allowed.map_or(Duration::MAX, |allowed| allowed.since(clock::moment()));
        match keep.map(|duration| duration.min(left)).filter(|duration| !duration.is_zero()) {
            Some(duration) => self.contender.keep(id, duration),
            None => self.contender.leave(id),
        }
    }

    /// Ends what has been held for as long as it may be, gives it back when there was time to stop what runs under it, and
    /// says when there is more of it.
    pub(super) fn end_what_is_held_too_long(&mut self) -> Option<Moment> {
        let (now, grace) = (clock::moment(), self.shared.grace);
        let mut next = Vec::new();
        for engaged in &mut self.engaged {
            let Some(until) = engaged.at_most_until else { continue };
            if now >= until {
                engaged.validity.as_ref().inspect(|validity| validity.lose(LossReason::HeldTooLong));
            }
            if now >= until + grace {
                engaged.at_most_until = None;
                self.contender.leave(&engaged.id);
            } else {
                next.push(if now >= until { until + grace } else { until });
            }
        }
        next.into_iter().min()
    }
}
