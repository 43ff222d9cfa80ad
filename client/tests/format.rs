//! What stands on a Lease, in its first format: files that every later version must read as this one does, and what
//! becomes of a Lease of a later format.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::policy::{Policy, Reclaim};
use leasehold::protocol::record::{EVIDENCE, FORMAT, Pod, SessionRecord};
use leasehold::protocol::write::{self, Term};
use leasehold::protocol::{Holder, HolderId, Kind, Liveness, Mode, Record, Version, Write};
use leasehold::testing::{Process, ProcessOptions};
use leasehold::{AcquireError, Client, MemoryStore, ReadError, ReleaseError, Store, TryAcquireError, clock};

fn lease(text: &str) -> Lease {
    serde_json::from_str(text).unwrap()
}

fn record(text: &str) -> Record {
    Record::parse(lease(text)).unwrap()
}

fn session(text: &str) -> SessionRecord {
    SessionRecord::parse(lease(text)).unwrap()
}

const LOCK: &str = include_str!("format-1/lock.json");
const HELD: &str = include_str!("format-1/held.json");
const QUEUED: &str = include_str!("format-1/queued.json");
const SEMAPHORE: &str = include_str!("format-1/semaphore.json");
const RWLOCK: &str = include_str!("format-1/rwlock.json");
const KEPT: &str = include_str!("format-1/kept.json");
const CLIENT_GO: &str = include_str!("format-1/client-go.json");
const SESSION: &str = include_str!("format-1/session.json");
const TOMBSTONE: &str = include_str!("format-1/tombstone.json");

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn id(id: &str) -> HolderId {
    id.parse().unwrap()
}

fn by_session(holder: &Holder) -> String {
    match &holder.liveness {
        Liveness::Session(session) => session.to_string(),
        Liveness::Own(own) => format!("own {own:?}"),
    }
}

#[test]
fn a_free_lock_of_a_custom_resource() {
    let lock = record(LOCK);
    assert_eq!((lock.kind, lock.capacity, lock.version, lock.transitions), (Kind::Lock, 1, Version(4711), 7));
    assert_eq!(lock.resource_id.as_deref(), Some("shop/backup"));
    assert_eq!(lock.default_duration, Some(seconds(45)));
    assert!(!lock.is_held() && lock.waiters.is_empty() && !lock.ephemeral && lock.evicts_on_request);
    let policy = Policy {
        min_duration: Some(seconds(5)),
        max_duration: Some(seconds(60)),
        max_hold: Some(seconds(3600)),
        lock_delay: seconds(15),
        max_waiters: Some(8),
        reclaim: Reclaim::Expiry,
        breaks_deadlocks: true,
    };
    assert_eq!(lock.policy, policy);
}

