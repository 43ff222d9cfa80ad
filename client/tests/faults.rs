//! Requests that are lost, late, or carried out though nobody hears of it; answers that come too late.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::record::Record;
use leasehold::protocol::{Version, Write};
use leasehold::{Client, Failure, Lock, LockGuard, MemoryStore, Sight, Store};
use tokio_util::sync::CancellationToken;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing out of the ordinary.
    None,
    /// It never arrives.
    Lost,
    /// It is carried out, and the answer is lost.
    Unheard,
    /// It is carried out some time after it was given up.
    Late,
}

type Chooser = Box<dyn FnMut(&str, &Write) -> Fault + Send>;

/// A store between which and its user something goes wrong.
struct Faulty {
    store: MemoryStore,
    fault: Mutex<Chooser>,
    /// How many requests something happened to.
    hit: Arc<AtomicU64>,
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty").finish_non_exhaustive()
    }
}

impl Faulty {
    fn new(store: &MemoryStore, fault: impl FnMut(&str, &Write) -> Fault + Send + 'static) -> Self {
        Self { store: store.clone(), fault: Mutex::new(Box::new(fault)), hit: Arc::default() }
    }
}

impl Store for Faulty {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        self.store.read(name)
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        let fault = (self.fault.lock().unwrap())(name, write);
        if fault != Fault::None {
            self.hit.fetch_add(1, Ordering::SeqCst);
        }
        let unclear = || Err(Failure::Unclear("the connection broke".to_owned()));
        async move {
            match fault {
                Fault::None => self.store.write(name, write).await,
                Fault::Lost => unclear(),
                Fault::Unheard => {
                    let _ = self.store.write(name, write).await;
                    unclear()
                }
                Fault::Late => {
                    let (store, name, write) = (self.store.clone(), name.to_owned(), write.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(60)).await;
                        let _ = store.write(&name, &write).await;
                    });
                    unclear()
                }
            }
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

fn client(store: impl Store) -> Client {
    Client::builder().store(Arc::new(store)).session_duration(Duration::from_secs(3)).build().unwrap()
}

/// Every fourth write of every client meets with something, in turn, whatever it is.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_requests_nobody_meets_anybody_and_all_are_served() {
    let store = MemoryStore::new();
    let (inside, last) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut hits = Vec::new();
    let workers: Vec<_> = (0..6_u64)
        .map(|worker| {
            let mut n = worker * 3;
            let faulty = Faulty::new(&store, move |name, _| {
                n += 1;
                match (name.starts_with("session-"), n % 4, n / 4 % 3) {
                    (true, _, _) | (_, 1.., _) => Fault::None,
                    (_, _, 0) => Fault::Lost,
                    (_, _, 1) => Fault::Unheard,
                    _ => Fault::Late,
                }
            });
            hits.push(faulty.hit.clone());
            let client = client(faulty);
            let (inside, last) = (inside.clone(), last.clone());
            tokio::spawn(async move {
                let lock = client.lock("a").build().unwrap();
                for _ in 0..20 {
                    let guard = lock.acquire().await.unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                    let before = last.swap(guard.token(), Ordering::SeqCst);
                    assert!(before < guard.token(), "token {} after {before}", guard.token());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    guard.release().await.unwrap();
                }
                client // its late requests are still to be settled
            })
        })
        .collect();
    let mut clients = Vec::new();
    for worker in workers {
        let client = tokio::time::timeout(Duration::from_secs(60), worker).await.expect("somebody waits for ever");
        clients.push(client.unwrap());
    }
    let hit: u64 = hits.iter().map(|hit| hit.load(Ordering::SeqCst)).sum();
    assert!(hit > 60, "only {hit} requests met with something");
    // What came true late is found and given back by whoever it was granted to.
    let settled = async {
        loop {
            match store.read("a").await.map(|lease| Record::parse(lease).unwrap()) {
                Ok(record) if record.holder.is_some() || !record.waiters.is_empty() => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                _ => break,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), settled).await.expect("something late has stayed on the Lease");
}

