//! The same for code without async (feature `blocking`).
//!
//! Whoever calls is blocked until it is done, also a thread of an async runtime: it does nothing else meanwhile. Whatever
//! the client then has to do goes on elsewhere.

use std::time::Duration;

use tokio::runtime::Handle;

use crate::client::Client;
use crate::election::{Election, Leader, Leadership};
use crate::error::{
    AcquireError, BuildError, ExtendError, Lost, PublishError, ReadError, ReleaseError, RequestReleaseError,
    TryAcquireError, UpgradeError, WithLockError,
};
use crate::hold::Hold;
use crate::lock::{Lock, LockGuard};
use crate::multi::{MultiGuard, MultiLock};
use crate::options::ClientBuilder;
use crate::protocol::ReleaseRequest;
use crate::runtime::background;
use crate::rwlock::{ReadGuard, ReadWriteLock, UpgradeableGuard, WriteGuard};
use crate::semaphore::{Permits, Semaphore};
use crate::status::{LockStatus, ReadWriteLockStatus, SemaphoreStatus};
use crate::task::Waiting;

/// Blocks this thread until the work is done.
///
/// A thread of a runtime must not drive another one, and what it wakes would wait for it: then another thread drives.
pub(crate) fn wait<T: Send>(work: impl Future<Output = T> + Send) -> T {
    if Handle::try_current().is_err() {
        return background().block_on(work);
    }
    let caller = Waiting::current();
    let drive = || {
        caller.act_for();
        background().block_on(work)
    };
    std::thread::scope(|scope| scope.spawn(drive).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Client {
    /// [`try_default`](Self::try_default) without async. The client has a
    /// [dedicated runtime](ClientBuilder::dedicated_runtime), so the calling threads may block as they like.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_try_default() -> Result<Self, BuildError> {
        let options = ClientBuilder::from_env()?.dedicated_runtime();
        options.kube_config(wait(kube::Config::infer())?).build()
    }

    /// [`shutdown`](Self::shutdown) without async.
    pub fn blocking_shutdown(&self) {
        wait(self.shutdown());
    }
}

impl Lock {
    /// [`try_acquire`](Self::try_acquire) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_try_acquire(&self) -> Result<LockGuard, TryAcquireError> {
        wait(self.try_acquire())
    }

    /// [`acquire`](Self::acquire), or [`acquire_timeout`](Self::acquire_timeout) if there is a limit, without async.
    ///
    /// It blocks the calling thread, which may be any, one of an async runtime as well. Build the client with a
    /// [dedicated runtime](ClientBuilder::dedicated_runtime) then: otherwise a client that was used by async code lives on
    /// that code's runtime, and where the thread that is blocked is the only one of it, nobody is left to do what is waited
    /// for.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use leasehold::{Client, MemoryStore};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // In production: Client::blocking_try_default()?
    /// let client = Client::builder().store(Arc::new(MemoryStore::new())).dedicated_runtime().build()?;
    /// let guard = client.lock("invoice-run").build()?.blocking_acquire(None)?;
    /// guard.blocking_release()?;
    /// client.blocking_shutdown();
    /// # Ok(())
    /// # }
    /// ```
    pub fn blocking_acquire(&self, limit: Option<Duration>) -> Result<LockGuard, AcquireError> {
        wait(self.acquire_with_progress(limit, |_| {}))
    }

    /// [`with_lock`](Self::with_lock) without async: acquires the lock, does the work on this thread, and releases the lock.
    ///
    /// Nothing interrupts the work: where it takes long, it looks at [`check`](Hold::check).
    ///
    /// # Errors
    /// [`WithLockError::Acquire`] where the lock was not acquired; [`WithLockError::Lost`] where it was lost before the
    /// work was done, with what the work returned.
    pub fn blocking_with_lock<T>(&self, work: impl FnOnce(&LockGuard) -> T) -> Result<T, WithLockError<T>> {
        let guard = self.blocking_acquire(None)?;
        let output = work(&guard);
        match wait(guard.0.release_for_good()) {
            Err(ReleaseError::Lost(lost)) => Err(WithLockError::Lost { lost, output: Some(output) }),
            Ok(()) | Err(ReleaseError::Unsettled { .. }) => Ok(output),
        }
    }

    /// [`status`](Self::status) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_status(&self) -> Result<LockStatus, ReadError> {
        wait(self.status())
    }

    /// [`is_locked`](Self::is_locked) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_is_locked(&self) -> Result<bool, ReadError> {
        wait(self.is_locked())
    }

    /// [`wait_until_free`](Self::wait_until_free) without async, and at most so long if there is a limit. Whether it is free.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_wait_until_free(&self, limit: Option<Duration>) -> Result<bool, ReadError> {
        wait(within(limit, self.wait_until_free())).transpose().map(|free| free.is_some())
    }

    /// [`request_release`](Self::request_release) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_request_release(&self, within: Duration, reason: &str) -> Result<Vec<String>, RequestReleaseError> {
        wait(self.request_release(within, reason))
    }
}