#[test]
fn a_lock_that_is_held_by_a_session() {
    let held = record(HELD);
    let holder = held.holder.as_ref().unwrap();
    assert_eq!((holder.id.as_ref(), holder.token), (Some(&id("web-0_abc123.3")), Some(4712)));
    assert_eq!((by_session(holder), holder.kept, held.ephemeral), ("web-0_abc123".to_owned(), false, true));
    assert_eq!(holder.payload.as_deref(), Some("nightly, 40 %"));
    let request = holder.request.as_ref().unwrap();
    assert_eq!(
        (&*request.by, request.within, &*request.reason),
        ("alice", seconds(30), "the nightly backup has to run")
    );
    assert_eq!(holder.renewed, Some("2026-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(held.policy, Policy::default());
}

#[test]
fn a_lock_with_a_holder_of_its_own_term_and_a_queue() {
    let queued = record(QUEUED);
    assert_eq!(by_session(queued.holder.as_ref().unwrap()), "own 20s");
    let [first, second] = queued.waiters.as_slice() else { panic!("two wait: {:?}", queued.waiters) };
    assert_eq!((&first.id, first.ticket), (&id("web-1_def456.12"), Version(4714)));
    assert_eq!(first.holds, [id("web-1_def456.11"), id("web-1_def456.9")]);
    assert_eq!(first.told_to_give_up, None);
    assert_eq!((&second.id, second.ticket), (&id("web-2_ghi789.1"), Version(4716)));
    assert_eq!(second.told_to_give_up.as_deref(), Some("x waits for y; y waits for x"));
}

#[test]
fn a_semaphore() {
    let semaphore = record(SEMAPHORE);
    assert_eq!((semaphore.kind, semaphore.capacity, semaphore.transitions), (Kind::Semaphore, 5, 12));
    assert_eq!((semaphore.held_permits(), semaphore.available_permits()), (3, 2));
    let shares: Vec<_> =
        semaphore.shared.iter().map(|holder| (holder.mode, holder.token, by_session(holder))).collect();
    assert_eq!(
        shares,
        [(Mode::Permits(2), Some(501), "web-0_abc123".to_owned()), (Mode::Permits(1), Some(511), "own 60s".to_owned())]
    );
    let want = &semaphore.waiters[0].want;
    assert_eq!((want.mode, want.own), (Mode::Permits(4), Some(seconds(15))));
}

#[test]
fn a_read_write_lock() {
    let rwlock = record(RWLOCK);
    assert_eq!((rwlock.kind, rwlock.ephemeral, rwlock.transitions), (Kind::ReadWriteLock, true, i32::MAX));
    let shares: Vec<_> = rwlock.shared.iter().map(|holder| (holder.mode, holder.token)).collect();
    assert_eq!(shares, [(Mode::Upgradeable, None), (Mode::Read, Some(611))]);
    assert_eq!(rwlock.upgrading, Some(id("web-0_abc123.3")));
    assert_eq!(rwlock.waiters[0].want.mode, Mode::Write);
}

#[test]
fn what_was_kept_and_what_client_go_writes() {
    let kept = record(KEPT);
    let holder = kept.holder.as_ref().unwrap();
    assert_eq!((holder.kept, by_session(holder), kept.ids().count()), (true, "own 3600s".to_owned(), 0));
    let foreign = record(CLIENT_GO);
    let holder = foreign.holder.as_ref().unwrap();
    assert_eq!((&*holder.identity, by_session(holder)), ("controller-7d4b9_5e2f", "own 15s".to_owned()));
    assert_eq!((&holder.id, holder.token, foreign.kind), (&None, None, Kind::Lock));
}

#[test]
fn sessions() {
    let alive = session(SESSION);
    assert_eq!((alive.id.as_str(), alive.duration, alive.ended), ("web-0_abc123", seconds(30), false));
    let pod = Pod { name: "web-0".to_owned(), uid: "7f0c3a0e-0000-4000-8000-000000000001".to_owned() };
    assert_eq!((alive.by_evidence, alive.pod), (false, Some(pod)));
    let ended = session(TOMBSTONE);
    assert_eq!((ended.id.as_str(), ended.ended, ended.by_evidence), ("web-0_abc123", true, true));
    assert_eq!(EVIDENCE, "evidence");
}

fn annotations(lease: &Lease) -> BTreeMap<String, String> {
    lease.metadata.annotations.clone().unwrap_or_default()
}

/// What somebody else has written there, and what a later program of this format may: nobody takes it away.
#[tokio::test]
async fn annotations_that_mean_nothing_here_are_left_alone() {
    let unknown =
        [("leasehold.dev/colour", "blue"), ("later.leasehold.dev/web-0_abc123.3", "x"), ("example.com/a", "b")];
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let who = id("web-9_zzz999.1");
    for text in [LOCK, HELD, QUEUED, SEMAPHORE, RWLOCK, KEPT, CLIENT_GO] {
        let mut first = lease(text);
        let known = first.metadata.annotations.get_or_insert_default();
        known.extend(unknown.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        known.remove("leasehold.dev/ephemeral");
        (first.metadata.resource_version, first.metadata.uid) = (None, None);
        let name = first.metadata.name.clone().unwrap();
        let store = MemoryStore::new();
        first.metadata.namespace = None;
        let made = store.write(&name, &Write::Create(Box::new(first))).await.unwrap().unwrap();
        let seen = Record::parse(made).unwrap();
        let mut writes = vec![write::join(&seen, &who, &leasehold::protocol::Want::default())];
        if let Some(waiter) = seen.waiters.first() {
            writes.extend([write::cancel(&seen, waiter), write::give_up(&seen, waiter, "a circle")]);
        }
        if seen.kind == Kind::Lock {
            let term = Term { duration: seconds(30), own: true };
            let all: Vec<_> = seen.waiters.iter().collect();
            writes.push(write::acquire(&seen, &who, &all, term, now));
            writes.push(write::release(&seen, &all, false));
            writes.extend(seen.waiters.first().map(|first| write::grant(&seen, &first.id, &[], now)));
        } else {
            let round = leasehold::protocol::grant::round(&seen, |_| true, |_| false);
            writes.push(write::shared::grant(&seen, &round, now));
            writes.push(write::shared::release(&seen, &seen.shared[0], false));
        }
        for write in writes {
            let store = MemoryStore::new();
            let mut again = (*seen.lease).clone();
            again.metadata.resource_version = None;
            again.metadata.uid = None;
            let made = store.write(&name, &Write::Create(Box::new(again))).await.unwrap().unwrap();
            let text = serde_json::to_string(&seen.uid).unwrap();
            let write = of_another(&write, &text, &made);
            let written =
                store.write(&name, &write).await.unwrap_or_else(|failure| panic!("{name}: {write:?}: {failure}"));
            let after = annotations(&written.unwrap());
            for (key, value) in unknown {
                assert_eq!(after.get(key).map(String::as_str), Some(value), "{name}, by {write:?}");
            }
            assert_eq!(after.get(FORMAT).map(String::as_str), Some("1"), "{name}");
        }
    }
}

/// The same write, of a Lease that was made anew.
fn of_another(write: &Write, uid: &str, made: &Lease) -> Write {
    let new = serde_json::to_string(made.metadata.uid.as_ref().unwrap()).unwrap();
    match write {
        Write::Patch(patch) => {
            let text = serde_json::to_string(patch).unwrap().replace(uid, &new);
            Write::Patch(serde_json::from_str(&text).unwrap())
        }
        Write::Replace(lease) => {
            let mut lease = lease.clone();
            lease.metadata.uid.clone_from(&made.metadata.uid);
            lease.metadata.resource_version.clone_from(&made.metadata.resource_version);
            Write::Replace(lease)
        }
        other => other.clone(),
    }
}

// ---------------------------------------------------------------------------------------------------- a later format

fn client(store: &MemoryStore) -> Client {
    Client::builder().store(Arc::new(store.clone())).build().unwrap()
}

/// Somebody else makes it a Lease of the next format.
async fn upgrade(store: &MemoryStore, name: &str) {
    let mut lease = store.read(name).await.unwrap();
    lease.metadata.annotations.get_or_insert_default().insert(FORMAT.to_owned(), "2".to_owned());
    store.write(name, &Write::Replace(Box::new(lease))).await.unwrap();
}

/// The same Lease, of the present format.
fn older(mut lease: Lease) -> Lease {
    lease.metadata.annotations.get_or_insert_default().insert(FORMAT.to_owned(), "1".to_owned());
    lease
}

const TOLD: &str = "Lease \"a\" cannot be read: it is of format 2, and this program knows format 1: upgrade it";

#[tokio::test(start_paused = true)]
async fn a_lease_of_a_later_format_is_refused_and_not_written_to() {
    let store = MemoryStore::new();
    let mut of_two = lease(HELD);
    of_two.metadata.name = Some("a".to_owned());
    (of_two.metadata.uid, of_two.metadata.resource_version, of_two.metadata.namespace) = (None, None, None);
    store.write("a", &Write::Create(Box::new(of_two))).await.unwrap();
    upgrade(&store, "a").await;
    let before = store.read("a").await.unwrap();
    let (client, process) = (client(&store), Process::new(ProcessOptions::default()));
    process
        .spawn(async move {
            let lock = client.lock("a").build().unwrap();
            let refused = lock.acquire().await.unwrap_err();
            assert!(matches!(&refused, AcquireError::Api { .. }) && !refused.is_retryable());
            assert!(refused.to_string().contains(TOLD), "{refused}");
            let refused = lock.try_acquire().await.unwrap_err();
            assert!(matches!(&refused, TryAcquireError::Api { .. }) && refused.to_string().contains(TOLD), "{refused}");
            let unread = lock.status().await.unwrap_err();
            assert!(matches!(&unread, ReadError::Malformed(_)) && unread.to_string() == TOLD, "{unread}");
        })
        .await
        .unwrap();
    assert_eq!(store.read("a").await.unwrap(), before, "it was written to");
}

#[tokio::test(start_paused = true)]
async fn who_waits_or_holds_when_the_format_changes_is_told_and_does_not_write() {
    let store = MemoryStore::new();
    let (one, two, seen) = (client(&store), client(&store), store.clone());
    let [holder, waiter] = [1, 2].map(|seed| Process::new(ProcessOptions { seed, ..ProcessOptions::default() }));
    holder
        .spawn(async move {
            let guard = one.lock("a").build().unwrap().acquire().await.unwrap();
            let waiting = waiter.spawn(async move { two.lock("a").build().unwrap().acquire().await.map(drop) });
            clock::sleep_until(clock::moment() + seconds(1)).await;
            upgrade(&seen, "a").await;
            let before = seen.read("a").await.unwrap();
            let refused = tokio::time::timeout(seconds(30), waiting).await.unwrap().unwrap().unwrap_err();
            assert!(refused.to_string().contains(TOLD), "{refused}");
            guard.check().unwrap();
            let released = guard.release().await;
            assert!(matches!(released, Err(ReleaseError::Unsettled { .. })), "{released:?}");
            assert_eq!(seen.read("a").await.unwrap(), before, "it was written to");
            // What is begun now is by another session.
            let guard = one.lock("b").build().unwrap().acquire().await.unwrap();
            let lock = Record::parse(older(before)).unwrap();
            assert!(lock.ids().all(|id| !guard.holder_identity().starts_with(id.session.as_str())));
            // Both stand there still, and so others are to pass over both.
            clock::sleep_until(clock::moment() + seconds(60)).await;
            assert_eq!(lock.ids().count(), 2);
            for id in lock.ids() {
                let session = seen.read(&id.session.lease_name()).await.unwrap();
                assert!(SessionRecord::parse(session).unwrap().ended, "{id} lives on");
            }
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_of_a_later_format_is_not_ended() {
    let store = MemoryStore::new();
    let (one, dying) = (client(&store), Process::new(ProcessOptions::default()));
    let held = dying.spawn(async move {
        let guard = one.lock("a").build().unwrap().acquire().await.unwrap();
        std::mem::forget(guard);
    });
    held.await.unwrap();
    dying.kill();
    let lock = Record::parse(store.read("a").await.unwrap()).unwrap();
    let session = lock.holder.unwrap().id.unwrap().session.lease_name();
    upgrade(&store, &session).await;
    let (two, process) = (client(&store), Process::new(ProcessOptions { seed: 2, ..ProcessOptions::default() }));
    let waited =
        process.spawn(async move { two.lock("a").build().unwrap().acquire_timeout(seconds(300)).await.map(drop) });
    assert!(matches!(waited.await.unwrap(), Err(AcquireError::TimedOut { .. })));
    assert_eq!(store.read(&session).await.unwrap().metadata.annotations.unwrap().get(FORMAT).unwrap(), "2");
}
