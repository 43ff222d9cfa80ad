//! What a client tells of itself: spans (by `tracing`), and with the feature `metrics` counters, gauges and histograms (by
//! the `metrics` facade, so that the program chooses where they go). Every name is in this file.
//!
//! Nothing is measured where the feature is off. Where it is on and the program installs no recorder, an acquisition costs
//! some atomic reads.

use std::sync::Arc;

use tracing::Span;
use tracing::field::Empty;

use crate::clock;
use crate::error::{AcquireError, ApiError, LossReason, ReleaseError, TryAcquireError};
use crate::protocol::{Kind, Moment, session};

/// Something that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub instrument: Instrument,
    /// Its labels, but for `name`: the lock's, with `metrics_by_name`, on all that have `kind`.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Instrument {
    /// It only grows.
    Counter,
    /// It is as it is just now.
    Gauge,
    /// Times in seconds.
    Histogram,
}

use Instrument::{Counter, Gauge, Histogram};

const fn metric(
    name: &'static str,
    instrument: Instrument,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, instrument, labels, help }
}

/// Whether anything is measured.
const ON: bool = cfg!(feature = "metrics");

const KIND: &str = "kind";
const REASON: &str = "reason";

const ACQUIRE_DURATION: Metric = metric(
    "leasehold.acquire.duration",
    Histogram,
    &[KIND, "outcome"],
    "How long an acquisition took, whatever came of it",
);
const ACQUIRED: Metric = metric("leasehold.acquire.acquired", Counter, &[KIND], "Acquisitions that succeeded");
const FAILED: Metric = metric(
    "leasehold.acquire.failed",
    Counter,
    &[KIND, REASON],
    "Acquisitions that did not, because of others who hold it or wait, or because of the caller",
);
const ERRORS: Metric =
    metric("leasehold.acquire.errors", Counter, &[KIND, REASON], "Acquisitions that something went wrong with");
const WAITING: Metric = metric("leasehold.waiting", Gauge, &[KIND], "Acquisitions that are going on");
const HELD: Metric = metric("leasehold.held", Gauge, &[KIND], "What is held");
const HOLD_DURATION: Metric =
    metric("leasehold.hold.duration", Histogram, &[KIND], "How long something was held, until it was released or lost");
const HANDOFF_DURATION: Metric = metric(
    "leasehold.handoff.duration",
    Histogram,
    &[KIND],
    "How long it took from a release until the API server had carried it out, and with it the hand-off to who is next",
);
const RENEW_SLACK: Metric = metric(
    "leasehold.renew.slack",
    Histogram,
    &["liveness"],
    "How much time was left when a renewal succeeded: the nearer to zero, the nearer to a loss",
);
const LOST: Metric = metric("leasehold.lost", Counter, &[KIND, REASON], "Holds that were lost");
const EVICTED: Metric = metric(
    "leasehold.evicted",
    Counter,
    &[],
    "Sessions of other processes that had died and that this client ended, so that what they held passes on",
);

const DEADLOCKS: Metric =
    metric("leasehold.deadlocks", Counter, &[KIND], "Deadlocks that an acquisition of this client was found to be in");

/// Everything that is measured, in the order of `docs/telemetry.md`.
pub const METRICS: &[Metric] = &[
    ACQUIRE_DURATION,
    ACQUIRED,
    FAILED,
    ERRORS,
    WAITING,
    HELD,
    HOLD_DURATION,
    HANDOFF_DURATION,
    RENEW_SLACK,
    LOST,
    EVICTED,
    DEADLOCKS,
];

/// Tells the program's recorder what each metric means, and its unit. Call it once, after a recorder is installed. Feature
/// `metrics`.
#[cfg(feature = "metrics")]
pub fn describe() {
    for metric in METRICS {
        match metric.instrument {
            Counter => metrics::describe_counter!(metric.name, metrics::Unit::Count, metric.help),
            Gauge => metrics::describe_gauge!(metric.name, metrics::Unit::Count, metric.help),
            Histogram => metrics::describe_histogram!(metric.name, metrics::Unit::Seconds, metric.help),
        }
    }
}

/// What a client's measurements are labelled with.
#[derive(Clone, Debug)]
pub(crate) struct Labels {
    kind: &'static str,
    /// Only where it was asked for: names may be many.
    #[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "nothing is measured"))]
    name: Option<Arc<str>>,
}

impl Labels {
    pub(crate) fn new(kind: Kind, name: &Arc<str>, by_name: bool) -> Self {
        Self { kind: kind_name(kind), name: by_name.then(|| name.clone()) }
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Lock => "lock",
        Kind::Semaphore => "semaphore",
        Kind::ReadWriteLock => "read_write_lock",
    }
}

