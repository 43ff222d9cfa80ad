//! One client's part in one lock: acquire, wait, hold, leave.
//!
//! The machine is level-triggered. It keeps what is *known* of the lock's Lease and what *phase* its one acquisition is
//! in, and [`Contender::poll`] derives from these two the one request to send next. Whatever goes wrong makes the lock
//! unknown; then it is read, and the same rules apply again. No answer is guessed at: a request whose answer never came
//! is remembered with its acquisition's id until nothing of it can come true any more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::record::Tenancy;
use super::write::Write;
use super::{HolderId, Liveness, Moment, Now, Record, SessionId, Version};

mod decide;
mod learn;

/// A waiter this near to the head watches the sessions of the holder and of all who are ahead of it.
const NEAR: usize = 4;

/// What a client wants of a lock.
#[derive(Clone, Debug, Hash)]
pub struct Wish {
    /// The lock's own lease duration, if it is to live by its own record rather than by the session.
    pub own_duration: Option<Duration>,
    /// Renew by itself, where the hold lives by its own record.
    pub renewal: bool,
    /// Queue up if the lock is held. Otherwise the acquisition is refused.
    pub queue: bool,
    /// How long to wait for a first clear answer of the API server.
    pub patience: Duration,
}

/// One client's part in one lock.
#[derive(Clone, Debug, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Contender {
    name: String,
    session_duration: Duration,
    grace: Duration,
    known: Known,
    /// The highest version seen. Anything older is old news.
    floor: Version,
    phase: Phase,
    /// Acquisitions of which something may still come true.
    ghosts: Vec<Ghost>,
    in_flight: Option<InFlight>,
    failures: u32,
    /// Writes refused one after the other in one phase. Reads in between do not count.
    refusals: u32,
    /// The Lease cannot be removed: it is freed instead.
    keep_lease: bool,
    /// Since when holder and head of the queue are the same.
    front: Option<(Tenancy, Option<HolderId>, Moment)>,
    /// They have been for so long that also who is far back sees to whether the holder lives.
    stuck: bool,
    /// The lock is free, or its holder has ended.
    vacant: bool,
    last_failure: String,
    retry_at: Moment,
    /// When the lock is to be read again though nothing happened.
    read_at: Moment,
    /// The holder that lives by its own record, and since when that has not changed.
    own_seen: Option<(OwnRecord, Moment)>,
    /// What observers told of other sessions: whether they have ended.
    verdicts: BTreeMap<SessionId, bool>,
    /// A watch tells of changes to what this client holds.
    watched: bool,
    notices: VecDeque<Notice>,
    jitter: u64,
}

#[derive(Clone, Debug, Hash)]
enum Known {
    Unknown,
    Absent,
    Present(Box<Record>),
}

#[derive(Clone, Debug, Hash)]
enum Phase {
    Idle,
    /// Finding out, and doing, what it takes: take it, or join the queue.
    Seeking(Turn),
    /// In the queue.
    Waiting(Turn),
    /// Granted, and to be confirmed by a renewal, since it is to live by the lock's own record.
    Confirming(Turn),
    Holding(Hold),
    /// Giving up whatever there is of this acquisition.
    Leaving(Exit),
}

#[derive(Clone, Debug, Hash)]
struct Turn {
    id: HolderId,
    wish: Wish,
    started: Moment,
    /// A request sent after the start has been answered.
    fresh: bool,
}

#[derive(Clone, Debug, Hash)]
struct Hold {
    id: HolderId,
    wish: Wish,
    tenancy: Tenancy,
    /// Only where it lives by its own record.
    own: Option<OwnTerm>,
    lost: bool,
}

#[derive(Clone, Debug, Hash)]
struct Exit {
    id: HolderId,
    /// It had been lost before.
    lost: bool,
    /// A write of this client's may have ended it, or there never was a hold.
    ours: bool,
}

#[derive(Clone, Copy, Debug, Hash)]
struct OwnTerm {
    duration: Duration,
    deadline: Moment,
    renew_at: Option<Moment>,
}

