//! What is held, whatever it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::error::{ExtendError, LossReason, Lost, ReleaseError};
use crate::protocol::Mode;
use crate::session::SessionUse;
use crate::slot::{Command, Grant};
use crate::validity::Validity;

/// Something that is held: what the guards of all kinds have in common.
///
/// A guard is one of these and can be used as such ([`Deref`](std::ops::Deref)).
#[derive(Debug)]
pub struct Hold {
    access: Access,
    session: SessionUse,
    grant: Grant,
}

impl Hold {
    pub(crate) fn new(access: Access, session: SessionUse, grant: Grant) -> Self {
        Self { access, session, grant }
    }

    /// The fencing token: larger than that of everybody who was let in earlier, under this name.
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
        &self.access.name
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
        let limit = self.access.client.inner().shared.request_timeout * 2;
        tokio::select! {
            biased;
            Ok(()) = renewed => {}
            () = lost.cancelled() => {}
            () = crate::clock::sleep(limit) => {
                self.check()?;
                return Err(ExtendError::Unavailable { name: self.access.name.to_string() });
            }
        }
        self.check()?;
        Ok(self.remaining())
    }

    /// Gives it back, and says how that went.
    pub(crate) async fn release(mut self) -> Result<(), ReleaseError> {
        let before = self.check();
        // From here on nobody may believe in it: the next holder can have it before this one hears of that.
        self.validity().lose(LossReason::Released);
        let (reply, done) = oneshot::channel();
        self.grant.released = true;
        let _ = self.grant.slot.commands.send(Command::Release(self.grant.id.clone(), Some(reply)));
        let limit = self.access.client.inner().shared.request_timeout * 3;
        let outcome = tokio::time::timeout(limit, done).await;
        before?;
        match outcome {
            Ok(Ok(true)) => Ok(()),
            Ok(_) => Err(self.loss(LossReason::Broken).into()),
            Err(_) => Err(ReleaseError::Unsettled { name: self.access.name.to_string() }),
        }
    }

    /// Makes more or less of it. Where it is more, its token is another one from then on.
    pub(crate) async fn change(&mut self, mode: Mode) -> Result<(), Lost> {
        self.check()?;
        let (done, changed) = oneshot::channel();
        let _ = self.grant.slot.commands.send(Command::Change(self.grant.id.clone(), mode, done));
        let lost = self.validity().lost().clone();
        tokio::select! {
            biased;
            Ok(token) = changed => self.grant.token = token,
            () = lost.cancelled() => {}
        }
        self.check()
    }

    pub(crate) fn loss(&self, reason: LossReason) -> Lost {
        Lost { name: self.access.name.to_string(), reason }
    }

    fn validity(&self) -> &Arc<Validity> {
        &self.grant.validity
    }

    fn lives_by_itself(&self) -> bool {
        !self.validity().has_parent()
    }
}
