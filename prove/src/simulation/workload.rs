//! What clients do: acquire in every way there is, hold, and give back in every way there is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use leasehold::testing::fold_from;
use leasehold::{AcquireError, Client, ExtendError, LossReason, Lost, PublishError, TryAcquireError, clock};
use tokio::time::sleep;

use super::dice::Dice;
use super::guard::{Guard, Handle};
use super::nemesis::break_lock;
use super::network::{Link, Remote};
use super::plan::{ClientPlan, What};
use super::server::{AT_ONCE, NAMESPACE};
use super::world::{Member, World};

/// A client of the simulated API server.
pub(super) fn client(plan: &ClientPlan, host: &str, link: &Arc<Link>) -> Client {
    // Some fold the queue when anybody waits, and some as ever.
    let waiters = if host.as_bytes()[1].is_multiple_of(2) { 1 } else { 8 };
    fold_from(Client::builder(), waiters)
        .store(Arc::new(Remote(link.clone())))
        .namespace(NAMESPACE)
        .host(host)
        .session_duration(plan.session)
        .grace(plan.grace)
        .build()
        .expect("the plan's options go together")
}

/// One task of a client: one acquisition after the other until the run ends.
pub(super) async fn run(world: &Arc<World>, member: &Arc<Member>, mut dice: Dice) {
    while !world.stopping.load(Ordering::SeqCst) {
        sleep(dice.millis(1..3000)).await;
        let lock = dice.below(world.plan.locks.len());
        let own = own_term(world, member, lock, &mut dice);
        let handle = handle_of(world, member, lock, own, &mut dice);
        let asked = world.log.time();
        world.log.tell(|| format!("{} asks for {}", member.host, world.plan.name(lock)));
        let guard = acquire(world, &handle, &mut dice).await;
        let waited = world.log.time().saturating_sub(asked);
        if world.stopping.load(Ordering::SeqCst) {
            world.count(|counts| counts.worst_wait = counts.worst_wait.max(waited));
        }
        if let Some(guard) = guard {
            let (key, asked) = world.acquired(member, lock, guard, asked);
            let stay = Stay { lock, asked, own: own.is_some() };
            hold(world, member, key, &stay, &mut dice).await;
        }
    }
}

/// What is known of a hold from its beginning on.
struct Stay {
    lock: usize,
    asked: Duration,
    /// It lives by its own record.
    own: bool,
}

/// A duration of its own, and whether it is renewed.
fn own_term(world: &World, member: &Member, lock: usize, dice: &mut Dice) -> Option<(Duration, bool)> {
    let chance = match world.plan.locks[lock] {
        // The second lock is one that lives by its own Lease, more often than not.
        What::Lock if lock == 1 => 0.8,
        What::Lock => 0.02,
        What::Semaphore { .. } => 0.2,
        What::ReadWriteLock => return None,
    };
    // Enough to renew in, and more than the grace.
    let grace = world.plan.clients[member.who].grace.as_secs() * 2 + 1;
    let seconds = dice.from(&[2, 4, 8]);
    let renewal = dice.chance(if world.plan.locks[lock] == What::Lock { 0.8 } else { 0.4 });
    dice.chance(chance).then(|| (Duration::from_secs(grace + seconds), renewal))
}

fn handle_of(world: &World, member: &Member, lock: usize, own: Option<(Duration, bool)>, dice: &mut Dice) -> Handle {
    let client = member.client.as_ref().expect("only clients have tasks");
    let name = world.plan.name(lock);
    match world.plan.locks[lock] {
        What::Lock => {
            let terms = world.plan.terms[lock];
            let builder = client.lock(name);
            let builder = match own {
                Some((duration, renewal)) => builder.lease_duration(duration).renewal(renewal),
                None if terms.handoff.is_zero() => builder.linger(terms.linger),
                None => builder.local_handoff(terms.handoff).linger(terms.linger),
            };
            Handle::Lock(builder.build().expect("the options go together"))
        }
        What::Semaphore { permits, standing } => {
            let builder = client.semaphore(name);
            let builder = if standing { builder } else { builder.with_permits(permits) };
            let builder = match own {
                Some((duration, renewal)) => builder.lease_duration(duration).renewal(renewal),
                None => builder,
            };
            let wanted = dice.from(&[1, 1, 1, 2, 3, 3]).min(permits);
            Handle::Permits(builder.build().expect("the options go together"), wanted)
        }
        What::ReadWriteLock => {
            let lock = client.read_write_lock(name).expect("the name is a name");
            match dice.below(6) {
                0..3 => Handle::Read(lock),
                3 | 4 => Handle::Upgradeable(lock),
                _ => Handle::Write(lock),
            }
        }
    }
}

