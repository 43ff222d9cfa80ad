//! What every implementation of [`provider`](crate::provider) has to do: ours, and yours.
//!
//! Each function here takes what makes providers, and panics at the first rule that is broken, saying which. Every provider
//! stands for a *process* of its own, and all of them share one state: clients of one cluster, of one
//! [`MemoryStore`](crate::MemoryStore), or connections to one database. What an implementation does not promise is not
//! asked of it ([`Promises`]). Every rule takes names of its own, so it can be run again on the same state; a guard has to
//! have the name that was asked for, so give clients no key prefix here. It takes some seconds, for what has to expire.
//!
//! # Examples
//!
//! ```
//! use std::sync::Arc;
//!
//! use leasehold::testing::conformance::{self, Promises};
//! use leasehold::{Client, MemoryStore};
//!
//! # #[tokio::main]
//! # async fn main() {
//! let store = MemoryStore::new();
//! let process = async || {
//!     let client = Client::builder().store(Arc::new(store.clone())).build().unwrap();
//!     Arc::new(client) as Arc<dyn leasehold::provider::LockProvider>
//! };
//! conformance::lock(process, Promises::all()).await;
//! # }
//! ```

mod exclusive;
mod rwlock;
mod semaphore;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::access::Progress;
use crate::error::{AcquireError, TryAcquireError};
use crate::provider::{
    AnyGuard, AnyLock, HoldOptions, LockProvider, Provider, ReadWriteLockProvider, SemaphoreProvider,
    UpgradeableReadWriteLockProvider,
};
use exclusive::Exclusive;

/// Within this time has to come about what must come about at all: one minute.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The wait limit of those who are to wait in vain, and the term of what is to expire.
const LIMIT: Duration = Duration::from_millis(300);
const TERM: Duration = Duration::from_secs(1);

/// What an implementation promises. What it does not is not asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a promise of its own")]
pub struct Promises {
    /// Nobody has what another has, and whoever cannot have it waits, for as long as he said.
    pub exclusion: bool,
    /// Waiters are served in the order in which they came. It needs [`exclusion`](Self::exclusion), and locks and semaphores
    /// that tell how a wait is going.
    pub order: bool,
    /// Tokens grow, over all processes.
    pub tokens: bool,
    /// What is held for a time without renewal is lost after it.
    pub expiry: bool,
    /// [`Provider::shutdown`] gives back what is held.
    pub shutdown: bool,
}

impl Promises {
    /// Everything: what this crate's clients keep, in a cluster and in memory.
    #[must_use]
    pub fn all() -> Self {
        Self { exclusion: true, order: true, tokens: true, expiry: true, shutdown: true }
    }

    /// Nothing but that acquisitions succeed, and guards tell what they are.
    #[must_use]
    pub fn none() -> Self {
        Self { exclusion: false, order: false, tokens: false, expiry: false, shutdown: false }
    }
}

/// Everything that is asked of any primitive, and of [`Provider::shutdown`].
///
/// # Panics
/// Where a rule is broken.
pub async fn all(process: impl AsyncFn() -> Arc<dyn Provider>, promises: Promises) {
    lock(async || process().await as Arc<dyn LockProvider>, promises).await;
    semaphore(async || process().await as Arc<dyn SemaphoreProvider>, promises).await;
    read_write_lock(async || process().await as Arc<dyn ReadWriteLockProvider>, promises).await;
    let upgradeable = async || process().await as Arc<dyn UpgradeableReadWriteLockProvider>;
    upgradeable_read_write_lock(upgradeable, promises).await;
    if promises.shutdown {
        a_shutdown_gives_back_what_is_held(process).await;
    }
}

/// What is asked of a lock.
///
/// # Panics
/// Where a rule is broken.
pub async fn lock(process: impl AsyncFn() -> Arc<dyn LockProvider>, promises: Promises) {
    let make = async |name: &str, options: HoldOptions| {
        let lock = process().await.lock_with(name, &options).expect("a lock of this name");
        assert_eq!(lock.name(), name, "a lock does not know its name");
        Arc::new(Mutex(lock)) as Arc<dyn Exclusive>
    };
    exclusive::all("lock", make, promises).await;
}

