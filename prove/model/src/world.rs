//! The world at one moment: processes, the API server, and all that is on its way between them.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use leasehold::protocol::record::PERMITS;
use leasehold::protocol::{HolderId, Kind, Mode, Moment, Now, SessionId, Version};

use super::client::{Client, Slot};
use super::eyes::Call;
use super::operator::Operator;
use super::scenario::{Fault, Scenario};
use super::wire::{Change, Place, Request, Server};

/// A part of the world that most steps leave alone: shared between states, and with a fingerprint of its own.
#[derive(Clone, Debug)]
pub(super) struct Part<T>(Arc<(u64, T)>);

impl<T: Clone + Hash> Part<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Arc::new((print_of(&value), value)))
    }

    pub(super) fn get(&self) -> &T {
        &self.0.1
    }

    pub(super) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.get().clone();
        let result = change(&mut value);
        *self = Self::new(value);
        result
    }
}

impl<T> Hash for Part<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.0.hash(state);
    }
}

pub(super) fn print_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Clients by number; the operator comes after them.
pub(super) type Actor = usize;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Time passes: until the next tick, or until the next thing that is due soon.
    Pass(Duration),
    /// What is due is done.
    Step(Actor),
    /// It does nothing from now on, until it does.
    Doze(Actor),
    Start(Actor),
    Release(Actor),
    Cancel(Actor),
    /// Its user makes more or less of what it holds.
    Change(Actor, Mode),
    /// A request is carried out.
    Arrive(Actor, Slot),
    /// It is, and a copy of it stays on its way.
    Twice(Actor, Slot),
    /// Its answer arrives.
    Answer(Actor, Slot),
    /// Its sender is told that nobody answers.
    Lose(Actor, Slot),
    /// A request whose sender does not listen any more is carried out.
    Late(usize),
    /// The watch of the lock shows its next event.
    Show(Actor),
    /// The watch of a session shows what there is.
    ShowSession(Actor, SessionId),
    BreakWatches(Actor),
    Crash(Actor),
    Break,
    DeleteLock,
    DeleteSession(SessionId),
    Resize(u32),
}

/// What there is to remember of the past in order to judge what comes.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Annals {
    /// Tenancies that have begun, by the version with which they did, while their holder may not know yet. Who becomes
    /// the writer begins another one.
    pub(super) begun: Vec<(HolderId, Version)>,
    /// Tenancies whose tokens were handed out.
    pub(super) told: Vec<Told>,
    /// A person took the lock from these: they may believe in it until they learn.
    pub(super) excused: BTreeSet<HolderId>,
}

/// A tenancy whose holder was told its token.
#[derive(Clone, Debug, Hash)]
pub(super) struct Told {
    /// Whose, until it has ended.
    pub(super) id: Option<HolderId>,
    pub(super) token: u64,
    /// The versions with which it began and ended.
    pub(super) begun: Version,
    pub(super) ended: Option<Version>,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) time: Duration,
    pub(super) clients: Vec<Part<Client>>,
    pub(super) operator: Option<Part<Operator>>,
    pub(super) server: Part<Server>,
    /// Requests whose senders do not listen any more.
    pub(super) late: Vec<(Arc<Request>, Duration)>,
    /// Who does nothing at present, though there may be something to do.
    pub(super) dozing: Option<Actor>,
    pub(super) faults: u8,
    pub(super) cancels: u8,
    pub(super) changes: u8,
    pub(super) annals: Part<Annals>,
}

/// What a step did to the lock and to guards: for the invariants.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) changes: Vec<Change>,
    /// Somebody was handed a guard and never held the lock.
    pub(super) unfounded: Option<HolderId>,
    /// Tokens that are not in the order of their tenancies.
    pub(super) unordered: Option<String>,
    pub(super) malformed: Option<String>,
    /// Somebody was passed over who had been seen to wait.
    pub(super) passed_over: Option<String>,
    /// For people: what was sent and answered.
    pub(super) told: Option<Vec<String>>,
}

impl Effects {
    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(told) = &mut self.told {
            told.push(line());
        }
    }
}

/// What anybody's clock shows when the world begins.
const BEGIN: Duration = Duration::from_secs(1000);

/// By a clock that is so many millionths fast.
pub(super) fn by_clock(fast: u32, real: Duration) -> Now {
    let passed = real + Duration::from_nanos(nanos(real) / 1_000_000 * u64::from(fast));
    Now { moment: Moment::from_start(BEGIN + passed), stamp: Timestamp::UNIX_EPOCH }
}

