//! Several locks at once, all or nothing.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::access::{Access, Progress};
use crate::clock;
use crate::error::{AcquireError, ApiError, Lost, OptionsError, ReleaseError, TryAcquireError};
use crate::hold::Hold;
use crate::lock::Lock;
use crate::protocol::contender::Wish;
use crate::protocol::{Kind, Mode, Moment};
use crate::rwlock::{self, ReadWriteLock};
use crate::semaphore::Semaphore;
use crate::task::Tasks;

/// A set of locks, permits of semaphores, and read-write locks to be read or written: acquired all or not at all.
///
/// They are acquired one after the other in the order of their namespaces and names, whatever the order in which they were
/// named. So any number of processes that acquire what they need in this way cannot wait for each other in a circle. Who
/// is waiting for the next one holds those before it; where that hurts, name a wait limit, after which all are released.
///
/// What is named twice is acquired once, with the options of the first: permits are added up, and to read and to write the
/// same is to write it.
///
/// # When to use something else
/// One lock that stands for all is simpler and faster. Where some are acquired apart from others, and more while they are
/// held, no order helps: use a limit there.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use leasehold::{Client, MemoryStore, MultiLock};
///
/// // In production: Client::try_default().await?
/// let client = Client::builder().store(Arc::new(MemoryStore::new())).build()?;
/// let (from, to) = (client.lock("account-4711").build()?, client.lock("account-0815").build()?);
/// let transfers = client.semaphore("transfers").with_permits(10).build()?;
/// let all = MultiLock::new().lock(&from).lock(&to).permits(&transfers, 1).build()?;
/// let guard = all.acquire().await?;
/// assert!(from.is_locked().await? && to.is_locked().await?);
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MultiLock {
    /// By namespace and name: the order in which they are acquired.
    parts: BTreeMap<(String, String), (Access, Wish)>,
}

/// A [`MultiLock`] in the making.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct MultiLockBuilder {
    parts: Vec<(Access, Wish)>,
}

impl MultiLockBuilder {
    /// This lock.
    pub fn lock(self, lock: &Lock) -> Self {
        self.part(&lock.access, lock.wish.clone())
    }

    /// So many permits of this semaphore.
    pub fn permits(self, semaphore: &Semaphore, permits: u32) -> Self {
        let wish = Wish { mode: Mode::Permits(permits), ..semaphore.wish.clone() };
        self.part(&semaphore.access, wish)
    }

    /// This read-write lock, to read.
    pub fn read(self, lock: &ReadWriteLock) -> Self {
        self.part(&lock.access, rwlock::wish(Mode::Read))
    }

    /// This read-write lock, to write.
    pub fn write(self, lock: &ReadWriteLock) -> Self {
        self.part(&lock.access, rwlock::wish(Mode::Write))
    }

    fn part(mut self, access: &Access, wish: Wish) -> Self {
        self.parts.push((access.clone(), wish));
        self
    }

    /// Makes the set. No request is sent.
    ///
    /// # Errors
    /// [`OptionsError`] where nothing was named, one name was named as two kinds, or a number of permits is impossible.
    pub fn build(self) -> Result<MultiLock, OptionsError> {
        let mut parts = BTreeMap::new();
        for (access, wish) in self.parts {
            let place = (access.client.namespace().to_owned(), access.name.to_string());
            let (access, wish) = match parts.remove(&place) {
                None => (access, wish),
                Some((first, before)) => (first, both(&place.1, &before, &wish)?),
            };
            match wish.mode {
                Mode::Permits(permits) if permits == 0 || i32::try_from(permits).is_err() => {
                    let problem = format!("{permits} of {:?} cannot be acquired: from 1 to 2147483647 can", place.1);
                    return Err(OptionsError::new("permits", problem));
                }
                _ => parts.insert(place, (access, wish)),
            };
        }
        if parts.is_empty() {
            return Err(OptionsError::new("lock", "nothing was named that could be acquired"));
        }
        Ok(MultiLock { parts })
    }
}

