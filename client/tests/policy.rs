//! What a lock's custom resource wants of everybody who uses it, as it stands on the Lease. Processes and clocks are
//! simulated: minutes take no time.

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

// -------------------------------------------------------------------------------------------- lock delay and reclaim

#[tokio::test(start_paused = true)]
async fn what_a_holder_had_that_fell_silent_passes_on_after_the_delay() {
    for (kind, own) in [("lock", None), ("lock", Some(seconds(10))), ("semaphore", None)] {
        let mut without = None;
        for delay in [0, 40, 300] {
            let annotations = [(LOCK_DELAY, &*delay.to_string()), ("leasehold.dev/permits", "1")];
            let store = made("a", kind, &annotations).await;
            dies(&store, "a", own).await;
            let after = waits(&store, 2, "a").await.unwrap();
            about(after, *without.get_or_insert(after) + seconds(delay));
        }
        assert!(without >= own.or(Some(SESSION)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_who_comes_later_counts_from_when_it_is_certain() {
    let store = made("a", "lock", &[(LOCK_DELAY, "40")]).await;
    dies(&store, "a", None).await;
    let first = waits(&store, 2, "a");
    tokio::time::sleep(seconds(60)).await;
    // The tombstone has stood there for half a minute, which this one has not seen.
    let tried = client(&store);
    let tried = process(3).spawn(async move {
        let tried = tried.lock("a").build().unwrap().try_acquire().await;
        assert!(matches!(tried, Err(TryAcquireError::Held { .. })), "{tried:?}");
    });
    tried.await.unwrap();
    about(first.await.unwrap(), seconds(70));
}

#[tokio::test(start_paused = true)]
async fn who_tries_now_and_then_gets_it_after_the_delay_too() {
    let store = made("a", "lock", &[(LOCK_DELAY, "400")]).await;
    dies(&store, "a", None).await;
    let client = client(&store);
    process(2)
        .spawn(async move {
            let begun = clock::moment();
            let lock = client.lock("a").build().unwrap();
            while lock.try_acquire().await.is_err() {
                assert!(clock::moment().since(begun) < seconds(900), "it never gets it");
                pause(seconds(100)).await;
            }
            assert!(clock::moment().since(begun) > seconds(400));
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_clean_release_by_evidence_or_where_it_was_kept_there_is_no_delay() {
    let store = made("a", "lock", &[(LOCK_DELAY, "600")]).await;
    let one = client(&store);
    let holder = process(1);
    let released = holder.spawn(async move {
        let guard = one.lock("a").build().unwrap().acquire().await.unwrap();
        pause(seconds(10)).await;
        guard.release().await.unwrap();
        one.shutdown().await;
    });
    about(waits(&store, 2, "a").await.unwrap(), seconds(10));
    released.await.unwrap();

    dies(&store, "a", None).await;
    let waiting = waits(&store, 3, "a");
    tokio::time::sleep(seconds(5)).await;
    end_by_evidence(&store, "a").await;
    about(waiting.await.unwrap(), seconds(5));

    let keeper = client(&store);
    let kept = process(4).spawn(async move {
        keeper.lock("a").build().unwrap().acquire().await.unwrap().keep(seconds(60)).await.unwrap();
        keeper.shutdown().await;
    });
    kept.await.unwrap();
    about(waits(&store, 5, "a").await.unwrap(), seconds(60));
}

#[tokio::test(start_paused = true)]
async fn evidence_can_be_made_to_count_for_no_more_than_silence() {
    let store = made("a", "lock", &[(RECLAIM, EXPIRY), (LOCK_DELAY, "20")]).await;
    dies(&store, "a", None).await;
    let waiting = waits(&store, 2, "a");
    tokio::time::sleep(seconds(5)).await;
    end_by_evidence(&store, "a").await;
    about(waiting.await.unwrap(), seconds(5) + SESSION + seconds(20));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_is_to_reclaim_it_only_a_person_frees_it() {
    for (own, evidence) in [(None, false), (None, true), (Some(seconds(10)), false)] {
        let store = made("a", "lock", &[(RECLAIM, NEVER)]).await;
        dies(&store, "a", own).await;
        // The first in the queue dies as well, and is passed over.
        let (dead, dying) = (client(&store), process(2));
        dying.spawn(async move { drop(dead.lock("a").build().unwrap().acquire().await) });
        tokio::time::sleep(seconds(5)).await;
        dying.kill();
        let waiting = waits(&store, 3, "a");
        if evidence {
            end_by_evidence(&store, "a").await;
        }
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert!(!waiting.is_finished(), "it was taken from a dead holder, by evidence: {evidence}");
        break_it(&store, "a").await;
        let waited = waiting.await.unwrap();
        assert!(waited < Duration::from_hours(1) + seconds(15), "after {waited:?}");
    }
}

// ------------------------------------------------------------------------------------------------------ max waiters

fn asks(store: &MemoryStore, seed: u64) -> JoinHandle<Result<(), AcquireError>> {
    let client = client(store);
    process(seed).spawn(async move {
        let guard = client.lock("a").build().unwrap().acquire().await?;
        pause(seconds(1)).await;
        guard.release().await.unwrap();
        Ok(())
    })
}

fn limit_of(error: AcquireError) -> (usize, Option<u32>) {
    assert!(error.is_retryable());
    match error {
        AcquireError::Full { waiters, limit, .. } => (waiters, limit),
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_wait_than_may() {
    let store = made("a", "lock", &[(MAX_WAITERS, "2")]).await;
    let (one, holder) = (client(&store), process(1));
    let guard = holder.spawn(async move { one.lock("a").build().unwrap().acquire().await.unwrap() }).await.unwrap();
    // Four at the same time: all may join, and two of them see that they were too late.
    let all: Vec<_> = (2..6).map(|seed| asks(&store, seed)).collect();
    tokio::time::sleep(seconds(20)).await;
    assert_eq!(record(&store, "a").await.waiters.len(), 2);
    let (refused, waiting): (Vec<_>, Vec<_>) = all.into_iter().partition(JoinHandle::is_finished);
    assert_eq!((refused.len(), waiting.len()), (2, 2));
    for refused in refused {
        assert_eq!(limit_of(refused.await.unwrap().unwrap_err()), (2, Some(2)));
    }
    // One who comes later does not join at all.
    let before = store.server().version();
    let told = asks(&store, 7).await.unwrap().unwrap_err();
    let text = "lock \"a\" is held, and no more may wait for it: 2 do, and its custom resource allows 2 (maxWaiters)";
    assert!(told.to_string().starts_with(text), "{told}");
    assert_eq!(limit_of(told), (2, Some(2)));
    let joins = record(&store, "a").await.version.0 > before.0;
    assert!(!joins, "it joined");
    // Who waits already stays, also if fewer may.
    annotate(&store, "a", MAX_WAITERS, "0").await;
    tokio::time::sleep(seconds(30)).await;
    holder.enter(|| drop(guard));
    for waits in waiting {
        waits.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_may_wait_it_is_had_at_once_or_not_at_all() {
    let store = made("a", "lock", &[(MAX_WAITERS, "0")]).await;
    let (one, two) = (client(&store), client(&store));
    process(1)
        .spawn(async move {
            let lock = one.lock("a").build().unwrap();
            for _ in 0..3 {
                let guard = lock.acquire().await.unwrap();
                let other = two.lock("a").build().unwrap();
                assert_eq!(limit_of(other.acquire().await.unwrap_err()), (0, Some(0)));
                // A task of the same process neither.
                let same = lock.clone();
                let same = tokio::time::timeout(seconds(20), process(1).spawn(async move { same.acquire().await }));
                assert_eq!(limit_of(same.await.unwrap().unwrap().unwrap_err()), (0, Some(0)));
                guard.release().await.unwrap();
                pause(seconds(20)).await;
            }
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_dead_do_not_keep_the_living_from_waiting() {
    for limit in ["0", "1"] {
        let store = made("a", "lock", &[(MAX_WAITERS, limit)]).await;
        dies(&store, "a", None).await;
        if limit == "1" {
            let (dead, dying) = (client(&store), process(2));
            dying.spawn(async move { drop(dead.lock("a").build().unwrap().acquire().await) });
            tokio::time::sleep(seconds(5)).await;
            dying.kill();
        }
        let client = client(&store);
        process(3)
            .spawn(async move {
                let begun = clock::moment();
                let lock = client.lock("a").build().unwrap();
                while let Err(error) = lock.acquire().await {
                    assert!(error.is_retryable());
                    assert!(clock::moment().since(begun) < seconds(300), "it never gets it: {error}");
                    pause(seconds(20)).await;
                }
            })
            .await
            .unwrap();
    }
}

// --------------------------------------------------------------------------------------------------------- deadlocks

async fn circle(on: OnDeadlock, policy_of: &[&str]) -> Vec<Result<(), AcquireError>> {
    let store = MemoryStore::new();
    for name in ["a", "b"] {
        let annotations = if policy_of.contains(&name) { json!({ ON_DEADLOCK: BREAK_YOUNGEST }) } else { json!({}) };
        let lease = json!({ "metadata": { "name": name, "labels": { "leasehold.dev/kind": "lock" },
            "annotations": annotations }, "spec": {} });
        store.write(name, &Write::Create(Box::new(serde_json::from_value(lease).unwrap()))).await.unwrap();
    }
    let takes = |seed: u64, first: &'static str, second: &'static str| {
        let builder = Client::builder().store(Arc::new(store.clone()));
        let client = builder.on_deadlock(on).deadlock_after(seconds(5)).build().unwrap();
        process(seed).spawn(async move {
            let one = client.lock(first).build().unwrap().acquire().await?;
            pause(seconds(seed)).await;
            let two = client.lock(second).build().unwrap().acquire_timeout(seconds(120)).await?;
            two.release().await.unwrap();
            one.release().await.unwrap();
            Ok(())
        })
    };
    let (one, other) = (takes(1, "a", "b"), takes(2, "b", "a"));
    vec![one.await.unwrap(), other.await.unwrap()]
}

#[tokio::test(start_paused = true)]
async fn the_resource_can_make_who_came_last_give_up() {
    let deadlocks = |outcomes: &[Result<(), AcquireError>]| {
        outcomes.iter().filter(|outcome| matches!(outcome, Err(AcquireError::Deadlock { .. }))).count()
    };
    let outcomes = circle(OnDeadlock::Report, &["a", "b"]).await;
    assert_eq!(
        (outcomes.iter().filter(|outcome| outcome.is_ok()).count(), deadlocks(&outcomes)),
        (1, 1),
        "{outcomes:?}"
    );
    // It is the one for which the youngest waits that says so.
    let only = [circle(OnDeadlock::Report, &["a"]).await, circle(OnDeadlock::Report, &["b"]).await];
    assert_eq!(deadlocks(&only.concat()), 1, "{only:?}");
    let ignored = circle(OnDeadlock::Ignore, &["a", "b"]).await;
    assert_eq!(deadlocks(&ignored), 0, "{ignored:?}");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_told_to_gives_up_at_once() {
    for kind in ["lock", "semaphore"] {
        let store = made("a", kind, &[("leasehold.dev/permits", "1")]).await;
        let (one, holder) = (client(&store), process(1));
        holder
            .spawn(async move {
                if kind == "lock" {
                    std::mem::forget(one.lock("a").build().unwrap().acquire().await.unwrap());
                } else {
                    std::mem::forget(one.semaphore("a").build().unwrap().acquire(1).await.unwrap());
                }
            })
            .await
            .unwrap();
        let waiter = |seed: u64| {
            let client = client(&store);
            process(seed).spawn(async move {
                match kind {
                    "lock" => client.lock("a").build().unwrap().acquire().await.map(drop),
                    _ => client.semaphore("a").build().unwrap().acquire(1).await.map(drop),
                }
            })
        };
        let first = waiter(2);
        tokio::time::sleep(seconds(1)).await;
        let second = waiter(3);
        tokio::time::sleep(seconds(1)).await;
        let before = record(&store, "a").await;
        let told = write::give_up(&before, &before.waiters[1], "x waits for y");
        store.write("a", &told).await.unwrap();
        assert_eq!(record(&store, "a").await.waiters[1].told_to_give_up.as_deref(), Some("x waits for y"));
        let outcome = tokio::time::timeout(seconds(2), second).await.expect("at once").unwrap();
        let error = outcome.unwrap_err();
        assert!(matches!(&error, AcquireError::Deadlock { deadlock, .. } if deadlock.to_string() == "x waits for y"));
        assert!(!error.is_retryable());
        tokio::time::sleep(seconds(1)).await;
        let after = record(&store, "a").await;
        assert_eq!(after.waiters.len(), 1);
        let left = after.lease.metadata.annotations.as_ref().unwrap();
        assert!(!left.keys().any(|key| key.starts_with(DEADLOCK)), "{left:?}");
        assert_eq!(left.keys().filter(|key| key.starts_with(JOIN)).count(), 1);
        let labels = after.lease.metadata.labels.clone().unwrap();
        if kind == "lock" {
            assert_eq!(labels.len(), 2, "{labels:?}");
            assert!(!left.contains_key(LIVENESS));
        }
        // It is refused once the waiter has gone, and the other one waits on.
        assert!(store.write("a", &told).await.is_err());
        assert!(!first.is_finished());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_told_to_a_waiter_goes_with_its_place_however_that_goes() {
    let store = made("a", "lock", &[]).await;
    dies(&store, "a", None).await;
    // The waiter is dead too, and hears nothing: whoever passes it over takes that away as well.
    let (dead, dying) = (client(&store), process(2));
    dying.spawn(async move { drop(dead.lock("a").build().unwrap().acquire().await) });
    tokio::time::sleep(seconds(1)).await;
    dying.kill();
    let before = record(&store, "a").await;
    store.write("a", &write::give_up(&before, &before.waiters[0], "a circle")).await.unwrap();
    waits(&store, 3, "a").await.unwrap();
    let left = record(&store, "a").await;
    assert!(left.waiters.is_empty());
    let left = left.lease.metadata.annotations.clone().unwrap();
    assert!(!left.keys().any(|key| key.starts_with(DEADLOCK)), "{left:?}");
}
