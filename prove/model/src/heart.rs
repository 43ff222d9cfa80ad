//! A client's session, as `session.rs` of the client drives it.

use std::time::Duration;

use leasehold::protocol::record::SessionRecord;
use leasehold::protocol::session::{Answer, Loss, Request, Session};
use leasehold::protocol::{Moment, Now, SessionId, renew_interval, write};

use super::eyes::Call;
use super::wire::{Place, Reply, What};

/// One session, from its opening until its Lease is gone.
#[derive(Clone, Debug, Hash)]
pub(super) struct Heart {
    machine: Session,
    pub(super) call: Option<Call>,
    duration: Duration,
    /// It is over: lost, or retired since nobody used it.
    pub(super) over: bool,
    /// It was lost, and not given up by its own process.
    pub(super) lost: bool,
    /// Something that was sent in its name may still come true.
    pub(super) unclear: bool,
    idle_since: Option<Moment>,
    closing: Option<Closing>,
    acquisitions: u32,
}

#[derive(Clone, Debug, Default, Hash)]
struct Closing {
    tries: u8,
    record: Option<SessionRecord>,
    done: bool,
}

impl Heart {
    pub(super) fn new(id: SessionId, duration: Duration) -> Self {
        Self {
            machine: Session::new(id, duration, Duration::ZERO),
            call: None,
            duration,
            over: false,
            lost: false,
            unclear: false,
            idle_since: None,
            closing: None,
            acquisitions: 0,
        }
    }

    pub(super) fn id(&self) -> &SessionId {
        self.machine.id()
    }

    /// Whether it may be believed in at this very moment.
    pub(super) fn is_valid(&self, now: Moment) -> bool {
        !self.over && self.machine.deadline().is_some_and(|deadline| now < deadline)
    }

    pub(super) fn is_opening(&self) -> bool {
        !self.over && self.machine.deadline().is_none() && self.machine.loss().is_none()
    }

    /// Nothing is left to do for it.
    pub(super) fn is_done(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.done)
    }

    pub(super) fn next_acquisition(&mut self) -> u32 {
        self.acquisitions += 1;
        self.acquisitions
    }

    /// Does what is due.
    pub(super) fn step(&mut self, now: Now, real: Duration, used: bool, holds: bool) {
        if used {
            self.idle_since = None;
        } else {
            self.idle_since.get_or_insert(now.moment);
        }
        if holds {
            self.machine.holds();
        }
        if !self.over {
            self.beat(now, real);
        }
        if self.over && !used && self.call.is_none() {
            self.close(real);
        }
    }

    fn beat(&mut self, now: Now, real: Duration) {
        let idle = self.idle_since.is_some_and(|since| now.moment.since(since) >= renew_interval(self.duration));
        if idle && self.call.is_none() && self.machine.deadline().is_some() {
            self.over = true;
            return;
        }
        let place = Place::Session(self.id().clone());
        if let Some(request) = self.machine.poll(now) {
            let what = match request {
                Request::Read => What::Read,
                Request::Write(write) => What::Write(write),
            };
            self.call = Some(Call::new(place, what, real));
        }
        if self.machine.loss().is_some() {
            // Whatever is on its way is not listened to any more.
            (self.over, self.lost, self.call) = (true, true, None);
        }
        if self.machine.loss() == Some(Loss::Unopened) {
            // Its name is given up, and nothing names it.
            self.closing = Some(Closing { done: true, ..Closing::default() });
        }
    }

    /// Removes its Lease, or ends it if something that was sent in its name may still come true.
    fn close(&mut self, real: Duration) {
        let place = Place::Session(self.id().clone());
        let unclear = self.unclear;
        let closing = self.closing.get_or_insert_default();
        if closing.done {
            return;
        }
        let what = match &closing.record {
            None => What::Read,
            Some(record) if unclear => What::Write(write::end_session(record, "its process shut down")),
            Some(record) => What::Write(write::remove_session(record)),
        };
        self.call = Some(Call::new(place, what, real));
    }

    /// An answer has come; `None` says that it is not known what became of the request.
    pub(super) fn answer(&mut self, reply: Option<&Reply>, now: Moment) {
        let Some(call) = self.call.take() else { return };
        let read = call.request.is_read();
        if let Some(closing) = &mut self.closing {
            match (read, reply) {
                (true, Some(Reply::Is(stored))) => {
                    let record = stored.session().cloned();
                    closing.done = self.unclear && record.as_ref().is_some_and(|record| record.ended);
                    closing.record = record;
                }
                (true, Some(Reply::Absent)) | (false, Some(Reply::Is(_) | Reply::Removed)) => closing.done = true,
                _ => {
                    closing.tries += 1;
                    closing.record = None;
                    closing.done = closing.tries >= 3;
                }
            }
            return;
        }
        self.machine.answer(
            match (reply, read) {
                (Some(Reply::Is(stored)), _) => {
                    stored.session().map_or(Answer::Unclear, |record| Answer::Is(Box::new(record.clone())))
                }
                (Some(Reply::Absent), true) => Answer::Absent,
                (Some(Reply::Absent | Reply::Refused), _) => Answer::Refused,
                (Some(Reply::Removed | Reply::Invalid(_)) | None, _) => Answer::Unclear,
            },
            now,
        );
    }

    /// When there is something to do if nothing else happens.
    pub(super) fn wake_at(&self) -> Option<Moment> {
        if self.over {
            return None; // What is to be done then is done at once.
        }
        let retire = self.idle_since.map(|since| since + renew_interval(self.duration));
        let retire = retire.filter(|_| self.call.is_none() && self.machine.deadline().is_some());
        self.machine.wake_at().into_iter().chain(retire).min()
    }
}
