//! A lock that many hold to read, or one to write.

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
    kind = "ReadWriteLock",
    plural = "readwritelocks",
    shortname = "rwlock",
    category = "leasehold",
    namespaced,
    status = "ReadWriteLockStatus",
    derive = "PartialEq",
    doc = "A ReadWriteLock is held by many readers or by one writer, and has a fair queue. Its state stands on the Lease \
           of the same name and namespace, which clients write themselves: it works whether the operator runs or not. \
           Deleting a ReadWriteLock never interrupts a holder: while anybody holds it or waits, its Lease is handed over \
           to these, and the last release removes it.",
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "Free, Read, Written or Blocked"
    ),
    printcolumn(name = "Readers", type_ = "integer", json_path = ".status.readers", description = "How many read"),
    printcolumn(name = "Writer", type_ = "string", json_path = ".status.writer.id", description = "Who writes"),
    printcolumn(name = "Waiters", type_ = "integer", json_path = ".status.waiters", description = "How many wait"),
    printcolumn(
        name = "Token",
        type_ = "integer",
        json_path = ".status.writer.token",
        description = "The writer's fencing token",
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
pub struct ReadWriteLockSpec {
    /// What is wanted of everybody who uses it.
    #[serde(flatten)]
    pub policy: Policy,
}

/// What stands on the lock's Lease, as the operator last saw it. At most a second behind, however busy the lock is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadWriteLockStatus {
    /// The generation of the spec that this status was made for.
    #[serde(default)]
    pub observed_generation: Option<i64>,
    /// `Ready`: the lock's Lease stands there as the spec wants it. `Held`: somebody reads or writes.
    /// `Deadlocked`: some who wait for it, and others, wait for each other in a circle. `Abandoned`: a holder is dead, and
    /// only a person may break the lock. `Terminating`: it is being deleted, and waits for those who use it. These three
    /// are there only once they have been true.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// In one word.
    #[serde(default)]
    pub state: Option<ReadWriteState>,
    /// Who holds the lock, first come first: at most the first hundred.
    #[serde(default)]
    pub holders: Vec<ReadWriteHolder>,
    /// Who of these writes.
    #[serde(default)]
    pub writer: Option<HolderStatus>,
    /// How many read.
    #[serde(default)]
    pub readers: i32,
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

/// The state of a read-write lock in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ReadWriteState {
    /// Nobody holds it.
    Free,
    /// Somebody reads, perhaps many.
    Read,
    /// Somebody writes.
    Written,
    /// It cannot be used as it is wanted: the condition Ready tells why.
    Blocked,
}

/// Who holds a read-write lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadWriteHolder {
    /// Who it is.
    #[serde(flatten)]
    pub holder: HolderStatus,
    /// What it does: read, upgradeable (reads, and can become the writer), or write.
    pub mode: String,
}
