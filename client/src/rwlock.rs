//! A read-write lock.

use std::ops::Deref;
use std::time::Duration;

use crate::access::{Access, Progress};
use crate::client::Client;
use crate::clock;
use crate::error::{
    AcquireError, Lost, OptionsError, ReadError, ReleaseError, RequestReleaseError, TryAcquireError, UpgradeError,
};
use crate::hold::Hold;
use crate::options::WaitLimit;
use crate::protocol::contender::Wish;
use crate::protocol::{Kind, Mode};
use crate::slot::Stay;
use crate::status::ReadWriteLockStatus;

/// A lock that many readers hold together, or one writer alone, by its name, in all processes of a cluster.
///
/// Everybody gets it in the order in which the API server took the joins (FIFO), readers that stand next to each other
/// together. So neither readers nor writers starve: a writer waits for the readers before it, and readers that come later
/// wait for the writer. Tasks of one process queue up locally and stand as one waiter in the cluster's queue.
///
/// One reader at a time can be *upgradeable*: it can become the writer without letting anybody in between. A plain reader
/// cannot, so two readers that wait for each other to go cannot happen.
///
/// Not reentrant: a task that reads and wants to write would wait for itself, and is told so at once
/// ([`AcquireError::HeldByThisTask`]). It is the upgradeable reader that is meant there. A task that reads may read once
/// more; where somebody waits to write in between, it waits for itself.
///
/// # When to use something else
/// Where everybody writes, a [`Lock`](crate::Lock) passes on in one write less. Readers that only have to see something
/// whole need no lock: a Kubernetes object is read whole.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use leasehold::{Client, MemoryStore};
///
/// // In production: Client::try_default().await?
/// let client = Client::builder().store(Arc::new(MemoryStore::new())).build()?;
/// let catalog = client.read_write_lock("catalog")?;
/// let (one, two) = (catalog.read().await?, catalog.upgradeable_read().await?);
/// assert!(catalog.try_write().await.is_err());
/// one.release().await?;
/// let writer = two.upgrade().await?;
/// assert!(catalog.try_read().await.is_err());
/// writer.downgrade().await?.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ReadWriteLock {
    pub(crate) access: Access,
}

impl ReadWriteLock {
    pub(crate) fn new(client: Client, name: &str) -> Result<Self, OptionsError> {
        Ok(Self { access: Access::new(client, name)? })
    }

    /// Whether a task that holds the lock and acquires it again, one of them to write, waits. Default: no, it is told that it
    /// would wait for itself ([`AcquireError::HeldByThisTask`]). See
    /// [`LockBuilder::same_task_waits`](crate::LockBuilder::same_task_waits).
    #[must_use]
    pub fn same_task_waits(mut self, waits: bool) -> Self {
        self.access.same_task_waits = waits;
        self
    }

    /// For how long an acquisition that names no limit of its own waits at most; `None`: for ever. Default: what the
    /// [client](crate::ClientBuilder::wait_limit) says.
    ///
    /// # Errors
    /// [`OptionsError`] where the limit is no time at all.
    pub fn wait_limit(mut self, limit: impl Into<Option<Duration>>) -> Result<Self, OptionsError> {
        self.access.wait_limit = WaitLimit::Said(limit.into()).resolve(&self.access.client)?;
        Ok(self)
    }

    /// Ends a hold after this much time, however often it is renewed. Default: no end. At most 10 years. See
    /// [`LockBuilder::max_hold`](crate::LockBuilder::max_hold).
    ///
    /// # Errors
    /// [`OptionsError`] where it is no time at all, or more than 10 years.
    pub fn max_hold(mut self, time: Duration) -> Result<Self, OptionsError> {
        let at_least = self.access.stay.at_least;
        self.access.stays(Stay { at_least, at_most: Some(time) })?;
        Ok(self)
    }

