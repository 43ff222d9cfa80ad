//! The scenarios that are searched.

use std::time::Duration;

use super::scenario::Fault::{Break, Crash, DeleteLock, DeleteSession, Lost, LostSession, Twice, WatchBreaks};
use super::scenario::Scenario;

/// Small ones, for every change.
pub(super) fn quick() -> Vec<Scenario> {
    vec![
        Scenario { allowed: &[Lost, Twice], ticks: 1, cancels: 1, ..Scenario::plain("two, lost and repeated requests") },
    ]
}

/// All.
pub(super) fn all() -> Vec<Scenario> {
    let mut all = quick();
    all.extend([
        Scenario { clients: 3, allowed: &[Lost], ticks: 1, ..Scenario::plain("three, lost requests") },
        Scenario { allowed: &[Crash, WatchBreaks], ticks: 4, ..Scenario::plain("two, crash") },
        Scenario { clients: 3, queued: 3, allowed: &[Crash, WatchBreaks], ticks: 5, ..Scenario::plain("queue, crash") },
        Scenario { allowed: &[Break, DeleteLock], ticks: 2, ..Scenario::plain("two, person") },
        Scenario {
            allowed: &[DeleteSession],
            tick: Duration::from_secs(20),
            ticks: 4,
            ..Scenario::plain("two, session deleted")
        },
        Scenario {
            allowed: &[LostSession],
            prompt_sessions: false,
            ticks: 4,
            ..Scenario::plain("two, slow sessions")
        },
    ]);
    all
}
