//! A counting semaphore.

use std::ops::Deref;
use std::time::Duration;

use crate::access::{Access, Progress, checked_skew};
use crate::client::Client;
use crate::error::{
    AcquireError, ApiError, Lost, OptionsError, ReadError, ReleaseError, RequestReleaseError, TryAcquireError,
};
use crate::hold::Hold;
use crate::options::{self, WaitLimit};
use crate::protocol::contender::Wish;
use crate::protocol::{HolderId, Kind, Mode, write};
use crate::slot::Stay;
use crate::status::SemaphoreStatus;
use crate::store::Failure;

/// Options of a [`Semaphore`].
#[derive(Debug)]
#[must_use]
pub struct SemaphoreBuilder {
    client: Client,
    name: String,
    permits: Option<u32>,
    lease_duration: Option<Duration>,
    renewal: Option<bool>,
    wait_limit: WaitLimit,
    stay: Stay,
    max_clock_skew: Option<Duration>,
}

impl SemaphoreBuilder {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self {
            client,
            name,
            permits: None,
            lease_duration: None,
            renewal: None,
            wait_limit: WaitLimit::Unsaid,
            stay: Stay::default(),
            max_clock_skew: None,
        }
    }

    /// How many permits there are, from 1 to 2147483647.
    ///
    /// With this no custom resource is needed: whoever comes first makes the semaphore, and it goes with its last holder
    /// and waiter. All clients have to say the same number; an acquisition by one that says another fails and names both.
    /// Default: what the custom resource says.
    pub fn with_permits(mut self, permits: u32) -> Self {
        self.permits = Some(permits);
        self
    }

    /// Lets what is held live by itself, for so long after a renewal: whole seconds, at least 1.
    /// Default: what the [client](crate::ClientBuilder::lease_duration) says, or else the custom resource, or else as long
    /// as the client's session.
    pub fn lease_duration(mut self, duration: Duration) -> Self {
        self.lease_duration = Some(duration);
        self
    }

    /// Whether what lives by itself is renewed. Default: what the [client](crate::ClientBuilder::renewal) says, or else yes.
    ///
    /// Without renewal permits come back after the lease duration, whether released or not: so many in that time, which
    /// is how a rate is limited. Nobody's clock decides that alone: a permit counts as come back when somebody who waits
    /// (or the operator) has seen it unchanged for the whole duration.
    pub fn renewal(mut self, renewal: bool) -> Self {
        self.renewal = Some(renewal);
        self
    }

    /// For how long an acquisition that names no limit of its own waits at most; `None`: for ever.
    /// Default: what the [client](crate::ClientBuilder::wait_limit) says.
    pub fn wait_limit(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.wait_limit = WaitLimit::Said(limit.into());
        self
    }

    /// Lets nobody else have it before this much time has passed since it was acquired, also if it is given back earlier:
    /// then it is left on the Lease for the rest, as [`keep`](Permits::keep) does. Default: no.
    ///
    /// It is for work that is to be done once in a while, by whoever comes first, and takes less than that: without it
    /// somebody whose clock is a little late would do it again. A process that is killed keeps it for as long as its hold
    /// lives only; with a [`lease_duration`](Self::lease_duration) as long as this, for all of it. Rounded up to whole
    /// seconds, at most 10 years.
    ///
    /// A process that has just been started has to watch it for the rest of that time before it believes that it is over: one
    /// that only tries, and ends, as a cron job's does, is told for ever that it is held. It needs
    /// [`max_clock_skew`](Self::max_clock_skew), or the operator, which watches.
    pub fn hold_at_least(mut self, time: Duration) -> Self {
        self.stay.at_least = Some(time);
        self
    }

    /// Ends a hold after this much time, however often it is renewed. Default: no end. At most 10 years.
    ///
    /// Then it is [lost](Hold::lost) ([`LossReason::HeldTooLong`](crate::LossReason::HeldTooLong)), and given back in the
    /// background: after the client's [`grace`](crate::ClientBuilder::grace), so that what runs under it can be stopped. It is
    /// for work that may hang.
    pub fn max_hold(mut self, time: Duration) -> Self {
        self.stay.at_most = Some(time);
        self
    }

    /// Relies on it that no two machines' wall clocks differ by more than this. Default: nothing is relied on.
    ///
    /// A hold that lives by the Lease's own record (one that was [kept](Permits::keep), above all) is over when nobody has
    /// renewed it for its whole duration. To know that, somebody must have watched it for so long, and a program
    /// that has just been started has not. With this it may believe the times that stand there, plus this. Where
    /// clocks differ by more, **two can hold at once**. From 1 s to a day; some seconds are sane where machines run NTP.
    pub fn max_clock_skew(mut self, skew: Duration) -> Self {
        self.max_clock_skew = Some(skew);
        self
    }

    /// Makes the semaphore. No request is sent.
    ///
    /// # Errors
    /// [`OptionsError`] where the name is empty, longer than 1024 bytes or has control characters, or options do not go together.
    pub fn build(self) -> Result<Semaphore, OptionsError> {
        let renewal = self.renewal.unwrap_or(self.client.inner().defaults.renewal);
        let own_duration = options::lease_duration(&self.client, self.lease_duration, renewal)?;
        let wait_limit = self.wait_limit.resolve(&self.client)?;
        let mut access = Access { wait_limit, ..Access::new(self.client, &self.name)? };
        access.stays(self.stay)?;
        if let Some(permits) = self.permits.filter(|permits| *permits == 0 || i32::try_from(*permits).is_err()) {
            let problem = format!("{permits} will not do: 1 to 2147483647 are possible");
            return Err(OptionsError::new("with_permits", problem));
        }
        let wish = Wish {
            kind: Kind::Semaphore,
            permits: self.permits,
            own_duration,
            renewal,
            max_clock_skew: checked_skew(self.max_clock_skew)?,
            ..Wish::default()
        };
        Ok(Semaphore { access, wish })
    }
}

