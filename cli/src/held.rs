//! What is held while a command runs: locks, or a leadership.

use std::slice;
use std::time::Duration;

use leasehold::election::{LabelledPod, PodLabel};
use leasehold::{CancellationToken, Hold, Leadership, Lost, MultiGuard, PublishError, ReleaseError};

use crate::backend::LAST_WORDS;
use crate::exit::{Failure, chain};

/// What is held.
#[derive(Debug)]
pub(crate) enum Held {
    Locks(MultiGuard),
    Leadership(Leadership),
}

/// How a release went.
#[derive(Debug)]
pub(crate) enum Released {
    Cleanly,
    /// The lock had been lost before.
    Lost(Lost),
    /// It is not known whether it has been carried out. If not, the lock passes on when the lease expires.
    Unclear(String),
}

impl Held {
    pub(crate) fn all(&self) -> &[Hold] {
        match self {
            Self::Locks(guard) => guard.holds(),
            Self::Leadership(leadership) => slice::from_ref(leadership),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Lost> {
        self.all().iter().try_for_each(Hold::check)
    }

    pub(crate) fn remaining(&self) -> Duration {
        self.all().iter().map(Hold::remaining).min().unwrap_or_default()
    }

    /// Cancelled when any of it is lost.
    pub(crate) fn lost(&self) -> CancellationToken {
        match self {
            Self::Locks(guard) => guard.lost(),
            Self::Leadership(leadership) => leadership.lost(),
        }
    }

    /// What the command finds in its environment. Of several names these are lines, in the order in which they were named.
    pub(crate) fn environment<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
        namespace: &str,
    ) -> Vec<(&'static str, String)> {
        let names: Vec<&str> = names.into_iter().collect();
        let mut holds: Vec<&Hold> = self.all().iter().collect();
        holds.sort_by_key(|hold| names.iter().position(|name| *name == hold.name()));
        let lines = |of: &dyn Fn(&Hold) -> String| holds.iter().map(|hold| of(hold)).collect::<Vec<_>>().join("\n");
        vec![
            ("LEASEHOLD_NAME", lines(&|hold| hold.name().to_owned())),
            ("LEASEHOLD_NAMESPACE", namespace.to_owned()),
            ("LEASEHOLD_HOLDER", lines(&|hold| hold.holder_identity())),
            ("LEASEHOLD_TOKEN", lines(&|hold| hold.token().to_string())),
        ]
    }

    /// Shows people a text beside each.
    pub(crate) async fn publish(&self, text: &str) -> Result<(), Failure> {
        for hold in self.all() {
            match hold.publish(text).await {
                // Whoever looks after the hold tells of that.
                Ok(()) | Err(PublishError::Lost(_)) => {}
                Err(error @ PublishError::TooLong { .. }) => return Err(Failure::usage(chain(&error))),
                Err(error) => return Err(Failure::internal(&error)),
            }
        }
        Ok(())
    }

    /// Labels the Pod for each. An empty key is none.
    pub(crate) fn label_pod(&self, key: &str) -> Result<Vec<LabelledPod>, Failure> {
        let label = if key.is_empty() { PodLabel::new() } else { PodLabel::new().key(key) };
        let labels = self.all().iter().map(|hold| hold.label_pod(label.clone()));
        labels.collect::<Result<_, _>>().map_err(|error| Failure::usage(chain(&error)))
    }

    /// Gives it back, or leaves it there for so long.
    pub(crate) async fn let_go(self, keep: Option<Duration>) -> Released {
        let release = async {
            match (self, keep) {
                (Self::Locks(guard), Some(time)) => guard.keep(time).await,
                (Self::Locks(guard), None) => guard.release().await,
                (Self::Leadership(leadership), _) => leadership.step_down().await,
            }
        };
        match tokio::time::timeout(LAST_WORDS, release).await {
            Ok(Ok(())) => Released::Cleanly,
            Ok(Err(ReleaseError::Lost(lost))) => Released::Lost(lost),
            Ok(Err(error)) => Released::Unclear(chain(&error)),
            Err(_) => Released::Unclear(format!("the API server did not confirm the release within {LAST_WORDS:?}")),
        }
    }
}
