//! A lock's queue that has been folded into one key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::contender::{Answer, Contender, Denial, Next, Wish};
use leasehold::protocol::record::JOIN;
use leasehold::protocol::record::queue::QUEUE;
use leasehold::protocol::{HolderId, Moment, Now, Record, Waiter, Want, Write, write};
use leasehold::testing::fold_from;
use leasehold::{Client, Failure, MemoryStore, Store};
use serde_json::json;

fn id(text: &str) -> HolderId {
    text.parse().unwrap()
}

fn stamp() -> jiff::Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

async fn record(store: &MemoryStore) -> Record {
    Record::parse(store.read("a").await.unwrap()).unwrap()
}

/// A lock that is held, and these wait for it, in this order.
async fn queue(waiters: &[&str]) -> MemoryStore {
    let store = MemoryStore::new();
    let lease: Lease = serde_json::from_value(json!({
        "metadata": { "name": "a", "labels": { "leasehold.dev/kind": "lock", "holder.leasehold.dev/h_h": "1" },
            "annotations": { "leasehold.dev/format": "1" } },
        "spec": { "holderIdentity": "h_h.1", "leaseTransitions": 0, "leaseDurationSeconds": 30 },
    }))
    .unwrap();
    store.write("a", &Write::Create(Box::new(lease))).await.unwrap();
    for waiter in waiters {
        let join = write::join(&record(&store).await, &id(waiter), &Want::default());
        store.write("a", &join).await.unwrap();
    }
    store
}

fn names(record: &Record) -> Vec<String> {
    record.waiters.iter().map(|waiter| waiter.id.to_string()).collect()
}

fn keys(record: &Record, prefix: &str) -> BTreeMap<String, String> {
    let annotations = record.lease.metadata.annotations.clone().unwrap_or_default();
    annotations.into_iter().filter(|(key, _)| key.starts_with(prefix)).collect()
}

fn find<'a>(record: &'a Record, name: &str) -> &'a Waiter {
    record.waiters.iter().find(|waiter| waiter.id == id(name)).unwrap()
}

/// The holder hands on to the first, and folds the others.
async fn fold(store: &MemoryStore) -> Record {
    let seen = record(store).await;
    let grant = write::grant_and_fold(&seen, &seen.waiters[0].id, &[], 1, stamp());
    store.write("a", &grant).await.unwrap();
    record(store).await
}

async fn is_refused(store: &MemoryStore, write: &Write) -> bool {
    matches!(store.write("a", write).await, Err(Failure::Refused))
}

#[tokio::test]
async fn a_folded_queue_keeps_its_order_and_who_joins_later_comes_later() {
    let store = queue(&["a_a.1", "c_c.1", "b_b.1", "d_d.1"]).await;
    let folded = fold(&store).await;
    assert_eq!(folded.holder.as_ref().unwrap().identity, "a_a.1");
    assert_eq!(names(&folded), ["c_c.1", "b_b.1", "d_d.1"]);
    assert_eq!((keys(&folded, JOIN).len(), keys(&folded, QUEUE).len()), (0, 1));
    store.write("a", &write::join(&folded, &id("a_a.2"), &Want::default())).await.unwrap();
    let mixed = record(&store).await;
    assert_eq!(names(&mixed), ["c_c.1", "b_b.1", "d_d.1", "a_a.2"]);
    // The next one hands on as ever, and what is folded stays so.
    store.write("a", &write::grant(&mixed, &id("c_c.1"), &[], stamp())).await.unwrap();
    let next = record(&store).await;
    assert_eq!(names(&next), ["b_b.1", "d_d.1", "a_a.2"]);
    assert_eq!((keys(&next, JOIN).len(), keys(&next, QUEUE).len()), (1, 1));
    assert_ne!(keys(&next, QUEUE), keys(&mixed, QUEUE));
}

#[tokio::test]
async fn few_waiters_keep_their_keys() {
    let store = queue(&["a_a.1", "b_b.1", "c_c.1"]).await;
    let seen = record(&store).await;
    let grant = write::grant_and_fold(&seen, &id("a_a.1"), &[], 3, stamp());
    store.write("a", &grant).await.unwrap();
    assert_eq!(keys(&record(&store).await, JOIN).len(), 2);
}

#[tokio::test]
async fn whoever_changes_a_folded_queue_must_have_seen_it_as_it_is() {
    let store = queue(&["a_a.1", "b_b.1", "c_c.1", "d_d.1"]).await;
    let seen = fold(&store).await;
    let leaves = write::cancel(&seen, find(&seen, "c_c.1"));
    let hands_on = write::grant(&seen, &id("b_b.1"), &[], stamp());
    store.write("a", &leaves).await.unwrap();
    // It would bring back who has left, or grant to who has.
    assert!(is_refused(&store, &hands_on).await);
    assert!(is_refused(&store, &write::cancel(&seen, find(&seen, "d_d.1"))).await);
    assert!(is_refused(&store, &leaves).await);
    let now = record(&store).await;
    assert_eq!(names(&now), ["b_b.1", "d_d.1"]);
    store.write("a", &write::grant(&now, &id("b_b.1"), &[], stamp())).await.unwrap();
    assert_eq!(names(&record(&store).await), ["d_d.1"]);
}

#[tokio::test]
async fn who_leaves_while_it_is_folded_is_not_brought_back() {
    let store = queue(&["a_a.1", "b_b.1", "c_c.1"]).await;
    let seen = record(&store).await;
    store.write("a", &write::cancel(&seen, find(&seen, "c_c.1"))).await.unwrap();
    assert!(is_refused(&store, &write::grant_and_fold(&seen, &id("a_a.1"), &[], 1, stamp())).await);
}

