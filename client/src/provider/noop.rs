//! Nothing at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use tokio_util::sync::CancellationToken;

use super::{
    AnyGuard, AnyLock, AnyPermits, AnyReadWriteLock, AnySemaphore, AnyUpgradeableGuard, AnyUpgradeableReadWriteLock,
    AnyWriteGuard, HoldOptions, LockProvider, Provider, ReadWriteLockProvider, SemaphoreProvider, UpgradeError,
    UpgradeableReadWriteLockProvider,
};
use crate::access::Progress;
use crate::error::{AcquireError, ApiError, ExtendError, Lost, OptionsError, ReleaseError, TryAcquireError};

type Acquired<'a, G> = BoxFuture<'a, Result<Box<G>, AcquireError>>;
type Tried<'a, G> = BoxFuture<'a, Result<Box<G>, TryAcquireError>>;

/// **Excludes nobody.** Every acquisition succeeds at once, whoever else has the same, in this process or in others.
///
/// For where a framework insists on a lock and none is needed: one replica that nobody else touches the data of, or a
/// test of something else. Nothing is ever lost, names and durations mean nothing, and tokens count up in the order of the
/// acquisitions of this provider and its clones, which protects nothing beyond this process.
///
/// # When to use something else
/// Wherever two could come at the same time, which includes the rolling update of a Deployment of one replica. Within one
/// process `Client::in_memory()` (feature `memory`) does exclude.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use leasehold::provider::{LockProvider, NoopProvider};
///
/// let lock = NoopProvider::new().lock("invoice-run")?;
/// let (one, two) = (lock.acquire().await?, lock.acquire().await?); // both at once!
/// assert!(one.check().is_ok() && two.check().is_ok());
/// assert!(one.token() < two.token());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct NoopProvider {
    last: Arc<AtomicU64>,
}

impl NoopProvider {
    /// One that has let in nobody yet: its first token is 1.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn primitive(&self, name: &str) -> Arc<Noop> {
        Arc::new(Noop { provider: self.clone(), name: name.into() })
    }

    fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl LockProvider for NoopProvider {
    fn lock_with(&self, name: &str, _: &HoldOptions) -> Result<Arc<dyn AnyLock>, OptionsError> {
        Ok(self.primitive(name))
    }
}

impl SemaphoreProvider for NoopProvider {
    fn semaphore_with(
        &self,
        name: &str,
        _: Option<u32>,
        _: &HoldOptions,
    ) -> Result<Arc<dyn AnySemaphore>, OptionsError> {
        Ok(self.primitive(name))
    }
}

impl ReadWriteLockProvider for NoopProvider {
    fn read_write_lock(&self, name: &str) -> Result<Arc<dyn AnyReadWriteLock>, OptionsError> {
        Ok(self.primitive(name))
    }
}

impl UpgradeableReadWriteLockProvider for NoopProvider {
    fn upgradeable_read_write_lock(&self, name: &str) -> Result<Arc<dyn AnyUpgradeableReadWriteLock>, OptionsError> {
        Ok(self.primitive(name))
    }
}

impl Provider for NoopProvider {
    fn shutdown(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}

/// Whatever is asked for.
#[derive(Debug)]
struct Noop {
    provider: NoopProvider,
    name: Arc<str>,
}

impl Noop {
    fn guard(&self, permits: u32) -> NoopGuard {
        let (provider, name) = (self.provider.clone(), self.name.clone());
        let token = provider.next();
        NoopGuard { provider, name, token, number: token, permits, over: Over::default() }
    }

    fn permits(&self, permits: u32) -> Result<NoopGuard, ApiError> {
        if permits == 0 || i32::try_from(permits).is_err() {
            let message = format!("{permits} permits cannot be acquired: from 1 to 2147483647 can");
            return Err(ApiError::Invalid { message });
        }
        Ok(self.guard(permits))
    }
}

impl AnyLock for Noop {
    fn name(&self) -> &str {
        &self.name
    }

    fn try_acquire(&self) -> Tried<'_, dyn AnyGuard> {
        ready(Ok(Box::new(self.guard(1)) as Box<dyn AnyGuard>)).boxed()
    }

    fn acquire_with_progress<'a>(
        &'a self,
        _: Option<Duration>,
        _: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Acquired<'a, dyn AnyGuard> {
        ready(Ok(Box::new(self.guard(1)) as Box<dyn AnyGuard>)).boxed()
    }
}

