//! What must be so, each a function named by its sentence. `Err` says what is.

use leasehold::protocol::record::Waiter;
use leasehold::protocol::{HolderId, Kind};

use super::client::{Client, Guard};
use super::scenario::{Fault, Scenario};
use super::sharing;
use super::wire::Change;
use super::world::{Effects, Part, World};
use crate::is_left_over;

/// A guarantee that does not hold, and how.
#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) invariant: &'static str,
    pub(super) how: String,
}

pub(super) type Judgement = Result<(), String>;

/// Judges a state, and the step that led there.
pub(super) fn judge(world: &World, effects: &Effects, scenario: &Scenario) -> Result<(), Violation> {
    named("tokens_strictly_grow", tokens_strictly_grow(effects))?;
    named("every_request_is_well_formed", every_request_is_well_formed(effects))?;
    for change in &effects.changes {
        named("a_waiter_keeps_its_place", a_waiter_keeps_its_place(change))?;
    }
    if scenario.kind != Kind::Lock {
        return sharing::judge(world, effects, scenario);
    }
    named("at_most_one_guard_is_live", at_most_one_guard_is_live(world, scenario))?;
    named("what_is_passed_on_was_not_seen_to_be_wanted", what_is_passed_on_was_not_seen_to_be_wanted(effects))?;
    for change in &effects.changes {
        named(
            "a_guard_is_lost_before_another_is_granted",
            a_guard_is_lost_before_another_is_granted(world, change, scenario),
        )?;
        named(
            "waiters_are_served_in_the_order_of_their_joins",
            waiters_are_served_in_the_order_of_their_joins(world, change),
        )?;
    }
    Ok(())
}

pub(super) fn named(invariant: &'static str, judgement: Judgement) -> Result<(), Violation> {
    judgement.map_err(|how| Violation { invariant, how })
}

/// The guards that pass a check now, each by its own process's clock. Whom a person took the lock from is left out.
pub(super) fn live_guards<'a>(world: &'a World, scenario: &'a Scenario) -> impl Iterator<Item = &'a Guard> {
    let excused = &world.annals.get().excused;
    let live = move |(number, client): (usize, &'a Part<Client>)| {
        let client = client.get();
        let now = world.now(scenario, number).moment;
        client.guard.as_ref().filter(|guard| client.is_live(guard, now))
    };
    world.clients.iter().enumerate().filter_map(live).filter(|guard| !excused.contains(&guard.id))
}

/// Never do two guards of one lock pass their checks at the same time.
fn at_most_one_guard_is_live(world: &World, scenario: &Scenario) -> Judgement {
    let live: Vec<_> = live_guards(world, scenario).map(|guard| guard.id.to_string()).collect();
    if live.len() > 1 { Err(format!("live at once: {}", live.join(" and "))) } else { Ok(()) }
}

/// A token is larger than those of all tenancies of that name that were over before, also over a deletion of the Lease;
/// and nobody is handed a guard without a tenancy.
fn tokens_strictly_grow(effects: &Effects) -> Judgement {
    if let Some(id) = &effects.unfounded {
        return Err(format!("{id} was handed a guard and never held the lock"));
    }
    effects.unordered.clone().map_or(Ok(()), Err)
}

/// No client keeps for itself what it has seen somebody else wait for, or somebody else have.
fn what_is_passed_on_was_not_seen_to_be_wanted(effects: &Effects) -> Judgement {
    effects.passed_over.clone().map_or(Ok(()), Err)
}

/// The API server never finds a request malformed.
fn every_request_is_well_formed(effects: &Effects) -> Judgement {
    effects.malformed.clone().map_or(Ok(()), Err)
}

/// When the lock gets its next holder, no guard of another passes its check any more, by its own process's clock: also
/// where the next holder does not know yet.
fn a_guard_is_lost_before_another_is_granted(world: &World, change: &Change, scenario: &Scenario) -> Judgement {
    let Some(next) = granted(change) else { return Ok(()) };
    match live_guards(world, scenario).find(|guard| guard.id != *next) {
        Some(live) => Err(format!("the lock was given to {next}, and the guard of {} is live", live.id)),
        None => Ok(()),
    }
}

