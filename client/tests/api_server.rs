//! The API server in memory: what a test can make of it. That it answers as a real one does is shown by the differential
//! test, `tests/e2e/tests/apiserver`.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use leasehold::protocol::write::{self, Term};
use leasehold::protocol::{HolderId, Record, SessionId, Version, Want, Write};
use leasehold::testing::{ApiServer, Event, Refusal};
use leasehold::{Failure, Sight, Store};
use serde_json::{Value, json};

fn lease(name: &str, labels: &Value) -> Lease {
    serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels }, "spec": {} })).unwrap()
}

fn leases(server: &ApiServer) -> Api<Lease> {
    Api::default_namespaced(server.client("ns"))
}

fn code<T: std::fmt::Debug>(answer: Result<T, kube::Error>) -> u16 {
    match answer.unwrap_err() {
        kube::Error::Api(status) => status.code,
        error => panic!("{error}"),
    }
}

fn version(lease: &Lease) -> u64 {
    lease.metadata.resource_version.as_ref().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_client_and_a_store_see_the_same_leases() {
    let server = ApiServer::new();
    let (api, store) = (leases(&server), server.store("ns"));
    let created = api.create(&PostParams::default(), &lease("a", &json!({}))).await.unwrap();
    assert_eq!(store.read("a").await.unwrap(), created);
    assert!(matches!(server.store("other").read("a").await, Err(Failure::Absent)));
    let patch = json!({ "metadata": { "annotations": { "x": "1" } } });
    let patched = api.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert!(version(&patched) > version(&created));
    let same = api.replace("a", &PostParams::default(), &patched).await.unwrap();
    assert_eq!(same, patched, "a write that changes nothing makes no version");
    assert_eq!(code(api.replace("a", &PostParams::default(), &created).await), 409);
    assert_eq!(api.list(&ListParams::default().labels("!x")).await.unwrap().items, [patched]);
    assert!(api.delete("a", &DeleteParams::default()).await.unwrap().is_right());
    assert_eq!(code(api.get("a").await), 404);
    let count = server.requests();
    assert_eq!((count.get, count.list, count.create, count.replace, count.patch, count.delete), (3, 1, 1, 2, 1, 1));
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "the runtime's clock, which is paused")]
async fn a_watch_tells_in_order_what_its_selectors_mean_and_ends_in_time() {
    let server = ApiServer::new();
    let api = leases(&server);
    let begun = server.version().to_string();
    for name in ["a", "b"] {
        api.create(&PostParams::default(), &lease(name, &json!({ "k": "1" }))).await.unwrap();
    }
    let gone = json!({ "metadata": { "labels": null } });
    api.patch("a", &PatchParams::default(), &Patch::Merge(gone)).await.unwrap();
    let params = WatchParams::default().labels("k=1").fields("metadata.name=a").timeout(7);
    let start = tokio::time::Instant::now();
    let events: Vec<_> = api.watch(&params, &begun).await.unwrap().try_collect().await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 7);
    let [WatchEvent::Added(added), WatchEvent::Deleted(deleted)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(added.metadata.labels, deleted.metadata.labels, "it is told as it was");
    assert_eq!(version(deleted), server.version().0, "with the version of the change");
    let now: Vec<_> = api.watch(&params.labels("k"), "0").await.unwrap().try_collect().await.unwrap();
    assert!(now.is_empty(), "{now:?}");
}

#[tokio::test]
async fn what_is_compacted_cannot_be_watched_again_and_what_is_watched_goes_on() {
    let server = ApiServer::new();
    let store = server.store("ns");
    let begun = server.version();
    let mut watch = server.watch(None, "", begun).unwrap();
    store.write("a", &Write::Create(Box::new(lease("a", &json!({}))))).await.unwrap();
    server.compact();
    assert!(matches!(watch.next().now_or_never(), Some(Some(Event::Added(_)))));
    let mut late = server.watch(None, "", begun).unwrap();
    let Some(Some(Event::Error(status))) = late.next().now_or_never() else { panic!("it is forgotten") };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    assert!(matches!(late.next().now_or_never(), Some(None)));
    let expired = store.watch("a", None, Some(begun)).next().await.unwrap();
    assert!(matches!(expired, Err(Failure::Refused)), "{expired:?}");
    let mut here = server.watch(None, "", server.version()).unwrap();
    assert!(here.next().now_or_never().is_none());
    server.restart();
    assert!(matches!(watch.next().now_or_never(), Some(None)));
    assert!(matches!(here.next().now_or_never(), Some(None)));
    assert_eq!(server.list(None, "").unwrap().0.len(), 1, "the Leases stay");
}

