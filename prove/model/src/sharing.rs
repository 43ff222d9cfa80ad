//! What must be so of what several can hold, each a function named by its sentence. `Err` says what is.

use leasehold::protocol::{Holder, Kind, Mode, Record, write};

use super::client::Guard;
use super::invariants::{Judgement, Violation, live_guards, named, waits};
use super::scenario::{Fault, Scenario};
use super::wire::{Change, rank};
use super::world::{Effects, World};

/// Judges a state, and the step that led there.
pub(super) fn judge(world: &World, effects: &Effects, scenario: &Scenario) -> Result<(), Violation> {
    let live: Vec<_> = live_guards(world, scenario).collect();
    let record = world.server.get().lock();
    named(
        "never_more_permits_are_held_live_than_there_are",
        never_more_permits_are_held_live_than_there_are(&live, record),
    )?;
    named("readers_and_writers_never_meet", readers_and_writers_never_meet(&live))?;
    named("who_believes_to_hold_something_stands_there", who_believes_to_hold_something_stands_there(&live, record))?;
    for change in &effects.changes {
        // What lets nobody in can do no harm to anybody else.
        let (before, Some(after)) = change.records() else { continue };
        if change.admitted().next().is_none() {
            continue;
        }
        named("nobody_is_let_in_beyond_what_there_is", nobody_is_let_in_beyond_what_there_is(after))?;
        named("a_guard_is_lost_before_another_is_granted", a_guard_is_lost_before_another_is_granted(&live, after))?;
        let Some(before) = before else { continue };
        named("nobody_overtakes_who_came_before", nobody_overtakes_who_came_before(world, change, before))?;
        named(
            "nobody_is_let_in_while_one_waits_to_be_alone",
            nobody_is_let_in_while_one_waits_to_be_alone(change, before),
        )?;
        named("who_is_let_in_begins_a_tenancy", who_is_let_in_begins_a_tenancy(before, after))?;
        named("who_is_let_in_gets_what_it_wanted", who_is_let_in_gets_what_it_wanted(change, before))?;
    }
    Ok(())
}

/// The permits of all guards that pass their checks at the same time are no more than there are. Those that were granted
/// before there were less are kept, until they are given back.
fn never_more_permits_are_held_live_than_there_are(live: &[&Guard], record: Option<&Record>) -> Judgement {
    // Where no Lease stands, nobody can hold anything by it.
    let there_are = record.map_or(0, |record| record.capacity.max(record.held_permits()));
    let capacity = record.map_or(u32::MAX, |record| record.capacity);
    let permits = live.iter().map(|guard| guard.mode.permits(capacity)).fold(0, u32::saturating_add);
    if permits > there_are { Err(format!("{} are live, and there are {there_are}", told(live))) } else { Ok(()) }
}

/// A live guard of a writer is the only one, and of those who can become the writer there is only one.
fn readers_and_writers_never_meet(live: &[&Guard]) -> Judgement {
    let count = |mode| live.iter().filter(|guard| guard.mode == mode).count();
    let (writers, upgradeable) = (count(Mode::Write), count(Mode::Upgradeable));
    let met = (writers > 0 && live.len() > 1) || upgradeable > 1;
    if met { Err(format!("live at once: {}", told(live))) } else { Ok(()) }
}

/// A live guard's hold stands on the Lease, with no less than its user believes to have.
fn who_believes_to_hold_something_stands_there(live: &[&Guard], record: Option<&Record>) -> Judgement {
    let stands = |guard: &Guard| {
        let holder = record.and_then(|record| record.holding(&guard.id));
        holder.is_some_and(|holder| rank(holder.mode) >= rank(guard.mode))
    };
    match live.iter().find(|guard| !stands(guard)) {
        Some(guard) => Err(format!("{} is live, and does not stand there", told(&[guard]))),
        None => Ok(()),
    }
}

/// At an admission no more is held than there is, and what cannot be held beside each other is not.
fn nobody_is_let_in_beyond_what_there_is(after: &Record) -> Judgement {
    let (held, capacity) = (after.held_permits(), after.capacity);
    if held > capacity {
        return Err(format!("{held} permits are held, and there are {capacity}"));
    }
    let count = |mode| after.shared.iter().filter(|holder| holder.mode == mode).count();
    if count(Mode::Write) > 0 && after.shared.len() > 1 || count(Mode::Upgradeable) > 1 {
        let held: Vec<_> = after.shared.iter().map(|holder| (&holder.identity, holder.mode)).collect();
        return Err(format!("held at once: {held:?}"));
    }
    Ok(())
}

