//! What is said beside a hold, and what is refused: requests to let go, payloads, a task in its own way, a full Lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use leasehold::protocol::record::{CROWDED_BYTES, PAYLOAD, REQUEST};
use leasehold::protocol::{Record, write};
use leasehold::{
    AcquireError, Client, Failure, LossReason, MemoryStore, PublishError, ReleaseRequest, RequestReleaseError, Store,
    TryAcquireError,
};
use serde_json::json;

const SOON: Duration = Duration::from_millis(500);
const WITHIN: Duration = Duration::from_secs(30);

fn client(store: &MemoryStore, host: &str) -> Client {
    let builder = Client::builder().store(Arc::new(store.clone())).host(host);
    builder.session_duration(Duration::from_secs(3)).build().unwrap()
}

fn annotations(store: &MemoryStore, name: &str) -> BTreeMap<String, String> {
    let (leases, _) = store.server().list(None, "").unwrap();
    let lease = leases.iter().find(|lease| lease.metadata.name.as_deref() == Some(name));
    lease.and_then(|lease| lease.metadata.annotations.clone()).unwrap_or_default()
}

/// Keys of annotations that stand beside holds.
fn beside(store: &MemoryStore, name: &str) -> Vec<String> {
    let keys = annotations(store, name).into_keys();
    keys.filter(|key| key.starts_with(PAYLOAD) || key.starts_with(REQUEST)).collect()
}

#[tokio::test]
async fn a_holder_hears_who_asks_it_to_let_go_and_the_next_one_does_not() {
    let store = MemoryStore::new();
    let (holder, other) = (client(&store, "holder"), client(&store, "back up"));
    let lock = other.lock("a").build().unwrap();
    assert_eq!(lock.request_release(WITHIN, "nobody is there").await.unwrap(), Vec::<String>::new());
    let guard = holder.lock("a").build().unwrap().acquire().await.unwrap();
    assert_eq!(guard.release_request(), None);
    let asked = async { lock.request_release(WITHIN, "the backup has to run").await.unwrap() };
    let (request, asked) = tokio::join!(tokio::time::timeout(SOON, guard.release_requested()), asked);
    assert_eq!(request.expect("it is heard"), ReleaseRequest::new("back-up", WITHIN, "the backup has to run"));
    assert_eq!(asked, [guard.holder_identity()]);
    assert_eq!(guard.release_request().unwrap().reason, "the backup has to run");
    let status = lock.status().await.unwrap().holder.unwrap().release_request.unwrap();
    assert_eq!((status.by.as_str(), status.within_seconds), ("back-up", 30));
    // Whoever asks again is heard again, and it is for the next hold nobody's business.
    lock.request_release(WITHIN * 2, "still").await.unwrap();
    tokio::time::timeout(SOON, async {
        while guard.release_request().unwrap().within != WITHIN * 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the later request takes the place of the earlier");
    guard.check().unwrap();
    let waiting = tokio::spawn(async move { lock.acquire().await.unwrap() });
    while holder.lock("a").build().unwrap().status().await.unwrap().waiters.is_empty() {
        tokio::task::yield_now().await;
    }
    guard.release().await.unwrap();
    let guard = waiting.await.unwrap();
    assert_eq!((guard.release_request(), beside(&store, "a")), (None, Vec::new()));
}

#[tokio::test]
async fn what_cannot_be_asked_is_told() {
    let lock = client(&MemoryStore::new(), "pod").lock("a").build().unwrap();
    for (within, reason) in
        [(Duration::ZERO, "x".to_owned()), (WITHIN * 10_000, String::new()), (WITHIN, "x".repeat(257))]
    {
        let error = lock.request_release(within, &reason).await.unwrap_err();
        assert!(matches!(&error, RequestReleaseError::Options(_)) && !error.is_retryable(), "{error}");
    }
}

#[tokio::test]
async fn of_many_holders_all_are_asked_or_one() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store, "one"), client(&store, "two"));
    let semaphore = |client: &Client| client.semaphore("db").with_permits(3).build().unwrap();
    let (first, second) = (semaphore(&one).acquire(1).await.unwrap(), semaphore(&two).acquire(2).await.unwrap());
    let asked = semaphore(&one).request_release(Some(&second.holder_identity()), WITHIN, "one").await.unwrap();
    assert_eq!(asked, [second.holder_identity()]);
    assert_eq!(tokio::time::timeout(SOON, second.release_requested()).await.unwrap().reason, "one");
    assert!(tokio::time::timeout(SOON, first.release_requested()).await.is_err(), "it was not asked");
    let asked = semaphore(&one).request_release(None, WITHIN, "all").await.unwrap();
    assert_eq!(asked, [first.holder_identity(), second.holder_identity()]);
    assert_eq!(tokio::time::timeout(SOON, first.release_requested()).await.unwrap().reason, "all");
    first.release().await.unwrap();
    assert_eq!(beside(&store, "db"), [format!("{REQUEST}{}", second.holder_identity())]);
    second.release().await.unwrap();
    let catalog = one.read_write_lock("catalog").unwrap();
    let reader = catalog.read().await.unwrap();
    two.read_write_lock("catalog").unwrap().request_release(None, WITHIN, "write").await.unwrap();
    assert_eq!(tokio::time::timeout(SOON, reader.release_requested()).await.unwrap().by, "two");
}

