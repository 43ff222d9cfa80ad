//! What is to happen in a run: drawn from its seed before it begins, so that faults can be left out one by one.

use std::fmt;
use std::time::Duration;

use leasehold::protocol::policy::{EXPIRY, LOCK_DELAY, MAX_WAITERS, NEVER, RECLAIM};
use leasehold::protocol::renew_interval;
use leasehold::protocol::want::ALL;

use super::dice::Dice;
use super::network::{Cut, Weather};

/// Whether the operator's warden does what is asked of all who evict.
const WARDEN_OBEYS: bool = true;

/// One run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// The clients' processes.
    pub(super) clients: Vec<ClientPlan>,
    pub(super) locks: Vec<What>,
    /// What is asked of everybody who uses them.
    pub(super) policies: Vec<PolicyPlan>,
    /// For how long processes keep each of them to themselves.
    pub(super) terms: Vec<TermsPlan>,
    pub(super) operator: bool,
    /// Nothing goes wrong.
    pub(super) calm: bool,
    /// Faults befall until then.
    pub(super) length: Duration,
    pub(super) faults: Vec<Planned>,
}

/// What is contended for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Lock,
    /// `standing`: somebody has made it beforehand, and it stays. Otherwise clients say how many permits there are.
    Semaphore {
        permits: u32,
        standing: bool,
    },
    ReadWriteLock,
}

/// What a custom resource asks of everybody who uses it. Where it asks for anything, somebody has made the Lease beforehand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PolicyPlan {
    pub(super) lock_delay: Option<u64>,
    pub(super) reclaim: Option<&'static str>,
    pub(super) max_waiters: Option<u32>,
}

/// For how long a process keeps a lock to itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct TermsPlan {
    pub(super) handoff: Duration,
    pub(super) linger: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct ClientPlan {
    pub(super) session: Duration,
    pub(super) grace: Duration,
    pub(super) tasks: usize,
}

/// A fault, and when it befalls.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) at: Duration,
    pub(super) fault: Fault,
}

/// What can go wrong. Processes are counted from 0; the last one is the operator's.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    Kill {
        who: usize,
        back_after: Duration,
    },
    Pause {
        who: usize,
        lasts: Duration,
    },
    Weather {
        who: usize,
        kind: WeatherKind,
        lasts: Duration,
    },
    /// All connections of a process break.
    Disconnect {
        who: usize,
    },
    Restart {
        lasts: Duration,
    },
    /// Somebody clears the holder by hand, properly with a new tenancy or not, or the first of several holders.
    Break {
        lock: usize,
        properly: bool,
    },
    DeleteLock {
        lock: usize,
    },
    /// Somebody deletes the Lease of a session, or ends it.
    DeleteSession {
        which: usize,
    },
    EndSession {
        which: usize,
    },
    /// Somebody removes a waiter's key.
    RemoveWaiter {
        lock: usize,
    },
    /// Somebody changes how many permits there are, there and back again, so often.
    SetPermits {
        lock: usize,
        permits: u32,
        times: u32,
        every: Duration,
    },
    /// Somebody adds annotations that mean nothing, or what looks like a waiter.
    Scribble {
        lock: usize,
    },
    /// The answer to the next opening of a session never comes, or that to its next renewal comes so late. A while after
    /// that nothing passes, and whoever holds something holds on to it. All times are in parts of the session's duration.
    Heartbeat {
        who: usize,
        late: Option<f64>,
        cut_after: f64,
        lasts: f64,
    },
    /// A wall clock is set.
    SetClock {
        who: usize,
        to_second: i64,
    },
}

/// A change of a process's network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum WeatherKind {
    Refused,
    Silent,
    Stalled,
    Slow(u64),
    Lost(f64),
    Unheard(f64),
    Late(f64),
    Twice(f64),
    Busy(f64),
    Past(f64),
}

impl WeatherKind {
    /// Makes the weather so.
    pub(super) fn begin(self, weather: &mut Weather) {
        match self {
            Self::Refused => weather.cut = Cut::Refused,
            Self::Silent => weather.cut = Cut::Silent,
            Self::Stalled => weather.stalled = true,
            Self::Slow(most) => weather.delay = (1, most),
            Self::Lost(chance) => weather.lost = chance,
            Self::Unheard(chance) => weather.unheard = chance,
            Self::Late(chance) => weather.late = chance,
            Self::Twice(chance) => weather.twice = chance,
            Self::Busy(chance) => weather.busy = chance,
            Self::Past(chance) => weather.past = chance,
        }
    }