/// One kind of request, once, meets with one kind of fault. Then everything works, and nothing stays.
#[tokio::test(flavor = "multi_thread")]
async fn each_request_can_be_lost_unheard_or_late() {
    type Is = fn(&Write) -> bool;
    let kinds: [(&str, Is); 4] = [
        ("create", |write| matches!(write, Write::Create(_))),
        ("replace", |write| matches!(write, Write::Replace(_))),
        ("patch", |write| matches!(write, Write::Patch(_))),
        ("delete", |write| matches!(write, Write::Delete { .. })),
    ];
    for (kind, is) in kinds {
        for fault in [Fault::Lost, Fault::Unheard, Fault::Late] {
            let store = MemoryStore::new();
            if kind == "replace" {
                store.write("a", &Write::Create(Box::new(bare("a")))).await.unwrap();
            }
            let armed = Arc::new(AtomicBool::new(true));
            let shared = armed.clone();
            let faulty = Faulty::new(&store, move |name, write| {
                if name == "a" && is(write) && shared.swap(false, Ordering::SeqCst) { fault } else { Fault::None }
            });
            let (faulty, plain) = (client(faulty), client(store.clone()));
            let (one, two) = (faulty.lock("a").build().unwrap(), plain.lock("a").build().unwrap());
            let cycle = async {
                let guard = one.acquire().await.unwrap();
                let other = tokio::spawn(async move { two.acquire().await.unwrap().release().await.unwrap() });
                while kind != "delete" && one.status().await.unwrap().waiters.is_empty() {
                    tokio::task::yield_now().await;
                }
                guard.release().await.unwrap();
                other.await.unwrap();
                one.acquire().await.unwrap().release().await.unwrap();
            };
            tokio::time::timeout(Duration::from_secs(20), cycle).await.unwrap_or_else(|_| panic!("{kind}, {fault:?}"));
            assert!(!armed.load(Ordering::SeqCst), "no {kind} was sent");
        }
    }
}

fn bare(name: &str) -> Lease {
    let mut lease = Lease::default();
    lease.metadata.name = Some(name.to_owned());
    lease
}

/// The first request of a kind comes true only after its sender has given up what it was for.
fn late_once(store: &MemoryStore, is: fn(&Write) -> bool) -> Faulty {
    let mut armed = true;
    Faulty::new(store, move |name, write| {
        let late = armed && name == "a" && is(write);
        armed &= !late;
        if late { Fault::Late } else { Fault::None }
    })
}

