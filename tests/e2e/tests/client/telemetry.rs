//! What is measured of real requests, and a trace that goes with a hold.

use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use tracing::span;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::recorder::Recorded;
use crate::support::{client, namespace};

/// The names of the spans that were begun.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<&'static str>>>);

impl<S: tracing::Subscriber> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        if attributes.metadata().target().starts_with("leasehold") {
            self.0.lock().expect("nothing panics here").push(attributes.metadata().name());
        }
    }
}

// One thread: both recorders are its own.
#[tokio::test]
async fn acquisitions_of_real_locks_are_counted_timed_and_traced() -> Result<()> {
    let (recorded, spans) = (Recorded::default(), Spans::default());
    let _spans = tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    let (namespace, _dump) = namespace("measured").await?;
    let (one, two) = (client(&namespace, 6)?, client(&namespace, 6)?);
    // Where another thread came to a span first at the moment at which this one set its subscriber, it is remembered as
    // nobody's. So all are come to, and asked for again.
    let first = one.lock("first").build()?.acquire().await?;
    first.extend().await?;
    first.release().await?;
    tracing::callsite::rebuild_interest_cache();
    spans.0.lock().expect("nothing panics here").clear();
    let _metrics = metrics::set_default_local_recorder(&recorded);
    let (mine, theirs) = (one.lock("a").build()?, two.lock("a").build()?);
    let guard = mine.acquire().await?;
    // Whoever waits can read where the trace of the holder is.
    let trace = "traceparent=00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    guard.publish(trace).await?;
    let seen = theirs.status().await?.holder.and_then(|holder| holder.payload);
    assert_eq!(seen.as_deref(), Some(trace));
    ensure!(theirs.try_acquire().await.is_err());
    guard.extend().await?;
    guard.release().await?;
    let count = |series: &str| recorded.of(series).value.round();
    for (series, times) in [
        (r#"leasehold.acquire.acquired{kind="lock"}"#, 1.0),
        (r#"leasehold.acquire.failed{kind="lock",reason="held"}"#, 1.0),
        (r#"leasehold.held{kind="lock"}"#, 0.0),
    ] {
        ensure!((count(series) - times).abs() < 0.5, "{series} is {}", count(series));
    }
    for series in [
        r#"leasehold.acquire.duration{kind="lock",outcome="acquired"}"#,
        r#"leasehold.hold.duration{kind="lock"}"#,
        r#"leasehold.handoff.duration{kind="lock"}"#,
        r#"leasehold.renew.slack{liveness="session"}"#,
    ] {
        let samples = recorded.of(series).samples;
        ensure!(
            samples.iter().all(|seconds| (0.0..60.0).contains(seconds)) && !samples.is_empty(),
            "{series}: {samples:?}"
        );
    }
    for series in recorded.series() {
        let name = series.split('{').next().unwrap_or_default();
        ensure!(leasehold::telemetry::METRICS.iter().any(|metric| metric.name == name), "{series} is told nowhere");
    }
    let begun = spans.0.lock().expect("nothing panics here").clone();
    for span in ["leasehold.acquire", "leasehold.release", "leasehold.session.renew"] {
        ensure!(begun.contains(&span), "{span} is not among {begun:?}");
    }
    Ok(())
}