impl LockGuard {
    /// [`release`](Self::release) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_release(self) -> Result<(), ReleaseError> {
        wait(self.release())
    }

    /// [`keep`](Self::keep) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_keep(self, time: Duration) -> Result<(), ReleaseError> {
        wait(self.keep(time))
    }
}

impl Election {
    /// [`campaign`](Self::campaign), or [`campaign_timeout`](Self::campaign_timeout) if there is a limit, without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_campaign(&self, limit: Option<Duration>) -> Result<Leadership, AcquireError> {
        wait(self.campaign_with_progress(limit, |_| {}))
    }

    /// [`leader`](Self::leader) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_leader(&self) -> Result<Option<Leader>, ReadError> {
        wait(self.leader())
    }
}

impl Leadership {
    /// [`step_down`](Self::step_down) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_step_down(self) -> Result<(), ReleaseError> {
        wait(self.step_down())
    }
}

impl Hold {
    /// [`extend`](Self::extend) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_extend(&self) -> Result<Duration, ExtendError> {
        wait(self.extend())
    }

    /// [`publish`](Self::publish) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_publish(&self, text: impl Into<String>) -> Result<(), PublishError> {
        let text: String = text.into();
        wait(self.publish(text))
    }

    /// [`release_requested`](Self::release_requested) without async, at most so long if there is a limit. `None`: nobody has
    /// asked by then.
    pub fn blocking_release_requested(&self, limit: Option<Duration>) -> Option<ReleaseRequest> {
        wait(within(limit, self.release_requested()))
    }

    /// Waits until this is [lost](Self::lost) (or released) without async, at most so long if there is a limit. Whether it
    /// is.
    pub fn blocking_lost(&self, limit: Option<Duration>) -> bool {
        let lost = self.lost();
        wait(within(limit, lost.cancelled())).is_some()
    }
}

impl Semaphore {
    /// [`try_acquire`](Self::try_acquire) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_try_acquire(&self, permits: u32) -> Result<Permits, TryAcquireError> {
        wait(self.try_acquire(permits))
    }

    /// [`acquire`](Self::acquire), or [`acquire_timeout`](Self::acquire_timeout) if there is a limit, without async. What
    /// [`Lock::blocking_acquire`] says of threads holds here as well.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_acquire(&self, permits: u32, limit: Option<Duration>) -> Result<Permits, AcquireError> {
        wait(self.acquire_with_progress(permits, limit, |_| {}))
    }

    /// [`available_permits`](Self::available_permits) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_available_permits(&self) -> Result<u32, ReadError> {
        wait(self.available_permits())
    }

    /// [`status`](Self::status) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_status(&self) -> Result<SemaphoreStatus, ReadError> {
        wait(self.status())
    }

    /// [`revoke`](Self::revoke) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_revoke(&self, holder_identity: &str) -> Result<bool, ReadError> {
        wait(self.revoke(holder_identity))
    }

    /// [`request_release`](Self::request_release) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_request_release(
        &self,
        of: Option<&str>,
        within: Duration,
        reason: &str,
    ) -> Result<Vec<String>, RequestReleaseError> {
        wait(self.request_release(of, within, reason))
    }
}

impl Permits {
    /// [`release_some`](Self::release_some) without async.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn blocking_release_some(&mut self, permits: u32) -> Result<(), Lost> {
        wait(self.release_some(permits))
    }

    /// [`release`](Self::release) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_release(self) -> Result<(), ReleaseError> {
        wait(self.release())
    }

    /// [`keep`](Self::keep) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_keep(self, time: Duration) -> Result<(), ReleaseError> {
        wait(self.keep(time))
    }
}