/// What is asked of a semaphore.
///
/// # Panics
/// Where a rule is broken.
pub async fn semaphore(process: impl AsyncFn() -> Arc<dyn SemaphoreProvider>, promises: Promises) {
    semaphore::all(process, promises).await;
}

/// What is asked of a read-write lock.
///
/// # Panics
/// Where a rule is broken.
pub async fn read_write_lock(process: impl AsyncFn() -> Arc<dyn ReadWriteLockProvider>, promises: Promises) {
    rwlock::all(process, promises).await;
}

/// What is asked of a read-write lock one of whose readers can become the writer, beside what is asked of any.
///
/// # Panics
/// Where a rule is broken.
pub async fn upgradeable_read_write_lock(
    process: impl AsyncFn() -> Arc<dyn UpgradeableReadWriteLockProvider>,
    promises: Promises,
) {
    rwlock::upgradeable(process, promises).await;
}

struct Mutex(Arc<dyn AnyLock>);

impl Exclusive for Mutex {
    fn try_acquire(&self) -> BoxFuture<'_, Result<Box<dyn AnyGuard>, TryAcquireError>> {
        self.0.try_acquire()
    }

    fn acquire<'a>(
        &'a self,
        limit: Option<Duration>,
        progress: &'a mut (dyn FnMut(Progress) + Send),
    ) -> BoxFuture<'a, Result<Box<dyn AnyGuard>, AcquireError>> {
        self.0.acquire_with_progress(limit, progress)
    }
}

async fn a_shutdown_gives_back_what_is_held(process: impl AsyncFn() -> Arc<dyn Provider>) {
    let name = name("shutdown");
    let (one, two) = (process().await, process().await);
    let lock = one.lock(&name).expect("a lock of this name");
    let guard = get(lock.acquire(), "a free lock").await;
    let lost = guard.lost();
    soon(one.shutdown(), "a shutdown comes to its end").await;
    assert!(guard.check().is_err(), "{name}: a guard still checks after its provider was shut down");
    soon(lost.cancelled(), "lost() fires when its provider is shut down").await;
    let next = two.lock(&name).expect("a lock of this name");
    let next = get(next.acquire(), "a lock whose holder was shut down").await;
    let refused = soon(lock.acquire(), "an acquisition after a shutdown fails").await;
    assert!(
        matches!(refused, Err(AcquireError::ShutDown)),
        "{name}: after a shutdown an acquisition must say so, and not {refused:?}"
    );
    release(next).await;
}

/// A name that nobody has used before.
fn name(rule: &str) -> String {
    format!("conformance-{rule}-{:016x}", crate::task::random())
}

/// Waits for what has to come about.
async fn soon<T>(what: impl Future<Output = T>, rule: &str) -> T {
    tokio::time::timeout(PATIENCE, what).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {rule}"))
}

/// Waits until a try succeeds.
async fn eventually<T, E>(rule: &str, attempt: impl AsyncFn() -> Result<T, E>) -> T {
    let trying = async {
        loop {
            match attempt().await {
                Ok(done) => return done,
                Err(_) => crate::clock::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    soon(trying, rule).await
}

/// Waits for an acquisition that has to succeed.
async fn get<T, E: Debug>(acquisition: impl Future<Output = Result<T, E>>, what: &str) -> T {
    match soon(acquisition, &format!("{what} is acquired")).await {
        Ok(acquired) => acquired,
        Err(error) => panic!("{what} was not acquired: {error:?}"),
    }
}

async fn release(guard: Box<dyn AnyGuard>) {
    let name = guard.name().to_owned();
    let released = soon(guard.release(), "a release comes to its end").await;
    assert!(released.is_ok(), "{name}: what was held to the end is released, and not {released:?}");
}

/// Waits for tasks, and panics as the first of them did.
async fn join(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        if let Err(error) = soon(task, "everybody is served").await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}
