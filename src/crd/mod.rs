//! The custom resources, as users write and read them.
//!
//! `crds/*.yaml` are generated from these types (`leasehold-operator crds`), so these files are also what
//! `kubectl explain` says.

mod lock;
mod policy;
mod rwlock;
mod semaphore;

pub use lock::{DistributedLock, DistributedLockSpec, DistributedLockStatus, State};
pub use policy::{Deadlocks, DeletionPolicy, Policy, Reclaim, ReleaseRequests, Subject, SubjectKind};
pub use rwlock::{ReadWriteHolder, ReadWriteLock, ReadWriteLockSpec, ReadWriteLockStatus, ReadWriteState};
pub use semaphore::{PermitsHolder, Semaphore, SemaphoreSpec, SemaphoreStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Holds a deleted resource until its Lease is taken care of.
///
/// Deleting a resource never interrupts whoever holds the lock. Is the lock free and nobody waits, its Lease is deleted.
/// Otherwise the Lease is handed over to those who use it: it no longer belongs to the resource, is marked as made on the
/// spot, holders and waiters go on as before, and the last release removes it.
pub const FINALIZER: &str = "leasehold.dev/hand-over";

/// Of how many holders a status tells at most. Their full number stands beside them.
pub const HOLDERS_TOLD: usize = 100;

/// Who holds a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HolderStatus {
    /// The holder's identity, as it stands on the Lease.
    pub id: String,
    /// The pod or host of the holder, possibly cut, where the identity tells it.
    #[serde(default)]
    pub pod: Option<String>,
    /// The client session by which the holder lives. None where it lives by the Lease's own renewTime.
    #[serde(default)]
    pub session: Option<String>,
    /// Since when it holds the lock, by its granter's clock.
    #[serde(default)]
    pub since: Option<Time>,
    /// What it publishes of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Who asks it to let go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_request: Option<ReleaseRequestStatus>,
    /// Its fencing token. None for holders that made the Lease on the spot: only they were told.
    #[serde(default)]
    pub token: Option<i64>,
    /// Its process has left it there until its time has passed: nobody renews it or gives it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
}

/// Who asks a holder to let go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseRequestStatus {
    /// Who asks, as it says itself.
    pub by: String,
    /// What for.
    #[serde(default)]
    pub reason: String,
    /// Within how many seconds.
    pub within_seconds: i32,
}

/// Every definition, as it is applied to a cluster.
#[must_use]
pub fn all() -> [CustomResourceDefinition; 3] {
    let crds = [
        without_need_of_a_spec(DistributedLock::crd()),
        Semaphore::crd(),
        without_need_of_a_spec(ReadWriteLock::crd()),
    ];
    crds.map(with_rules)
}

/// What is left out is taken for empty.
fn without_need_of_a_spec(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    specs(&mut crd).for_each(|spec| spec.default = Some(JSON(serde_json::json!({}))));
    crd
}

/// What a policy may not say is refused by the API server.
fn with_rules(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    specs(&mut crd).for_each(policy::add_rules);
    crd
}

fn specs(crd: &mut CustomResourceDefinition) -> impl Iterator<Item = &mut JSONSchemaProps> {
    crd.spec.versions.iter_mut().filter_map(|version| {
        let schema = version.schema.as_mut()?.open_api_v3_schema.as_mut()?;
        schema.properties.as_mut()?.get_mut("spec")
    })
}

/// Definitions as YAML documents: all of them, or the one of this singular name.
///
/// # Errors
/// None that can happen: all of it can be written as YAML.
pub fn as_yaml(name: Option<&str>) -> Result<String, serde_yaml_ng::Error> {
    let mut yaml = String::new();
    for crd in all().iter().filter(|crd| name.is_none() || crd.spec.names.singular.as_deref() == name) {
        yaml += "# Generated from src/crd/ by `leasehold-operator crds`. Do not edit.\n---\n";
        yaml += &serde_yaml_ng::to_string(crd)?;
    }
    Ok(yaml)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checked_in_definitions_are_those_of_the_types() {
        for (name, found) in [
            ("distributedlock", include_str!("../../crds/distributedlock.yaml")),
            ("semaphore", include_str!("../../crds/semaphore.yaml")),
            ("readwritelock", include_str!("../../crds/readwritelock.yaml")),
        ] {
            let wanted = super::as_yaml(Some(name)).unwrap();
            assert!(wanted == found, "crds/{name}.yaml is out of date: run `make crds`");
        }
    }
}