/// Recorded by the facade, or not at all.
#[cfg(feature = "metrics")]
mod record {
    use std::time::Duration;

    use metrics::Label;

    use super::{Labels, Metric};

    fn labels(of: Option<&Labels>, more: Option<(&'static str, &'static str)>) -> Vec<Label> {
        let kind = of.map(|labels| Label::from_static_parts(super::KIND, labels.kind));
        let name = of.and_then(|labels| labels.name.as_ref()).map(|name| Label::new("name", name.clone()));
        let more = more.map(|(key, value)| Label::from_static_parts(key, value));
        kind.into_iter().chain(name).chain(more).collect()
    }

    pub(super) fn count(metric: &Metric, of: Option<&Labels>, more: Option<(&'static str, &'static str)>) {
        metrics::counter!(metric.name, labels(of, more)).increment(1);
    }

    pub(super) fn add(metric: &Metric, of: &Labels, change: f64) {
        metrics::gauge!(metric.name, labels(Some(of), None)).increment(change);
    }

    pub(super) fn time(
        metric: &Metric,
        of: Option<&Labels>,
        more: Option<(&'static str, &'static str)>,
        time: Duration,
    ) {
        metrics::histogram!(metric.name, labels(of, more)).record(time.as_secs_f64());
    }
}

#[cfg(not(feature = "metrics"))]
mod record {
    use std::time::Duration;

    use super::{Labels, Metric};

    pub(super) fn count(_: &Metric, _: Option<&Labels>, _: Option<(&'static str, &'static str)>) {}

    pub(super) fn add(_: &Metric, _: &Labels, _: f64) {}

    pub(super) fn time(_: &Metric, _: Option<&Labels>, _: Option<(&'static str, &'static str)>, _: Duration) {}
}

/// An acquisition that is going on. Dropped before its end is told, it was cancelled.
#[derive(Debug)]
pub(crate) struct Attempt {
    labels: Labels,
    begun: Moment,
    span: Span,
    told: bool,
}

impl Attempt {
    pub(crate) fn new(labels: Labels, namespace: &str, name: &str) -> Self {
        let span = tracing::info_span!(
            "leasehold.acquire",
            leasehold.lock.kind = labels.kind,
            leasehold.lock.namespace = namespace,
            leasehold.lock.name = name,
            leasehold.outcome = Empty,
            leasehold.reason = Empty,
            leasehold.waited = Empty,
            leasehold.token = Empty,
            leasehold.holder_identity = Empty,
        );
        record::add(&WAITING, &labels, 1.0);
        Self { labels, begun: clock::moment(), span, told: false }
    }

    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    pub(crate) fn tell<E>(&mut self, outcome: &Result<crate::hold::Hold, E>)
    where
        for<'a> &'a E: Into<Why>,
    {
        match outcome {
            Ok(hold) => self.acquired(hold),
            Err(error) => self.not_acquired(error),
        }
    }

    fn acquired(&mut self, hold: &crate::hold::Hold) {
        self.span.record("leasehold.token", hold.token());
        if !self.span.is_disabled() {
            self.span.record("leasehold.holder_identity", hold.holder_identity());
        }
        record::count(&ACQUIRED, Some(&self.labels), None);
        self.end("acquired", None);
    }

    /// Whether it failed (somebody is in the way) or something went wrong, and why.
    fn not_acquired(&mut self, why: impl Into<Why>) {
        let (outcome, reason) = why.into().0;
        let metric = if outcome == "failed" { &FAILED } else { &ERRORS };
        record::count(metric, Some(&self.labels), Some((REASON, reason)));
        self.end(outcome, Some(reason));
    }

    fn end(&mut self, outcome: &'static str, reason: Option<&'static str>) {
        self.told = true;
        let waited = clock::moment().since(self.begun);
        self.span.record("leasehold.outcome", outcome);
        if let Some(reason) = reason {
            self.span.record("leasehold.reason", reason);
        }
        self.span.record("leasehold.waited", waited.as_secs_f64());
        record::add(&WAITING, &self.labels, -1.0);
        record::time(&ACQUIRE_DURATION, Some(&self.labels), Some(("outcome", outcome)), waited);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.told {
            self.not_acquired(Why(("failed", "cancelled")));
        }
    }
}

/// An acquisition is in a deadlock.
pub(crate) fn deadlock(labels: &Labels) {
    record::count(&DEADLOCKS, Some(labels), None);
}

/// What became of an acquisition, and why.
pub(crate) struct Why((&'static str, &'static str));

