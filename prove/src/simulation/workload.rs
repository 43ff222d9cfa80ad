//! What clients do: acquire in every way there is, hold, and give back in every way there is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use leasehold::{AcquireError, Client, ExtendError, Lock, LockGuard, TryAcquireError, clock};
use tokio::time::sleep;

use super::dice::Dice;
use super::network::{Link, Remote};
use super::plan::ClientPlan;
use super::server::NAMESPACE;
use super::world::{Member, World, name};

/// A client of the simulated API server.
pub(super) fn client(plan: &ClientPlan, host: &str, link: &Arc<Link>) -> Client {
    Client::builder()
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
        let lock = dice.below(world.plan.locks);
        let handle = lock_of(world, member, lock, &mut dice);
        let asked = world.log.time();
        world.log.tell(|| format!("{} asks for {}", member.host, name(lock)));
        let guard = acquire(world, &handle, &mut dice).await;
        let waited = world.log.time().saturating_sub(asked);
        if world.stopping.load(Ordering::SeqCst) {
            world.count(|counts| counts.worst_wait = counts.worst_wait.max(waited));
        }
        if let Some(guard) = guard {
            let key = world.acquired(member, lock, guard, asked);
            hold(world, member, key, &mut dice).await;
        }
    }
}

fn lock_of(world: &World, member: &Member, lock: usize, dice: &mut Dice) -> Lock {
    let client = member.client.as_ref().expect("only clients have tasks");
    let builder = client.lock(name(lock));
    // The second lock is one that lives by its own Lease, more often than not.
    let own = dice.chance(if lock == 1 { 0.8 } else { 0.02 });
    let builder = if own {
        let grace = world.plan.clients[member.who].grace.as_secs() + 1;
        let seconds = dice.from(&[2, 4, 8]);
        builder.lease_duration(Duration::from_secs(grace + seconds)).renewal(dice.chance(0.8))
    } else {
        builder
    };
    builder.build().expect("the options go together")
}

async fn acquire(world: &World, lock: &Lock, dice: &mut Dice) -> Option<LockGuard> {
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

async fn hold(world: &Arc<World>, member: &Arc<Member>, key: u64, dice: &mut Dice) {
    let longest = if dice.chance(0.05) { 40_000 } else { 500 };
    let until = clock::moment() + dice.millis(1..longest);
    let watched = dice.chance(0.3);
    let mut lost = false;
    while clock::moment() < until && !lost {
        sleep(dice.millis(1..2000).min(until.since(clock::moment()))).await;
        let Some(guard) = world.look(key) else { return };
        lost = guard.check().is_err();
        if watched && !lost {
            lost = guard.lost().is_cancelled();
        }
        if !lost && dice.chance(0.05) {
            lost = matches!(guard.extend().await, Err(ExtendError::Lost(_)));
        }
        drop(guard);
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
    match dice.below(10) {
        0..=6 => drop(guard.release().await),
        7 | 8 => drop(guard),
        _ => {
            let patience = dice.millis(1..50);
            drop(tokio::time::timeout(patience, guard.release()).await);
        }
    }
}
