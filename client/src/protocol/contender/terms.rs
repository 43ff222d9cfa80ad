//! What is said to a contender, and what it says.

use std::sync::Arc;
use std::time::Duration;

use super::super::write::Write;
use super::super::{HolderId, Kind, Mode, Moment, Record, ReleaseRequest};

/// What a client wants of a lock.
#[derive(Clone, Debug, Hash)]
pub struct Wish {
    /// The resource id, where it is not the Lease's name. It is written on the Lease.
    pub resource_id: Option<Arc<str>>,
    /// What the Lease is for.
    pub kind: Kind,
    /// How much of it.
    pub mode: Mode,
    /// How many permits there are, where the client says that.
    pub permits: Option<u32>,
    /// The lock's own lease duration, if it is to live by its own record rather than by the session.
    pub own_duration: Option<Duration>,
    /// Renew by itself, where the hold lives by its own record.
    pub renewal: bool,
    /// Queue up if the lock is held. Otherwise the acquisition is refused.
    pub queue: bool,
    /// How long to wait for a first clear answer of the API server.
    pub patience: Duration,
    /// By how much other machines' wall clocks differ from this one's at most, where that may be relied on: then a holder
    /// that lives by its own record is over by what stands there, and need not have been watched for so long.
    pub max_clock_skew: Option<Duration>,
}

impl Default for Wish {
    /// A lock, by the session, waited for.
    fn default() -> Self {
        Self {
            resource_id: None,
            kind: Kind::Lock,
            mode: Mode::default(),
            permits: None,
            own_duration: None,
            renewal: true,
            queue: true,
            patience: Duration::from_secs(10),
            max_clock_skew: None,
        }
    }
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
        /// Until when it may be held at most, where the custom resource says that: its grace after that others may evict it.
        allowed_until: Option<Moment>,
    },
    /// The acquisition has failed. Nothing of it stays.
    Refused {
        /// The acquisition.
        id: HolderId,
        /// Why.
        why: Refusal,
    },
    /// A hold that lives by its own record has been renewed.
    Renewed {
        /// The acquisition.
        id: HolderId,
        /// Until when.
        deadline: Moment,
    },
    /// A hold has become more or less than it was.
    Changed {
        /// The acquisition.
        id: HolderId,
        /// What it is now.
        mode: Mode,
        /// Its fencing token from now on.
        token: u64,
    },
    /// What was to stand beside a hold stands there, or why it does not and will not.
    Published {
        /// The acquisition.
        id: HolderId,
        /// The reason, for people.
        outcome: Result<(), String>,
    },
    /// Somebody asks the holder to let go, or nobody any more.
    Requested {
        /// The acquisition.
        id: HolderId,
        /// Who asks, and how.
        request: Option<ReleaseRequest>,
    },
    /// The hold is lost, for good.
    Lost {
        /// The acquisition.
        id: HolderId,
        /// Why.
        loss: Loss,
    },
    /// What there is of the acquisition stands, perhaps, on a Lease that cannot be read, and so cannot be given back: its
    /// session is to be given up, so that others pass it over.
    Abandoned {
        /// The acquisition.
        id: HolderId,
    },
    /// The acquisition is over. Whether it had been a hold until then.
    Left {
        /// The acquisition.
        id: HolderId,
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
    /// So many hold it and wait for it that no more find room on its Lease, or may wait.
    Full {
        /// How many hold it.
        holders: usize,
        /// How many wait.
        waiters: usize,
        /// How many may wait at once, where that is in the way.
        limit: Option<u32>,
    },
    /// It waits in a circle, and was told so by the operator: who waits for whom, for people.
    Deadlock(String),
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