    /// Lets what was acquired stay for this much time at least, also if it is given back earlier: of a writer, that
    /// nobody reads or writes before. Default: no. See [`LockBuilder::hold_at_least`](crate::LockBuilder::hold_at_least).
    ///
    /// # Errors
    /// [`OptionsError`] where it is no time at all, or more than 10 years, or than [`max_hold`](Self::max_hold).
    pub fn hold_at_least(mut self, time: Duration) -> Result<Self, OptionsError> {
        let at_most = self.access.stay.at_most;
        self.access.stays(Stay { at_least: Some(time), at_most })?;
        Ok(self)
    }

    /// The lock's name, with the client's [key prefix](crate::ClientBuilder::key_prefix).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.access.name
    }

    /// The name of the Lease on which it stands: the lock's own where that can be a Lease's
    /// ([`lease_name`](crate::protocol::name::lease_name)).
    #[must_use]
    pub fn lease_name(&self) -> &str {
        &self.access.lease
    }

    /// Waits to read, as long as it takes, or as the lock's [wait limit](Self::wait_limit) lets it.
    ///
    /// # Cancel safety
    /// Cancelled, it leaves the queue, or gives back what it was just granted, in the background: no waiter stays.
    ///
    /// # Errors
    /// [`AcquireError::Api`] where the API server forbids it, or was never reached within the contact timeout.
    pub async fn read(&self) -> Result<ReadGuard, AcquireError> {
        self.acquire(Mode::Read, None, |_| {}).await.map(ReadGuard)
    }

    /// Waits to read, at most so long.
    ///
    /// # Cancel safety
    /// As [`read`](Self::read).
    ///
    /// # Errors
    /// [`AcquireError::TimedOut`] after the limit; otherwise as [`read`](Self::read).
    pub async fn read_timeout(&self, limit: Duration) -> Result<ReadGuard, AcquireError> {
        self.acquire(Mode::Read, Some(limit), |_| {}).await.map(ReadGuard)
    }

    /// Reads if that can be done now: nobody writes, and nobody waits.
    ///
    /// # Cancel safety
    /// Cancelled, it holds nothing: what may have been acquired is given back in the background.
    ///
    /// # Errors
    /// [`TryAcquireError::Held`] where somebody is in the way; otherwise what the API server had against it.
    pub async fn try_read(&self) -> Result<ReadGuard, TryAcquireError> {
        self.try_acquire(Mode::Read).await.map(ReadGuard)
    }

    /// Waits to write, as long as it takes, or as the lock's [wait limit](Self::wait_limit) lets it.
    ///
    /// # Cancel safety
    /// As [`read`](Self::read).
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn write(&self) -> Result<WriteGuard, AcquireError> {
        self.acquire(Mode::Write, None, |_| {}).await.map(WriteGuard)
    }

    /// Waits to write, at most so long.
    ///
    /// # Cancel safety
    /// As [`read`](Self::read).
    ///
    /// # Errors
    /// As [`read_timeout`](Self::read_timeout).
    pub async fn write_timeout(&self, limit: Duration) -> Result<WriteGuard, AcquireError> {
        self.acquire(Mode::Write, Some(limit), |_| {}).await.map(WriteGuard)
    }

    /// Writes if that can be done now: nobody reads or writes, and nobody waits.
    ///
    /// # Cancel safety
    /// As [`try_read`](Self::try_read).
    ///
    /// # Errors
    /// As [`try_read`](Self::try_read).
    pub async fn try_write(&self) -> Result<WriteGuard, TryAcquireError> {
        self.try_acquire(Mode::Write).await.map(WriteGuard)
    }

    /// Waits to read, as long as it takes, as the one reader that can become the writer.
    ///
    /// # Cancel safety
    /// As [`read`](Self::read).
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn upgradeable_read(&self) -> Result<UpgradeableGuard, AcquireError> {
        self.acquire(Mode::Upgradeable, None, |_| {}).await.map(UpgradeableGuard)
    }

    /// Waits to read as the one reader that can become the writer, at most so long.
    ///
    /// # Cancel safety
    /// As [`read`](Self::read).
    ///
    /// # Errors
    /// As [`read_timeout`](Self::read_timeout).
    pub async fn upgradeable_read_timeout(&self, limit: Duration) -> Result<UpgradeableGuard, AcquireError> {
        self.acquire(Mode::Upgradeable, Some(limit), |_| {}).await.map(UpgradeableGuard)
    }

    /// Reads as the one reader that can become the writer, if that can be done now.
    ///
    /// # Cancel safety
    /// As [`try_read`](Self::try_read).
    ///
    /// # Errors
    /// As [`try_read`](Self::try_read); another upgradeable reader is in the way as well.
    pub async fn try_upgradeable_read(&self) -> Result<UpgradeableGuard, TryAcquireError> {
        self.try_acquire(Mode::Upgradeable).await.map(UpgradeableGuard)
    }

    /// Who holds it and who waits. It costs one read.
    ///
    /// # Cancel safety
    /// It only reads.
    ///
    /// # Errors
    /// [`ReadError`] where the Lease could not be read.
    pub async fn status(&self) -> Result<ReadWriteLockStatus, ReadError> {
        let record = self.access.read().await?;
        Ok(ReadWriteLockStatus::of(self.name(), record.as_ref()))
    }

    /// Asks all holders, or the one of this identity, to let go within this time (1 s to a day), and gives a reason for people (up to 256 bytes).
    /// Whose identities were asked.
    ///
    /// A holder hears of it by [`release_requested`](Hold::release_requested), and need not obey. The operator evicts it after
    /// that time only if the custom resource says so (`releaseRequests: Evict`). Asking again takes the place of what
    /// was asked before. It costs a read, and a write for each holder.
    ///
    /// # Cancel safety
    /// Cancelled, some may have been asked.
    ///
    /// # Errors
    /// [`RequestReleaseError`] where the time or the reason will not do, or the API server did not do it.
    pub async fn request_release(
        &self,
        of: Option<&str>,
        within: Duration,
        reason: &str,
    ) -> Result<Vec<String>, RequestReleaseError> {
        self.access.request_release(of, within, reason).await
    }

    async fn try_acquire(&self, mode: Mode) -> Result<Hold, TryAcquireError> {
        self.access.try_acquire(&wish(mode)).await
    }

    async fn acquire(
        &self,
        mode: Mode,
        limit: Option<Duration>,
        progress: impl FnMut(Progress),
    ) -> Result<Hold, AcquireError> {
        self.access.acquire(&wish(mode), limit, progress).await
    }
}

