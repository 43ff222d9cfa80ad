//! A hold.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::error::{ExtendError, LossReason, Lost, ReleaseError};
use crate::lock::Lock;
use crate::session::SessionUse;
use crate::slot::{Command, Grant};
use crate::validity::Validity;

/// The lock is held as long as this guard is, and as long as it is not [lost](Self::lost).
///
/// Dropping it releases the lock in the background. [`release`](Self::release) does so and says how it went.
#[must_use = "the lock is released as soon as the guard is dropped"]
#[derive(Debug)]
pub struct LockGuard {
    lock: Lock,
    session: SessionUse,
    grant: Grant,
}

impl LockGuard {
    pub(crate) fn new(lock: Lock, session: SessionUse, grant: Grant) -> Self {
        Self { lock, session, grant }
    }

    /// The fencing token: larger than that of every earlier holder of a lock of this name.
    ///
    /// Send it with every write to what the lock protects, and let that refuse a token smaller than the largest it has
    /// seen. Then even a holder that ignores its loss does no harm.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.grant.token
    }

    /// This acquisition's identity, as it stands on the Lease.
    #[must_use]
    pub fn holder_identity(&self) -> String {
        self.grant.id.to_string()
    }

    /// The lock's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.lock.name
    }

    /// Whether the lock is still held, by this machine's clock and at this very moment. It costs no request.
    ///
    /// It is never `Ok` after the time from which somebody else could hold the lock, also not after this process was
    /// paused or the machine suspended; and once it is not `Ok` it never is again.
    ///
    /// # Errors
    /// [`Lost`] with the reason.
    pub fn check(&self) -> Result<(), Lost> {
        self.validity().check().map_err(|reason| self.loss(reason))
    }

    /// How long the lock is held from now on if no renewal succeeds; zero when it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.validity().remaining()
    }

    /// A token that is cancelled when the lock is lost (or released).
    ///
    /// Asking for it makes the client watch the lock, so that a lock that somebody breaks is noticed at once; without
    /// it that takes a while. Expiry is noticed either way.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        let _ = self.grant.slot.commands.send(Command::WatchForLoss(self.grant.id.clone()));
        self.validity().lost().clone()
    }

    /// Renews now what the hold lives by, and says how long it is held from then on.
    ///
    /// # Cancel safety
    /// Cancelled, the renewal may or may not be carried out.
    ///
    /// # Errors
    /// [`ExtendError::Lost`] where the lock is lost; [`ExtendError::Unavailable`] where no answer came while it was held.
    pub async fn extend(&self) -> Result<Duration, ExtendError> {
        self.check()?;
        let lost = self.validity().lost().clone();
        let renewed = if self.lives_by_itself() {
            let (done, renewed) = oneshot::channel();
            let _ = self.grant.slot.commands.send(Command::Renew(self.grant.id.clone(), done));
            renewed
        } else {
            self.session.renew()
        };
        let limit = self.lock.client.inner().shared.request_timeout * 2;
        tokio::select! {
            biased;
            Ok(()) = renewed => {}
            () = lost.cancelled() => {}
            () = crate::clock::sleep(limit) => {
                self.check()?;
                return Err(ExtendError::Unavailable { name: self.lock.name.to_string() });
            }
        }
        self.check()?;
        Ok(self.remaining())
    }

    /// Releases the lock, straight to the next waiter if there is one.
    ///
    /// # Cancel safety
    /// Cancelled, the release goes on in the background.
    ///
    /// # Errors
    /// [`ReleaseError::Lost`] where the lock had been lost before; [`ReleaseError::Unsettled`] where no clear answer came
    /// in time. Either way the guard is gone, and nothing is to be repeated.
    pub async fn release(mut self) -> Result<(), ReleaseError> {
        let before = self.check();
        // From here on nobody may believe in it: the next holder can have it before this one hears of that.
        self.validity().lose(LossReason::Released);
        let (reply, done) = oneshot::channel();
        self.grant.released = true;
        let _ = self.grant.slot.commands.send(Command::Release(self.grant.id.clone(), Some(reply)));
        let limit = self.lock.client.inner().shared.request_timeout * 3;
        let outcome = tokio::time::timeout(limit, done).await;
        before?;
        match outcome {
            Ok(Ok(true)) => Ok(()),
            Ok(_) => Err(self.loss(LossReason::Broken).into()),
            Err(_) => Err(ReleaseError::Unsettled { name: self.lock.name.to_string() }),
        }
    }

    pub(crate) fn loss(&self, reason: LossReason) -> Lost {
        Lost { name: self.lock.name.to_string(), reason }
    }

    fn validity(&self) -> &Arc<Validity> {
        &self.grant.validity
    }

    fn lives_by_itself(&self) -> bool {
        !self.validity().has_parent()
    }
}
