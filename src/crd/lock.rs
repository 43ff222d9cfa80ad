//! A lock that one holds.

#![expect(unreachable_pub, reason = "the derived schema repeats the type in a private place")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HolderStatus, Policy};

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
    validation = Rule::new("!self.metadata.name.matches('--[a-z2-7]{26}$')")
        .message("names that end like this are those that clients make of resource ids: choose another name")
        .reason(Reason::FieldValueInvalid),
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
    /// This is what most locks want. Within the bounds below, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub lease_duration_seconds: Option<i32>,
    /// What is wanted of everybody who uses it.
    #[serde(flatten)]
    pub policy: Policy,
}

/// What stands on the lock's Lease, as the operator last saw it. At most a second behind, however busy the lock is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DistributedLockStatus {
    /// The generation of the spec that this status was made for.
    #[serde(default)]
    pub observed_generation: Option<i64>,
    /// `Ready`: the lock's Lease stands there as the spec wants it. `Held`: somebody holds the lock.
    /// `Deadlocked`: some who wait for it, and others, wait for each other in a circle. `Abandoned`: a holder is dead, and
    /// only a person may break the lock. `Terminating`: it is being deleted, and waits for those who use it. These three
    /// are there only once they have been true.
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
    /// What it is called, where that cannot be an object's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_id: Option<String>,
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
