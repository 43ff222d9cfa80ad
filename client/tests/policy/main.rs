//! What a lock's custom resource wants of everybody who uses it, as it stands on the Lease. Processes and clocks are
//! simulated: minutes take no time.

mod reclaim;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use leasehold::protocol::policy::{
    BREAK_YOUNGEST, EXPIRY, LOCK_DELAY, MAX_DURATION, MAX_HOLD, MAX_WAITERS, MIN_DURATION, NEVER, ON_DEADLOCK, RECLAIM,
};
use leasehold::protocol::record::{DEADLOCK, ENDED_FOR, EVIDENCE, JOIN, LIVENESS, SessionRecord};
use leasehold::protocol::{Liveness, Record, Write, write};
use leasehold::testing::{Process, ProcessOptions};
use leasehold::{
    AcquireError, Client, HandleError, LossReason, MemoryStore, OnDeadlock, ReleaseError, Store, TryAcquireError, clock,
};
use serde_json::json;
use tokio::task::JoinHandle;

const SESSION: Duration = Duration::from_secs(30);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn process(seed: u64) -> Process {
    Process::new(ProcessOptions { seed, ..ProcessOptions::default() })
}

fn client(store: &MemoryStore) -> Client {
    Client::builder().store(Arc::new(store.clone())).build().unwrap()
}

async fn pause(time: Duration) {
    clock::sleep_until(clock::moment() + time).await;
}

/// The Lease as a custom resource has it made, with these annotations.
async fn made(name: &str, kind: &str, annotations: &[(&str, &str)]) -> MemoryStore {
    let store = MemoryStore::new();
    let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
    let lease = json!({ "metadata": { "name": name, "labels": { "leasehold.dev/kind": kind }, "annotations": annotations },
        "spec": {} });
    store.write(name, &Write::Create(Box::new(serde_json::from_value(lease).unwrap()))).await.unwrap();
    store
}

async fn record(store: &MemoryStore, name: &str) -> Record {
    Record::parse(store.read(name).await.unwrap()).unwrap()
}

/// Somebody changes an annotation by hand.
async fn annotate(store: &MemoryStore, name: &str, key: &str, value: &str) {
    let mut lease = store.read(name).await.unwrap();
    lease.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    store.write(name, &Write::Replace(Box::new(lease))).await.unwrap();
}

/// Somebody takes the lock from its holder.
async fn break_it(store: &MemoryStore, name: &str) {
    let record = record(store, name).await;
    store.write(name, &write::release(&record, &[], true)).await.unwrap();
}

/// Whoever knows that the holder's process has ended ends its session.
async fn end_by_evidence(store: &MemoryStore, name: &str) {
    let holder = record(store, name).await.holders().next().unwrap().id.clone().unwrap();
    let session = holder.session.lease_name();
    let session = SessionRecord::parse(store.read(&session).await.unwrap()).unwrap();
    let Write::Replace(mut ended) = write::end_session(&session, "a test") else { unreachable!("it is a PUT") };
    ended.metadata.annotations.get_or_insert_default().insert(ENDED_FOR.to_owned(), EVIDENCE.to_owned());
    store.write(&session.id.lease_name(), &Write::Replace(ended)).await.unwrap();
}

/// A process takes it and is killed at once.
async fn dies(store: &MemoryStore, name: &'static str, own: Option<Duration>) {
    let (client, holder) = (client(store), process(1));
    let kind = record(store, name).await.kind;
    let acquired = holder.spawn(async move {
        if kind == leasehold::protocol::Kind::Semaphore {
            std::mem::forget(client.semaphore(name).build().unwrap().acquire(1).await.unwrap());
        } else {
            let lock = client.lock(name);
            let lock = if let Some(own) = own { lock.lease_duration(own) } else { lock };
            std::mem::forget(lock.build().unwrap().acquire().await.unwrap());
        }
    });
    acquired.await.unwrap();
    holder.kill();
}