/// The world's time at which such a clock shows this.
fn by_world(fast: u32, moment: Moment) -> Duration {
    let passed = moment.since_start().saturating_sub(BEGIN);
    if fast == 0 {
        return passed;
    }
    let real = nanos(passed) / (1_000_000 + u64::from(fast)) * 1_000_000;
    let mut real = Duration::from_nanos(real);
    while by_clock(fast, real).moment < moment {
        real += Duration::from_micros(100);
    }
    real
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl World {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let mut server = Server::default();
        if scenario.standing {
            let mut lease = serde_json::json!({
                "metadata": { "name": super::wire::LOCK, "uid": "u0", "annotations": { "leasehold.dev/format": "1" },
                    "labels": { "leasehold.dev/kind": scenario.kind.name() } },
                "spec": {},
            });
            if scenario.kind == Kind::Semaphore {
                lease["metadata"]["annotations"][PERMITS] = scenario.permits.to_string().into();
            }
            let lease = serde_json::from_value(lease).expect("a Lease");
            server.store(&Place::Lock, None, Some(lease));
            server.history.clear();
        }
        let mut world = Self {
            time: Duration::ZERO,
            clients: (0..scenario.clients).map(|n| Part::new(Client::new(n, scenario))).collect(),
            operator: scenario.operator.then(|| Part::new(Operator::default())),
            server: Part::new(server),
            late: Vec::new(),
            dozing: None,
            faults: scenario.faults,
            cancels: scenario.cancels,
            changes: scenario.changes,
            annals: Part::new(Annals::default()),
        };
        for client in 0..scenario.queued {
            world.apply(&Action::Start(client), scenario, &mut Effects::default());
            world.settle(scenario, &mut Effects::default());
        }
        world
    }

    /// Two worlds with the same fingerprint have the same future.
    pub(super) fn print(&self) -> u64 {
        let Self { time, clients, operator, server, late, dozing, faults, cancels, changes, annals } = self;
        print_of(&(time, clients, operator, server, late, dozing, faults, cancels, changes, annals))
    }

    pub(super) fn now(&self, scenario: &Scenario, actor: Actor) -> Now {
        by_clock(scenario.fast.get(actor).copied().unwrap_or_default(), self.time)
    }

    fn wake(&self, scenario: &Scenario, actor: Actor) -> Option<Duration> {
        let wake = match self.clients.get(actor) {
            Some(client) => client.get().wake,
            None => self.operator.as_ref()?.get().wake,
        };
        Some(by_world(scenario.fast.get(actor).copied().unwrap_or_default(), wake?))
    }

    pub(super) fn actors(&self) -> std::ops::Range<usize> {
        0..self.clients.len() + usize::from(self.operator.is_some())
    }

    pub(super) fn call(&self, actor: Actor, slot: &Slot) -> Option<&Call> {
        match (self.clients.get(actor), slot) {
            (Some(client), _) => client.get().call(slot),
            (None, Slot::Lock) => self.operator.as_ref()?.get().call.as_ref(),
            (None, Slot::Eye(session)) => self.operator.as_ref()?.get().eyes.open.get(session)?.call.as_ref(),
            (None, Slot::Heart(_)) => None,
        }
    }

    /// All requests on their way, and whether their answers are.
    pub(super) fn calls(&self, actor: Actor) -> Vec<(Slot, bool)> {
        let brief = |(slot, call): (Slot, &Call)| (slot, call.reply.is_some());
        if let Some(client) = self.clients.get(actor) {
            return client.get().calls().map(brief).collect();
        }
        let Some(operator) = self.operator.as_ref().map(Part::get) else { return Vec::new() };
        let lock = operator.call.iter().map(|call| (Slot::Lock, call));
        let eyes = operator.eyes.open.iter();
        let eyes = eyes.filter_map(|(id, eye)| Some((Slot::Eye(id.clone()), eye.call.as_ref()?)));
        lock.chain(eyes).map(brief).collect()
    }

    /// Which sessions' watches have something to show to this actor.
    pub(super) fn session_news(&self, actor: Actor) -> Vec<SessionId> {
        let server = self.server.get();
        let (eyes, operator) = match (self.clients.get(actor), &self.operator) {
            (Some(client), _) => (&client.get().eyes, None),
            (None, Some(operator)) => (&operator.get().eyes, Some(operator.get())),
            (None, None) => return Vec::new(),
        };
        let news = eyes.open.keys().filter(|session| eyes.has_news(session, server)).cloned();
        let strangers = server.sessions().filter(|id| operator.is_some_and(|operator| !operator.has_met(id))).cloned();
        news.chain(strangers).collect()
    }

    pub(super) fn next_wake(&self, scenario: &Scenario) -> Option<Duration> {
        self.actors().filter_map(|actor| self.wake(scenario, actor)).filter(|wake| *wake > self.time).min()
    }

    pub(super) fn is_due(&self, scenario: &Scenario, actor: Actor) -> bool {
        self.wake(scenario, actor).is_some_and(|wake| wake <= self.time)
    }
}

/// Whether this fault may happen.
pub(super) fn may(scenario: &Scenario, faults: u8, fault: Fault) -> bool {
    faults > 0 && scenario.allowed.contains(&fault)
}
