//! Names that cannot be a Lease's.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::name::lease_name;
use leasehold::protocol::record::ID;
use leasehold::protocol::{Record, Write};
use leasehold::{AcquireError, Client, Failure, MemoryStore, MultiLock, ReadError, Store, TryAcquireError};
use serde_json::json;

const ORDER: &str = "order:payment:4711";

fn client(store: &MemoryStore) -> Client {
    Client::builder().store(Arc::new(store.clone())).build().unwrap()
}

async fn record(store: &MemoryStore, id: &str) -> Record {
    Record::parse(store.read(&lease_name(id).unwrap()).await.unwrap()).unwrap()
}

async fn make(store: &MemoryStore, id: &str, annotations: serde_json::Value) {
    let name = lease_name(id).unwrap();
    let lease: Lease = serde_json::from_value(json!({"metadata": {"name": name, "annotations": annotations}})).unwrap();
    store.write(&name, &Write::Create(Box::new(lease))).await.unwrap();
}

#[tokio::test]
async fn any_text_names_one_lock_for_all_and_is_shown() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store), client(&store));
    for id in [ORDER, "Übung №5", "🦀", "session-x", "A", "-a", "a..b", &"é".repeat(512)] {
        let (lock, other) = (one.lock(id).build().unwrap(), two.lock(id).build().unwrap());
        assert_eq!((lock.name(), lock.lease_name()), (id, &*lease_name(id).unwrap()));
        let guard = lock.acquire().await.unwrap();
        assert_eq!((guard.name(), guard.lease_name()), (id, lock.lease_name()));
        assert_eq!(record(&store, id).await.resource_id.as_deref(), Some(id));
        assert_eq!(other.status().await.unwrap().name, id);
        let error = other.try_acquire().await.unwrap_err();
        assert!(matches!(&error, TryAcquireError::Held { name, .. } if name == id), "{error}");
        let error = other.acquire_timeout(Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(&error, AcquireError::TimedOut { name, .. } if name == id), "{error}");
        guard.release().await.unwrap();
        assert!(matches!(store.read(lock.lease_name()).await, Err(Failure::Absent)), "the Lease stays");
    }
    let plain = one.lock("a.b-c").build().unwrap();
    let _guard = plain.acquire().await.unwrap();
    assert_eq!((plain.name(), plain.lease_name()), ("a.b-c", "a.b-c"));
    assert_eq!(record(&store, "a.b-c").await.resource_id, None);
}

#[tokio::test]
async fn what_several_can_hold_can_be_named_so_as_well() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store), client(&store));
    let permits = one.semaphore("db:main").with_permits(1).build().unwrap().acquire(1).await.unwrap();
    let semaphore = two.semaphore("db:main").with_permits(1).build().unwrap();
    assert!(semaphore.try_acquire(1).await.is_err());
    assert_eq!(semaphore.status().await.unwrap().name, "db:main");
    assert_eq!(record(&store, "db:main").await.resource_id.as_deref(), Some("db:main"));
    let error = two.lock("db:main").build().unwrap().acquire().await.unwrap_err().to_string();
    assert!(error.contains("\"db:main\" is a semaphore, not a lock"), "{error}");
    assert!(semaphore.revoke(&permits.holder_identity()).await.unwrap());
    let writer = one.read_write_lock("cat/alog").unwrap().write().await.unwrap();
    assert!(two.read_write_lock("cat/alog").unwrap().try_read().await.is_err());
    assert_eq!(record(&store, "cat/alog").await.resource_id.as_deref(), Some("cat/alog"));
    drop(writer);
}

#[tokio::test]
async fn a_lease_that_says_it_is_anothers_is_nobody_elses_lock() {
    let store = MemoryStore::new();
    make(&store, ORDER, json!({ID: "order-payment:4711"})).await;
    make(&store, "plain", json!({ID: "pl:ain"})).await;
    let client = client(&store);
    for (id, other) in [(ORDER, "order-payment:4711"), ("plain", "pl:ain")] {
        let lock = client.lock(id).build().unwrap();
        let told = format!("is that of {other:?} (annotation leasehold.dev/id), not of {id:?}");
        let error = lock.acquire().await.unwrap_err();
        assert!(matches!(error, AcquireError::Api { .. }) && !error.is_retryable(), "{error}");
        assert!(error.to_string().contains(&told), "{error}");
        let error = lock.try_acquire().await.unwrap_err();
        assert!(error.to_string().contains(&told), "{error}");
        let error: ReadError = lock.status().await.unwrap_err();
        assert!(error.to_string().contains(&told), "{error}");
        let semaphore = client.semaphore(id).with_permits(2).build().unwrap();
        assert!(semaphore.acquire(1).await.unwrap_err().to_string().contains(&told));
        assert!(lock.request_release(Duration::from_secs(1), "").await.is_err());
        assert_eq!(record(&store, id).await.holder, None);
    }
}

#[tokio::test]
async fn a_lease_made_by_hand_is_used_and_says_from_then_on_whose_it_is() {
    let store = MemoryStore::new();
    make(&store, ORDER, json!({})).await;
    let lock = client(&store).lock(ORDER).build().unwrap();
    let guard = lock.acquire().await.unwrap();
    assert_eq!(record(&store, ORDER).await.resource_id.as_deref(), Some(ORDER));
    guard.release().await.unwrap();
    assert_eq!(record(&store, ORDER).await.resource_id.as_deref(), Some(ORDER));
}

#[tokio::test]
async fn a_prefix_is_part_of_every_name() {
    let store = MemoryStore::new();
    let team = Client::builder().store(Arc::new(store.clone())).key_prefix("team-a/").build().unwrap();
    let lock = team.lock("db").build().unwrap();
    assert_eq!((lock.name(), lock.lease_name()), ("team-a/db", &*lease_name("team-a/db").unwrap()));
    let guard = lock.acquire().await.unwrap();
    let others = client(&store);
    others.lock("db").build().unwrap().try_acquire().await.unwrap().release().await.unwrap();
    assert!(others.lock("team-a/db").build().unwrap().try_acquire().await.is_err());
    assert_eq!(team.semaphore("s").with_permits(1).build().unwrap().name(), "team-a/s");
    assert_eq!(team.read_write_lock("rw").unwrap().name(), "team-a/rw");
    guard.release().await.unwrap();
    let all = MultiLock::new().lock(&lock).build().unwrap().acquire().await.unwrap();
    assert!(all.get("team-a/db").is_some() && all.get("db").is_none());
    let plain = Client::builder().store(Arc::new(store)).key_prefix("team-a-").build().unwrap();
    assert_eq!(plain.lock("db").build().unwrap().lease_name(), "team-a-db");
    let error = plain.lock("x".repeat(1018)).build().unwrap_err().to_string();
    assert!(error.contains("a name of 1025 bytes is too long"), "{error}");
}
