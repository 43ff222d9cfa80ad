//! What happens, and what comes of it at once.

use leasehold::protocol::record::{HOLDER, PERMITS, UPGRADE, WANT};
use leasehold::protocol::{HolderId, Kind, LATEST_COMMIT, Moment, SessionId, Write};

use super::client::{At, Client, Slot};
use super::operator::Operator;
use super::scenario::{Fault, Scenario};
use super::wire::{Place, Reply, Request, Server, What};
use super::world::{Action, Actor, Effects, Part, Told, World, print_of};

impl World {
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
            Action::Change(actor, mode) => {
                self.changes -= 1;
                self.hear(*actor, scenario, effects, |client, now, _| client.change(*mode, now));
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
                let calls = self.clients[*actor].change(|client| client.crash(scenario));
                self.late.extend(calls.into_iter().map(|call| (call.request, call.sent)));
            }
            Action::Break | Action::DeleteLock => self.interfere(matches!(action, Action::Break), effects),
            Action::Resize(permits) => {
                self.faults -= 1;
                self.resize(*permits, effects);
            }
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
        let before = self.clients[actor].get().has();
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
            let before = client.get().has();
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

    /// Notes a guard that has just been handed out, or has become another.
    fn note_guard(&mut self, actor: Actor, before: Option<&(HolderId, u64)>, effects: &mut Effects) {
        let has = self.clients[actor].get().has();
        let Some((id, token)) = has.filter(|has| Some(has) != before) else { return };
        self.note_passed_on(actor, before, &id, effects);
        let annals = self.annals.get();
        let Some((_, begun)) = annals.begun.iter().find(|(other, _)| *other == id).cloned() else {
            effects.unfounded = Some(id);
            return;
        };
        // Several can hold at the same time: then it does not matter whose token is larger.
        let disorder = |told: &&Told| told.ended.is_some_and(|ended| ended <= begun) && told.token >= token;
        if let Some(told) = annals.told.iter().find(disorder) {
            let Told { token: last, ended, .. } = told;
            effects.unordered = Some(format!(
                "{id} has token {token} from version {begun} on, and {last} was the token until {ended:?}"
            ));
        }
        let holds = self.server.get().lock().is_some_and(|lock| lock.is_held_by(&id));
        let version = self.server.get().version(&Place::Lock);
        self.annals.change(|annals| {
            annals.told.retain(|told| told.id.as_ref() != Some(&id));
            let (id, ended) = if holds { (Some(id), None) } else { (None, Some(version)) };
            annals.told.push(Told { id, token, begun, ended });
        });
    }

    /// Notes a guard that its client had from no write: whether anybody is passed over who had been seen to wait.
    fn note_passed_on(&self, actor: Actor, before: Option<&(HolderId, u64)>, id: &HolderId, effects: &mut Effects) {
        let server = self.server.get();
        let seen = self.clients[actor].get().seen;
        // What stood there when it last looked.
        let seen = match server.history.iter().find(|change| change.version > seen) {
            Some(change) => change.records().0,
            None => server.lock(),
        };
        let lent = before.is_none() && self.annals.get().told.iter().any(|told| told.id.as_ref() == Some(id));
        let Some(record) = seen.filter(|_| lent) else { return };
        if let Some(waiter) = record.waiters.iter().find(|waiter| waiter.id.session != id.session) {
            effects.passed_over = Some(format!("{id} was passed on, and {} had been seen to wait", waiter.id));
        } else if !record.is_held_by(id) {
            effects.passed_over = Some(format!("{id} was passed on, and had been seen not to be held any more"));
        }
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
        let admitted: Vec<HolderId> = change.admitted().filter_map(|holder| holder.id.clone()).collect();
        if !admitted.is_empty() {
            self.annals.change(|annals| {
                annals.begun.retain(|(other, _)| !admitted.contains(other));
                annals.begun.extend(admitted.into_iter().map(|id| (id, change.version)));
            });
        }
        let after = change.records().1;
        let ends = |told: &Told| told.id.as_ref().is_some_and(|id| !after.is_some_and(|after| after.is_held_by(id)));
        if self.annals.get().told.iter().any(ends) {
            self.annals.change(|annals| {
                for told in annals.told.iter_mut().filter(|told| ends(told)) {
                    (told.id, told.ended) = (None, Some(change.version));
                }
            });
        }
        effects.changes.push(change);
    }

    /// A person breaks the lock, or the first of several holds, or deletes the lock's Lease.
    fn interfere(&mut self, gently: bool, effects: &mut Effects) {
        self.faults -= 1;
        let Some(before) = self.server.get().get(&Place::Lock).cloned() else { return };
        let Some(record) = before.lock() else { return };
        let concerned = if gently { 1 } else { usize::MAX };
        let ids = record.holders().take(concerned).filter_map(|holder| holder.id.clone());
        self.annals.change(|annals| annals.excused.extend(ids));
        let mut broken = before.lease.clone();
        if record.kind == Kind::Lock {
            broken.spec.get_or_insert_default().holder_identity = Some(String::new());
        } else if let Some(first) = record.shared.first() {
            let annotations = broken.metadata.annotations.get_or_insert_default();
            for prefix in [HOLDER, WANT, UPGRADE] {
                annotations.remove(&format!("{prefix}{}", first.identity));
            }
        }
        self.server.change(|server| server.store(&Place::Lock, Some(before), gently.then_some(broken)));
        self.lock_changed(effects);
    }

    /// A person changes how many permits there are.
    pub(super) fn resize(&mut self, permits: u32, effects: &mut Effects) {
        let Some(before) = self.server.get().get(&Place::Lock).cloned() else { return };
        let mut lease = before.lease.clone();
        lease.metadata.annotations.get_or_insert_default().insert(PERMITS.to_owned(), permits.to_string());
        self.server.change(|server| server.store(&Place::Lock, Some(before), Some(lease)));
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
        // Who is about to change what it has will be told of another tenancy.
        let handed_out = |id: &HolderId| {
            // What is passed on will be handed out again.
            let clients = self.clients.iter().map(Part::get).filter(|client| !client.lent.lends());
            clients.filter_map(|client| client.guard.as_ref()).any(|guard| guard.id == *id && guard.change.is_none())
        };
        let stays = |id: &HolderId| current(id) && !handed_out(id);
        if annals.begun.iter().any(|(id, _)| !stays(id)) || annals.excused.iter().any(|id| !current(id)) {
            let mut annals = annals.clone();
            annals.begun.retain(|(id, _)| stays(id));
            annals.excused.retain(current);
            self.annals = Part::new(annals);
        }
        // Tenancies that begin from now on, and those whose holders do not know yet, come after all but these: of what
        // was over before, the largest token is enough.
        let annals = self.annals.get();
        let oldest = annals.begun.iter().map(|(_, begun)| *begun).min();
        let over = |told: &&Told| told.ended.is_some_and(|ended| oldest.is_none_or(|oldest| ended <= oldest));
        if annals.told.iter().filter(over).count() > 1 {
            let largest = annals.told.iter().filter(over).max_by_key(|told| told.token).cloned();
            self.annals.change(|annals| {
                annals.told.retain(|told| !over(&told));
                annals.told.extend(largest);
            });
        }
    }
}