#[derive(Clone, Debug, Hash)]
struct Ghost {
    id: HolderId,
    until: Moment,
}

#[derive(Clone, Debug, Hash)]
struct InFlight {
    sent: Moment,
    /// The acquisition that this request may give a hold or a place in the queue.
    claim: Option<HolderId>,
    /// It starts or renews a hold that lives by its own record, for so long.
    renews: Option<Duration>,
    is_read: bool,
    is_removal: bool,
    /// It was sent to give up the acquisition.
    leaving: bool,
    floor: Version,
}

/// What tells one state of a record that lives by itself from the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct OwnRecord {
    tenancy: Tenancy,
    identity: String,
    renewed: Option<jiff::Timestamp>,
    duration: Duration,
}

/// What to do next.
#[derive(Clone, Debug)]
pub enum Next {
    /// Read the lock's Lease.
    Read,
    /// Read the lock's Lease if it can be afforded: nothing is wrong, and a while has passed.
    Check,
    /// Write to the lock's Lease.
    Write(Write),
    /// Nothing, until an event or this time.
    Wait(Option<Moment>),
}

/// What to do next, and what it would mean.
enum Step {
    Plain(Next),
    /// It starts or renews a hold that lives by its own record.
    Renewing(Write),
}

/// How a request went.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It was carried out, and this is what stands there now.
    Is(Box<Record>),
    /// There is no such Lease: nothing was written.
    Absent,
    /// The Lease has been removed by this request.
    Removed,
    /// Its condition did not hold: nothing was written.
    Refused,
    /// Whether it was carried out cannot be told.
    Unclear(String),
    /// It was not carried out: too many requests.
    Throttled(String),
    /// It was not carried out, and will not be: the reason for people.
    Denied(Denial, String),
    /// A [`Next::Check`] was not made.
    Skipped,
}

/// Why the API server will not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// Not allowed.
    Forbidden,
    /// Not valid.
    Invalid,
}

/// Something the user is to be told.
#[derive(Clone, Debug, Hash)]
pub enum Notice {
    /// The lock is held.
    Acquired {
        /// The acquisition.
        id: HolderId,
        /// Its fencing token.
        token: u64,
        /// Until when, where it lives by its own record.
        deadline: Option<Moment>,
    },
    /// The acquisition has failed. Nothing of it stays.
    Refused {
        /// The acquisition.
        id: HolderId,
        /// Why.
        why: Refusal,
    },
    /// A hold that lives by its own record has been renewed, until then.
    Renewed(Moment),
    /// The hold is lost, for good.
    Lost(Loss),
    /// The acquisition is over. Whether it had been a hold until then.
    Left {
        /// It was still held when it was released (or it never had been and was cancelled).
        clean: bool,
    },
}

/// Why an acquisition failed.
#[derive(Clone, Debug, Hash)]
pub enum Refusal {
    /// Somebody else holds the lock, or is ahead in the queue.
    Held {
        /// The holder's identity, as it stands on the Lease. Empty where the lock is free and others are ahead.
        holder: String,
    },
    /// The API server did not answer in time.
    Unavailable(String),
    /// The API server will not do it.
    Denied(Denial, String),
    /// The session by which it waited is over.
    SessionLost,
}

/// Why a hold was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// It was not renewed in time.
    Expired,
    /// Somebody took the lock away, or removed its Lease.
    Broken,
}

impl Contender {
    /// A client that has nothing to do with the lock yet. `seed` makes its delays differ from other clients';
    /// with 0 there is no jitter, and the same events lead to the same state.
    #[must_use]
    pub fn new(name: String, session_duration: Duration, grace: Duration, seed: u64) -> Self {
        Self {
            name,
            session_duration,
            grace,
            known: Known::Unknown,
            floor: Version::default(),
            phase: Phase::Idle,
            ghosts: Vec::new(),
            in_flight: None,
            failures: 0,
            refusals: 0,
            keep_lease: false,
            front: None,
            stuck: false,
            vacant: false,
            last_failure: String::new(),
            retry_at: Moment::default(),
            read_at: Moment::default(),
            own_seen: None,
            verdicts: BTreeMap::new(),
            watched: false,
            notices: VecDeque::new(),
            jitter: seed,
        }
    }