/// So many permits, which all processes of a cluster share by the semaphore's name.
///
/// Never are more permits out than there are, not even for a moment. Waiters get theirs in the order in which the API
/// server took their joins (FIFO): a large request at the head waits until it fits, and what is behind it waits with it, so
/// that small ones cannot starve it. Tasks of one process queue up locally and stand as one waiter in the cluster's
/// queue.
///
/// How many permits there are is said by the custom resource, or by [`with_permits`](SemaphoreBuilder::with_permits).
/// When it grows, waiters are let in at once; when it shrinks, nobody loses what he has, and nobody is let in until less
/// is held than there is. Whoever waits for more than there are from then on is told so, as if it had just asked. A semaphore
/// with no permits at all is closed: waiters wait until there are some again.
///
/// Not reentrant: a task that holds permits and acquires more may wait for itself, and nobody tells it, since permits are
/// often acquired by one task and given back by another. Acquire at once all that is needed together.
///
/// # When to use something else
/// One permit is a [`Lock`](crate::Lock), which passes on in one write less. A semaphore keeps its holders and waiters in
/// one object: some hundreds of them are fine, thousands are not.
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
/// let connections = client.semaphore("db-connections").with_permits(5).build()?;
/// let three = connections.acquire(3).await?;
/// assert_eq!(connections.available_permits().await?, 2);
/// assert!(connections.try_acquire(3).await.is_err());
/// three.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Semaphore {
    pub(crate) access: Access,
    pub(crate) wish: Wish,
}

impl Semaphore {
    /// The semaphore's name, with the client's [key prefix](crate::ClientBuilder::key_prefix).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.access.name
    }

    /// The name of the Lease on which it stands: the semaphore's own where that can be a Lease's
    /// ([`lease_name`](crate::protocol::name::lease_name)).
    #[must_use]
    pub fn lease_name(&self) -> &str {
        &self.access.lease
    }

    /// Acquires permits if that can be done now: they are free, and nobody waits.
    ///
    /// # Cancel safety
    /// Cancelled, it holds nothing: what may have been acquired is given back in the background.
    ///
    /// # Errors
    /// [`TryAcquireError::Held`] where there are not as many, or somebody is ahead; otherwise what the API server had
    /// against it, or how many permits there are if they are fewer than asked for.
    pub async fn try_acquire(&self, permits: u32) -> Result<Permits, TryAcquireError> {
        let wish =
            self.wish(permits).map_err(|source| TryAcquireError::Api { name: self.name().to_owned(), source })?;
        Ok(Permits { hold: self.access.try_acquire(&wish).await?, permits })
    }

    /// Acquires permits, and waits for them as long as it takes, or as the semaphore's
    /// [wait limit](SemaphoreBuilder::wait_limit) lets it.
    ///
    /// # Cancel safety
    /// Cancelled, it leaves the queue, or gives back what it was just granted, in the background: no waiter stays.
    ///
    /// # Errors
    /// [`AcquireError::Api`] where the API server forbids it, or was never reached within the contact timeout, or more
    /// permits are wanted than there are, or clients do not agree on how many there are.
    pub async fn acquire(&self, permits: u32) -> Result<Permits, AcquireError> {
        self.acquire_with_progress(permits, None, |_| {}).await
    }

    /// Acquires permits, and waits for them at most so long.
    ///
    /// # Cancel safety
    /// As [`acquire`](Self::acquire).
    ///
    /// # Errors
    /// [`AcquireError::TimedOut`] after the limit; otherwise as [`acquire`](Self::acquire).
    pub async fn acquire_timeout(&self, permits: u32, limit: Duration) -> Result<Permits, AcquireError> {
        self.acquire_with_progress(permits, Some(limit), |_| {}).await
    }

    /// Acquires permits as [`acquire`](Self::acquire) or [`acquire_timeout`](Self::acquire_timeout) does, and tells how
    /// the wait is going whenever that changes.
    ///
    /// # Cancel safety
    /// As [`acquire`](Self::acquire).
    ///
    /// # Errors
    /// As [`acquire_timeout`](Self::acquire_timeout).
    pub async fn acquire_with_progress(
        &self,
        permits: u32,
        limit: Option<Duration>,
        progress: impl FnMut(Progress),
    ) -> Result<Permits, AcquireError> {
        let wish = self.wish(permits).map_err(|source| AcquireError::Api { name: self.name().to_owned(), source })?;
        Ok(Permits { hold: self.access.acquire(&wish, limit, progress).await?, permits })
    }

    /// How many permits nobody holds. It costs one read, and what it says may be over by the time it is heard.
    ///
    /// # Cancel safety
    /// It only reads.
    ///
    /// # Errors
    /// [`ReadError`] where the Lease could not be read.
    pub async fn available_permits(&self) -> Result<u32, ReadError> {
        Ok(self.status().await?.available)
    }

    /// How many permits there are, who holds them and who waits. It costs one read.
    ///
    /// # Cancel safety
    /// It only reads.
    ///
    /// # Errors
    /// [`ReadError`] where the Lease could not be read.
    pub async fn status(&self) -> Result<SemaphoreStatus, ReadError> {
        let record = self.access.read().await?;
        Ok(SemaphoreStatus::of(self.name(), self.wish.permits, record.as_ref()))
    }

    /// Takes away what one acquisition holds, named by its [identity](Hold::holder_identity). Whether there was any.
    ///
    /// Its holder learns that by [`lost`](Hold::lost), or by a check within a renew interval; until then only its token
    /// protects what the permits are for.
    ///
    /// # Cancel safety
    /// Cancelled, it may or may not have been done.
    ///
    /// # Errors
    /// [`ReadError`] where the Lease could not be read, or the API server did not do it.
    pub async fn revoke(&self, holder_identity: &str) -> Result<bool, ReadError> {
        let Ok(id) = holder_identity.parse::<HolderId>() else { return Ok(false) };
        loop {
            let Some(record) = self.access.read().await? else { return Ok(false) };
            let Some(holder) = record.holders().find(|holder| holder.id.as_ref() == Some(&id)) else {
                return Ok(false);
            };
            let write = write::shared::release(&record, holder, true);
            match self.access.write(write).await {
                Ok(_) => return Ok(true),
                Err(Failure::Refused | Failure::Absent) => {}
                Err(failure) => return Err(self.access.unread(failure)),
            }
        }
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

    fn wish(&self, permits: u32) -> Result<Wish, ApiError> {
        if permits == 0 || i32::try_from(permits).is_err() {
            let message = format!("{permits} permits cannot be acquired: from 1 to 2147483647 can");
            return Err(ApiError::Invalid { message });
        }
        Ok(Wish { mode: Mode::Permits(permits), ..self.wish.clone() })
    }
}

