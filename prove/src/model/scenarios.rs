//! The scenarios that are searched.

use std::time::Duration;

use super::client::Habits;
use super::scenario::Fault::{Break, Crash, DeleteLock, DeleteSession, Doze, Lost, LostSession, Twice, WatchBreaks};
use super::scenario::Scenario;

/// Small ones, for every change.
pub(super) fn quick() -> Vec<Scenario> {
    vec![
        Scenario { faults: 0, ticks: 1, cancels: 1, ..Scenario::plain("two, a cancel") },
        Scenario { allowed: &[Lost], ticks: 1, ..Scenario::plain("two, a lost request") },
        leftover("one, a lost request and a cancel"),
        Scenario {
            clients: 3,
            queued: 3,
            allowed: &[Lost, Twice],
            ticks: 0,
            ..Scenario::plain("queue, a lost request")
        },
        Scenario { queued: 2, ticks: 4, allowed: &[Crash, WatchBreaks, Doze], ..patient("holder and waiter, a crash") },
        Scenario { queued: 2, allowed: &[Break, DeleteLock], ticks: 1, ..Scenario::plain("two, a person") },
        Scenario { allowed: &[DeleteSession], ..vanished("two, a session vanishes") },
        Scenario { ticks: 1, allowed: &[Lost], retries: true, ..own("two, own liveness") },
    ]
}

/// All.
pub(super) fn all() -> Vec<Scenario> {
    let mut all = quick();
    all.extend([
        Scenario {
            cancels: 1,
            allowed: &[Lost, Twice],
            ticks: 1,
            ..Scenario::plain("two, lost or repeated, a cancel")
        },
        Scenario {
            acquisitions: 2,
            faults: 2,
            allowed: &[Lost],
            ticks: 0,
            retries: true,
            ..Scenario::plain("two twice, two lost requests")
        },
        Scenario {
            clients: 3,
            faults: 2,
            allowed: &[Lost, Twice],
            ticks: 0,
            ..Scenario::plain("three, two lost requests")
        },
        Scenario { clients: 3, queued: 3, ticks: 5, allowed: &[Crash, WatchBreaks, Doze], ..patient("queue, a crash") },
        Scenario {
            clients: 3,
            queued: 3,
            faults: 2,
            ticks: 4,
            allowed: &[Crash, Lost],
            ..patient("queue, two crashes")
        },
        Scenario {
            queued: 2,
            faults: 2,
            acquisitions: 2,
            allowed: &[Break, DeleteLock, Lost],
            ticks: 1,
            ..Scenario::plain("two, a person and a loss")
        },
        Scenario { clients: 3, queued: 3, allowed: &[DeleteSession, Doze], ..vanished("queue, a session vanishes") },
        Scenario {
            faults: 2,
            ticks: 4,
            allowed: &[Doze, Crash],
            fast: [0, 10_000, 0],
            habits: drifting(),
            tick: Duration::from_secs(20),
            ..patient("two, clocks drift")
        },
        Scenario { ticks: 3, allowed: &[LostSession, Doze], ..slow("two, slow sessions") },
        Scenario {
            ticks: 4,
            operator: true,
            queued: 2,
            allowed: &[Crash, Doze],
            ..patient("two and operator, a crash")
        },
        Scenario {
            ticks: 4,
            operator: true,
            allowed: &[LostSession],
            ..patient("two and operator, an unclear opening")
        },
        Scenario { ticks: 4, operator: true, allowed: &[LostSession, Doze], ..slow("one and operator, slow sessions") },
        Scenario { ticks: 4, faults: 2, allowed: &[Lost, Doze, Crash], ..own("two, own liveness, two faults") },
    ]);
    all
}

/// Long enough for the dead to be found dead: reads are answered at once, and nobody idles for nothing.
fn patient(name: &'static str) -> Scenario {
    Scenario { prompt_reads: true, diligent: true, ..Scenario::plain(name) }
}

/// Long enough for an absent session to count as dead.
fn vanished(name: &'static str) -> Scenario {
    Scenario { queued: 2, tick: Duration::from_secs(20), ticks: 5, ..patient(name) }
}

/// Requests to sessions and what watches show of them are late as well.
fn slow(name: &'static str) -> Scenario {
    Scenario { prompt_sessions: false, queued: 1, ..patient(name) }
}

/// Holds live by the lock's own record.
fn own(name: &'static str) -> Scenario {
    let mut scenario = patient(name);
    scenario.habits.own = Some(Duration::from_secs(30));
    scenario
}

/// What an acquisition leaves that was given up before it was answered.
fn leftover(name: &'static str) -> Scenario {
    Scenario { clients: 1, acquisitions: 2, cancels: 1, ticks: 2, allowed: &[Lost], ..Scenario::plain(name) }
}

/// Sessions so long that the drift of clocks is more than the slack.
fn drifting() -> Habits {
    Habits { duration: Duration::from_secs(60), own: None, watch_losses: false }
}
