//! What a driver is asked to do.

use std::time::Duration;

use tokio::sync::watch;

use super::{Driver, Engaged};
use crate::clock;
use crate::error::LossReason;
use crate::protocol::{HolderId, Kind, Moment};
use crate::slot::{Command, Order, rest};

impl Driver {
    pub(super) fn obey(&mut self, command: Command) {
        let now = clock::moment();
        match command {
            // Whoever asked hears that nobody answers.
            Command::Acquire(_) if self.is_shut_down => {}
            Command::Acquire(order) => {
                let Order { id, slot, session, wish, stay, reply, turn, ahead, course } = *order;
                let shared = wish.kind != Kind::Lock;
                self.contender.start(id.clone(), wish, now);
                self.engaged.push(Engaged {
                    id,
                    slot: Some(slot),
                    session: Some(session),
                    session_over: false,
                    reply: Some(reply),
                    validity: None,
                    deadline: None,
                    watch_for_loss: false,
                    shared,
                    stay,
                    stay_until: None,
                    at_most_until: None,
                    allowed_until: None,
                    ahead,
                    request: watch::Sender::default(),
                    turn: Some(turn),
                    course,
                });
            }
            Command::Release(id, keep, reply) if self.contender.has(&id) => {
                self.releases.extend(reply.map(|reply| (id.clone(), reply)));
                self.engaged.iter_mut().filter(|engaged| engaged.id == id).for_each(|engaged| engaged.course.leaving());
                self.leave(&id, keep);
            }
            Command::Renew(id, done) if self.contender.has(&id) => {
                self.contender.renew_now(&id, now);
                self.renewals.push((id, done));
            }
            Command::Change(id, mode, done) if self.contender.has(&id) => {
                self.contender.change(&id, mode);
                self.changes.retain(|(other, ..)| *other != id);
                self.changes.push((id, mode, done));
            }
            Command::Publish(id, text, done) if self.contender.has(&id) => {
                // Whoever asked before hears that it was not to be.
                self.publications.retain(|(other, _)| *other != id);
                if self.contender.publish(&id, text) {
                    self.publications.push((id, done));
                }
            }
            Command::Stay(id, until) => {
                let engaged = self.engaged.iter_mut().filter(|engaged| engaged.id == id);
                engaged.for_each(|engaged| engaged.stay_until = Some(until));
            }
            Command::Report(id, holds) => self.contender.report(&id, holds),
            Command::WatchForLoss(id) => {
                let engaged = self.engaged.iter_mut().filter(|engaged| engaged.id == id);
                engaged.for_each(|engaged| engaged.watch_for_loss = true);
            }
            Command::Release(_, _, Some(reply)) => drop(reply.send(false).ok()),
            // It is over. Whoever waits for an answer hears that there is none.
            Command::Release(..) | Command::Renew(..) | Command::Change(..) | Command::Publish(..) => {}
            Command::ShutDown(done) => {
                self.is_shut_down = true;
                self.shut_down.push(done);
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

    fn leave(&mut self, id: &HolderId, keep: Option<Duration>) {
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
