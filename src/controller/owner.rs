//! Whose Lease it is.
//!
//! A Lease of a resource names it in an annotation, and not among its `ownerReferences`: what these name, Kubernetes'
//! garbage collector deletes, and whoever holds it with it. It does so when the owner is deleted in the foreground, before
//! any finalizer of the owner is looked at and whether the reference blocks that or not, and when the owner's finalizer is
//! removed by force. Here the finalizer alone removes what nobody uses.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt as _};
use leasehold::protocol::Record;

use super::resource::LeaseBacked;
use crate::crd::DistributedLock;

/// To which resource a Lease belongs: `<kind>/<name>/<uid>`.
pub(super) const OWNER: &str = "leasehold.dev/owner";

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

pub(super) fn owner<R: LeaseBacked>(lease: &Lease, cr: &R) -> Owner {
    let mut controllers = references(lease).filter(|owner| owner.controller == Some(true));
    let controller = controllers.next().map(|owner| (&*owner.kind, &*owner.name, &*owner.uid));
    let ours = references(lease).any(|owner| owner.controller == Some(true) && is_of_our_group(owner));
    // Who controls it in the way of all others comes first; that it is one of ours is what earlier versions wrote.
    let (kind, name, uid) = match (controller, noted(lease)) {
        (Some(other), _) if !ours => other,
        (_, Some(noted)) => noted,
        (Some(mine), None) => mine,
        (None, None) => return Owner::Nobody,
    };
    if (kind, name) != (&*R::kind(&()), &*cr.name_any()) {
        Owner::Other(format!("{kind} {name}"))
    } else if Some(uid) == cr.uid().as_deref() {
        Owner::This
    } else {
        Owner::Nobody
    }
}

/// What stands on the Lease of this resource.
pub(super) fn note<R: LeaseBacked>(cr: &R) -> String {
    format!("{}/{}/{}", R::kind(&()), cr.name_any(), cr.uid().unwrap_or_default())
}

/// The owners that stay in the way of all others: all but this resource and those that had its name before, which earlier
/// versions named there. `None`: there are no such.
pub(super) fn without_ours<R: LeaseBacked>(lease: &Lease, cr: &R) -> Option<Vec<OwnerReference>> {
    let is_ours =
        |owner: &&OwnerReference| is_of_our_group(owner) && owner.kind == R::kind(&()) && owner.name == cr.name_any();
    let stay = || references(lease).filter(|owner| !is_ours(owner)).cloned().collect();
    references(lease).any(|owner| is_ours(&owner)).then(stay)
}

/// Whether the Lease belongs to a custom resource of Leasehold.
pub(crate) fn is_owned(record: &Record) -> bool {
    let lease = &record.lease;
    noted(lease).is_some() || references(lease).any(|owner| owner.controller == Some(true) && is_of_our_group(owner))
}

fn noted(lease: &Lease) -> Option<(&str, &str, &str)> {
    let (kind, rest) = lease.metadata.annotations.as_ref()?.get(OWNER)?.split_once('/')?;
    let (name, uid) = rest.split_once('/')?;
    Some((kind, name, uid))
}

fn references(lease: &Lease) -> impl Iterator<Item = &OwnerReference> {
    lease.metadata.owner_references.iter().flatten()
}

fn is_of_our_group(owner: &OwnerReference) -> bool {
    let group = DistributedLock::group(&());
    owner.api_version.split_once('/').is_some_and(|(of, _)| of == group)
}
