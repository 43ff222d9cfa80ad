//! Scenarios of what several can hold.

use std::time::Duration;

use leasehold::protocol::{Kind, Mode};

use super::super::scenario::Fault::{Break, Crash, DeleteLock, DeleteSession, Doze, Lost, Resize, Twice, WatchBreaks};
use super::super::scenario::Scenario;
use super::patient;

const ONE: Mode = Mode::Permits(1);
const TWO: Mode = Mode::Permits(2);
const THREE: Mode = Mode::Permits(3);

/// Small ones, for every change.
pub(super) fn quick() -> Vec<Scenario> {
    use Mode::{Read, Upgradeable, Write};
    vec![
        Scenario { allowed: &[Lost, Twice], ..semaphore("semaphore, several at once", [TWO, ONE, ONE]) },
        Scenario { queued: 2, cancels: 1, faults: 0, ..semaphore("semaphore, a cancel", [ONE, TWO, ONE]) },
        Scenario { faults: 2, allowed: &[Resize], ..semaphore("semaphore, resized", [TWO, ONE, ONE]) },
        Scenario {
            clients: 2,
            queued: 2,
            permits: 3,
            changes: 2,
            allowed: &[Lost, Twice],
            ..semaphore("semaphore, given back in parts", [THREE, ONE, ONE])
        },
        Scenario { keep: true, allowed: &[Crash, Doze], ..long(semaphore("semaphore, a crash", [TWO, ONE, ONE])) },
        Scenario { allowed: &[Lost, Twice], ..read_write("readers and a writer", [Read, Write, Read]) },
        Scenario {
            clients: 2,
            queued: 1,
            changes: 2,
            allowed: &[Lost, Twice],
            ..read_write("an upgrade, a newcomer", [Upgradeable, Read, Read])
        },
        Scenario {
            queued: 2,
            changes: 1,
            faults: 0,
            prompt_reads: true,
            ..read_write("an upgrade", [Read, Upgradeable, Read])
        },
        Scenario {
            changes: 1,
            cancels: 1,
            faults: 0,
            ..read_write("an upgrade and a queue", [Upgradeable, Write, Read])
        },
    ]
}

/// The others. Where somebody dies, the others keep what they have: so the search comes as far as that death is noticed.
pub(super) fn all() -> Vec<Scenario> {
    [at_once(), deaths()].concat()
}

/// Much at once.
fn at_once() -> Vec<Scenario> {
    use Mode::{Read, Upgradeable, Write};
    vec![
        Scenario {
            standing: false,
            queued: 1,
            cancels: 1,
            allowed: &[Lost, Twice],
            ..semaphore("semaphore, from nothing", [ONE, TWO, ONE])
        },
        Scenario {
            cancels: 1,
            faults: 2,
            allowed: &[Lost, Twice, Resize],
            ..semaphore("semaphore, lost or repeated, resized", [ONE, TWO, ONE])
        },
        Scenario {
            faults: 2,
            allowed: &[Break, DeleteLock, Resize, Lost, WatchBreaks],
            ..semaphore("semaphore, a person and a loss", [ONE, TWO, ONE])
        },
        Scenario {
            standing: false,
            queued: 1,
            cancels: 1,
            allowed: &[Lost, Twice],
            ..read_write("readers and a writer, from nothing", [Read, Write, Read])
        },
        Scenario {
            changes: 2,
            allowed: &[Lost, Twice],
            ..read_write("an upgrade, lost or repeated", [Upgradeable, Read, Upgradeable])
        },
        Scenario {
            keep: true,
            changes: 2,
            allowed: &[Break, DeleteLock, WatchBreaks],
            ..patient_with(read_write("a writer steps down, a person", [Write, Read, Upgradeable]))
        },
    ]
}

/// Long enough for deaths.
fn deaths() -> Vec<Scenario> {
    use Mode::{Read, Upgradeable, Write};
    vec![
        Scenario {
            keep: true,
            faults: 2,
            allowed: &[Crash, Doze],
            ..long(semaphore("semaphore, two crashes", [ONE, TWO, ONE]))
        },
        Scenario {
            keep: true,
            prompt_writes: false,
            allowed: &[Crash],
            ..long(semaphore("semaphore, a slow crash", [TWO, ONE, ONE]))
        },
        Scenario {
            keep: true,
            tick: Duration::from_secs(20),
            ticks: 4,
            allowed: &[DeleteSession],
            ..long(semaphore("semaphore, sessions vanish", [TWO, ONE, ONE]))
        },
        Scenario {
            keep: true,
            prompt_sessions: false,
            clients: 2,
            queued: 2,
            ticks: 4,
            allowed: &[Crash],
            ..long(semaphore("semaphore, slow sessions, an end", [TWO, ONE, ONE]))
        },
        Scenario {
            keep: true,
            operator: true,
            ticks: 5,
            allowed: &[Crash, Doze],
            ..long(semaphore("semaphore and operator, a crash", [ONE, TWO, ONE]))
        },
        Scenario {
            keep: true,
            changes: 1,
            allowed: &[Crash, Doze],
            ..long(read_write("an upgrade, a crash", [Read, Upgradeable, Read]))
        },
        Scenario {
            keep: true,
            changes: 1,
            operator: true,
            ticks: 5,
            allowed: &[Crash],
            ..long(read_write("an upgrade and operator, a crash", [Read, Upgradeable, Write]))
        },
    ]
}

/// Three on a semaphore that somebody made beforehand.
fn semaphore(name: &'static str, wants: [Mode; 3]) -> Scenario {
    Scenario { permits: 2, standing: true, ..three(name, Kind::Semaphore, wants) }
}

/// Three on a read-write lock.
fn read_write(name: &'static str, wants: [Mode; 3]) -> Scenario {
    three(name, Kind::ReadWriteLock, wants)
}

fn three(name: &'static str, kind: Kind, wants: [Mode; 3]) -> Scenario {
    Scenario { clients: 3, kind, wants, queued: 3, ticks: 0, ..Scenario::plain(name) }
}

/// Long enough for the dead to be found dead, and all traffic of the lock is prompt.
fn long(scenario: Scenario) -> Scenario {
    Scenario { ticks: 6, prompt_writes: true, ..patient_with(scenario) }
}

/// Reads are answered at once, and nobody idles for nothing.
fn patient_with(scenario: Scenario) -> Scenario {
    let Scenario { prompt_reads, diligent, .. } = patient(scenario.name);
    Scenario { prompt_reads, diligent, ..scenario }
}
