//! What can go wrong, one small enum per operation.

use std::time::Duration;

use crate::protocol::deadlock::Deadlock;

/// Why something that was held is held no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum LossReason {
    /// It was not renewed in time: the API server was out of reach, or this process was paused.
    #[error("it was not renewed in time")]
    Expired,
    /// Somebody took it away, or removed its Lease.
    #[error("somebody took it away or removed its Lease")]
    Broken,
    /// Somebody ended this process's session, or removed its Lease.
    #[error("this process's session was ended")]
    SessionEnded,
    /// It was held for as long as it may be at most.
    #[error("it was held for as long as it may be at most")]
    HeldTooLong,
    /// It was released, by [`Client::shutdown`](crate::Client::shutdown) for example.
    #[error("it was released")]
    Released,
}

/// The lock is not held any more. Stop what it protects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lock {name:?} is lost: {reason}")]
#[non_exhaustive]
pub struct Lost {
    /// The lock's name.
    pub name: String,
    /// Why it is not held any more.
    pub reason: LossReason,
}

impl Lost {
    /// What an implementation of your own ([`provider`](crate::provider)) says.
    #[must_use]
    pub fn new(name: impl Into<String>, reason: LossReason) -> Self {
        Self { name: name.into(), reason }
    }
}

/// What the API server, or the way to it, had against a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// No clear answer came in time.
    #[error("no answer from the API server: {message}")]
    Unavailable {
        /// What was tried last, and what came of it.
        message: String,
    },
    /// The user may not do this. The message names the user and the missing permission.
    #[error("the API server does not allow it: {message}")]
    Forbidden {
        /// The API server's words.
        message: String,
    },
    /// The API server does not take the object.
    #[error("the API server refuses it as invalid: {message}")]
    Invalid {
        /// The API server's words.
        message: String,
    },
}

impl ApiError {
    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Why [`Lock::try_acquire`](crate::Lock::try_acquire) did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TryAcquireError {
    /// Somebody holds the lock, or waits for it.
    #[error("lock {name:?} is held by {}", holder_or_waiter(holder))]
    Held {
        /// The lock's name.
        name: String,
        /// The holder's identity. Empty where the lock is just passing to somebody who waited.
        holder: String,
    },
    /// So many hold it and wait for it that no more find room on its Lease.
    #[error("{}", full(name, *holders, *waiters, None))]
    Full {
        /// The lock's name.
        name: String,
        /// How many hold it.
        holders: usize,
        /// How many wait for it.
        waiters: usize,
    },
    /// The API server did not do it.
    #[error("lock {name:?} was not acquired: {source}")]
    Api {
        /// The lock's name.
        name: String,
        /// What it had against it.
        source: ApiError,
    },
    /// The client was shut down.
    #[error("the client was shut down")]
    ShutDown,
}

impl TryAcquireError {
    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Held { .. } | Self::Full { .. } => true,
            Self::Api { source, .. } => source.is_retryable(),
            Self::ShutDown => false,
        }
    }
}

/// Why [`Lock::acquire`](crate::Lock::acquire) did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// The wait limit has passed. This client does not wait any more.
    #[error("lock {name:?} was not acquired within {waited:?}: it is held by {}", holder_or_waiter(holder))]
    TimedOut {
        /// The lock's name.
        name: String,
        /// Who held it when it was last looked at. Empty where nobody did.
        holder: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// This task has it already (or has not dropped the guard of a hold that was lost), and would wait for itself.
    #[error(
        "this task has a guard of lock {name:?} already, and would wait for itself: pass the guard on instead of acquiring \
         again, or drop it first (where the guard is in other hands, build the lock with `same_task_waits`)"
    )]
    HeldByThisTask {
        /// The lock's name.
        name: String,
    },
    /// It waits for others that wait for what it holds, in a circle, and has come last of them.
    ///
    /// Only where that is [asked for](crate::OnDeadlock::FailYoungest), by this client or by the custom resource
    /// (`deadlocks: BreakYoungest`). Release what is held, and begin again.
    #[error("lock {name:?} can never be acquired, release what is held: {deadlock}")]
    Deadlock {
        /// The lock's name.
        name: String,
        /// Who waits for whom.
        deadlock: Deadlock,
    },
    /// So many wait for it that no more may, or so many hold it and wait for it that no more find room on its Lease.
    #[error("{}", full(name, *holders, *waiters, *limit))]
    Full {
        /// The lock's name.
        name: String,
        /// How many hold it.
        holders: usize,
        /// How many wait for it.
        waiters: usize,
        /// How many may wait at once, where the custom resource says that (`maxWaiters`) and it is in the way.
        limit: Option<u32>,
    },
    /// The API server did not do it.
    #[error("lock {name:?} was not acquired: {source}")]
    Api {
        /// The lock's name.
        name: String,
        /// What it had against it.
        source: ApiError,
    },
    /// The client was shut down.
    #[error("the client was shut down")]
    ShutDown,
}

impl AcquireError {
    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Full { .. } => true,
            Self::Api { source, .. } => source.is_retryable(),
            Self::HeldByThisTask { .. } | Self::Deadlock { .. } | Self::ShutDown => false,
        }
    }
}