pub(crate) fn wish(mode: Mode) -> Wish {
    Wish { kind: Kind::ReadWriteLock, mode, ..Wish::default() }
}

/// It is read as long as this is held, and as long as it is not [lost](Hold::lost). Dropping it gives it back.
#[must_use = "it is given back as soon as this is dropped"]
#[derive(Debug)]
pub struct ReadGuard(pub(crate) Hold);

/// It is read as long as this is held, and as long as it is not [lost](Hold::lost), and may be written later. Dropping it
/// gives it back.
#[must_use = "it is given back as soon as this is dropped"]
#[derive(Debug)]
pub struct UpgradeableGuard(Hold);

/// It is written as long as this is held, and as long as it is not [lost](Hold::lost). Dropping it gives it back.
#[must_use = "it is given back as soon as this is dropped"]
#[derive(Debug)]
pub struct WriteGuard(pub(crate) Hold);

impl Deref for ReadGuard {
    type Target = Hold;

    fn deref(&self) -> &Hold {
        &self.0
    }
}

impl Deref for UpgradeableGuard {
    type Target = Hold;

    fn deref(&self) -> &Hold {
        &self.0
    }
}

impl Deref for WriteGuard {
    type Target = Hold;

    fn deref(&self) -> &Hold {
        &self.0
    }
}

