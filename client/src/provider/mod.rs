//! Interfaces: one for each primitive, and one for what makes them. Use them where the implementation is to be chosen
//! later: another in tests than in production, or one of your own.
//!
//! | primitive | guard | made by |
//! | --- | --- | --- |
//! | [`AnyLock`] | [`AnyGuard`] | [`LockProvider`] |
//! | [`AnySemaphore`] | [`AnyPermits`] | [`SemaphoreProvider`] |
//! | [`AnyReadWriteLock`] | [`AnyGuard`], [`AnyWriteGuard`] | [`ReadWriteLockProvider`] |
//! | [`AnyUpgradeableReadWriteLock`] | [`AnyUpgradeableGuard`] as well | [`UpgradeableReadWriteLockProvider`] |
//! | all of them | | [`Provider`] |
//!
//! All are object-safe: keep an `Arc<dyn Provider>`, or only as much of it as is needed, such as an
//! `Arc<dyn LockProvider>`. The errors are those of the crate. Dispatch costs an allocation for each call; where one
//! implementation will do, use [`Client`](crate::Client) itself.
//!
//! # Implementations
//!
//! | | who is kept out | where |
//! | --- | --- | --- |
//! | [`Client`](crate::Client) in a cluster | everybody in the cluster | production |
//! | `Client::in_memory()`, feature `memory` | the other tasks and threads of this process | tests, programs of a single process |
//! | [`NoopProvider`] | **nobody** | where a framework insists on a lock that is not needed |
//!
//! What is in memory runs the very same code against an API server in this process's memory: the same order, expiry,
//! losses and tokens. [`testing::conformance`](../testing/conformance/index.html) (feature `testing`) holds all of them to
//! what is said here, and an implementation of your own as well.
//!
//! # In an application
//!
//! ```
//! use std::sync::Arc;
//! use leasehold::provider::{LockProvider, NoopProvider};
//!
//! struct Reports {
//!     locks: Arc<dyn LockProvider>,
//! }
//!
//! impl Reports {
//!     async fn run(&self) -> Result<u64, Box<dyn std::error::Error>> {
//!         let guard = self.locks.lock("nightly-report")?.acquire().await?;
//!         // … write with the token, and stop when guard.check() fails …
//!         let token = guard.token();
//!         guard.release().await?;
//!         Ok(token)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let single_replica = true;
//! let locks: Arc<dyn LockProvider> = if single_replica {
//!     Arc::new(NoopProvider::new()) // nobody else is there, and nobody is kept out
//! } else {
//!     Arc::new(leasehold::Client::try_default().await?)
//! };
//! assert_eq!(Reports { locks }.run().await?, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # In its unit tests
//!
//! With the feature `memory` among the `dev-dependencies`:
//!
//! ```
//! # #[cfg(feature = "memory")] {
//! use std::sync::Arc;
//! use leasehold::Client;
//! use leasehold::provider::LockProvider;
//!
//! async fn skips_the_run_if_another_is_at_it(locks: Arc<dyn LockProvider>) -> Result<bool, Box<dyn std::error::Error>> {
//!     let Ok(guard) = locks.lock("nightly-report")?.try_acquire().await else { return Ok(true) };
//!     guard.release().await?;
//!     Ok(false)
//! }
//!
//! # let test = async {
//! let locks: Arc<dyn LockProvider> = Arc::new(Client::in_memory());
//! let other = locks.lock("nightly-report")?.acquire().await?;
//! assert!(skips_the_run_if_another_is_at_it(locks.clone()).await?);
//! other.release().await?;
//! assert!(!skips_the_run_if_another_is_at_it(locks).await?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # };
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test).unwrap();
//! # }
//! ```

mod cluster;
mod guard;
mod noop;
mod primitive;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::error::OptionsError;

pub use guard::{AnyGuard, AnyPermits, AnyUpgradeableGuard, AnyWriteGuard, UpgradeError};
pub use noop::NoopProvider;
pub use primitive::{AnyLock, AnyReadWriteLock, AnySemaphore, AnyUpgradeableReadWriteLock};