impl From<&AcquireError> for Why {
    fn from(error: &AcquireError) -> Self {
        Self(match error {
            AcquireError::TimedOut { .. } => ("failed", "timed_out"),
            AcquireError::HeldByThisTask { .. } => ("failed", "held_by_this_task"),
            AcquireError::Deadlock { .. } => ("failed", "deadlock"),
            AcquireError::Full { .. } => ("failed", "full"),
            AcquireError::Api { source, .. } => ("error", api(source)),
            AcquireError::ShutDown => ("error", "shut_down"),
        })
    }
}

impl From<&TryAcquireError> for Why {
    fn from(error: &TryAcquireError) -> Self {
        Self(match error {
            TryAcquireError::Held { .. } => ("failed", "held"),
            TryAcquireError::Full { .. } => ("failed", "full"),
            TryAcquireError::Api { source, .. } => ("error", api(source)),
            TryAcquireError::ShutDown => ("error", "shut_down"),
        })
    }
}

fn api(error: &ApiError) -> &'static str {
    match error {
        ApiError::Unavailable { .. } => "unavailable",
        ApiError::Forbidden { .. } => "forbidden",
        ApiError::Invalid { .. } => "invalid",
    }
}

/// A hold, from before it is one to after.
#[derive(Debug)]
pub(crate) struct Course {
    labels: Labels,
    acquired: Option<Moment>,
    leaving: Option<Moment>,
}

impl Course {
    pub(crate) fn new(labels: Labels) -> Self {
        Self { labels, acquired: None, leaving: None }
    }

    /// Somebody else goes on telling of it.
    pub(crate) fn hand_over(&mut self) -> Self {
        let empty = Self::new(self.labels.clone());
        std::mem::replace(self, empty)
    }

    pub(crate) fn acquired(&mut self) {
        self.acquired = ON.then(clock::moment);
        record::add(&HELD, &self.labels, 1.0);
    }

    pub(crate) fn leaving(&mut self) {
        self.over();
        self.leaving = ON.then(clock::moment);
    }

    pub(crate) fn left(&mut self) {
        if let Some(since) = self.leaving.take() {
            record::time(&HANDOFF_DURATION, Some(&self.labels), None, clock::moment().since(since));
        }
    }

    pub(crate) fn lost(&mut self, reason: LossReason) {
        let reason = match reason {
            LossReason::Expired => "expired",
            LossReason::Broken => "broken",
            LossReason::SessionEnded => "session_ended",
            LossReason::HeldTooLong => "held_too_long",
            LossReason::Released => return,
        };
        if self.acquired.is_some() {
            record::count(&LOST, Some(&self.labels), Some((REASON, reason)));
        }
        self.over();
    }

    pub(crate) fn over(&mut self) {
        if let Some(since) = self.acquired.take() {
            record::add(&HELD, &self.labels, -1.0);
            record::time(&HOLD_DURATION, Some(&self.labels), None, clock::moment().since(since));
        }
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        self.over();
    }
}

/// A renewal has succeeded. Until `deadline` it would have been held without it.
pub(crate) fn renewed(liveness: &'static str, deadline: Moment) {
    record::time(&RENEW_SLACK, None, Some(("liveness", liveness)), deadline.since(clock::moment()));
}

/// Somebody else's session was ended.
pub(crate) fn evicted() {
    record::count(&EVICTED, None, None);
}

/// The span of a release.
pub(crate) fn release_span(name: &str, token: u64) -> Span {
    tracing::info_span!(
        "leasehold.release",
        leasehold.lock.name = name,
        leasehold.token = token,
        leasehold.outcome = Empty,
    )
}

/// How a release went.
pub(crate) fn released(span: &Span, outcome: &Result<(), ReleaseError>) {
    let outcome = match outcome {
        Ok(()) => "released",
        Err(ReleaseError::Lost(_)) => "lost",
        Err(ReleaseError::Unsettled { .. }) => "unsettled",
    };
    span.record("leasehold.outcome", outcome);
}

/// The span of a request that keeps this client's own session alive, or looks at it.
pub(crate) fn renewal_span(lease: &str) -> Span {
    tracing::debug_span!("leasehold.session.renew", leasehold.session = lease, leasehold.outcome = Empty)
}

/// How it went.
pub(crate) fn renewal(answer: &session::Answer) {
    let outcome = match answer {
        session::Answer::Is(_) => "renewed",
        session::Answer::Absent => "absent",
        session::Answer::Refused => "refused",
        session::Answer::Unclear => "unclear",
    };
    Span::current().record("leasehold.outcome", outcome);
}
