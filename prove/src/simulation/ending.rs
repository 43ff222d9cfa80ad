//! After the last fault: everybody who lives is served, and nothing is left over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use leasehold::protocol::Record;
use leasehold::protocol::record::SESSION_PREFIX;
use leasehold::testing::{Process, ProcessOptions};
use tokio::time::{sleep, timeout};

use super::nemesis;
use super::network::Link;
use super::plan::ClientPlan;
use super::rules::Author;
use super::world::{Member, World, name};

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
    if world.plan.operator {
        // It sees to all that dead clients left.
        sleep(SWEPT).await;
        for (lease, text) in leftovers(world, true) {
            world.log.violation(format!("{lease} is left over: {text}"));
        }
        return;
    }
    // Without an operator the next one who comes does, once nothing can come true any more.
    sleep(LATE).await;
    let plan = ClientPlan { session: Duration::from_secs(10), grace: Duration::ZERO, tasks: 0 };
    let author = Author::Process("last".to_owned());
    let link = Link::new(world.server.clone(), author, super::dice::Dice::new(world.plan.seed, 7));
    let client = super::workload::client(&plan, "last", &link);
    let last = Process::new(ProcessOptions::default()).spawn({
        let world = world.clone();
        async move {
            for lock in 0..world.plan.locks {
                let lock = client.lock(name(lock)).build().expect("the name is a name");
                match timeout(SERVED, lock.acquire()).await {
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
    sleep(Duration::from_secs(1)).await;
    for (lease, text) in leftovers(world, false) {
        world.log.violation(format!("{lease} is left over: {text}"));
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
        let holder = record.holder.as_ref().map(|holder| holder.identity.clone());
        let waiters: Vec<_> = record.waiters.iter().map(|waiter| waiter.id.to_string()).collect();
        (holder.is_some() || !waiters.is_empty()).then(|| (name, format!("held by {holder:?}, {waiters:?} wait")))
    });
    left.collect()
}
