//! The custom resources, as users write and read them.
//!
//! `crds/*.yaml` are generated from these types (`leasehold-operator crds`), so this file is also what
//! `kubectl explain` says.

#![expect(unreachable_pub, reason = "the derived schema repeats the type in a private place")]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Holds a deleted `DistributedLock` until its Lease is taken care of.
///
/// Deleting a `DistributedLock` never interrupts whoever holds the lock. Is the lock free and nobody waits, its Lease
/// is deleted. Otherwise the Lease is handed over to those who use it: it no longer belongs to the `DistributedLock`,
/// is marked as made on the spot, holder and waiters go on as before, and the last release removes it.
pub const FINALIZER: &str = "leasehold.dev/hand-over";

/// What is wanted of the lock.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "leasehold.dev",
    version = "v1alpha1",
    kind = "DistributedLock",
    plural = "distributedlocks",
    shortname = "dlock",
    category = "leasehold",
    namespaced,
    status = "DistributedLockStatus",
    derive = "PartialEq",
    doc = "A DistributedLock is a mutual exclusion lock with a fair queue. Its state stands on the Lease of the same \
           name and namespace, which clients write themselves: the lock works whether the operator runs or not. \
           Deleting a DistributedLock never interrupts whoever holds the lock. Is it free and nobody waits, its Lease is \
           deleted too. Otherwise the Lease is handed over to its users: holder and waiters go on as before, and the \
           last release removes it.",
    printcolumn(name = "State", type_ = "string", json_path = ".status.state", description = "Free, Held or Blocked"),
    printcolumn(name = "Holder", type_ = "string", json_path = ".status.holder.id", description = "Who holds the lock"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.holder.since", description = "Since when"),
    printcolumn(name = "Waiters", type_ = "integer", json_path = ".status.waiters", description = "How many wait"),
    printcolumn(
        name = "Token",
        type_ = "integer",
        json_path = ".status.holder.token",
        description = "The holder's fencing token",
        priority = 1
    ),
    printcolumn(
        name = "Duration",
        type_ = "integer",
        json_path = ".spec.leaseDurationSeconds",
        description = "The lock's own lease duration in seconds",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("!self.metadata.name.startsWith('session-')")
        .message("names that begin with \"session-\" belong to the Leases of client sessions: choose another name")
        .reason(Reason::FieldValueInvalid),
    validation = Rule::new("size(self.metadata.name) <= 253")
        .message("the Lease of a lock has the lock's name, which may have at most 253 characters")
        .reason(Reason::FieldValueInvalid)
)]
#[serde(rename_all = "camelCase")]
pub struct DistributedLockSpec {
    /// For how many seconds a holder that asks for no duration of its own keeps the lock after its last renewal.
    ///
    /// Unset: holders live by their client's session, which is one heartbeat for everything that client holds.
    /// This is what most locks want.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub lease_duration_seconds: Option<i32>,
}

/// What stands on the lock's Lease, as the operator last saw it. At most a second behind, however busy the lock is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DistributedLockStatus {
    /// The generation of the spec that this status was made for.
    #[serde(default)]
    pub observed_generation: Option<i64>,
    /// `Ready`: the lock's Lease stands there as the spec wants it. `Held`: somebody holds the lock.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// In one word.
    #[serde(default)]
    pub state: Option<State>,
    /// Who holds the lock.
    #[serde(default)]
    pub holder: Option<HolderStatus>,
    /// How many wait for the lock.
    #[serde(default)]
    pub waiters: i32,
    /// The name of the lock's Lease.
    #[serde(default)]
    pub lease_name: Option<String>,
    /// The uid of the lock's Lease. A new one means that the Lease was deleted and made again.
    #[serde(default)]
    pub lease_uid: Option<String>,
}

/// The state of a lock in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// Nobody holds it.
    Free,
    /// Somebody holds it.
    Held,
    /// It cannot be used as it is wanted: the condition Ready tells why.
    Blocked,
}

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
    /// Its fencing token. None for holders that made the Lease on the spot: only they were told.
    #[serde(default)]
    pub token: Option<i64>,
}

/// The definition of [`DistributedLock`], as it is applied to a cluster.
#[must_use]
pub fn distributed_lock() -> CustomResourceDefinition {
    let mut crd = DistributedLock::crd();
    // A lock needs no spec: what is left out is taken for empty.
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let spec = schema.and_then(|schema| schema.properties.as_mut()).and_then(|fields| fields.get_mut("spec"));
        if let Some(spec) = spec {
            spec.default =
                Some(k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSON(serde_json::json!({})));
        }
    }
    crd
}

/// Every definition, as YAML documents.
///
/// # Errors
/// None that can happen: all of it can be written as YAML.
pub fn all_as_yaml() -> Result<String, serde_yaml_ng::Error> {
    let head = "# Generated from src/crd.rs by `leasehold-operator crds`. Do not edit.\n";
    Ok(format!("{head}{}", serde_yaml_ng::to_string(&distributed_lock())?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checked_in_definitions_are_those_of_the_types() {
        let wanted = super::all_as_yaml().unwrap();
        let found = include_str!("../crds/distributedlock.yaml");
        assert!(wanted == found, "crds/distributedlock.yaml is out of date: run `make crds`");
    }
}
