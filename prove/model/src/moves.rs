//! What may happen next.

use leasehold::protocol::{LATEST_COMMIT, Write};
use std::time::Duration;

use super::client::{Slot, Want};
use super::scenario::{Fault, Scenario};
use super::wire::{Place, What};
use super::world::{Action, Part, World, may};

impl World {
    /// Everything that may happen next.
    pub(super) fn moves(&self, scenario: &Scenario) -> Vec<Action> {
        let mut moves = Vec::new();
        for actor in self.actors() {
            if self.is_due(scenario, actor) {
                moves.push(Action::Step(actor));
            }
            if scenario.diligent && self.dozing.is_none() && may(scenario, self.faults, Fault::Doze) {
                moves.push(Action::Doze(actor));
            }
            self.network_moves(actor, scenario, &mut moves);
            if self.clients.get(actor).is_some_and(|client| !client.get().crashed) {
                self.user_moves(actor, scenario, &mut moves);
                if may(scenario, self.faults, Fault::Crash) && self.is_engaged(actor) {
                    moves.push(Action::Crash(actor));
                }
            }
        }
        moves.extend((0..self.late.len()).map(Action::Late));
        self.person_moves(scenario, &mut moves);
        let tick =
            scenario.tick * u32::try_from(self.time.as_nanos() / scenario.tick.as_nanos() + 1).unwrap_or(u32::MAX);
        let busy = |actor: usize| self.is_due(scenario, actor) && self.dozing != Some(actor);
        if tick <= scenario.horizon() && !(scenario.diligent && self.actors().any(busy)) {
            let soon = |wake: &Duration| *wake < tick && *wake <= self.time.saturating_add(scenario.soon);
            moves.extend(self.next_wake(scenario).filter(soon).map(Action::Pass));
            moves.push(Action::Pass(tick));
        }
        moves
    }

    fn is_engaged(&self, actor: usize) -> bool {
        let client = self.clients[actor].get();
        client.contender.is_engaged() || client.want != Want::Nothing
    }

    fn network_moves(&self, actor: usize, scenario: &Scenario, moves: &mut Vec<Action>) {
        for (slot, answered) in self.calls(actor) {
            let Some(call) = self.call(actor, &slot) else { continue };
            let expired = self.time > call.sent + LATEST_COMMIT;
            let fault = if slot == Slot::Lock { Fault::Lost } else { Fault::LostSession };
            if may(scenario, self.faults, fault) || (expired && !answered) {
                moves.push(Action::Lose(actor, slot.clone()));
            }
            if answered {
                moves.push(Action::Answer(actor, slot));
                continue;
            }
            let repeatable = matches!(call.request.what, What::Write(Write::Create(_) | Write::Patch(_)));
            if !expired {
                if repeatable && slot == Slot::Lock && may(scenario, self.faults, Fault::Twice) {
                    moves.push(Action::Twice(actor, slot.clone()));
                }
                moves.push(Action::Arrive(actor, slot));
            }
        }
        if let Some(client) = self.clients.get(actor).map(Part::get) {
            if client.watch.as_ref().is_some_and(|watch| !watch.sights.is_empty()) {
                moves.push(Action::Show(actor));
            }
            let watches = client.watch.is_some() || client.eyes.open.values().any(|eye| eye.shown.is_some());
            if watches && may(scenario, self.faults, Fault::WatchBreaks) {
                moves.push(Action::BreakWatches(actor));
            }
        } else if self.operator.as_ref().is_some_and(|operator| operator.get().has_news(self.server.get())) {
            moves.push(Action::Show(actor));
        }
        moves.extend(self.session_news(actor).into_iter().map(|session| Action::ShowSession(actor, session)));
    }

    fn user_moves(&self, actor: usize, scenario: &Scenario, moves: &mut Vec<Action>) {
        let client = self.clients[actor].get();
        if client.may_start() && client.begun < scenario.acquisitions {
            // Clients that are alike begin in the order of their numbers: any other order is the same by other names.
            let first = client.begun == 0 && scenario.clients_are_alike();
            if !first || self.clients[..actor].iter().all(|other| other.get().begun > 0) {
                moves.push(Action::Start(actor));
            }
        }
        if let Some(guard) = &client.guard {
            if !scenario.keep || !client.is_live(guard, self.now(scenario, actor).moment) {
                moves.push(Action::Release(actor));
            }
            if self.changes > 0 && client.is_live(guard, self.now(scenario, actor).moment) {
                moves.extend(guard.changes().into_iter().map(|mode| Action::Change(actor, mode)));
            }
        } else if client.want != Want::Nothing && self.cancels > 0 {
            moves.push(Action::Cancel(actor));
        }
    }

    fn person_moves(&self, scenario: &Scenario, moves: &mut Vec<Action>) {
        let server = self.server.get();
        if let Some(lock) = server.lock() {
            if may(scenario, self.faults, Fault::Break) && lock.is_held() {
                moves.push(Action::Break);
            }
            if may(scenario, self.faults, Fault::DeleteLock) {
                moves.push(Action::DeleteLock);
            }
            if may(scenario, self.faults, Fault::Resize) {
                let permits =
                    [scenario.permits, scenario.resized].into_iter().filter(|permits| *permits != lock.capacity);
                moves.extend(permits.map(Action::Resize));
            }
        }
        if may(scenario, self.faults, Fault::DeleteSession) {
            let sessions = server.sessions().filter(|id| server.get(&Place::Session((*id).clone())).is_some());
            moves.extend(sessions.cloned().map(Action::DeleteSession));
        }
    }
}
