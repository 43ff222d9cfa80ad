//! What a client has of its hold between two guards, as `driver/lending.rs` of the client drives it.

use leasehold::protocol::lending::{Lending, News, Terms};
use leasehold::protocol::{HolderId, Moment, renew_interval};

use super::client::{Client, Guard, Want};

/// A hold that one guard has after the other.
#[derive(Clone, Debug, Hash)]
pub(super) struct Lent {
    terms: Terms,
    pub(super) lending: Lending,
    /// Whose it is on the Lease, and by which token.
    hold: Option<(HolderId, u64)>,
    /// When the request in flight was sent, and the last whose answer showed the lock.
    sent: Moment,
    heard: Moment,
}

impl Lent {
    pub(super) fn new(terms: Terms) -> Self {
        Self { terms, lending: Lending::default(), hold: None, sent: Moment::default(), heard: Moment::default() }
    }

    /// Whether anything is ever passed on.
    pub(super) fn lends(&self) -> bool {
        self.terms != Terms::default()
    }

    pub(super) fn begin(&mut self, id: HolderId, token: u64) {
        self.lending = Lending::new(self.terms);
        self.hold = Some((id, token));
    }

    // What is of no use makes states differ.
    pub(super) fn sends(&mut self, now: Moment) {
        self.sent = if self.lends() { now } else { self.sent };
    }

    pub(super) fn hears(&mut self) {
        self.heard = self.sent;
    }
}

impl Client {
    pub(super) fn may_start(&self) -> bool {
        // Where a lock is passed on, another task of it may wait for its turn.
        let next = self.guard.is_some() && self.lent.lends();
        self.want == Want::Nothing
            && (next || (self.guard.is_none() && (self.engaged.is_none() || self.lent.lending.rests())))
    }

    fn news(&self) -> Option<News> {
        let (id, _) = self.lent.hold.as_ref()?;
        let watched = self.watch.as_ref().is_some_and(|watch| watch.shown);
        self.contender.is_undisputed(id).then_some(News { since: self.lent.heard, watched })
    }

    /// Another task of it waits for its turn.
    fn somebody_waits(&self) -> bool {
        matches!(self.want, Want::Entering { .. })
    }

    /// Its user has released this guard. Whether the hold rests from now on.
    pub(super) fn rests(&mut self, guard: &Guard, now: Moment) -> bool {
        let news = self.news().filter(|_| guard.deadline.is_none() && self.is_live(guard, now));
        let somebody_waits = self.somebody_waits();
        self.lent.lending.rest(news, somebody_waits, now)
    }

    /// Gives back what has rested for long enough, and says when there is more of it.
    pub(super) fn end_rest(&mut self, now: Moment) -> Option<Moment> {
        let mut wake = None;
        if self.lent.lending.rests() {
            wake = self.lent.lending.rests_until(self.news(), self.somebody_waits()).filter(|until| now < *until);
            if wake.is_none() {
                self.give_back();
            }
        }
        let duration = self.duration;
        self.contender.look_at(self.lingers().then(|| self.lent.heard + renew_interval(duration)));
        wake
    }

    pub(super) fn lingers(&self) -> bool {
        self.engaged.is_some() && self.lent.lending.lingers()
    }

    fn give_back(&mut self) {
        self.lent.lending.end();
        self.contender.leave_all();
    }

    /// Its user asks for what rests.
    pub(super) fn borrow(&mut self, now: Moment) {
        if !self.somebody_waits() || !self.lent.lending.rests() {
            return;
        }
        let Some((id, token)) = self.lent.hold.clone() else { return };
        let news = self.news();
        let guard = Guard { id, token, mode: self.wish.mode, change: None, deadline: None, over: false };
        if self.is_live(&guard, now) && self.lent.lending.lend(self.lent.terms, news, now) {
            (self.guard, self.want) = (Some(guard), Want::Nothing);
        } else {
            self.give_back();
        }
    }
}