/// What is named twice.
fn both(name: &str, one: &Wish, other: &Wish) -> Result<Wish, OptionsError> {
    if one.kind != other.kind {
        let problem = format!("{name:?} was named as a {} and as a {}", one.kind.name(), other.kind.name());
        return Err(OptionsError::new("name", problem));
    }
    let mode = match (one.mode, other.mode) {
        (Mode::Permits(one), Mode::Permits(more)) if other.kind == Kind::Semaphore => {
            Mode::Permits(one.saturating_add(more))
        }
        (Mode::Write, _) | (_, Mode::Write) => Mode::Write,
        (mode, _) => mode,
    };
    Ok(Wish { mode, ..one.clone() })
}

impl MultiLock {
    /// Nothing yet: name what is to be acquired, then [`build`](MultiLockBuilder::build).
    #[expect(clippy::new_ret_no_self, reason = "as with the other builders")]
    pub fn new() -> MultiLockBuilder {
        MultiLockBuilder::default()
    }

    /// Acquires all, and waits as long as it takes, or for the shortest wait limit of what is named.
    ///
    /// One after the other is acquired. Where one is lost while another is still waited for (its session has run out in an
    /// outage, somebody broke it, its maximum hold is over), all that was acquired is given back, and it begins anew.
    ///
    /// # Cancel safety
    /// Cancelled, it releases what it has in the background.
    ///
    /// # Errors
    /// [`AcquireError`] of the first that was not acquired. None is held then.
    pub async fn acquire(&self) -> Result<MultiGuard, AcquireError> {
        self.within(None, |_, _| {}).await
    }

    /// Acquires all, and waits at most so long for all together.
    ///
    /// # Cancel safety
    /// As [`acquire`](Self::acquire).
    ///
    /// # Errors
    /// [`AcquireError::TimedOut`] after the limit, with the name of the one that was waited for; otherwise as
    /// [`acquire`](Self::acquire). None is held then.
    pub async fn acquire_timeout(&self, limit: Duration) -> Result<MultiGuard, AcquireError> {
        self.within(Some(limit), |_, _| {}).await
    }

    /// Acquires all as [`acquire`](Self::acquire) or [`acquire_timeout`](Self::acquire_timeout) does, and tells how the wait
    /// is going whenever that changes: for which of them, by its name, and how.
    ///
    /// # Cancel safety
    /// As [`acquire`](Self::acquire).
    ///
    /// # Errors
    /// As [`acquire_timeout`](Self::acquire_timeout).
    pub async fn acquire_with_progress(
        &self,
        limit: Option<Duration>,
        progress: impl FnMut(&str, Progress),
    ) -> Result<MultiGuard, AcquireError> {
        self.within(limit, progress).await
    }

    /// Acquires all if that can be done now: each is free, and nobody waits for it.
    ///
    /// # Cancel safety
    /// As [`acquire`](Self::acquire).
    ///
    /// # Errors
    /// [`TryAcquireError::Held`] where somebody is ahead at one of them; otherwise what the API server had against it. None
    /// is held then.
    pub async fn try_acquire(&self) -> Result<MultiGuard, TryAcquireError> {
        let mut holds = Vec::with_capacity(self.parts.len());
        for (access, wish) in self.parts.values() {
            match access.try_part(wish).await {
                Ok(hold) => holds.push(hold),
                Err(error) => {
                    give_all_back(holds).await;
                    return Err(error);
                }
            }
        }
        all_or_nothing(holds).await.map_err(|(name, source)| TryAcquireError::Api { name, source })
    }

    async fn within(
        &self,
        limit: Option<Duration>,
        mut progress: impl FnMut(&str, Progress),
    ) -> Result<MultiGuard, AcquireError> {
        let least = || self.parts.values().filter_map(|(access, _)| access.wait_limit).min();
        let end = limit.or_else(least).map(|limit| clock::moment() + limit);
        loop {
            if let Some(guard) = self.attempt(end, &mut progress).await? {
                return Ok(guard);
            }
        }
    }

    /// Acquires one after the other. Nothing where one of them was lost while others were waited for.
    async fn attempt(
        &self,
        end: Option<Moment>,
        progress: &mut impl FnMut(&str, Progress),
    ) -> Result<Option<MultiGuard>, AcquireError> {
        let mut holds: Vec<Hold> = Vec::with_capacity(self.parts.len());
        for (access, wish) in self.parts.values() {
            let left = end.map(|end| end.since(clock::moment()));
            let part = access.acquire_part(wish, left, |step| progress(&access.name, step));
            let part = tokio::select! {
                biased;
                part = part => Some(part),
                () = any_lost(&holds) => None,
            };
            match part {
                Some(Ok(hold)) => holds.push(hold),
                // What was held until then is given back before anybody hears of it.
                Some(Err(error)) => {
                    give_all_back(holds).await;
                    return Err(error);
                }
                None => {
                    give_all_back(holds).await;
                    return Ok(None);
                }
            }
        }
        Ok(all_or_nothing(holds).await.ok())
    }
}

