//! A mutex.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, oneshot, watch};

use crate::client::Client;
use crate::clock;
use crate::error::{AcquireError, ApiError, LossReason, OptionsError, ReleaseError, TryAcquireError, WithLockError};
use crate::guard::LockGuard;
use crate::protocol::contender::{Denial, Refusal, Wish};
use crate::protocol::record::SESSION_PREFIX;
use crate::protocol::{Kind, Mode};
use crate::slot::{Command, Order, Slot};

/// Options of a [`Lock`].
#[derive(Debug)]
#[must_use]
pub struct LockBuilder {
    client: Client,
    name: String,
    lease_duration: Option<Duration>,
    renewal: bool,
}

impl LockBuilder {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self { client, name, lease_duration: None, renewal: true }
    }

    /// Lets a hold live by the lock's own Lease, for so long after a renewal: whole seconds, at least 1.
    ///
    /// Without this a hold lives by the client's session, which costs nothing per lock. With it the lock's Lease is
    /// renewed every third of the duration; this is the classic form of a lease, which other clients can read.
    /// Default: what the custom resource says, or else the session.
    pub fn lease_duration(mut self, duration: Duration) -> Self {
        self.lease_duration = Some(duration);
        self
    }

    /// Whether a hold that lives by the lock's own Lease is renewed by itself. Default: yes.
    ///
    /// Without renewal it ends after the lease duration, unless [`extend`](LockGuard::extend) is called in time.
    /// A hold that lives by the session is renewed with it in any case.
    pub fn renewal(mut self, renewal: bool) -> Self {
        self.renewal = renewal;
        self
    }

    /// Makes the lock. No request is sent.
    ///
    /// # Errors
    /// [`OptionsError`] where the name cannot be a Lease's or options do not go together.
    pub fn build(self) -> Result<Lock, OptionsError> {
        check_name(&self.name)?;
        let problem = match self.lease_duration {
            Some(duration) if duration.is_zero() || duration.subsec_nanos() != 0 => {
                Some(format!("{duration:?} will not do: a whole number of seconds is needed, at least 1"))
            }
            Some(duration) if duration <= self.client.inner().shared.grace => {
                Some(format!("{duration:?} is not more than the client's grace"))
            }
            Some(duration) if i32::try_from(duration.as_secs()).is_err() => {
                Some(format!("{duration:?} is more than a Lease can say (2147483647 s)"))
            }
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(OptionsError::new("lease_duration", problem));
        }
        Ok(Lock {
            client: self.client,
            name: self.name.into(),
            own_duration: self.lease_duration,
            renewal: self.renewal,
        })
    }
}

/// A lock's Lease has the lock's name, so the rules are those of an object's name.
fn check_name(name: &str) -> Result<(), OptionsError> {
    let bad = |problem: &str| Err(OptionsError::new("name", format!("{name:?} will not do: {problem}")));
    let part_ok = |part: &str| {
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(edge) && part.ends_with(edge) && part.chars().all(|c| edge(c) || c == '-')
    };
    if name.starts_with(SESSION_PREFIX) {
        return bad("names that begin with `session-` are those of sessions' Leases");
    }
    if name.len() > 253 || !name.split('.').all(part_ok) {
        return bad(
            "up to 253 lower-case letters, digits, `-` and `.` are possible, beginning and ending with a letter or digit",
        );
    }
    Ok(())
}

/// A mutex that all processes of a cluster share, by its name.
///
/// Waiters get it in the order in which the API server took their joins (FIFO), each by a hand-off straight from the
/// holder before. Tasks of one process queue up locally and stand as one waiter in the cluster's queue.
///
/// Not reentrant: a task that holds the lock and acquires it again waits for itself.
///
/// # When to use something else
/// A lock makes others wait; it does not stop a holder that has been paused, or cut off, from doing harm when it wakes.
/// What must be safe even then checks the [fencing token](LockGuard::token) where the harm would be done.
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
    pub(crate) client: Client,
    pub(crate) name: Arc<str>,
    own_duration: Option<Duration>,
    renewal: bool,
}

/// What [`Lock::with_lock`] does with the work when the lock is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLost {
    /// Drop the work's future at its next `.await`.
    Cancel,
    /// Let it finish, and then say that the lock had been lost.
    Finish,
}

/// How a wait is going.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The holder's identity, as far as known. Empty where nobody holds the lock, or nothing is known yet.
    pub holder: String,
    /// How many wait ahead.
    pub ahead: usize,
}

