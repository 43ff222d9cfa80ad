//! `Semaphore`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use leasehold::protocol::Kind;

use super::super::resource::{LeaseBacked, Told, count};
use super::super::status::holder_status;
use crate::crd::{HOLDERS_TOLD, HolderStatus, PermitsHolder, Policy, Semaphore, SemaphoreStatus};

impl LeaseBacked for Semaphore {
    type Status = SemaphoreStatus;

    const KIND: Kind = Kind::Semaphore;
    const NOUN: &'static str = "semaphore";

    fn default_duration(&self) -> Option<i32> {
        self.spec.lease_duration_seconds
    }

    fn permits(&self) -> Option<i32> {
        Some(self.spec.permits)
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
        let shared = told.record.map_or(&[][..], |record| &record.shared);
        let holders = shared.iter().take(HOLDERS_TOLD).map(|holder| PermitsHolder {
            holder: holder_status(holder),
            permits: count(holder.mode.permits(told.record.map_or(0, |record| record.capacity))),
        });
        SemaphoreStatus {
            observed_generation: told.generation,
            permits: told.record.map_or(0, |record| count(record.capacity)),
            held: told.record.map_or(0, |record| count(record.held_permits())),
            available: told.record.map_or(0, |record| count(record.available_permits())),
            holders: holders.collect(),
            holder_count: count(shared.len()),
            waiters: told.waiters(),
            selector: Some(format!("leasehold.dev/semaphore={}", self.name_any())),
            resource_id: told.resource_id(),
            lease_name: told.lease_name(),
            lease_uid: told.lease_uid(),
            conditions: told.conditions,
        }
    }

    /// Nobody holds a semaphore alone, and those who come and go may be too many for Events.
    fn acquired<'a>(_before: Option<&Self::Status>, _after: &'a Self::Status) -> Option<&'a HolderStatus> {
        None
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::super::super::decide::tests::record;
    use super::super::super::status::tests::stands;
    use super::*;
    use crate::crd::SemaphoreSpec;

    fn semaphore(permits: i32) -> Semaphore {
        Semaphore::new("build", SemaphoreSpec { permits, ..SemaphoreSpec::default() })
    }

    #[test]
    fn it_tells_what_is_held_by_whom_and_what_is_left() {
        let record = record(json!({ "metadata": { "labels": { "leasehold.dev/kind": "semaphore" }, "annotations": {
            "leasehold.dev/permits": "4",
            "holder.leasehold.dev/pod-1_abc.3": "41",
            "want.leasehold.dev/pod-1_abc.3": "3 since=2026-01-01T00:00:00Z",
            "holder.leasehold.dev/pod-2_abc.1": "50",
            "want.leasehold.dev/pod-2_abc.1": "2 own=5",
            "join.leasehold.dev/pod-3_abc.1": "60" } },
            "spec": { "holderIdentity": "semaphore" } }));
        let status = stands(semaphore(4), record, None, Timestamp::UNIX_EPOCH);
        assert_eq!((status.permits, status.held, status.available), (4, 5, 0), "it has shrunk");
        assert_eq!((status.holder_count, status.waiters), (2, 1));
        let told: Vec<_> = status.holders.iter().map(|one| (&*one.holder.id, one.permits, one.holder.token)).collect();
        assert_eq!(told, [("pod-1_abc.3", 3, Some(42)), ("pod-2_abc.1", 2, Some(51))]);
        let first = &status.holders[0].holder;
        assert_eq!((first.pod.as_deref(), first.session.as_deref()), (Some("pod-1"), Some("pod-1_abc")));
        assert_eq!(status.holders[1].holder.session, None, "it lives by itself");
        let held = &status.conditions[1];
        assert_eq!((&*held.type_, &*held.status, &*held.message), ("Held", "True", "2 hold the semaphore"));
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(serde_json::from_value::<SemaphoreStatus>(json).unwrap(), status);
    }

    #[test]
    fn of_a_crowd_it_tells_the_first_and_the_number() {
        let mut lease = json!({ "metadata": { "labels": { "leasehold.dev/kind": "semaphore" },
            "annotations": { "leasehold.dev/permits": "1000" } }, "spec": {} });
        for n in 0..=HOLDERS_TOLD {
            lease["metadata"]["annotations"][format!("holder.leasehold.dev/pod_x.{n}")] = json!((n + 1).to_string());
        }
        let status = stands(semaphore(1000), record(lease), None, Timestamp::UNIX_EPOCH);
        assert_eq!((status.holders.len(), status.holder_count), (HOLDERS_TOLD, count(HOLDERS_TOLD + 1)));
        assert_eq!((status.holders[0].holder.token, status.held), (Some(2), count(HOLDERS_TOLD + 1)));
    }
}
