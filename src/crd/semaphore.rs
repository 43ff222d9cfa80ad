//! A semaphore: as many permits as its spec says.

#![expect(unreachable_pub, reason = "the derived schema repeats the type in a private place")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HolderStatus, Policy};

/// What is wanted of the semaphore.
// The scale subresource reads and writes `spec.permits`: `kubectl scale sem/db --replicas=5`. What it tells as the
// present number is `status.permits`, the permits that are there, and not those that are held: an autoscaler multiplies
// and divides by it, and a semaphore that nobody uses would be scaled from nothing. A HorizontalPodAutoscaler also refuses
// a scale without a selector of pods; the one that is given there tells whose pods they would be.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "leasehold.dev",
    version = "v1alpha1",
    kind = "Semaphore",
    plural = "semaphores",
    shortname = "sem",
    category = "leasehold",
    namespaced,
    status = "SemaphoreStatus",
    derive = "PartialEq",
    doc = "A Semaphore has so many permits, which clients share, and a fair queue. Its state stands on the Lease of the \
           same name and namespace, which clients write themselves: it works whether the operator runs or not. Where \
           the permits become more, waiters are let in at once. Where they become less, nobody loses what he has, and \
           nobody is let in until less is held than there is. Deleting a Semaphore never interrupts a holder: while \
           anybody holds permits or waits, its Lease is handed over to these, and the last release removes it.",
    scale(
        spec_replicas_path = ".spec.permits",
        status_replicas_path = ".status.permits",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Permits",
        type_ = "integer",
        json_path = ".status.permits",
        description = "How many permits there are"
    ),
    printcolumn(name = "Held", type_ = "integer", json_path = ".status.held", description = "How many are held"),
    printcolumn(name = "Available", type_ = "integer", json_path = ".status.available", description = "How many are free"),
    printcolumn(name = "Waiters", type_ = "integer", json_path = ".status.waiters", description = "How many wait"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether its Lease is as it is wanted",
        priority = 1
    ),
    printcolumn(
        name = "Duration",
        type_ = "integer",
        json_path = ".spec.leaseDurationSeconds",
        description = "The semaphore's own lease duration in seconds",
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
        .message("the Lease of a semaphore has the semaphore's name, which may have at most 253 characters")
        .reason(Reason::FieldValueInvalid)
)]
#[serde(rename_all = "camelCase")]
pub struct SemaphoreSpec {
    /// How many permits there are. With 0 nobody is let in, and those who hold permits keep them until they release them.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub permits: i32,
    /// For how many seconds a holder that asks for no duration of its own keeps its permits after its last renewal.
    ///
    /// Unset: holders live by their client's session, which is one heartbeat for everything that client holds.
    /// This is what most semaphores want. Within the bounds below, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub lease_duration_seconds: Option<i32>,
    /// What is wanted of everybody who uses it.
    #[serde(flatten)]
    pub policy: Policy,
}

/// What stands on the semaphore's Lease, as the operator last saw it. At most a second behind, however busy it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SemaphoreStatus {
    /// The generation of the spec that this status was made for.
    #[serde(default)]
    pub observed_generation: Option<i64>,
    /// `Ready`: the semaphore's Lease stands there as the spec wants it. `Held`: somebody holds permits.
    /// `Deadlocked`: some who wait for it, and others, wait for each other in a circle. `Abandoned`: a holder is dead, and
    /// only a person may break the lock. `Terminating`: it is being deleted, and waits for those who use it. These three
    /// are there only once they have been true.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many permits there are, as it stands on the Lease.
    #[serde(default)]
    pub permits: i32,
    /// How many permits are held. More than there are, after these have become less.
    #[serde(default)]
    pub held: i32,
    /// How many permits nobody holds.
    #[serde(default)]
    pub available: i32,
    /// Who holds permits, first come first: at most the first hundred.
    #[serde(default)]
    pub holders: Vec<PermitsHolder>,
    /// How many there are who hold permits.
    #[serde(default)]
    pub holder_count: i32,
    /// How many wait for permits.
    #[serde(default)]
    pub waiters: i32,
    /// For the scale subresource: no pods belong to a semaphore, unless they are labelled so.
    #[serde(default)]
    pub selector: Option<String>,
    /// What it is called, where that cannot be an object's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_id: Option<String>,
    /// The name of the semaphore's Lease.
    #[serde(default)]
    pub lease_name: Option<String>,
    /// The uid of the semaphore's Lease. A new one means that the Lease was deleted and made again.
    #[serde(default)]
    pub lease_uid: Option<String>,
}

/// Who holds permits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PermitsHolder {
    /// Who it is.
    #[serde(flatten)]
    pub holder: HolderStatus,
    /// How many it holds.
    pub permits: i32,
}
