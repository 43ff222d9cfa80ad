//! One client's part in one lock: acquire, wait, hold, leave.
//!
//! The machine is level-triggered. It keeps what is *known* of the lock's Lease and what it has to do with it: at most one
//! acquisition whose *turn* it is, what it *holds*, and what it is about to *leave*. [`Contender::poll`] derives from these
//! the one request to send next. Whatever goes wrong makes the lock unknown; then it is read, and the same rules apply
//! again. No answer is guessed at: a request whose answer never came is remembered with its acquisition's id until
//! nothing of it can come true any more.
//!
//! Of a lock there is one thing at a time: a turn, or a hold, or something to leave. Of a semaphore or a read-write lock
//! a client can hold several parts.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::observer::End;
use super::record::Tenancy;
use super::write::Write;
use super::{Holder, HolderId, Kind, Mode, Moment, Now, Record, ReleaseRequest, SessionId, Version};

mod death;
mod decide;
mod guess;
mod held;
mod learn;
mod lending;
mod pace;
mod recollection;
mod refuse;
mod terms;
mod watch;

use guess::Heard;
pub use recollection::Recollection;
pub use terms::{Answer, Denial, Loss, Next, Notice, Refusal, Wish};

/// A waiter this near to the head watches the sessions of the holder and of all who are ahead of it.
const NEAR: usize = 4;

/// So many waiters with keys of their own are folded into one key.
pub const FOLD_FROM: usize = 8;

/// One client's part in one lock.
#[derive(Clone, Debug, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Contender {
    name: String,
    session_duration: Duration,
    grace: Duration,
    known: Known,
    /// What was known when a write was refused. It is out of date, but tells still which Lease this is.
    outdated: Option<Box<Record>>,
    /// A watch is about to show why a write was refused. Until then it is not read.
    shown_until: Moment,
    /// The highest version seen. Anything older is old news.
    floor: Version,
    turn: Option<Turn>,
    holds: Vec<Hold>,
    exits: Vec<Exit>,
    /// Acquisitions of which something may still come true.
    ghosts: Vec<Ghost>,
    in_flight: Option<InFlight>,
    failures: u32,
    /// Writes refused one after the other in one phase. Reads in between do not count.
    refusals: u32,
    /// Until then it takes a place in the queue without trying to do without.
    outrun_until: Moment,
    /// Until then whoever has ended is left to others: this client may not remove them (`config/strict`).
    leaves_the_dead_until: Option<Moment>,
    /// From so many waiters with keys of their own on they are folded into one.
    fold_from: usize,
    /// The Lease cannot be removed: it is freed instead.
    keep_lease: bool,
    /// Since when holder and head of the queue are the same.
    front: Option<(Tenancy, Option<HolderId>, Moment)>,
    /// Since when the holder is the same.
    tenancy: Option<(Tenancy, Moment)>,
    /// They have been for so long that also who is far back sees to whether the holder lives.
    stuck: bool,
    /// The lock is free, or its holder has ended.
    vacant: bool,
    last_failure: String,
    retry_at: Moment,
    /// When the lock is to be read again though nothing happened.
    read_at: Moment,
    /// The holders that live by their own records, and since when these have not changed.
    own_seen: BTreeMap<String, (OwnRecord, Moment)>,
    /// What time it is by both clocks, and by how much wall clocks differ at most, where that may be relied on.
    wall: Option<(Now, Duration)>,
    /// Since when those who share it have been seen to hold it.
    held_since: BTreeMap<HolderId, Moment>,
    /// A write of this client's has left somebody at the head of the queue who may not know.
    untold: bool,
    /// What observers told of other sessions: how they have ended, or that they live.
    verdicts: BTreeMap<SessionId, Option<End>>,
    /// A watch tells of changes to what this client holds.
    watched: bool,
    /// It tells of all that happens to the Lease.
    sees_all: bool,
    /// And so it is read again only after a long time.
    relies_on_watch: bool,
    /// What is held is to be read then, watched or not.
    look_at: Option<Moment>,
    notices: VecDeque<Notice>,
    jitter: u64,
}

#[derive(Clone, Debug, Hash)]
enum Known {
    Unknown,
    Absent,
    Present(Box<Record>),
}

/// An acquisition that is not a hold yet.
#[derive(Clone, Debug, Hash)]
struct Turn {
    id: HolderId,
    wish: Wish,
    stage: Stage,
    started: Moment,
    /// A request sent after the start has been answered.
    fresh: bool,
    /// Since when it is known to be held.
    held_since: Option<Moment>,
    /// What those hold elsewhere who wait by it, if that is to be said.
    holds: Option<Vec<HolderId>>,
    /// It has waited for so long that it sees all that happens there: that costs less than to look again and again.
    quiet: bool,
    heard: Heard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Finding out, and doing, what it takes: take it, or join the queue.
    Seeking,
    /// In the queue.
    Waiting,
    /// Granted, and to be confirmed by a renewal, since it is to live by the lock's own record.
    Confirming,
}

