//! Leader election over an in-memory store; where it is about time, on clocks that wait for nobody.

mod health;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::runtime::controller::{Action, Controller};
use leasehold::election::{Leader, PodLabel, RunError, Unhealthy};
use leasehold::protocol::{Version, Write};
use leasehold::testing::{ApiServer, Process, ProcessOptions};
use leasehold::{CancellationToken, Client, Election, Failure, LossReason, MemoryStore, Sight, Store, TryAcquireError};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// What one lease lasts here.
const D: Duration = Duration::from_secs(15);
const GRACE: Duration = Duration::from_secs(3);
/// More than anything takes here that ends at all.
const LONG: Duration = Duration::from_secs(60);

fn simulated(test: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { process().spawn(test).await.unwrap() });
}

/// A task of the test's own process.
fn spawn<F: Future<Output: Send + 'static> + Send + 'static>(future: F) -> tokio::task::JoinHandle<F::Output> {
    Process::current().unwrap().spawn(future)
}

/// The way to a store, which can be cut.
#[derive(Clone, Debug)]
struct Wire {
    store: MemoryStore,
    cut: Arc<AtomicBool>,
}

impl Wire {
    fn new(store: &MemoryStore) -> Self {
        Self { store: store.clone(), cut: Arc::default() }
    }

    async fn pass<T>(&self, answer: BoxFuture<'_, Result<T, Failure>>) -> Result<T, Failure> {
        if self.cut.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        answer.await
    }
}

impl Store for Wire {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        self.pass(self.store.read(name)).boxed()
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        self.pass(self.store.write(name, write)).boxed()
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        let cut = self.cut.clone();
        self.store.watch(name, label, from).filter(move |_| std::future::ready(!cut.load(Ordering::SeqCst))).boxed()
    }
}

fn election(store: impl Store, host: &str) -> Election {
    let client = Client::builder().store(Arc::new(store)).host(host).build().unwrap();
    client.election("reports").build().unwrap()
}

/// The runtime's clock: one for all processes.
#[expect(clippy::disallowed_methods, reason = "nobody decides by it")]
fn now() -> Instant {
    Instant::now()
}

fn process() -> Process {
    Process::new(ProcessOptions::default())
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("{what}"))
}

fn host(leader: Option<&Leader>) -> Option<&str> {
    leader.and_then(|leader| leader.host.as_deref())
}

#[test]
fn one_leads_at_a_time_and_who_steps_down_is_followed_at_once() {
    simulated(async {
        let store = MemoryStore::new();
        let (one, two) = (election(store.clone(), "one"), election(store.clone(), "two"));
        let first = one.campaign().await.unwrap();
        assert!(one.is_leader() && one.clone().is_leader() && !two.is_leader());
        assert!(matches!(two.try_campaign().await, Err(TryAcquireError::Held { .. })));
        let waiting = spawn({
            let two = two.clone();
            async move { two.campaign().await.unwrap() }
        });
        // Long enough for some renewals, and for nobody to take it meanwhile.
        tokio::time::sleep(D * 3).await;
        assert!(first.check().is_ok() && !waiting.is_finished());
        let (token, begun) = (first.token(), now());
        first.step_down().await.unwrap();
        assert!(!one.is_leader());
        let second = in_time("nobody follows", waiting).await.unwrap();
        assert!(now().duration_since(begun) < Duration::from_secs(1), "it took {:?}", now().duration_since(begun));
        assert!(two.is_leader() && second.token() > token);
        drop(second);
        assert!(!two.is_leader());
        in_time("what is dropped is not given up", one.campaign()).await.unwrap().step_down().await.unwrap();
    });
}