/// Waits until one of these is known to be lost. It costs nothing, and so is told of a break within a renew interval.
async fn any_lost(holds: &[Hold]) {
    let lost = holds.iter().map(|hold| Box::pin(hold.validity().lost().cancelled()));
    if holds.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(lost).await;
}

/// All have been acquired. The first may have been lost while the last was waited for: then all is given back.
async fn all_or_nothing(holds: Vec<Hold>) -> Result<MultiGuard, (String, ApiError)> {
    let mut guard = MultiGuard { holds, lost: OnceLock::new() };
    match guard.check() {
        Ok(()) => {
            guard.holds.iter_mut().for_each(Hold::stay);
            Ok(guard)
        }
        Err(lost) => {
            let (name, message) = (lost.name.clone(), lost.to_string());
            let _ = guard.release().await;
            Err((name, ApiError::Unavailable { message }))
        }
    }
}

/// Nothing was done under these, and nothing of them rests in this process.
async fn give_all_back(holds: Vec<Hold>) {
    futures::future::join_all(holds.into_iter().map(Hold::release_for_good)).await;
}

/// All of a [`MultiLock`] is held as long as this is, and as long as none of it is lost. Dropping it releases all.
#[must_use = "all is released as soon as the guard is dropped"]
#[derive(Debug)]
pub struct MultiGuard {
    pub(crate) holds: Vec<Hold>,
    lost: OnceLock<(CancellationToken, DropGuard)>,
}

impl MultiGuard {
    /// What is held, by namespace and name.
    #[must_use]
    pub fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// What is held under this name, the client's key prefix included: for its [token](Hold::token).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.name() == name)
    }

    /// Whether all is still held, by this machine's clock and at this very moment. It costs no request.
    ///
    /// # Errors
    /// [`Lost`] of the first that is not.
    pub fn check(&self) -> Result<(), Lost> {
        self.holds.iter().try_for_each(Hold::check)
    }

    /// For how long all is held from now on if no renewal succeeds; zero when any is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.holds.iter().map(Hold::remaining).min().unwrap_or_default()
    }

    /// A token that is cancelled when any of it is lost (or released).
    ///
    /// As with one lock, asking for it makes the client watch them all.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        let begin = || {
            let (lost, over) = (CancellationToken::new(), CancellationToken::new());
            let each: Vec<_> = self.holds.iter().map(|hold| hold.lost().cancelled_owned()).map(Box::pin).collect();
            let (told, ended) = (lost.clone(), over.clone());
            let tasks = self.holds.first().map_or(Tasks::WithTheCaller, Hold::tasks);
            tasks.spawn(async move {
                tokio::select! {
                    biased;
                    _ = futures::future::select_all(each) => {}
                    () = ended.cancelled() => {}
                }
                told.cancel();
            });
            (lost, over.drop_guard())
        };
        self.lost.get_or_init(begin).0.clone()
    }

    /// Releases all, at the same time.
    ///
    /// # Cancel safety
    /// Cancelled, the releases go on in the background.
    ///
    /// # Errors
    /// [`ReleaseError`] of the first that was not released cleanly; the others were released all the same.
    pub async fn release(self) -> Result<(), ReleaseError> {
        let outcomes = futures::future::join_all(self.holds.into_iter().map(Hold::release)).await;
        outcomes.into_iter().collect()
    }

    /// Leaves all on the Leases for so long from now on, and holds none of it any more, as [`LockGuard::keep`] does.
    ///
    /// [`LockGuard::keep`]: crate::LockGuard::keep
    ///
    /// # Cancel safety
    /// Cancelled, it goes on in the background.
    ///
    /// # Errors
    /// [`ReleaseError`] of the first that is not kept; the others are all the same.
    pub async fn keep(self, time: Duration) -> Result<(), ReleaseError> {
        let outcomes = futures::future::join_all(self.holds.into_iter().map(|hold| hold.keep(time))).await;
        outcomes.into_iter().collect()
    }
}
