//! Calls without async, from threads of every sort, and clients that live apart from whoever uses them.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use leasehold::{
    AcquireError, Client, LossReason, MemoryStore, MultiLock, OnLost, TryAcquireError, UpgradeError, WithLockError,
};
use tokio::runtime::{Builder, Runtime};

/// More than anything takes here that ends at all.
const LONG: Duration = Duration::from_secs(30);
const SHORT: Option<Duration> = Some(Duration::from_millis(20));

fn client(store: &MemoryStore) -> Client {
    Client::builder().store(Arc::new(store.clone())).session_duration(Duration::from_secs(3)).build().unwrap()
}

fn apart(store: &MemoryStore) -> Client {
    let options = Client::builder().store(Arc::new(store.clone())).dedicated_runtime();
    options.session_duration(Duration::from_secs(3)).build().unwrap()
}

fn single() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi(threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap()
}

/// Does it on a thread of its own, and does not wait for ever.
fn in_time(what: &str, act: impl FnOnce() + Send + 'static) {
    let (done, over) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        act();
        let _ = done.send(());
    });
    match over.recv_timeout(LONG) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: it does not end"),
        _ => thread.join().unwrap(),
    }
}

/// All that can be done without async.
fn everything(client: &Client, other: &Client) {
    let lock = client.lock("a:lock").build().unwrap();
    let rival = other.lock("a:lock").build().unwrap();
    let guard = lock.blocking_acquire(None).unwrap();
    assert!(matches!(rival.blocking_try_acquire(), Err(TryAcquireError::Held { .. })));
    assert!(matches!(rival.blocking_acquire(SHORT), Err(AcquireError::TimedOut { .. })));
    assert!(matches!(lock.blocking_acquire(None), Err(AcquireError::HeldByThisTask { .. })));
    assert!(rival.blocking_is_locked().unwrap());
    assert!(!rival.blocking_wait_until_free(SHORT).unwrap());
    guard.blocking_publish("half way").unwrap();
    assert_eq!(rival.blocking_status().unwrap().holder.unwrap().payload.as_deref(), Some("half way"));
    assert!(!guard.blocking_extend().unwrap().is_zero());
    assert_eq!(guard.blocking_release_requested(SHORT), None);
    assert_eq!(rival.blocking_request_release(Duration::from_secs(5), "why").unwrap().len(), 1);
    assert_eq!(guard.blocking_release_requested(None).unwrap().reason, "why");
    assert!(!guard.blocking_lost(SHORT));
    guard.blocking_release().unwrap();
    assert!(rival.blocking_wait_until_free(None).unwrap());
    let token = rival.blocking_with_lock(|guard| guard.token()).unwrap();
    assert!(rival.blocking_with_lock(|guard| guard.token()).unwrap() > token);
    let shut = || {
        let gone = self::apart(&MemoryStore::new());
        gone.blocking_shutdown();
        gone.lock("a").build().unwrap()
    };
    assert!(matches!(shut().blocking_with_lock(|_| ()), Err(WithLockError::Acquire(AcquireError::ShutDown))));

    let semaphore = client.semaphore("s").with_permits(3).build().unwrap();
    let mut permits = semaphore.blocking_acquire(3, None).unwrap();
    assert!(semaphore.blocking_try_acquire(1).is_err() && semaphore.blocking_acquire(1, SHORT).is_err());
    // Whoever has given up leaves the queue in the background; until it has, it may be let in once more.
    while !semaphore.blocking_status().unwrap().waiters.is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    permits.blocking_release_some(1).unwrap();
    assert_eq!(semaphore.blocking_available_permits().unwrap(), 1);
    assert_eq!(semaphore.blocking_status().unwrap().held, 2);
    assert_eq!(semaphore.blocking_request_release(None, Duration::from_secs(5), "").unwrap().len(), 1);
    assert!(semaphore.blocking_revoke(&permits.holder_identity()).unwrap());
    assert!(permits.blocking_lost(Some(LONG)) && permits.blocking_release().is_err());

    let catalog = client.read_write_lock("rw").unwrap();
    let (reader, upgradeable) =
        (catalog.blocking_read(None).unwrap(), catalog.blocking_upgradeable_read(Some(LONG)).unwrap());
    assert!(catalog.blocking_try_write().is_err() && catalog.blocking_try_upgradeable_read().is_err());
    let error = upgradeable.blocking_upgrade_timeout(Duration::from_millis(20)).unwrap_err();
    let UpgradeError::TimedOut { guard: upgradeable, .. } = error else { panic!("{error}") };
    reader.blocking_release().unwrap();
    let writer = upgradeable.blocking_upgrade().unwrap();
    assert!(catalog.blocking_try_read().is_err());
    assert_eq!(catalog.blocking_request_release(None, Duration::from_secs(5), "").unwrap().len(), 1);
    let upgradeable = writer.blocking_downgrade_to_upgradeable().unwrap();
    let reader = upgradeable.blocking_downgrade().unwrap();
    assert_eq!(catalog.blocking_status().unwrap().holders.len(), 1);
    reader.blocking_release().unwrap();
    catalog.blocking_write(None).unwrap().blocking_downgrade().unwrap().blocking_release().unwrap();
    catalog.blocking_upgradeable_read(None).unwrap().blocking_release().unwrap();
    catalog.blocking_write(Some(LONG)).unwrap().blocking_release().unwrap();

    let both = MultiLock::new().lock(&lock).write(&catalog).build().unwrap();
    let guard = both.blocking_acquire(None).unwrap();
    let lost = guard.lost();
    assert!(rival.blocking_try_acquire().is_err() && !lost.is_cancelled());
    guard.blocking_release().unwrap();
    both.blocking_acquire(Some(LONG)).unwrap().blocking_release().unwrap();
    client.blocking_shutdown();
    other.blocking_shutdown();
}