#[test]
fn leaders_are_told_once_each_whatever_becomes_of_watches() {
    simulated(async {
        let store = MemoryStore::new();
        let (one, two) = (election(store.clone(), "one"), election(store.clone(), "two"));
        let mut leaders = election(store.clone(), "onlooker").observe().await.unwrap();
        assert_eq!(in_time("the first answer", leaders.changed()).await, None);
        let first = one.campaign().await.unwrap();
        let told = in_time("the first leader", leaders.changed()).await;
        assert_eq!(host(told.as_ref()), Some("one"));
        assert_eq!(told.as_ref().map(|leader| &*leader.identity), Some(&*first.holder_identity()));
        assert_eq!(one.leader().await.unwrap(), told);
        let waiting = spawn(async move { two.campaign().await.unwrap() });
        // Renewals and joins are no news.
        assert!(tokio::time::timeout(D * 3, leaders.changed()).await.is_err());
        first.publish("10.0.0.1:80").await.unwrap();
        let told = in_time("what it publishes", leaders.changed()).await;
        assert_eq!(told.and_then(|leader| leader.payload).as_deref(), Some("10.0.0.1:80"));
        // All watches end, and where they were is forgotten.
        store.server().restart();
        first.step_down().await.unwrap();
        let second = waiting.await.unwrap();
        let told = in_time("the second leader", leaders.changed()).await;
        assert_eq!(
            (host(told.as_ref()), told.as_ref().and_then(|leader| leader.token)),
            (Some("two"), Some(second.token()))
        );
        second.step_down().await.unwrap();
        assert_eq!(in_time("that nobody leads", leaders.next()).await, Some(None));
        // One of client-go's.
        let lease = json!({ "metadata": { "name": "reports" }, "spec": { "holderIdentity": "theirs", "leaseDurationSeconds": 15 } });
        store.write("reports", &Write::Create(serde_json::from_value(lease).unwrap())).await.unwrap();
        let told = in_time("client-go's leader", leaders.changed()).await.unwrap();
        assert_eq!((&*told.identity, told.host, told.token), ("theirs", None, None));
    });
}

#[test]
fn a_watch_that_shows_nothing_hides_no_leader() {
    simulated(async {
        let store = MemoryStore::new();
        let deaf = Wire::new(&store);
        let mut leaders = election(deaf.clone(), "onlooker").observe().await.unwrap();
        assert_eq!(leaders.changed().await, None);
        // It is cut for as long as the watch could have shown the leader.
        deaf.cut.store(true, Ordering::SeqCst);
        let seen = spawn(async move { leaders.changed().await });
        tokio::time::sleep(Duration::from_millis(10)).await;
        let _first = election(store.clone(), "one").campaign().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        deaf.cut.store(false, Ordering::SeqCst);
        assert_eq!(host(in_time("the leader", seen).await.unwrap().as_ref()), Some("one"));
    });
}

/// Work that says when it runs.
#[derive(Clone, Default)]
struct Ticks(Arc<Mutex<Vec<Instant>>>);