    /// Makes it fair again, in this respect.
    pub(super) fn end(self, weather: &mut Weather) {
        let fair = Weather::default();
        match self {
            Self::Refused | Self::Silent => weather.cut = fair.cut,
            Self::Stalled => weather.stalled = fair.stalled,
            Self::Slow(_) => weather.delay = fair.delay,
            Self::Lost(_) => weather.lost = fair.lost,
            Self::Unheard(_) => weather.unheard = fair.unheard,
            Self::Late(_) => weather.late = fair.late,
            Self::Twice(_) => weather.twice = fair.twice,
            Self::Busy(_) => weather.busy = fair.busy,
            Self::Past(_) => weather.past = fair.past,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Refused => "connections refused",
            Self::Silent => "network silent",
            Self::Stalled => "watches stalled",
            Self::Slow(_) => "network slow",
            Self::Lost(_) => "requests lost",
            Self::Unheard(_) => "answers lost",
            Self::Late(_) => "requests carried out late",
            Self::Twice(_) => "requests carried out twice",
            Self::Busy(_) => "API server busy",
            Self::Past(_) => "watches begin in the past",
        }
    }
}

impl Fault {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "process killed",
            Self::Pause { .. } => "process paused",
            Self::Weather { kind, .. } => kind.name(),
            Self::Disconnect { .. } => "connections broken",
            Self::Restart { .. } => "API server restarted",
            Self::Break { .. } => "lock broken",
            Self::DeleteLock { .. } => "lock's Lease deleted",
            Self::DeleteSession { .. } => "session's Lease deleted",
            Self::EndSession { .. } => "session ended by hand",
            Self::RemoveWaiter { .. } => "waiter's key removed",
            Self::SetPermits { .. } => "permits changed",
            Self::Scribble { .. } => "Lease scribbled on",
            Self::Heartbeat { late: None, .. } => "opening of a session unheard",
            Self::Heartbeat { .. } => "renewal of a session answered late",
            Self::SetClock { .. } => "wall clock set",
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s: {:?}", self.at.as_secs_f64(), self.fault)
    }
}

impl Plan {
    /// The run of this seed.
    pub(super) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 0);
        let clients = (0..2 + dice.below(3)).map(|_| ClientPlan::draw(&mut dice)).collect::<Vec<_>>();
        let locks = (0..=dice.below(3)).map(|_| What::draw(&mut dice)).collect::<Vec<_>>();
        let calm = dice.chance(0.1);
        let length = Duration::from_secs(30 + dice.below(60) as u64);
        // Not everything goes wrong in every run: with fewer kinds each goes further.
        let allowed: Vec<bool> = (0..KINDS).map(|_| dice.chance(0.4)).collect();
        let mut faults = Vec::new();
        let every = dice.from(&[1_000, 3_000, 8_000, 20_000]);
        let mut at = Duration::ZERO;
        loop {
            at += dice.millis(every / 4..every * 2);
            if at >= length {
                break;
            }
            let kind = dice.below(KINDS);
            let fault = Fault::draw(kind, clients.len(), locks.len(), &mut dice);
            if allowed[kind] && !calm {
                faults.push(Planned { at, fault });
            }
        }
        let operator = dice.chance(0.6);
        let mut dice = Dice::new(seed, 5);
        let policies = locks.iter().map(|what| PolicyPlan::draw(*what, operator, &mut dice)).collect();
        let mut dice = Dice::new(seed, 6);
        let terms = locks.iter().map(|_| TermsPlan::draw(&mut dice)).collect();
        Self { seed, clients, locks, policies, terms, operator, calm, length, faults }
    }

    /// Whether this process is ever paused.
    pub(super) fn pauses(&self, process: usize) -> bool {
        self.faults.iter().any(|planned| matches!(planned.fault, Fault::Pause { who, .. } if who == process))
    }

    /// The name of a lock.
    pub(super) fn name(&self, lock: usize) -> String {
        match self.locks[lock] {
            What::Lock => format!("lock-{lock}"),
            What::Semaphore { .. } => format!("sem-{lock}"),
            What::ReadWriteLock => format!("rw-{lock}"),
        }
    }
}

impl What {
    fn draw(dice: &mut Dice) -> Self {
        match dice.below(4) {
            0 | 1 => Self::Lock,
            2 => {
                let permits = u32::try_from(2 + dice.below(5)).unwrap_or(2);
                Self::Semaphore { permits, standing: dice.chance(0.5) }
            }
            _ => Self::ReadWriteLock,
        }
    }

    /// How many permits there are at first.
    pub(super) fn permits(self) -> u32 {
        match self {
            Self::Lock => 1,
            Self::Semaphore { permits, .. } => permits,
            Self::ReadWriteLock => ALL,
        }
    }
}

