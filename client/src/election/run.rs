//! Work that goes on only while this candidate leads.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Election, Leadership};
use crate::clock;
use crate::error::{AcquireError, Lost, ReleaseError};
use crate::hold::Hold;

/// The longest pause before a campaign that failed is begun again.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What work is given that goes on only while its candidate leads. Clones are the same.
///
/// What else can be done with it is that of every [`Hold`]. It does not keep the leadership: that ends with the work.
#[derive(Clone, Debug)]
pub struct Leading {
    hold: Arc<Hold>,
    ending: CancellationToken,
}

impl std::ops::Deref for Leading {
    type Target = Hold;

    fn deref(&self) -> &Hold {
        &self.hold
    }
}

impl Leading {
    /// Cancelled when the work is to come to its end: the leadership is lost, or will be after the grace unless a renewal
    /// succeeds, or the work is told to stop. Once it is cancelled, renewals change nothing any more.
    #[must_use]
    pub fn ending(&self) -> CancellationToken {
        self.ending.clone()
    }

    /// Carries out `future` as long as this candidate leads: no poll of it begins after the deadline.
    ///
    /// For tasks that the work starts beside itself: they do not end with it.
    ///
    /// # Cancel safety
    /// Cancelled, it drops `future`.
    ///
    /// # Errors
    /// [`Lost`] when this candidate does not lead any more. `future` is dropped with this one, at the latest.
    pub async fn guard<F: Future>(&self, future: F) -> Result<F::Output, Lost> {
        let lost = self.hold.validity().lost().cancelled();
        tokio::pin!(future, lost);
        std::future::poll_fn(|cx| {
            // This is only for being woken: the clock knows of the loss before anybody has told.
            let _ = lost.as_mut().poll(cx);
            match self.hold.check() {
                Err(lost) => Poll::Ready(Err(lost)),
                Ok(()) => future.as_mut().poll(cx).map(Ok),
            }
        })
        .await
    }
}

/// What ended [`Election::run_while_leading`] without a clean result. `T` is what the work returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError<T> {
    /// This candidate never led, and the work was not begun.
    #[error(transparent)]
    Campaign(#[from] AcquireError),
    /// The leadership was lost while the work was going on, or before it had been given up.
    #[error("{lost}")]
    Lost {
        /// What was lost, and why.
        lost: Lost,
        /// What the work returned, if it had come to its end.
        output: Option<T>,
    },
    /// The work did not end within its grace when it was told to, and was dropped.
    #[error("the work under the leadership of {name:?} did not end within {grace:?} of being told to, and was dropped")]
    Overran {
        /// The election's name.
        name: String,
        /// How long it had.
        grace: Duration,
    },
}

impl<T> RunError<T> {
    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Campaign(error) => error.is_retryable(),
            Self::Lost { .. } | Self::Overran { .. } => true,
        }
    }
}

/// How one stay in office went.
struct Term<T> {
    result: Result<T, RunError<T>>,
    /// The work was told to end before it did so.
    told: bool,
}

impl Election {
    /// Campaigns, does the work while this candidate leads, and steps down.
    ///
    /// The work is told to end ([`Leading::ending`]) when only the [`grace`](super::ElectionBuilder::grace) is left before the
    /// leadership could pass on, or at once when it is lost. It is dropped when the leadership is lost or when the grace is
    /// over. No poll of the work begins after the deadline before which nobody else can lead, also after this process was
    /// paused. What the work has started beside itself (tasks, processes) goes on: see [`Leading::guard`]. A poll that
    /// blocks is not interrupted.
    ///
    /// # Cancel safety
    /// Cancelled, it drops the work, and gives up the leadership in the background.
    ///
    /// # Errors
    /// [`RunError::Campaign`] where this candidate never led; [`RunError::Lost`] where the leadership was lost before the work was
    /// done; [`RunError::Overran`] where the work did not end in time.
    pub async fn run_while_leading<T, Fut>(&self, work: impl FnOnce(Leading) -> Fut) -> Result<T, RunError<T>>
    where
        Fut: Future<Output = T>,
    {
        let leadership = self.campaign().await?;
        self.run(leadership, &CancellationToken::new(), work).await.result
    }