impl Lock {
    /// The lock's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
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
        let held = |holder| TryAcquireError::Held { name: self.name.to_string(), holder };
        let slot = self.client.inner().slot(&self.name).ok_or(TryAcquireError::ShutDown)?;
        let Ok(turn) = slot.turn.clone().try_lock_owned() else {
            return Err(held("another task of this process".to_owned()));
        };
        match self.take(slot, turn, false, &watch::Sender::default()).await {
            Ok(guard) => Ok(guard),
            Err(Refusal::Held { holder }) => Err(held(holder)),
            Err(_) if self.client.inner().is_shut_down() => Err(TryAcquireError::ShutDown),
            Err(refusal) => Err(TryAcquireError::Api { name: self.name.to_string(), source: api_error(refusal) }),
        }
    }

    /// Acquires the lock, and waits for it as long as it takes.
    ///
    /// While it waits it rides out outages of the API server. If its session is lost meanwhile it queues up again, at
    /// the end.
    ///
    /// # Cancel safety
    /// Cancelled, it leaves the queue, or gives back what it was just granted, in the background: no waiter stays.
    ///
    /// # Errors
    /// [`AcquireError::Api`] where the API server forbids it, or was never reached within the contact timeout.
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
        mut progress: impl FnMut(Progress),
    ) -> Result<LockGuard, AcquireError> {
        let (ahead, mut seen) = watch::channel((String::new(), 0));
        let begun = clock::moment();
        let acquiring = async {
            let mut pause = Duration::ZERO;
            loop {
                let slot = self.client.inner().slot(&self.name).ok_or(AcquireError::ShutDown)?;
                let turn = slot.turn.clone().lock_owned().await;
                match self.take(slot, turn, true, &ahead).await {
                    Ok(guard) => return Ok(guard),
                    Err(_) if self.client.inner().is_shut_down() => return Err(AcquireError::ShutDown),
                    // It queues up again, by a new session.
                    Err(Refusal::SessionLost) => {
                        clock::sleep(pause).await;
                        pause = (pause * 2).clamp(Duration::from_millis(20), Duration::from_secs(1));
                    }
                    Err(refusal) => {
                        return Err(AcquireError::Api { name: self.name.to_string(), source: api_error(refusal) });
                    }
                }
            }
        };
        let too_late = async {
            match limit {
                Some(limit) => clock::sleep_until_deadline(begun + limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(acquiring, too_late);
        loop {
            tokio::select! {
                biased;
                outcome = &mut acquiring => return outcome,
                () = &mut too_late => break,
                Ok(()) = seen.changed() => {
                    let (holder, ahead) = seen.borrow_and_update().clone();
                    progress(Progress { holder, ahead });
                }
            }
        }
        let (holder, _) = seen.borrow().clone();
        Err(AcquireError::TimedOut { name: self.name.to_string(), holder, waited: clock::moment().since(begun) })
    }

    /// Acquires the lock, does the work, and releases the lock.
    ///
    /// The work is given the guard, for its token and for checks. It goes on only while the lock is held: before each
    /// step of the work (each poll of its future) the guard is checked, and `on_lost` says what happens when it fails.
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
            (Some(output), Ok(())) => match guard.release().await {
                Err(ReleaseError::Lost(lost)) => Err(WithLockError::Lost { lost, output: Some(output) }),
                Ok(()) | Err(ReleaseError::Unsettled { .. }) => Ok(output),
            },
            (output, Err(lost)) => Err(WithLockError::Lost { lost, output }),
            (None, Ok(())) => Err(WithLockError::Lost { lost: guard.loss(LossReason::Broken), output: None }),
        }
    }

    async fn take(
        &self,
        slot: Arc<Slot>,
        turn: OwnedMutexGuard<()>,
        queue: bool,
        ahead: &watch::Sender<(String, usize)>,
    ) -> Result<LockGuard, Refusal> {
        let session = self.client.inner().sessions.enter().await.map_err(refusal)?;
        let (reply, outcome) = oneshot::channel();
        let wish = Wish {
            kind: Kind::Lock,
            mode: Mode::default(),
            permits: None,
            own_duration: self.own_duration,
            renewal: self.renewal,
            queue,
            patience: self.client.inner().contact_timeout,
        };
        let commands = slot.commands.clone();
        let order = Order { slot, session: session.clone(), wish, reply, turn, ahead: ahead.clone() };
        let _ = commands.send(Command::Acquire(Box::new(order)));
        let grant = outcome.await.unwrap_or(Err(Refusal::SessionLost))?;
        let guard = LockGuard::new(self.clone(), session, grant);
        // What took too long to arrive is not handed out. Dropping the guard gives it back.
        guard.check().map_err(|_| Refusal::SessionLost)?;
        Ok(guard)
    }
}

fn refusal(error: ApiError) -> Refusal {
    match error {
        ApiError::Unavailable { message } => Refusal::Unavailable(message),
        ApiError::Forbidden { message } => Refusal::Denied(Denial::Forbidden, message),
        ApiError::Invalid { message } => Refusal::Denied(Denial::Invalid, message),
    }
}

fn api_error(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Unavailable(message) => ApiError::Unavailable { message },
        Refusal::Denied(Denial::Forbidden, message) => ApiError::Forbidden { message },
        Refusal::Denied(Denial::Invalid, message) => ApiError::Invalid { message },
        Refusal::Held { holder } => ApiError::Unavailable { message: format!("it is held by {holder}") },
        Refusal::SessionLost => {
            ApiError::Unavailable { message: "this process's session was lost meanwhile".to_owned() }
        }
    }
}
