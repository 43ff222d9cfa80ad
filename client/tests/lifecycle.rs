//! Beginnings and ends: of clients, of the runtimes they live on, of sessions that nobody renews any more.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::record::SessionRecord;
use leasehold::protocol::{HolderId, SessionId, Version, Write, write};
use leasehold::{AcquireError, ApiError, Client, Failure, MemoryStore, Store};
use serde_json::{Value, json};

/// More than anything takes here that ends at all.
const LONG: Duration = Duration::from_secs(20);

fn client(store: &MemoryStore) -> Client {
    Client::builder().store(Arc::new(store.clone())).session_duration(Duration::from_secs(3)).build().unwrap()
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("{what}"))
}

async fn create(store: &MemoryStore, lease: Value) {
    let lease: Lease = serde_json::from_value(lease).unwrap();
    store.write("a", &Write::Create(Box::new(lease))).await.unwrap();
}

/// Opens a session that nobody renews.
async fn open(store: &MemoryStore, session: &str, duration: Duration) {
    let session: SessionId = session.parse().unwrap();
    let write = write::open_session(&session, duration, "2026-01-01T00:00:00Z".parse().unwrap());
    store.write(&session.lease_name(), &write).await.unwrap();
}

async fn session(store: &MemoryStore, session: &SessionId) -> SessionRecord {
    SessionRecord::parse(store.read(&session.lease_name()).await.unwrap()).unwrap()
}

#[tokio::test]
async fn shutdown_returns_though_a_guard_of_a_lost_session_is_kept() {
    let store = MemoryStore::new();
    let client = client(&store);
    let guard = client.lock("a").build().unwrap().acquire().await.unwrap();
    let id: HolderId = guard.holder_identity().parse().unwrap();
    let removal = write::remove_session(&session(&store, &id.session).await);
    store.write(&id.session.lease_name(), &removal).await.unwrap();
    in_time("the session's loss is not told", guard.lost().cancelled()).await;
    in_time("shutdown() waits for a guard that nobody need drop", client.shutdown()).await;
    assert!(guard.check().is_err());
}

