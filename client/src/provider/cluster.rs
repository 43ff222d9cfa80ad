//! Clients as providers: the Leases of a cluster, or of this process's memory.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{
    AnyGuard, AnyLock, AnyPermits, AnyReadWriteLock, AnySemaphore, AnyUpgradeableGuard, AnyUpgradeableReadWriteLock,
    AnyWriteGuard, HoldOptions, LockProvider, Provider, ReadWriteLockProvider, SemaphoreProvider, UpgradeError,
    UpgradeableReadWriteLockProvider,
};
use crate::access::Progress;
use crate::client::Client;
use crate::error::{AcquireError, ExtendError, Lost, OptionsError, ReleaseError, TryAcquireError};
use crate::lock::{Lock, LockGuard};
use crate::rwlock::{ReadGuard, ReadWriteLock, UpgradeableGuard, WriteGuard};
use crate::semaphore::{Permits, Semaphore};

type Acquired<'a, G> = BoxFuture<'a, Result<Box<G>, AcquireError>>;
type Tried<'a, G> = BoxFuture<'a, Result<Box<G>, TryAcquireError>>;

#[cfg(feature = "memory")]
impl Client {
    /// A client whose locks are in this process's memory, and shared by nobody but its clones. Feature `memory`.
    ///
    /// It runs the same code as in a cluster: the same order, expiry, losses and tokens. For tests, and for programs of a
    /// single process. Give several clients one [`MemoryStore`](crate::MemoryStore) to have them contend as several
    /// processes would; take [`Client::builder`] for other options than the defaults.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = leasehold::Client::in_memory();
    /// let lock = client.lock("invoice-run").build()?;
    /// let guard = lock.acquire().await?;
    /// assert!(lock.try_acquire().await.is_err());
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the defaults go together")]
    pub fn in_memory() -> Self {
        let store = Arc::new(crate::MemoryStore::new());
        Self::builder().store(store).build().expect("the defaults go together")
    }
}

impl LockProvider for Client {
    fn lock_with(&self, name: &str, options: &HoldOptions) -> Result<Arc<dyn AnyLock>, OptionsError> {
        let mut lock = Client::lock(self, name);
        if let Some(renewal) = options.get_renewal() {
            lock = lock.renewal(renewal);
        }
        if let Some(duration) = options.get_lease_duration() {
            lock = lock.lease_duration(duration);
        }
        Ok(Arc::new(lock.build()?))
    }
}

impl SemaphoreProvider for Client {
    fn semaphore_with(
        &self,
        name: &str,
        permits: Option<u32>,
        options: &HoldOptions,
    ) -> Result<Arc<dyn AnySemaphore>, OptionsError> {
        let mut semaphore = Client::semaphore(self, name);
        if let Some(renewal) = options.get_renewal() {
            semaphore = semaphore.renewal(renewal);
        }
        if let Some(permits) = permits {
            semaphore = semaphore.with_permits(permits);
        }
        if let Some(duration) = options.get_lease_duration() {
            semaphore = semaphore.lease_duration(duration);
        }
        Ok(Arc::new(semaphore.build()?))
    }
}

impl ReadWriteLockProvider for Client {
    fn read_write_lock(&self, name: &str) -> Result<Arc<dyn AnyReadWriteLock>, OptionsError> {
        Ok(Arc::new(Client::read_write_lock(self, name)?))
    }
}

impl UpgradeableReadWriteLockProvider for Client {
    fn upgradeable_read_write_lock(&self, name: &str) -> Result<Arc<dyn AnyUpgradeableReadWriteLock>, OptionsError> {
        Ok(Arc::new(Client::read_write_lock(self, name)?))
    }
}

impl Provider for Client {
    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Client::shutdown(self).boxed()
    }
}

impl AnyLock for Lock {
    fn name(&self) -> &str {
        Lock::name(self)
    }

    fn try_acquire(&self) -> Tried<'_, dyn AnyGuard> {
        Lock::try_acquire(self).map(boxed_guard).boxed()
    }

    fn acquire_with_progress<'a>(
        &'a self,
        limit: Option<Duration>,
        progress: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Acquired<'a, dyn AnyGuard> {
        Lock::acquire_with_progress(self, limit, progress).map(boxed_guard).boxed()
    }
}

impl AnySemaphore for Semaphore {
    fn name(&self) -> &str {
        Semaphore::name(self)
    }

    fn try_acquire(&self, permits: u32) -> Tried<'_, dyn AnyPermits> {
        async move { Ok(Box::new(Semaphore::try_acquire(self, permits).await?) as Box<dyn AnyPermits>) }.boxed()
    }

    fn acquire_with_progress<'a>(
        &'a self,
        permits: u32,
        limit: Option<Duration>,
        progress: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Acquired<'a, dyn AnyPermits> {
        async move {
            let acquired = Semaphore::acquire_with_progress(self, permits, limit, progress).await?;
            Ok(Box::new(acquired) as Box<dyn AnyPermits>)
        }
        .boxed()
    }
}

