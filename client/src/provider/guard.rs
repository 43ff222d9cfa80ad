//! What is held.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::error::{ExtendError, Lost, ReleaseError};

/// Something that is held, whatever it is and whoever made it.
///
/// It is held as long as this is, and as long as it is not [lost](Self::lost). Dropping it gives it back in the background.
pub trait AnyGuard: std::fmt::Debug + Send + Sync + 'static {
    /// The fencing token: larger than that of everybody who was let in earlier, under this name.
    fn token(&self) -> u64;

    /// This acquisition's identity. No other has it.
    fn holder_identity(&self) -> String;

    /// The name of what is held.
    fn name(&self) -> &str;

    /// Whether it is still held, at this very moment. It is never `Ok` after the time from which somebody else could have
    /// it, and once it is not `Ok` it never is again.
    ///
    /// # Errors
    /// [`Lost`] with the reason.
    fn check(&self) -> Result<(), Lost>;

    /// How long it is held from now on if no renewal succeeds; zero when it is lost.
    fn remaining(&self) -> Duration;

    /// A token that is cancelled when it is lost (or released).
    fn lost(&self) -> CancellationToken;

    /// Renews it now, and says how long it is held from then on.
    ///
    /// # Cancel safety
    /// Cancelled, the renewal may or may not be carried out.
    ///
    /// # Errors
    /// [`ExtendError::Lost`] where it is lost; [`ExtendError::Unavailable`] where no answer came while it was held.
    fn extend(&self) -> BoxFuture<'_, Result<Duration, ExtendError>>;

    /// Gives it back, and says how that went.
    ///
    /// # Cancel safety
    /// Cancelled, the release goes on in the background.
    ///
    /// # Errors
    /// [`ReleaseError::Lost`] where it had been lost before; [`ReleaseError::Unsettled`] where no clear answer came in
    /// time. Either way the guard is gone, and nothing is to be repeated.
    fn release(self: Box<Self>) -> BoxFuture<'static, Result<(), ReleaseError>>;
}

/// Permits of a semaphore.
pub trait AnyPermits: AnyGuard {
    /// How many they are.
    fn permits(&self) -> u32;
}

/// The one reader that can become the writer.
pub trait AnyUpgradeableGuard: AnyGuard {
    /// Becomes the writer, when the other readers have gone. Nobody is let in until then, and nobody writes in between. Its
    /// [token](AnyGuard::token) is a new one, larger than all before.
    ///
    /// # Cancel safety
    /// Cancelled, it is given back.
    ///
    /// # Errors
    /// [`Lost`] where it was lost meanwhile.
    fn upgrade(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn AnyWriteGuard>, Lost>>;

    /// Becomes the writer as [`upgrade`](Self::upgrade) does, and waits for that at most so long.
    ///
    /// # Cancel safety
    /// Cancelled, it is given back.
    ///
    /// # Errors
    /// [`UpgradeError::TimedOut`] after the limit, with this guard: it still reads, and others are let in again.
    /// [`UpgradeError::Lost`] where it was lost meanwhile.
    fn upgrade_timeout(
        self: Box<Self>,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Box<dyn AnyWriteGuard>, UpgradeError>>;

    /// Becomes a plain reader, so that another can be the upgradeable one.
    ///
    /// # Cancel safety
    /// Cancelled, it is given back.
    ///
    /// # Errors
    /// [`Lost`] where it was lost meanwhile.
    fn downgrade(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn AnyGuard>, Lost>>;
}

/// The writer.
pub trait AnyWriteGuard: AnyGuard {
    /// Becomes a reader, and lets in those who wait to read. Nobody writes in between.
    ///
    /// # Cancel safety
    /// Cancelled, it is given back.
    ///
    /// # Errors
    /// [`Lost`] where it was lost meanwhile.
    fn downgrade(self: Box<Self>) -> BoxFuture<'static, Result<Box<dyn AnyGuard>, Lost>>;
}

/// Why [`AnyUpgradeableGuard::upgrade_timeout`] did not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// Others still read after the wait limit. This reader goes on reading.
    #[error("others still read {:?} after {waited:?}", guard.name())]
    TimedOut {
        /// It still reads.
        guard: Box<dyn AnyUpgradeableGuard>,
        /// How long it was waited for.
        waited: Duration,
    },
    /// It is lost.
    #[error(transparent)]
    Lost(#[from] Lost),
}

impl UpgradeError {
    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }
}
