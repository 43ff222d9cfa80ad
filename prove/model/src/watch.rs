//! A client's watch of the lock, as `driver/watching.rs` of the client drives it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use leasehold::protocol::record::HOLDER;
use leasehold::protocol::{Kind, Moment, SessionId, Version, renew_interval};

use super::client::{At, Client};
use super::wire::{Change, Place, Server, Stored};

/// A watch of the lock for one session's label, or for all that happens, and what it has yet to show.
#[derive(Clone, Debug, Hash)]
pub(super) struct Watch {
    session: SessionId,
    all: bool,
    pub(super) sights: VecDeque<Sight>,
    /// It has shown something.
    pub(super) shown: bool,
}

#[derive(Clone, Debug, Hash)]
pub(super) enum Sight {
    Shows(Arc<Stored>),
    Hides(Version),
}

impl Watch {
    fn begin(session: SessionId, all: bool, from: Option<Version>, server: &Server) -> Self {
        let mut watch = Self { session, all, sights: VecDeque::new(), shown: false };
        if let Some(from) = from {
            for change in server.history.iter().filter(|change| change.version > from) {
                watch.take(change);
            }
        } else if let Some(stored) = server.get(&Place::Lock).filter(|stored| watch.concerns(stored)) {
            watch.sights.push_back(Sight::Shows(stored.clone()));
        }
        watch
    }

    fn concerns(&self, stored: &Stored) -> bool {
        self.all || stored.has_label(&format!("{HOLDER}{}", self.session))
    }

    /// The lock has changed: it is told in its turn, if that is what is watched for.
    pub(super) fn take(&mut self, change: &Change) {
        if let Some(after) = change.after.as_ref().filter(|after| self.concerns(after)) {
            self.sights.push_back(Sight::Shows(after.clone()));
        } else if change.before.as_ref().is_some_and(|before| self.concerns(before)) {
            self.sights.push_back(Sight::Hides(change.version));
        }
    }
}

impl Client {
    /// Begins, keeps or ends the watch. Returns when to come back, and whether what is known is in doubt now.
    pub(super) fn keep_watch(&mut self, at: &At<'_>) -> (Option<Moment>, bool) {
        let now = at.now.moment;
        let session = self.engaged.as_ref().map(|engaged| engaged.session.clone());
        let lingers = self.lingers();
        let held_from = if at.habits.watch_losses || lingers { self.contender.watch_hold_from() } else { None };
        let waits_from = self.contender.watch_from();
        let anew = self.watch_anew || (lingers && waits_from.is_none());
        let wanted = waits_from.or(held_from.map(|from| (from, false)));
        if let Some(watch) = &self.watch {
            let another = session.as_ref().is_some_and(|session| *session != watch.session);
            let too_little = wanted.is_some_and(|(_, all)| all && !watch.all);
            // What is contended for, or held by several, changes all the time: a watch that is of no use costs.
            let shared = session.is_some() && self.wish.kind != Kind::Lock;
            let too_much = wanted.map_or(shared, |(_, all)| watch.all && !all);
            if another || too_little || too_much {
                self.watch = None;
            }
        }
        if self.recheck_at.is_some_and(|at| now >= at) {
            (self.recheck_at, self.watch_anew) = (None, false);
            self.contender.doubt();
            return (None, true);
        }
        if let (Some((from, all)), Some(session), None) = (wanted, session, &self.watch) {
            let urgent = lingers || !self.contender.only_holds();
            let retry_at = if urgent { self.watch_retry_at } else { self.watch_retry_at.max(self.watch_hold_at) };
            if now < retry_at {
                self.contender.set_watched(false, false);
                return (self.recheck_at.into_iter().chain([retry_at]).min(), false);
            }
            let from = (!anew).then_some(from);
            let soon = now + Duration::from_secs(1);
            self.recheck_at =
                self.watch_anew.then(|| self.recheck_at.filter(|_| !urgent).map_or(soon, |at| at.max(soon)));
            self.watch = Some(Watch::begin(session, all, from, at.server));
        }
        self.contender.set_watched(self.watch.is_some(), self.watch.as_ref().is_some_and(|watch| watch.all));
        (self.recheck_at, false)
    }

    /// All its watches have broken off, and what they had yet to show is lost.
    pub(super) fn break_watches(&mut self, now: Moment) {
        self.wake = Some(now);
        self.eyes.break_watches();
        if self.watch.take().is_none() {
            return;
        }
        (self.watch_anew, self.watch_retry_at) = (true, now + Duration::from_millis(50));
        if self.lingers() || !self.contender.only_holds() {
            self.contender.doubt();
        } else {
            // As late as it may be where nothing waits for what it would show.
            self.watch_hold_at = now + renew_interval(self.duration);
            self.recheck_at.get_or_insert(self.watch_hold_at);
        }
    }
}