impl AnyReadWriteLock for ReadWriteLock {
    fn name(&self) -> &str {
        ReadWriteLock::name(self)
    }

    fn try_read(&self) -> Tried<'_, dyn AnyGuard> {
        ReadWriteLock::try_read(self).map(boxed_guard).boxed()
    }

    fn read_within(&self, limit: Option<Duration>) -> Acquired<'_, dyn AnyGuard> {
        match limit {
            None => ReadWriteLock::read(self).map(boxed_guard).boxed(),
            Some(limit) => ReadWriteLock::read_timeout(self, limit).map(boxed_guard).boxed(),
        }
    }

    fn try_write(&self) -> Tried<'_, dyn AnyWriteGuard> {
        ReadWriteLock::try_write(self).map(boxed_writer).boxed()
    }

    fn write_within(&self, limit: Option<Duration>) -> Acquired<'_, dyn AnyWriteGuard> {
        match limit {
            None => ReadWriteLock::write(self).map(boxed_writer).boxed(),
            Some(limit) => ReadWriteLock::write_timeout(self, limit).map(boxed_writer).boxed(),
        }
    }
}

impl AnyUpgradeableReadWriteLock for ReadWriteLock {
    fn try_upgradeable_read(&self) -> Tried<'_, dyn AnyUpgradeableGuard> {
        ReadWriteLock::try_upgradeable_read(self).map(boxed_upgradeable).boxed()
    }

    fn upgradeable_read_within(&self, limit: Option<Duration>) -> Acquired<'_, dyn AnyUpgradeableGuard> {
        match limit {
            None => ReadWriteLock::upgradeable_read(self).map(boxed_upgradeable).boxed(),
            Some(limit) => ReadWriteLock::upgradeable_read_timeout(self, limit).map(boxed_upgradeable).boxed(),
        }
    }
}

fn boxed_guard<E>(guard: Result<impl AnyGuard, E>) -> Result<Box<dyn AnyGuard>, E> {
    guard.map(|guard| Box::new(guard) as Box<dyn AnyGuard>)
}

fn boxed_writer<E>(guard: Result<WriteGuard, E>) -> Result<Box<dyn AnyWriteGuard>, E> {
    guard.map(|guard| Box::new(guard) as Box<dyn AnyWriteGuard>)
}

fn boxed_upgradeable<E>(guard: Result<UpgradeableGuard, E>) -> Result<Box<dyn AnyUpgradeableGuard>, E> {
    guard.map(|guard| Box::new(guard) as Box<dyn AnyUpgradeableGuard>)
}

/// All of them are a `Hold`, and each has a release of its own.
macro_rules! guards {
    ($($guard:ty),*) => {$(
        impl AnyGuard for $guard {
            fn token(&self) -> u64 {
                (**self).token()
            }

            fn holder_identity(&self) -> String {
                (**self).holder_identity()
            }

            fn name(&self) -> &str {
                (**self).name()
            }

            fn check(&self) -> Result<(), Lost> {
                (**self).check()
            }

            fn remaining(&self) -> Duration {
                (**self).remaining()
            }

            fn lost(&self) -> CancellationToken {
                (**self).lost()
            }

            fn extend(&self) -> BoxFuture<'_, Result<Duration, ExtendError>> {
                (**self).extend().boxed()
            }

            fn release(self: Box<Self>) -> BoxFuture<'static, Result<(), ReleaseError>> {
                <$guard>::release(*self).boxed()
            }
        }
    )*};
}

guards!(LockGuard, Permits, ReadGuard, UpgradeableGuard, WriteGuard);

impl AnyPermits for Permits {
    fn permits(&self) -> u32 {
        Permits::permits(self)
    }
}

impl AnyUpgradeableGuard for UpgradeableGuard {
    fn upgrade(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn AnyWriteGuard>, Lost>> {
        UpgradeableGuard::upgrade(*self).map(boxed_writer).boxed()
    }

    fn upgrade_timeout(
        self: Box<Self>,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Box<dyn AnyWriteGuard>, UpgradeError>> {
        UpgradeableGuard::upgrade_timeout(*self, limit)
            .map(|upgraded| match upgraded {
                Ok(writer) => Ok(Box::new(writer) as Box<dyn AnyWriteGuard>),
                Err(crate::UpgradeError::TimedOut { guard, waited }) => {
                    Err(UpgradeError::TimedOut { guard: Box::new(guard), waited })
                }
                Err(crate::UpgradeError::Lost(lost)) => Err(UpgradeError::Lost(lost)),
            })
            .boxed()
    }

    fn downgrade(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn AnyGuard>, Lost>> {
        UpgradeableGuard::downgrade(*self).map(boxed_guard).boxed()
    }
}

impl AnyWriteGuard for WriteGuard {
    fn downgrade(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn AnyGuard>, Lost>> {
        WriteGuard::downgrade(*self).map(boxed_guard).boxed()
    }
}