/// A process that waits for it, and how long that took.
fn waits(store: &MemoryStore, seed: u64, name: &'static str) -> JoinHandle<Duration> {
    let client = client(store);
    process(seed).spawn(async move {
        let begun = clock::moment();
        if client.lock(name).build().unwrap().acquire().await.is_err() {
            client.semaphore(name).build().unwrap().acquire(1).await.unwrap().release().await.unwrap();
        }
        let after = clock::moment().since(begun);
        client.shutdown().await;
        after
    })
}

fn about(after: Duration, expected: Duration) {
    assert!((expected..expected + seconds(2)).contains(&after), "after {after:?}, and not {expected:?}");
}

// --------------------------------------------------------------------------------------------------------- durations

#[tokio::test(start_paused = true)]
async fn a_lease_duration_out_of_bounds_is_refused_and_the_error_says_what_to_do() {
    for (kind, name) in [("lock", "a"), ("semaphore", "s")] {
        let bounds = [(MIN_DURATION, "5"), (MAX_DURATION, "20"), ("leasehold.dev/permits", "2")];
        let store = made(name, kind, &bounds).await;
        let client = client(&store);
        process(1)
            .spawn(async move {
                for (asked, allowed) in [(2, false), (5, true), (20, true), (21, false)] {
                    let outcome = if kind == "lock" {
                        let lock = client.lock(name).lease_duration(seconds(asked)).build().unwrap();
                        lock.acquire().await.map(drop)
                    } else {
                        let permits = client.semaphore(name).lease_duration(seconds(asked)).build().unwrap();
                        permits.acquire(1).await.map(drop)
                    };
                    assert_eq!(outcome.is_ok(), allowed, "{asked} s: {outcome:?}");
                    let Err(error) = outcome else { continue };
                    assert!(!error.is_retryable());
                    let told = error.to_string();
                    let says =
                        [&*format!("a lease duration of {asked}s is asked for"), "5s to 20s", "set lease_duration"];
                    assert!(says.iter().all(|says| told.contains(says)), "{told}");
                }
            })
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_no_duration_gets_the_one_nearest_to_its_sessions() {
    for (bound, value, lives) in
        [(MAX_DURATION, "10", Some(10)), (MIN_DURATION, "45", Some(45)), (MAX_DURATION, "60", None)]
    {
        let store = made("a", "lock", &[(bound, value)]).await;
        let client = client(&store);
        let seen = store.clone();
        process(1)
            .spawn(async move {
                let guard = client.lock("a").build().unwrap().acquire().await.unwrap();
                let holder = record(&seen, "a").await.holder.unwrap();
                let own = match holder.liveness {
                    leasehold::protocol::Liveness::Own(own) => Some(own.as_secs()),
                    leasehold::protocol::Liveness::Session(_) => None,
                };
                assert_eq!(own, lives, "{bound}={value}");
                // It is renewed like any other.
                pause(SESSION * 4).await;
                guard.check().unwrap();
                guard.release().await.unwrap();
            })
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_several_hold_lives_by_what_was_said_at_the_join_though_the_bounds_change() {
    let store = made("s", "semaphore", &[("leasehold.dev/permits", "1"), (MAX_DURATION, "10")]).await;
    let (one, two, seen) = (client(&store), client(&store), store.clone());
    process(1)
        .spawn(async move {
            let held = one.semaphore("s").build().unwrap().acquire(1).await.unwrap();
            let waiting = process(2).spawn(async move {
                let guard = two.semaphore("s").build().unwrap().acquire(1).await.unwrap();
                guard.remaining()
            });
            pause(seconds(3)).await;
            annotate(&seen, "s", MAX_DURATION, "20").await;
            held.release().await.unwrap();
            // Others count ten seconds from its last renewal, and so it must not believe in more.
            let left = waiting.await.unwrap();
            assert!(left <= seconds(10), "it believes in {left:?}");
        })
        .await
        .unwrap();
}

// ---------------------------------------------------------------------------------------------------------- max hold

#[tokio::test(start_paused = true)]
async fn nobody_holds_it_for_longer_than_the_resource_allows() {
    for (allowed, own, lasts) in [("20", None, 19), ("20", Some(10), 10), ("20", Some(300), 19)] {
        let store = made("a", "lock", &[(MAX_HOLD, allowed)]).await;
        let client = client(&store);
        process(1)
            .spawn(async move {
                let lock = client.lock("a");
                let lock = if let Some(own) = own { lock.max_hold(seconds(own)) } else { lock };
                let guard = lock.build().unwrap().acquire().await.unwrap();
                let begun = clock::moment();
                guard.lost().cancelled().await;
                about(clock::moment().since(begun), seconds(lasts));
                assert_eq!(guard.check().unwrap_err().reason, LossReason::HeldTooLong);
                let released = guard.release().await;
                let told = matches!(&released, Err(ReleaseError::Lost(lost)) if lost.reason == LossReason::HeldTooLong);
                assert!(told, "{released:?}");
                client.lock("a").build().unwrap().acquire().await.unwrap().release().await.unwrap();
            })
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_stays_no_longer_than_it_might_have_been_held() {
    let store = made("a", "lock", &[(MAX_HOLD, "20")]).await;
    let client = client(&store);
    process(1)
        .spawn(async move {
            let lock = client.lock("a").hold_at_least(Duration::from_hours(1)).build().unwrap();
            let begun = clock::moment();
            let guard = lock.acquire().await.unwrap();
            pause(seconds(5)).await;
            guard.release().await.unwrap();
            let next = client.lock("a").build().unwrap().acquire().await.unwrap();
            about(clock::moment().since(begun), seconds(20));
            next.keep(Duration::from_hours(1)).await.unwrap();
            let _second = client.lock("a").build().unwrap().acquire().await.unwrap();
            about(clock::moment().since(begun), seconds(40));
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handle_says_no_more_than_what_others_honour() {
    for kind in ["lock", "semaphore"] {
        let store = made("a", kind, &[(MAX_HOLD, "20"), ("leasehold.dev/permits", "1")]).await;
        let (client, seen) = (client(&store), store.clone());
        process(1)
            .spawn(async move {
                let stands = async || match record(&seen, "a").await.holders().next().unwrap().liveness {
                    Liveness::Own(duration) => duration,
                    Liveness::Session(_) => panic!("it is kept"),
                };
                let begun = clock::moment();
                let hour = Duration::from_hours(1);
                let handle = if kind == "lock" {
                    client.lock("a").build().unwrap().acquire().await.unwrap().into_handle(hour).await.unwrap()
                } else {
                    client.semaphore("a").build().unwrap().acquire(1).await.unwrap().into_handle(hour).await.unwrap()
                };
                assert!(stands().await <= seconds(20));
                let left = handle.remaining().unwrap();
                assert!(left < seconds(20) && left > seconds(18), "{left:?}");
                pause(seconds(5)).await;
                let text = handle.to_string();
                let renewed = client.renew_handle(&text.parse().unwrap(), hour).await.unwrap();
                assert!(stands().await <= seconds(15), "a renewal brings it more: {:?}", stands().await);
                let left = renewed.remaining().unwrap();
                assert!(left < seconds(15) && left > seconds(13), "{left:?}");
                assert!(clock::moment().since(begun) + left < seconds(20));
                // Another machine cannot tell.
                let (unknown, _) = text.rsplit_once('/').unwrap();
                let told = client.renew_handle(&unknown.parse().unwrap(), hour).await.unwrap_err().to_string();
                assert!(told.contains("maxHoldSeconds"), "{told}");
                pause(seconds(14)).await;
                let over = client.renew_handle(&renewed, hour).await.unwrap_err();
                assert!(matches!(over, HandleError::Over { .. }), "{over}");
            })
            .await
            .unwrap();
    }
}
