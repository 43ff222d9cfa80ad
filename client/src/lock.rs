//! A mutex.

use std::sync::Arc;
use std::time::Duration;

use crate::access::{Access, Progress, checked_skew};
use crate::client::Client;
use crate::error::{
    AcquireError, LossReason, OptionsError, ReleaseError, RequestReleaseError, TryAcquireError, WithLockError,
};
use crate::hold::Hold;
use crate::options::{self, WaitLimit};
use crate::protocol::contender::Wish;
use crate::protocol::lending::Terms;
use crate::protocol::renew_interval;
use crate::slot::Stay;

/// The longest time for which tasks of one process pass a lock on without asking.
const LONGEST_HANDOFF: Duration = Duration::from_mins(1);

/// The longest time for which a lock can linger.
const LONGEST_LINGER: Duration = Duration::from_hours(1);

/// Options of a [`Lock`].
#[derive(Debug)]
#[must_use]
pub struct LockBuilder {
    client: Client,
    name: String,
    lease_duration: Option<Duration>,
    renewal: Option<bool>,
    wait_limit: WaitLimit,
    same_task_waits: bool,
    stay: Stay,
    max_clock_skew: Option<Duration>,
    local_handoff: Option<Duration>,
    linger: Option<Duration>,
}

impl LockBuilder {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self {
            client,
            name,
            lease_duration: None,
            renewal: None,
            wait_limit: WaitLimit::Unsaid,
            same_task_waits: false,
            stay: Stay::default(),
            max_clock_skew: None,
            local_handoff: None,
            linger: None,
        }
    }

    /// Lets a hold live by the lock's own Lease, for so long after a renewal: whole seconds, at least 1.
    ///
    /// Without this a hold lives by the client's session, which costs nothing per lock. With it the lock's Lease is
    /// renewed every third of the duration; this is the classic form of a lease, which other clients can read.
    /// Default: what the [client](crate::ClientBuilder::lease_duration) says, or else the custom resource, or else the
    /// session.
    pub fn lease_duration(mut self, duration: Duration) -> Self {
        self.lease_duration = Some(duration);
        self
    }

    /// Whether a hold that lives by the lock's own Lease is renewed by itself. Default: what the
    /// [client](crate::ClientBuilder::renewal) says, or else yes.
    ///
    /// Without renewal it ends after the lease duration, unless [`extend`](Hold::extend) is called in time.
    /// A hold that lives by the session is renewed with it in any case.
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
    /// then it is left on the Lease for the rest, as [`keep`](LockGuard::keep) does. Default: no.
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
    /// A hold that lives by the Lease's own record (one that was [kept](LockGuard::keep), above all) is over when nobody has
    /// renewed it for its whole duration. To know that, somebody must have watched it for so long, and a program
    /// that has just been started has not. With this it may believe the times that stand there, plus this. Where
    /// clocks differ by more, **two can hold at once**. From 1 s to a day; some seconds are sane where machines run NTP.
    pub fn max_clock_skew(mut self, skew: Duration) -> Self {
        self.max_clock_skew = Some(skew);
        self
    }

    /// Whether a task that holds the lock and acquires it again waits. Default: no, it is told that it would wait for
    /// itself ([`AcquireError::HeldByThisTask`]).
    ///
    /// What counts is who acquired the guard. Say yes where that is not who releases it: the guard is passed to another
    /// task, or several futures of one task (`join!`, `buffer_unordered`) contend for one lock.
    pub fn same_task_waits(mut self, waits: bool) -> Self {
        self.same_task_waits = waits;
        self
    }

    /// Lets tasks of this process pass the lock on among themselves, without asking the API server, for so long after it was
    /// last heard that nobody else waits. Default: never, and each guard is a tenancy of its own. At most 1 minute; 100 ms
    /// are enough for tens of thousands of hand-offs.
    ///
    /// A guard that is [released](LockGuard::release) goes to the next task of this process that waits, in memory. What was
    /// heard counts from the sending of the request that was answered last: most often the one by which the lock was acquired. So
    /// a waiter elsewhere is overtaken by guards that begin here within this time of its join, and by none that begins
    /// later; by none either as soon as it is seen to wait. It costs no request, no watch and no read.
    ///
    /// What it gives up: guards that follow one another so are one tenancy, with one [token](Hold::token) and one
    /// [identity](Hold::holder_identity). So release when all writes made under a guard are answered. And what a person has
    /// broken within this time is passed on unseen: `release` says that it was held this time ago, and not until now.
    ///
    /// Nothing is passed on where the guard was dropped (a drop is also what becomes of work that was cut off),
    /// [lost](Hold::lost), [kept](LockGuard::keep), asked to [let go](Hold::release_requested), or used to
    /// [publish](Hold::publish); nor what lives by the lock's own Lease, or where the custom resource bounds how long it is
    /// held or lets nobody wait.
    pub fn local_handoff(mut self, time: Duration) -> Self {
        self.local_handoff = Some(time);
        self
    }

    /// Keeps a lock that was [released](LockGuard::release) for so long, unless somebody else wants it, so that acquiring it
    /// again costs no request. Default: no. At most 1 hour.
    ///
    /// In the cluster this process is its holder meanwhile: `status()`, lists and the custom resource show it, and a
    /// `try_acquire` elsewhere fails. Whoever *waits* elsewhere gets it after one event: this process watches the Lease, and
    /// releases it when it sees a join, a request to let go, or that the watch is broken. It reads the Lease once a renew
    /// interval as well (a third of the session's duration), so that a silent watch keeps nobody waiting for longer than
    /// that, and for a guard that is there then; where neither is answered, it is given back after two such intervals.
    /// Waiting until it is free, without joining, waits for the whole time. It does not linger where the custom resource says
    /// `reclaim: Never` or names a lock delay: they are for work that was left half done.
    ///
    /// It is for a lock that one process takes again and again and others seldom. It costs a watch, that read, and the
    /// session's heartbeat: do not let thousands linger. Nothing lingers before the watch is open, and nothing at all
    /// without the permission to watch. A [`shutdown`](crate::Client::shutdown) gives back what lingers; so does the drop of the
    /// last handle of its client, in the background. **What lingers in a process that just ends stays until its session has
    /// expired.**
    ///
    /// What lingers goes to tasks of this process as by [`local_handoff`](Self::local_handoff), and what is given up there is here as
    /// well: one token, one identity, and a break may be seen one event late. While the runtime on which this client lives is
    /// kept from running, nobody sees a join: tasks of another runtime pass the lock on for two renew intervals at most.
    pub fn linger(mut self, time: Duration) -> Self {
        self.linger = Some(time);
        self
    }

    /// Makes the lock. No request is sent.
    ///
    /// # Errors
    /// [`OptionsError`] where the name is empty, longer than 1024 bytes or has control characters, or options do not go together.
    pub fn build(self) -> Result<Lock, OptionsError> {
        let renewal = self.renewal.unwrap_or(self.client.inner().defaults.renewal);
        let own_duration = options::lease_duration(&self.client, self.lease_duration, renewal)?;
        let wait_limit = self.wait_limit.resolve(&self.client)?;
        let terms = terms(&self.client, self.local_handoff, self.linger, own_duration.is_some())?;
        let mut access = Access::new(self.client, &self.name)?;
        access.terms = Arc::new(terms);
        (access.same_task_waits, access.wait_limit) = (self.same_task_waits, wait_limit);
        access.stays(self.stay)?;
        let max_clock_skew = checked_skew(self.max_clock_skew)?;
        let wish = Wish { own_duration, renewal, max_clock_skew, ..Wish::default() };
        Ok(Lock { access, wish })
    }
}