/// When somebody is let in, there is room also for those who believe to hold something that does not stand there any more.
fn a_guard_is_lost_before_another_is_granted(live: &[&Guard], after: &Record) -> Judgement {
    let believing: Vec<_> = live.iter().copied().filter(|guard| !after.is_held_by(&guard.id)).collect();
    let permits = believing.iter().map(|guard| guard.mode.permits(after.capacity)).fold(0, u32::saturating_add);
    if !believing.is_empty() && permits.saturating_add(after.held_permits()) > after.capacity {
        return Err(format!("somebody was let in for {}, live still", told(&believing)));
    }
    Ok(())
}

/// Nobody is let in before one who joined before, waits still, and whose session stands: large or small.
fn nobody_overtakes_who_came_before(world: &World, change: &Change, before: &Record) -> Judgement {
    let new = change.admitted().filter(|holder| !before.holders().any(|had| had.identity == holder.identity));
    for holder in new {
        let ahead = before.waiters.iter().take_while(|waiter| Some(&waiter.id) != holder.id.as_ref());
        let mut stays = ahead.filter(|waiter| !change.admitted().any(|other| other.id.as_ref() == Some(&waiter.id)));
        if let Some(waiter) = stays.find(|waiter| waits(world, waiter)) {
            return Err(format!("{} was let in before {}, ticket {}", holder.identity, waiter.id, waiter.ticket));
        }
    }
    Ok(())
}

/// While a holder waits for the others to go, nobody comes.
fn nobody_is_let_in_while_one_waits_to_be_alone(change: &Change, before: &Record) -> Judgement {
    let (_, after) = change.records();
    let Some(upgrading) = before.upgrading.as_ref() else { return Ok(()) };
    if !after.is_some_and(|after| after.is_held_by(upgrading)) {
        return Ok(());
    }
    match change.admitted().find(|holder| holder.id.as_ref() != Some(upgrading)) {
        Some(holder) => Err(format!("{} was let in while {upgrading} waits to be alone", holder.identity)),
        None => Ok(()),
    }
}

/// An admission, or what makes more of a hold, bumps the tenancy's number: two of them never follow from the same state.
fn who_is_let_in_begins_a_tenancy(before: &Record, after: &Record) -> Judgement {
    if before.uid == after.uid && after.transitions != write::next_transition(before.transitions) {
        return Err(format!("{} came after {}", after.transitions, before.transitions));
    }
    Ok(())
}

/// A waiter holds afterwards what it waited for.
fn who_is_let_in_gets_what_it_wanted(change: &Change, before: &Record) -> Judgement {
    let other = |holder: &&Holder| {
        let wanted = before.waiters.iter().find(|waiter| Some(&waiter.id) == holder.id.as_ref());
        wanted.is_some_and(|waiter| waiter.want.mode != holder.mode)
    };
    match change.admitted().find(other) {
        Some(holder) => Err(format!("{} got {:?}", holder.identity, holder.mode)),
        None => Ok(()),
    }
}

/// Judges a world that was left in peace for long enough.
pub(super) fn judge_end(world: &World, scenario: &Scenario) -> Result<(), Violation> {
    named(
        "what_was_made_on_the_spot_goes_with_its_last_user",
        what_was_made_on_the_spot_goes_with_its_last_user(world, scenario),
    )
}

/// Nothing stays of a semaphore or read-write lock that nobody made beforehand, unless its last user died. (Another
/// sentence says that nobody is named there.)
fn what_was_made_on_the_spot_goes_with_its_last_user(world: &World, scenario: &Scenario) -> Judgement {
    let all_live = world.clients.iter().all(|client| client.get().has_always_lived());
    // Whose request is carried out once more after its answer cannot know what it leaves.
    let excused = scenario.kind == Kind::Lock || scenario.allowed.contains(&Fault::Twice);
    match world.server.get().lock() {
        Some(record) if record.ephemeral && all_live && !excused => {
            Err(format!("it stands there at {}", record.version))
        }
        _ => Ok(()),
    }
}

fn told(guards: &[&Guard]) -> String {
    guards.iter().map(|guard| format!("{} ({:?})", guard.id, guard.mode)).collect::<Vec<_>>().join(" and ")
}
