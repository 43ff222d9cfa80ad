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
use leasehold::testing::{Process, ProcessOptions};
use leasehold::{Client, Failure, Lock, MemoryStore, SemaphoreBuilder, Sight, Store, clock};

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
    /// It takes a while.
    Slow,
    /// It never arrives, and nothing is ever heard of it.
    Swallowed,
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
                Fault::Swallowed => futures::future::pending().await,
                Fault::Slow => {
                    clock::sleep_until(clock::moment() + Duration::from_millis(700)).await;
                    self.store.write(name, write).await
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

/// What ends at its time whatever is answered has nothing to gain by another's request being given up before.
#[tokio::test(start_paused = true)]
async fn what_is_not_renewed_shortens_no_request_of_others() {
    type Bounded = fn(SemaphoreBuilder) -> SemaphoreBuilder;
    let bounds: [(&str, Bounded); 2] = [
        ("a fixed term", |semaphore| semaphore.lease_duration(Duration::from_secs(1)).renewal(false)),
        ("held for at most a time", |semaphore| semaphore.max_hold(Duration::from_millis(500))),
    ];
    for (what, bounded) in bounds {
        let store = MemoryStore::new();
        let slow = Arc::new(AtomicBool::new(false));
        let faulty = Faulty::new(&store, {
            let slow = slow.clone();
            move |name, _| {
                let slow = slow.load(Ordering::SeqCst) && !name.starts_with("session-");
                if slow { Fault::Slow } else { Fault::None }
            }
        });
        let client = Client::builder().store(Arc::new(faulty)).build().unwrap();
        let acquires = async move {
            let semaphore = bounded(client.semaphore("a").with_permits(2)).build().unwrap();
            let first = semaphore.acquire(1).await.unwrap();
            slow.store(true, Ordering::SeqCst);
            let other = semaphore.acquire(1).await.unwrap();
            slow.store(false, Ordering::SeqCst);
            other.release().await.unwrap();
            drop(first);
            client.shutdown().await;
        };
        Process::new(ProcessOptions::default()).spawn(acquires).await.unwrap();
        let (left, _) = store.server().list(None, "").unwrap();
        assert!(left.is_empty(), "{what}: a request was given up: {left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_extension_of_which_nothing_is_heard_is_tried_again_within_the_term() {
    let store = MemoryStore::new();
    let swallow = Arc::new(AtomicBool::new(false));
    let faulty = Faulty::new(&store, {
        let swallow = swallow.clone();
        move |_, _| if swallow.swap(false, Ordering::SeqCst) { Fault::Swallowed } else { Fault::None }
    });
    let client = Client::builder().store(Arc::new(faulty)).build().unwrap();
    let extends = async move {
        let lock = client.lock("a").lease_duration(Duration::from_secs(2)).renewal(false).build().unwrap();
        let guard = lock.acquire().await.unwrap();
        swallow.store(true, Ordering::SeqCst);
        guard.extend().await.unwrap();
        guard.release().await.unwrap();
    };
    Process::new(ProcessOptions::default()).spawn(extends).await.unwrap();
}
