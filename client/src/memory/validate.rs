//! What a Lease may look like.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::response::StatusCause;

use super::status::{Refused, cause, invalid};

/// The most that keys and values of annotations may have together, in bytes.
const ANNOTATIONS_MAX: usize = 256 * 1024;
const NAME_MAX: usize = 253;
const PART_MAX: usize = 63;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// A Lease that is to be created. Its name has been generated.
pub(super) fn new(lease: &Lease) -> Result<(), Refused> {
    let meta = &lease.metadata;
    let mut causes = common(lease);
    if let Some(prefix) = &meta.generate_name
        && !is_subdomain(&masked(prefix))
    {
        causes.push(cause("metadata.generateName", "not the beginning of a DNS subdomain"));
    }
    match &meta.name {
        None => causes.push(cause("metadata.name", "name or generateName is required")),
        Some(name) if !is_subdomain(name) => causes.push(cause("metadata.name", "not a DNS subdomain")),
        Some(_) => {}
    }
    result(meta, causes)
}

/// A Lease that is to take the place of `old`.
pub(super) fn update(lease: &Lease, old: &Lease) -> Result<(), Refused> {
    let (meta, before) = (&lease.metadata, &old.metadata);
    let mut causes = common(lease);
    if before.deletion_timestamp.is_some() {
        let known = before.finalizers.as_deref().unwrap_or_default();
        if meta.finalizers.iter().flatten().any(|finalizer| !known.contains(finalizer)) {
            causes.push(cause("metadata.finalizers", "none can be added while the object is being deleted"));
        }
    }
    let immutable = [
        ("metadata.name", meta.name == before.name),
        ("metadata.uid", meta.uid == before.uid),
        ("metadata.deletionTimestamp", meta.deletion_timestamp == before.deletion_timestamp),
        (
            "metadata.deletionGracePeriodSeconds",
            meta.deletion_grace_period_seconds == before.deletion_grace_period_seconds,
        ),
    ];
    causes.extend(immutable.iter().filter(|(_, same)| !same).map(|(field, _)| cause(field, "field is immutable")));
    result(meta, causes)
}

fn result(meta: &ObjectMeta, causes: Vec<StatusCause>) -> Result<(), Refused> {
    if causes.is_empty() { Ok(()) } else { Err(invalid(meta.name.as_deref().unwrap_or_default(), causes)) }
}

fn common(lease: &Lease) -> Vec<StatusCause> {
    let meta = &lease.metadata;
    let mut causes = Vec::new();
    if meta.generation.is_some_and(|generation| generation < 0) {
        causes.push(cause("metadata.generation", "must be greater than or equal to 0"));
    }
    for (key, value) in meta.labels.iter().flatten() {
        if !is_qualified(key) {
            causes.push(cause("metadata.labels", format!("{key:?} is not a valid key")));
        }
        if !value.is_empty() && !is_part(value) {
            causes.push(cause("metadata.labels", format!("{value:?} is not a valid value")));
        }
    }
    let mut size = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        size += key.len() + value.len();
        if !is_qualified(&key.to_lowercase()) {
            causes.push(cause("metadata.annotations", format!("{key:?} is not a valid key")));
        }
    }
    if size > ANNOTATIONS_MAX {
        causes.push(cause("metadata.annotations", format!("may not be more than {ANNOTATIONS_MAX} bytes")));
    }
    owners(meta.owner_references.as_deref().unwrap_or_default(), &mut causes);
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    for finalizer in finalizers.iter().filter(|finalizer| !is_qualified(finalizer)) {
        causes.push(cause("metadata.finalizers", format!("{finalizer:?} is not a valid name")));
    }
    if [ORPHAN, FOREGROUND].iter().all(|both| finalizers.iter().any(|finalizer| finalizer == both)) {
        causes.push(cause("metadata.finalizers", format!("{ORPHAN} and {FOREGROUND} cannot be both set")));
    }
    if let Some(spec) = &lease.spec {
        of_spec(spec, &mut causes);
    }
    causes
}

fn owners(owners: &[OwnerReference], causes: &mut Vec<StatusCause>) {
    const FIELD: &str = "metadata.ownerReferences";
    for owner in owners {
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        if [version, &owner.kind, &owner.name, &owner.uid].iter().any(|field| field.is_empty()) {
            causes.push(cause(FIELD, "apiVersion, kind, name and uid must not be empty"));
        }
        if (group, version, owner.kind.as_str()) == ("", "v1", "Event") {
            causes.push(cause(FIELD, "an Event is disallowed from being an owner"));
        }
    }
    if owners.iter().filter(|owner| owner.controller == Some(true)).count() > 1 {
        causes.push(cause(FIELD, "only one reference can have controller set to true"));
    }
}

fn of_spec(spec: &LeaseSpec, causes: &mut Vec<StatusCause>) {
    if spec.lease_duration_seconds.is_some_and(|seconds| seconds <= 0) {
        causes.push(cause("spec.leaseDurationSeconds", "must be greater than 0"));
    }
    if spec.lease_transitions.is_some_and(|transitions| transitions < 0) {
        causes.push(cause("spec.leaseTransitions", "must be greater than or equal to 0"));
    }
}

/// Parts of lower-case letters, digits and `-` with dots between them.
fn is_subdomain(name: &str) -> bool {
    let part = |part: &str| {
        let inner = part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        inner && !part.is_empty() && !part.starts_with('-') && !part.ends_with('-')
    };
    name.len() <= NAME_MAX && name.split('.').all(part)
}

/// The beginning of a name as it is looked at: a `-` at its end is followed by something.
fn masked(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        // Two characters go and one comes: that is how it is done there.
        Some(rest) if !rest.is_empty() => {
            let mut rest: String = rest.to_owned();
            rest.pop();
            rest + "a"
        }
        _ => prefix.to_owned(),
    }
}

/// The key of a label or annotation, the name of a finalizer: perhaps a DNS subdomain with a slash, then a name.
pub(super) fn is_qualified(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_part(name),
        None => is_part(key),
    }
}

/// A name as it stands in keys and in the values of labels.
pub(super) fn is_part(text: &str) -> bool {
    let inner = text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
    let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= PART_MAX && inner && ends(text.bytes().next()) && ends(text.bytes().last())
}
