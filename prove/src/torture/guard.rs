//! What is asked for and what is had of it, whatever it is.

use std::ops::Deref;
use std::time::Duration;

use leasehold::{
    AcquireError, Hold, Lock, LockGuard, Permits, ReadGuard, ReadWriteLock, ReleaseError, Semaphore, UpgradeableGuard,
    WriteGuard,
};

use super::history::Share;

/// Something to acquire.
#[derive(Debug)]
pub(super) enum Handle<'a> {
    Lock(&'a Lock),
    Permits(&'a Semaphore, u32),
    Read(&'a ReadWriteLock),
    Upgradeable(&'a ReadWriteLock),
    Write(&'a ReadWriteLock),
}

/// Something that is held.
#[derive(Debug)]
pub(super) enum Guard {
    Lock(LockGuard),
    Permits(Permits),
    Read(ReadGuard),
    Upgradeable(UpgradeableGuard),
    Write(WriteGuard),
}

impl Handle<'_> {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Lock(lock) => lock.name(),
            Self::Permits(semaphore, _) => semaphore.name(),
            Self::Read(lock) | Self::Upgradeable(lock) | Self::Write(lock) => lock.name(),
        }
    }

    /// How much is asked for.
    pub(super) fn share(&self) -> Share {
        match self {
            Self::Lock(_) => Share::Lock,
            Self::Permits(_, permits) => Share::Permits(*permits),
            Self::Read(_) => Share::Read,
            Self::Upgradeable(_) => Share::Upgradeable,
            Self::Write(_) => Share::Write,
        }
    }

    pub(super) async fn acquire(&self) -> Result<Guard, AcquireError> {
        match self {
            Self::Lock(lock) => lock.acquire().await.map(Guard::Lock),
            Self::Permits(semaphore, permits) => semaphore.acquire(*permits).await.map(Guard::Permits),
            Self::Read(lock) => lock.read().await.map(Guard::Read),
            Self::Upgradeable(lock) => lock.upgradeable_read().await.map(Guard::Upgradeable),
            Self::Write(lock) => lock.write().await.map(Guard::Write),
        }
    }

    pub(super) async fn acquire_timeout(&self, limit: Duration) -> Result<Guard, AcquireError> {
        match self {
            Self::Lock(lock) => lock.acquire_timeout(limit).await.map(Guard::Lock),
            Self::Permits(semaphore, permits) => semaphore.acquire_timeout(*permits, limit).await.map(Guard::Permits),
            Self::Read(lock) => lock.read_timeout(limit).await.map(Guard::Read),
            Self::Upgradeable(lock) => lock.upgradeable_read_timeout(limit).await.map(Guard::Upgradeable),
            Self::Write(lock) => lock.write_timeout(limit).await.map(Guard::Write),
        }
    }
}

impl Deref for Guard {
    type Target = Hold;

    fn deref(&self) -> &Hold {
        match self {
            Self::Lock(guard) => guard,
            Self::Permits(guard) => guard,
            Self::Read(guard) => guard,
            Self::Upgradeable(guard) => guard,
            Self::Write(guard) => guard,
        }
    }
}

impl Guard {
    /// How much is held.
    pub(super) fn share(&self) -> Share {
        match self {
            Self::Lock(_) => Share::Lock,
            Self::Permits(permits) => Share::Permits(permits.permits()),
            Self::Read(_) => Share::Read,
            Self::Upgradeable(_) => Share::Upgradeable,
            Self::Write(_) => Share::Write,
        }
    }

    pub(super) async fn release(self) -> Result<(), ReleaseError> {
        match self {
            Self::Lock(guard) => guard.release().await,
            Self::Permits(guard) => guard.release().await,
            Self::Read(guard) => guard.release().await,
            Self::Upgradeable(guard) => guard.release().await,
            Self::Write(guard) => guard.release().await,
        }
    }
}
