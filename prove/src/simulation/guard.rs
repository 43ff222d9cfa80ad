//! What is asked for and what is had of it, whatever it is.

use std::ops::Deref;
use std::time::Duration;

use leasehold::protocol::Mode;
use leasehold::{
    AcquireError, Hold, Lock, LockGuard, Lost, Permits, ReadGuard, ReadWriteLock, ReleaseError, RequestReleaseError,
    Semaphore, TryAcquireError, UpgradeError, UpgradeableGuard, WriteGuard,
};
use tokio::time::timeout;

use super::dice::Dice;

/// Something to acquire.
#[derive(Debug)]
pub(super) enum Handle {
    Lock(Lock),
    Permits(Semaphore, u32),
    Read(ReadWriteLock),
    Upgradeable(ReadWriteLock),
    Write(ReadWriteLock),
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

impl Handle {
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

    pub(super) async fn try_acquire(&self) -> Result<Guard, TryAcquireError> {
        match self {
            Self::Lock(lock) => lock.try_acquire().await.map(Guard::Lock),
            Self::Permits(semaphore, permits) => semaphore.try_acquire(*permits).await.map(Guard::Permits),
            Self::Read(lock) => lock.try_read().await.map(Guard::Read),
            Self::Upgradeable(lock) => lock.try_upgradeable_read().await.map(Guard::Upgradeable),
            Self::Write(lock) => lock.try_write().await.map(Guard::Write),
        }
    }

    pub(super) async fn request_release(&self, within: Duration) -> Result<Vec<String>, RequestReleaseError> {
        match self {
            Self::Lock(lock) => lock.request_release(within, "please").await,
            Self::Permits(semaphore, _) => semaphore.request_release(None, within, "please").await,
            Self::Read(lock) | Self::Upgradeable(lock) | Self::Write(lock) => {
                lock.request_release(None, within, "please").await
            }
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
    pub(super) fn mode(&self) -> Mode {
        match self {
            Self::Lock(_) => Mode::default(),
            Self::Permits(permits) => Mode::Permits(permits.permits()),
            Self::Read(_) => Mode::Read,
            Self::Upgradeable(_) => Mode::Upgradeable,
            Self::Write(_) => Mode::Write,
        }
    }

    /// Whether it can become more or less.
    pub(super) fn can_change(&self) -> bool {
        match self {
            Self::Permits(permits) => permits.permits() > 1,
            Self::Upgradeable(_) | Self::Write(_) => true,
            Self::Lock(_) | Self::Read(_) => false,
        }
    }

    /// Makes more or less of it, or gives that up halfway. `None`: it was given back with that.
    pub(super) async fn change(self, dice: &mut Dice) -> Result<Option<Self>, Lost> {
        let patience = dice.millis(1..5_000);
        let changed = match (self, dice.below(8)) {
            (Self::Permits(mut permits), choice) => {
                // One after the other, so that one write follows close upon the next.
                while permits.permits() > 1 {
                    match choice {
                        // The permit is given back in the background then.
                        0 => timeout(patience / 100, permits.release_some(1)).await.unwrap_or(Ok(()))?,
                        _ => permits.release_some(1).await?,
                    }
                    if dice.chance(0.3) {
                        break;
                    }
                }
                Self::Permits(permits)
            }
            (Self::Upgradeable(guard), 0..4) => Self::Write(guard.upgrade().await?),
            (Self::Upgradeable(guard), 4 | 5) => match guard.upgrade_timeout(patience).await {
                Ok(guard) => Self::Write(guard),
                Err(UpgradeError::TimedOut { guard, .. }) => Self::Upgradeable(guard),
                Err(UpgradeError::Lost(lost)) => return Err(lost),
                Err(_) => return Ok(None),
            },
            (Self::Upgradeable(guard), 6) => match timeout(patience, guard.upgrade()).await {
                Ok(upgraded) => Self::Write(upgraded?),
                Err(_) => return Ok(None),
            },
            (Self::Upgradeable(guard), _) => Self::Read(guard.downgrade().await?),
            (Self::Write(guard), 0..4) => Self::Read(guard.downgrade().await?),
            (Self::Write(guard), _) => Self::Upgradeable(guard.downgrade_to_upgradeable().await?),
            (guard, _) => guard,
        };
        Ok(Some(changed))
    }

    /// Leaves it there for so long, where that can be done, and else gives it back.
    pub(super) async fn keep(self, time: Duration) -> Result<(), ReleaseError> {
        match self {
            Self::Lock(guard) => guard.keep(time).await,
            Self::Permits(guard) => guard.keep(time).await,
            guard => guard.release().await,
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
