//! The fair end of a path: nothing goes wrong any more, everything arrives, users let go of what they hold.

use std::time::Duration;

use leasehold::protocol::{Kind, LATEST_COMMIT};

use super::client::Guard;
use super::invariants::{Violation, judge, judge_end};
use super::scenario::Scenario;
use super::world::{Action, Effects, World};

/// Whoever is alive must have been served this long after the last thing went wrong.
///
/// The longest wait is behind a session whose Lease somebody deleted: it is missed within a renew interval, and counts
/// as dead a minute later. A request that is carried out as late as can be adds its own minute and a half.
const PATIENCE: Duration = Duration::from_secs(240);
/// And everything must be cleared away after this.
const PEACE: Duration = Duration::from_secs(600);

impl World {
    /// Delivers everything, and does everything that is due, until nothing is left but to let time pass.
    pub(super) fn settle(&mut self, scenario: &Scenario, effects: &mut Effects) {
        for _ in 0..10_000 {
            let Some(action) = self.fair_move(scenario) else { return };
            self.apply(&action, scenario, effects);
        }
        panic!("{}: nobody comes to rest", scenario.name);
    }

    fn fair_move(&self, scenario: &Scenario) -> Option<Action> {
        self.actors().find_map(|actor| {
            if self.is_due(scenario, actor) {
                return Some(Action::Step(actor));
            }
            if let Some((slot, answered)) = self.calls(actor).into_iter().next() {
                let late = self.call(actor, &slot).is_some_and(|call| self.time > call.sent + LATEST_COMMIT);
                return Some(match (answered, late) {
                    (true, _) => Action::Answer(actor, slot),
                    (false, true) => Action::Lose(actor, slot),
                    (false, false) => Action::Arrive(actor, slot),
                });
            }
            let shows = match (self.clients.get(actor), &self.operator) {
                (Some(client), _) => client.get().watch.as_ref().is_some_and(|watch| !watch.sights.is_empty()),
                (None, operator) => {
                    operator.as_ref().is_some_and(|operator| operator.get().has_news(self.server.get()))
                }
            };
            if shows {
                return Some(Action::Show(actor));
            }
            self.session_news(actor).into_iter().next().map(|session| Action::ShowSession(actor, session))
        })
    }

    /// What a person changed is as it was.
    fn heal(&mut self, scenario: &Scenario) {
        let resized = self.server.get().lock().is_some_and(|lock| lock.capacity != scenario.permits);
        if scenario.kind == Kind::Semaphore && resized {
            self.resize(scenario.permits, &mut Effects::default());
        }
    }

    fn release_move(&self) -> Option<Action> {
        // Whoever is to become more waits for that first.
        let guards = self.clients.iter().map(|client| client.get().guard.as_ref());
        let held = |guard: Option<&Guard>| guard.is_some_and(|guard| guard.change.is_none() || guard.over);
        guards.into_iter().position(held).map(Action::Release)
    }

    fn waits(&self) -> bool {
        self.clients.iter().any(|client| client.get().waits())
    }
}

/// What becomes of requests whose senders do not listen any more.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stragglers {
    /// They never arrive.
    Lost,
    /// They are carried out as late as can be.
    Last,
}

/// Follows a world to its fair end, and judges that. Afterwards a client that is alive must get the lock once more.
/// Returns how long the last waiter had to wait, and tells every step to `watch`.
pub(super) fn follow(
    mut world: World,
    scenario: &Scenario,
    stragglers: Stragglers,
    mut watch: impl FnMut(&Action, &World, &Effects),
) -> Result<Duration, Violation> {
    let begin = world.time;
    world.faults = 0;
    world.heal(scenario);
    let mut served_after = Duration::ZERO;
    let mut newcomer = world.clients.iter().position(|client| !client.get().crashed);
    if matches!(stragglers, Stragglers::Lost) {
        world.late.clear();
    }
    let mut end = begin + PATIENCE;
    loop {
        let straggler = world.late.iter().position(|(_, sent)| world.time >= *sent + LATEST_COMMIT);
        let action = straggler.map(Action::Late).or_else(|| world.fair_move(scenario)).or_else(|| world.release_move());
        let action = match action {
            Some(action) => action,
            None if world.waits() && world.time < end => world.pass(scenario, end),
            None if !world.waits() && end == begin + PATIENCE => {
                served_after = world.time.saturating_sub(begin);
                end = begin + PEACE;
                continue;
            }
            None if world.time < end => world.pass(scenario, end),
            None => {
                judge_end(&world, scenario)?;
                let Some(client) = newcomer.take() else { return Ok(served_after) };
                end = world.time + PATIENCE;
                Action::Start(client)
            }
        };
        let mut effects = Effects::default();
        world.apply(&action, scenario, &mut effects);
        watch(&action, &world, &effects);
        judge(&world, &effects, scenario)?;
    }
}

impl World {
    /// Time passes until something is due.
    fn pass(&self, scenario: &Scenario, end: Duration) -> Action {
        let late = self.late.iter().map(|(_, sent)| *sent + LATEST_COMMIT).filter(|then| *then > self.time);
        Action::Pass(self.next_wake(scenario).into_iter().chain(late).min().unwrap_or(end).min(end))
    }
}
