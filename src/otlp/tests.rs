use std::sync::{Mutex, MutexGuard};
use std::{fmt, io};

use axum::Router;
use axum::routing::post;
use leasehold::protocol::Kind;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing::Instrument as _;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::leases::Failure;
use crate::spans;
use crate::warden::Place;

/// Much longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.bytes()))
    }
}

impl Log {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap()
    }

    fn count(&self, what: &str) -> usize {
        String::from_utf8_lossy(&self.bytes()).matches(what).count()
    }
}

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.bytes().extend(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Until it is dropped, the spans of this thread are exported. Of tests there is one thread each, with all their tasks.
fn export(endpoint: &str) -> (Traces, Log, DefaultGuard) {
    let traces = Traces::start(endpoint, "replica-7", &Handle::current()).unwrap();
    let log = Log::default();
    let writer = {
        let log = log.clone();
        move || log.clone()
    };
    let lines =
        tracing_subscriber::fmt::layer().with_writer(writer).with_filter(Targets::new().with_default(Level::INFO));
    let subscriber = tracing_subscriber::registry().with(lines).with(traces.layer());
    (traces, log, tracing::subscriber::set_default(subscriber))
}

/// A collector that takes everything, and what it gets.
fn collector(listener: TcpListener) -> UnboundedReceiver<Bytes> {
    let (tell, told) = unbounded_channel();
    let take = async move |body: Bytes| {
        let _ = tell.send(body);
    };
    let routes = Router::new().route("/v1/traces", post(take));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    told
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    (listener, endpoint)
}

async fn flush(traces: Traces, limit: Duration) {
    let flushed = tokio::task::spawn_blocking(move || traces.flush(limit));
    tokio::time::timeout(PATIENCE, flushed).await.expect("it does not end").unwrap();
}

/// Sends what there is, whatever becomes of it. The exporting thread may have sent some of it already.
async fn send_all(traces: &Traces) {
    let provider = traces.provider.clone();
    let sent = tokio::task::spawn_blocking(move || provider.force_flush());
    let _ = tokio::time::timeout(PATIENCE, sent).await.expect("it does not end").unwrap();
}

fn has(body: &[u8], what: &str) -> bool {
    body.windows(what.len()).any(|part| part == what.as_bytes())
}

#[tokio::test]
async fn spans_reach_the_collector_before_the_end() {
    let (listener, endpoint) = listen().await;
    let mut told = collector(listener);
    let (traces, log, _default) = export(&format!("{endpoint}/"));
    let place = Place::new("team-a", "nightly");
    let refused: Result<(), _> = spans::request(&place, "evict", async { Err(Failure::Refused) }).await;
    refused.unwrap_err();
    spans::reconcile(&place, Kind::Lock, async {}, |()| "changed").await;
    async {}.instrument(tracing::debug_span!("of no interest")).await;
    flush(traces, PATIENCE).await;

    let body = told.recv().await.unwrap();
    for what in ["leasehold-operator", "replica-7", env!("CARGO_PKG_VERSION"), "service.instance.id"] {
        assert!(has(&body, what), "{what}");
    }
    for what in ["leasehold.operator.request", "team-a/nightly", "evict", "refused"] {
        assert!(has(&body, what), "{what}");
    }
    for what in ["leasehold.operator.reconcile", "changed"] {
        assert!(has(&body, what), "{what}");
    }
    assert!(!has(&body, "of no interest"));
    assert_eq!(log.count("WARN"), 0);
}

#[tokio::test]
async fn a_collector_that_is_not_there_is_told_once_and_stops_nothing() {
    let (listener, endpoint) = listen().await;
    drop(listener);
    let (traces, log, _default) = export(&endpoint);
    for round in 1..=2 {
        // Many more than the queue holds.
        for _ in 0..10_000 {
            tracing::info_span!("much").in_scope(|| ());
        }
        send_all(&traces).await;
        assert_eq!(log.count("traces cannot be exported"), 1, "{round}: {log:?}");
    }
    flush(traces, Duration::from_secs(1)).await;
    assert_eq!(log.count("traces cannot be exported"), 1, "{log:?}");
}

#[tokio::test]
async fn a_collector_that_refuses_and_then_takes_is_told_once_each() {
    let (listener, endpoint) = listen().await;
    let (traces, log, _default) = export(&endpoint);
    let export_one = async || {
        tracing::info_span!("one").in_scope(|| ());
        send_all(&traces).await;
    };
    let (tell, told) = tokio::sync::watch::channel(http::StatusCode::NOT_FOUND);
    let routes = Router::new().route("/v1/traces", post(async move || *told.borrow()));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    export_one().await;
    export_one().await;
    assert_eq!((log.count("it answered 404"), log.count("exported again")), (1, 0), "{log:?}");
    tell.send(http::StatusCode::OK).unwrap();
    export_one().await;
    export_one().await;
    assert_eq!((log.count("it answered 404"), log.count("exported again")), (1, 1), "{log:?}");
    flush(traces, PATIENCE).await;
}

#[tokio::test]
async fn a_collector_that_does_not_answer_does_not_hold_up_the_end() {
    // Connections are taken by the system, and nobody reads.
    let (_listener, endpoint) = listen().await;
    let (traces, log, _default) = export(&endpoint);
    tracing::info_span!("one").in_scope(|| ());
    let limit = Duration::from_millis(50);
    let flushed = tokio::task::spawn_blocking(move || traces.flush(limit));
    tokio::time::timeout(LIMIT.mul_f32(0.8), flushed).await.expect("it waits for the answer").unwrap();
    assert_eq!(log.count("traces cannot be exported"), 0, "{log:?}");
}

#[tokio::test]
async fn what_is_no_url_is_refused() {
    for endpoint in ["collector", "collector:4318", "ftp://collector", "http://", "grpc://collector:4317"] {
        let error = Traces::start(endpoint, "me", &Handle::current()).unwrap_err();
        assert!(format!("{error:#}").contains(&format!("{endpoint:?} is no URL")), "{endpoint}: {error:#}");
    }
}
