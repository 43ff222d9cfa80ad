//! Whose Lease it is.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use leasehold::protocol::Record;

use super::resource::LeaseBacked;
use crate::crd::DistributedLock;

/// To whom a Lease belongs, as seen from one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// To this resource.
    This,
    /// To nobody, or to an earlier resource of this name.
    Nobody,
    /// To somebody else, told for people.
    Other(String),
}

pub(super) fn owner(lease: &Lease, cr: &impl LeaseBacked) -> Owner {
    let mine = owner_reference(cr);
    let owners = lease.metadata.owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    match controllers.next() {
        Some(owner) if owner.uid == mine.uid => Owner::This,
        Some(owner) if (&owner.kind, &owner.name) != (&mine.kind, &mine.name) => {
            Owner::Other(format!("{} {}", owner.kind, owner.name))
        }
        _ => Owner::Nobody,
    }
}

/// The reference from a Lease to its resource.
///
/// It does not block the owner's deletion: a foreground deletion would remove the Lease at once, under its holder.
pub(super) fn owner_reference(cr: &impl LeaseBacked) -> OwnerReference {
    cr.controller_owner_ref(&()).unwrap_or_default()
}

/// Whether the Lease belongs to a custom resource of Leasehold.
pub(crate) fn is_owned(record: &Record) -> bool {
    let group = DistributedLock::group(&());
    let mut owners = record.lease.metadata.owner_references.iter().flatten();
    owners.any(|owner| {
        owner.controller == Some(true) && owner.api_version.split_once('/').is_some_and(|(of, _)| of == group)
    })
}