impl Ticks {
    async fn tick(&self) {
        loop {
            self.0.lock().unwrap().push(now());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn last(&self) -> Option<Instant> {
        self.0.lock().unwrap().last().copied()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[test]
fn work_is_told_in_time_and_dropped_before_another_can_lead() {
    simulated(async {
        let (store, ticks) = (MemoryStore::new(), Ticks::default());
        let wire = Wire::new(&store);
        let (leading, next) = (process(), process());
        let (told, told_at) = mpsc::channel();
        let run = leading.spawn({
            let (election, ticks) = (election(wire.clone(), "one"), ticks.clone());
            async move {
                let work = async |leading: leasehold::election::Leading| {
                    let ending = leading.ending();
                    let told = async {
                        ending.cancelled().await;
                        told.send(now()).unwrap();
                        std::future::pending::<()>().await;
                    };
                    tokio::join!(ticks.tick(), told);
                };
                election.run_while_leading(work).await
            }
        });
        let follow = next.spawn({
            let election = election(store.clone(), "two");
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let leadership = election.campaign().await.unwrap();
                let at = now();
                leadership.step_down().await.unwrap();
                at
            }
        });
        tokio::time::sleep(D * 2).await;
        assert!(
            now().duration_since(ticks.last().unwrap()) < Duration::from_millis(200),
            "it works as long as it leads"
        );
        let cut = now();
        wire.cut.store(true, Ordering::SeqCst);
        let followed = in_time("nobody follows", follow).await.unwrap();
        let told = told_at.try_recv().expect("the work was not told");
        let last = ticks.last().unwrap();
        assert!(last < followed, "it worked beside its successor");
        let grace = last.duration_since(told);
        assert!(grace + Duration::from_millis(500) > GRACE && grace <= GRACE, "it had {grace:?}");
        assert!(told.duration_since(cut) > Duration::from_secs(6), "it could still have renewed");
        let outcome = in_time("the end", run).await.unwrap();
        let Err(RunError::Lost { lost, output: None }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(lost.reason, LossReason::Expired);
    });
}

#[test]
fn after_a_pause_neither_the_work_nor_what_it_started_goes_on() {
    simulated(async {
        let (store, work, beside) = (MemoryStore::new(), Ticks::default(), Ticks::default());
        let (leading, next) = (process(), process());
        let run = leading.spawn({
            let (election, work, beside) = (election(store.clone(), "one"), work.clone(), beside.clone());
            let process = leading.clone();
            async move {
                election
                    .run_while_leading(async move |leading| {
                        let (guard, ticks) = (leading.clone(), beside);
                        let beside = process.spawn(async move { guard.guard(ticks.tick()).await });
                        work.tick().await;
                        drop(beside);
                    })
                    .await
            }
        });
        tokio::time::sleep(D).await;
        let follow = next.spawn({
            let election = election(store.clone(), "two");
            async move { election.campaign().await.unwrap() }
        });
        tokio::time::sleep(D).await;
        leading.pause();
        let before = (work.count(), beside.count());
        assert!(before.0 > 100 && before.1 > 100);
        let second = in_time("nobody follows", follow).await.unwrap();
        leading.resume();
        let outcome = in_time("the end", run).await.unwrap();
        assert!(matches!(outcome, Err(RunError::Lost { output: None, .. })), "{outcome:?}");
        tokio::time::sleep(D).await;
        assert_eq!((work.count(), beside.count()), before, "it worked beside its successor");
        next.enter(|| second.check()).unwrap();
    });
}

#[test]
fn told_to_stop_the_work_has_its_grace_and_then_another_leads() {
    simulated(async {
        for obeys in [true, false] {
            let store = MemoryStore::new();
            let (one, two) = (election(store.clone(), "one"), election(store.clone(), "two"));
            let stop = CancellationToken::new();
            let run = spawn({
                let stop = stop.clone();
                async move {
                    one.run_whenever_leading(stop, async |leading| {
                        leading.ending().cancelled().await;
                        tokio::time::sleep(if obeys { GRACE / 2 } else { GRACE * 2 }).await;
                        leading.check().is_ok()
                    })
                    .await
                }
            });
            tokio::time::sleep(D).await;
            let follow = spawn(async move { two.campaign().await.unwrap() });
            tokio::time::sleep(D).await;
            stop.cancel();
            let begun = now();
            let output = in_time("it does not stop", run).await.unwrap().unwrap();
            assert_eq!(output, obeys.then_some(true));
            let _second = in_time("nobody follows", follow).await.unwrap();
            let took = now().duration_since(begun);
            assert!(took < GRACE + Duration::from_secs(1), "it took {took:?}");
        }
    });
}

#[test]
fn who_loses_the_leadership_campaigns_again_and_who_is_done_does_not() {
    simulated(async {
        let store = MemoryStore::new();
        let one = election(store.clone(), "one");
        let terms = Arc::new(Mutex::new(Vec::new()));
        let run = spawn({
            let (one, terms) = (one.clone(), terms.clone());
            async move {
                one.run_whenever_leading(CancellationToken::new(), async |leading| {
                    terms.lock().unwrap().push(leading.token());
                    if terms.lock().unwrap().len() < 3 {
                        std::future::pending::<()>().await;
                    }
                    "done"
                })
                .await
            }
        });
        for term in 1..3 {
            tokio::time::sleep(D).await;
            assert_eq!(terms.lock().unwrap().len(), term);
            let lease = store.read("reports").await.unwrap();
            let meta = lease.metadata;
            let version = meta.resource_version.unwrap().parse().unwrap();
            store.write("reports", &Write::Delete { uid: meta.uid.unwrap(), version }).await.unwrap();
        }
        assert_eq!(in_time("it is done", run).await.unwrap().unwrap(), Some("done"));
        assert!(terms.lock().unwrap().is_sorted() && !one.is_leader());
        assert_eq!(one.leader().await.unwrap(), None, "it has not stepped down");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_runs_while_its_candidate_leads() {
    let server = ApiServer::new();
    let (store, leases) = (server.store("default"), Api::<Lease>::namespaced(server.client("default"), "default"));
    let (one, two) = (election(store.clone(), "one"), election(store.clone(), "two"));
    let (stop, running) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let run = |election: Election| {
        let (leases, stop, running) = (leases.clone(), stop.clone(), running.clone());
        tokio::spawn(async move {
            election
                .run_whenever_leading(stop, async |leading| {
                    let controller = Controller::new(leases.clone(), kube::runtime::watcher::Config::default());
                    let reconcile = async |_: Arc<Lease>, running: Arc<AtomicUsize>| {
                        running.fetch_add(1, Ordering::SeqCst);
                        // It is under way when the leadership is about to end, and comes to its end all the same.
                        tokio::time::sleep(Duration::from_millis(300)).await;
                        running.fetch_sub(1, Ordering::SeqCst);
                        Ok::<_, std::convert::Infallible>(Action::requeue(Duration::from_millis(1)))
                    };
                    let running = running.clone();
                    leading
                        .run_controller(controller, reconcile, |_, error, _| match *error {}, running)
                        .for_each(async |_| {})
                        .await;
                    leading.check().is_ok()
                })
                .await
        })
    };
    let one = run(one);
    let reconciles = async {
        while running.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time("nothing is reconciled", reconciles).await;
    stop.cancel();
    assert_eq!(in_time("it does not stop", one).await.unwrap().unwrap(), Some(true), "not gracefully");
    assert_eq!(running.load(Ordering::SeqCst), 0, "a reconcile was left in its middle");
    in_time("it has not stepped down", two.campaign()).await.unwrap().step_down().await.unwrap();
}

/// Whether a request for the Pod labels it.
async fn labels(stream: &mut TcpStream) -> Option<bool> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            assert!(head.starts_with("PATCH /api/v1/namespaces/default/pods/me?"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse::<usize>();
            if body.len() == length.unwrap() {
                let patch: serde_json::Value = serde_json::from_str(body).unwrap();
                return Some(patch["metadata"]["labels"]["leader.leasehold.dev/reports"] == "true");
            }
        }
        if stream.read_buf(&mut request).await.unwrap() == 0 {
            return None;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_label_is_on_its_way_off_the_pod_the_leader_leads() {
    let store = MemoryStore::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api_server = format!("http://{}", listener.local_addr().unwrap());
    let config = kube::Config::new(api_server.parse().unwrap());
    let client = Client::builder().kube_config(config).store(Arc::new(store.clone())).build().unwrap();
    let election =
        client.election("reports").label_pod(PodLabel::new().pod("me").namespace("default")).build().unwrap();
    let (served, mut requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while let Some(labels) = labels(&mut stream).await {
            // Long enough for a leadership to pass on, if nothing keeps it.
            tokio::time::sleep(Duration::from_millis(300)).await;
            served.send((labels, store.read("reports").await.is_ok())).unwrap();
            let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"me"}}"#;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}", pod.len());
            stream.write_all(format!("{head}\r\n\r\n{pod}").as_bytes()).await.unwrap();
        }
    });
    let leadership = election.campaign().await.unwrap();
    assert_eq!(in_time("what was left over", requests.recv()).await, Some((false, true)));
    assert_eq!(in_time("the label", requests.recv()).await, Some((true, true)));
    leadership.step_down().await.unwrap();
    assert_eq!(in_time("the label's end", requests.recv()).await, Some((false, true)), "it had passed on before");
    assert_eq!(election.leader().await.unwrap(), None);
}

#[test]
fn bad_options_say_what_would_be_right() {
    let builder = || Client::builder().store(Arc::new(MemoryStore::new()));
    let client = builder().build().unwrap();
    let error = client.election("a").grace(Duration::from_secs(8)).build().unwrap_err();
    assert!(error.to_string().contains("at most 7.5s"), "{error}");
    client.election("a").grace(Duration::ZERO).build().unwrap();
    let short = client.election("a").lease_duration(Duration::from_secs(10)).grace(Duration::from_secs(5));
    short.build().unwrap();
    let careful = builder().grace(Duration::from_secs(6)).build().unwrap();
    careful.election("a").build().unwrap();
    assert!(careful.election("a").grace(Duration::from_secs(2)).build().is_err());
    assert_eq!(client.election("").build().unwrap_err().option, "name");
    let error = client.election("a").label_pod(PodLabel::new().pod("me")).build().unwrap_err();
    assert!(error.to_string().contains("this client knows no cluster"), "{error}");
}
