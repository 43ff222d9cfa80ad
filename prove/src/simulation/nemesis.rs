//! Lets the plan's faults befall, and heals them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::record::{
    ENDED_FOR, EVIDENCE, HOLDER, JOIN, PERMITS, SESSION_PREFIX, SessionRecord, UPGRADE, WANT,
};
use leasehold::protocol::{HolderId, Record, Write, grant, write};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::network::Cut;
use super::plan::{Fault, What};
use super::rules::Author;
use super::world::{Member, World};

/// Lets all the plan's faults befall, each at its time.
pub(super) async fn run(world: &Arc<World>) {
    let mut lives = 1;
    for planned in &world.plan.faults {
        sleep(planned.at.saturating_sub(world.log.time())).await;
        if world.log.is_violated() {
            return;
        }
        world.log.tell(|| format!("FAULT {:?}", planned.fault));
        lives += 1;
        if inflict(world, &planned.fault, lives) {
            world.count(|counts| *counts.faults.entry(planned.fault.name()).or_default() += 1);
        }
    }
    sleep(world.plan.length.saturating_sub(world.log.time())).await;
}

/// Where only a person frees what the dead held, one does that, now and then.
pub(super) async fn free_from_the_dead(world: &Arc<World>) {
    loop {
        sleep(Duration::from_secs(20)).await;
        let members = world.members();
        let is_gone = |id: &HolderId| {
            let there = members.iter().any(|member| member.host == id.session.host());
            !there || !world.server.is_alive(&id.session)
        };
        for lock in (0..world.plan.locks.len()).filter(|lock| world.plan.policies[*lock].never_reclaims()) {
            let holder = lock_of(world, lock).and_then(|(record, _)| record.holder).filter(|holder| !holder.kept);
            if holder.and_then(|holder| holder.id).is_some_and(|id| is_gone(&id)) {
                break_lock(world, lock, true);
            }
        }
    }
}

/// Everything is well from here on.
pub(super) fn heal(world: &Arc<World>, life: usize) {
    world.log.tell(|| "everything is healed".to_owned());
    world.server.start();
    for member in world.members() {
        member.link.heal();
        member.clings.store(false, Ordering::SeqCst);
        member.process.resume();
    }
    for who in 0..=world.plan.clients.len() {
        if world.member(who).is_none() {
            world.start(who, life);
        }
    }
    for (lock, what) in world.plan.locks.iter().enumerate() {
        set_permits(world, lock, what.permits());
    }
}

/// Whether there was anything to befall.
fn inflict(world: &Arc<World>, fault: &Fault, life: usize) -> bool {
    match fault {
        Fault::Kill { who, back_after } => {
            let (who, killed) = (*who, world.kill(*who));
            later(world, *back_after, move |world| {
                if world.member(who).is_none() {
                    world.start(who, life);
                }
            });
            killed
        }
        Fault::Pause { who, lasts } => {
            let Some(member) = world.member(*who) else { return false };
            member.process.pause();
            later(world, *lasts, move |_| member.process.resume());
            true
        }
        Fault::Weather { who, kind, lasts } => {
            let (Some(member), kind) = (world.member(*who), *kind) else { return false };
            member.link.change(|weather| kind.begin(weather));
            later(world, *lasts, move |_| member.link.change(|weather| kind.end(weather)));
            true
        }
        Fault::Disconnect { who } => {
            let member = world.member(*who);
            member.inspect(|member| member.link.break_connections()).is_some()
        }
        Fault::Restart { lasts } => {
            world.server.stop();
            later(world, *lasts, |world| world.server.start());
            true
        }
        Fault::Break { lock, properly } => break_lock(world, *lock, *properly),
        Fault::DeleteLock { lock } => {
            let Some((record, _)) = lock_of(world, *lock) else { return false };
            world.broken(*lock);
            let deleted = Write::Delete { uid: record.uid, version: record.version };
            by_hand(world, &world.plan.name(*lock), &deleted) && {
                world.make_standing(*lock);
                true
            }
        }
        Fault::RemoveWaiter { lock } => {
            let Some((record, mut lease)) = lock_of(world, *lock) else { return false };
            let Some(waiter) = record.waiters.first() else { return false };
            lease.metadata.annotations.get_or_insert_default().remove(&format!("{JOIN}{}", waiter.id));
            by_hand(world, &world.plan.name(*lock), &Write::Replace(Box::new(lease)))
        }
        Fault::SetPermits { lock, permits, times, every } => fiddle(world, *lock, *permits, *times, *every),
        Fault::Scribble { lock } => {
            let Some((_, mut lease)) = lock_of(world, *lock) else { return false };
            let annotations = lease.metadata.annotations.get_or_insert_default();
            annotations.insert("example.com/note".to_owned(), format!("note {life}"));
            annotations.insert(format!("{JOIN}not-an-id"), "12".to_owned());
            by_hand(world, &world.plan.name(*lock), &Write::Replace(Box::new(lease)))
        }
        Fault::DeleteSession { which } | Fault::EndSession { which } => {
            let sessions: Vec<Lease> = world
                .server
                .leases()
                .into_iter()
                .filter_map(|(name, lease)| name.starts_with(SESSION_PREFIX).then_some(lease))
                .collect();
            let Some(lease) = sessions.get(which % sessions.len().max(1)) else { return false };
            let Ok(record) = SessionRecord::parse(lease.clone()) else { return false };
            let write = match fault {
                Fault::EndSession { .. } => {
                    world.session_broken(record.id.as_str());
                    let mut write = write::end_session(&record, "a person");
                    // Or as one who knows that its process has ended.
                    if let (Write::Replace(lease), true) = (&mut write, which % 2 == 0) {
                        let annotations = lease.metadata.annotations.get_or_insert_default();
                        annotations.insert(ENDED_FOR.to_owned(), EVIDENCE.to_owned());
                    }
                    write
                }
                _ => write::remove_session(&record),
            };
            by_hand(world, &record.id.lease_name(), &write)
        }
        Fault::Heartbeat { who, late, cut_after, lasts } => {
            let (Some(member), Some(client)) = (world.member(*who), world.plan.clients.get(*who)) else { return false };
            let parts = |parts: &f64| client.session.mul_f64(*parts);
            let sent = member.link.befall_next_heartbeat(late.as_ref().map(parts));
            cut_off_after(world, member, sent, parts(cut_after), parts(lasts));
            true
        }
        Fault::SetClock { who, to_second } => {
            let (Some(member), Ok(wall)) = (world.member(*who), Timestamp::from_second(*to_second)) else {
                return false;
            };
            member.process.set_wall_clock(wall);
            true
        }
    }
}

