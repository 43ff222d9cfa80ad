//! Whether a process that leads, or led, is still master of itself.

use std::sync::Arc;
use std::time::Duration;

use super::Inner;

/// Whether this process lets go of leaderships when they end. For a liveness probe: asking costs nothing.
///
/// Unhealthy is a process that has a [`Leadership`](super::Leadership), or runs work under one, though it ended longer ago than
/// the tolerance: its runtime is blocked, or the work pays no attention. And so is one whose renewing task has died with its
/// runtime while the leadership is still in its hands. A restart helps both. A process that merely waits is healthy, and so is one that lost its
/// leadership because the API server is out of reach, and has stopped to work.
///
/// Ask from a thread or runtime that what is asked about cannot block; a probe that cannot be answered is a failed one as
/// well.
#[derive(Clone, Debug)]
pub struct ElectionHealth {
    inner: Arc<Inner>,
    tolerance: Duration,
}

/// Why a process should be restarted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unhealthy {
    /// A leadership has ended, and this process has not let go of it.
    #[error("the leadership of {name:?} ended {ended:?} ago and has not been let go of")]
    NotLetGo {
        /// The election's name.
        name: String,
        /// How long ago it ended.
        ended: Duration,
    },
    /// The task that renews the leadership has died with its runtime.
    #[error("the task that renews the leadership of {name:?} has ended with its runtime")]
    Deserted {
        /// The election's name.
        name: String,
    },
}

impl Unhealthy {
    /// Only a restart helps.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        false
    }
}

impl ElectionHealth {
    pub(super) fn new(inner: Arc<Inner>, tolerance: Duration) -> Self {
        Self { inner, tolerance }
    }

    /// Whether all is well, at this very moment.
    ///
    /// # Errors
    /// [`Unhealthy`] with the reason.
    pub fn check(&self) -> Result<(), Unhealthy> {
        let seat = self.inner.seat();
        let Some(hold) = seat.as_ref() else { return Ok(()) };
        let name = || hold.name().to_owned();
        if hold.is_deserted() {
            return Err(Unhealthy::Deserted { name: name() });
        }
        match hold.validity().over_for() {
            Some(ended) if ended > self.tolerance => Err(Unhealthy::NotLetGo { name: name(), ended }),
            _ => Ok(()),
        }
    }
}