#[tokio::test]
async fn the_lease_of_a_lost_session_stands_until_what_was_held_by_it_is_let_go() {
    let store = MemoryStore::new();
    let client = client(&store);
    let guard = client.lock("a").build().unwrap().acquire().await.unwrap();
    let id: HolderId = guard.holder_identity().parse().unwrap();
    let lease = id.session.lease_name();
    store.write(&lease, &write::end_session(&session(&store, &id.session).await, "by hand")).await.unwrap();
    in_time("the session's loss is not told", guard.lost().cancelled()).await;
    // Time enough for its task to go on: nothing that it does here takes any.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(session(&store, &id.session).await.ended, "it is removed under a guard");
    drop(guard);
    let gone = async {
        while store.read(&lease).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    in_time("it is never removed", gone).await;
}

#[tokio::test]
async fn who_waits_in_the_same_process_is_told_of_a_shutdown() {
    for own in [false, true] {
        let store = MemoryStore::new();
        let client = client(&store);
        let (mut guards, mut waiting) = (Vec::new(), Vec::new());
        // Two locks: each keeps the shutdown busy while the other one's next in turn comes round.
        for name in ["a", "b"] {
            let mut lock = client.lock(name).same_task_waits(true);
            if own {
                lock = lock.lease_duration(Duration::from_secs(3));
            }
            let lock = lock.build().unwrap();
            guards.push(lock.acquire().await.unwrap());
            let mut acquiring = Box::pin(async move { lock.acquire().await.map(|guard| guard.token()) });
            assert!(futures::poll!(&mut acquiring).is_pending());
            waiting.push(acquiring);
        }
        let both = futures::future::join(client.shutdown(), futures::future::join_all(waiting));
        let ((), outcomes) = in_time("shutdown() or a waiter hangs", both).await;
        for outcome in outcomes {
            assert!(matches!(outcome, Err(AcquireError::ShutDown)), "it began after the shutdown: {outcome:?}");
        }
        for (name, guard) in ["a", "b"].into_iter().zip(guards) {
            let left = store.read(name).await;
            assert!(matches!(left, Err(Failure::Absent)), "something stays of a client that was shut down: {left:?}");
            // The guard of the client that was shut down goes only now. It is nobody else's.
            let next = self::client(&store).lock(name).build().unwrap().acquire_timeout(LONG).await.unwrap();
            drop(guard);
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            next.release().await.expect("a guard released what it did not hold");
        }
    }
}

/// The driver of a lock stays for a while when there is nothing to do, and longer if it cannot end. It must not ask for
/// its end on and on.
#[tokio::test]
async fn a_guard_kept_after_shutdown_keeps_nothing_busy() {
    let client = client(&MemoryStore::new());
    let guard = client.lock("a").build().unwrap().acquire().await.unwrap();
    client.shutdown().await;
    // It lingers for ten seconds.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let wakes = || tokio::runtime::Handle::current().metrics().worker_park_count(0);
    let before = wakes();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let woken = wakes() - before;
    assert!(woken < 100, "woken {woken} times in a second with nothing to do");
    drop(guard);
}

#[test]
fn a_client_outlives_the_runtime_it_was_first_used_on() {
    let client = client(&MemoryStore::new());
    let (sender, outcome) = mpsc::channel();
    // In a thread of its own: if it never gives way, no limit within its runtime ends it.
    std::thread::spawn(move || {
        let lock = client.lock("a").build().unwrap();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime().block_on(async { lock.acquire().await.unwrap().release().await.unwrap() });
        let again = runtime().block_on(async { lock.acquire_timeout(LONG).await.map(|guard| guard.token()) });
        let _ = sender.send(again);
    });
    outcome.recv_timeout(LONG * 2).expect("an acquisition hangs").expect("a lock that nobody holds was not acquired");
}

/// A hold whose driver has gone with its runtime cannot be released by anybody, nor watched. It is not to be believed in.
#[test]
fn a_guard_does_not_outlive_the_runtime_that_drives_its_lock() {
    let store = MemoryStore::new();
    let client = client(&store);
    let other = client.lock("b").build().unwrap();
    // The session lives on the crate's own runtime, by this one.
    let kept = client.lock("a").build().unwrap().blocking_acquire(None).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let guard = runtime.block_on(other.acquire()).unwrap();
    guard.check().unwrap();
    drop(runtime);
    let next = other.blocking_acquire(Some(LONG));
    assert!(guard.check().is_err(), "two guards at once: {next:?}");
    drop((kept, next));
}

/// The lock's holder is dead, and so are all these waiters, each by a session of its own.
async fn acquire_behind(dead: usize) -> Result<u64, AcquireError> {
    let store = MemoryStore::new();
    let mut joins = serde_json::Map::new();
    open(&store, "dead0_aaa", Duration::from_secs(1)).await;
    for n in 1..=dead {
        open(&store, &format!("dead{n}_aaa"), Duration::from_secs(1)).await;
        joins.insert(format!("join.leasehold.dev/dead{n}_aaa.1"), n.to_string().into());
    }
    let lease = json!({
        "metadata": { "name": "a", "annotations": joins, "labels": { "holder.leasehold.dev/dead0_aaa": "1" } },
        "spec": { "holderIdentity": "dead0_aaa.1", "leaseTransitions": 0, "leaseDurationSeconds": 1 },
    });
    create(&store, lease).await;
    let lock = client(&store).lock("a").build().unwrap();
    lock.acquire_timeout(LONG).await.map(|guard| guard.token())
}

/// The first four places see to all who are ahead of them. If everybody there is dead, those further back have to.
#[tokio::test]
async fn a_queue_that_is_dead_up_to_the_last_place_is_passed_over() {
    let acquired = [3, 4, 9].map(|dead| async move { (dead, acquire_behind(dead).await) });
    for (dead, outcome) in futures::future::join_all(acquired).await {
        assert!(outcome.is_ok(), "stuck behind {dead} dead waiters: {outcome:?}");
    }
}

/// What was seen of a session is remembered when nobody waits any more. It may have been renewed meanwhile, and after
/// its last renewal nobody is to wait for it twice.
#[tokio::test]
async fn a_session_that_was_renewed_unseen_is_waited_for_once() {
    let duration = Duration::from_secs(8);
    let store = MemoryStore::new();
    open(&store, "dead_aaa", duration).await;
    let lease = json!({
        "metadata": { "name": "a", "labels": { "holder.leasehold.dev/dead_aaa": "1" } },
        "spec": { "holderIdentity": "dead_aaa.1", "leaseTransitions": 0, "leaseDurationSeconds": 8 },
    });
    create(&store, lease).await;
    let lock = client(&store).lock("a").build().unwrap();
    lock.acquire_timeout(Duration::from_millis(200)).await.unwrap_err();
    let left = async {
        while !lock.status().await.unwrap().waiters.is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    in_time("a waiter stayed behind", left).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let seen = session(&store, &"dead_aaa".parse().unwrap()).await;
    let renewal = write::renew_session(&seen, seen.duration, "2026-01-01T00:01:00Z".parse().unwrap());
    store.write(&seen.id.lease_name(), &renewal).await.unwrap();
    let outcome = lock.acquire_timeout(duration + duration / 2).await.map(|guard| guard.token());
    assert!(outcome.is_ok(), "it waits for more than the session's duration: {outcome:?}");
}

#[tokio::test]
async fn a_lock_whose_duration_leaves_nothing_of_the_grace_is_refused_and_not_touched() {
    let store = MemoryStore::new();
    let annotations = json!({ "leasehold.dev/default-duration-seconds": "2" });
    create(&store, json!({ "metadata": { "name": "a", "annotations": annotations }, "spec": {} })).await;
    let client = Client::builder().store(Arc::new(store.clone())).grace(Duration::from_secs(5)).build().unwrap();
    let lock = client.lock("a").build().unwrap();
    let version = async || {
        let lease = store.read("a").await.unwrap();
        lease.metadata.resource_version.unwrap().parse::<Version>().unwrap()
    };
    let before = version().await;
    let error = lock.acquire_timeout(LONG).await.unwrap_err();
    assert!(matches!(&error, AcquireError::Api { source: ApiError::Invalid { .. }, .. }), "{error}");
    assert!(error.to_string().contains("grace"), "it does not say why: {error}");
    assert_eq!(version().await, before, "it was written to");
}