impl ReadWriteLock {
    /// [`try_read`](Self::try_read) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_try_read(&self) -> Result<ReadGuard, TryAcquireError> {
        wait(self.try_read())
    }

    /// [`read`](Self::read), or [`read_timeout`](Self::read_timeout) if there is a limit, without async. What
    /// [`Lock::blocking_acquire`] says of threads holds here as well.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_read(&self, limit: Option<Duration>) -> Result<ReadGuard, AcquireError> {
        match limit {
            Some(limit) => wait(self.read_timeout(limit)),
            None => wait(self.read()),
        }
    }

    /// [`try_write`](Self::try_write) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_try_write(&self) -> Result<WriteGuard, TryAcquireError> {
        wait(self.try_write())
    }

    /// [`write`](Self::write), or [`write_timeout`](Self::write_timeout) if there is a limit, without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_write(&self, limit: Option<Duration>) -> Result<WriteGuard, AcquireError> {
        match limit {
            Some(limit) => wait(self.write_timeout(limit)),
            None => wait(self.write()),
        }
    }

    /// [`try_upgradeable_read`](Self::try_upgradeable_read) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_try_upgradeable_read(&self) -> Result<UpgradeableGuard, TryAcquireError> {
        wait(self.try_upgradeable_read())
    }

    /// [`upgradeable_read`](Self::upgradeable_read), or [`upgradeable_read_timeout`](Self::upgradeable_read_timeout) if
    /// there is a limit, without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_upgradeable_read(&self, limit: Option<Duration>) -> Result<UpgradeableGuard, AcquireError> {
        match limit {
            Some(limit) => wait(self.upgradeable_read_timeout(limit)),
            None => wait(self.upgradeable_read()),
        }
    }

    /// [`status`](Self::status) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_status(&self) -> Result<ReadWriteLockStatus, ReadError> {
        wait(self.status())
    }

    /// [`request_release`](Self::request_release) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_request_release(
        &self,
        of: Option<&str>,
        within: Duration,
        reason: &str,
    ) -> Result<Vec<String>, RequestReleaseError> {
        wait(self.request_release(of, within, reason))
    }
}

impl ReadGuard {
    /// [`release`](Self::release) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_release(self) -> Result<(), ReleaseError> {
        wait(self.release())
    }
}

impl UpgradeableGuard {
    /// [`upgrade`](Self::upgrade) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_upgrade(self) -> Result<WriteGuard, Lost> {
        wait(self.upgrade())
    }

    /// [`upgrade_timeout`](Self::upgrade_timeout) without async.
    ///
    /// # Errors
    /// As there.
    #[expect(clippy::result_large_err, reason = "the guard comes back in it")]
    pub fn blocking_upgrade_timeout(self, limit: Duration) -> Result<WriteGuard, UpgradeError> {
        wait(self.upgrade_timeout(limit))
    }

    /// [`downgrade`](Self::downgrade) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_downgrade(self) -> Result<ReadGuard, Lost> {
        wait(self.downgrade())
    }

    /// [`release`](Self::release) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_release(self) -> Result<(), ReleaseError> {
        wait(self.release())
    }
}

impl WriteGuard {
    /// [`downgrade`](Self::downgrade) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_downgrade(self) -> Result<ReadGuard, Lost> {
        wait(self.downgrade())
    }

    /// [`downgrade_to_upgradeable`](Self::downgrade_to_upgradeable) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_downgrade_to_upgradeable(self) -> Result<UpgradeableGuard, Lost> {
        wait(self.downgrade_to_upgradeable())
    }

    /// [`release`](Self::release) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_release(self) -> Result<(), ReleaseError> {
        wait(self.release())
    }
}

impl MultiLock {
    /// [`acquire`](Self::acquire), or [`acquire_timeout`](Self::acquire_timeout) if there is a limit, without async. What
    /// [`Lock::blocking_acquire`] says of threads holds here as well.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_acquire(&self, limit: Option<Duration>) -> Result<MultiGuard, AcquireError> {
        match limit {
            Some(limit) => wait(self.acquire_timeout(limit)),
            None => wait(self.acquire()),
        }
    }
}

impl MultiGuard {
    /// [`release`](Self::release) without async.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_release(self) -> Result<(), ReleaseError> {
        wait(self.release())
    }
}

/// `None` where it takes longer than the limit.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}