/// For how long a process keeps it to itself.
fn terms(
    client: &Client,
    handoff: Option<Duration>,
    linger: Option<Duration>,
    own: bool,
) -> Result<Terms, OptionsError> {
    for (option, time, most) in [("local_handoff", handoff, LONGEST_HANDOFF), ("linger", linger, LONGEST_LINGER)] {
        let Some(time) = time.filter(|time| !time.is_zero()) else { continue };
        if time > most {
            return Err(OptionsError::new(option, format!("{time:?} will not do: at most {most:?} is possible")));
        }
        if own {
            let problem =
                format!("a lock that lives by its own Lease (lease_duration) has no {option}: leave one of them out");
            return Err(OptionsError::new(option, problem));
        }
    }
    let linger = linger.unwrap_or_default();
    if handoff == Some(Duration::ZERO) && !linger.is_zero() {
        let problem =
            "what lingers is passed on within the process, and local_handoff says never: leave one of them out";
        return Err(OptionsError::new("linger", problem));
    }
    // It is read once a renew interval. One such read may fail.
    let watched =
        if linger.is_zero() { Duration::ZERO } else { renew_interval(client.inner().shared.session_duration) * 2 };
    Ok(Terms { handoff: handoff.unwrap_or_default(), watched, linger })
}

/// A mutex that all processes of a cluster share, by its name.
///
/// Waiters get it in the order in which the API server took their joins (FIFO), each by a hand-off straight from the
/// holder before. Tasks of one process queue up locally and stand as one waiter in the cluster's queue.
/// If asked to, they pass it on in memory ([`local_handoff`](LockBuilder::local_handoff)), and it stays with the process
/// until somebody else wants it ([`linger`](LockBuilder::linger)).
///
/// Not reentrant: a hold belongs to a guard, and not to a task. A task that holds the lock and acquires it again would wait
/// for itself; it is told so at once ([`AcquireError::HeldByThisTask`]). Pass the guard to what needs the lock.
/// Outside of tasks it is the thread that counts. See [`same_task_waits`](LockBuilder::same_task_waits).
///
/// # When to use something else
/// A lock makes others wait; it does not stop a holder that has been paused, or cut off, from doing harm when it wakes.
/// What must be safe even then checks the [fencing token](Hold::token) where the harm would be done.
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
/// let lock = client.lock("invoice-run").build()?;
/// let guard = lock.acquire().await?;
/// assert!(lock.try_acquire().await.is_err());
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Lock {
    pub(crate) access: Access,
    pub(crate) wish: Wish,
}

