//! The world at one moment: processes, the API server, and all that is on its way between them.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use leasehold::protocol::{HolderId, LATEST_COMMIT, Moment, Now, SessionId, Version, Write};

use super::client::{At, Client, Slot};
use super::eyes::Call;
use super::operator::Operator;
use super::scenario::{Fault, Scenario};
use super::wire::{Change, Place, Reply, Request, Server, What};

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
}

/// What there is to remember of the past in order to judge what comes.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Annals {
    /// Tenancies that have begun, by the version with which they did, while their holder may not know yet.
    pub(super) begun: Vec<(HolderId, Version)>,
    /// Tokens that were handed out, by the version with which their tenancy began.
    pub(super) tokens: Vec<(Version, u64)>,
    /// A person took the lock from these: they may believe in it until they learn.
    pub(super) excused: BTreeSet<HolderId>,
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
    /// For people: what was sent and answered.
    pub(super) told: Option<Vec<String>>,
}

impl Effects {
    fn tell(&mut self, line: impl FnOnce() -> String) {
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
            let lease = serde_json::json!({
                "metadata": { "name": super::wire::LOCK, "uid": "u0", "annotations": { "leasehold.dev/format": "1" },
                    "labels": { "leasehold.dev/kind": "lock" } },
                "spec": {},
            });
            let lease = serde_json::from_value(lease).expect("a Lease");
            server.store(&Place::Lock, None, Some(lease));
            server.history.clear();
        }
        let mut world = Self {
            time: Duration::ZERO,
            clients: (0..scenario.clients).map(|n| Part::new(Client::new(n, &scenario.habits))).collect(),
            operator: scenario.operator.then(|| Part::new(Operator::default())),
            server: Part::new(server),
            late: Vec::new(),
            dozing: None,
            faults: scenario.faults,
            cancels: scenario.cancels,
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
        let Self { time, clients, operator, server, late, dozing, faults, cancels, annals } = self;
        print_of(&(time, clients, operator, server, late, dozing, faults, cancels, annals))
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

    // ------------------------------------------------------------------------------------------------ what happens

    /// Lets it happen.
    pub(super) fn apply(&mut self, action: &Action, scenario: &Scenario, effects: &mut Effects) {
        match action {
            Action::Pass(until) => {
                self.time = *until;
                self.late.retain(|(_, sent)| *until <= *sent + LATEST_COMMIT);
            }
            Action::Step(actor) => self.step(*actor, scenario, effects),
            Action::Doze(actor) => {
                self.faults -= 1;
                self.dozing = Some(*actor);
            }
            Action::Start(actor) => self.hear(*actor, scenario, effects, |client, now, _| client.start(now)),
            Action::Release(actor) => self.hear(*actor, scenario, effects, |client, now, _| client.release(now)),
            Action::Cancel(actor) => {
                self.cancels -= 1;
                self.hear(*actor, scenario, effects, |client, now, _| client.cancel(now));
            }
            Action::Arrive(actor, slot) => self.arrive(*actor, slot, scenario, effects),
            Action::Twice(actor, slot) => {
                self.faults -= 1;
                if let Some(call) = self.call(*actor, slot) {
                    self.late.push((call.request.clone(), call.sent));
                }
                self.arrive(*actor, slot, scenario, effects);
            }
            Action::Answer(actor, slot) => {
                let reply = self.call(*actor, slot).and_then(|call| call.reply.clone());
                effects.tell(|| format!("answer: {}", reply.as_ref().map_or_else(String::new, ToString::to_string)));
                self.answer(*actor, slot, reply.as_ref(), scenario, effects);
            }
            Action::Lose(actor, slot) => {
                self.faults = self.faults.saturating_sub(1);
                if let Some(call) = self.call(*actor, slot).filter(|call| call.reply.is_none()).cloned() {
                    effects.tell(|| format!("it was: {}", call.request));
                    self.late.push((call.request, call.sent));
                }
                self.answer(*actor, slot, None, scenario, effects);
            }
            Action::Late(index) => {
                let (request, _) = self.late.remove(*index);
                self.carry_out(&request, scenario, effects);
            }
            Action::Show(actor) => {
                if *actor < self.clients.len() {
                    self.hear(*actor, scenario, effects, |client, now, _| client.show(now));
                } else {
                    self.operate(scenario, effects, |operator, now, server| operator.show(server, now));
                }
            }
            Action::ShowSession(actor, session) => {
                self.show_session(*actor, session, scenario);
                if scenario.prompt_steps {
                    self.step(*actor, scenario, effects);
                }
            }
            Action::BreakWatches(actor) => {
                self.faults -= 1;
                self.hear(*actor, scenario, effects, |client, now, _| client.break_watches(now));
            }
            Action::Crash(actor) => {
                self.faults -= 1;
                let calls = self.clients[*actor].change(|client| client.crash(&scenario.habits));
                self.late.extend(calls.into_iter().map(|call| (call.request, call.sent)));
            }
            Action::Break | Action::DeleteLock => self.interfere(matches!(action, Action::Break), effects),
            Action::DeleteSession(session) => {
                self.faults -= 1;
                let place = Place::Session(session.clone());
                self.server.change(|server| server.store(&place, server.get(&place).cloned(), None));
                self.show_promptly(session, scenario);
            }
        }
        self.tidy();
    }

    /// Somebody's user or network tells a client something.
    fn hear(
        &mut self,
        actor: Actor,
        scenario: &Scenario,
        effects: &mut Effects,
        tell: impl FnOnce(&mut Client, Moment, &Server),
    ) {
        let now = self.now(scenario, actor);
        let server = self.server.clone();
        let before = self.clients[actor].get().guard.as_ref().map(|guard| guard.id.clone());
        self.clients[actor].change(|client| {
            tell(client, now.moment, server.get());
            if scenario.prompt_steps {
                client.step(&At { now, real: self.time, server: server.get(), habits: &scenario.habits });
            }
        });
        self.note_guard(actor, before.as_ref(), effects);
        self.after_step(actor, scenario, effects);
    }

    fn operate(
        &mut self,
        scenario: &Scenario,
        effects: &mut Effects,
        tell: impl FnOnce(&mut Operator, Moment, &Server),
    ) {
        let actor = self.clients.len();
        let now = self.now(scenario, actor);
        let server = self.server.clone();
        if let Some(operator) = &mut self.operator {
            operator.change(|operator| {
                tell(operator, now.moment, server.get());
                if scenario.prompt_steps {
                    operator.step(&At { now, real: self.time, server: server.get(), habits: &scenario.habits });
                }
            });
        }
        self.after_step(actor, scenario, effects);
    }

    pub(super) fn step(&mut self, actor: Actor, scenario: &Scenario, effects: &mut Effects) {
        let now = self.now(scenario, actor);
        let server = self.server.clone();
        let at = At { now, real: self.time, server: server.get(), habits: &scenario.habits };
        if let Some(client) = self.clients.get_mut(actor) {
            let before = client.get().guard.as_ref().map(|guard| guard.id.clone());
            client.change(|client| client.step(&at));
            self.note_guard(actor, before.as_ref(), effects);
        } else if let Some(operator) = &mut self.operator {
            operator.change(|operator| operator.step(&at));
        }
        self.after_step(actor, scenario, effects);
    }

    /// Carries out at once what takes no time in this scenario.
    fn after_step(&mut self, actor: Actor, scenario: &Scenario, effects: &mut Effects) {
        if self.dozing == Some(actor) {
            self.dozing = None;
        }
        if scenario.prompt_sessions || scenario.prompt_reads || scenario.prompt_writes {
            let reads = |world: &Self, slot: &Slot| world.call(actor, slot).is_some_and(|call| call.request.is_read());
            // Where sessions' requests may be lost, their openings are.
            let slow_opening = scenario.allowed.contains(&Fault::LostSession);
            let opens = |world: &Self, slot: &Slot| {
                let what = world.call(actor, slot).map(|call| &call.request.what);
                matches!(what, Some(What::Write(Write::Create(_))))
            };
            let prompt = |world: &Self, slot: &Slot| match slot {
                Slot::Lock if reads(world, slot) => scenario.prompt_reads,
                Slot::Lock => scenario.prompt_writes,
                Slot::Heart(_) if slow_opening && opens(world, slot) => false,
                Slot::Heart(_) | Slot::Eye(_) => scenario.prompt_sessions,
            };
            let open = |world: &Self| world.calls(actor).into_iter().find(|(slot, _)| prompt(world, slot));
            while let Some((slot, answered)) = open(self) {
                if !answered {
                    self.arrive(actor, &slot, scenario, effects);
                }
                let reply = self.call(actor, &slot).and_then(|call| call.reply.clone());
                self.answer(actor, &slot, reply.as_ref(), scenario, effects);
            }
        }
    }

    /// Notes a guard that has just been handed out.
    fn note_guard(&mut self, actor: Actor, before: Option<&HolderId>, effects: &mut Effects) {
        let Some(guard) = self.clients[actor].get().guard.as_ref().filter(|guard| Some(&guard.id) != before) else {
            return;
        };
        let (id, token) = (guard.id.clone(), guard.token);
        let Some((_, begun)) = self.annals.get().begun.iter().find(|(other, _)| *other == id) else {
            effects.unfounded = Some(id);
            return;
        };
        let begun = *begun;
        let disorder = |(other, known): &&(Version, u64)| (*other < begun) != (*known < token) || *known == token;
        if let Some((other, known)) = self.annals.get().tokens.iter().find(disorder) {
            effects.unordered = Some(format!(
                "the tenancy that began at version {other} has token {known}, the one at {begun} ({id}) has {token}"
            ));
        }
        self.annals.change(|annals| annals.tokens.push((begun, token)));
    }

    fn arrive(&mut self, actor: Actor, slot: &Slot, scenario: &Scenario, effects: &mut Effects) {
        let Some(request) = self.call(actor, slot).map(|call| call.request.clone()) else { return };
        let reply = self.carry_out(&request, scenario, effects);
        if let Some(client) = self.clients.get_mut(actor) {
            client.change(|client| client.call_mut(slot).expect("it was there").reply = Some(reply));
        } else if let Some(operator) = &mut self.operator {
            operator.change(|operator| {
                let call = match slot {
                    Slot::Lock => operator.call.as_mut(),
                    Slot::Heart(id) | Slot::Eye(id) => operator.eyes.open.get_mut(id).and_then(|eye| eye.call.as_mut()),
                };
                call.expect("it was there").reply = Some(reply);
            });
        }
    }

    fn answer(&mut self, actor: Actor, slot: &Slot, reply: Option<&Reply>, scenario: &Scenario, effects: &mut Effects) {
        if actor < self.clients.len() {
            self.hear(actor, scenario, effects, |client, now, _| client.answer(slot, reply, now));
        } else {
            self.operate(scenario, effects, |operator, now, _| operator.answer(slot, reply, now));
        }
    }

    /// The API server carries out a request.
    pub(super) fn carry_out(&mut self, request: &Request, scenario: &Scenario, effects: &mut Effects) -> Reply {
        let before = self.server.get().version(&request.place);
        let reply = if request.is_read() {
            self.server.get().clone().carry_out(request)
        } else {
            self.server.change(|server| server.carry_out(request))
        };
        effects.tell(|| format!("{request} → {reply}"));
        if let Reply::Invalid(why) = &reply {
            effects.malformed = Some(format!("{request}: {why}"));
        }
        if self.server.get().version(&request.place) > before {
            match &request.place {
                Place::Lock => self.lock_changed(effects),
                Place::Session(session) => self.show_promptly(session, scenario),
            }
        }
        reply
    }

    fn lock_changed(&mut self, effects: &mut Effects) {
        let Some(change) = self.server.get().history.last().cloned() else { return };
        for client in &mut self.clients {
            let mut watch = client.get().watch.clone();
            if let Some(watch) = &mut watch {
                let before = watch.sights.len();
                watch.take(&change);
                if watch.sights.len() > before {
                    client.change(|client| client.watch = Some(watch.clone()));
                }
            }
        }
        let holder = |record: &leasehold::protocol::Record| {
            record.holder.as_ref().and_then(|holder| holder.id.clone()).map(|id| (id, record.tenancy()))
        };
        let before = change.before.as_ref().and_then(|stored| stored.lock()).and_then(holder);
        let after = change.after.as_ref().and_then(|stored| stored.lock()).and_then(holder);
        if let (Some((id, _)), true) = (&after, before != after) {
            let (id, version) = (id.clone(), change.version);
            self.annals.change(|annals| {
                annals.begun.retain(|(other, _)| *other != id);
                annals.begun.push((id, version));
            });
        }
        effects.changes.push(change);
    }

    /// A person breaks the lock, or deletes its Lease.
    fn interfere(&mut self, gently: bool, effects: &mut Effects) {
        self.faults -= 1;
        let holder =
            self.server.get().lock().and_then(|lock| lock.holder.as_ref().and_then(|holder| holder.id.clone()));
        self.annals.change(|annals| annals.excused.extend(holder));
        let Some(before) = self.server.get().get(&Place::Lock).cloned() else { return };
        let mut broken = before.lease.clone();
        broken.spec.get_or_insert_default().holder_identity = Some(String::new());
        self.server.change(|server| server.store(&Place::Lock, Some(before), gently.then_some(broken)));
        self.lock_changed(effects);
    }

    fn show_promptly(&mut self, session: &SessionId, scenario: &Scenario) {
        if scenario.prompt_sessions {
            for actor in self.actors() {
                if self.session_news(actor).contains(session) {
                    self.show_session(actor, session, scenario);
                }
            }
        }
    }

    fn show_session(&mut self, actor: Actor, session: &SessionId, scenario: &Scenario) {
        let now = self.now(scenario, actor).moment;
        let server = self.server.clone();
        if let Some(client) = self.clients.get_mut(actor) {
            client.change(|client| {
                client.eyes.show(session, server.get(), now);
                client.wake = Some(now);
            });
        } else if let Some(operator) = &mut self.operator {
            operator.change(|operator| {
                operator.meet(session, now);
                operator.eyes.show(session, server.get(), now);
                operator.wake = Some(now);
            });
        }
    }

    /// Drops what makes no difference any more.
    fn tidy(&mut self) {
        let server = self.server.get();
        self.late.retain(|(request, _)| !server.is_inert(request));
        self.late.sort_by_key(|(request, sent)| (print_of(&**request), *sent));
        self.late.dedup_by_key(|(request, sent)| (print_of(&**request), *sent));
        let oldest = self.clients.iter().map(|client| client.get().may_watch_from(server)).min().unwrap_or_default();
        if server.history.iter().any(|change| change.version <= oldest) {
            self.server.change(|server| server.history.retain(|change| change.version > oldest));
        }
        let annals = self.annals.get();
        let current = |id: &HolderId| self.clients.iter().any(|client| client.get().contender.current() == Some(id));
        let handed_out = |id: &HolderId| {
            self.clients.iter().any(|client| client.get().guard.as_ref().is_some_and(|guard| guard.id == *id))
        };
        let stays = |id: &HolderId| current(id) && !handed_out(id);
        if annals.begun.iter().any(|(id, _)| !stays(id)) || annals.excused.iter().any(|id| !current(id)) {
            let mut annals = annals.clone();
            annals.begun.retain(|(id, _)| stays(id));
            annals.excused.retain(current);
            self.annals = Part::new(annals);
        }
        // Tenancies that begin from now on, and those whose holders do not know yet, come after all but these.
        let annals = self.annals.get();
        let oldest = annals.begun.iter().map(|(_, begun)| *begun).min();
        let passed =
            annals.tokens.iter().map(|(begun, _)| *begun).filter(|begun| oldest.is_none_or(|old| *begun < old));
        if let Some(last) = passed.max().filter(|last| annals.tokens.iter().any(|(begun, _)| begun < last)) {
            self.annals.change(|annals| annals.tokens.retain(|(begun, _)| *begun >= last));
        }
    }
}

/// Whether this fault may happen.
pub(super) fn may(scenario: &Scenario, faults: u8, fault: Fault) -> bool {
    faults > 0 && scenario.allowed.contains(&fault)
}
