//! Each metric and each span is seen where it should be, and `docs/telemetry.md` lists exactly those that there are.

mod recorder;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasehold::protocol::Record;
use leasehold::telemetry::{Instrument, METRICS};
use leasehold::testing::{Process, ProcessOptions};
use leasehold::{Client, ClientBuilder, MemoryStore, Store};
use recorder::Recorded;
use tracing::span;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Every span that was begun, with the attributes that it can have.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeMap<&'static str, BTreeSet<&'static str>>>>);

impl<S: tracing::Subscriber> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        let metadata = attributes.metadata();
        if metadata.target().starts_with("leasehold") {
            let fields = metadata.fields().iter().map(|field| field.name()).collect();
            self.0.lock().unwrap().insert(metadata.name(), fields);
        }
    }
}

/// Runs this on a clock that does not take its time, and says what was measured, and which spans were begun.
fn told(test: impl Future<Output = ()>) -> (Recorded, Spans) {
    let (recorded, spans) = (Recorded::default(), Spans::default());
    let _metrics = metrics::set_default_local_recorder(&recorded);
    let _spans = tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test);
    (recorded.clone(), spans)
}

fn builder(store: &MemoryStore) -> ClientBuilder {
    Client::builder().store(Arc::new(store.clone())).host("test")
}

async fn sleep(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Whatever can happen to a lock.
async fn everything(store: MemoryStore) {
    let (one, two) = (builder(&store).build().unwrap(), builder(&store).build().unwrap());
    let (mine, theirs) = (one.lock("a").build().unwrap(), two.lock("a").build().unwrap());
    // Somebody is in the way.
    let held = mine.acquire().await.unwrap();
    assert!(theirs.try_acquire().await.is_err());
    assert!(theirs.acquire_timeout(Duration::from_secs(2)).await.is_err());
    assert!(tokio::time::timeout(Duration::from_secs(3), theirs.acquire()).await.is_err());
    assert!(mine.acquire().await.is_err(), "this task holds it");
    // The session is renewed meanwhile, and the lock handed on.
    let next = leasehold_spawn(async move { theirs.acquire().await.unwrap() });
    sleep(12).await;
    held.release().await.unwrap();
    next.await.unwrap().release().await.unwrap();
    // A hold that lives by itself, and one that ends.
    let own = one.lock("own").lease_duration(Duration::from_secs(9)).build().unwrap().acquire().await.unwrap();
    sleep(4).await;
    own.release().await.unwrap();
    let term = one.lock("term").lease_duration(Duration::from_secs(2)).renewal(false).build().unwrap();
    let term = term.acquire().await.unwrap();
    term.lost().cancelled().await;
    drop(term);
    // One that is taken away.
    let semaphore = one.semaphore("db").with_permits(3).build().unwrap();
    let broken = semaphore.acquire(2).await.unwrap();
    let lost = broken.lost();
    let record = Record::parse(store.read("db").await.unwrap()).unwrap();
    let holder = record.holders().next().unwrap();
    let take = leasehold::protocol::write::shared::release(&record, holder, true);
    store.write("db", &take).await.unwrap();
    lost.cancelled().await;
    drop(broken);
    // Two wait for each other, until one has waited for long enough.
    let crossed = [("x", "y"), ("y", "x")].map(|(first, second)| {
        let client = one.clone();
        leasehold_spawn(async move {
            let _first = client.read_write_lock(first).unwrap().write().await.unwrap();
            sleep(1).await;
            let _ = client.read_write_lock(second).unwrap().write_timeout(Duration::from_secs(90)).await;
        })
    });
    for task in crossed {
        task.await.unwrap();
    }
    // Something goes wrong.
    assert!(semaphore.acquire(4).await.is_err());
    two.shutdown().await;
    assert!(two.read_write_lock("rw").unwrap().read().await.is_err());
    one.shutdown().await;
}

fn leasehold_spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
    Process::current().expect("a simulated process").spawn(work)
}