#[derive(Clone, Debug, Hash)]
struct Hold {
    id: HolderId,
    wish: Wish,
    token: u64,
    tenancy: Tenancy,
    /// Only where it lives by its own record.
    own: Option<OwnTerm>,
    /// It is to become this.
    change: Option<Mode>,
    /// What is to stand beside it, if anything was ever said of that.
    payload: Option<Payload>,
    /// What it was last asked.
    request: Option<ReleaseRequest>,
    lost: bool,
}

/// What is to stand beside a hold.
#[derive(Clone, Debug, Hash)]
struct Payload {
    text: String,
    /// Somebody waits to hear that it stands there.
    awaited: bool,
}

/// What is being given up, whatever there is of it.
#[derive(Clone, Debug, Hash)]
struct Exit {
    id: HolderId,
    /// It had been lost before.
    lost: bool,
    /// A write of this client's may have ended it, or there never was a hold.
    ours: bool,
    /// It is left there, for so long from then on.
    keep: Option<Duration>,
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
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct InFlight {
    sent: Moment,
    /// The acquisition that this request may give a hold or a place in the queue, or more or less than it has.
    claim: Option<HolderId>,
    /// It starts or renews a hold that lives by its own record, for so long.
    renews: Option<(HolderId, Duration)>,
    is_read: bool,
    is_removal: bool,
    /// Its condition is the whole Lease as seen.
    replaces: bool,
    /// It was sent to give up this acquisition.
    leaving: Option<HolderId>,
    /// It was sent to say this beside this hold.
    publishes: Option<(HolderId, String)>,
    reports: bool,
    shifts: bool,
    /// It creates what was not looked for.
    supposes_absent: bool,
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

/// What to do next, and what it would mean.
struct Step {
    next: Next,
    /// It starts or renews a hold that lives by its own record.
    renews: Option<(HolderId, Duration)>,
    /// It is to give up this acquisition.
    leaving: Option<HolderId>,
    /// It says this beside this hold.
    publishes: Option<(HolderId, String)>,
    /// It makes more or less of this hold.
    changes: Option<HolderId>,
    /// It says what a waiter holds elsewhere.
    reports: bool,
    /// After it somebody else may be at the head of the queue.
    shifts: bool,
}

impl From<Next> for Step {
    fn from(next: Next) -> Self {
        Self { next, renews: None, leaving: None, publishes: None, changes: None, reports: false, shifts: false }
    }
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
            outdated: None,
            shown_until: Moment::default(),
            floor: Version::default(),
            turn: None,
            holds: Vec::new(),
            exits: Vec::new(),
            ghosts: Vec::new(),
            in_flight: None,
            failures: 0,
            refusals: 0,
            outrun_until: Moment::default(),
            leaves_the_dead_until: None,
            fold_from: FOLD_FROM,
            keep_lease: false,
            front: None,
            tenancy: None,
            stuck: false,
            vacant: false,
            last_failure: String::new(),
            retry_at: Moment::default(),
            read_at: Moment::default(),
            own_seen: BTreeMap::new(),
            wall: None,
            held_since: BTreeMap::new(),
            untold: false,
            verdicts: BTreeMap::new(),
            watched: false,
            sees_all: false,
            relies_on_watch: false,
            look_at: None,
            notices: VecDeque::new(),
            jitter: seed,
        }
    }

    /// Folds the queue when so many wait. For tests with fewer clients than have to wait as a rule.
    #[must_use]
    pub fn fold_from(mut self, waiters: usize) -> Self {
        self.fold_from = waiters;
        self
    }

    // ------------------------------------------------------------------------------------------------ from the user

    /// Begin an acquisition under an id never used before. There is one turn at a time, and of a lock one hold.
    pub fn start(&mut self, id: HolderId, wish: Wish, now: Moment) {
        debug_assert!(self.turn.is_none() && (wish.kind != Kind::Lock || !self.is_engaged()), "one at a time");
        (self.failures, self.refusals) = (0, 0);
        self.turn = Some(Turn {
            id,
            wish,
            stage: Stage::Seeking,
            started: now,
            fresh: false,
            held_since: None,
            holds: None,
            quiet: false,
            heard: Heard::Nothing,
        });
    }

    /// Say on the Lease what those hold elsewhere who wait by this acquisition.
    pub fn report(&mut self, id: &HolderId, holds: Vec<HolderId>) {
        if let Some(turn) = self.turn.as_mut().filter(|turn| turn.id == *id) {
            turn.holds = Some(holds);
        }
    }

