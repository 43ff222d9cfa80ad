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

/// Reads and writes Leases in any namespace.
#[derive(Debug)]
pub(crate) struct Leases {
    store: KubeStore,
    metrics: Arc<Metrics>,
    /// When the API server last answered.
    answered: Mutex<Option<Moment>>,
}

impl Leases {
    pub(crate) fn new(config: Config, metrics: Arc<Metrics>) -> Result<Self, kube::Error> {
        let namespace = config.default_namespace.clone();
        Ok(Self { store: KubeStore::new(config, &namespace)?, metrics, answered: Mutex::default() })
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

    /// When the API server last answered, whatever it said.
    pub(crate) fn answered(&self) -> Option<Moment> {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn limited<T>(
        &self,
        request: &'static str,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let answer = tokio::time::timeout(LIMIT, answer)
            .await
            .unwrap_or_else(|_| Err(Failure::Unclear(format!("no answer within {} s", LIMIT.as_secs()))));
        if !matches!(answer, Err(Failure::Unclear(_))) {
            *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::now().moment);
        }
        if let Err(failure) = &answer {
            self.metrics.lease_request_failed(request, failure);
        }
        answer
    }
}