impl PolicyPlan {
    fn draw(what: What, operator: bool, dice: &mut Dice) -> Self {
        let made_on_the_spot = matches!(what, What::Semaphore { standing: false, .. });
        if made_on_the_spot || !dice.chance(0.4) {
            return Self::default();
        }
        // The warden evicts without looking at this.
        let reclaims = !operator || WARDEN_OBEYS;
        let never = what == What::Lock && dice.chance(0.3);
        let reclaim = if never { Some(NEVER) } else { Some(EXPIRY).filter(|_| dice.chance(0.3)) };
        Self {
            lock_delay: Some(dice.from(&[1, 5, 20])).filter(|_| reclaims && dice.chance(0.7)),
            reclaim: reclaim.filter(|_| reclaims),
            max_waiters: Some(dice.from(&[0, 1, 2, 5])).filter(|_| dice.chance(0.4)),
        }
    }

    /// As it stands on the Lease.
    pub(super) fn annotations(&self) -> Vec<(String, String)> {
        let delay = self.lock_delay.map(|delay| (LOCK_DELAY, delay.to_string()));
        let reclaim = self.reclaim.map(|reclaim| (RECLAIM, reclaim.to_owned()));
        let waiters = self.max_waiters.map(|waiters| (MAX_WAITERS, waiters.to_string()));
        let all = delay.into_iter().chain(reclaim).chain(waiters);
        all.map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Nobody frees it but a person, where its holder has died.
    pub(super) fn never_reclaims(&self) -> bool {
        self.reclaim == Some(NEVER)
    }
}

impl TermsPlan {
    fn draw(dice: &mut Dice) -> Self {
        let handoff = Duration::from_millis(dice.from(&[0, 50, 200, 1000]));
        let linger = if dice.chance(0.5) { Duration::from_secs(dice.from(&[1, 5, 60])) } else { Duration::ZERO };
        Self { handoff, linger }
    }

    /// For how long it may be passed on by a process of this kind that hears nothing.
    pub(super) fn bound(self, client: &ClientPlan) -> Duration {
        if self.linger.is_zero() { self.handoff } else { self.handoff.max(renew_interval(client.session) * 2) }
    }
}

impl ClientPlan {
    fn draw(dice: &mut Dice) -> Self {
        let session = Duration::from_secs(dice.from(&[2, 3, 5, 10, 30]));
        let grace = if dice.chance(0.3) { session / 4 } else { Duration::ZERO };
        Self { session, grace, tasks: 1 + dice.below(3) }
    }
}

const KINDS: usize = 24;

impl Fault {
    fn draw(kind: usize, clients: usize, locks: usize, dice: &mut Dice) -> Self {
        let who = dice.below(clients + 1);
        let lock = dice.below(locks);
        let lasts = dice.millis(50..40_000);
        let chance = dice.from(&[0.02, 0.1, 0.3, 0.6]);
        let weather = |kind| Self::Weather { who, kind, lasts };
        match kind {
            0 | 1 => Self::Kill { who, back_after: lasts },
            2 | 3 => Self::Pause { who, lasts },
            4 => weather(WeatherKind::Refused),
            5 => weather(WeatherKind::Silent),
            6 => weather(WeatherKind::Stalled),
            7 => weather(WeatherKind::Slow(dice.from(&[50, 500, 3_000, 12_000]))),
            8 => weather(WeatherKind::Lost(chance)),
            9 => weather(WeatherKind::Unheard(chance)),
            10 => weather(WeatherKind::Late(chance)),
            11 => weather(WeatherKind::Twice(chance)),
            12 => weather(WeatherKind::Busy(chance)),
            13 => weather(WeatherKind::Past(0.6)),
            14 => Self::Disconnect { who },
            15 => Self::Restart { lasts: lasts / 4 },
            16 => Self::Break { lock, properly: dice.chance(0.5) },
            17 => match dice.below(3) {
                0 => Self::RemoveWaiter { lock },
                1 => Self::Scribble { lock },
                _ => Self::DeleteLock { lock },
            },
            18 => {
                let which = dice.below(64);
                if dice.chance(0.7) { Self::DeleteSession { which } } else { Self::EndSession { which } }
            }
            19 | 20 => {
                let (permits, times) = (dice.from(&[1, 1, 2, 8]), dice.from(&[1, 40]));
                Self::SetPermits { lock, permits, times, every: dice.millis(20..1_000) }
            }
            21 => {
                let (cut_after, lasts) = (dice.between(0.2..0.65), dice.between(0.4..1.5));
                Self::Heartbeat { who, late: None, cut_after, lasts }
            }
            22 => {
                // Just within the time that a request is given, and before the next renewal.
                let late = dice.between(0.1..0.3);
                let cut_after = late + dice.between(0.005..0.03);
                Self::Heartbeat { who, late: Some(late), cut_after, lasts: dice.between(0.7..1.5) }
            }
            _ => {
                let second = dice.from(&[-2_000_000_000, 0, 1, 1_700_000_000, 4_000_000_000, 200_000_000_000]);
                Self::SetClock { who, to_second: second }
            }
        }
    }
}
