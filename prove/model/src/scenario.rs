//! What is searched: who takes part, what may happen to them, and how far.

use std::time::Duration;

use leasehold::protocol::lending::Terms;
use leasehold::protocol::{Kind, Mode};

use super::client::Habits;

/// Something that goes wrong. Each costs one of a path's faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A sender hears nothing of its request to the lock. It may be carried out later, or has been.
    Lost,
    /// The same for requests to sessions.
    LostSession,
    /// A request to the lock is carried out, and another time later.
    Twice,
    /// All watches of a client break off.
    WatchBreaks,
    /// A client does nothing for a while.
    Doze,
    /// A client ends for good.
    Crash,
    /// A person takes the lock from its holder, or from the first of several.
    Break,
    /// A person deletes the lock's Lease.
    DeleteLock,
    /// Somebody deletes a session's Lease.
    DeleteSession,
    /// A person changes how many permits there are, or changes it back.
    Resize,
}

/// One bounded world.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) clients: usize,
    /// What is contended for.
    pub(super) kind: Kind,
    /// How many permits a semaphore has, and how many a person makes of it.
    pub(super) permits: u32,
    pub(super) resized: u32,
    /// How much of it each client wants.
    pub(super) wants: [Mode; 3],
    /// How many times somebody makes more or less of what it holds.
    pub(super) changes: u8,
    /// How many acquisitions each client's user begins.
    pub(super) acquisitions: u8,
    /// How many of all acquisitions may be cancelled.
    pub(super) cancels: u8,
    /// So many clients have begun an acquisition, one after the other, before the search begins.
    pub(super) queued: usize,
    /// Users keep what they hold until the fair end, or until it is lost.
    pub(super) keep: bool,
    pub(super) operator: bool,
    pub(super) habits: Habits,
    /// By how many millionths each client's clock is fast.
    pub(super) fast: [u32; 3],
    /// The lock's Lease stands there from the beginning, as one of a custom resource does.
    pub(super) standing: bool,
    /// Requests to sessions, and what watches show of them, take no time. Otherwise they are late like all others.
    pub(super) prompt_sessions: bool,
    /// Whoever hears something does at once what follows. Otherwise that is a step of its own, which may be late.
    pub(super) prompt_steps: bool,
    /// Reads of the lock take no time, and are not lost.
    pub(super) prompt_reads: bool,
    /// The same for writes to it.
    pub(super) prompt_writes: bool,
    /// Time does not pass while anybody has something to do, but for one who dozes: that is a fault.
    pub(super) diligent: bool,
    pub(super) tick: Duration,
    /// Time may also pass just until something is due, if that is so soon. Otherwise everything waits for the next tick.
    pub(super) soon: Duration,
    pub(super) ticks: u32,
    pub(super) faults: u8,
    pub(super) allowed: &'static [Fault],
    /// The longest path.
    pub(super) depth: usize,
    /// Of so many states one is followed to its fair end.
    pub(super) sample: u64,
}

impl Scenario {
    /// The scenario that the others differ from.
    pub(super) fn plain(name: &'static str) -> Self {
        Self {
            name,
            clients: 2,
            kind: Kind::Lock,
            permits: 1,
            resized: 1,
            wants: [Mode::Permits(1); 3],
            changes: 0,
            acquisitions: 1,
            cancels: 0,
            queued: 0,
            keep: false,
            operator: false,
            habits: Habits {
                duration: Duration::from_secs(30),
                own: None,
                watch_losses: false,
                terms: Terms::default(),
                suppose_absent: false,
            },
            fast: [0; 3],
            standing: false,
            prompt_sessions: true,
            prompt_steps: true,
            tick: Duration::from_secs(10),
            ticks: 4,
            faults: 1,
            allowed: &[],
            depth: usize::MAX,
            sample: 256,
            soon: Duration::ZERO,
            prompt_reads: false,
            prompt_writes: false,
            diligent: false,
        }
    }

    /// Clients that are alike can go by each other's names.
    pub(super) fn clients_are_alike(&self) -> bool {
        let wants = &self.wants[..self.clients];
        self.fast == [0; 3] && wants.iter().all(|want| *want == wants[0])
    }

    pub(super) fn horizon(&self) -> Duration {
        self.tick * self.ticks
    }
}
