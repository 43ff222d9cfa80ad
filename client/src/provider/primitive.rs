//! What can be acquired.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::guard::{AnyGuard, AnyPermits, AnyUpgradeableGuard, AnyWriteGuard};
use crate::access::Progress;
use crate::error::{AcquireError, TryAcquireError};

/// The outcome of a wait.
type Acquired<'a, G> = BoxFuture<'a, Result<Box<G>, AcquireError>>;
/// The outcome of a try.
type Tried<'a, G> = BoxFuture<'a, Result<Box<G>, TryAcquireError>>;
/// Who is told how a wait is going.
type Told<'a> = &'a mut (dyn FnMut(Progress) + Send);

/// A mutex that all who name it share. Waiters get it in the order in which they came. What [`Lock`](crate::Lock) says of
/// itself holds for every implementation that excludes anybody.
///
/// # Cancel safety
/// Of every call: cancelled, it leaves the queue, or gives back what it was just granted, in the background.
pub trait AnyLock: std::fmt::Debug + Send + Sync + 'static {
    /// The lock's name.
    fn name(&self) -> &str;

    /// Acquires the lock if that can be done now: it is free, and nobody waits for it.
    ///
    /// # Errors
    /// [`TryAcquireError::Held`] where somebody is ahead; otherwise what went wrong.
    fn try_acquire(&self) -> Tried<'_, dyn AnyGuard>;

    /// Acquires the lock, waits for it at most so long if there is a limit, and tells how the wait is going whenever that
    /// changes.
    ///
    /// # Errors
    /// [`AcquireError::TimedOut`] after the limit; otherwise what went wrong.
    fn acquire_with_progress<'a>(&'a self, limit: Option<Duration>, progress: Told<'a>) -> Acquired<'a, dyn AnyGuard>;

    /// Acquires the lock, and waits for it as long as it takes.
    ///
    /// # Errors
    /// As [`acquire_with_progress`](Self::acquire_with_progress).
    fn acquire(&self) -> Acquired<'_, dyn AnyGuard> {
        async move { self.acquire_with_progress(None, &mut |_| {}).await }.boxed()
    }

    /// Acquires the lock, and waits for it at most so long.
    ///
    /// # Errors
    /// As [`acquire_with_progress`](Self::acquire_with_progress).
    fn acquire_timeout(&self, limit: Duration) -> Acquired<'_, dyn AnyGuard> {
        async move { self.acquire_with_progress(Some(limit), &mut |_| {}).await }.boxed()
    }
}

/// So many permits, which all who name the semaphore share. Waiters get theirs in the order in which they came. What
/// [`Semaphore`](crate::Semaphore) says of itself holds for every implementation that excludes anybody.
///
/// # Cancel safety
/// Of every call: cancelled, it leaves the queue, or gives back what it was just granted, in the background.
pub trait AnySemaphore: std::fmt::Debug + Send + Sync + 'static {
    /// The semaphore's name.
    fn name(&self) -> &str;

    /// Acquires permits if that can be done now: they are free, and nobody waits.
    ///
    /// # Errors
    /// [`TryAcquireError::Held`] where there are not as many, or somebody is ahead; otherwise what went wrong, or how many
    /// permits there are if they are fewer than asked for.
    fn try_acquire(&self, permits: u32) -> Tried<'_, dyn AnyPermits>;

    /// Acquires permits, waits for them at most so long if there is a limit, and tells how the wait is going whenever that
    /// changes.
    ///
    /// # Errors
    /// [`AcquireError::TimedOut`] after the limit; [`AcquireError::Api`] where more are wanted than there are; otherwise what
    /// went wrong.
    fn acquire_with_progress<'a>(
        &'a self,
        permits: u32,
        limit: Option<Duration>,
        progress: Told<'a>,
    ) -> Acquired<'a, dyn AnyPermits>;

    /// Acquires permits, and waits for them as long as it takes.
    ///
    /// # Errors
    /// As [`acquire_with_progress`](Self::acquire_with_progress).
    fn acquire(&self, permits: u32) -> Acquired<'_, dyn AnyPermits> {
        async move { self.acquire_with_progress(permits, None, &mut |_| {}).await }.boxed()
    }

    /// Acquires permits, and waits for them at most so long.
    ///
    /// # Errors
    /// As [`acquire_with_progress`](Self::acquire_with_progress).
    fn acquire_timeout(&self, permits: u32, limit: Duration) -> Acquired<'_, dyn AnyPermits> {
        async move { self.acquire_with_progress(permits, Some(limit), &mut |_| {}).await }.boxed()
    }
}