impl AnySemaphore for Noop {
    fn name(&self) -> &str {
        &self.name
    }

    fn try_acquire(&self, permits: u32) -> Tried<'_, dyn AnyPermits> {
        let acquired = self.permits(permits).map(|permits| Box::new(permits) as Box<dyn AnyPermits>);
        ready(acquired.map_err(|source| TryAcquireError::Api { name: self.name.to_string(), source })).boxed()
    }

    fn acquire_with_progress<'a>(
        &'a self,
        permits: u32,
        _: Option<Duration>,
        _: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Acquired<'a, dyn AnyPermits> {
        let acquired = self.permits(permits).map(|permits| Box::new(permits) as Box<dyn AnyPermits>);
        ready(acquired.map_err(|source| AcquireError::Api { name: self.name.to_string(), source })).boxed()
    }
}

impl AnyReadWriteLock for Noop {
    fn name(&self) -> &str {
        &self.name
    }

    fn try_read(&self) -> Tried<'_, dyn AnyGuard> {
        ready(Ok(Box::new(self.guard(1)) as Box<dyn AnyGuard>)).boxed()
    }

    fn read_within(&self, _: Option<Duration>) -> Acquired<'_, dyn AnyGuard> {
        ready(Ok(Box::new(self.guard(1)) as Box<dyn AnyGuard>)).boxed()
    }

    fn try_write(&self) -> Tried<'_, dyn AnyWriteGuard> {
        ready(Ok(Box::new(self.guard(1)) as Box<dyn AnyWriteGuard>)).boxed()
    }

    fn write_within(&self, _: Option<Duration>) -> Acquired<'_, dyn AnyWriteGuard> {
        ready(Ok(Box::new(self.guard(1)) as Box<dyn AnyWriteGuard>)).boxed()
    }
}

impl AnyUpgradeableReadWriteLock for Noop {
    fn try_upgradeable_read(&self) -> Tried<'_, dyn AnyUpgradeableGuard> {
        ready(Ok(Box::new(self.guard(1)) as Box<dyn AnyUpgradeableGuard>)).boxed()
    }

    fn upgradeable_read_within(&self, _: Option<Duration>) -> Acquired<'_, dyn AnyUpgradeableGuard> {
        ready(Ok(Box::new(self.guard(1)) as Box<dyn AnyUpgradeableGuard>)).boxed()
    }
}

/// Whatever is held. It is held until it is let go.
#[derive(Debug)]
struct NoopGuard {
    provider: NoopProvider,
    name: Arc<str>,
    token: u64,
    /// Of the acquisition: an upgrade has another token, and is no other acquisition.
    number: u64,
    permits: u32,
    over: Over,
}

/// Cancelled when it is dropped.
#[derive(Debug, Default)]
struct Over(CancellationToken);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl AnyGuard for NoopGuard {
    fn token(&self) -> u64 {
        self.token
    }

    fn holder_identity(&self) -> String {
        format!("noop.{}", self.number)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self) -> Result<(), Lost> {
        Ok(())
    }

    fn remaining(&self) -> Duration {
        Duration::MAX
    }

    fn lost(&self) -> CancellationToken {
        self.over.0.clone()
    }

    fn extend(&self) -> BoxFuture<'_, Result<Duration, ExtendError>> {
        ready(Ok(Duration::MAX)).boxed()
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, Result<(), ReleaseError>> {
        ready(Ok(())).boxed()
    }
}

impl AnyPermits for NoopGuard {
    fn permits(&self) -> u32 {
        self.permits
    }
}

impl AnyUpgradeableGuard for NoopGuard {
    fn upgrade(mut self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn AnyWriteGuard>, Lost>> {
        self.token = self.provider.next();
        ready(Ok(self as Box<dyn AnyWriteGuard>)).boxed()
    }

    fn upgrade_timeout(
        self: Box<Self>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Box<dyn AnyWriteGuard>, UpgradeError>> {
        self.upgrade().map(|upgraded| upgraded.map_err(UpgradeError::Lost)).boxed()
    }

    fn downgrade(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn AnyGuard>, Lost>> {
        ready(Ok(self as Box<dyn AnyGuard>)).boxed()
    }
}

impl AnyWriteGuard for NoopGuard {
    fn downgrade(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn AnyGuard>, Lost>> {
        ready(Ok(self as Box<dyn AnyGuard>)).boxed()
    }
}
