//! After the last fault: everybody who lives is served, and nothing is left over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use leasehold::protocol::record::SESSION_PREFIX;
use leasehold::protocol::{Kind, Record};
use leasehold::testing::{Process, ProcessOptions};
use leasehold::{AcquireError, Client};
use tokio::time::{sleep, timeout};

use super::guard::Handle;
use super::nemesis;
use super::network::Link;
use super::plan::{ClientPlan, PolicyPlan, What};
use super::rules::Author;
use super::world::{Member, World};

/// Long enough for whatever may still come true (90 s), an absent session to be given up (60 s), and everybody's turn.
const SERVED: Duration = Duration::from_secs(300);
/// Long enough for a tombstone to be swept: two minutes, after all that is named by it has gone.
const SWEPT: Duration = Duration::from_secs(400);

/// Long enough for the last request that is still on its way.
const LATE: Duration = Duration::from_secs(100);

/// Heals everything and looks whether all comes to its good end.
pub(super) async fn run(world: &Arc<World>) {
    nemesis::heal(world, 1_000);
    world.stopping.store(true, Ordering::SeqCst);
    a_live_waiter_is_served_in_the_end(world).await;
    let clients: Vec<_> = world.members().into_iter().filter(|member| member.client.is_some()).collect();
    for member in &clients {
        let client = member.client.clone();
        let closing = member.process.spawn(async move {
            if let Some(client) = client {
                client.shutdown().await;
            }
        });
        if timeout(Duration::from_secs(60), closing).await.is_err() {
            world.log.violation(format!("{} does not shut down", member.host));
        }
    }
    no_waiter_entry_outlives_its_waiter(world).await;
}

async fn a_live_waiter_is_served_in_the_end(world: &Arc<World>) {
    let end = world.log.time() + SERVED;
    loop {
        let waiting: Vec<Arc<Member>> =
            world.members().into_iter().filter(|member| member.busy.load(Ordering::SeqCst) > 0).collect();
        if waiting.is_empty() {
            return;
        }
        if world.log.time() > end {
            let hosts: Vec<_> = waiting.iter().map(|member| member.host.as_str()).collect();
            world.log.violation(format!("not served {SERVED:?} after the last fault: {}", hosts.join(", ")));
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn no_waiter_entry_outlives_its_waiter(world: &Arc<World>) {
    // Once nothing can come true any more, the next one who comes sees to what dead clients left.
    sleep(LATE).await;
    let operator = world.plan.operator;
    // With an operator only to that of which it knows nothing.
    // What was kept on a Lease that stays, the next one who comes takes.
    let stays = |lock: usize| world.plan.policies[lock] != PolicyPlan::default();
    let last =
        (0..world.plan.locks.len()).filter(|lock| !operator || world.plan.locks[*lock] != What::Lock || stays(*lock));
    the_last_one_is_served(world, last.collect()).await;
    sleep(if operator { SWEPT } else { Duration::from_secs(1) }).await;
    for (lease, text) in leftovers(world, operator) {
        world.log.violation(format!("{lease} is left over: {text}"));
    }
}

/// Somebody comes who wants all there is of each of these.
async fn the_last_one_is_served(world: &Arc<World>, locks: Vec<usize>) {
    let plan = ClientPlan { session: Duration::from_secs(10), grace: Duration::ZERO, tasks: 0 };
    let author = Author::Process("last".to_owned());
    let link = Link::new(world.server.clone(), author, super::dice::Dice::new(world.plan.seed, 7));
    let client = super::workload::client(&plan, "last", &link);
    let last = Process::new(ProcessOptions::default()).spawn({
        let world = world.clone();
        async move {
            for lock in locks {
                let handle = all_of(&world, &client, lock);
                let acquiring = async {
                    loop {
                        match handle.acquire().await {
                            // Whoever finds too many before it comes again.
                            Err(AcquireError::Full { .. }) => sleep(Duration::from_secs(5)).await,
                            outcome => return outcome,
                        }
                    }
                };
                match timeout(SERVED, acquiring).await {
                    Ok(Ok(guard)) => drop(guard.release().await),
                    Ok(Err(error)) => world.log.violation(format!("the last one could not acquire: {error}")),
                    Err(_) => world.log.violation("the last one was not served"),
                }
            }
            client.shutdown().await;
        }
    });
    if last.await.is_err() {
        world.log.violation("the last one panicked");
    }
}

fn all_of(world: &World, client: &Client, lock: usize) -> Handle {
    let name = world.plan.name(lock);
    match world.plan.locks[lock] {
        What::Lock => Handle::Lock(client.lock(name).build().expect("the name is a name")),
        What::Semaphore { permits, standing } => {
            let builder = client.semaphore(name);
            let builder = if standing { builder } else { builder.with_permits(permits) };
            Handle::Permits(builder.build().expect("the options go together"), permits)
        }
        What::ReadWriteLock => Handle::Write(client.read_write_lock(name).expect("the name is a name")),
    }
}

/// What stands there though nobody is there any more.
fn leftovers(world: &World, sessions: bool) -> Vec<(String, String)> {
    let leases = world.server.leases();
    let left = leases.into_iter().filter_map(|(name, lease)| {
        if name.starts_with(SESSION_PREFIX) {
            return sessions.then(|| (name, "a session".to_owned()));
        }
        let record = Record::parse(lease).ok()?;
        let holders: Vec<_> = record.holders().map(|holder| holder.identity.clone()).collect();
        let waiters: Vec<_> = record.waiters.iter().map(|waiter| waiter.id.to_string()).collect();
        let left = !holders.is_empty() || !waiters.is_empty() || (record.kind != Kind::Lock && record.ephemeral);
        left.then(|| (name, format!("held by {holders:?}, {waiters:?} wait")))
    });
    left.collect()
}
