//! What is held, whatever it is.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::access::Access;
use crate::error::{ExtendError, LossReason, Lost, PublishError, ReleaseError};
use crate::protocol::record::LONGEST_PAYLOAD;
use crate::protocol::{HolderId, Mode, Moment, ReleaseRequest};
use crate::session::{Holding, SessionUse};
use crate::slot::{Command, Grant};
use crate::task::Tasks;
use crate::telemetry;
use crate::validity::Validity;

/// Something that is held: what the guards of all kinds have in common.
///
/// A guard is one of these and can be used as such ([`Deref`](std::ops::Deref)).
#[derive(Debug)]
pub struct Hold {
    access: Access,
    session: Holding,
    grant: Grant,
}

impl Hold {
    pub(crate) fn new(access: Access, session: SessionUse, grant: Grant) -> Self {
        Self { access, session: Holding::new(session), grant }
    }

    /// The fencing token: larger than that of everybody who was let in earlier, under this name.
    ///
    /// Where that was asked for ([`local_handoff`](crate::LockBuilder::local_handoff), [`linger`](crate::LockBuilder::linger)), a guard
    /// that was released is followed by guards of this process with the same token, and [fences](Self::fence) count on over
    /// all of them. One that was dropped or lost never is.
    ///
    /// Send it with every write to what the lock protects, and let that refuse a token smaller than the largest it has
    /// seen. Then even a holder that ignores its loss does no harm. It is below 2^63, so it fits a database's `BIGINT`:
    ///
    /// ```sql
    /// BEGIN;
    /// UPDATE fence SET token = :token WHERE resource = 'accounts' AND token <= :token;
    /// -- no row was changed: somebody else has written since. ROLLBACK, and stop.
    /// UPDATE account SET balance = balance - 10 WHERE id = 4711;
    /// COMMIT;
    /// ```
    ///
    /// [`fence`](Self::fence) does it for objects of Kubernetes. `docs/fencing.md` says more about both.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.grant.token
    }

    /// This hold's identity, as it stands on the Lease. Guards that share its [token](Self::token) share it.
    #[must_use]
    pub fn holder_identity(&self) -> String {
        self.grant.tenancy.id.to_string()
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
        let _ = self.grant.slot.commands.send(Command::WatchForLoss(self.grant.guard));
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
            let _ = self.grant.slot.commands.send(Command::Renew(self.grant.guard, done));
            renewed
        } else {
            self.session.renew()
        };
        // A renewal that hangs may take twice as long, and the next is to be heard of.
        let limit = self.access.client.inner().shared.request_timeout * 3;
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

    /// Counts this as held by the task that calls this (outside of tasks: the thread), and no longer by the one that acquired it.
    ///
    /// It says who would wait for itself ([`HeldByThisTask`](crate::AcquireError::HeldByThisTask)), and who is in whose
    /// way where deadlocks are [looked for](crate::ClientBuilder::on_deadlock). Call it where a guard is handed to another task.
    pub fn adopt(&self) {
        self.grant.slot.is_adopted(self.grant.guard);
    }

    /// Shows people a small text beside this hold: what the process is doing, where it can be reached.
    ///
    /// `status()`, to whoever waits for example, and the custom resource show it for as long as this is held. It takes the place of what was
    /// published before; an empty text shows nothing any more. At most 1024 bytes. It costs one write, and the next release
    /// a read more where that could have done without knowing of it.
    ///
    /// # Cancel safety
    /// Cancelled, it may or may not be shown.
    ///
    /// # Errors
    /// [`PublishError::Lost`] where it is not held any more; [`PublishError::TooLong`]; [`PublishError::Refused`] where the
    /// API server does not take it, or there is no room left on the Lease; [`PublishError::Superseded`] where another text was
    /// published meanwhile.
    pub async fn publish(&self, text: impl Into<String>) -> Result<(), PublishError> {
        self.check()?;
        let (text, name) = (text.into(), self.name().to_owned());
        if text.len() > LONGEST_PAYLOAD {
            return Err(PublishError::TooLong { name, bytes: text.len() });
        }
        let (done, published) = oneshot::channel();
        let _ = self.grant.slot.commands.send(Command::Publish(self.grant.guard, text, done));
        let outcome = tokio::select! {
            biased;
            outcome = published => outcome.ok(),
            () = self.validity().lost().cancelled() => None,
        };
        self.check()?;
        match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err(message)) => Err(PublishError::Refused { name, message }),
            None => Err(PublishError::Superseded { name }),
        }
    }

    /// Who asks for this to be let go, as far as known.
    ///
    /// It is heard of with what else is read of the lock: at once where [`lost`](Self::lost) or
    /// [`release_requested`](Self::release_requested) was called or holders are evicted on request; otherwise when the lock
    /// is next read, which takes the longer the more its client holds.
    #[must_use]
    pub fn release_request(&self) -> Option<ReleaseRequest> {
        self.grant.request.borrow().clone()
    }

    /// Waits until somebody asks for this to be let go, and says who, why, and within what time.
    ///
    /// Nobody has to obey. Whoever does finishes what must not be left half done, and releases. The operator evicts a
    /// holder after that time only if the custom resource says so (`releaseRequests: Evict`); then the hold is
    /// [lost](Self::lost). Asking for this makes the client watch the lock, as [`lost`](Self::lost) does.
    ///
    /// It says the same again when it is called again, and waits for ever where nobody asks: wait for
    /// [`lost`](Self::lost) beside it.
    ///
    /// # Cancel safety
    /// Nothing is lost: called again, it says the same.
    pub async fn release_requested(&self) -> ReleaseRequest {
        let _ = self.grant.slot.commands.send(Command::WatchForLoss(self.grant.guard));
        let mut requests = self.grant.request.clone();
        loop {
            if let Some(request) = requests.borrow_and_update().clone() {
                return request;
            }
            if requests.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// From now on it is held for as long as it is to be at least, given back or not. Whoever has only a part of what he wants
    /// has nothing that is to stay.
    pub(crate) fn stay(&mut self) {
        if let Some(at_least) = self.access.stay.at_least {
            let until = crate::clock::moment() + at_least;
            self.grant.stay_until = Some(until);
            let _ = self.grant.slot.commands.send(Command::Stay(self.grant.guard, until));
        }
    }

    /// Gives it back, if it has been held for as long as it is to be at least, and says how that went.
    pub(crate) async fn release(mut self) -> Result<(), ReleaseError> {
        self.grant.released = true;
        self.give_up(self.grant.rest()).await
    }

    /// As [`release`](Self::release), but no other task of this process has it by the same tenancy.
    pub(crate) async fn release_for_good(self) -> Result<(), ReleaseError> {
        self.keep(Duration::ZERO).await
    }

    /// Leaves it on the Lease for so long, and says how that went.
    pub(crate) async fn keep(mut self, duration: Duration) -> Result<(), ReleaseError> {
        self.grant.released = true;
        let rest = self.grant.rest().unwrap_or_default();
        self.give_up(Some(duration.max(rest))).await
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Until when it may be held or kept, where the custom resource says that.
    pub(crate) fn allowed_until(&self) -> Option<Moment> {
        self.validity().is_kept_at_most_until()
    }

    pub(crate) fn id(&self) -> &HolderId {
        &self.grant.tenancy.id
    }

    /// How many fences were taken under this token.
    pub(crate) fn fences(&self) -> &AtomicU64 {
        &self.grant.tenancy.fences
    }

    /// Gives it back though others still have a part in it, or leaves it on the Lease for so long, and says how that went.
    pub(crate) async fn give_up(&self, keep: Option<Duration>) -> Result<(), ReleaseError> {
        let span = telemetry::release_span(self.name(), self.token());
        let outcome = self.let_go(keep).instrument(span.clone()).await;
        telemetry::released(&span, &outcome);
        outcome
    }

    async fn let_go(&self, keep: Option<Duration>) -> Result<(), ReleaseError> {
        let before = self.check();
        let keep = keep.filter(|_| before.is_ok());
        // From here on nobody may believe in it: the next holder can have it before this one hears of that.
        self.validity().lose(LossReason::Released);
        self.grant.slot.is_given_back(self.grant.guard);
        if before.is_ok() && keep.is_none() && self.grant.slot.pass_on(self.grant.guard) {
            return Ok(());
        }
        let (reply, done) = oneshot::channel();
        let _ = self.grant.slot.commands.send(Command::Release(self.grant.guard, keep, Some(reply)));
        let limit = self.access.client.inner().shared.request_timeout * 3;
        let outcome = tokio::time::timeout(limit, done).await;
        before?;
        match outcome {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(self.loss(LossReason::Broken).into()),
            Ok(Err(_)) | Err(_) => Err(ReleaseError::Unsettled { name: self.access.name.to_string() }),
        }
    }

    /// Gives it back in the background. Once more does no harm.
    pub(crate) fn abandon(&self) {
        self.validity().lose(LossReason::Released);
        self.grant.slot.is_given_back(self.grant.guard);
        let _ = self.grant.slot.commands.send(Command::Release(self.grant.guard, self.grant.rest(), None));
    }

    /// The task that keeps it up has ended with its runtime.
    pub(crate) fn is_deserted(&self) -> bool {
        self.grant.slot.commands.is_closed()
    }

    /// Makes more or less of it. Where it is more, its token is another one from then on.
    pub(crate) async fn change(&mut self, mode: Mode) -> Result<(), Lost> {
        self.check()?;
        let (done, changed) = oneshot::channel();
        let _ = self.grant.slot.commands.send(Command::Change(self.grant.guard, mode, done));
        let lost = self.validity().lost().clone();
        tokio::select! {
            biased;
            Ok(token) = changed => {
                self.grant.token = token;
                self.grant.slot.is_changed(self.grant.guard, mode);
            }
            () = lost.cancelled() => {}
        }
        self.check()
    }

    pub(crate) fn loss(&self, reason: LossReason) -> Lost {
        Lost { name: self.access.name.to_string(), reason }
    }

    pub(crate) fn tasks(&self) -> Tasks {
        self.access.client.inner().shared.tasks
    }

    pub(crate) fn validity(&self) -> &Arc<Validity> {
        &self.grant.validity
    }

    fn lives_by_itself(&self) -> bool {
        !self.validity().has_parent()
    }
}
