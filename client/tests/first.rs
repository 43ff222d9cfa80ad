//! The first request that has to do with a lock, where most locks are new.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::record::SESSION_PREFIX;
use leasehold::protocol::{Version, Write};
use leasehold::{AcquireError, Client, Failure, MemoryStore, Sight, Store, TryAcquireError};

fn client(store: impl Store) -> Client {
    Client::builder().store(Arc::new(store)).build().unwrap()
}

/// What taking a lock asked of the server: how many reads, creations, and other writes.
async fn asked_for<T>(store: &MemoryStore, acquire: impl Future<Output = T>) -> (T, [u64; 3]) {
    let count = || {
        let requests = store.server().requests();
        [requests.get, requests.create, requests.replace + requests.patch + requests.delete]
    };
    let before = count();
    let taken = acquire.await;
    let after = count();
    (taken, std::array::from_fn(|verb| after[verb] - before[verb]))
}

async fn hold(client: &Client, name: &str) {
    std::mem::forget(client.lock(name).build().unwrap().acquire().await.unwrap());
}

#[tokio::test]
async fn a_lock_is_created_without_a_look_where_most_were_new() {
    let store = MemoryStore::new();
    let client = client(store.clone());
    let ((), first) = asked_for(&store, hold(&client, "a")).await;
    assert_eq!(first, [1, 2, 0], "a read, the session, the lock");
    for name in ["b", "c", "d"] {
        let ((), next) = asked_for(&store, hold(&client, name)).await;
        assert_eq!(next, [0, 1, 0], "{name}");
    }
}

#[tokio::test]
async fn a_lock_that_is_there_is_waited_for_all_the_same() {
    let store = MemoryStore::new();
    let (one, two) = (client(store.clone()), client(store.clone()));
    hold(&two, "new").await;
    let lock = one.lock("there").build().unwrap();
    let guard = lock.acquire().await.unwrap();
    // It is there, and it is not the first for this client.
    let there = two.lock("there").build().unwrap();
    let (held, asked) = asked_for(&store, there.try_acquire()).await;
    assert!(matches!(held, Err(TryAcquireError::Held { .. })), "{held:?}");
    assert_eq!(asked, [2, 1, 0], "a creation that is refused, a read of the lock, and one of its holder's session");
    let waiter = tokio::spawn(async move { there.acquire().await });
    while lock.status().await.unwrap().waiters.is_empty() {
        tokio::task::yield_now().await;
    }
    guard.release().await.unwrap();
    waiter.await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_lock_that_stays_there_when_it_is_free_is_taken() {
    let store = MemoryStore::new();
    let one = client(store.clone());
    hold(&one, "new").await;
    let lease: Lease = serde_json::from_value(serde_json::json!({
        "metadata": { "name": "free", "labels": { "leasehold.dev/kind": "lock" } },
        "spec": { "holderIdentity": "", "leaseTransitions": 4, "leaseDurationSeconds": 1 },
    }))
    .unwrap();
    store.write("free", &Write::Create(Box::new(lease))).await.unwrap();
    let ((), asked) = asked_for(&store, hold(&one, "free")).await;
    assert_eq!(asked, [1, 1, 1], "a creation that is refused, a read, and no place in the queue before it is taken");
}

#[tokio::test]
async fn where_most_are_there_they_are_looked_at_first() {
    let store = MemoryStore::new();
    let (one, two) = (client(store.clone()), client(store.clone()));
    hold(&one, "new").await;
    for name in ["a", "b", "c"] {
        hold(&two, name).await;
    }
    for (name, creations) in [("a", 1), ("b", 0), ("c", 0)] {
        let (held, asked) = asked_for(&store, one.lock(name).build().unwrap().try_acquire()).await;
        assert!(matches!(held, Err(TryAcquireError::Held { .. })), "{held:?}");
        assert_eq!(asked[1], creations, "{name}");
    }
}

/// A store that counts what was to be created besides sessions. It may be forbidden, or its answer get lost.
#[derive(Debug)]
struct Creations {
    store: MemoryStore,
    tried: Arc<AtomicU64>,
    /// From the second on it fails so, or it is carried out all the same and nothing is heard of it.
    fails: Option<Failure>,
}

impl Store for Creations {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        self.store.read(name)
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        async move {
            let creates = matches!(write, Write::Create(_)) && !name.starts_with(SESSION_PREFIX);
            if !creates || self.tried.fetch_add(1, Ordering::SeqCst) != 1 {
                return self.store.write(name, write).await;
            }
            if let Some(failure) = &self.fails {
                return Err(failure.clone());
            }
            self.store.write(name, write).await?;
            Err(Failure::Unclear("the connection broke".to_owned()))
        }
        .boxed()
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        self.store.watch(name, label, from)
    }
}

fn failing(store: &MemoryStore, fails: Option<Failure>) -> (Client, Arc<AtomicU64>) {
    let tried = Arc::<AtomicU64>::default();
    (client(Creations { store: store.clone(), tried: tried.clone(), fails }), tried)
}

#[tokio::test]
async fn who_may_not_create_what_is_there_need_not() {
    let store = MemoryStore::new();
    let (one, tried) = failing(&store, Some(Failure::Forbidden("leases may not be created".to_owned())));
    let two = client(store.clone());
    hold(&one, "new").await;
    for name in ["a", "b"] {
        hold(&two, name).await;
        let held = one.lock(name).build().unwrap().try_acquire().await;
        assert!(matches!(held, Err(TryAcquireError::Held { .. })), "{held:?}");
    }
    hold(&one, "c").await;
    assert_eq!(
        tried.load(Ordering::SeqCst),
        3,
        "it is tried once, and later only what is known to be absent is created"
    );
}

#[tokio::test]
async fn a_creation_of_which_nothing_was_heard_is_found() {
    let store = MemoryStore::new();
    let (one, _) = failing(&store, None);
    hold(&one, "new").await;
    let lock = one.lock("a").build().unwrap();
    let guard = tokio::time::timeout(Duration::from_secs(10), lock.acquire()).await.unwrap().unwrap();
    assert_eq!(lock.status().await.unwrap().holder.unwrap().identity, guard.holder_identity());
    guard.release().await.unwrap();
    let (other, _) = failing(&store, Some(Failure::Unclear("the connection broke".to_owned())));
    hold(&other, "another").await;
    let acquired: Result<_, AcquireError> = other.lock("a").build().unwrap().acquire().await;
    acquired.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn no_more_than_a_few_guesses_are_wrong_at_once() {
    let store = MemoryStore::new();
    let (one, two) = (client(store.clone()), client(store.clone()));
    let names: Vec<String> = (0..500).map(|number| format!("shard-{number}")).collect();
    for name in &names {
        hold(&two, name).await;
    }
    hold(&one, "its-own").await;
    let tries = names.iter().map(|name| one.lock(name).build().unwrap());
    let tries = tries.map(|lock| tokio::spawn(async move { lock.try_acquire().await.map(drop) })).collect::<Vec<_>>();
    let (held, [_, creations, _]) = asked_for(&store, futures::future::join_all(tries)).await;
    assert!(held.into_iter().all(|held| matches!(held, Ok(Err(TryAcquireError::Held { .. })))));
    assert_eq!(creations, 1, "all but the first know that it is not known yet");
}
