//! What a custom resource has to tell so that one controller can serve all of them.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use leasehold::protocol::{Kind, Record};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::crd::{HolderStatus, Policy};

/// A resource whose state stands on the Lease of its name.
pub(crate) trait LeaseBacked:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// What is published of it.
    type Status: Clone + Debug + PartialEq + Serialize + Send + Sync;

    /// What its Lease is for.
    const KIND: Kind;
    /// What people call it.
    const NOUN: &'static str;

    /// The lease duration, in seconds, of whoever asks for none.
    fn default_duration(&self) -> Option<i32>;

    /// How many permits there are to be.
    fn permits(&self) -> Option<i32>;

    /// What is wanted of everybody who uses it.
    fn policy(&self) -> &Policy;

    /// The status as it was last published.
    fn status(&self) -> Option<&Self::Status>;

    /// The conditions in a status.
    fn conditions(status: &Self::Status) -> &[Condition];

    /// The status that follows from what stands on the Lease.
    fn tell(&self, told: Told<'_>) -> Self::Status;

    /// Who has come to hold it alone between two statuses.
    fn acquired<'a>(before: Option<&Self::Status>, after: &'a Self::Status) -> Option<&'a HolderStatus>;
}

/// What every status tells, and what the rest of it is made of.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub(super) generation: Option<i64>,
    pub(super) conditions: Vec<Condition>,
    /// What stands on the Lease. None: the Lease is somebody else's.
    pub(super) record: Option<&'a Record>,
}

impl Told<'_> {
    pub(super) fn waiters(&self) -> i32 {
        self.record.map_or(0, |record| count(record.waiters.len()))
    }

    pub(super) fn resource_id(&self) -> Option<String> {
        self.record.and_then(|record| record.resource_id.clone())
    }

    pub(super) fn lease_name(&self) -> Option<String> {
        self.record.and_then(|record| record.lease.metadata.name.clone())
    }

    pub(super) fn lease_uid(&self) -> Option<String> {
        self.record.map(|record| record.uid.clone())
    }
}

/// As it stands in a status.
pub(super) fn count(number: impl TryInto<i32>) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}
