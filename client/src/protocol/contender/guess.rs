//! Whether a lock is created without a look, since most are new.

use super::super::{Kind, Version};
use super::{Contender, Known, Turn};

/// What has been heard since a turn began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Heard {
    Nothing,
    /// Nothing: and as long as nothing is known of its Lease, there is taken to be none.
    NothingAndAbsent,
    Something,
}

impl Contender {
    /// Most names that this client takes are new: the lock whose acquisition has begun is created without another look. If
    /// it is there, or may not be created, it is read as always. False: this is no lock, or has been seen before.
    pub fn suppose_absent(&mut self) -> bool {
        let nothing_seen = self.nothing_seen() && self.ghosts.is_empty();
        let turn = self.turn.as_mut().filter(|turn| nothing_seen && turn.wish.kind == Kind::Lock);
        turn.map(|turn| turn.heard = Heard::NothingAndAbsent).is_some()
    }

    fn nothing_seen(&self) -> bool {
        matches!(self.known, Known::Unknown) && self.floor == Version::default()
    }

    pub(super) fn supposes_absent(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.heard == Heard::NothingAndAbsent)
    }

    /// While the first request is under way that has to do with this lock's Lease: whether it creates it without a look.
    #[must_use]
    pub fn looks_first(&self) -> Option<bool> {
        let first = |turn: &Turn| turn.heard != Heard::Something && turn.wish.kind == Kind::Lock;
        let first = self.nothing_seen() && self.turn.as_ref().is_some_and(first);
        self.in_flight.as_ref().filter(|_| first).map(|request| request.supposes_absent)
    }
}
