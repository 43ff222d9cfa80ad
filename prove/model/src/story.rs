//! A path, told so that a reader can follow it.

use std::fmt::Write as _;

use leasehold::protocol::Kind;

use super::client::{Guard, Slot, Want};
use super::ending::{Stragglers, follow};
use super::invariants::Violation;
use super::scenario::Scenario;
use super::world::{Action, Effects, World};

/// Tells what happened on a path, then by one more move, then on the way to the fair end.
pub(super) fn tell(
    scenario: &Scenario,
    path: &[u16],
    last: Option<u16>,
    end: Option<Stragglers>,
    violation: &Violation,
) -> String {
    let mut world = World::new(scenario);
    let mut story = format!("{} in scenario {:?}: {}\n", violation.invariant, scenario.name, violation.how);
    let _ = writeln!(story, "  at first {}", believed(&world, scenario));
    let mut count = 0;
    for number in path.iter().chain(&last) {
        let action = world.moves(scenario).swap_remove(usize::from(*number));
        let told = line(&world, scenario, &action);
        let mut effects = Effects { told: Some(Vec::new()), ..Effects::default() };
        world.apply(&action, scenario, &mut effects);
        count += 1;
        let _ = writeln!(story, "{count:3}. {told}");
        for told in effects.told.iter().flatten() {
            let _ = writeln!(story, "       {told}");
        }
        let _ = writeln!(story, "       {}", believed(&world, scenario));
    }
    if let Some(stragglers) = end {
        let _ = writeln!(story, "  then nothing goes wrong any more; requests nobody waits for: {stragglers:?}");
        let mut before = world.clone();
        let mut quiet = 0;
        let _ = follow(world, scenario, stragglers, |action, after, _| {
            // What only keeps things going is left out.
            let dull = matches!(action, Action::Pass(_))
                || matches!(
                    action,
                    Action::Step(_) | Action::Answer(..) | Action::Arrive(..) | Action::ShowSession(..)
                ) && believed(&before, scenario) == believed(after, scenario);
            if !dull && quiet < 60 {
                quiet += 1;
                let _ =
                    writeln!(story, "   +  {}\n       {}", line(&before, scenario, action), believed(after, scenario));
            }
            before = after.clone();
        });
    }
    story
}

fn line(world: &World, scenario: &Scenario, action: &Action) -> String {
    let name = |actor: &usize| if *actor < world.clients.len() { format!("p{actor}") } else { "operator".to_owned() };
    let what =
        |actor: &usize, slot: &Slot| world.call(*actor, slot).map_or_else(String::new, |call| call.request.to_string());
    let told = match action {
        Action::Pass(until) => format!("time passes until {until:?}"),
        Action::Step(actor) => format!("{} does what is due", name(actor)),
        Action::Doze(actor) => format!("{} does nothing for a while", name(actor)),
        Action::Start(actor) => format!("{}'s user begins an acquisition", name(actor)),
        Action::Release(actor) => format!("{}'s user releases", name(actor)),
        Action::Cancel(actor) => format!("{}'s user cancels", name(actor)),
        Action::Change(actor, mode) => format!("{}'s user makes it {mode:?}", name(actor)),
        Action::Arrive(actor, slot) => format!("{}'s request is carried out: {}", name(actor), what(actor, slot)),
        Action::Twice(actor, slot) => {
            format!("{}'s request is carried out, and will be again: {}", name(actor), what(actor, slot))
        }
        Action::Answer(actor, slot) => format!("{} is answered: {}", name(actor), what(actor, slot)),
        Action::Lose(actor, slot) => format!("{} is told that nobody answers: {}", name(actor), what(actor, slot)),
        Action::Late(index) => {
            let request = world.late.get(*index).map(|(request, _)| request.to_string());
            format!("a request nobody waits for is carried out: {}", request.unwrap_or_default())
        }
        Action::Show(actor) => format!("{}'s watch shows its next event", name(actor)),
        Action::ShowSession(actor, session) => format!("{}'s watch shows session {session}", name(actor)),
        Action::BreakWatches(actor) => format!("{}'s watches break off", name(actor)),
        Action::Crash(actor) => format!("{} crashes", name(actor)),
        Action::Break => "a person takes the lock from its holder".to_owned(),
        Action::DeleteLock => "a person deletes the lock's Lease".to_owned(),
        Action::Resize(permits) => format!("a person makes it {permits} permits"),
        Action::DeleteSession(session) => format!("somebody deletes session {session}"),
    };
    format!("[{:?}] {told}", world.time).replace("[0ns]", &format!("[0s, horizon {:?}]", scenario.horizon()))
}

/// What each believes, and what is.
fn believed(world: &World, scenario: &Scenario) -> String {
    let mut told = String::new();
    for (number, client) in world.clients.iter().enumerate() {
        let client = client.get();
        let current = client.contender.current().map_or_else(|| "-".to_owned(), ToString::to_string);
        let _ = match (&client.guard, client.want) {
            _ if client.crashed => write!(told, "p{number} dead"),
            (Some(guard), _) => {
                let live = client.is_live(guard, world.now(scenario, number).moment);
                write!(
                    told,
                    "p{number} holds {}{} token {} {}",
                    guard.id,
                    had(client.wish.kind, guard),
                    guard.token,
                    if live { "live" } else { "lost" }
                )
            }
            (None, Want::Entering { .. }) => write!(told, "p{number} opens a session"),
            (None, Want::Acquiring) => write!(told, "p{number} waits as {current}"),
            (None, Want::Nothing) => write!(told, "p{number} wants nothing ({current})"),
        };
        told.push_str("; ");
    }
    match world.server.get().lock() {
        None => told.push_str("no Lease"),
        Some(lock) => {
            let alone = lock.kind == Kind::Lock;
            let tell = |id: String, mode| if alone { id } else { format!("{id} {mode:?}") };
            let holders: Vec<_> = lock.holders().map(|holder| tell(holder.identity.clone(), holder.mode)).collect();
            let waiters: Vec<_> =
                lock.waiters.iter().map(|waiter| tell(waiter.id.to_string(), waiter.want.mode)).collect();
            let _ = write!(told, "at {}: {holders:?} then {waiters:?}", lock.version);
            if let Some(upgrading) = &lock.upgrading {
                let _ = write!(told, ", {upgrading} is to be alone");
            }
        }
    }
    if !world.late.is_empty() {
        let _ = write!(told, "; {} may still arrive", world.late.len());
    }
    told
}

/// How much of it is held, and what is to become of that.
fn had(kind: Kind, guard: &Guard) -> String {
    match (kind, guard.change) {
        (Kind::Lock, _) => String::new(),
        (_, None) => format!(" ({:?})", guard.mode),
        (_, Some(change)) => format!(" ({:?}, to be {change:?})", guard.mode),
    }
}
