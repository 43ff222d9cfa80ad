//! The client crate as this program uses it: one client, one session, one lock.

use std::time::Duration;

use kube::Config;
use leasehold::{
    AcquireError, ApiError, BuildError, Client, Lock, LockGuard, Lost, Progress, ReadWriteLock, ReleaseError,
    TryAcquireError,
};

use crate::exit::{self, Failure, chain};
use crate::forbidden;

/// All that `run` does to Leases.
const VERBS: [&str; 6] = ["get", "watch", "create", "update", "patch", "delete"];
/// How long the last requests may take before this process ends all the same.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// The same when the lock is lost: whoever waits for this process to end is in a hurry.
const HURRIED: Duration = Duration::from_millis(200);

/// One lock, and the client that it belongs to.
#[derive(Debug)]
pub(crate) struct Backend {
    client: Client,
    lock: Lock,
}

/// Why there is no guard.
#[derive(Debug)]
pub(crate) enum NotAcquired {
    /// Somebody else has the lock; this is the identity, where it is known.
    Busy(String),
    Failed(Failure),
}

/// Whatever stands there under this name, for whoever only asks: what can be shared has a word for each holder.
pub(crate) fn anything(config: Config, name: &str, host: &str) -> Result<ReadWriteLock, Failure> {
    let builder = Client::builder().namespace(config.default_namespace.clone()).kube_config(config).host(host);
    let client = builder.build().map_err(|error| not_built(&error))?;
    client.read_write_lock(name).map_err(|error| Failure::usage(chain(&error)))
}

/// How a release went.
#[derive(Debug)]
pub(crate) enum Released {
    Cleanly,
    /// The lock had been lost before.
    Lost(Lost),
    /// It is not known whether it has been carried out. If not, the lock passes on when the lease expires.
    Unclear(String),
}

impl Backend {
    /// The session has the lease duration: this process has no other use for it.
    pub(crate) fn new(config: Config, name: &str, lease_duration: Duration, grace: Duration) -> Result<Self, Failure> {
        let namespace = config.default_namespace.clone();
        let client = Client::builder()
            .kube_config(config)
            .namespace(namespace)
            .session_duration(lease_duration)
            .grace(grace)
            .build()
            .map_err(|error| not_built(&error))?;
        let lock = client.lock(name).build().map_err(|error| Failure::usage(chain(&error)))?;
        Ok(Self { client, lock })
    }

    /// Acquires the lock; waits without a limit, for this long, or for zero not at all.
    pub(crate) async fn acquire(
        &self,
        limit: Option<Duration>,
        progress: impl FnMut(Progress),
    ) -> Result<LockGuard, NotAcquired> {
        if limit == Some(Duration::ZERO) {
            return self.lock.try_acquire().await.map_err(not_tried);
        }
        let acquired = self.lock.acquire_with_progress(limit, progress).await;
        acquired.map_err(|error| match error {
            AcquireError::TimedOut { holder, .. } => NotAcquired::Busy(holder),
            AcquireError::Api { source, .. } => NotAcquired::Failed(refused(&source, &VERBS)),
            error @ AcquireError::Full { .. } => NotAcquired::Failed(Failure::new(exit::NOT_ACQUIRED, chain(&error))),
            error => NotAcquired::Failed(Failure::internal(&error)),
        })
    }

    /// Ends the session, so that nobody has to wait for its expiry. To be called when nothing is done under the lock
    /// any more.
    pub(crate) async fn leave(self, lost: bool) {
        let limit = if lost { HURRIED } else { LAST_WORDS };
        let _ = tokio::time::timeout(limit, self.client.shutdown()).await;
    }
}

/// Gives the lock back.
pub(crate) async fn release(guard: LockGuard) -> Released {
    match tokio::time::timeout(LAST_WORDS, guard.release()).await {
        Ok(Ok(())) => Released::Cleanly,
        Ok(Err(ReleaseError::Lost(lost))) => Released::Lost(lost),
        Ok(Err(error)) => Released::Unclear(chain(&error)),
        Err(_) => Released::Unclear(format!("the API server did not confirm the release within {LAST_WORDS:?}")),
    }
}

fn not_tried(error: TryAcquireError) -> NotAcquired {
    match error {
        TryAcquireError::Held { holder, .. } => NotAcquired::Busy(holder),
        TryAcquireError::Api { source, .. } => NotAcquired::Failed(refused(&source, &VERBS)),
        error @ TryAcquireError::Full { .. } => NotAcquired::Failed(Failure::new(exit::NOT_ACQUIRED, chain(&error))),
        error => NotAcquired::Failed(Failure::internal(&error)),
    }
}

pub(crate) fn refused(error: &ApiError, verbs: &[&str]) -> Failure {
    match error {
        ApiError::Unavailable { message } => {
            Failure::new(exit::UNREACHABLE, format!("the API server cannot be reached: {message}"))
        }
        ApiError::Forbidden { message } => Failure::new(exit::FORBIDDEN, forbidden::explain(message, verbs)),
        error => Failure::usage(chain(error)),
    }
}

fn not_built(error: &BuildError) -> Failure {
    Failure::usage(chain(error))
}
