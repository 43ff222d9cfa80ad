//! This process's heartbeat: a Lease that is renewed while anything is held or waited for.
//!
//! A session is opened by a POST and renewed by PUTs that carry uid and resourceVersion, so that neither can bring a
//! name back to life. Where the answer to the POST never came, the name is given up. What is lost stays lost.
//!
//! A session by which nothing is held, but only waited for, lives twice as long, and is renewed a quarter as often
//! ([`waiting_duration`]): whoever waits for hours costs little, and nothing is held by it that somebody else could have.

use std::time::Duration;

use super::record::{Pod, SessionRecord};
use super::write::{self, Write};
use super::{LONGEST_SESSION, Moment, Now, SessionId, deadline, renew_interval};

/// One session, from its opening to its end.
#[derive(Clone, Debug, Hash)]
pub struct Session {
    id: SessionId,
    duration: Duration,
    grace: Duration,
    pod: Option<Pod>,
    /// Something has been held by it since it was last renewed.
    held: bool,
    state: State,
    /// When the request now on its way was sent, and for how long it is to live by that.
    sent: Option<(Moment, Duration)>,
    /// Not before this time, after a failure.
    retry_at: Moment,
}

#[derive(Clone, Debug, Hash)]
enum State {
    /// To be opened.
    Fresh,
    /// It stands there.
    Open {
        record: Box<SessionRecord>,
        /// When it was last renewed, and for how long.
        renewed: (Moment, Duration),
        deadline: Moment,
        renew_at: Moment,
        /// A write was refused: what stands there is to be read.
        stale: bool,
    },
    /// It never came to be, or it is over.
    Lost(Loss),
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// No renewal succeeded in time.
    Expired,
    /// Somebody ended it, or removed its Lease.
    Ended,
    /// Whether it was opened could not be told.
    Unopened,
}

/// What a session wants to be sent, with the answer told by [`Session::answer`].
#[derive(Clone, Debug)]
pub enum Request {
    /// Read the session's Lease.
    Read,
    /// Write to the session's Lease.
    Write(Write),
}

/// How a request went.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It was carried out, and this is what stands there now.
    Is(Box<SessionRecord>),
    /// There is no such Lease.
    Absent,
    /// The API server refused it, for a reason that a new look may change: nothing was written by this request.
    Refused,
    /// Whether it was carried out cannot be told.
    Unclear,
}

/// For how long a session lives by which nothing is held, where it lives for `duration` otherwise.
#[must_use]
pub fn waiting_duration(duration: Duration) -> Duration {
    (duration * 2).min(LONGEST_SESSION).max(duration)
}

impl Session {
    /// A session to be opened under this name, never used before.
    #[must_use]
    pub fn new(id: SessionId, duration: Duration, grace: Duration) -> Self {
        Self {
            id,
            duration,
            grace,
            pod: None,
            held: false,
            state: State::Fresh,
            sent: None,
            retry_at: Moment::default(),
        }
    }

    /// The session tells of this Pod as the one in which its process runs. Without one it tells nothing.
    #[must_use]
    pub fn in_pod(mut self, pod: Option<Pod>) -> Self {
        self.pod = pod;
        self
    }

