//! The guarded commands of whoever has a handle of what was left on a Lease.
//!
//! What was [kept](super::keep) is nobody's session's. Whoever can name its Lease and its acquisition renews or ends it by
//! these, and nothing else: an acquisition's id is never used twice, so no command of a handle meets another's hold.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::super::record::{Holder, KEPT, LIVENESS, Record};
use super::super::{HolderId, Kind};
use super::{Ops, Term, Write, renewal, shared};

/// The hold that this acquisition has left on the Lease, if it is there still.
#[must_use]
pub fn find<'a>(record: &'a Record, id: &HolderId) -> Option<&'a Holder> {
    record.holders().find(|holder| holder.kept && holder.id.as_ref() == Some(id))
}

/// Let it stay for so long from now on, in whole seconds rounded up. Condition: the same tenancy, kept and not renewed
/// since.
///
/// So it fails where somebody has evicted it, and an eviction fails that was decided before this. A renewal that is
/// carried out late finds that another has come first.
#[must_use]
pub fn renew(record: &Record, holder: &Holder, duration: Duration, stamp: Timestamp) -> Write {
    if record.kind != Kind::Lock {
        return shared::keep(record, holder, duration, stamp);
    }
    let mut ops = Ops::of(record);
    ops.test(["metadata", "annotations", LIVENESS], json!(KEPT));
    let renewed = record.lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
    ops.test(["spec", "renewTime"], json!(renewed));
    ops.0.extend(renewal(record, Term { duration, own: true }, stamp).0);
    ops.write()
}