    // ------------------------------------------------------------------------------------------------ from the user

    /// Begin an acquisition under an id never used before. There is one at a time.
    pub fn start(&mut self, id: HolderId, wish: Wish, now: Moment) {
        debug_assert!(matches!(self.phase, Phase::Idle), "one acquisition at a time");
        (self.failures, self.refusals) = (0, 0);
        self.phase = Phase::Seeking(Turn { id, wish, started: now, fresh: false });
    }

    /// Give up whatever there is of the acquisition: cancel it, or release the hold.
    pub fn leave(&mut self) {
        let exit = match &self.phase {
            Phase::Idle | Phase::Leaving(_) => return,
            Phase::Seeking(turn) | Phase::Waiting(turn) | Phase::Confirming(turn) => {
                Exit { id: turn.id.clone(), lost: false, ours: true }
            }
            Phase::Holding(hold) => Exit { id: hold.id.clone(), lost: hold.lost, ours: false },
        };
        self.phase = Phase::Leaving(exit);
        self.refusals = 0;
    }

    /// Renew a hold that lives by its own record now, whether it is due or not.
    pub fn renew_now(&mut self, now: Moment) {
        if let Phase::Holding(Hold { own: Some(own), .. }) = &mut self.phase {
            own.renew_at = Some(now);
        }
    }

    /// The session by which this client waited and held is over.
    ///
    /// Its ghosts are forgotten: what comes true of them belongs to a session that others end.
    pub fn session_lost(&mut self, session: &SessionId) {
        self.ghosts.retain(|ghost| ghost.id.session != *session);
        match &mut self.phase {
            Phase::Seeking(turn) | Phase::Waiting(turn) | Phase::Confirming(turn) if turn.id.session == *session => {
                let id = turn.id.clone();
                self.notices.push_back(Notice::Refused { id: id.clone(), why: Refusal::SessionLost });
                self.phase = Phase::Leaving(Exit { id, lost: false, ours: true });
            }
            Phase::Holding(hold) if hold.id.session == *session && hold.own.is_none() && !hold.lost => {
                hold.lost = true;
                self.notices.push_back(Notice::Lost(Loss::Expired));
            }
            _ => {}
        }
    }

    // ------------------------------------------------------------------------------------------- from the API server

    /// A watch showed the lock's Lease like this.
    pub fn saw(&mut self, record: Record, now: Moment) {
        self.adopt(record, now);
    }

    /// A watch told that at this version the Lease went out of its sight. What it was then is not known.
    pub fn went_out_of_sight(&mut self, version: Version) {
        if version > self.floor {
            self.floor = version;
            self.known = Known::Unknown;
        }
    }

    /// What is known may be out of date: a watch was interrupted.
    pub fn doubt(&mut self) {
        self.known = Known::Unknown;
    }

    /// Whether a watch tells of changes to what this client holds.
    pub fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// An observer's word on a session of [`Contender::sessions_to_observe`].
    pub fn verdict(&mut self, session: SessionId, ended: bool) {
        self.verdicts.insert(session, ended);
    }

    // -------------------------------------------------------------------------------------------------- to the driver