/// A lock is held as long as this guard is, and as long as it is not [lost](Hold::lost).
///
/// Dropping it releases the lock in the background. [`release`](Self::release) does so and says how it went. What else
/// can be done with it is that of every [`Hold`].
#[must_use = "the lock is released as soon as the guard is dropped"]
#[derive(Debug)]
pub struct LockGuard(pub(crate) Hold);

impl std::ops::Deref for LockGuard {
    type Target = Hold;

    fn deref(&self) -> &Hold {
        &self.0
    }
}

impl LockGuard {
    /// Releases the lock, straight to the next waiter if there is one.
    ///
    /// # Cancel safety
    /// Cancelled, the release goes on in the background.
    ///
    /// # Errors
    /// [`ReleaseError::Lost`] where the lock had been lost before; [`ReleaseError::Unsettled`] where no clear answer came
    /// in time. Either way the guard is gone, and nothing is to be repeated.
    pub async fn release(self) -> Result<(), ReleaseError> {
        self.0.release().await
    }

    /// Leaves it on the Lease for so long from now on, and holds it no more: nobody has it until then, this process
    /// included, whatever becomes of this process or of the operator.
    ///
    /// Release instead where the work has failed and somebody else is to try. Rounded up to whole seconds, at least 1. It
    /// costs one write; the Lease stays until somebody acquires it after that time, or the operator clears it up.
    /// Whoever waits gets it when it has watched it for that time; who comes later likewise, unless it relies on
    /// [clocks](crate::LockBuilder::max_clock_skew).
    ///
    /// # Cancel safety
    /// Cancelled, it goes on in the background.
    ///
    /// # Errors
    /// As [`release`](Self::release): [`ReleaseError::Lost`] where it was not held any more, and is not kept.
    pub async fn keep(self, time: Duration) -> Result<(), ReleaseError> {
        self.0.keep(time).await
    }
}

/// What [`Lock::with_lock`] does with the work when the lock is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLost {
    /// Drop the work's future at its next `.await`.
    Cancel,
    /// Let it finish, and then say that the lock had been lost.
    Finish,
}

impl Lock {
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

    /// Acquires the lock if that can be done now: it is free, and nobody waits for it.
    ///
    /// A holder that is dead and has been ended is passed over. One that is merely dead is not: finding that out takes
    /// as long as its session lasts, which is what [`acquire`](Self::acquire) waits for.
    ///
    /// # Cancel safety
    /// Cancelled, it holds nothing: what may have been acquired is given back in the background.
    ///
    /// # Errors
    /// [`TryAcquireError::Held`] where somebody is ahead; otherwise what the API server had against it.
    pub async fn try_acquire(&self) -> Result<LockGuard, TryAcquireError> {
        self.access.try_acquire(&self.wish).await.map(LockGuard)
    }