#[test]
fn each_metric_and_span_is_seen_and_no_other() {
    let (recorded, spans) = told(async {
        let store = MemoryStore::new();
        let living = Process::new(ProcessOptions::default());
        living.spawn(everything(store.clone())).await.unwrap();
        // A process that dies.
        let dying = Process::new(ProcessOptions { seed: 2, ..ProcessOptions::default() });
        let client = builder(&store).build().unwrap();
        let dead = dying.spawn(async move { (client.lock("b").build().unwrap().acquire().await.unwrap(), client) });
        let _dead = dead.await.unwrap();
        dying.kill();
        let client = builder(&store).build().unwrap();
        let next = living.spawn(async move {
            let lock = client.lock("b").build().unwrap();
            lock.acquire_timeout(Duration::from_secs(90)).await.unwrap().release().await.unwrap();
            client.shutdown().await;
        });
        next.await.unwrap();
    });
    let count = |series: &str| recorded.of(series).value.round();
    let samples = |series: &str| recorded.of(series).samples;
    let all = recorded.series();
    for (series, times) in [
        (r#"leasehold.acquire.acquired{kind="lock"}"#, 6.0),
        (r#"leasehold.acquire.acquired{kind="semaphore"}"#, 1.0),
        (r#"leasehold.acquire.failed{kind="lock",reason="held"}"#, 1.0),
        (r#"leasehold.acquire.failed{kind="lock",reason="timed_out"}"#, 1.0),
        (r#"leasehold.acquire.failed{kind="lock",reason="cancelled"}"#, 1.0),
        (r#"leasehold.acquire.failed{kind="lock",reason="held_by_this_task"}"#, 1.0),
        (r#"leasehold.acquire.errors{kind="semaphore",reason="invalid"}"#, 1.0),
        (r#"leasehold.acquire.errors{kind="read_write_lock",reason="shut_down"}"#, 1.0),
        (r#"leasehold.lost{kind="lock",reason="expired"}"#, 1.0),
        (r#"leasehold.lost{kind="semaphore",reason="broken"}"#, 1.0),
        ("leasehold.evicted", 1.0),
        (r#"leasehold.waiting{kind="lock"}"#, 0.0),
        (r#"leasehold.held{kind="semaphore"}"#, 0.0),
    ] {
        assert!(all.iter().any(|one| one == series), "{series} is not among {all:#?}");
        assert!((count(series) - times).abs() < 0.5, "{series} is {}", count(series));
    }
    // The one that died is not told of any more.
    assert!(count(r#"leasehold.held{kind="lock"}"#) <= 1.0);
    let waited = samples(r#"leasehold.acquire.duration{kind="lock",outcome="acquired"}"#);
    assert!(waited.len() == 6 && waited.iter().any(|time| (12.0..15.0).contains(time)), "{waited:?}");
    let held = samples(r#"leasehold.hold.duration{kind="lock"}"#);
    assert!(held.iter().any(|time| (17.0..19.0).contains(time)), "{held:?}");
    assert!(!samples(r#"leasehold.handoff.duration{kind="lock"}"#).is_empty());
    for (liveness, most) in [("session", 30.0), ("own", 9.0)] {
        let slack = samples(&format!("leasehold.renew.slack{{liveness={liveness:?}}}"));
        assert!(!slack.is_empty() && slack.iter().all(|left| (0.1..most).contains(left)), "{liveness}: {slack:?}");
    }
    // What was seen is what is promised.
    let name = |series: &str| series.split('{').next().unwrap().to_owned();
    let seen: BTreeSet<String> = all.iter().map(|series| name(series)).collect();
    assert_eq!(seen, METRICS.iter().map(|metric| metric.name.to_owned()).collect());
    for series in &all {
        let labels = series.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
        let labels: Vec<&str> = labels.split(',').filter_map(|label| label.split('=').next()).collect();
        let metric = METRICS.iter().find(|metric| metric.name == name(series)).unwrap();
        assert_eq!(labels.join(","), metric.labels.join(","), "{series}");
    }
    assert_eq!(*spans.0.lock().unwrap(), documented_spans());
}

#[test]
fn names_of_locks_are_labels_only_where_that_is_asked_for() {
    for by_name in [false, true] {
        let (recorded, _) = told(async move {
            let client = builder(&MemoryStore::new()).metrics_by_name(by_name).build().unwrap();
            let process = Process::new(ProcessOptions::default());
            let work = async move {
                client.lock("order:4711").build().unwrap().acquire().await.unwrap().release().await.unwrap();
                client.shutdown().await;
            };
            process.spawn(work).await.unwrap();
        });
        let series = recorded.series();
        let of_kind = series.iter().filter(|series| series.contains("kind="));
        let (named, all) =
            (of_kind.clone().filter(|series| series.contains(r#"name="order:4711""#)).count(), of_kind.count());
        assert!(all >= 6, "{series:?}");
        assert_eq!(named, if by_name { all } else { 0 }, "{series:?}");
    }
}

/// The rows of the tables in the documentation whose first cell is a name of ours.
fn rows() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/telemetry.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `leasehold."));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn documented_spans() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let spans = rows().leak().iter().filter(|row| matches!(row[1].as_str(), "info" | "debug"));
    let attributes = |cell: &'static str| quoted(cell).into_iter().filter(|name| name.starts_with("leasehold."));
    spans.map(|row| (row[0].trim_matches('`'), attributes(&row[2]).collect())).collect()
}

#[test]
fn the_documentation_lists_exactly_the_metrics_that_there_are() {
    let rows = rows();
    let documented: Vec<_> = rows
        .iter()
        .filter(|row| !matches!(row[1].as_str(), "info" | "debug"))
        .map(|row| (row[0].trim_matches('`'), row[1].as_str(), quoted(&row[2])))
        .collect();
    let there_are: Vec<_> = METRICS
        .iter()
        .map(|metric| {
            let instrument = match metric.instrument {
                Instrument::Counter => "counter",
                Instrument::Gauge => "gauge",
                Instrument::Histogram => "histogram, seconds",
                _ => "?",
            };
            (metric.name, instrument, metric.labels.to_vec())
        })
        .collect();
    assert_eq!(documented, there_are);
}