    /// What to tell the user.
    pub fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Nothing is going on, and nothing can come true any more.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle) && self.ghosts.is_empty() && self.in_flight.is_none()
    }

    /// An acquisition is going on, or held, or being given up.
    #[must_use]
    pub fn is_engaged(&self) -> bool {
        !matches!(self.phase, Phase::Idle)
    }

    /// Something this client sent may still come true.
    #[must_use]
    pub fn is_unclear(&self) -> bool {
        !self.ghosts.is_empty()
    }

    /// From which version on the Lease is to be watched for this session's grant, while it waits.
    #[must_use]
    pub fn watch_from(&self) -> Option<Version> {
        match (&self.phase, &self.known) {
            (Phase::Waiting(_), Known::Present(record)) => Some(record.version),
            _ => None,
        }
    }

    /// From which version on the Lease is to be watched for the loss of what is held.
    #[must_use]
    pub fn watch_hold_from(&self) -> Option<Version> {
        match (&self.phase, &self.known) {
            (Phase::Holding(hold), Known::Present(record)) if !hold.lost => Some(record.version),
            _ => None,
        }
    }

    /// The sessions whose end would let this client go ahead. `None` while that is not known.
    #[must_use]
    pub fn sessions_to_observe(&self) -> Option<BTreeSet<SessionId>> {
        let mut sessions = BTreeSet::new();
        let Some(turn) = self.turn() else { return Some(sessions) };
        let record = match &self.known {
            Known::Present(record) => record,
            Known::Absent => return Some(sessions),
            Known::Unknown => return None,
        };
        let position = record.position(&turn.id).unwrap_or(record.waiters.len());
        let joining = turn.wish.queue && matches!(self.phase, Phase::Seeking(_));
        let near = position < NEAR;
        if joining || !(near || self.stuck) {
            return Some(sessions);
        }
        if let Some(Liveness::Session(session)) = record.holder.as_ref().map(|holder| &holder.liveness) {
            sessions.insert(session.clone());
        }
        // Who is far back looks at those ahead only when the lock waits for one of them. Who does not queue, never.
        if turn.wish.queue && (near || self.vacant) {
            sessions.extend(record.waiters[..position].iter().map(|waiter| waiter.id.session.clone()));
        }
        sessions.remove(&turn.id.session);
        Some(sessions)
    }

    /// The acquisition that is wanted or held at present.
    #[must_use]
    pub fn current(&self) -> Option<&HolderId> {
        match &self.phase {
            Phase::Seeking(turn) | Phase::Waiting(turn) | Phase::Confirming(turn) => Some(&turn.id),
            Phase::Holding(hold) => Some(&hold.id),
            Phase::Leaving(exit) => Some(&exit.id),
            Phase::Idle => None,
        }
    }

    /// Who is ahead, for people: the holder's identity, and how many wait before this client.
    #[must_use]
    pub fn ahead(&self) -> (String, usize) {
        match (self.turn(), &self.known) {
            (Some(turn), Known::Present(record)) => (
                record.holder.as_ref().map(|holder| holder.identity.clone()).unwrap_or_default(),
                record.position(&turn.id).unwrap_or(record.waiters.len()),
            ),
            _ => (String::new(), 0),
        }
    }

    /// What to do next. After a request was handed out, nothing is until its [`answer`](Self::answer).
    pub fn poll(&mut self, now: Now) -> Next {
        match &self.in_flight {
            // What a watch has shown need not wait for a read's answer.
            Some(request) if request.is_read => {
                self.advance(now.moment);
                return Next::Wait(None);
            }
            Some(_) => return Next::Wait(None),
            None => self.advance(now.moment),
        }
        let (next, renews) = match self.next(now) {
            Step::Plain(next) => (next, None),
            Step::Renewing(write) => (Next::Write(write), self.own_duration()),
        };
        let is_read = match &next {
            Next::Wait(_) => return next,
            Next::Read | Next::Check => true,
            Next::Write(_) => false,
        };
        self.in_flight = Some(InFlight {
            sent: now.moment,
            claim: self.turn().map(|turn| turn.id.clone()),
            renews,
            is_read,
            is_removal: matches!(next, Next::Write(Write::Delete { .. })),
            leaving: matches!(self.phase, Phase::Leaving(_)),
            floor: self.floor,
        });
        next
    }

    fn turn(&self) -> Option<&Turn> {
        match &self.phase {
            Phase::Seeking(turn) | Phase::Waiting(turn) | Phase::Confirming(turn) => Some(turn),
            Phase::Idle | Phase::Holding(_) | Phase::Leaving(_) => None,
        }
    }
}
