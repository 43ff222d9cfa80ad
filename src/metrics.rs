//! What the operator counts, for Prometheus.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kube::Resource as _;
use leasehold::Failure;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::crd::{DistributedLock, ReadWriteLock, Semaphore};
use crate::warden::{Census, Done, Longest};

/// Every metric, registered under `leasehold_`.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    reconciles: Family<Outcome, Counter>,
    reconcile_seconds: Histogram,
    status_writes: Family<Outcome, Counter>,
    events: Family<Outcome, Counter>,
    locks: Family<ByState, Gauge>,
    permits: Family<ByState, Gauge>,
    waiters: Gauge,
    sessions: Gauge,
    longest_hold: Family<ByLiveness, Gauge<f64, AtomicU64>>,
    longest_contended_hold: Family<ByLiveness, Gauge<f64, AtomicU64>>,
    longest_wait: Family<ByLiveness, Gauge<f64, AtomicU64>>,
    leading: Gauge,
    sessions_ended: Family<ByReason, Counter>,
    evidence: Gauge,
    sessions_swept: Counter,
    evictions: Family<Heir, Counter>,
    deadlocks: Counter,
    told_to_give_up: Counter,
    grants: Counter,
    waiters_passed_over: Counter,
    leases_removed: Counter,
    lease_requests_failed: Family<FailedRequest, Counter>,
    watch_errors: Family<Watched, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLiveness {
    liveness: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Heir {
    to: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailedRequest {
    request: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Watched {
    resource: String,
}

const BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

/// Why a request for a Lease fails.
const REASONS: [&str; 6] = ["absent", "refused", "throttled", "forbidden", "invalid", "unclear"];

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("leasehold"),
            reconciles: Family::default(),
            reconcile_seconds: Histogram::new(BUCKETS),
            status_writes: Family::default(),
            events: Family::default(),
            locks: Family::default(),
            permits: Family::default(),
            waiters: Gauge::default(),
            sessions: Gauge::default(),
            longest_hold: Family::default(),
            longest_contended_hold: Family::default(),
            longest_wait: Family::default(),
            leading: Gauge::default(),
            sessions_ended: Family::default(),
            evidence: Gauge::default(),
            sessions_swept: Counter::default(),
            evictions: Family::default(),
            deadlocks: Counter::default(),
            told_to_give_up: Counter::default(),
            grants: Counter::default(),
            waiters_passed_over: Counter::default(),
            leases_removed: Counter::default(),
            lease_requests_failed: Family::default(),
            watch_errors: Family::default(),
        };
        metrics.register();
        metrics.begin_at_zero();
        metrics
    }

    /// What has not happened yet is told as 0: where a counter first appears with 1, nobody sees it rise.
    fn begin_at_zero(&self) {
        for result in [outcome(true), outcome(false)] {
            let _ = self.reconciles.get_or_create(&result);
            let _ = self.status_writes.get_or_create(&result);
            let _ = self.events.get_or_create(&result);
        }
        for to in ["waiter", "nobody"] {
            let _ = self.evictions.get_or_create(&Heir { to });
        }
        for reason in ["silence", "evidence"] {
            let _ = self.sessions_ended.get_or_create(&ByReason { reason });
        }
        for request in ["read", "write"] {
            for reason in REASONS {
                let _ = self.lease_requests_failed.get_or_create(&FailedRequest { request, reason });
            }
        }
        let plurals = [DistributedLock::plural(&()), Semaphore::plural(&()), ReadWriteLock::plural(&())];
        for resource in plurals.into_iter().map(Cow::into_owned).chain(["leases", "pods"].map(str::to_owned)) {
            let _ = self.watch_errors.get_or_create(&Watched { resource });
        }
    }

    fn register(&mut self) {
        let to = &mut self.registry;
        to.register("reconciles", "Reconciles of custom resources, by result", self.reconciles.clone());
        to.register("reconcile_seconds", "How long a reconcile took", self.reconcile_seconds.clone());
        to.register("status_writes", "Writes of status, by result", self.status_writes.clone());
        to.register("events", "Events published, by result", self.events.clone());
        to.register("locks", "Leases of locks, semaphores and read-write locks, by state", self.locks.clone());
        to.register("permits", "Permits of all semaphores, by state", self.permits.clone());
        to.register("waiters", "Who waits for any lock", self.waiters.clone());
        to.register("sessions", "Client sessions observed", self.sessions.clone());
        to.register(
            "longest_hold_seconds",
            "The longest that anything is held now, since this replica first saw it, by what the holder lives by",
            self.longest_hold.clone(),
        );
        to.register(
            "longest_contended_hold_seconds",
            "The longest that anything is held now that somebody waits for, since this replica first saw it",
            self.longest_contended_hold.clone(),
        );
        to.register(
            "longest_wait_seconds",
            "The longest that anybody waits now, since this replica first saw it, by what it wants to live by",
            self.longest_wait.clone(),
        );
        to.register("leading", "Whether this replica acts: 1, or 0 while it stands by", self.leading.clone());
        to.register("sessions_ended", "Sessions ended: they fell silent, or by evidence", self.sessions_ended.clone());
        to.register("evidence", "Whether Pods are watched: 1, or 0 without evidence", self.evidence.clone());
        to.register("sessions_swept", "Tombstones of ended sessions removed", self.sessions_swept.clone());
        to.register("deadlocks", "Clients that waited for each other in a circle", self.deadlocks.clone());
        to.register(
            "told_to_give_up",
            "Waiters told to give up, since they waited in a circle",
            self.told_to_give_up.clone(),
        );
        to.register("evictions", "Holders evicted, by who got the lock", self.evictions.clone());
        to.register(
            "grants",
            "Waiters let in by the operator, since they did not go ahead themselves",
            self.grants.clone(),
        );
        to.register("waiters_passed_over", "Dead waiters removed from queues", self.waiters_passed_over.clone());
        to.register("leases_removed", "Unused Leases of locks removed", self.leases_removed.clone());
        to.register(
            "lease_requests_failed",
            "Requests for Leases that failed (refused: somebody else was faster), by reason",
            self.lease_requests_failed.clone(),
        );
        to.register("watch_errors", "Errors of watches, by resource", self.watch_errors.clone());
    }

    pub(crate) fn reconciled(&self, ok: bool, took: Duration) {
        self.reconciles.get_or_create(&outcome(ok)).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn wrote_status(&self, ok: bool) {
        self.status_writes.get_or_create(&outcome(ok)).inc();
    }

    pub(crate) fn deadlock(&self) {
        self.deadlocks.inc();
    }

    pub(crate) fn published(&self, ok: bool) {
        self.events.get_or_create(&outcome(ok)).inc();
    }

    pub(crate) fn watch_failed(&self, resource: &str) {
        self.watch_errors.get_or_create(&Watched { resource: resource.to_owned() }).inc();
    }

    /// Whether Pods are watched, in every namespace that is meant.
    pub(crate) fn watches_pods(&self, watched: bool) {
        self.evidence.set(watched.into());
    }

    pub(crate) fn lease_request_failed(&self, request: &'static str, failure: &Failure) {
        let reason = reason(failure);
        self.lease_requests_failed.get_or_create(&FailedRequest { request, reason }).inc();
    }

    pub(crate) fn done(&self, done: Done) {
        match done {
            Done::SessionEnded { by_evidence } => {
                let reason = if by_evidence { "evidence" } else { "silence" };
                self.sessions_ended.get_or_create(&ByReason { reason }).inc()
            }
            Done::SessionSwept => self.sessions_swept.inc(),
            Done::HoldersEvicted { count, granted } => {
                let to = if granted { "waiter" } else { "nobody" };
                self.evictions.get_or_create(&Heir { to }).inc_by(many(count))
            }
            Done::Granted(count) => self.grants.inc_by(many(count)),
            Done::WaitersPassedOver(count) => self.waiters_passed_over.inc_by(many(count)),
            Done::LeaseRemoved => self.leases_removed.inc(),
            Done::ToldToGiveUp => self.told_to_give_up.inc(),
        };
    }

    /// Everything in the text format of `OpenMetrics`.
    pub(crate) fn encode(&self, census: Census, longest: Longest, leading: bool) -> String {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (state, permits) in [("held", census.permits_held), ("available", census.permits_available)] {
            self.permits.get_or_create(&ByState { state }).set(i64::try_from(permits).unwrap_or(i64::MAX));
        }
        self.locks.get_or_create(&ByState { state: "held" }).set(number(census.held));
        self.locks.get_or_create(&ByState { state: "free" }).set(number(census.free));
        self.waiters.set(number(census.waiters));
        self.sessions.set(number(census.sessions));
        for (family, times) in [
            (&self.longest_hold, longest.hold),
            (&self.longest_contended_hold, longest.contended_hold),
            (&self.longest_wait, longest.wait),
        ] {
            for (liveness, time) in [("session", times.session), ("own", times.own)] {
                family.get_or_create(&ByLiveness { liveness }).set(time.as_secs_f64());
            }
        }
        self.leading.set(leading.into());
        let mut out = String::new();
        if text::encode(&mut out, &self.registry).is_err() {
            let _ = writeln!(out, "# the metrics could not be written");
        }
        out
    }
}

fn many(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// A failure in one word.
pub(crate) fn reason(failure: &Failure) -> &'static str {
    match failure {
        Failure::Absent => "absent",
        Failure::Refused => "refused",
        Failure::Throttled(_) => "throttled",
        Failure::Forbidden(_) => "forbidden",
        Failure::Invalid(_) => "invalid",
        Failure::Unclear(_) => "unclear",
    }
}

fn outcome(ok: bool) -> Outcome {
    Outcome { result: if ok { "ok" } else { "error" } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_happened_yet_is_told_as_zero() {
        let metrics = Metrics::new();
        let told = metrics.encode(Census::default(), Longest::default(), false);
        for line in [
            "leasehold_evictions_total{to=\"nobody\"} 0",
            "leasehold_lease_requests_failed_total{request=\"write\",reason=\"forbidden\"} 0",
            "leasehold_watch_errors_total{resource=\"semaphores\"} 0",
            "leasehold_longest_hold_seconds{liveness=\"own\"} 0.0",
        ] {
            assert!(told.lines().any(|one| one == line), "{line} is not in\n{told}");
        }
        let rows = told.lines().filter(|line| !line.starts_with('#')).count();
        metrics.lease_request_failed("write", &Failure::Forbidden(String::new()));
        metrics.lease_request_failed("read", &Failure::Unclear(String::new()));
        metrics.watch_failed("leases");
        let told = metrics.encode(Census::default(), Longest::default(), false);
        assert_eq!(told.lines().filter(|line| !line.starts_with('#')).count(), rows, "{told}");
    }
}
