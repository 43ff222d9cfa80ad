//! One hold of a lock for one task of this process after the other.

use super::{Driver, Engaged};
use crate::clock;
use crate::error::LossReason;
use crate::protocol::contender::{Answer, Refusal};
use crate::protocol::lending::News;
use crate::protocol::{Moment, renew_interval};
use crate::session::Holding;
use crate::slot::{Order, rest};

/// An order that begins when what was held before has been given back.
pub(super) struct Later {
    order: Box<Order>,
    /// Until then.
    patience: Moment,
}

impl Driver {
    /// Somebody asks for it: what rests is lent, and what cannot be lent is given back first.
    pub(super) fn take_on(&mut self, order: Box<Order>) {
        let Some(at) = self.engaged.iter().position(|engaged| !engaged.shared) else { return self.begin(*order) };
        let news = self.news(at);
        if lends(&mut self.engaged[at], news, &order) {
            self.lend(at, *order);
            return;
        }
        self.give_back(at);
        let patience = clock::moment() + order.wish.patience;
        self.next = Some(Later { order, patience });
    }

    /// Whoever is next in this process has what rests, if it waits for just that. Otherwise it may come.
    pub(super) fn pass_on(&mut self, at: usize) {
        let news = self.news(at);
        let engaged = &mut self.engaged[at];
        let slot = engaged.slot.clone();
        match slot.unpark(|order| !order.reply.is_closed() && lends(engaged, news, order)) {
            Some(order) => self.lend(at, *order),
            None => engaged.turn = None,
        }
    }

    fn lend(&mut self, at: usize, order: Order) {
        let Order { guard, stay, reply, turn, ahead, course, .. } = order;
        let engaged = &mut self.engaged[at];
        (engaged.guard, engaged.stay, engaged.ahead) = (guard, stay, ahead);
        (engaged.reply, engaged.course) = (Some(reply), course);
        engaged.turn = turn.or(engaged.turn.take());
        engaged.hand_out();
        self.passed_on = true;
    }

    /// While this driver sleeps, tasks of this process pass on what is held, if it may be.
    pub(super) fn lend_out(&mut self) {
        let may_be = |engaged: &Engaged| engaged.allowed_until.is_none() && engaged.lending.is_asked_for();
        let Some(at) = self.engaged.iter().position(may_be).filter(|_| !self.is_shut_down) else { return };
        if let Some(news) = self.news(at) {
            self.engaged[at].lend_out(news);
        }
    }

    /// Whoever has it by now: nobody passes it on any more but this driver.
    pub(super) fn take_back(&mut self) {
        self.engaged.iter_mut().for_each(Engaged::take_back);
    }

    /// Begins an acquisition under a number of its own.
    fn begin(&mut self, order: Order) {
        let id = order.session.next_acquisition();
        order.in_line.inspect(|n| order.slot.waits_by(*n, &id));
        self.contender.start(id.clone(), order.wish.clone(), clock::moment());
        if self.shared.names.are_mostly_new() && self.contender.suppose_absent() {
            self.shared.names.guessed();
        }
        self.engaged.push(Engaged::new(id, order));
    }

    /// Begins what had to wait until the hold before was given back. Whether there was anything to begin.
    pub(super) fn begin_next(&mut self) -> bool {
        if self.engaged.iter().any(|engaged| !engaged.shared) {
            return false;
        }
        let Some(Later { order, .. }) = self.next.take() else { return false };
        if order.session.validity().check().is_ok() {
            self.begin(*order);
        } else {
            let _ = order.reply.send(Err(Refusal::SessionLost));
        }
        true
    }

    /// Nobody waits for ever for what cannot be given back. Returns when that is to be looked at again.
    pub(super) fn end_patience(&mut self) -> Option<Moment> {
        self.next.take_if(|later| later.order.reply.is_closed());
        if let Some(Later { order, .. }) = self.next.take_if(|later| clock::moment() >= later.patience) {
            let why = "what this process held before could not be given back yet".to_owned();
            let _ = order.reply.send(Err(Refusal::Unavailable(why)));
        }
        self.next.as_ref().map(|later| later.patience)
    }

    /// What is known of this hold, if nothing of it speaks against keeping it.
    fn news(&self, at: usize) -> Option<News> {
        // What nobody gets for long after its holder has died does not linger without one.
        let watched = self.is_watched() && !self.contender.outlives_its_holder();
        self.contender.is_undisputed(&self.engaged[at].id).then_some(News { since: self.heard, watched })
    }