    /// Does the work [while this candidate leads](Self::run_while_leading), again and again, until `stop` is cancelled.
    ///
    /// When the leadership is lost, or the work ends because it was told to, this candidate campaigns again. When `stop` is
    /// cancelled the work is told to end, has the grace to do so, and this candidate steps down, so that the next leads at once.
    /// What the work returns is returned when it ended by itself or was told to stop; `None` if it was not running then, or
    /// did not end in time.
    ///
    /// Outages of the API server are ridden out.
    ///
    /// # Cancel safety
    /// Cancelled, it drops the work, and gives up candidature and leadership in the background.
    ///
    /// # Errors
    /// [`AcquireError`] where campaigning again would not help.
    pub async fn run_whenever_leading<T, Fut>(
        &self,
        stop: CancellationToken,
        mut work: impl FnMut(Leading) -> Fut,
    ) -> Result<Option<T>, AcquireError>
    where
        Fut: Future<Output = T>,
    {
        let mut pause = Duration::ZERO;
        loop {
            let campaign = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(None),
                campaign = self.campaign() => campaign,
            };
            let leadership = match campaign {
                Ok(leadership) => leadership,
                Err(error) if error.is_retryable() => {
                    tracing::warn!(name = self.name(), %error, "a campaign failed and is begun again");
                    pause = (pause * 2).clamp(Duration::from_millis(250), LONGEST_PAUSE);
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = clock::sleep(pause) => {}
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            pause = Duration::ZERO;
            let term = self.run(leadership, &stop, &mut work).await;
            match term.result {
                Ok(output) if !term.told || stop.is_cancelled() => return Ok(Some(output)),
                Err(RunError::Lost { output: Some(output), .. }) if !term.told || stop.is_cancelled() => {
                    return Ok(Some(output));
                }
                Err(error) => tracing::warn!(name = self.name(), %error, "the leadership has ended"),
                Ok(_) => tracing::info!(name = self.name(), "the leadership has ended"),
            }
        }
    }

    async fn run<T, Fut>(
        &self,
        leadership: Leadership,
        stop: &CancellationToken,
        work: impl FnOnce(Leading) -> Fut,
    ) -> Term<T>
    where
        Fut: Future<Output = T>,
    {
        let (hold, grace) = (&leadership.hold, self.inner.grace);
        let ending = CancellationToken::new();
        // Who listens beside the work is told whatever happens to this future.
        let over_for_all = ending.clone().drop_guard();
        let lost = hold.lost();
        let over = async {
            tokio::select! {
                biased;
                () = lost.cancelled() => return,
                () = stop.cancelled() => {}
                () = nearly_over(hold, grace) => {}
            }
            ending.cancel();
            tokio::select! {
                biased;
                () = lost.cancelled() => {}
                () = clock::sleep_until_deadline(clock::moment() + grace) => {}
            }
        };
        let outcome = {
            let work = work(Leading { hold: hold.clone(), ending: ending.clone() });
            tokio::pin!(work, over);
            std::future::poll_fn(|cx| {
                if over.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                // After a pause of this process the clock knows before any timer has fired.
                if hold.remaining() <= grace {
                    ending.cancel();
                }
                if hold.check().is_err() {
                    return Poll::Ready(None);
                }
                work.as_mut().poll(cx).map(Some)
            })
            .await
        };
        let told = ending.is_cancelled() || outcome.is_none();
        drop(over_for_all);
        let result = match (outcome, hold.check()) {
            (Some(output), Ok(())) => match leadership.step_down().await {
                Err(ReleaseError::Lost(lost)) => Err(RunError::Lost { lost, output: Some(output) }),
                Ok(()) | Err(ReleaseError::Unsettled { .. }) => Ok(output),
            },
            (output, Err(lost)) => Err(RunError::Lost { lost, output }),
            (None, Ok(())) => {
                // How it ends is of no interest: it is over.
                let _ = leadership.step_down().await;
                Err(RunError::Overran { name: self.name().to_owned(), grace })
            }
        };
        Term { result, told }
    }
}

/// Waits until only so much is left of a hold.
async fn nearly_over(hold: &Hold, grace: Duration) {
    loop {
        let left = hold.remaining();
        if left <= grace {
            return;
        }
        clock::sleep_until_deadline(clock::moment() + left.saturating_sub(grace)).await;
    }
}