async fn acquire(world: &World, lock: &Handle, dice: &mut Dice) -> Option<Guard> {
    if dice.chance(0.05) {
        let _ = lock.request_release(dice.millis(1000..30_000)).await;
    }
    let patience = dice.millis(1..20_000);
    let acquired = match dice.below(10) {
        0..=5 => lock.acquire().await,
        6 | 7 => lock.acquire_timeout(patience).await,
        8 => {
            tokio::select! {
                biased;
                acquired = lock.acquire() => acquired,
                () = sleep(patience) => {
                    world.count(|counts| counts.cancelled += 1);
                    return None;
                }
            }
        }
        _ => match lock.try_acquire().await {
            Ok(guard) => return Some(guard),
            Err(TryAcquireError::Held { .. }) => {
                world.count(|counts| counts.refused += 1);
                return None;
            }
            Err(_) => {
                world.count(|counts| counts.failed += 1);
                return None;
            }
        },
    };
    match acquired {
        Ok(guard) => Some(guard),
        Err(AcquireError::TimedOut { .. }) => {
            world.count(|counts| counts.cancelled += 1);
            None
        }
        Err(error) => {
            world.log.tell(|| format!("failed: {error}"));
            world.count(|counts| counts.failed += 1);
            None
        }
    }
}

/// Whoever is told that somebody took its hold away must have been evicted, or broken by hand.
fn judge_loss(world: &World, stay: &Stay, id: &str, lost: &Lost) {
    if lost.reason == LossReason::Broken && !stay.own && world.is_lost_for_nothing(stay.lock, id, stay.asked) {
        world.log.violation(format!("{id} was lost, and nobody took it"));
    }
}

/// Who has asked to be told of a loss is told at once when somebody takes the lock, where nothing else goes wrong. Whether
/// it is lost then.
async fn see_a_break(world: &World, stay: &Stay, guard: &Guard) -> bool {
    let lost = guard.lost();
    sleep(Duration::from_secs(1)).await;
    if guard.check().is_err() || !break_lock(world, stay.lock, true) {
        return guard.check().is_err();
    }
    sleep(AT_ONCE).await;
    if !lost.is_cancelled() {
        world.log.violation(format!("{} has not been told that somebody took its lock", guard.holder_identity()));
    }
    true
}

async fn hold(world: &Arc<World>, member: &Arc<Member>, mut key: u64, stay: &Stay, dice: &mut Dice) {
    let longest = if dice.chance(0.05) { 40_000 } else { 500 };
    let until = clock::moment() + dice.millis(1..longest);
    let watched = dice.chance(0.3);
    let mut lost = false;
    while (clock::moment() < until || member.clings.load(Ordering::SeqCst)) && !lost {
        let left = Some(until.since(clock::moment())).filter(|left| !left.is_zero());
        sleep(dice.millis(1..2000).min(left.unwrap_or(Duration::MAX))).await;
        let Some(guard) = world.look(key) else { return };
        let checked = guard.check();
        lost = checked.is_err();
        if let Err(lost) = checked {
            judge_loss(world, stay, &guard.holder_identity(), &lost);
        }
        if watched && !lost {
            lost = guard.lost().is_cancelled();
        }
        if !lost && dice.chance(0.05) {
            lost = matches!(guard.extend().await, Err(ExtendError::Lost(_)));
        }
        if !lost && dice.chance(0.1) {
            let text = dice.from(&["", "one", "two"]);
            match guard.publish(text).await {
                Err(PublishError::Lost(_)) => lost = true,
                Err(error) => world.log.tell(|| format!("not published: {error}")),
                Ok(()) => {}
            }
        }
        if !lost && world.plan.calm && world.plan.locks[stay.lock] == What::Lock && dice.chance(0.05) {
            lost = see_a_break(world, stay, &guard).await;
        }
        let changes = !lost && guard.can_change() && dice.chance(0.3);
        drop(guard);
        if changes {
            let Some(guard) = world.give_back(key) else { return };
            let id = guard.holder_identity();
            world.log.tell(|| format!("{} changes {id}", member.host));
            let guard = match guard.change(dice).await {
                Ok(Some(guard)) => guard,
                Ok(None) => return,
                Err(lost) => return judge_loss(world, stay, &id, &lost),
            };
            key = world.changed(member, stay.lock, guard, stay.asked);
        }
        if lost {
            let Some(guard) = world.look(key) else { return };
            if guard.check().is_ok() {
                world.log.violation(format!("{} was lost, and is held again", guard.holder_identity()));
            }
        }
    }
    let Some(guard) = world.give_back(key) else { return };
    world.log.tell(|| format!("{} gives {} back{}", member.host, guard.name(), if lost { ", lost" } else { "" }));
    world.count(|counts| if lost { counts.lost += 1 } else { counts.released += 1 });
    match dice.below(11) {
        0..=6 => {
            if guard.check().is_ok() {
                world.is_done(stay.lock, &guard);
            }
            drop(guard.release().await);
        }
        7 | 8 => drop(guard),
        9 => drop(guard.keep(dice.millis(500..12_000)).await),
        _ => {
            let patience = dice.millis(1..50);
            if guard.check().is_ok() {
                world.is_done(stay.lock, &guard);
            }
            drop(tokio::time::timeout(patience, guard.release()).await);
        }
    }
    // What lingers is broken as well.
    if world.plan.calm && world.plan.locks[stay.lock] == What::Lock && dice.chance(0.1) {
        sleep(AT_ONCE).await;
        break_lock(world, stay.lock, true);
    }
}
