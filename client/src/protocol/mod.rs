//! The locking protocol, pure: no async, no clock, no Kubernetes client.
//!
//! Everything here is `(state, event, now) → (state', what to do next)`. Time comes in as a [`Moment`], requests go out
//! as [`Write`]s, and whoever drives a machine (the crate's own driver, the operator, a model checker) does the rest.
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`record`] | what stands on a lock's Lease and on a session's Lease |
//! | [`policy`] | what its custom resource wants of everybody who uses it |
//! | [`name`] | under which name a resource's Lease stands |
//! | [`write`](mod@write) | every guarded command: one request, with its condition and its change |
//! | [`want`] | what is shared, and how much of it somebody wants |
//! | [`grant`] | who is next: "as many from the head as fit" |
//! | [`deadlock`] | who waits for whom, in a circle |
//! | [`contender`] | one client's part in one lock: acquire, wait, hold, leave |
//! | [`lending`] | one hold that several tasks of a process have, one after the other |
//! | [`session`] | this process's heartbeat |
//! | [`observer`] | another session seen from outside: alive, or ended |
//!
//! This module is public for the operator and for tools. Its shape may change in any release.

pub mod contender;
pub mod deadlock;
pub mod grant;
mod id;
pub mod lending;
mod moment;
pub mod name;
pub mod observer;
pub mod policy;
pub mod record;
mod request;
pub mod session;
pub mod want;
pub mod write;

pub use id::{BadId, HolderId, SessionId, Ticket, Version};
pub use moment::{Moment, Now};
pub use policy::{Policy, Reclaim};
pub use record::{Holder, Liveness, Malformed, Record, Waiter};
pub use request::ReleaseRequest;
pub use want::{Kind, Mode, Want};
pub use write::Write;

use std::time::Duration;

/// How far any two machines' clocks may drift apart: 1 %.
const DRIFT: f64 = 1.01;

/// The longest duration a session may have. An absent session counts as dead after this long.
pub const LONGEST_SESSION: Duration = Duration::from_secs(60);

/// How long after it was sent a request may still be carried out by the API server, whatever the sender heard.
///
/// An API server works on a request for at most a minute; the rest is for what the network and etcd add.
pub const LATEST_COMMIT: Duration = Duration::from_secs(90);

/// Whether what lives for so long can be renewed before the deadline that this grace leaves it.
#[must_use]
pub fn leaves_time_to_renew(duration: Duration, grace: Duration) -> bool {
    deadline(Moment::default(), duration, grace) > Moment::default() + renew_interval(duration)
}

/// Until when the sender of a successful renewal may believe in it.
///
/// An observer waits for the whole `duration` on its own clock, from the time it *received* the renewal. The sender
/// counts from the time it *sent* it, with a clock that may be slower by [1 %](self), and stops `grace` earlier, so
/// that what it runs can be stopped in time. A little slack pays for the way from the check to the work.
#[must_use]
pub fn deadline(sent: Moment, duration: Duration, grace: Duration) -> Moment {
    let slack = (duration / 50).clamp(Duration::from_millis(10), Duration::from_millis(500));
    sent + duration.saturating_sub(grace).div_f64(DRIFT).saturating_sub(slack)
}

/// How often something of this duration is renewed: a third of it.
#[must_use]
pub fn renew_interval(duration: Duration) -> Duration {
    duration / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_comes_before_any_observer_can_have_waited_for_the_whole_duration() {
        let sent = Moment::from_start(Duration::from_secs(1000));
        for seconds in 1..=60 {
            let duration = Duration::from_secs(seconds);
            // The observer received what was sent, so it began to wait no earlier, and waits on a clock that runs 1 %
            // faster than the holder's.
            let earliest_end = sent + duration.div_f64(1.01);
            let until = deadline(sent, duration, Duration::ZERO);
            assert!(until < earliest_end, "{seconds} s");
            assert!(until > sent + duration.mul_f64(0.95), "{seconds} s: more is given away than need be");
            let grace = duration / 2;
            assert!(deadline(sent, duration, grace) + grace.div_f64(1.01) <= until + Duration::from_millis(1));
        }
    }
}