/// A lock that many readers hold together, or one writer alone. Everybody gets it in the order in which they came, readers
/// that stand next to each other together. What [`ReadWriteLock`](crate::ReadWriteLock) says of itself holds for every
/// implementation that excludes anybody.
///
/// # Cancel safety
/// Of every call: cancelled, it leaves the queue, or gives back what it was just granted, in the background.
pub trait AnyReadWriteLock: std::fmt::Debug + Send + Sync + 'static {
    /// The lock's name.
    fn name(&self) -> &str;

    /// Reads if that can be done now: nobody writes, and nobody waits.
    ///
    /// # Errors
    /// [`TryAcquireError::Held`] where somebody is in the way; otherwise what went wrong.
    fn try_read(&self) -> Tried<'_, dyn AnyGuard>;

    /// Waits to read, at most so long if there is a limit.
    ///
    /// # Errors
    /// [`AcquireError::TimedOut`] after the limit; otherwise what went wrong.
    fn read_within(&self, limit: Option<Duration>) -> Acquired<'_, dyn AnyGuard>;

    /// Writes if that can be done now: nobody reads or writes, and nobody waits.
    ///
    /// # Errors
    /// As [`try_read`](Self::try_read).
    fn try_write(&self) -> Tried<'_, dyn AnyWriteGuard>;

    /// Waits to write, at most so long if there is a limit.
    ///
    /// # Errors
    /// As [`read_within`](Self::read_within).
    fn write_within(&self, limit: Option<Duration>) -> Acquired<'_, dyn AnyWriteGuard>;

    /// Waits to read, as long as it takes.
    ///
    /// # Errors
    /// As [`read_within`](Self::read_within).
    fn read(&self) -> Acquired<'_, dyn AnyGuard> {
        self.read_within(None)
    }

    /// Waits to read, at most so long.
    ///
    /// # Errors
    /// As [`read_within`](Self::read_within).
    fn read_timeout(&self, limit: Duration) -> Acquired<'_, dyn AnyGuard> {
        self.read_within(Some(limit))
    }

    /// Waits to write, as long as it takes.
    ///
    /// # Errors
    /// As [`read_within`](Self::read_within).
    fn write(&self) -> Acquired<'_, dyn AnyWriteGuard> {
        self.write_within(None)
    }

    /// Waits to write, at most so long.
    ///
    /// # Errors
    /// As [`read_within`](Self::read_within).
    fn write_timeout(&self, limit: Duration) -> Acquired<'_, dyn AnyWriteGuard> {
        self.write_within(Some(limit))
    }
}

/// A read-write lock one of whose readers at a time can become the writer, without letting anybody in between.
///
/// # Cancel safety
/// Of every call: cancelled, it leaves the queue, or gives back what it was just granted, in the background.
pub trait AnyUpgradeableReadWriteLock: AnyReadWriteLock {
    /// Reads as the one reader that can become the writer, if that can be done now.
    ///
    /// # Errors
    /// As [`try_read`](AnyReadWriteLock::try_read); another upgradeable reader is in the way as well.
    fn try_upgradeable_read(&self) -> Tried<'_, dyn AnyUpgradeableGuard>;

    /// Waits to read as the one reader that can become the writer, at most so long if there is a limit.
    ///
    /// # Errors
    /// As [`read_within`](AnyReadWriteLock::read_within).
    fn upgradeable_read_within(&self, limit: Option<Duration>) -> Acquired<'_, dyn AnyUpgradeableGuard>;

    /// Waits to read as the one reader that can become the writer, as long as it takes.
    ///
    /// # Errors
    /// As [`read_within`](AnyReadWriteLock::read_within).
    fn upgradeable_read(&self) -> Acquired<'_, dyn AnyUpgradeableGuard> {
        self.upgradeable_read_within(None)
    }

    /// Waits to read as the one reader that can become the writer, at most so long.
    ///
    /// # Errors
    /// As [`read_within`](AnyReadWriteLock::read_within).
    fn upgradeable_read_timeout(&self, limit: Duration) -> Acquired<'_, dyn AnyUpgradeableGuard> {
        self.upgradeable_read_within(Some(limit))
    }
}