/// End it: hand it to who is first in the queue, or free it. Condition: the same tenancy; where nobody waits, the Lease as
/// seen.
#[must_use]
pub fn release(record: &Record, holder: &Holder, keep_lease: bool, stamp: Timestamp) -> Write {
    if record.kind != Kind::Lock {
        return shared::release(record, holder, keep_lease);
    }
    match record.waiters.first() {
        Some(first) => super::grant(record, &first.id, &[], stamp),
        None => super::release(record, &[], keep_lease),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::Lease;
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "web-0_k3j9x2m1qa.7";

    fn record(lease: Value) -> Record {
        Record::parse(serde_json::from_value::<Lease>(lease).unwrap()).unwrap()
    }

    fn lock(annotations: &Value) -> Record {
        record(json!({
            "metadata": {
                "name": "job", "uid": "u", "resourceVersion": "9", "annotations": annotations,
                "labels": {"leasehold.dev/kind": "lock"},
            },
            "spec": {
                "holderIdentity": ID, "leaseDurationSeconds": 60, "leaseTransitions": 4,
                "renewTime": "2026-01-01T00:00:00.000000Z",
            },
        }))
    }

    fn semaphore() -> Record {
        record(json!({
            "metadata": {
                "name": "db", "uid": "u", "resourceVersion": "9",
                "labels": {"leasehold.dev/kind": "semaphore"},
                "annotations": {
                    "leasehold.dev/permits": "3",
                    format!("holder.leasehold.dev/{ID}"): "5",
                    format!("want.leasehold.dev/{ID}"): "2 own=60 since=2026-01-01T00:00:00Z kept",
                },
            },
            "spec": {"holderIdentity": "semaphore", "leaseTransitions": 4},
        }))
    }

    fn kept() -> Value {
        json!({"leasehold.dev/format": "1", "leasehold.dev/liveness": "kept"})
    }

    fn id() -> HolderId {
        ID.parse().unwrap()
    }

    fn stamp() -> Timestamp {
        "2026-01-01T00:00:30Z".parse().unwrap()
    }

    /// What a patch does to a Lease, or `None` where its condition does not hold.
    fn apply(write: &Write, to: &Record) -> Option<Lease> {
        let Write::Patch(patch) = write else { panic!("{write:?}") };
        let mut lease = serde_json::to_value(&*to.lease).unwrap();
        json_patch::patch(&mut lease, patch).ok()?;
        Some(serde_json::from_value(lease).unwrap())
    }

    #[test]
    fn only_what_was_kept_is_found() {
        assert!(find(&lock(&kept()), &id()).is_some());
        assert!(find(&lock(&json!({"leasehold.dev/liveness": "own"})), &id()).is_none());
        assert!(find(&lock(&kept()), &"web-0_k3j9x2m1qa.8".parse().unwrap()).is_none());
        assert!(find(&semaphore(), &id()).is_some());
    }

    #[test]
    fn a_renewal_needs_what_was_seen() {
        let seen = lock(&kept());
        let write = renew(&seen, find(&seen, &id()).unwrap(), Duration::from_secs(90), stamp());
        let lease = apply(&write, &seen).unwrap();
        let spec = lease.spec.clone().unwrap();
        assert_eq!((spec.lease_duration_seconds, spec.lease_transitions), (Some(90), Some(4)));
        assert_eq!(spec.renew_time.unwrap().0, stamp());
        // Sent twice it is carried out once.
        let renewed = Record::parse(lease).unwrap();
        assert!(apply(&write, &renewed).is_none());
        // Another tenancy, another holder, another Lease, another way to live.
        for (pointer, value) in [
            ("/spec/leaseTransitions", json!(5)),
            ("/spec/holderIdentity", json!("web-1_k3j9x2m1qa.1")),
            ("/metadata/uid", json!("v")),
            ("/metadata/annotations/leasehold.dev~1liveness", json!("own")),
        ] {
            let mut other = serde_json::to_value(&*seen.lease).unwrap();
            *other.pointer_mut(pointer).unwrap() = value;
            assert!(apply(&write, &record(other)).is_none(), "{pointer}");
        }
    }

    #[test]
    fn a_renewed_share_is_another_for_whoever_watches_it() {
        let seen = semaphore();
        let write = renew(&seen, find(&seen, &id()).unwrap(), Duration::from_secs(90), stamp());
        let renewed = Record::parse(apply(&write, &seen).unwrap()).unwrap();
        let (before, after) = (&seen.shared[0], &renewed.shared[0]);
        assert_ne!(before.granted, after.granted);
        assert!(after.kept && after.mode == before.mode);
        assert_eq!(after.liveness, super::super::super::Liveness::Own(Duration::from_secs(90)));
        assert!(apply(&write, &renewed).is_none());
    }

    /// The label tells what the lock's token is, and in strict mode nobody may take it away while the hold stands.
    #[test]
    fn a_label_stays_as_long_as_anything_of_its_session_does() {
        let mut lease = serde_json::to_value(&*semaphore().lease).unwrap();
        let (meta, other) = (&mut lease["metadata"], "web-0_k3j9x2m1qa.8");
        meta["labels"]["holder.leasehold.dev/web-0_k3j9x2m1qa"] = json!("");
        meta["annotations"][format!("holder.leasehold.dev/{other}")] = json!("6");
        let both = record(lease);
        let other = both.holding(&other.parse().unwrap()).unwrap();
        let one = record(serde_json::to_value(apply(&shared::release(&both, other, true), &both).unwrap()).unwrap());
        assert!(find(&one, &id()).is_some() && shared::is_told(&one, &id().session), "{:?}", one.lease.metadata);
        let none = apply(&release(&one, find(&one, &id()).unwrap(), true, stamp()), &one).unwrap();
        assert!(!shared::is_told(&record(serde_json::to_value(none).unwrap()), &id().session));
    }

    #[test]
    fn a_release_goes_to_the_first_in_the_queue_or_frees() {
        let free = lock(&kept());
        let write = release(&free, free.holder.as_ref().unwrap(), false, stamp());
        let Write::Replace(lease) = write else { panic!("{write:?}") };
        assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some(""));
        assert_eq!(lease.metadata.resource_version.as_deref(), Some("9"));

        let ephemeral = lock(&json!({"leasehold.dev/liveness": "kept", "leasehold.dev/ephemeral": "true"}));
        let write = release(&ephemeral, ephemeral.holder.as_ref().unwrap(), false, stamp());
        assert!(matches!(write, Write::Delete { .. }));

        let mut annotations = kept();
        annotations["join.leasehold.dev/web-2_zz00000001.3"] = json!("8");
        annotations["join.leasehold.dev/web-1_zz00000002.1"] = json!("7");
        let queue = lock(&annotations);
        let write = release(&queue, queue.holder.as_ref().unwrap(), false, stamp());
        let lease = apply(&write, &queue).unwrap();
        assert_eq!(lease.spec.as_ref().unwrap().holder_identity.as_deref(), Some("web-1_zz00000002.1"));
        assert_eq!(lease.spec.as_ref().unwrap().lease_transitions, Some(5));
        assert!(!lease.metadata.annotations.unwrap().contains_key(LIVENESS));

        let share = semaphore();
        let write = release(&share, find(&share, &id()).unwrap(), true, stamp());
        assert!(Record::parse(apply(&write, &share).unwrap()).unwrap().shared.is_empty());
    }
}