#[tokio::test]
async fn a_join_that_is_carried_out_once_more_when_it_is_folded_changes_nothing_and_goes_with_it() {
    let store = queue(&["a_a.1", "b_b.1", "c_c.1"]).await;
    let seen = fold(&store).await;
    store.write("a", &write::join(&seen, &id("b_b.1"), &Want::default())).await.unwrap();
    let twice = record(&store).await;
    assert_eq!(names(&twice), ["b_b.1", "c_c.1"]);
    store.write("a", &write::grant(&twice, &id("b_b.1"), &[], stamp())).await.unwrap();
    assert_eq!(names(&record(&store).await), ["c_c.1"]);
}

#[tokio::test]
async fn the_dead_are_passed_over_and_what_is_said_of_who_is_folded_stands_and_goes_with_it() {
    let store = queue(&["a_a.1", "b_b.1", "c_c.1", "d_d.1"]).await;
    let seen = fold(&store).await;
    let holds = [id("b_b.9")];
    store.write("a", &write::report(&seen, find(&seen, "d_d.1"), &holds)).await.unwrap();
    let said = record(&store).await;
    assert_eq!(find(&said, "d_d.1").holds, holds);
    store.write("a", &write::give_up(&said, find(&said, "c_c.1"), "a circle")).await.unwrap();
    let told = record(&store).await;
    assert_eq!(find(&told, "c_c.1").told_to_give_up.as_deref(), Some("a circle"));
    let grant = write::grant(&told, &id("d_d.1"), &[find(&told, "b_b.1"), find(&told, "c_c.1")], stamp());
    store.write("a", &grant).await.unwrap();
    let last = record(&store).await;
    assert_eq!((names(&last).len(), keys(&last, QUEUE).len()), (0, 0));
    assert_eq!(keys(&last, "").keys().filter(|key| key.contains('_')).count(), 0, "{:?}", keys(&last, ""));
}

#[tokio::test]
async fn a_free_lock_is_taken_over_all_of_a_folded_queue_that_is_dead() {
    let store = queue(&["a_a.1", "b_b.1", "c_c.1"]).await;
    let seen = fold(&store).await;
    let dead: Vec<_> = seen.waiters.iter().collect();
    let term = write::Term { duration: Duration::from_secs(30), own: false };
    let acquire = write::acquire(&seen, &id("z_z.1"), &dead, term, stamp());
    // What one has seen who was slower is not there any more.
    let leaves = write::cancel(&seen, find(&seen, "c_c.1"));
    store.write("a", &acquire).await.unwrap();
    assert!(is_refused(&store, &leaves).await);
    let taken = record(&store).await;
    assert_eq!((names(&taken).len(), keys(&taken, QUEUE).len()), (0, 0));
}

#[test]
fn who_may_not_fold_the_queue_hands_on_without() {
    let at = Now { moment: Moment::from_start(Duration::from_secs(1000)), stamp: stamp() };
    let mut annotations = json!({ "leasehold.dev/format": "1" });
    for n in 1..=3 {
        annotations[format!("join.leasehold.dev/w_w{n}.1")] = json!((n + 1).to_string());
    }
    let lease = json!({
        "metadata": { "name": "a", "uid": "u", "resourceVersion": "9", "annotations": annotations,
            "labels": { "leasehold.dev/kind": "lock", "holder.leasehold.dev/h_h": "1" } },
        "spec": { "holderIdentity": "h_h.1", "leaseTransitions": 0, "leaseDurationSeconds": 30 },
    });
    let record = || Box::new(Record::parse(serde_json::from_value(lease.clone()).unwrap()).unwrap());
    let mut me = Contender::new("a".to_owned(), Duration::from_secs(30), Duration::ZERO, 0).fold_from(2);
    me.start(id("h_h.1"), Wish::default(), at.moment);
    assert!(matches!(me.poll(at), Next::Read));
    me.answer(Answer::Is(record()), at.moment);
    let _ = me.poll(at);
    me.leave(&id("h_h.1"));
    let folds = |next: Next| {
        let Next::Write(Write::Patch(patch)) = next else { panic!("{next:?}") };
        serde_json::to_string(&patch).unwrap().contains("queue.leasehold.dev")
    };
    assert!(folds(me.poll(at)));
    me.answer(Answer::Denied(Denial::Forbidden, "a policy".to_owned()), at.moment);
    assert!(matches!(me.poll(at), Next::Read));
    me.answer(Answer::Is(record()), at.moment);
    assert!(!folds(me.poll(at)));
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_clients_that_fold_and_do_not_are_served_in_the_order_of_their_joins() {
    let store = MemoryStore::new();
    let client = |n: usize| {
        let builder = Client::builder().store(Arc::new(store.clone())).host(format!("p{n}"));
        fold_from(builder, if n.is_multiple_of(3) { 8 } else { 2 }).build().unwrap()
    };
    let guard = client(0).lock("a").build().unwrap().acquire().await.unwrap();
    let (served, mut order) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = Vec::new();
    for n in 1..=12 {
        let (lock, served) = (client(n).lock("a").build().unwrap(), served.clone());
        waiting.push(tokio::spawn(async move {
            let guard = lock.acquire().await.unwrap();
            served.send((n, guard.token())).unwrap();
            guard.release().await.unwrap();
        }));
        while record(&store).await.waiters.len() < n {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    guard.release().await.unwrap();
    let mut last = 0;
    for n in 1..=12 {
        let (who, token) = order.recv().await.unwrap();
        assert!(who == n && token > last, "{who} with {token} came as number {n}, after {last}");
        last = token;
    }
    for waiting in waiting {
        waiting.await.unwrap();
    }
}
