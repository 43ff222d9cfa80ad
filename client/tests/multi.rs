//! Several at once, over an in-memory store.

use std::sync::Arc;
use std::time::Duration;

use leasehold::protocol::record::SESSION_PREFIX;
use leasehold::{AcquireError, Client, MemoryStore, MultiLock};

const LIMIT: Duration = Duration::from_secs(20);

fn client(store: &MemoryStore) -> Client {
    Client::builder().store(Arc::new(store.clone())).session_duration(Duration::from_secs(3)).build().unwrap()
}

#[tokio::test]
async fn whatever_the_order_nobody_waits_in_a_circle() {
    let store = MemoryStore::new();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..6_usize {
        let client = client(&store);
        tasks.spawn(async move {
            for round in 0..8 {
                let names = ["a", "b", "c"];
                let chosen = (0..2).map(|n| names[(task + round + n * (1 + task % 2)) % 3]);
                let mut all = MultiLock::new();
                for name in chosen {
                    all = all.lock(&client.lock(name).build().unwrap());
                }
                let permits = client.semaphore("s").with_permits(2).build().unwrap();
                let shared = client.read_write_lock("r").unwrap();
                all = if round % 2 == 0 { all.write(&shared) } else { all.permits(&permits, 1).read(&shared) };
                let guard = all.build().unwrap().acquire().await.unwrap();
                guard.check().unwrap();
                tokio::task::yield_now().await;
                guard.release().await.unwrap();
            }
        });
    }
    tokio::time::timeout(LIMIT, tasks.join_all()).await.expect("nobody waits for ever");
}

#[tokio::test]
async fn after_the_limit_none_of_it_is_held() {
    let store = MemoryStore::new();
    let (client, other) = (client(&store), client(&store));
    let held = other.lock("b").build().unwrap().acquire().await.unwrap();
    let [a, b] = ["a", "b"].map(|name| client.lock(name).build().unwrap());
    let all = MultiLock::new().lock(&b).lock(&a).build().unwrap();
    let error = all.acquire_timeout(Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(&error, AcquireError::TimedOut { name, .. } if name == "b"), "{error}");
    assert!(!a.is_locked().await.unwrap(), "it holds half of it");
    assert_eq!(b.status().await.unwrap().waiters, []);
    held.release().await.unwrap();
    let guard = all.acquire().await.unwrap();
    assert!(guard.get("a").unwrap().token() > 0 && guard.get("c").is_none() && guard.holds().len() == 2);
    drop(guard);
    client.shutdown().await;
    other.shutdown().await;
    let (left, _) = store.server().list(None, "").unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn the_limit_is_one_for_all_together() {
    let store = MemoryStore::new();
    let (client, other) = (client(&store), client(&store));
    let first = other.lock("a").build().unwrap().acquire().await.unwrap();
    let _last = other.semaphore("z").with_permits(1).build().unwrap().acquire(1).await.unwrap();
    let (a, z) = (client.lock("a").build().unwrap(), client.semaphore("z").with_permits(1).build().unwrap());
    let all = MultiLock::new().permits(&z, 1).lock(&a).build().unwrap();
    let limit = Duration::from_secs(4);
    let waiting = tokio::spawn(async move { all.acquire_timeout(limit).await });
    tokio::time::sleep(Duration::from_secs(3)).await;
    first.release().await.unwrap();
    match waiting.await.unwrap().unwrap_err() {
        AcquireError::TimedOut { name, waited, .. } => assert!(name == "z" && waited < limit / 2, "{name}: {waited:?}"),
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn one_loss_is_the_loss_of_all() {
    let store = MemoryStore::new();
    let client = client(&store);
    let [a, b] = ["a", "b"].map(|name| client.semaphore(name).with_permits(1).build().unwrap());
    let guard = MultiLock::new().permits(&a, 1).permits(&b, 1).build().unwrap().acquire().await.unwrap();
    let lost = guard.lost();
    guard.check().unwrap();
    assert!(!lost.is_cancelled());
    b.revoke(&guard.get("b").unwrap().holder_identity()).await.unwrap();
    tokio::time::timeout(LIMIT, lost.cancelled()).await.expect("it is told");
    assert_eq!(guard.check().unwrap_err().name, "b");
    assert!(guard.remaining().is_zero());
    guard.release().await.unwrap_err();
    assert_eq!(a.available_permits().await.unwrap(), 1);
}

#[tokio::test]
async fn what_is_lost_while_the_rest_is_waited_for_is_acquired_anew() {
    let store = MemoryStore::new();
    let (client, other) = (client(&store), client(&store));
    let first = client.semaphore("a").with_permits(1).build().unwrap();
    let second = other.lock("b").build().unwrap().acquire().await.unwrap();
    let all = MultiLock::new().permits(&first, 1).lock(&client.lock("b").build().unwrap()).build().unwrap();
    let waiting = tokio::spawn(async move { all.acquire().await });
    let holder = async |not: &str| {
        loop {
            let mut held = first.status().await.unwrap().holders.into_iter().map(|share| share.holder.identity);
            if let Some(identity) = held.find(|identity| identity != not) {
                return identity;
            }
            tokio::task::yield_now().await;
        }
    };
    let lost = holder("").await;
    first.revoke(&lost).await.unwrap();
    // It holds the first again before it can have the second.
    let again = tokio::time::timeout(LIMIT, holder(&lost)).await.expect("it waits on, and holds half of it no more");
    second.release().await.unwrap();
    let guard = tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap().unwrap();
    guard.check().unwrap();
    assert_eq!(guard.get("a").unwrap().holder_identity(), again);
    guard.release().await.unwrap();
}

#[tokio::test]
async fn what_is_named_twice_is_acquired_once() {
    let store = MemoryStore::new();
    let client = client(&store);
    let (lock, other) = (client.lock("a").build().unwrap(), client.lock("a").build().unwrap());
    let permits = client.semaphore("s").with_permits(5).build().unwrap();
    let shared = client.read_write_lock("r").unwrap();
    let twice = MultiLock::new().lock(&lock).lock(&other).permits(&permits, 2).permits(&permits, 1);
    let guard = twice.read(&shared).write(&shared).build().unwrap().acquire().await.unwrap();
    assert_eq!((guard.holds().len(), permits.available_permits().await.unwrap()), (3, 2));
    assert_eq!(shared.status().await.unwrap().holders[0].share, "write");
    guard.release().await.unwrap();
    let names = store.server().list(None, "").unwrap().0;
    assert!(names.iter().all(|lease| lease.metadata.name.as_ref().unwrap().starts_with(SESSION_PREFIX)), "{names:?}");

    let mixed = MultiLock::new().lock(&lock).read(&client.read_write_lock("a").unwrap()).build().unwrap_err();
    assert!(mixed.to_string().contains("as a lock and as a rwlock"), "{mixed}");
    assert!(MultiLock::new().build().is_err());
    assert!(MultiLock::new().permits(&permits, 0).build().is_err());
}