#[tokio::test]
async fn a_payload_is_shown_as_long_as_the_hold_lasts() {
    let store = MemoryStore::new();
    let client = client(&store, "pod");
    let lock = client.lock("a").build().unwrap();
    let guard = lock.acquire().await.unwrap();
    guard.publish("http://10.0.0.7:8080/ „läuft“").await.unwrap();
    assert_eq!(lock.status().await.unwrap().holder.unwrap().payload.unwrap(), "http://10.0.0.7:8080/ „läuft“");
    guard.publish("x".repeat(1024)).await.unwrap();
    let error = guard.publish("x".repeat(1025)).await.unwrap_err();
    assert!(matches!(error, PublishError::TooLong { bytes: 1025, .. }), "{error}");
    guard.publish("").await.unwrap();
    assert_eq!(lock.status().await.unwrap().holder.unwrap().payload, None);
    guard.publish("once more").await.unwrap();
    guard.release().await.unwrap();

    let semaphore = client.semaphore("db").with_permits(2).build().unwrap();
    let (first, second) = (semaphore.acquire(1).await.unwrap(), semaphore.acquire(1).await.unwrap());
    tokio::try_join!(first.publish("one"), second.publish("two")).unwrap();
    let holders = semaphore.status().await.unwrap().holders;
    let shown: Vec<_> = holders.iter().filter_map(|holder| holder.holder.payload.as_deref()).collect();
    assert_eq!(shown, ["one", "two"]);
    first.release().await.unwrap();
    assert_eq!(beside(&store, "db"), [format!("{PAYLOAD}{}", second.holder_identity())]);
    client.shutdown().await;
    let error = second.publish("too late").await.unwrap_err();
    assert!(matches!(&error, PublishError::Lost(lost) if lost.reason == LossReason::Released), "{error}");
}

#[tokio::test]
async fn a_task_is_told_that_it_would_wait_for_itself() {
    let client = client(&MemoryStore::new(), "pod");
    let lock = client.lock("a").build().unwrap();
    let guard = lock.acquire().await.unwrap();
    let error = lock.acquire().await.unwrap_err();
    assert!(matches!(&error, AcquireError::HeldByThisTask { .. }) && !error.is_retryable(), "{error}");
    // Another task waits, and so does whoever wants to, or waits for so long only.
    let error = lock.acquire_timeout(SOON / 10).await.unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut { .. }), "{error}");
    let patient = client.lock("a").same_task_waits(true).build().unwrap();
    let error = patient.acquire_timeout(SOON / 10).await.unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut { .. }), "{error}");
    let other = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire_timeout(SOON / 10).await }
    });
    let error = other.await.unwrap().unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut { .. }), "{error}");
    guard.release().await.unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();

    let catalog = client.read_write_lock("catalog").unwrap();
    let upgradeable = catalog.upgradeable_read().await.unwrap();
    let reader = catalog.read().await.unwrap();
    for error in [catalog.write().await.unwrap_err(), catalog.upgradeable_read().await.unwrap_err()] {
        assert!(matches!(error, AcquireError::HeldByThisTask { .. }), "{error}");
    }
    reader.release().await.unwrap();
    let writer = upgradeable.upgrade().await.unwrap();
    assert!(matches!(catalog.read().await.unwrap_err(), AcquireError::HeldByThisTask { .. }));
    let upgradeable = writer.downgrade().await.unwrap();
    catalog.read().await.unwrap().release().await.unwrap();
    drop(upgradeable);
    // A permit is acquired by one task and given back by another all the time.
    let semaphore = client.semaphore("db").with_permits(1).build().unwrap();
    let permit = semaphore.acquire(1).await.unwrap();
    let permit = tokio::spawn(async move { permit.release().await });
    semaphore.acquire(1).await.unwrap().release().await.unwrap();
    permit.await.unwrap().unwrap();
    // A guard that is lost and not dropped is in the way as well.
    let brief = client.lock("b").lease_duration(Duration::from_secs(1)).renewal(false).build().unwrap();
    let over = brief.acquire().await.unwrap();
    over.lost().cancelled().await;
    assert!(matches!(brief.acquire().await.unwrap_err(), AcquireError::HeldByThisTask { .. }));
    drop(over);
    brief.acquire().await.unwrap().release().await.unwrap();
    let lost = lock.acquire().await.unwrap();
    client.shutdown().await;
    assert!(lost.check().is_err());
    assert!(matches!(lock.acquire().await.unwrap_err(), AcquireError::ShutDown));
}