    /// Acquires the lock, and waits for it as long as it takes, or as the lock's [wait limit](LockBuilder::wait_limit) lets it.
    ///
    /// While it waits it rides out outages of the API server. If its session is lost meanwhile it queues up again, at
    /// the end.
    ///
    /// # Cancel safety
    /// Cancelled, it leaves the queue, or gives back what it was just granted, in the background: no waiter stays.
    ///
    /// # Errors
    /// [`AcquireError::Api`] where the API server forbids it, or was never reached within the contact timeout;
    /// [`AcquireError::HeldByThisTask`] where this task would wait for itself.
    pub async fn acquire(&self) -> Result<LockGuard, AcquireError> {
        self.acquire_with_progress(None, |_| {}).await
    }

    /// Acquires the lock, and waits for it at most so long.
    ///
    /// # Cancel safety
    /// As [`acquire`](Self::acquire).
    ///
    /// # Errors
    /// [`AcquireError::TimedOut`] after the limit; otherwise as [`acquire`](Self::acquire).
    pub async fn acquire_timeout(&self, limit: Duration) -> Result<LockGuard, AcquireError> {
        self.acquire_with_progress(Some(limit), |_| {}).await
    }

    /// Acquires the lock as [`acquire`](Self::acquire) or [`acquire_timeout`](Self::acquire_timeout) does, and tells how
    /// the wait is going whenever that changes.
    ///
    /// # Cancel safety
    /// As [`acquire`](Self::acquire).
    ///
    /// # Errors
    /// As [`acquire_timeout`](Self::acquire_timeout).
    pub async fn acquire_with_progress(
        &self,
        limit: Option<Duration>,
        progress: impl FnMut(Progress),
    ) -> Result<LockGuard, AcquireError> {
        self.access.acquire(&self.wish, limit, progress).await.map(LockGuard)
    }

    /// Asks whoever holds it to let go within this time (1 s to a day), and gives a reason for people (up to 256 bytes).
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
    pub async fn request_release(&self, within: Duration, reason: &str) -> Result<Vec<String>, RequestReleaseError> {
        self.access.request_release(None, within, reason).await
    }

    /// Acquires the lock, does the work, and releases the lock.
    ///
    /// The work is given the guard, for its token and for checks. It goes on only while the lock is held: before each
    /// step of the work (each poll of its future) the guard is checked, and `on_lost` says what happens when it fails. Whether the
    /// work has failed is not known here, so the lock is given back for good: it neither [lingers](LockBuilder::linger) nor is
    /// [passed on](LockBuilder::local_handoff) with the same token.
    ///
    /// # Cancel safety
    /// Cancelled, it drops the work, and releases the lock in the background.
    ///
    /// # Errors
    /// [`WithLockError::Acquire`] where the lock was not acquired; [`WithLockError::Lost`] where it was lost before the
    /// work was done, with what the work returned if it was left to finish.
    pub async fn with_lock<T, F>(&self, on_lost: OnLost, work: F) -> Result<T, WithLockError<T>>
    where
        F: AsyncFnOnce(&LockGuard) -> T,
    {
        let guard = self.acquire().await?;
        let lost = guard.lost();
        let outcome = {
            let work = work(&guard);
            tokio::pin!(work);
            let cancelled = async {
                match on_lost {
                    OnLost::Cancel => lost.cancelled().await,
                    OnLost::Finish => std::future::pending().await,
                }
            };
            tokio::pin!(cancelled);
            std::future::poll_fn(|cx| {
                // After a pause of this process the clock knows of the loss before any task has told.
                let held = guard.check();
                if on_lost == OnLost::Cancel && (held.is_err() || cancelled.as_mut().poll(cx).is_ready()) {
                    return std::task::Poll::Ready(None);
                }
                work.as_mut().poll(cx).map(Some)
            })
            .await
        };
        let held = guard.check();
        match (outcome, held) {
            (Some(output), Ok(())) => match guard.0.release_for_good().await {
                Err(ReleaseError::Lost(lost)) => Err(WithLockError::Lost { lost, output: Some(output) }),
                Ok(()) | Err(ReleaseError::Unsettled { .. }) => Ok(output),
            },
            (output, Err(lost)) => Err(WithLockError::Lost { lost, output }),
            (None, Ok(())) => Err(WithLockError::Lost { lost: guard.loss(LossReason::Broken), output: None }),
        }
    }
}
