//! The operator's own spans. At `debug`, so that no line of the log at `info` is longer for them.

use leasehold::protocol::Kind;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::leases::Failure;
use crate::metrics::reason;
use crate::warden::Place;

/// One request of the warden, from when it is sent until it is answered.
pub(crate) async fn request<T>(
    place: &Place,
    what: &'static str,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let span = tracing::debug_span!(
        "leasehold.operator.request",
        leasehold.place = %place,
        leasehold.request = what,
        leasehold.outcome = Empty,
    );
    told(span, answer, |answer| answer.as_ref().err().map_or("ok", reason)).await
}

/// One look at a resource, with all that is done about it.
pub(crate) async fn reconcile<T>(
    place: &Place,
    kind: Kind,
    steps: impl Future<Output = T>,
    outcome: impl FnOnce(&T) -> &'static str,
) -> T {
    // As clients call it.
    let kind = match kind {
        Kind::Lock => "lock",
        Kind::Semaphore => "semaphore",
        Kind::ReadWriteLock => "read_write_lock",
    };
    let span = tracing::debug_span!(
        "leasehold.operator.reconcile",
        leasehold.place = %place,
        leasehold.lock.kind = kind,
        leasehold.outcome = Empty,
    );
    told(span, steps, outcome).await
}

async fn told<T>(span: Span, work: impl Future<Output = T>, outcome: impl FnOnce(&T) -> &'static str) -> T {
    let done = work.instrument(span.clone()).await;
    span.record("leasehold.outcome", outcome(&done));
    done
}
