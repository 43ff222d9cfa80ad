//! Semaphores and read-write locks over an in-memory store. The same is tested on a real API server elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use leasehold::protocol::record::SessionRecord;
use leasehold::protocol::write::shared::{self, Round};
use leasehold::protocol::{Kind, Mode, Record, Want, Write, grant, write};
use leasehold::{AcquireError, Client, Failure, MemoryStore, Store, TryAcquireError, UpgradeError, clock};
use serde_json::json;

const SOON: Duration = Duration::from_millis(300);

fn client(store: &MemoryStore) -> Client {
    Client::builder().store(Arc::new(store.clone())).session_duration(Duration::from_secs(3)).build().unwrap()
}

fn names(store: &MemoryStore) -> Vec<String> {
    let (leases, _) = store.server().list(None, "").unwrap();
    leases.iter().filter_map(|lease| lease.metadata.name.clone()).collect()
}

#[tokio::test]
async fn never_more_permits_are_out_than_there_are() {
    const LIMIT: i64 = 5;
    let store = MemoryStore::new();
    let out = Arc::new(AtomicI64::new(0));
    let workers = (0..12).map(|worker| {
        let semaphore = client(&store).semaphore("db").with_permits(5).build().unwrap();
        let out = out.clone();
        tokio::spawn(async move {
            for round in 0..20 {
                let wanted = 1 + (worker + round) % 3;
                let permits = semaphore.acquire(u32::try_from(wanted).unwrap()).await.unwrap();
                let before = out.fetch_add(wanted, Ordering::SeqCst);
                assert!(before + wanted <= LIMIT, "{before} are out, and {wanted} more");
                tokio::task::yield_now().await;
                permits.check().unwrap();
                out.fetch_sub(wanted, Ordering::SeqCst);
                permits.release().await.unwrap();
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        tokio::time::timeout(Duration::from_secs(30), worker).await.expect("served").unwrap();
    }
    let status = client(&store).semaphore("db").with_permits(5).build().unwrap().status().await.unwrap();
    assert!(status.holders.is_empty() && status.waiters.is_empty() && status.available == 5, "{status:?}");
}

#[tokio::test]
async fn one_client_can_hold_several_shares() {
    let store = MemoryStore::new();
    let client = client(&store);
    let semaphore = client.semaphore("db").with_permits(4).build().unwrap();
    let mut three = semaphore.acquire(3).await.unwrap();
    let one = semaphore.acquire(1).await.unwrap();
    assert!(one.token() > three.token());
    let error = semaphore.try_acquire(1).await.unwrap_err();
    assert!(matches!(&error, TryAcquireError::Held { holder, .. } if *holder == three.holder_identity()), "{error}");
    three.release_some(2).await.unwrap();
    assert_eq!((three.permits(), semaphore.available_permits().await.unwrap()), (1, 2));
    let two = semaphore.try_acquire(2).await.unwrap();
    one.release().await.unwrap();
    two.release().await.unwrap();
    three.check().unwrap();
    three.release().await.unwrap();
    assert!(names(&store).iter().all(|name| name.starts_with("session-")), "{:?}", names(&store));
    client.shutdown().await;
    assert_eq!(names(&store), Vec::<String>::new());
}

#[tokio::test]
async fn a_large_request_is_not_starved_by_small_ones() {
    let store = MemoryStore::new();
    let semaphore = || client(&store).semaphore("db").with_permits(3).build().unwrap();
    let first = semaphore().acquire(1).await.unwrap();
    let large = tokio::spawn({
        let semaphore = semaphore();
        async move { semaphore.acquire(3).await.unwrap() }
    });
    wait_for_waiters(&store, 1).await;
    let small = tokio::spawn({
        let semaphore = semaphore();
        async move { semaphore.acquire(1).await.unwrap() }
    });
    wait_for_waiters(&store, 2).await;
    assert!(matches!(semaphore().try_acquire(1).await, Err(TryAcquireError::Held { .. })), "the queue is jumped");
    first.release().await.unwrap();
    let large = tokio::time::timeout(SOON, large).await.expect("the large one is first").unwrap();
    assert!(!small.is_finished(), "it does not fit beside the large one");
    large.release().await.unwrap();
    tokio::time::timeout(SOON, small).await.expect("then the small one").unwrap().release().await.unwrap();
}

async fn wait_for_waiters(store: &MemoryStore, count: usize) {
    for _ in 0..200 {
        let semaphore = client(store).semaphore("db").build().unwrap();
        if semaphore.status().await.unwrap().waiters.len() == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("there are not {count} waiters");
}

#[tokio::test]
async fn who_does_not_agree_on_the_permits_is_told_both_numbers() {
    let store = MemoryStore::new();
    let semaphore = |permits| client(&store).semaphore("db").with_permits(permits).build().unwrap();
    let held = semaphore(4).acquire(1).await.unwrap();
    let error = semaphore(5).acquire(1).await.unwrap_err().to_string();
    assert!(error.contains("has 5 permits, but it has 4"), "{error}");
    let error = client(&store).semaphore("db").build().unwrap().acquire(5).await.unwrap_err().to_string();
    assert!(error.contains("5 permits of \"db\" are wanted, but there are 4"), "{error}");
    let error = client(&store).lock("db").build().unwrap().acquire().await.unwrap_err().to_string();
    assert!(error.contains("\"db\" is a semaphore, not a lock"), "{error}");
    held.release().await.unwrap();
    let error = client(&store).semaphore("none").build().unwrap().acquire(1).await.unwrap_err().to_string();
    assert!(error.contains("there is no semaphore \"none\""), "{error}");
    assert!(semaphore(4).acquire(0).await.is_err());
    assert!(client(&store).semaphore("db").with_permits(0).build().is_err());
}

#[tokio::test]
async fn a_dead_holders_permits_pass_on() {
    let store = MemoryStore::new();
    let dead = client(&store);
    let two = dead.semaphore("db").with_permits(2).build().unwrap().acquire(2).await.unwrap();
    // Its session's Lease is ended as by an operator that has seen its Pod end.
    let name = names(&store).into_iter().find(|name| name.starts_with("session-")).unwrap();
    let session = SessionRecord::parse(store.read(&name).await.unwrap()).unwrap();
    store.write(&name, &write::end_session(&session, "test")).await.unwrap();
    let next = client(&store).semaphore("db").with_permits(2).build().unwrap();
    let next = tokio::time::timeout(Duration::from_secs(6), next.acquire(1)).await.expect("in time").unwrap();
    assert!(next.token() > two.token());
    tokio::time::timeout(Duration::from_secs(3), two.lost().cancelled()).await.expect("it is told");
    next.release().await.unwrap();
}

#[tokio::test]
async fn permits_of_a_fixed_term_come_back_by_themselves() {
    let store = MemoryStore::new();
    let term = Duration::from_secs(1);
    let limiter = || client(&store).semaphore("calls").with_permits(2).lease_duration(term).renewal(false);
    let (one, two) = (limiter().build().unwrap(), limiter().build().unwrap());
    let held = [one.acquire(1).await.unwrap(), one.acquire(1).await.unwrap()];
    let begun = clock::moment();
    let third = two.acquire_timeout(1, Duration::from_secs(5)).await.unwrap();
    let waited = clock::moment().since(begun);
    assert!(waited > Duration::from_millis(900), "after {waited:?}");
    assert!(held.iter().all(|held| held.check().is_err()), "they outlived their term");
    third.check().unwrap();
}

#[tokio::test]
async fn readers_share_and_a_writer_is_alone() {
    let store = MemoryStore::new();
    let (readers, writers) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tasks = (0..8).map(|task| {
        let lock = client(&store).read_write_lock("catalog").unwrap();
        let (readers, writers) = (readers.clone(), writers.clone());
        tokio::spawn(async move {
            for round in 0..15 {
                if (task + round) % 4 == 0 {
                    let guard = lock.write().await.unwrap();
                    assert_eq!(writers.fetch_add(1, Ordering::SeqCst), 0, "two write");
                    assert_eq!(readers.load(Ordering::SeqCst), 0, "somebody reads what is written");
                    tokio::task::yield_now().await;
                    writers.fetch_sub(1, Ordering::SeqCst);
                    guard.release().await.unwrap();
                } else {
                    let guard = lock.read().await.unwrap();
                    readers.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(writers.load(Ordering::SeqCst), 0, "what is read is written");
                    tokio::task::yield_now().await;
                    readers.fetch_sub(1, Ordering::SeqCst);
                    guard.release().await.unwrap();
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        tokio::time::timeout(Duration::from_secs(30), task).await.expect("served").unwrap();
    }
}

#[tokio::test]
async fn one_reader_becomes_the_writer_and_nobody_is_let_in_between() {
    let store = MemoryStore::new();
    let lock = || client(&store).read_write_lock("catalog").unwrap();
    let (plain, mine) = (lock().read().await.unwrap(), lock().upgradeable_read().await.unwrap());
    let before = mine.token();
    assert!(matches!(lock().try_upgradeable_read().await, Err(TryAcquireError::Held { .. })), "there is one already");
    let Err(UpgradeError::TimedOut { guard: mine, .. }) = mine.upgrade_timeout(SOON).await else {
        panic!("it writes while somebody reads");
    };
    lock().try_read().await.expect("it has taken back its wish").release().await.unwrap();
    let upgrade = tokio::spawn(mine.upgrade());
    for _ in 0..100 {
        if lock().status().await.unwrap().upgrading.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(lock().try_read().await, Err(TryAcquireError::Held { .. })), "somebody got in between");
    plain.release().await.unwrap();
    let writer = tokio::time::timeout(SOON, upgrade).await.expect("at once").unwrap().unwrap();
    assert!(writer.token() > before);
    let reading = tokio::spawn({
        let lock = lock();
        async move { lock.read().await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!reading.is_finished(), "it reads what is written");
    let mine = writer.downgrade_to_upgradeable().await.unwrap();
    let other = tokio::time::timeout(SOON, reading).await.expect("it is let in").unwrap();
    let mine = mine.downgrade().await.unwrap();
    lock().try_upgradeable_read().await.expect("it is another's turn").release().await.unwrap();
    other.release().await.unwrap();
    mine.release().await.unwrap();
}

#[tokio::test]
async fn whoever_is_let_in_has_known_of_every_wish_to_become_the_writer() {
    let store = MemoryStore::new();
    let stamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let (mine, other) = ("me_x.1".parse().unwrap(), "you_y.1".parse().unwrap());
    let want = |mode| Want { mode, ..Want::default() };
    let made = shared::create("catalog", Kind::ReadWriteLock, None, &mine, want(Mode::Upgradeable), stamp);
    store.write("catalog", &made).await.unwrap();
    let read = async || Record::parse(store.read("catalog").await.unwrap()).unwrap();
    store.write("catalog", &write::join(&read().await, &other, &want(Mode::Read))).await.unwrap();
    let before = read().await;
    let round = grant::round(&before, |_| false, |_| false);
    assert_eq!(round.served.len(), 1);
    store.write("catalog", &shared::ask_upgrade(&before, &before.shared[0])).await.unwrap();
    let answer = store.write("catalog", &shared::grant(&before, &round, stamp)).await;
    assert!(matches!(answer, Err(Failure::Refused)), "{answer:?}");
    let round = Round::default();
    store.write("catalog", &shared::upgrade(&read().await, &before.shared[0], &round, stamp)).await.unwrap();
    assert_eq!(read().await.shared[0].mode, Mode::Write);
}

#[tokio::test]
async fn what_is_carried_out_twice_makes_no_hold_larger() {
    let store = MemoryStore::new();
    let stamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let (first, id) = ("me_x.1".parse().unwrap(), "you_y.1".parse().unwrap());
    let want = |permits| Want { mode: Mode::Permits(permits), ..Want::default() };
    let made = shared::create("db", Kind::Semaphore, Some(4), &first, want(1), stamp);
    store.write("db", &made).await.unwrap();
    let read = async || Record::parse(store.read("db").await.unwrap()).unwrap();
    let join = write::join(&read().await, &id, &want(3));
    store.write("db", &join).await.unwrap();
    let queued = read().await;
    let grant = shared::grant(&queued, &grant::round(&queued, |_| false, |_| false), stamp);
    store.write("db", &grant).await.unwrap();
    let fewer = async |permits| {
        let record = read().await;
        let write = shared::downgrade(&record, record.holding(&id).unwrap(), Mode::Permits(permits));
        store.write("db", &write).await.unwrap();
        write
    };
    let (two, _one) = (fewer(2).await, fewer(1).await);
    for again in [&join, &grant, &two] {
        let answer = store.write("db", again).await;
        assert!(matches!(answer, Err(Failure::Refused)), "{again:?}: {answer:?}");
    }
    assert_eq!(read().await.held_permits(), 2);
}

#[tokio::test]
async fn a_wait_that_is_given_up_leaves_nobody_in_the_way() {
    let store = MemoryStore::new();
    let lock = || client(&store).read_write_lock("catalog").unwrap();
    let reader = lock().read().await.unwrap();
    let error = lock().write_timeout(Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut { .. }), "{error}");
    tokio::time::timeout(SOON, lock().read()).await.expect("the writer has gone").unwrap().release().await.unwrap();
    reader.release().await.unwrap();
}

#[tokio::test]
async fn a_client_that_shuts_down_gives_back_all_that_it_holds() {
    let store = MemoryStore::new();
    let client = client(&store);
    let semaphore = client.semaphore("db").with_permits(9).build().unwrap();
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(semaphore.acquire(1).await.unwrap());
    }
    let mut locks = Vec::new();
    for n in 0..200 {
        locks.push(client.lock(format!("lock-{n}")).build().unwrap().acquire().await.unwrap());
    }
    let mut told = Vec::new();
    client.shutdown_with_progress(|done, all| told.push((done, all))).await;
    assert_eq!(told, (1..=201).map(|done| (done, 201)).collect::<Vec<_>>());
    assert_eq!(names(&store), Vec::<String>::new());
    assert!(held.iter().all(|held| held.check().is_err()) && locks.iter().all(|lock| lock.check().is_err()));
}

#[tokio::test]
async fn what_is_given_back_of_a_fixed_term_leaves_the_rest_its_term() {
    let store = MemoryStore::new();
    let limiter =
        client(&store).semaphore("calls").with_permits(3).lease_duration(Duration::from_secs(2)).renewal(false);
    let limiter = limiter.build().unwrap();
    let mut held = limiter.acquire(3).await.unwrap();
    held.release_some(1).await.unwrap();
    let before = store.server().requests().writes();
    let left = held.extend().await.unwrap();
    assert!(left > Duration::from_millis(1800), "it is held for {left:?} only");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(store.server().requests().writes() - before, 1, "it goes on renewing");
    let status = limiter.status().await.unwrap();
    assert_eq!((status.available, status.holders[0].holder.lease_duration_seconds), (1, Some(2)));
    held.release().await.unwrap();
}

#[tokio::test]
async fn who_waits_for_more_than_there_are_any_more_is_told_and_holds_nobody_up() {
    let store = MemoryStore::new();
    let lease = json!({ "metadata": { "name": "db", "labels": { "leasehold.dev/kind": "semaphore" },
        "annotations": { "leasehold.dev/permits": "3" } } });
    store.write("db", &Write::Create(Box::new(serde_json::from_value(lease).unwrap()))).await.unwrap();
    let semaphore = || client(&store).semaphore("db").build().unwrap();
    let permits = semaphore().acquire(1).await.unwrap();
    let wait = |wanted: u32| {
        let semaphore = semaphore();
        tokio::spawn(async move { semaphore.acquire(wanted).await })
    };
    let large = wait(3);
    wait_for_waiters(&store, 1).await;
    let small = wait(1);
    wait_for_waiters(&store, 2).await;
    let leases = Api::<Lease>::namespaced(store.server().client("default"), "default");
    let fewer = Patch::Merge(json!({ "metadata": { "annotations": { "leasehold.dev/permits": "2" } } }));
    leases.patch("db", &PatchParams::default(), &fewer).await.unwrap();
    let error = tokio::time::timeout(SOON, large).await.expect("told").unwrap().unwrap_err();
    let AcquireError::Api { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("3 permits of \"db\" are wanted, but there are 2"), "{source}");
    let small = tokio::time::timeout(SOON, small).await.expect("let in").unwrap().unwrap();
    assert_eq!(semaphore().available_permits().await.unwrap(), 0);
    small.release().await.unwrap();
    permits.release().await.unwrap();
}

#[tokio::test]
async fn a_wish_to_write_that_comes_true_after_it_was_taken_back_keeps_nobody_out() {
    let store = MemoryStore::new();
    let lock = || client(&store).read_write_lock("catalog").unwrap();
    let upgradeable = lock().upgradeable_read().await.unwrap();
    let id = upgradeable.holder_identity().parse().unwrap();
    let reader = lock().read().await.unwrap();
    let record = Record::parse(store.read("catalog").await.unwrap()).unwrap();
    let asks = shared::ask_upgrade(&record, record.holding(&id).unwrap());
    let error = upgradeable.upgrade_timeout(Duration::from_millis(100)).await.unwrap_err();
    let UpgradeError::TimedOut { guard: upgradeable, .. } = error else { panic!("{error}") };
    store.write("catalog", &asks).await.unwrap();
    assert!(matches!(lock().try_read().await, Err(TryAcquireError::Held { .. })), "it is asked for again");
    // Within a renew interval its holder sees that.
    let other = tokio::time::timeout(Duration::from_secs(3), lock().read()).await.expect("let in").unwrap();
    for guard in [reader, other] {
        guard.release().await.unwrap();
    }
    upgradeable.upgrade().await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn an_upgrade_that_comes_true_after_it_was_taken_back_keeps_nobody_out() {
    let store = MemoryStore::new();
    let lock = || client(&store).read_write_lock("catalog").unwrap();
    let upgradeable = lock().upgradeable_read().await.unwrap();
    let id = upgradeable.holder_identity().parse().unwrap();
    let record = Record::parse(store.read("catalog").await.unwrap()).unwrap();
    let late = shared::upgrade(&record, record.holding(&id).unwrap(), &Round::default(), clock::now().stamp);
    store.write("catalog", &late).await.unwrap();
    assert!(matches!(lock().try_read().await, Err(TryAcquireError::Held { .. })), "it is the writer");
    let reader = tokio::time::timeout(Duration::from_secs(3), lock().read()).await.expect("let in").unwrap();
    reader.release().await.unwrap();
    upgradeable.upgrade().await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn more_permits_than_there_are_cannot_be_had_by_whoever_makes_the_semaphore_either() {
    let store = MemoryStore::new();
    let semaphore = client(&store).semaphore("db").with_permits(3).build().unwrap();
    let error = semaphore.try_acquire(4).await.unwrap_err();
    assert!(error.to_string().contains("4 permits of \"db\" are wanted, but there are 3"), "{error}");
    let error = semaphore.acquire(4).await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    assert!(!names(&store).contains(&"db".to_owned()));
    semaphore.acquire(3).await.unwrap().release().await.unwrap();
}