fn full(name: &str, holders: usize, waiters: usize, limit: Option<u32>) -> String {
    if let Some(limit) = limit {
        return format!(
            "lock {name:?} is held, and no more may wait for it: {waiters} do, and its custom resource allows {limit} \
             (maxWaiters). Try again later"
        );
    }
    format!(
        "there is no room left on the Lease of {name:?}: {holders} hold it and {waiters} wait. Spread them over several names"
    )
}

fn holder_or_waiter(holder: &str) -> &str {
    if holder.is_empty() { "nobody just now, others are ahead" } else { holder }
}

/// Why [`LockGuard::release`](crate::LockGuard::release) was not a clean one. Either way the guard is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The lock had been lost before: what was done last may have been done without it.
    #[error("the lock had been lost before it was released: {0}")]
    Lost(#[from] Lost),
    /// It could not be told in time whether the release was carried out.
    ///
    /// It is tried on in the background; failing that, the lock passes on when the session or the lease expires.
    #[error("lock {name:?}: it is not clear yet whether the release was carried out; it is being tried further")]
    Unsettled {
        /// The lock's name.
        name: String,
    },
}

impl ReleaseError {
    /// A release is not to be repeated: it goes on by itself.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        false
    }
}

/// Why [`UpgradeableGuard::upgrade_timeout`](crate::UpgradeableGuard::upgrade_timeout) did not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// Others still read after the wait limit. This reader goes on reading.
    #[error("others still read {:?} after {waited:?}", guard.name())]
    TimedOut {
        /// It still reads.
        guard: crate::UpgradeableGuard,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The lock is lost.
    #[error(transparent)]
    Lost(#[from] Lost),
}

impl UpgradeError {
    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }
}

/// Why [`Hold::extend`](crate::Hold::extend) did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtendError {
    /// The lock is lost.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// No clear answer came in time. The lock is held until its present deadline.
    #[error("lock {name:?} was not renewed in time; it is still held until its present deadline")]
    Unavailable {
        /// The lock's name.
        name: String,
    },
}

impl ExtendError {
    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Why [`Hold::publish`](crate::Hold::publish) did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The lock is lost.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The text is too long.
    #[error("{bytes} bytes are too long to be shown beside lock {name:?}: at most 1024 are possible")]
    TooLong {
        /// The lock's name.
        name: String,
        /// How long it is.
        bytes: usize,
    },
    /// It is not shown, and will not be.
    #[error("the text is not shown beside lock {name:?}: {message}")]
    Refused {
        /// The lock's name.
        name: String,
        /// Why.
        message: String,
    },
    /// Another text was published meanwhile.
    #[error("another text was published beside lock {name:?} meanwhile")]
    Superseded {
        /// The lock's name.
        name: String,
    },
}

impl PublishError {
    /// Whether the same call may succeed later with nothing changed by the caller: what is refused today is tomorrow.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        false
    }
}

/// Why holders could not be asked to let go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestReleaseError {
    /// What was to be asked cannot be.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The API server did not do it.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl RequestReleaseError {
    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Read(error) if error.is_retryable())
    }
}

/// Why a hold was not broken ([`Client::break_holds`](crate::Client::break_holds)).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BreakError {
    /// The name or the reason will not do.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// It could not be looked at.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The API server did not do it.
    #[error("{name:?} was not broken: {source}")]
    Api {
        /// What was to be broken.
        name: String,
        /// What the API server had against it.
        source: ApiError,
    },
    /// No clear answer came.
    #[error("no clear answer came for {name:?}: it may have been broken; look at it again")]
    Unsettled {
        /// What was to be broken.
        name: String,
    },
}

impl BreakError {
    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            // Whoever holds it by then may be another: somebody has to look.
            Self::Options(_) | Self::Unsettled { .. } => false,
            Self::Read(error) => error.is_retryable(),
            Self::Api { source, .. } => source.is_retryable(),
        }
    }
}

/// Why a lock could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The API server did not do it.
    #[error("lock {name:?} could not be read: {source}")]
    Api {
        /// The lock's name.
        name: String,
        /// What it had against it.
        source: ApiError,
    },
    /// What stands there is not a lock's Lease.
    #[error(transparent)]
    Malformed(#[from] crate::protocol::Malformed),
}

impl ReadError {
    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Api { source, .. } if source.is_retryable())
    }
}

/// What ended [`Lock::with_lock`](crate::Lock::with_lock) without a clean result. `T` is what the work returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WithLockError<T> {
    /// The lock was not acquired, and the work not begun.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// The lock was lost while the work was going on.
    #[error("{lost}")]
    Lost {
        /// What was lost, and why.
        lost: Lost,
        /// What the work returned, if it was left to finish.
        output: Option<T>,
    },
}

/// Options that do not go together, or a name that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {problem}")]
#[non_exhaustive]
pub struct OptionsError {
    /// The option.
    pub option: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl OptionsError {
    /// What an implementation of your own ([`provider`](crate::provider)) says.
    #[must_use]
    pub fn new(option: &'static str, problem: impl Into<String>) -> Self {
        Self { option, problem: problem.into() }
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An option is wrong.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// No cluster's configuration could be found.
    #[error("no cluster to connect to: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The configuration found cannot be used.
    #[error("the cluster's configuration cannot be used: {0}")]
    Kube(#[from] kube::Error),
}
