//! Another session, seen from outside: is it alive, and if not, ending it.
//!
//! Nothing here looks at a timestamp that somebody else wrote. A session is taken for dead when its Lease has not
//! changed for its whole duration on the observer's own clock, and then it is *ended* first: one conditional write
//! that fails if a renewal came. Only an ended session may be evicted from its locks.

use super::record::SessionRecord;
use super::write::{self, Write};
use super::{LATEST_COMMIT, LONGEST_SESSION, Moment, Version};
use std::time::Duration;

/// One session under observation.
#[derive(Clone, Debug, Default, Hash)]
pub struct Observer {
    seen: Seen,
    /// The session is to be read anew: something was refused, unclear, or hinted at.
    stale: bool,
}

#[derive(Clone, Debug, Default, Hash)]
enum Seen {
    /// Not read yet.
    #[default]
    Nothing,
    /// It stands there like this since then: unchanged.
    Present { record: Box<SessionRecord>, since: Moment },
    /// It was not there, then and ever since.
    Absent { since: Moment },
    /// It has been ended. This is for good: a name never lives twice.
    Ended { since: Moment, record: Option<Box<SessionRecord>> },
}

/// What can be said of an observed session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// As far as can be told it lives.
    Alive,
    /// It has ended, and what it holds or waits for may be taken from it.
    Ended,
}

/// How a session has ended, as this observer came to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// Since when this observer is certain of it, by its own clock.
    pub since: Moment,
    /// Its process is known to have ended. Otherwise it fell silent, or was given up, or its Lease is not there.
    pub by_evidence: bool,
    /// For how long it could have lived without a renewal.
    pub duration: Duration,
    /// The version of its tombstone, unless its Lease is not there.
    pub version: Option<Version>,
}

/// What an observer wants done.
#[derive(Clone, Debug)]
pub enum Request {
    /// Read the session's Lease, and tell by [`Observer::read`].
    Read,
    /// Carry out this write on the session's Lease, and tell by [`Observer::ended`] or [`Observer::refused`].
    End(Write),
}

impl Observer {
    /// What can be said of the session now.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match &self.seen {
            Seen::Nothing => Verdict::Unknown,
            Seen::Present { .. } | Seen::Absent { .. } => Verdict::Alive,
            Seen::Ended { .. } => Verdict::Ended,
        }
    }

    /// How the session has ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        let Seen::Ended { since, record } = &self.seen else { return None };
        Some(End {
            since: *since,
            by_evidence: record.as_ref().is_some_and(|record| record.by_evidence),
            duration: record.as_ref().map_or(LONGEST_SESSION, |record| record.duration),
            version: record.as_ref().map(|record| record.version),
        })
    }

    /// The session's Lease was seen like this, in an answer or watch event received at `now`.
    ///
    /// Anything older than what was seen before is ignored: a watch may have restarted in the past.
    pub fn saw(&mut self, record: SessionRecord, now: Moment) {
        let older = match &self.seen {
            Seen::Present { record: known, .. } => record.version <= known.version,
            // Ended is for good; but the tombstone to be swept is the last one.
            Seen::Ended { record: Some(known), .. } => !record.ended || record.version <= known.version,
            Seen::Ended { record: None, .. } => !record.ended,
            Seen::Nothing | Seen::Absent { .. } => false,
        };
        if older {
            return;
        }
        let record = Box::new(record);
        self.seen = if record.ended {
            // Whoever writes to a tombstone changes nothing of since when it is one.
            let known = self.end().map(|end| end.since);
            Seen::Ended { since: known.unwrap_or(now), record: Some(record) }
        } else {
            Seen::Present { record, since: now }
        };
    }

    /// A consistent read has answered at `now`: the session's record, or that there is none.
    pub fn read(&mut self, record: Option<SessionRecord>, now: Moment) {
        self.stale = false;
        match (record, &self.seen) {
            (Some(record), _) => self.saw(record, now),
            (None, Seen::Nothing | Seen::Present { .. }) => self.seen = Seen::Absent { since: now },
            (None, Seen::Absent { .. } | Seen::Ended { .. }) => {}
        }
    }

    /// A hint that the session's Lease has gone: a watch said so, which may be old news. It will be read.
    pub fn hint_gone(&mut self) {
        self.stale = true;
    }

    /// The write of [`Request::End`] was carried out, with this answer.
    pub fn ended(&mut self, record: SessionRecord, now: Moment) {
        self.saw(record, now);
    }

    /// The write of [`Request::End`] was refused, or its answer never came. A read will tell.
    pub fn refused(&mut self) {
        self.stale = true;
    }

    /// The session's process is known to have ended, and what says so was written to the API server at `version`. It
    /// still has to be ended by a write.
    ///
    /// Nothing where the session was written to since then: whoever renews lives, and the evidence is another's.
    #[must_use]
    pub fn end_by_evidence(&self, version: Version, by: &str) -> Option<Request> {
        match &self.seen {
            Seen::Present { record, .. } if record.version < version && !self.stale => {
                Some(Request::End(write::end_by_evidence(record, by)))
            }
            Seen::Nothing | Seen::Present { .. } | Seen::Absent { .. } | Seen::Ended { .. } => None,
        }
    }

    /// What is to be done now, if anything. `by` tells people who ended the session.
    pub fn poll(&mut self, now: Moment, by: &str) -> Option<Request> {
        if self.stale {
            return Some(Request::Read);
        }
        match &self.seen {
            Seen::Nothing => Some(Request::Read),
            Seen::Present { record, since } if now >= *since + record.duration => {
                Some(Request::End(write::end_session(record, by)))
            }
            // Whatever was on its way when the session went missing has long expired by itself.
            Seen::Absent { since } if now >= *since + LONGEST_SESSION => {
                self.seen = Seen::Ended { since: now, record: None };
                None
            }
            Seen::Present { .. } | Seen::Absent { .. } | Seen::Ended { .. } => None,
        }
    }

    /// When [`poll`](Self::poll) may have something to do, if nothing else happens before.
    #[must_use]
    pub fn wake_at(&self) -> Option<Moment> {
        match &self.seen {
            Seen::Present { record, since } => Some(*since + record.duration),
            Seen::Absent { since } => Some(*since + LONGEST_SESSION),
            Seen::Nothing | Seen::Ended { .. } => None,
        }
    }

    /// The tombstone to sweep, once no request of its process can be carried out any more: two minutes, and a rest.
    ///
    /// The caller makes sure that nothing names the session.
    #[must_use]
    pub fn sweepable(&self, now: Moment) -> Option<Write> {
        match &self.seen {
            Seen::Ended { since, record: Some(record) } if now >= *since + LATEST_COMMIT + LONGEST_SESSION / 2 => {
                Some(write::remove_session(record))
            }
            _ => None,
        }
    }
}
