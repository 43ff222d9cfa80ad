//! The operator's own connection to Leases.
//!
//! It shares nothing with the connection for custom resources, status and Events: however slow those are, an eviction
//! does not wait for them. Nothing is ever sent twice here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Config;
pub(crate) use leasehold::Failure;
use leasehold::protocol::Write;
use leasehold::{KubeStore, Store as _};

use crate::metrics::Metrics;
use crate::warden::Place;

/// No request takes longer than this.
const LIMIT: Duration = Duration::from_secs(10);

/// Reads and writes Leases in any namespace.
#[derive(Debug)]
pub(crate) struct Leases {
    config: Config,
    stores: Mutex<HashMap<String, KubeStore>>,
    metrics: Arc<Metrics>,
}

impl Leases {
    pub(crate) fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        Self { config, stores: Mutex::default(), metrics }
    }

    /// Reads a Lease, consistently. `None`: there is none.
    pub(crate) async fn read(&self, place: &Place) -> Result<Option<Lease>, Failure> {
        let store = self.store(place)?;
        match self.limited("read", store.read(&place.name)).await {
            Ok(lease) => Ok(Some(lease)),
            Err(Failure::Absent) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Carries out a write. `None`: the Lease was removed.
    pub(crate) async fn write(&self, place: &Place, write: &Write) -> Result<Option<Lease>, Failure> {
        let store = self.store(place)?;
        self.limited("write", store.write(&place.name, write)).await
    }

    async fn limited<T>(
        &self,
        request: &'static str,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let answer = tokio::time::timeout(LIMIT, answer)
            .await
            .unwrap_or_else(|_| Err(Failure::Unclear(format!("no answer within {} s", LIMIT.as_secs()))));
        if let Err(failure) = &answer {
            self.metrics.lease_request_failed(request, failure);
        }
        answer
    }

    fn store(&self, place: &Place) -> Result<KubeStore, Failure> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&place.namespace) {
            return Ok(store.clone());
        }
        let store = KubeStore::new(self.config.clone(), &place.namespace)
            .map_err(|error| Failure::Unclear(error.to_string()))?;
        stores.insert(place.namespace.clone(), store.clone());
        Ok(store)
    }
}