/// A grant does not pass over anybody who joined before, waits still, and whose session stands.
fn waiters_are_served_in_the_order_of_their_joins(world: &World, change: &Change) -> Judgement {
    let (Some(next), Some(before)) = (granted(change), change.records().0) else { return Ok(()) };
    let ticket = before.waiters.iter().find(|waiter| waiter.id == *next).map(|waiter| waiter.ticket);
    let ahead = before.waiters.iter().filter(|waiter| ticket.is_none_or(|ticket| waiter.ticket < ticket));
    match ahead.filter(|waiter| waiter.id != *next).find(|waiter| waits(world, waiter)) {
        Some(waiter) => Err(format!("{next} was granted the lock before {}, ticket {}", waiter.id, waiter.ticket)),
        None => Ok(()),
    }
}

/// Whether this waiter's session stands, and its user still waits.
pub(super) fn waits(world: &World, waiter: &Waiter) -> bool {
    world.server.get().lives(&waiter.id.session) && world.clients.iter().any(|client| client.get().wants(&waiter.id))
}

/// A ticket is written once: who has joined does not lose its place by joining again.
fn a_waiter_keeps_its_place(change: &Change) -> Judgement {
    let (Some(before), Some(after)) = change.records() else { return Ok(()) };
    let ticket = |waiter: &Waiter| before.waiters.iter().find(|was| was.id == waiter.id).map(|was| was.ticket);
    let another = |waiter: &&Waiter| ticket(waiter).is_some_and(|ticket| ticket != waiter.ticket);
    match after.waiters.iter().filter(another).find(|waiter| !is_left_over(before, after, waiter)) {
        Some(waiter) => Err(format!("{} had another ticket than {}", waiter.id, waiter.ticket)),
        None => Ok(()),
    }
}

/// The one to whom this change gave the lock.
fn granted(change: &Change) -> Option<&HolderId> {
    change.admitted().next().and_then(|holder| holder.id.as_ref())
}

/// Judges a world that was left in peace for long enough.
pub(super) fn judge_end(world: &World, scenario: &Scenario) -> Result<(), Violation> {
    named("a_live_waiter_is_served_in_the_end", a_live_waiter_is_served_in_the_end(world))?;
    named("no_waiter_entry_outlives_its_waiter", no_waiter_entry_outlives_its_waiter(world, scenario))?;
    sharing::judge_end(world, scenario)
}

/// Nobody who lives waits for ever.
fn a_live_waiter_is_served_in_the_end(world: &World) -> Judgement {
    let waiting = world.clients.iter().map(Part::get).find(|client| !client.crashed && client.waits());
    match waiting {
        Some(client) => Err(format!("{} was not served, and waits for {:?}", client.name, client.contender.current())),
        None => Ok(()),
    }
}

/// Nothing stands on the lock of whom does not want it any more. What processes leave that died, or that lost their
/// session, stays until the next contender comes or an operator; that a newcomer is served is the other sentence. So does
/// what a network brought about that carried out a request once more after its answer: its sender cannot know.
fn no_waiter_entry_outlives_its_waiter(world: &World, scenario: &Scenario) -> Judgement {
    let Some(record) = world.server.get().lock() else { return Ok(()) };
    for id in record.ids() {
        let owner = world.clients.iter().map(Part::get).find(|client| client.name == id.session.host());
        let dead = owner.is_none_or(|owner| owner.crashed || owner.has_lost(&id.session));
        let repeated = scenario.allowed.contains(&Fault::Twice) && !world.server.get().lives(&id.session);
        if scenario.operator || !(dead || repeated) {
            return Err(format!("{id} stands on the lock, and nobody wants it"));
        }
    }
    Ok(())
}