#[test]
fn everything_can_be_done_by_a_plain_thread() {
    in_time("a plain thread", || {
        let store = MemoryStore::new();
        everything(&client(&store), &client(&store));
    });
    in_time("a plain thread, clients apart", || {
        let store = MemoryStore::new();
        everything(&apart(&store), &apart(&store));
    });
}

#[test]
fn everything_can_be_done_by_a_thread_of_a_runtime() {
    for (what, runtime) in [
        ("a runtime's only thread", single as fn() -> Runtime),
        ("the only worker", || multi(1)),
        ("one of several workers", || multi(4)),
    ] {
        in_time(what, move || {
            let store = MemoryStore::new();
            runtime().block_on(async { everything(&client(&store), &apart(&store)) });
        });
        in_time(what, move || {
            runtime().block_on(async {
                let store = MemoryStore::new();
                tokio::spawn(async move { everything(&client(&store), &client(&store)) }).await.unwrap();
            });
        });
    }
}

/// What a blocked thread wakes must not wait for that thread.
#[test]
fn a_worker_blocks_beside_the_tasks_of_the_same_client() {
    in_time("tasks of the same runtime", || {
        multi(2).block_on(async {
            let store = MemoryStore::new();
            let client = client(&store);
            let (lock, next) = (client.lock("a").build().unwrap(), client.lock("a").build().unwrap());
            for _ in 0..50 {
                let guard = lock.acquire().await.unwrap();
                let blocking = next.clone();
                let worker = tokio::spawn(async move {
                    blocking.blocking_acquire(None).unwrap().blocking_release().unwrap();
                });
                guard.release().await.unwrap();
                worker.await.unwrap();
            }
        });
    });
}

#[test]
fn a_client_apart_can_be_used_by_async_code_and_by_what_blocks_it() {
    in_time("a runtime's only thread", || {
        single().block_on(async {
            let client = apart(&MemoryStore::new());
            let lock = client.lock("a").build().unwrap();
            for _ in 0..20 {
                let guard = lock.acquire().await.unwrap();
                assert!(matches!(lock.blocking_acquire(None), Err(AcquireError::HeldByThisTask { .. })));
                guard.blocking_release().unwrap();
                lock.blocking_acquire(None).unwrap().release().await.unwrap();
                lock.with_lock(OnLost::Cancel, async |guard| guard.token()).await.unwrap();
                assert!(!lock.is_locked().await.unwrap());
                lock.wait_until_free().await.unwrap();
            }
            client.shutdown().await;
        });
    });
}

/// Whether the lock is held after the runtime's only thread was blocked for longer than the session lasts.
fn survives(client: fn(&MemoryStore) -> Client) -> Result<(), LossReason> {
    single().block_on(async {
        let store = MemoryStore::new();
        let guard = client(&store).lock("a").build().unwrap().acquire().await.unwrap();
        // This is the mistake.
        std::thread::sleep(Duration::from_secs(5));
        guard.check().map_err(|lost| lost.reason)
    })
}

#[test]
fn a_blocked_runtime_loses_no_lock_of_a_client_that_lives_apart() {
    assert_eq!(survives(apart), Ok(()));
}

#[test]
fn a_blocked_runtime_loses_the_locks_of_a_client_that_lives_on_it() {
    assert_eq!(survives(client), Err(LossReason::Expired));
}