    /// The session's name.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Until when the session may be believed in. `None` before it is open and after it is lost.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        match &self.state {
            State::Open { deadline, .. } => Some(*deadline),
            State::Fresh | State::Lost(_) => None,
        }
    }

    /// Why the session is over, if it is.
    #[must_use]
    pub fn loss(&self) -> Option<Loss> {
        match &self.state {
            State::Lost(loss) => Some(*loss),
            State::Fresh | State::Open { .. } => None,
        }
    }

    /// Renew at the next [`poll`](Self::poll), whether it is due or not.
    pub fn renew_now(&mut self, now: Moment) {
        if let State::Open { renew_at, .. } = &mut self.state {
            *renew_at = now;
        }
    }

    /// Something is held by it, or was since this was last said.
    pub fn holds(&mut self) {
        self.held = true;
    }

    /// For how long it is to live if it is renewed now.
    ///
    /// It is never believed in for less long than before: a longer duration is taken back when no more is left of it
    /// than the shorter one gives.
    fn term(&self, (last, term): (Moment, Duration), now: Moment) -> Duration {
        let longer = waiting_duration(self.duration);
        let may_be_shorter = term <= self.duration || now >= last + longer.saturating_sub(self.duration);
        if self.held && may_be_shorter { self.duration } else { longer }
    }

    /// What is to be sent now, if anything. Nothing is while an answer is awaited.
    pub fn poll(&mut self, now: Now) -> Option<Request> {
        self.expire(now.moment);
        if self.sent.is_some() || now.moment < self.retry_at {
            return None;
        }
        let (request, term) = match &self.state {
            State::Fresh => {
                let post = write::open_session_in(self.pod.as_ref(), &self.id, self.duration, now.stamp);
                (Request::Write(post), self.duration)
            }
            State::Open { stale: true, .. } => (Request::Read, self.duration),
            State::Open { record, renewed, renew_at, .. } if now.moment >= *renew_at => {
                let term = self.term(*renewed, now.moment);
                self.held = false;
                (Request::Write(write::renew_session(record, term, now.stamp)), term)
            }
            State::Open { .. } | State::Lost(_) => return None,
        };
        self.sent = Some((now.moment, term));
        Some(request)
    }

    /// When [`poll`](Self::poll) may have something to do, if nothing else happens before.
    #[must_use]
    pub fn wake_at(&self) -> Option<Moment> {
        match &self.state {
            State::Open { deadline, .. } if self.sent.is_some() => Some(*deadline),
            State::Open { deadline, stale: true, .. } => Some(self.retry_at.min(*deadline)),
            State::Open { deadline, renew_at, .. } => Some((*renew_at).max(self.retry_at).min(*deadline)),
            State::Fresh | State::Lost(_) => None,
        }
    }

    /// How long the request just polled may take, where `usual` is what requests are given.
    ///
    /// It must not outlive what it is for. But while there is time it may take half of what is left: an API server that
    /// thousands of sessions ask for more than it can do loses all of them if each gives up, closes its connection and
    /// begins again sooner than its turn comes.
    #[must_use]
    pub fn time_limit(&self, now: Moment, usual: Duration) -> Duration {
        match &self.state {
            State::Open { deadline, .. } => {
                let left = deadline.since(now);
                usual.max(left / 2).min(left)
            }
            State::Fresh | State::Lost(_) => usual,
        }
    }

    /// The answer to the request last polled has come at `now`.
    pub fn answer(&mut self, answer: Answer, now: Moment) {
        let Some((sent, term)) = self.sent.take() else { return };
        self.expire(now);
        match (&mut self.state, answer) {
            (State::Lost(_), _) => {}
            (State::Fresh, Answer::Is(record)) if record.id == self.id && !record.ended => {
                self.state = State::Open {
                    record,
                    renewed: (sent, term),
                    deadline: deadline(sent, term, self.grace),
                    renew_at: sent + renew_interval(term),
                    stale: false,
                };
                self.expire(now);
            }
            // Whether it stands there or not, this name is not used: a late POST must not open a session twice.
            (State::Fresh, _) => self.state = State::Lost(Loss::Unopened),
            (State::Open { record, .. }, Answer::Is(seen)) if seen.uid != record.uid || seen.ended => {
                self.state = State::Lost(Loss::Ended);
            }
            (State::Open { .. }, Answer::Absent) => self.state = State::Lost(Loss::Ended),
            (State::Open { record, renewed, deadline: until, renew_at, stale }, Answer::Is(seen)) => {
                let was_renewed = !*stale;
                *stale = false;
                *record = seen;
                if was_renewed {
                    *renewed = (sent, term);
                    *until = deadline(sent, term, self.grace).max(*until);
                    // What only waits is renewed when as much time is left for other attempts as a holder has.
                    let usual = sent + renew_interval(self.duration);
                    let left = deadline(sent, self.duration, self.grace).since(usual);
                    *renew_at = if term > self.duration { usual.max(*until - left) } else { usual };
                }
                // Read, not renewed: the version is known again, and the next poll renews.
            }
            (State::Open { stale, .. }, Answer::Refused) => *stale = true,
            // A renewal is sent again as it was, which needs no read: if the one before was carried out, or still is, no
            // more than one of them succeeds.
            (State::Open { renew_at, .. }, Answer::Unclear) => {
                let late = now.since(*renew_at);
                self.retry_at = now + (late / 4).clamp(self.duration / 60, self.duration / 20);
            }
        }
    }

    /// The last record of the session's Lease, for closing it: with it, it can be removed or ended.
    #[must_use]
    pub fn record(&self) -> Option<&SessionRecord> {
        match &self.state {
            State::Open { record, .. } => Some(record),
            State::Fresh | State::Lost(_) => None,
        }
    }

    fn expire(&mut self, now: Moment) {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.state = State::Lost(Loss::Expired);
        }
    }
}