    /// The session by which this client waited and held is over.
    ///
    /// Its ghosts are forgotten: what comes true of them belongs to a session that others end.
    pub fn session_lost(&mut self, session: &SessionId) {
        self.ghosts.retain(|ghost| ghost.id.session != *session);
        if let Some(turn) = self.turn.take_if(|turn| turn.id.session == *session) {
            let id = turn.id;
            self.notices.push_back(Notice::Refused { id: id.clone(), why: Refusal::SessionLost });
            self.exits.push(Exit { id, lost: false, ours: true, keep: None });
        }
        for hold in &mut self.holds {
            if hold.id.session == *session && hold.own.is_none() && !hold.lost {
                hold.lost = true;
                self.notices.push_back(Notice::Lost { id: hold.id.clone(), loss: Loss::Expired });
            }
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
            self.forget();
        }
    }

    /// A watch that shows all that concerns this client has shown all there was until now.
    pub fn is_up_to_date(&mut self, now: Moment) {
        if self.relies_on_watch && self.in_flight.is_none() {
            self.look_again(now);
        }
    }

    /// What is known may be out of date: a watch was interrupted.
    pub fn doubt(&mut self) {
        self.forget();
    }

    fn forget(&mut self) {
        (self.known, self.outdated, self.shown_until) = (Known::Unknown, None, Moment::default());
    }

    /// Whether a watch tells of changes to what this client holds, and whether it shows all that happens.
    pub fn set_watched(&mut self, watched: bool, all: bool) {
        (self.watched, self.sees_all) = (watched, watched && all);
    }

    /// An observer's word on a session of [`Contender::sessions_to_observe`]: how it has ended, or that it lives.
    pub fn verdict(&mut self, session: SessionId, end: Option<End>) {
        let known = self.verdicts.entry(session).or_default();
        // That it has ended is for good, and certain since it was first told.
        let since = known.map(|known| known.since).into_iter().chain(end.map(|end| end.since)).min();
        *known = end.or(*known).zip(since).map(|(end, since)| End { since, ..end });
    }

    // -------------------------------------------------------------------------------------------------- to the driver

    /// What to tell the user.
    pub fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Nothing is going on, and nothing can come true any more.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.is_engaged() && self.ghosts.is_empty() && self.in_flight.is_none()
    }

    /// An acquisition is going on, or held, or being given up.
    #[must_use]
    pub fn is_engaged(&self) -> bool {
        self.turn.is_some() || !self.holds.is_empty() || !self.exits.is_empty()
    }

    /// This acquisition is going on, or held, or being given up.
    #[must_use]
    pub fn has(&self, id: &HolderId) -> bool {
        self.ids().any(|has| has == id)
    }

    /// The acquisition that is going on, or else one that is held, or else one that is being given up.
    #[must_use]
    pub fn current(&self) -> Option<&HolderId> {
        self.ids().next()
    }

    fn ids(&self) -> impl Iterator<Item = &HolderId> {
        let (holds, exits) = (self.holds.iter().map(|hold| &hold.id), self.exits.iter().map(|exit| &exit.id));
        self.turn.iter().map(|turn| &turn.id).chain(holds).chain(exits)
    }

    /// Something this client sent may still come true.
    #[must_use]
    pub fn is_unclear(&self) -> bool {
        !self.ghosts.is_empty()
    }

    /// What to do next. After a request was handed out, nothing is until its [`answer`](Self::answer).
    pub fn poll(&mut self, now: Now) -> Next {
        let skew = self.turn.as_ref().and_then(|turn| turn.wish.max_clock_skew);
        self.wall = skew.map(|skew| (now, skew));
        self.leaves_the_dead_until = self.leaves_the_dead_until.filter(|until| now.moment < *until);
        match &self.in_flight {
            // What a watch has shown need not wait for a read's answer.
            Some(request) if request.is_read => {
                self.advance(now.moment);
                return Next::Wait(None);
            }
            Some(_) => return Next::Wait(None),
            None => self.advance(now.moment),
        }
        let Step { next, renews, leaving, publishes, changes, reports, shifts } = self.next(now);
        let is_read = match &next {
            Next::Wait(_) => return next,
            Next::Read | Next::Check => true,
            Next::Write(_) => false,
        };
        self.in_flight = Some(InFlight {
            sent: now.moment,
            claim: changes.or_else(|| self.turn.as_ref().filter(|_| leaving.is_none()).map(|turn| turn.id.clone())),
            renews,
            is_read,
            is_removal: matches!(next, Next::Write(Write::Delete { .. })),
            replaces: matches!(next, Next::Write(Write::Replace(_))),
            leaving,
            publishes,
            reports,
            shifts,
            supposes_absent: !is_read && matches!(self.known, Known::Unknown) && self.supposes_absent(),
            floor: self.floor,
        });
        next
    }
}
