//! One hold of a lock for several tasks of a process, one after the other, and what lingers. How many requests that takes is
//! counted by an API server in memory; the same on a real one is tested elsewhere.

mod ending;
mod lingering;
mod passing;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::{Record, Version, Write};
use leasehold::testing::{Process, ProcessOptions};
use leasehold::{
    AcquireError, ApiError, Client, Failure, Lock, LockBuilder, LockGuard, LossReason, MemoryStore, MultiLock, OnLost,
    Sight, Store, TryAcquireError, clock,
};

const SOON: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_mins(1);

fn client(store: &MemoryStore, host: &str) -> Client {
    Client::builder().store(Arc::new(store.clone())).host(host).build().unwrap()
}

fn lock(client: &Client, with: impl FnOnce(LockBuilder) -> LockBuilder) -> Lock {
    with(client.lock("a")).build().unwrap()
}

fn lingering(client: &Client) -> Lock {
    lock(client, |lock| lock.linger(MINUTE))
}

/// What stands on the lock's Lease.
fn record(store: &MemoryStore) -> Option<Record> {
    record_of(store, "a")
}

fn record_of(store: &MemoryStore, name: &str) -> Option<Record> {
    let (leases, _) = store.server().list(None, "").unwrap();
    let lease = leases.iter().find(|lease| lease.metadata.name.as_deref() == Some(name))?;
    Some(Record::parse((**lease).clone()).unwrap())
}

/// Takes it and releases it until it stays: it is watched by then.
async fn comes_to_linger(lock: &Lock, store: &MemoryStore) {
    soon(async {
        loop {
            lock.acquire().await.unwrap().release().await.unwrap();
            if is_held(store) {
                return;
            }
        }
    })
    .await;
}

fn is_held(store: &MemoryStore) -> bool {
    record(store).is_some_and(|record| record.is_held())
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("in time")
}

async fn until(what: impl Fn() -> bool) {
    soon(async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

async fn waits(store: &MemoryStore) {
    until(|| record(store).is_some_and(|record| !record.waiters.is_empty())).await;
}

fn fence(guard: &LockGuard) -> (u64, u64) {
    let fence = guard.next_fence().unwrap();
    let (token, n) = fence.split_once('.').unwrap();
    (token.parse().unwrap(), n.parse().unwrap())
}

/// So many tasks of a client, each of which takes the lock once and releases it.
fn crowd(lock: &Lock, tasks: usize, served: &Arc<AtomicUsize>) -> Vec<tokio::task::JoinHandle<(u64, u64)>> {
    let inside = Arc::new(AtomicBool::new(false));
    let task = |_| {
        let (lock, served, inside) = (lock.clone(), served.clone(), inside.clone());
        tokio::spawn(async move {
            let guard = lock.acquire().await.unwrap();
            assert!(!inside.swap(true, Ordering::SeqCst), "two at once");
            let fence = fence(&guard);
            tokio::task::yield_now().await;
            guard.check().unwrap();
            served.fetch_add(1, Ordering::SeqCst);
            inside.store(false, Ordering::SeqCst);
            guard.release().await.unwrap();
            fence
        })
    };
    (0..tasks).map(task).collect()
}

#[tokio::test]
async fn a_thousand_tasks_pass_it_on_by_two_writes() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let lock = lock(&client, |lock| lock.local_handoff(MINUTE));
    let first = lock.acquire().await.unwrap();
    let crowd = crowd(&lock, 1000, &Arc::default());
    // All of them wait by then.
    tokio::task::yield_now().await;
    let mut fences = vec![fence(&first)];
    first.release().await.unwrap();
    for task in crowd {
        fences.push(task.await.unwrap());
    }
    // One token, and the fences under it only grow, in the order of those who wait.
    let token = fences[0].0;
    assert!(fences.into_iter().eq((1..=1001).map(|n| (token, n))));
    until(|| !is_held(&store)).await;
    let requests = store.server().requests();
    // The session, the lock, and its release.
    assert!(requests.writes() == 3 && requests.get <= 2 && requests.watch == 0, "{requests:?}");
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_several_threads_each_has_it_alone_and_in_one_order_of_fences() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let lock = lock(&client, |lock| lock.local_handoff(MINUTE));
    let mut fences = Vec::new();
    for task in crowd(&lock, 1000, &Arc::default()) {
        fences.push(task.await.unwrap());
    }
    fences.sort_unstable();
    // Where nobody waited for a moment it was given back, and what came after has another token.
    let mut last = (0, 0);
    for fence in fences {
        assert!(fence == (last.0, last.1 + 1) || (fence.0 > last.0 && fence.1 == 1), "{fence:?} after {last:?}");
        last = fence;
    }
    until(|| !is_held(&store)).await;
    client.shutdown().await;
}

#[tokio::test]
async fn a_task_that_wants_a_token_of_its_own_is_not_overtaken() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let (passed_on, strict) = (lock(&client, |lock| lock.local_handoff(MINUTE)), lock(&client, |lock| lock));
    let order = Arc::new(Mutex::new(Vec::new()));
    let first = passed_on.acquire().await.unwrap();
    let mut waiting = Vec::new();
    for (n, lock) in [&passed_on, &strict, &passed_on, &passed_on, &strict].into_iter().cloned().enumerate() {
        let order = order.clone();
        waiting.push(tokio::spawn(async move {
            let guard = lock.acquire().await.unwrap();
            order.lock().unwrap().push((n, guard.token()));
            guard.release().await.unwrap();
        }));
        tokio::task::yield_now().await;
    }
    let token = first.token();
    first.release().await.unwrap();
    for task in waiting {
        soon(task).await.unwrap();
    }
    let order = order.lock().unwrap();
    assert!(order.iter().map(|(n, _)| *n).eq(0..5), "{order:?}");
    let tokens: Vec<_> = order.iter().map(|(_, token)| *token).collect();
    assert!(tokens[0] == token && tokens[1] > token && tokens[2] > tokens[1] && tokens[2] == tokens[3], "{tokens:?}");
    assert!(tokens[4] > tokens[3], "{tokens:?}");
}

