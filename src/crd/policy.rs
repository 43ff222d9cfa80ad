//! What every kind of resource can want of those who use it.
//!
//! The fields stand flat in each spec, beside `leaseDurationSeconds`: one `kubectl explain dlock.spec` shows all of them,
//! and what belongs together is compared by rules that name fields as users write them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, ValidationRule,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is wanted of everybody who uses it, whatever the kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// The shortest lease duration that a holder may have, in seconds, 1 to 3600. Unset: no bound.
    /// Clients honour it: a shorter one is refused where it is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub min_lease_duration_seconds: Option<i32>,
    /// The longest lease duration that a holder may have, in seconds, 1 to 3600. Unset: no bound.
    /// Clients honour it: a longer one is refused where it is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub max_lease_duration_seconds: Option<i32>,
    /// For how many seconds somebody may hold it at most, however often it renews. Unset: no bound.
    /// A client ends its own hold before; the operator evicts whoever is still there about a minute later, counting from
    /// when it saw the hold. An eviction of a live holder is a break: until the holder hears of it, only its fencing token
    /// protects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub max_hold_seconds: Option<i32>,
    /// For how many seconds nobody gets what a holder had that fell silent, 0 to 3600, counted from when that was certain.
    /// Default: 0. There is no delay after a release, nor where the holder's process is known to have ended.
    /// Clients and the operator honour it.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3600))]
    pub lock_delay_seconds: i32,
    /// How many may wait at once; with 0 nobody waits. Unset: no bound. Clients honour it: one more is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub max_waiters: Option<i32>,
    /// When a dead holder is evicted. Default: `Evidence`. Clients and the operator honour it.
    /// `Evidence`: as soon as it is known that its process has ended, or else once its time has passed.
    /// `Expiry`: once its time has passed, whatever is known of its process.
    /// `Never`: not before a person breaks the lock. Its condition Abandoned tells who is dead.
    #[serde(default)]
    pub reclaim: Reclaim,
    /// What becomes of those who wait for each other in a circle. Default: `Report`.
    /// `Report`: they are told by the condition Deadlocked, Events, and a warning of each client.
    /// `BreakYoungest`: the one that came last gives up as well. Clients do so by themselves within a namespace; the
    /// operator tells them where the circle goes through several.
    #[serde(default)]
    pub deadlocks: Deadlocks,
    /// What becomes of a holder that was asked to let go (`kubectl leasehold ask`) and has not done so in time.
    /// Default: `Advise`. `Advise`: nothing, it is told, and decides. `Evict`: the operator evicts it, counting from when it
    /// saw the request; it learns that as it learns of any break, and until then only its fencing token protects.
    #[serde(default)]
    pub release_requests: ReleaseRequests,
    /// Who may acquire it, at most 64. Unset: whoever may write its Lease.
    /// Only the admission policies of Leasehold enforce it: where they are not installed it says what is meant, and
    /// keeps nobody out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub allowed_subjects: Option<Vec<Subject>>,
    /// What becomes of it when this resource is deleted while somebody holds it or waits for it. Default: `HandOver`.
    /// `HandOver`: the resource goes at once, holders and waiters go on, and the last release removes the Lease.
    /// `Wait`: the resource stays, being deleted, until nobody holds it or waits; its condition Terminating tells who does.
    /// Either way nobody is interrupted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// When a dead holder is evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Reclaim {
    /// As soon as it is known that its process has ended, or else once its time has passed.
    #[default]
    Evidence,
    /// Once its time has passed, whatever is known of its process.
    Expiry,
    /// Not before a person breaks the lock.
    Never,
}

/// What becomes of those who wait for each other in a circle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Deadlocks {
    /// They are told.
    #[default]
    Report,
    /// The one that came last gives up.
    BreakYoungest,
}

/// What becomes of a holder that was asked to let go and has not done so in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReleaseRequests {
    /// Nothing: it is told, and decides.
    #[default]
    Advise,
    /// The operator evicts it, counting from when it saw the request. The holder learns that as it learns of any break; until
    /// then its fencing token is what protects the work.
    Evict,
}

/// What becomes of a Lease that is in use when its resource is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It is handed over to those who use it.
    #[default]
    HandOver,
    /// The resource stays until nobody uses it.
    Wait,
}

/// Somebody as the API server knows him.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// What it is.
    pub kind: SubjectKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The namespace of a service account. Of nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
}