fn later(world: &Arc<World>, pause: Duration, act: impl FnOnce(&Arc<World>) + Send + 'static) {
    let world = world.clone();
    tokio::spawn(async move {
        sleep(pause).await;
        // What is over by then has been healed with everything.
        if world.log.time() < world.plan.length {
            act(&world);
        }
    });
}

/// A while after something was sent nothing passes, and who holds something does so until it knows better.
fn cut_off_after(
    world: &Arc<World>,
    member: Arc<Member>,
    sent: oneshot::Receiver<()>,
    pause: Duration,
    lasts: Duration,
) {
    let world = world.clone();
    tokio::spawn(async move {
        if sent.await.is_err() || world.log.time() >= world.plan.length {
            return;
        }
        member.clings.store(true, Ordering::SeqCst);
        later(&world, pause, move |world| {
            member.link.change(|weather| weather.cut = Cut::Silent);
            later(world, lasts, move |_| {
                member.link.change(|weather| weather.cut = Cut::No);
                member.clings.store(false, Ordering::SeqCst);
            });
        });
    });
}

/// Clears the holder, or the first of several.
/// Somebody takes a lock from its holder, or one share from whoever has been there longest. Whether there was any.
pub(super) fn break_lock(world: &World, lock: usize, properly: bool) -> bool {
    let Some((record, mut lease)) = lock_of(world, lock) else { return false };
    if let Some(holder) = record.shared.first() {
        world.hold_broken(&holder.identity);
        let annotations = lease.metadata.annotations.get_or_insert_default();
        for prefix in [HOLDER, WANT, UPGRADE] {
            annotations.remove(&format!("{prefix}{}", holder.identity));
        }
        return by_hand(world, &world.plan.name(lock), &Write::Replace(Box::new(lease)));
    }
    if record.holder.is_none() {
        return false;
    }
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(String::new());
    if properly {
        spec.lease_transitions = Some(write::next_transition(record.transitions));
    }
    world.broken(lock);
    by_hand(world, &world.plan.name(lock), &Write::Replace(Box::new(lease)))
}

/// Changes a semaphore's permits there and back again.
fn fiddle(world: &Arc<World>, lock: usize, permits: u32, times: u32, every: Duration) -> bool {
    let semaphores: Vec<usize> = (0..world.plan.locks.len()).filter(|lock| is_standing(world, *lock)).collect();
    let Some(&lock) = semaphores.get(lock % semaphores.len().max(1)) else { return false };
    let (world, usual) = (world.clone(), world.plan.locks[lock].permits());
    let changed = set_permits(&world, lock, permits);
    tokio::spawn(async move {
        for time in 1..times {
            sleep(every).await;
            let permits = if time % 2 == 0 { permits } else { usual };
            // The worst moment to take some away is when somebody is just about to be let in.
            let mut patience = 100;
            while permits < usual && patience > 0 && !is_there_room(&world, lock) {
                sleep(Duration::from_millis(1)).await;
                patience -= 1;
            }
            if world.log.time() >= world.plan.length {
                return; // What is over by then has been healed with everything.
            }
            set_permits(&world, lock, permits);
        }
    });
    changed
}

/// Whether somebody waits who could be let in.
fn is_there_room(world: &World, lock: usize) -> bool {
    lock_of(world, lock).is_some_and(|(record, _)| !grant::round(&record, |_| false, |_| false).served.is_empty())
}

/// Whether a semaphore's number of permits is somebody's to change: one that is made on the spot has as many again when
/// it is made anew.
fn is_standing(world: &World, lock: usize) -> bool {
    matches!(world.plan.locks[lock], What::Semaphore { standing: true, .. })
}

/// Whether there is a semaphore that had another number of permits.
fn set_permits(world: &World, lock: usize, permits: u32) -> bool {
    let Some((record, mut lease)) = lock_of(world, lock) else { return false };
    if !is_standing(world, lock) || record.capacity == permits {
        return false;
    }
    lease.metadata.annotations.get_or_insert_default().insert(PERMITS.to_owned(), permits.to_string());
    let written = by_hand(world, &world.plan.name(lock), &Write::Replace(Box::new(lease)));
    if written {
        world.permits_changed(lock, permits);
    }
    written
}

fn lock_of(world: &World, lock: usize) -> Option<(Record, Lease)> {
    let lease = world.server.leases().get(&world.plan.name(lock))?.clone();
    Some((Record::parse(lease.clone()).ok()?, lease))
}

fn by_hand(world: &World, name: &str, write: &Write) -> bool {
    let written = world.server.write(&Author::Person, name, write);
    written.is_ok()
}