#[tokio::test]
async fn what_was_got_for_nothing_rests_nowhere() {
    let store = MemoryStore::new();
    let (here, there) = (client(&store, "here"), client(&store, "there"));
    let lock = lingering(&here);
    comes_to_linger(&lock, &store).await;
    let _taken = there.lock("b").build().unwrap().acquire().await.unwrap();
    let both = MultiLock::new().lock(&lock).lock(&here.lock("b").build().unwrap()).build().unwrap();
    assert!(matches!(both.try_acquire().await.unwrap_err(), TryAcquireError::Held { .. }));
    assert!(!is_held(&store), "nothing was done under it, and nobody else could try it");
}

/// A store whose watches show nothing, or that answers nothing.
#[derive(Debug)]
struct Faulty(MemoryStore, Arc<AtomicBool>);

impl Faulty {
    async fn reached(&self) {
        if self.1.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

impl Store for Faulty {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        Box::pin(async move {
            self.reached().await;
            self.0.read(name).await
        })
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        Box::pin(async move {
            self.reached().await;
            self.0.write(name, write).await
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Lease>, Failure>> {
        self.0.list()
    }

    fn watch(&self, _: &str, _: Option<&str>, _: Option<Version>) -> BoxStream<'static, Result<Sight, Failure>> {
        futures::stream::pending().boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_elsewhere_unseen_is_served_within_the_bound() {
    let store = MemoryStore::new();
    let (here, there) = (client(&store, "here"), client(&store, "there"));
    let served = Arc::<AtomicUsize>::default();
    let process = Process::new(ProcessOptions::default());
    // Two tasks that never leave it to anybody else, 10 ms each.
    for _ in 0..2 {
        let (lock, served) = (lock(&here, |lock| lock.local_handoff(Duration::from_secs(1))), served.clone());
        process.spawn(async move {
            loop {
                let guard = lock.acquire().await.unwrap();
                clock::sleep_until(clock::moment() + Duration::from_millis(10)).await;
                served.fetch_add(1, Ordering::SeqCst);
                guard.release().await.unwrap();
            }
        });
    }
    until(|| served.load(Ordering::SeqCst) > 20).await;
    let before = served.load(Ordering::SeqCst);
    let other = process.spawn(async move { lock(&there, |lock| lock).acquire().await.unwrap() });
    let guard = soon(other).await.unwrap();
    let passed = served.load(Ordering::SeqCst) - before;
    assert!(passed <= 102, "{passed} of 10 ms each came first, and the bound is a second");
    process.enter(|| drop(guard));
    process.kill();
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_was_held_for_longer_than_the_bound_goes_to_who_waits_elsewhere() {
    let store = MemoryStore::new();
    let (here, there) = (client(&store, "here"), client(&store, "there"));
    let process = Process::new(ProcessOptions::default());
    let mine = lock(&here, |lock| lock.local_handoff(Duration::from_millis(100)));
    let first = process.spawn({
        let mine = mine.clone();
        async move { mine.acquire().await.unwrap() }
    });
    let first = first.await.unwrap();
    let local = process.spawn(async move { mine.acquire().await.unwrap() });
    let other = process.spawn(async move { lock(&there, |lock| lock).acquire().await.unwrap() });
    waits(&store).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    process.spawn(first.release()).await.unwrap().unwrap();
    let other = soon(other).await.unwrap();
    assert!(!local.is_finished(), "a task of the process that had it overtook who had joined before");
    process.enter(|| drop(other));
    let local = soon(local).await.unwrap();
    process.enter(|| drop(local));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_for_what_cannot_be_given_back() {
    let (store, away) = (MemoryStore::new(), Arc::<AtomicBool>::default());
    let faulty = Faulty(store.clone(), away.clone());
    let client = Client::builder().store(Arc::new(faulty)).host("cut off").build().unwrap();
    let passed_on = lock(&client, |lock| lock.local_handoff(MINUTE));
    let process = Process::new(ProcessOptions::default());
    let first = process.spawn({
        let passed_on = passed_on.clone();
        async move { passed_on.acquire().await.unwrap() }
    });
    let first = first.await.unwrap();
    // It rests for this task, which wants no part in that.
    let strict = lock(&client, |lock| lock);
    let next = process.spawn(async move { strict.acquire().await.map(drop) });
    tokio::time::sleep(Duration::from_millis(10)).await;
    away.store(true, Ordering::SeqCst);
    process.spawn(first.release()).await.unwrap().unwrap();
    let error = tokio::time::timeout(MINUTE, next).await.expect("in time").unwrap().unwrap_err();
    assert!(matches!(error, AcquireError::Api { source: ApiError::Unavailable { .. }, .. }), "{error}");
    process.kill();
}

#[tokio::test]
async fn a_dropped_guard_passes_nothing_on() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let lock = lingering(&client);
    let guard = lock.acquire().await.unwrap();
    let token = guard.token();
    let next = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await.unwrap() }
    });
    tokio::task::yield_now().await;
    drop(guard);
    let guard = soon(next).await.unwrap();
    assert!(guard.token() > token, "what was dropped may have been cut off: its token is no longer good");
    drop(guard);
    until(|| !is_held(&store)).await;
}

#[tokio::test]
async fn an_old_guard_has_no_say_in_what_the_next_one_has() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let lock = lingering(&client);
    comes_to_linger(&lock, &store).await;
    let first = lock.acquire().await.unwrap();
    let lost = first.lost();
    first.release().await.unwrap();
    assert!(lost.is_cancelled());
    let second = lock.acquire().await.unwrap();
    second.check().unwrap();
    let again = lock.try_acquire().await.unwrap_err();
    assert!(matches!(again, TryAcquireError::Held { .. }), "{again}");
    // It belongs to this task, and not to nobody.
    let error = soon(lock.acquire()).await.unwrap_err();
    assert!(matches!(error, AcquireError::HeldByThisTask { .. }), "{error}");
    second.release().await.unwrap();
}

#[tokio::test]
async fn who_wants_a_token_of_its_own_gets_one() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let (lingering, strict) = (lingering(&client), lock(&client, |lock| lock));
    let own = lock(&client, |lock| lock.lease_duration(MINUTE));
    let mut last = 0;
    for lock in [&lingering, &strict, &strict, &lingering, &own, &lingering, &own, &strict] {
        let guard = soon(lock.acquire()).await.unwrap();
        assert!(guard.token() > last);
        last = guard.token();
        guard.release().await.unwrap();
    }
    // Nor are tasks that wait given it in memory.
    let guard = strict.acquire().await.unwrap();
    let token = guard.token();
    let next = tokio::spawn(async move { strict.acquire().await.unwrap().token() });
    tokio::task::yield_now().await;
    guard.release().await.unwrap();
    assert!(soon(next).await.unwrap() > token);
}

#[tokio::test]
async fn who_is_cancelled_when_he_is_next_keeps_nobody_waiting() {
    let store = MemoryStore::new();
    let (here, there) = (client(&store, "here"), client(&store, "there"));
    for round in 0..20 {
        let mine = lock(&here, |lock| lock.local_handoff(MINUTE));
        let guard = mine.acquire().await.unwrap();
        let next = tokio::spawn({
            let mine = mine.clone();
            async move { mine.acquire().await.unwrap() }
        });
        tokio::task::yield_now().await;
        guard.release().await.unwrap();
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        next.abort();
        drop(next.await);
        let guard = soon(lock(&there, |lock| lock).acquire()).await.unwrap();
        guard.release().await.unwrap();
        soon(mine.acquire()).await.unwrap().release().await.unwrap();
    }
}

#[tokio::test]
async fn options_that_do_not_go_together_are_refused() {
    let client = client(&MemoryStore::new(), "one");
    let refused = |lock: LockBuilder| lock.build().unwrap_err().to_string();
    assert!(refused(client.lock("a").linger(MINUTE * 61)).contains("linger"));
    assert!(refused(client.lock("a").local_handoff(MINUTE * 2)).contains("local_handoff"));
    assert!(refused(client.lock("a").linger(MINUTE).lease_duration(MINUTE)).contains("lease_duration"));
    assert!(refused(client.lock("a").linger(MINUTE).local_handoff(Duration::ZERO)).contains("local_handoff"));
}