/// How long what is held lives without being renewed, and whether it is.
///
/// What is not said is left to the provider. Where nothing is said there either, what is held is renewed until it is
/// released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct HoldOptions {
    lease_duration: Option<Duration>,
    renewal: Option<bool>,
}

impl HoldOptions {
    /// Nothing is said.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a hold live for so long after a renewal: whole seconds, at least 1. Default: what the provider
    /// says.
    pub fn lease_duration(mut self, duration: Duration) -> Self {
        self.lease_duration = Some(duration);
        self
    }

    /// Whether a hold with a lease duration is renewed by itself. Default: what the provider says, or else yes. Without
    /// renewal it ends after that time.
    pub fn renewal(mut self, renewal: bool) -> Self {
        self.renewal = Some(renewal);
        self
    }

    /// The lease duration that was given.
    #[must_use]
    pub fn get_lease_duration(&self) -> Option<Duration> {
        self.lease_duration
    }

    /// What was said of renewal.
    #[must_use]
    pub fn get_renewal(&self) -> Option<bool> {
        self.renewal
    }
}

/// Makes locks, by their names. What is made under one name is one lock, also if it is made several times.
pub trait LockProvider: std::fmt::Debug + Send + Sync + 'static {
    /// A lock by its name, with options. No request is sent.
    ///
    /// # Errors
    /// [`OptionsError`] where the name will not do, or the options do not go together.
    fn lock_with(&self, name: &str, options: &HoldOptions) -> Result<Arc<dyn AnyLock>, OptionsError>;

    /// A lock by its name. No request is sent.
    ///
    /// # Errors
    /// [`OptionsError`] where the name will not do.
    fn lock(&self, name: &str) -> Result<Arc<dyn AnyLock>, OptionsError> {
        self.lock_with(name, &HoldOptions::default())
    }
}

/// Makes semaphores, by their names.
pub trait SemaphoreProvider: std::fmt::Debug + Send + Sync + 'static {
    /// A semaphore by its name, with options. No request is sent.
    ///
    /// `permits` says how many there are: all who use it say the same. `None` leaves it to what was said elsewhere, such
    /// as its custom resource; where nothing was, acquisitions fail.
    ///
    /// # Errors
    /// [`OptionsError`] where the name or the number will not do, or the options do not go together.
    fn semaphore_with(
        &self,
        name: &str,
        permits: Option<u32>,
        options: &HoldOptions,
    ) -> Result<Arc<dyn AnySemaphore>, OptionsError>;

    /// A semaphore by its name, with so many permits. No request is sent.
    ///
    /// # Errors
    /// [`OptionsError`] where the name or the number will not do.
    fn semaphore(&self, name: &str, permits: u32) -> Result<Arc<dyn AnySemaphore>, OptionsError> {
        self.semaphore_with(name, Some(permits), &HoldOptions::default())
    }
}

/// Makes read-write locks, by their names.
pub trait ReadWriteLockProvider: std::fmt::Debug + Send + Sync + 'static {
    /// A read-write lock by its name. No request is sent.
    ///
    /// # Errors
    /// [`OptionsError`] where the name will not do.
    fn read_write_lock(&self, name: &str) -> Result<Arc<dyn AnyReadWriteLock>, OptionsError>;
}

/// Makes read-write locks one of whose readers can become the writer, by their names.
pub trait UpgradeableReadWriteLockProvider: std::fmt::Debug + Send + Sync + 'static {
    /// An upgradeable read-write lock by its name. No request is sent.
    ///
    /// # Errors
    /// [`OptionsError`] where the name will not do.
    fn upgradeable_read_write_lock(&self, name: &str) -> Result<Arc<dyn AnyUpgradeableReadWriteLock>, OptionsError>;
}

/// Makes all of them.
pub trait Provider:
    LockProvider + SemaphoreProvider + ReadWriteLockProvider + UpgradeableReadWriteLockProvider
{
    /// Releases all that is held, and leaves all queues. Afterwards acquisitions fail with `ShutDown`, if it excludes
    /// anybody at all.
    ///
    /// # Cancel safety
    /// Cancelled, it has done some of it. It can be called again.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}