/// What a subject is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SubjectKind {
    /// What pods are.
    ServiceAccount,
    /// A user.
    User,
    /// A group of users, such as `system:serviceaccounts:<namespace>`.
    Group,
}

impl Subject {
    /// As it stands on the Lease.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { kind, name, namespace } = self;
        match kind {
            SubjectKind::Group => format!("group:{name}"),
            SubjectKind::User => format!("user:{name}"),
            SubjectKind::ServiceAccount => {
                format!("user:system:serviceaccount:{}:{name}", namespace.as_deref().unwrap_or_default())
            }
        }
    }
}

/// What must be true of a spec, and what is said where it is not.
const RULES: [(&str, &str); 4] = [
    (
        "!has(self.minLeaseDurationSeconds) || !has(self.maxLeaseDurationSeconds) || \
         self.minLeaseDurationSeconds <= self.maxLeaseDurationSeconds",
        "minLeaseDurationSeconds is more than maxLeaseDurationSeconds: no lease duration is left",
    ),
    (
        "!has(self.maxHoldSeconds) || !has(self.minLeaseDurationSeconds) || \
         self.maxHoldSeconds >= self.minLeaseDurationSeconds",
        "maxHoldSeconds is less than minLeaseDurationSeconds: nobody could hold it for a lease duration",
    ),
    (
        "!has(self.reclaim) || self.reclaim != 'Never' || !has(self.lockDelaySeconds) || self.lockDelaySeconds == 0",
        "lockDelaySeconds has no meaning with reclaim Never, since what a silent holder had is given to nobody: \
         leave one of them out",
    ),
    (
        "!has(self.reclaim) || self.reclaim != 'Never' || !has(self.maxHoldSeconds)",
        "maxHoldSeconds contradicts reclaim Never: after that time even what a dead holder had would be given away; \
         leave one of them out",
    ),
];
/// The same, where there is a lease duration of its own.
const DURATION_RULES: [(&str, &str); 3] = [
    (
        "!has(self.leaseDurationSeconds) || !has(self.minLeaseDurationSeconds) || \
         self.leaseDurationSeconds >= self.minLeaseDurationSeconds",
        "leaseDurationSeconds is less than minLeaseDurationSeconds",
    ),
    (
        "!has(self.leaseDurationSeconds) || !has(self.maxLeaseDurationSeconds) || \
         self.leaseDurationSeconds <= self.maxLeaseDurationSeconds",
        "leaseDurationSeconds is more than maxLeaseDurationSeconds",
    ),
    (
        "!has(self.leaseDurationSeconds) || !has(self.maxHoldSeconds) || self.maxHoldSeconds >= self.leaseDurationSeconds",
        "maxHoldSeconds is less than leaseDurationSeconds: nobody could hold it for a lease duration",
    ),
];
/// What must be true of each subject.
const SUBJECT_RULES: [(&str, &str); 3] = [
    (
        "(self.kind == 'ServiceAccount') == has(self.namespace)",
        "a ServiceAccount needs a namespace, and neither a User nor a Group has one",
    ),
    (r"!self.name.contains('\n')", "a name has one line"),
    (
        "self.kind != 'ServiceAccount' || !self.name.contains(':')",
        "the name of a ServiceAccount is told without its namespace: no ':' in it",
    ),
];

/// Gives the schema of a spec the rules of what it may not say.
pub(super) fn add_rules(spec: &mut JSONSchemaProps) {
    let Some(fields) = &mut spec.properties else { return };
    let has_duration = fields.contains_key("leaseDurationSeconds");
    let subject = fields.get_mut("allowedSubjects").and_then(|subjects| subjects.items.as_mut());
    if let Some(JSONSchemaPropsOrArray::Schema(subject)) = subject {
        subject.x_kubernetes_validations.get_or_insert_default().extend(SUBJECT_RULES.map(rule));
    }
    let rules = spec.x_kubernetes_validations.get_or_insert_default();
    rules.extend(RULES.map(rule));
    rules.extend(DURATION_RULES.into_iter().filter(|_| has_duration).map(rule));
}

fn rule((rule, message): (&str, &str)) -> ValidationRule {
    ValidationRule {
        rule: rule.to_owned(),
        message: Some(message.to_owned()),
        reason: Some("FieldValueInvalid".to_owned()),
        ..ValidationRule::default()
    }
}
