//! `DistributedLock`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use leasehold::protocol::Kind;

use super::super::resource::{LeaseBacked, Told};
use super::super::status::holder_status;
use crate::crd::{DistributedLock, DistributedLockStatus, HolderStatus, Policy, State};

impl LeaseBacked for DistributedLock {
    type Status = DistributedLockStatus;

    const KIND: Kind = Kind::Lock;
    const NOUN: &'static str = "lock";

    fn default_duration(&self) -> Option<i32> {
        self.spec.lease_duration_seconds
    }

    fn permits(&self) -> Option<i32> {
        None
    }

    fn policy(&self) -> &Policy {
        &self.spec.policy
    }

    fn status(&self) -> Option<&Self::Status> {
        self.status.as_ref()
    }

    fn conditions(status: &Self::Status) -> &[Condition] {
        &status.conditions
    }

    fn tell(&self, told: Told<'_>) -> Self::Status {
        let holder = told.record.and_then(|record| record.holder.as_ref());
        DistributedLockStatus {
            observed_generation: told.generation,
            state: Some(match (told.record, holder) {
                (None, _) => State::Blocked,
                (_, Some(_)) => State::Held,
                (_, None) => State::Free,
            }),
            holder: holder.map(holder_status),
            waiters: told.waiters(),
            resource_id: told.resource_id(),
            lease_name: told.lease_name(),
            lease_uid: told.lease_uid(),
            conditions: told.conditions,
        }
    }

    fn acquired<'a>(before: Option<&Self::Status>, after: &'a Self::Status) -> Option<&'a HolderStatus> {
        let key = |holder: &HolderStatus| (holder.id.clone(), holder.since.clone());
        let before = before.and_then(|before| before.holder.as_ref()).map(key);
        after.holder.as_ref().filter(|now| before != Some(key(now)))
    }
}
