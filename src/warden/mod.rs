//! The warden sees that no dead client stays in anybody's way.
//!
//! It watches every Lease of locks and of client sessions, ends sessions that have fallen silent, takes what has ended
//! off the locks, semaphores and read-write locks, lets in who is next, and clears away what nobody uses. It knows nothing of custom
//! resources, and works the same for locks that have one and for locks that were made on the spot.
//!
//! | module | what it does |
//! | --- | --- |
//! | `state`, `sessions`, `locks` | everything known, as a machine: sights and answers in, requests out; pure |
//! | `evidence` | sessions whose processes are known to have ended; pure |
//! | `deadlocks` | who waits for whom in a circle, and who is to give up; pure |
//! | `troubles` | what people are to be told; pure |
//! | `lock`, `breaks`, `holders`, `decide` | one lock: what is known, whether a hold was broken, which holders are to be evicted, what is to be done; pure |
//! | `ages` | how long it is held and waited for, for people; pure |
//! | `run` | the loop that watches and sends |
//!
//! The machine is public so that it can be simulated. Its shape may change in any release.

mod ages;
mod alarms;
mod breaks;
mod deadlocks;
mod decide;
mod evidence;
mod holders;
mod incidents;
mod lock;
mod locks;
mod run;
mod sessions;
mod state;
mod troubles;
#[cfg(test)]
mod unreadable;

pub use ages::{ByLiveness, Longest};
pub use breaks::Break;
pub use decide::{Deed, DeedKind};
pub use holders::Why;
pub use incidents::Incident;
pub(crate) use run::{Post, Tools, run, watch};
pub(crate) use state::is_known;
pub use state::{Census, Done, Task, Warden, What};
pub use troubles::Troubles;

use std::fmt;

/// Where a Lease is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Place {
    /// The place of this name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn is_session(&self) -> bool {
        self.name.starts_with(leasehold::protocol::record::SESSION_PREFIX)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod malformed;
#[cfg(test)]
mod simulation;