impl ReadGuard {
    /// Gives it back, and says how that went.
    ///
    /// # Cancel safety
    /// Cancelled, the release goes on in the background.
    ///
    /// # Errors
    /// [`ReleaseError::Lost`] where it had been lost before; [`ReleaseError::Unsettled`] where no clear answer came in
    /// time. Either way it is gone, and nothing is to be repeated.
    pub async fn release(self) -> Result<(), ReleaseError> {
        self.0.release().await
    }
}

impl UpgradeableGuard {
    /// Becomes the writer, when the other readers have gone. Nobody is let in until then, and nobody writes in between.
    ///
    /// Its [token](Hold::token) is a new one, larger than all before.
    ///
    /// # Cancel safety
    /// Cancelled, it is given back.
    ///
    /// # Errors
    /// [`Lost`] where it was lost meanwhile.
    pub async fn upgrade(mut self) -> Result<WriteGuard, Lost> {
        self.0.change(Mode::Write).await?;
        Ok(WriteGuard(self.0))
    }

    /// Becomes the writer as [`upgrade`](Self::upgrade) does, and waits for that at most so long.
    ///
    /// # Cancel safety
    /// Cancelled, it is given back.
    ///
    /// # Errors
    /// [`UpgradeError::TimedOut`] after the limit, with this guard: it still reads, and others are let in again.
    /// [`UpgradeError::Lost`] where it was lost meanwhile.
    pub async fn upgrade_timeout(mut self, limit: Duration) -> Result<WriteGuard, UpgradeError> {
        let begun = clock::moment();
        let upgraded = tokio::select! {
            biased;
            upgraded = self.0.change(Mode::Write) => Some(upgraded),
            () = clock::sleep_until_deadline(begun + limit) => None,
        };
        match upgraded {
            Some(Ok(())) => Ok(WriteGuard(self.0)),
            Some(Err(lost)) => Err(UpgradeError::Lost(lost)),
            None => {
                // It may have become the writer at this moment: then it goes back to what it was.
                self.0.change(Mode::Upgradeable).await?;
                Err(UpgradeError::TimedOut { guard: self, waited: clock::moment().since(begun) })
            }
        }
    }

    /// Becomes a plain reader, so that another can be the upgradeable one.
    ///
    /// # Cancel safety
    /// Cancelled, it is given back.
    ///
    /// # Errors
    /// [`Lost`] where it was lost meanwhile.
    pub async fn downgrade(mut self) -> Result<ReadGuard, Lost> {
        self.0.change(Mode::Read).await?;
        Ok(ReadGuard(self.0))
    }

    /// Gives it back, and says how that went.
    ///
    /// # Cancel safety
    /// Cancelled, the release goes on in the background.
    ///
    /// # Errors
    /// As [`ReadGuard::release`].
    pub async fn release(self) -> Result<(), ReleaseError> {
        self.0.release().await
    }
}

impl WriteGuard {
    /// Becomes a reader, and lets in those who wait to read. Nobody writes in between.
    ///
    /// # Cancel safety
    /// Cancelled, it is given back.
    ///
    /// # Errors
    /// [`Lost`] where it was lost meanwhile.
    pub async fn downgrade(mut self) -> Result<ReadGuard, Lost> {
        self.0.change(Mode::Read).await?;
        Ok(ReadGuard(self.0))
    }

    /// Becomes the upgradeable reader, and lets in those who wait to read. Nobody writes in between.
    ///
    /// # Cancel safety
    /// Cancelled, it is given back.
    ///
    /// # Errors
    /// [`Lost`] where it was lost meanwhile.
    pub async fn downgrade_to_upgradeable(mut self) -> Result<UpgradeableGuard, Lost> {
        self.0.change(Mode::Upgradeable).await?;
        Ok(UpgradeableGuard(self.0))
    }

    /// Gives it back, and says how that went.
    ///
    /// # Cancel safety
    /// Cancelled, the release goes on in the background.
    ///
    /// # Errors
    /// As [`ReadGuard::release`].
    pub async fn release(self) -> Result<(), ReleaseError> {
        self.0.release().await
    }
}