/// Begins to acquire it, and gives that up as soon as the request that will be late is on its way.
async fn give_up_after(lock: &Lock, hit: &AtomicU64) {
    let sent = async {
        while hit.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = lock.acquire() => panic!("its request is late"),
        () = sent => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_comes_true_after_its_wait_was_given_up_is_taken_back() {
    let store = MemoryStore::new();
    let guard = client(store.clone()).lock("a").build().unwrap().acquire().await.unwrap();
    let late = late_once(&store, |write| matches!(write, Write::Patch(_)));
    let hit = late.hit.clone();
    let client = client(late);
    let lock = client.lock("a").build().unwrap();
    give_up_after(&lock, &hit).await;
    let key = async |wanted: bool| {
        let seen = async {
            while lock.status().await.unwrap().waiters.is_empty() == wanted {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), seen).await.is_ok()
    };
    assert!(key(true).await, "the late join never came");
    // Whoever is in the queue and wants nothing holds up everybody behind it.
    assert!(key(false).await, "the late join stays in the queue");
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquisition_that_comes_true_after_it_was_given_up_is_given_back() {
    let store = MemoryStore::new();
    let late = late_once(&store, |write| matches!(write, Write::Create(_)));
    let hit = late.hit.clone();
    let lock = client(late).lock("a").build().unwrap();
    give_up_after(&lock, &hit).await;
    let came = async {
        while store.read("a").await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), came).await.expect("the late acquisition never came");
    let other = client(store.clone()).lock("a").build().unwrap();
    let next = tokio::time::timeout(Duration::from_secs(10), other.acquire()).await;
    next.expect("a lock that nobody holds is taken for held").unwrap().release().await.unwrap();
}

/// A store by which the whole process is paused for so long after the first acquisition was carried out.
#[derive(Debug)]
struct Slow {
    store: MemoryStore,
    delay: Duration,
    lease: &'static str,
    acquisitions: Arc<AtomicU64>,
}

impl Store for Slow {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        self.store.read(name)
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        async move {
            let answer = self.store.write(name, write).await;
            // The process is paused for a while between the answer and the next line of its code. Nothing else of it
            // runs meanwhile: that is what `std::thread::sleep` on its only thread does.
            let acquisition = name == self.lease && !matches!(write, Write::Delete { .. });
            if acquisition && self.acquisitions.fetch_add(1, Ordering::SeqCst) == 0 {
                std::thread::sleep(self.delay);
            }
            answer
        }
        .boxed()
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        self.store.watch(name, label, from).boxed()
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_grant_that_arrives_too_late_is_not_handed_out() {
    let store = MemoryStore::new();
    let acquisitions = Arc::new(AtomicU64::new(0));
    let delay = Duration::from_millis(1200);
    let slow = Slow { store: store.clone(), delay, lease: "a", acquisitions: acquisitions.clone() };
    let client = Client::builder().store(Arc::new(slow)).session_duration(Duration::from_secs(1)).build().unwrap();
    let lock = client.lock("a").build().unwrap();
    // The pause outlasts the session: the first grant is stale when it is seen, and what is handed out is a later one.
    let guard = tokio::time::timeout(Duration::from_secs(20), lock.acquire()).await.unwrap().unwrap();
    guard.check().expect("a stale guard was handed out");
    assert!(acquisitions.load(Ordering::SeqCst) > 1, "there was no second acquisition");
}

#[tokio::test(flavor = "current_thread")]
async fn after_a_pause_the_first_check_fails_before_anything_else_has_run() {
    for own in [false, true] {
        let client = Client::builder().store(Arc::new(MemoryStore::new())).session_duration(Duration::from_secs(1));
        let client = client.build().unwrap();
        let mut lock = client.lock("a");
        if own {
            lock = lock.lease_duration(Duration::from_secs(1));
        }
        let guard = lock.build().unwrap().acquire().await.unwrap();
        let lost = guard.lost();
        guard.check().unwrap();
        // The whole process stands still: this is its only thread.
        std::thread::sleep(Duration::from_millis(1050));
        assert!(guard.check().is_err(), "a check succeeded past the deadline (own: {own})");
        assert!(lost.is_cancelled(), "lost() has not fired though a check failed (own: {own})");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(guard.check().is_err(), "a late renewal revived it (own: {own})");
    }
}

/// A store that stops answering.
#[derive(Debug)]
struct Silent {
    store: MemoryStore,
    silent: Arc<AtomicBool>,
}

impl Store for Silent {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        if self.silent.load(Ordering::SeqCst) { futures::future::pending().boxed() } else { self.store.read(name) }
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        if self.silent.load(Ordering::SeqCst) {
            futures::future::pending().boxed()
        } else {
            self.store.write(name, write)
        }
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

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_told_while_an_answer_is_awaited_that_never_comes() {
    for own in [false, true] {
        let silent = Arc::new(AtomicBool::new(false));
        let store = Silent { store: MemoryStore::new(), silent: silent.clone() };
        let client = Client::builder().store(Arc::new(store)).session_duration(Duration::from_secs(2));
        let client = client.grace(Duration::from_secs(1)).build().unwrap();
        let mut lock = client.lock("a");
        if own {
            lock = lock.lease_duration(Duration::from_secs(2));
        }
        let guard = lock.build().unwrap().acquire().await.unwrap();
        silent.store(true, Ordering::SeqCst);
        let told = tokio::time::timeout(Duration::from_secs(3), guard.lost().cancelled()).await;
        assert!(told.is_ok(), "lost() has not fired (own: {own})");
        assert!(guard.check().is_err());
    }
}

/// A store that has forgotten what happened before now, as an API server has after a restart.
#[derive(Debug)]
struct Forgetful(MemoryStore);

impl Store for Forgetful {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        self.0.read(name)
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        self.0.write(name, write)
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        match from {
            Some(_) => futures::stream::iter([Err(Failure::Refused)]).boxed(),
            None => self.0.watch(name, label, None),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_cannot_be_resumed_begins_anew() {
    let store = MemoryStore::new();
    let client = |store: Arc<dyn Store>| {
        Client::builder().store(store).session_duration(Duration::from_secs(60)).build().unwrap()
    };
    let holder = client(Arc::new(store.clone())).lock("a").build().unwrap();
    let forgetful = client(Arc::new(Forgetful(store.clone()))).lock("a").build().unwrap();
    let guard = holder.acquire().await.unwrap();
    let waiting = tokio::spawn({
        let forgetful = forgetful.clone();
        async move { forgetful.acquire().await.unwrap() }
    });
    while holder.status().await.unwrap().waiters.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Until it has noticed, and begun anew. It reads by itself only after eighteen seconds.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    guard.release().await.unwrap();
    let guard =
        tokio::time::timeout(Duration::from_secs(8), waiting).await.expect("it hears of its grant by reading only");
    let guard = guard.unwrap();
    // A hold that is to be told of its loss at once is watched in the same way.
    let lost = guard.lost();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let lease = store.read("a").await.unwrap().metadata;
    let version = lease.resource_version.unwrap().parse().unwrap();
    store.write("a", &Write::Delete { uid: lease.uid.unwrap(), version }).await.unwrap();
    tokio::time::timeout(Duration::from_secs(8), lost.cancelled()).await.expect("the loss was not told at once");
    let free = tokio::time::timeout(Duration::from_secs(8), forgetful.wait_until_free()).await;
    free.expect("it waits for what is free").unwrap();
}

/// A store whose watches can all be broken off, and whose reads are counted.
#[derive(Debug)]
struct Breakable {
    store: MemoryStore,
    breaks: tokio::sync::watch::Sender<u64>,
    reads: AtomicU64,
    watches: AtomicU64,
}

impl Store for Breakable {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.store.read(name)
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        self.store.write(name, write)
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        self.watches.fetch_add(1, Ordering::SeqCst);
        let mut breaks = self.breaks.subscribe();
        let broken = async move { breaks.changed().await };
        let end = futures::stream::iter([Err(Failure::Unclear("the connection broke".to_owned()))]);
        self.store.watch(name, label, from).take_until(broken).chain(end).boxed()
    }
}

const LOCKS: usize = 20;

/// So many locks that are held, and watched for their loss.
async fn watched_holds(store: &MemoryStore) -> (Arc<Breakable>, Client, Vec<(CancellationToken, LockGuard)>) {
    let (reads, watches) = (AtomicU64::new(0), AtomicU64::new(0));
    let breaks = tokio::sync::watch::Sender::new(0);
    let breakable = Arc::new(Breakable { store: store.clone(), breaks, reads, watches });
    let client = Client::builder().store(breakable.clone()).build().unwrap();
    let mut guards = Vec::new();
    for n in 0..LOCKS {
        let guard = client.lock(format!("lock-{n}")).build().unwrap().acquire().await.unwrap();
        guards.push((guard.lost(), guard));
    }
    while breakable.watches.load(Ordering::SeqCst) < LOCKS as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (breakable, client, guards)
}

/// Thousands may have lost their watches at once, and all have their sessions to renew.
#[tokio::test(flavor = "multi_thread")]
async fn holders_whose_watches_broke_do_not_all_ask_at_once_and_hear_of_their_loss_all_the_same() {
    let store = MemoryStore::new();
    let (breakable, _client, guards) = watched_holds(&store).await;
    let counts = || (breakable.reads.load(Ordering::SeqCst), breakable.watches.load(Ordering::SeqCst));
    let before = counts();
    breakable.breaks.send_modify(|breaks| *breaks += 1);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let after = counts();
    assert_eq!(after.0, before.0, "they read what nobody waits for");
    assert!(after.1 - before.1 <= LOCKS as u64 / 2, "{} of {LOCKS} watch at once", after.1 - before.1);
    for n in 0..LOCKS {
        let name = format!("lock-{n}");
        let lease = store.read(&name).await.unwrap().metadata;
        let version = lease.resource_version.unwrap().parse().unwrap();
        store.write(&name, &Write::Delete { uid: lease.uid.unwrap(), version }).await.unwrap();
    }
    // A renew interval, and as much again for a slow machine: none is as long as it takes until a session is lost.
    for (lost, _guard) in &guards {
        tokio::time::timeout(Duration::from_secs(20), lost.cancelled()).await.expect("a loss was not told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_after_a_watch_of_a_hold_broke_is_told_of_its_grant_by_a_watch() {
    let store = MemoryStore::new();
    let (breakable, client, guards) = watched_holds(&store).await;
    breakable.breaks.send_modify(|breaks| *breaks += 1);
    let other = Client::builder().store(Arc::new(store.clone())).build().unwrap();
    let (mut others, mut waiting) = (Vec::new(), Vec::new());
    for (n, (_, guard)) in guards.into_iter().enumerate() {
        guard.release().await.unwrap();
        let lock = other.lock(format!("lock-{n}")).build().unwrap();
        others.push((lock.acquire().await.unwrap(), lock));
        let lock = client.lock(format!("lock-{n}")).build().unwrap();
        waiting.push(tokio::spawn(async move { lock.acquire().await.unwrap() }));
    }
    for (guard, lock) in others {
        while lock.status().await.unwrap().waiters.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        guard.release().await.unwrap();
    }
    // They look for themselves only after nine seconds.
    for waiter in waiting {
        let granted = tokio::time::timeout(Duration::from_secs(4), waiter).await;
        granted.expect("it heard nothing of its grant").unwrap().release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_of_which_nothing_is_heard_is_said_to_be_unsettled() {
    let store = MemoryStore::new();
    let deaf = Arc::new(AtomicBool::new(false));
    let faulty = Faulty::new(&store, {
        let deaf = deaf.clone();
        move |_, _| if deaf.load(Ordering::SeqCst) { Fault::Lost } else { Fault::None }
    });
    let client = Client::builder().store(Arc::new(faulty)).build().unwrap();
    let guard = client.lock("a").build().unwrap().acquire().await.unwrap();
    deaf.store(true, Ordering::SeqCst);
    let outcome = guard.release().await;
    assert!(matches!(outcome, Err(leasehold::ReleaseError::Unsettled { .. })), "{outcome:?}");
    // It is tried on, and comes true.
    deaf.store(false, Ordering::SeqCst);
    let next = client.lock("a").build().unwrap();
    tokio::time::timeout(Duration::from_secs(60), next.acquire()).await.unwrap().unwrap().release().await.unwrap();
}