    /// Lets a hold rest whose guard says that it is done, if that may be. Of one that was lost nobody knows what is still on
    /// its way.
    pub(super) fn rests(&mut self, at: usize) -> bool {
        let news = self.news(at);
        let engaged = &mut self.engaged[at];
        let over = engaged.validity.as_ref().map(|validity| validity.check());
        let rests = over == Some(Err(LossReason::Released))
            && engaged.allowed_until.is_none()
            && engaged.lending.rest(news, engaged.slot.somebody_waits(), clock::moment());
        if rests {
            (engaged.at_most_until, engaged.stay_until, engaged.watch_for_loss) = (None, None, false);
            engaged.resting = engaged.session.clone().map(Holding::new);
        }
        rests
    }

    /// Gives back what has rested for long enough, or has to go to others, and says when there is more of it.
    pub(super) fn end_rests(&mut self) -> Option<Moment> {
        let now = clock::moment();
        let mut wake = None;
        for at in 0..self.engaged.len() {
            let engaged = &self.engaged[at];
            if !engaged.lending.rests() {
                continue;
            }
            match engaged.lending.rests_until(self.news(at), engaged.slot.somebody_waits()) {
                Some(until) if now < until => wake = wake.into_iter().chain([until]).min(),
                _ => self.give_back(at),
            }
        }
        let look_at = self.lingers().then(|| self.heard + renew_interval(self.shared.session_duration));
        self.contender.look_at(look_at);
        wake
    }

    /// Something is kept back from others, or will be: they are to be looked for.
    pub(super) fn lingers(&self) -> bool {
        self.engaged.iter().any(|engaged| engaged.lending.lingers())
    }

    /// Nobody of this process will ask for what rests.
    pub(super) fn give_all_back(&mut self) {
        (0..self.engaged.len()).for_each(|at| self.give_back(at));
    }

    fn give_back(&mut self, at: usize) {
        let engaged = &mut self.engaged[at];
        if engaged.lending.rests() {
            engaged.lending.end();
            engaged.course.leaving();
            self.contender.leave(&engaged.id);
        }
    }

    /// The runtime ends, and all that this driver has rests or is being given back: nothing of it is lost with the driver,
    /// another one gives it back. Whether that is so. The session may have ended with the runtime, and is not needed for it.
    pub(super) fn leave_behind(&mut self) -> bool {
        let is_released = |engaged: &Engaged| {
            let over = engaged.validity.as_ref().map(|validity| validity.check());
            engaged.lending.rests() || over == Some(Err(LossReason::Released))
        };
        let Some(tasks) = self.leaves_to.filter(|_| !self.engaged.is_empty()) else { return false };
        if !self.engaged.iter().all(is_released) {
            return false;
        }
        let mut other = Self::new(self.name.clone(), self.shared.clone(), self.nobody_waits.clone());
        std::mem::swap(&mut other.contender, &mut self.contender);
        std::mem::swap(&mut other.engaged, &mut self.engaged);
        if self.in_flight.take().is_some() {
            let why = "the runtime on which it was sent has ended".to_owned();
            other.contender.answer(Answer::Unclear(why), clock::moment());
        }
        other.give_all_back();
        // Their guards may have said so, and the driver has not heard of it.
        let left = other.engaged.iter().map(|engaged| (engaged.id.clone(), rest(engaged.stay_until)));
        left.collect::<Vec<_>>().into_iter().for_each(|(id, rest)| other.leave(&id, rest));
        tasks.spawn(async move {
            let (_open, commands) = tokio::sync::mpsc::unbounded_channel();
            other.run(commands, || true).await;
        });
        true
    }
}

/// Whether this hold is lent to whoever gave this order: it rests, and is what was asked for.
fn lends(engaged: &mut Engaged, news: Option<News>, order: &Order) -> bool {
    engaged.session.as_ref().is_some_and(|session| order.is_met_by(engaged.resource_id.as_ref(), session.id()))
        && engaged.lending.lend(order.terms, news, clock::moment())
}

/// Resolves when one of those who wait for an answer does not any more.
pub(super) async fn caller_gone(engaged: &mut [Engaged], next: &mut Option<Later>) {
    let replies = engaged.iter_mut().find_map(|engaged| engaged.reply.as_mut());
    match replies.or(next.as_mut().map(|later| &mut later.order.reply)) {
        Some(reply) => reply.closed().await,
        None => std::future::pending().await,
    }
}