/// Fills a Lease's annotations to so many bytes, everything included.
async fn fill(store: &MemoryStore, name: &str, bytes: usize) {
    let others = annotations(store, name).into_iter().filter(|(key, _)| key != "filler");
    let already = others.map(|(key, value)| key.len() + value.len()).sum::<usize>();
    let leases = Api::<Lease>::namespaced(store.server().client("default"), "default");
    let text = "x".repeat(bytes - already - "filler".len());
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { "filler": text } } }));
    leases.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test]
async fn nobody_joins_where_the_api_server_would_not_take_it() {
    let store = MemoryStore::new();
    let semaphore = |host: &str| client(&store, host).semaphore("db").with_permits(1).build().unwrap();
    let permits = semaphore("first").acquire(1).await.unwrap();
    let waiting = tokio::spawn({
        let semaphore = semaphore("second");
        async move { semaphore.acquire(1).await }
    });
    while semaphore("first").status().await.unwrap().waiters.is_empty() {
        tokio::task::yield_now().await;
    }
    fill(&store, "db", CROWDED_BYTES).await;
    let third = semaphore("third");
    let error = third.acquire(1).await.unwrap_err();
    assert!(matches!(error, AcquireError::Full { holders: 1, waiters: 1, .. }) && error.is_retryable(), "{error}");
    let error = third.try_acquire(1).await.unwrap_err();
    assert!(matches!(error, TryAcquireError::Full { holders: 1, waiters: 1, .. }), "{error}");
    // Whoever is there already is not in trouble.
    fill(&store, "db", 256 * 1024 - 512).await;
    let error = permits.publish("x".repeat(1024)).await.unwrap_err();
    assert!(matches!(&error, PublishError::Refused { .. }), "{error}");
    let error = third.request_release(None, WITHIN, "x").await.unwrap_err();
    assert!(error.to_string().contains("there is no room for it"), "{error}");
    permits.release().await.unwrap();
    tokio::time::timeout(SOON, waiting).await.expect("served").unwrap().unwrap().release().await.unwrap();
    // What was known a moment ago says nothing of now.
    third.acquire(1).await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn what_is_said_of_a_hold_cannot_meet_the_next_one() {
    let store = MemoryStore::new();
    let client = client(&store, "pod");
    let read = async |name: &str| Record::parse(store.read(name).await.unwrap()).unwrap();
    let semaphore = client.semaphore("db").with_permits(1).build().unwrap();
    let lock = client.lock("a").build().unwrap();
    let (guard, permits) = (lock.acquire().await.unwrap(), semaphore.acquire(1).await.unwrap());
    // Somebody waits, so that the Leases stay.
    let next = tokio::spawn({
        let (lock, semaphore) = (other(&store).lock("a").build().unwrap(), other(&store).semaphore("db"));
        let semaphore = semaphore.with_permits(1).build().unwrap();
        async move { (lock.acquire().await.unwrap(), semaphore.acquire(1).await.unwrap()) }
    });
    let mut late = Vec::new();
    for (name, id) in [("a", guard.holder_identity()), ("db", permits.holder_identity())] {
        let (record, id) = (read(name).await, id.parse().unwrap());
        let holder = record.holding(&id).unwrap();
        late.push((name, write::request(&record, holder, &ReleaseRequest::new("me", WITHIN, ""))));
        late.push((name, write::publish(&record, holder, "text")));
    }
    while lock.status().await.unwrap().waiters.is_empty() {
        tokio::task::yield_now().await;
    }
    guard.release().await.unwrap();
    while semaphore.status().await.unwrap().waiters.is_empty() {
        tokio::task::yield_now().await;
    }
    permits.release().await.unwrap();
    let _held = next.await.unwrap();
    for (name, write) in late {
        let answer = store.write(name, &write).await;
        assert!(matches!(answer, Err(Failure::Refused)), "{name}: {write:?}: {answer:?}");
        assert_eq!(beside(&store, name), Vec::<String>::new());
    }
}

fn other(store: &MemoryStore) -> Client {
    client(store, "other")
}