/// Permits are held as long as this is, and as long as they are not [lost](Hold::lost).
///
/// Dropping it gives them back in the background. [`release`](Self::release) does so and says how it went. What else can
/// be done with it is that of every [`Hold`].
#[must_use = "the permits are given back as soon as this is dropped"]
#[derive(Debug)]
pub struct Permits {
    pub(crate) hold: Hold,
    permits: u32,
}

impl Deref for Permits {
    type Target = Hold;

    fn deref(&self) -> &Hold {
        &self.hold
    }
}

impl Permits {
    /// How many they are.
    #[must_use]
    pub fn permits(&self) -> u32 {
        self.permits
    }

    /// Gives back some of them, and keeps the others.
    ///
    /// # Cancel safety
    /// Cancelled, they are given back in the background.
    ///
    /// # Errors
    /// [`Lost`] where all of them have been lost.
    ///
    /// # Panics
    /// Where that would leave none: [`release`](Self::release) does that.
    pub async fn release_some(&mut self, permits: u32) -> Result<(), Lost> {
        let rest = self.permits.saturating_sub(permits);
        assert!(rest > 0, "release_some() must leave at least one of {} permits", self.permits);
        self.permits = rest;
        self.hold.change(Mode::Permits(rest)).await
    }

    /// Gives the permits back, and says how that went.
    ///
    /// # Cancel safety
    /// Cancelled, the release goes on in the background.
    ///
    /// # Errors
    /// [`ReleaseError::Lost`] where they had been lost before; [`ReleaseError::Unsettled`] where no clear answer came in
    /// time. Either way they are gone, and nothing is to be repeated.
    pub async fn release(self) -> Result<(), ReleaseError> {
        self.hold.release().await
    }

    /// Leaves it on the Lease for so long from now on, and holds it no more: nobody has it until then, this process
    /// included, whatever becomes of this process or of the operator.
    ///
    /// Release instead where the work has failed and somebody else is to try. Rounded up to whole seconds, at least 1. It
    /// costs one write; the Lease stays until somebody acquires it after that time, or the operator clears it up.
    /// Whoever waits gets it when it has watched it for that time; who comes later likewise, unless it relies on
    /// [clocks](crate::SemaphoreBuilder::max_clock_skew).
    ///
    /// # Cancel safety
    /// Cancelled, it goes on in the background.
    ///
    /// # Errors
    /// As [`release`](Self::release): [`ReleaseError::Lost`] where it was not held any more, and is not kept.
    pub async fn keep(self, time: Duration) -> Result<(), ReleaseError> {
        self.hold.keep(time).await
    }
}
