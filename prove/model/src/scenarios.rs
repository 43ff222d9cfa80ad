//! The scenarios that are searched.

mod sharing;

use std::time::Duration;

use leasehold::protocol::lending::Terms;

use super::client::Habits;
use super::scenario::Fault::{Break, Crash, DeleteLock, DeleteSession, Doze, Lost, LostSession, Twice, WatchBreaks};
use super::scenario::Scenario;

/// Small ones, for every change.
pub(super) fn quick() -> Vec<Scenario> {
    let quick = vec![
        // What takes longest is begun first.
        Scenario {
            ticks: 1,
            queued: 1,
            allowed: &[Break, DeleteLock, WatchBreaks],
            ..lingering("two, what lingers, a fault")
        },
        Scenario { faults: 0, ticks: 1, cancels: 1, ..Scenario::plain("two, a cancel") },
        Scenario { allowed: &[Lost], ticks: 1, ..Scenario::plain("two, a lost request") },
        leftover("one, a lost request and a cancel"),
        Scenario { cancels: 1, allowed: &[Lost, Twice], ticks: 1, ..guessing("two, created without a look") },
        Scenario {
            clients: 3,
            queued: 3,
            allowed: &[Lost, Twice],
            ticks: 0,
            ..Scenario::plain("queue, a lost request")
        },
        Scenario { queued: 2, allowed: &[Break, DeleteLock], ticks: 1, ..Scenario::plain("two, a person") },
        Scenario { queued: 2, ticks: 5, allowed: &[Crash, WatchBreaks, Doze], ..instant("two, a crash") },
        Scenario { allowed: &[DeleteSession], ..vanished("two, a session vanishes") },
        Scenario { queued: 2, faults: 0, keep: true, ..own("two, own liveness") },
        Scenario { ticks: 2, faults: 0, queued: 1, ..lingering("two, what lingers") },
        Scenario { ticks: 2, faults: 0, queued: 1, ..passed_on("two, what is passed on") },
    ];
    // Of the small ones more are followed to the end.
    [quick, sharing::quick()].concat().into_iter().map(|scenario| Scenario { sample: 16, ..scenario }).collect()
}

/// All.
pub(super) fn all() -> Vec<Scenario> {
    [quick(), at_once(), deaths(), sharing::all()].concat()
}

/// Much at once.
fn at_once() -> Vec<Scenario> {
    vec![
        Scenario {
            cancels: 1,
            allowed: &[Lost, Twice],
            ticks: 1,
            ..Scenario::plain("two, lost or repeated, a cancel")
        },
        Scenario {
            acquisitions: 2,
            faults: 2,
            allowed: &[Lost, Twice],
            ticks: 0,
            soon: Duration::from_millis(1500),
            ..Scenario::plain("two twice, two lost requests")
        },
        Scenario {
            clients: 3,
            faults: 2,
            allowed: &[Lost, Twice],
            ticks: 0,
            ..Scenario::plain("three, two lost requests")
        },
        Scenario {
            queued: 2,
            faults: 2,
            allowed: &[Break, DeleteLock, Lost, WatchBreaks],
            ticks: 1,
            ..Scenario::plain("two, a person and a loss")
        },
        Scenario {
            queued: 2,
            allowed: &[Lost, WatchBreaks],
            ticks: 1,
            prompt_steps: false,
            ..Scenario::plain("two, steps of their own")
        },
    ]
}

