//! The Lease API of one namespace, as the driver sees it.

use std::time::Duration;

use ::kube::core::Status;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;

use crate::protocol::record::{KIND, KIND_SESSION, SESSION_PREFIX};
use crate::protocol::{Version, Write};

pub(crate) mod kube;
#[cfg(feature = "memory")]
mod memory;

pub use self::kube::KubeStore;
#[cfg(feature = "memory")]
pub use self::memory::MemoryStore;

/// The Leases of one namespace.
///
/// Every call sends one request, once: whoever calls decides whether to send again, and limits its time.
pub trait Store: std::fmt::Debug + Send + Sync + 'static {
    /// Reads a Lease, consistently: nothing older than the begin of the call.
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>>;

    /// Carries out a write. `None` after a removal; the Lease of a lock that stays, since finalizers are waited for, is
    /// answered as it stands.
    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>>;

    /// All Leases of locks, semaphores and read-write locks, as they stand at one time. It is asked for by whoever waits for
    /// long and looks for a deadlock; a store that cannot tell says so, and none is found.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Lease>, Failure>> {
        async { Err(Failure::Invalid("this store cannot list Leases".to_owned())) }.boxed()
    }

    /// Watches a Lease from this version on, only while it has `label` if one is given. Without a version it begins with
    /// what there is: the Lease is shown if it is there, with the label.
    ///
    /// The stream ends when the API server ends it, and after a failure. An API server that was restarted, or is busy,
    /// no longer knows what happened since an old version, and says so by [`Failure::Refused`].
    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>>;
}

/// The labels of all Leases of ours but sessions.
fn others_than_sessions() -> String {
    format!("{KIND},{KIND}!={KIND_SESSION}")
}

/// Whether what was to be removed stands there all the same. Of a session nobody needs to know: its end does not wait.
fn still_stands(name: &str, lease: &Lease) -> bool {
    let waits = lease.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
    waits && !name.starts_with(SESSION_PREFIX)
}

/// What a watch shows.
#[derive(Clone, Debug)]
pub enum Sight {
    /// The Lease, as it stands.
    Shows(Box<Lease>),
    /// At this version it was removed, or lost the label. How it was then is not told.
    Hides(Version),
    /// Nothing has happened up to this version.
    Reached(Version),
}

/// Why a request did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no such Lease.
    #[error("not found")]
    Absent,
    /// The condition did not hold. Nothing was written.
    #[error("refused: the object is not as it was seen")]
    Refused,
    /// Too many requests, or not logged in. Nothing was written, and later it may be.
    #[error("not now: {0}")]
    Throttled(String),
    /// Not allowed. Nothing was written.
    #[error("{0}")]
    Forbidden(String),
    /// Not valid. Nothing was written.
    #[error("{0}")]
    Invalid(String),
    /// Whether it was carried out cannot be told.
    #[error("{0}")]
    Unclear(String),
}

impl Failure {
    /// What an API server's answer means.
    pub(crate) fn of(status: &Status) -> Self {
        match status.code {
            404 => Self::Absent,
            // Also of a version from which on nothing can be watched any more.
            409 | 410 => Self::Refused,
            // A `test` of a JSON Patch that fails, and an object that is not valid, answer the same code.
            422 if status.details.as_ref().is_none_or(|details| details.causes.is_empty()) => Self::Refused,
            400 | 405 | 413 | 415 | 422 => Self::Invalid(status.message.clone()),
            401 | 429 => Self::Throttled(status.message.clone()),
            403 => Self::Forbidden(status.message.clone()),
            code => Self::Unclear(format!("{code}: {}", status.message)),
        }
    }
}

/// A request that is given up after `limit`. What came of it is then not known.
pub(crate) async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let late = || Err(Failure::Unclear(format!("no answer within {limit:?}")));
    tokio::time::timeout(limit, request).await.unwrap_or_else(|_| late())
}
