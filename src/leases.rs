//! The operator's own connection to Leases.
//!
//! It shares nothing with the connection for custom resources, status and Events: however slow those are, an eviction
//! does not wait for them. Nothing is ever sent twice here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Config;
pub(crate) use leasehold::Failure;
use leasehold::protocol::{Moment, Write};
use leasehold::{KubeStore, Store as _, clock};

use crate::metrics::Metrics;
use crate::warden::Place;

/// No request takes longer than this.
const LIMIT: Duration = Duration::from_secs(10);
/// In a longer pause between two answers the API server may have been away without anybody asking.
const GAP: Duration = Duration::from_mins(2);

/// Reads and writes Leases in any namespace.
#[derive(Debug)]
pub(crate) struct Leases {
    store: KubeStore,
    metrics: Arc<Metrics>,
    answers: Mutex<Option<Answers>>,
}

/// The API server has answered all requests from then on, and nobody knows of a longer pause between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answers {
    pub(crate) since: Moment,
    pub(crate) last: Moment,
}

impl Answers {
    /// One more answer, at `now`.
    fn noted(before: Option<Self>, now: Moment) -> Self {
        let goes_on = before.filter(|before| now.since(before.last) <= GAP);
        Self { since: goes_on.map_or(now, |before| before.since), last: now }
    }
}

impl Leases {
    pub(crate) fn new(config: Config, metrics: Arc<Metrics>) -> Result<Self, kube::Error> {
        let namespace = config.default_namespace.clone();
        Ok(Self { store: KubeStore::new(config, &namespace)?, metrics, answers: Mutex::default() })
    }

    /// Reads a Lease, consistently. `None`: there is none.
    pub(crate) async fn read(&self, place: &Place) -> Result<Option<Lease>, Failure> {
        let store = self.store.in_namespace(&place.namespace);
        match self.limited("read", store.read(&place.name)).await {
            Ok(lease) => Ok(Some(lease)),
            Err(Failure::Absent) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Carries out a write. `None`: the Lease was removed.
    pub(crate) async fn write(&self, place: &Place, write: &Write) -> Result<Option<Lease>, Failure> {
        let store = self.store.in_namespace(&place.namespace);
        self.limited("write", store.write(&place.name, write)).await
    }

    /// Since when the API server has been answering, whatever it said. `None`: it does not.
    pub(crate) fn answers(&self) -> Option<Answers> {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn limited<T>(
        &self,
        request: &'static str,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let answer = tokio::time::timeout(LIMIT, answer)
            .await
            .unwrap_or_else(|_| Err(Failure::Unclear(format!("no answer within {} s", LIMIT.as_secs()))));
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers = match answer {
            Err(Failure::Unclear(_)) => None,
            _ => Some(Answers::noted(*answers, clock::now().moment)),
        };
        drop(answers);
        if let Err(failure) = &answer {
            self.metrics.lease_request_failed(request, failure);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_asked_for_long_may_have_been_away() {
        let at = |seconds| Moment::from_start(Duration::from_secs(seconds));
        let mut answers = None;
        let mut note = |now| {
            answers = Some(Answers::noted(answers, at(now)));
            answers.map(|answers| answers.since)
        };
        assert_eq!([10, 130, 250, 371, 372].map(&mut note), [10, 10, 10, 371, 371].map(|since| Some(at(since))));
    }
}