/// Long enough for deaths.
fn deaths() -> Vec<Scenario> {
    vec![
        Scenario { queued: 2, ticks: 4, allowed: &[Crash, WatchBreaks, Doze], ..patient("two, a slow crash") },
        Scenario {
            clients: 3,
            queued: 3,
            faults: 2,
            ticks: 6,
            allowed: &[Crash, WatchBreaks, Doze, Lost],
            ..instant("queue, two crashes")
        },
        Scenario { clients: 3, queued: 3, ticks: 4, allowed: &[Crash], ..patient("queue, a slow crash") },
        Scenario {
            clients: 3,
            queued: 3,
            faults: 2,
            allowed: &[DeleteSession, Doze],
            ..vanished("queue, sessions vanish")
        },
        Scenario { prompt_writes: false, allowed: &[DeleteSession], ..vanished("two, a session vanishes slowly") },
        Scenario {
            fast: [0, 10_000, 0],
            habits: drifting(),
            tick: Duration::from_secs(20),
            soon: Duration::MAX,
            ticks: 4,
            faults: 0,
            ..slow("two, clocks drift")
        },
        Scenario { ticks: 3, allowed: &[Crash, WatchBreaks, DeleteSession], ..slow("two, slow sessions, an end") },
        Scenario { faults: 0, ..slow("two, slow sessions") },
        Scenario { ticks: 3, allowed: &[LostSession, Doze], ..slow("two, slow sessions, a fault") },
        Scenario {
            ticks: 5,
            faults: 2,
            allowed: &[Crash, Doze, WatchBreaks, Break],
            ..lingering("two, what lingers, deaths")
        },
        Scenario {
            ticks: 5,
            allowed: &[Doze, Lost],
            prompt_writes: false,
            ..lingering("two, what lingers, slow writes")
        },
        Scenario {
            ticks: 1,
            allowed: &[Break, DeleteLock, WatchBreaks],
            ..lingering("two, what lingers, a fault from the beginning")
        },
        // With an operator.
        opening("two and operator, an unclear opening"),
        Scenario {
            clients: 3,
            queued: 3,
            ticks: 5,
            operator: true,
            faults: 2,
            allowed: &[Crash, Doze, WatchBreaks],
            ..instant("queue and operator, two crashes")
        },
        Scenario {
            ticks: 4,
            operator: true,
            queued: 2,
            allowed: &[Crash],
            ..patient("two and operator, a slow crash")
        },
        Scenario {
            ticks: 4,
            operator: true,
            queued: 2,
            allowed: &[LostSession],
            ..slow("two and operator, slow sessions")
        },
        // Living by the lock's own record.
        Scenario { ticks: 3, faults: 0, ..own("two, own liveness, from nothing") },
        Scenario { ticks: 3, allowed: &[Lost, Doze, Crash], ..own("two, own liveness, a fault") },
        Scenario {
            ticks: 4,
            queued: 2,
            faults: 2,
            allowed: &[Lost, Crash, Break],
            fast: [0, 10_000, 0],
            ..own("two, own liveness, clocks drift")
        },
    ]
}

/// Long enough for the dead to be found dead, and all traffic of the lock is prompt as well.
fn instant(name: &'static str) -> Scenario {
    Scenario { prompt_writes: true, ..patient(name) }
}

/// The opening of a session is unclear, or takes long, and an operator sees the session from its first moment on.
fn opening(name: &'static str) -> Scenario {
    Scenario { ticks: 4, operator: true, faults: 2, allowed: &[LostSession, Doze], keep: true, ..instant(name) }
}

/// Long enough for the dead to be found dead: reads are answered at once, and nobody idles for nothing.
fn patient(name: &'static str) -> Scenario {
    Scenario { prompt_reads: true, diligent: true, ..Scenario::plain(name) }
}

/// Long enough for an absent session to count as dead.
fn vanished(name: &'static str) -> Scenario {
    Scenario { queued: 2, tick: Duration::from_secs(20), ticks: 5, ..instant(name) }
}

/// Requests to sessions and what watches show of them are late, but those to the lock are not.
fn slow(name: &'static str) -> Scenario {
    Scenario { prompt_sessions: false, queued: 2, keep: true, ..instant(name) }
}

/// Holds live by the lock's own record.
fn own(name: &'static str) -> Scenario {
    let mut scenario = patient(name);
    scenario.habits.own = Some(Duration::from_secs(30));
    scenario
}

/// What is released lingers.
fn lingering(name: &'static str) -> Scenario {
    let watched = Duration::from_secs(20);
    let terms = Terms { handoff: Duration::ZERO, watched, linger: Duration::from_secs(15) };
    let habits = Habits { terms, ..Scenario::plain(name).habits };
    Scenario { acquisitions: 2, habits, ..instant(name) }
}

/// What is released is passed on to other tasks of its process.
fn passed_on(name: &'static str) -> Scenario {
    let terms = Terms { handoff: Duration::from_secs(15), ..Terms::default() };
    let habits = Habits { terms, ..Scenario::plain(name).habits };
    Scenario { acquisitions: 2, habits, ..instant(name) }
}

/// A lock is taken to be absent by those who know nothing of it.
fn guessing(name: &'static str) -> Scenario {
    let habits = Habits { suppose_absent: true, ..Scenario::plain(name).habits };
    Scenario { habits, ..Scenario::plain(name) }
}

/// What an acquisition leaves that was given up before it was answered.
fn leftover(name: &'static str) -> Scenario {
    Scenario { clients: 1, acquisitions: 2, cancels: 1, ticks: 2, allowed: &[Lost], ..Scenario::plain(name) }
}

/// Sessions so long that the drift of clocks is more than the slack.
fn drifting() -> Habits {
    Habits { duration: Duration::from_secs(60), ..Scenario::plain("").habits }
}