#[tokio::test]
async fn a_watch_is_woken_by_its_own_lease_and_by_a_bookmark() {
    let server = ApiServer::new();
    let store = server.store("ns");
    let watched = tokio::spawn(store.watch("a", Some("k"), Some(server.version())).take(2).collect::<Vec<_>>());
    tokio::task::yield_now().await;
    store.write("b", &Write::Create(Box::new(lease("b", &json!({ "k": "" }))))).await.unwrap();
    store.write("a", &Write::Create(Box::new(lease("a", &json!({ "k": "" }))))).await.unwrap();
    server.advance(5);
    server.bookmark();
    let seen = tokio::time::timeout(Duration::from_secs(10), watched).await.unwrap().unwrap();
    let [Ok(Sight::Shows(lease)), Ok(Sight::Reached(Version(reached)))] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(version(lease) + 5, *reached);
}

#[tokio::test]
async fn refused_requests_are_carried_out_or_not_as_is_said() {
    let server = ApiServer::new();
    let (api, store) = (leases(&server), server.store("ns"));
    let new = lease("a", &json!({}));
    server.refuse(1, Refusal::TooManyRequests);
    server.refuse(1, Refusal::Unavailable);
    server.refuse(1, Refusal::UnavailableAfterwards);
    assert!(matches!(store.write("a", &Write::Create(Box::new(new.clone()))).await, Err(Failure::Throttled(_))));
    assert_eq!(code(api.create(&PostParams::default(), &new).await), 503);
    assert!(server.version() == Version(1), "it was carried out");
    assert_eq!(code(api.create(&PostParams::default(), &new).await), 503);
    assert_eq!(code(api.create(&PostParams::default(), &new).await), 409, "it was not carried out");
    assert_eq!(server.requests().create, 4);
}

#[tokio::test]
async fn what_runs_for_long_forgets_and_those_who_wait_do_not_mind() {
    let store = leasehold::MemoryStore::new();
    let client = || leasehold::Client::builder().store(Arc::new(store.clone())).build().unwrap();
    let (busy, other) = (client(), client());
    let held = busy.lock("held").build().unwrap().acquire().await.unwrap();
    let waiting = other.lock("held").build().unwrap();
    let waiting = tokio::spawn(async move { waiting.acquire().await });
    for n in 0..3000 {
        let lock = busy.lock(format!("lock-{}", n % 7)).build().unwrap();
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    let remembered = |version| {
        let mut watch = store.server().watch(None, "", Version(version)).unwrap();
        !matches!(watch.next().now_or_never(), Some(Some(Event::Error(_))))
    };
    let now = store.server().version().0;
    assert!(now > 5500, "{now}");
    assert!(!remembered(1) && !remembered(now - 4500) && remembered(now - 1000) && remembered(now));
    held.release().await.unwrap();
    let granted = tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("told at once");
    granted.unwrap().unwrap().release().await.unwrap();
}

/// How fast it is: `cargo test --release -p leasehold --test api_server -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn writes_a_second() {
    const WRITES: u32 = 200_000;
    let server = ApiServer::new();
    let store = server.store("ns");
    let _watches: Vec<_> = (0..1000)
        .map(|n| store.watch(&format!("l{n}"), None, None).next().now_or_never())
        .chain([server.watch(None, "", server.version()).unwrap().next().now_or_never().map(|_| None)])
        .collect();
    let session = |n: u32| SessionId::new("host", &format!("s{n}"));
    let id = |n: u32| HolderId { session: session(n), n };
    let term = Term { duration: Duration::from_secs(30), own: false };
    let stamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
    let put = |store: &leasehold::MemoryStore, name: &str, write: Write| {
        store.write(name, &write).now_or_never().unwrap().unwrap().map(|lease| Record::parse(lease).unwrap())
    };
    let mut locks: Vec<Record> =
        (0..1000).map(|n| put(&store, "", write::create(&format!("l{n}"), &id(n), term, stamp)).unwrap()).collect();
    let start = leasehold::clock::moment();
    for n in 0..WRITES / 2 {
        let lock = &mut locks[n as usize % 1000];
        let name = format!("l{}", n % 1000);
        *lock = put(&store, &name, write::join(lock, &id(n), &Want::default())).unwrap();
        *lock = put(&store, &name, write::grant(lock, &id(n), &[], stamp)).unwrap();
    }
    let patches = leasehold::clock::moment().since(start);
    let start = leasehold::clock::moment();
    for n in 0..WRITES {
        let lock = &mut locks[n as usize % 1000];
        let name = format!("l{}", n % 1000);
        *lock = put(&store, &name, write::acquire(lock, &id(n), &[], term, stamp)).unwrap();
    }
    let puts = leasehold::clock::moment().since(start);
    let rate = |time: Duration| f64::from(WRITES) / time.as_secs_f64();
    println!("{:.0} patches (join, grant) and {:.0} puts a second", rate(patches), rate(puts));
}
