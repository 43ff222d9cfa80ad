//! The operator's own writes to a lock's Lease. None of them touches holder or queue: whoever holds, waits or joins
//! goes on beside them.

use json_patch::{Patch, jsonptr::PointerBuf};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use leasehold::protocol::policy::{
    ALLOWED, BREAK_YOUNGEST, EXPIRY, LOCK_DELAY, MAX_DURATION, MAX_HOLD, MAX_WAITERS, MIN_DURATION, NEVER, ON_DEADLOCK,
    RECLAIM,
};
use leasehold::protocol::record::{DEFAULT_DURATION, EPHEMERAL, EVICT_ON_REQUEST, FORMAT, FORMAT_1, KIND, PERMITS};
use leasehold::protocol::write::can_be_tested;
use leasehold::protocol::{Kind, Record, Write};
use serde_json::{Value, json};

use super::owner::{OWNER, note, without_ours};
use super::resource::LeaseBacked;
use crate::crd::{Deadlocks, Reclaim, ReleaseRequests, Subject};

/// The Lease of a resource that nobody holds. Condition: there is none.
pub(super) fn create<R: LeaseBacked>(cr: &R) -> Write {
    let mut annotations = vec![(FORMAT.to_owned(), FORMAT_1.to_owned())];
    annotations.push((OWNER.to_owned(), note(cr)));
    annotations.extend(wanted(cr).into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    Write::Create(Box::new(Lease {
        metadata: ObjectMeta {
            name: cr.meta().name.clone(),
            labels: Some([(KIND.to_owned(), R::KIND.name().to_owned())].into()),
            annotations: Some(annotations.into_iter().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(nobody(R::KIND).to_owned()),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        }),
    }))
}

/// Makes a Lease the one of this resource: owner, kind, what the spec wants, and no longer made on the spot.
///
/// Where the permits become more, nobody is let in with it: the first in the queue sees it by its watch and goes ahead,
/// and should it not, the warden does that. So there is one way in for all, and this write touches neither holders nor
/// queue. Where they become less, nothing is taken away, and no command that still counts on more can succeed: whatever
/// lets somebody in tests the number of permits.
///
/// Condition: the same Lease, and what is changed as it was seen. A Lease that was of another kind:
/// as seen, that is used by nobody. `None`: it is so already.
pub(super) fn align<R: LeaseBacked>(record: &Record, cr: &R) -> Option<Write> {
    let mut ops = Ops::on(record);
    ops.remove_references(cr);
    if ops.annotation(OWNER) != Some(&*note(cr)) {
        ops.set("annotations", OWNER, &note(cr));
    }
    if ops.label(KIND) != Some(R::KIND.name()) {
        ops.set("labels", KIND, R::KIND.name());
    }
    if record.kind != R::KIND {
        ops.turn_into(R::KIND);
    }
    if let Some(value) = ops.annotation(EPHEMERAL).map(str::to_owned) {
        ops.remove_annotation(EPHEMERAL, &value);
    }
    for (key, want) in wanted(cr) {
        match (ops.annotation(key).map(str::to_owned), want) {
            (have, Some(want)) if have.as_ref() != Some(&want) => ops.set("annotations", key, &want),
            (Some(have), None) => ops.remove_annotation(key, &have),
            _ => {}
        }
    }
    ops.finish()
}

/// Hands the Lease over to those who use it: nobody owns it any more, and the last release removes it.
///
/// Condition: the same Lease, and what is changed as it was seen.
pub(super) fn hand_over(record: &Record, cr: &impl LeaseBacked) -> Option<Write> {
    // A semaphore keeps its permits: without them it would be none. And what a dead holder had, for which others were to
    // wait, is not given away since somebody deletes the resource.
    const KEPT: [&str; 3] = [PERMITS, RECLAIM, LOCK_DELAY];
    let mut ops = Ops::on(record);
    ops.remove_references(cr);
    ops.set("annotations", EPHEMERAL, "true");
    let policy = wanted(cr).into_iter().map(|(key, _)| key).filter(|key| !KEPT.contains(key));
    for key in policy.chain([OWNER]) {
        if let Some(value) = ops.annotation(key).map(str::to_owned) {
            ops.remove_annotation(key, &value);
        }
    }
    ops.finish()
}

/// Removes the Lease. Condition: as it was seen, that is free and without waiters.
pub(super) fn delete(record: &Record) -> Write {
    Write::Delete { uid: record.uid.clone(), version: record.version }
}

/// The annotations that follow from a spec.
fn wanted(cr: &impl LeaseBacked) -> [(&'static str, Option<String>); 11] {
    let policy = cr.policy();
    let text = |number: i32| number.to_string();
    let said = |said: bool, value: &str| said.then(|| value.to_owned());
    let lines = |subjects: &Vec<Subject>| subjects.iter().map(Subject::line).collect::<Vec<_>>().join("\n");
    [
        (DEFAULT_DURATION, cr.default_duration().map(text)),
        (PERMITS, cr.permits().map(text)),
        (EVICT_ON_REQUEST, said(policy.release_requests == ReleaseRequests::Evict, "true")),
        (MIN_DURATION, policy.min_lease_duration_seconds.map(text)),
        (MAX_DURATION, policy.max_lease_duration_seconds.map(text)),
        (MAX_HOLD, policy.max_hold_seconds.map(text)),
        (LOCK_DELAY, Some(policy.lock_delay_seconds).filter(|seconds| *seconds > 0).map(text)),
        (MAX_WAITERS, policy.max_waiters.map(text)),
        (
            RECLAIM,
            match policy.reclaim {
                Reclaim::Evidence => None,
                Reclaim::Expiry => Some(EXPIRY.to_owned()),
                Reclaim::Never => Some(NEVER.to_owned()),
            },
        ),
        (ON_DEADLOCK, said(policy.deadlocks == Deadlocks::BreakYoungest, BREAK_YOUNGEST)),
        (ALLOWED, policy.allowed_subjects.as_ref().map(lines)),
    ]
}

/// What stands for the holder where there is none.
fn nobody(kind: Kind) -> &'static str {
    match kind {
        Kind::Lock => "",
        _ => kind.name(),
    }
}

/// A JSON Patch on a Lease, with the Lease's uid as its condition.
struct Ops<'a> {
    lease: &'a Lease,
    tests: Vec<Value>,
    changes: Vec<Value>,
    /// Maps that this patch has made.
    made: Vec<&'static str>,
}

impl<'a> Ops<'a> {
    fn on(record: &'a Record) -> Self {
        let uid = json!({ "op": "test", "path": "/metadata/uid", "value": record.uid });
        Self { lease: &record.lease, tests: vec![uid], changes: Vec::new(), made: Vec::new() }
    }

    fn label(&self, key: &str) -> Option<&'a str> {
        self.lease.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    fn annotation(&self, key: &str) -> Option<&'a str> {
        self.lease.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// Removes what earlier versions wrote among the owners.
    fn remove_references(&mut self, cr: &impl LeaseBacked) {
        let Some(stay) = without_ours(self.lease, cr) else { return };
        let path = "/metadata/ownerReferences";
        self.tests.push(json!({ "op": "test", "path": path, "value": self.lease.metadata.owner_references }));
        self.changes.push(if stay.is_empty() {
            json!({ "op": "remove", "path": path })
        } else {
            json!({ "op": "replace", "path": path, "value": stay })
        });
    }

    /// Sets a label or an annotation that is as it was seen. A Lease of foreign make may lack the map.
    fn set(&mut self, map: &'static str, key: &str, value: &str) {
        let meta = &self.lease.metadata;
        let there = if map == "labels" { &meta.labels } else { &meta.annotations };
        if let Some(there) = there.as_ref().filter(|there| !there.is_empty()) {
            let seen = there.get(key).map(String::as_str);
            self.test(&pointer(["metadata", map, key]), seen);
        } else if !self.made.contains(&map) {
            self.made.push(map);
            let path = pointer(["metadata", map]);
            self.tests.push(json!({ "op": "test", "path": path, "value": null }));
            self.changes.push(json!({ "op": "add", "path": path, "value": {} }));
        }
        self.changes.push(json!({ "op": "add", "path": pointer(["metadata", map, key]), "value": value }));
    }

    /// Makes it one of this kind that nobody holds. Condition: the Lease as seen.
    fn turn_into(&mut self, kind: Kind) {
        self.test_version();
        if self.lease.spec.is_none() {
            self.changes.push(json!({ "op": "add", "path": "/spec", "value": {} }));
        }
        self.changes.push(json!({ "op": "add", "path": "/spec/holderIdentity", "value": nobody(kind) }));
    }

    fn remove_annotation(&mut self, key: &str, value: &str) {
        let path = pointer(["metadata", "annotations", key]);
        self.test(&path, Some(value));
        self.changes.push(json!({ "op": "remove", "path": path }));
    }

    /// Condition: what stands there is this, or, where that cannot be tested, the Lease as seen.
    fn test(&mut self, path: &str, seen: Option<&str>) {
        if seen.is_none_or(can_be_tested) {
            self.tests.push(json!({ "op": "test", "path": path, "value": seen }));
        } else {
            self.test_version();
        }
    }

    fn test_version(&mut self) {
        let version = &self.lease.metadata.resource_version;
        self.tests.push(json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version }));
    }

    /// The patch, if it changes anything. With it goes what every write of ours does to a Lease of foreign make: the
    /// format's version, and an end to tracking which field is whose, which makes every later write cheaper.
    fn finish(mut self) -> Option<Write> {
        if self.changes.is_empty() {
            return None;
        }
        if self.annotation(FORMAT).is_none() {
            self.set("annotations", FORMAT, FORMAT_1);
        }
        if self.lease.metadata.managed_fields.as_ref().is_some_and(|fields| !fields.is_empty()) {
            self.changes.push(json!({ "op": "add", "path": "/metadata/managedFields", "value": [{}] }));
        }
        self.tests.append(&mut self.changes);
        let patch: Patch =
            serde_json::from_value(Value::Array(self.tests)).expect("these are operations of JSON Patch");
        Some(Write::Patch(patch))
    }
}

fn pointer<const N: usize>(path: [&str; N]) -> String {
    PointerBuf::from_tokens(path).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::decide::tests::{lock, record};
    use super::super::owner::{Owner, is_owned, owner};
    use super::*;
    use crate::crd::{Semaphore, SemaphoreSpec};

    /// What a patch makes of a Lease, as the API server would: all or nothing.
    fn patched(lease: &Lease, write: &Write) -> Result<Lease, json_patch::PatchError> {
        let Write::Patch(patch) = write else { panic!("{write:?} is no patch") };
        // A field that is not there is tested as null by the API server; json-patch calls it an error.
        let (tests, changes): (Vec<_>, Vec<_>) = patch
            .iter()
            .cloned()
            .partition(|op| matches!(op, json_patch::PatchOperation::Test(test) if test.value.is_null()));
        let mut json = serde_json::to_value(lease).unwrap();
        for test in tests {
            assert!(json.pointer(test.path().as_ref()).is_none_or(Value::is_null), "{test:?}");
        }
        json_patch::patch(&mut json, &changes)?;
        Ok(serde_json::from_value(json).unwrap())
    }

    #[test]
    fn a_bare_lease_is_adopted_without_touching_its_spec() {
        let bare = record(json!({ "spec": { "holderIdentity": "someone", "leaseDurationSeconds": 15 } }));
        let write = align(&bare, &lock(Some(20))).unwrap();
        let lease = patched(&bare.lease, &write).unwrap();
        assert_eq!(lease.spec, bare.lease.spec);
        let after = Record::parse(lease).unwrap();
        assert_eq!(after.default_duration, Some(std::time::Duration::from_secs(20)));
        assert_eq!(owner(&after.lease, &lock(None)), Owner::This);
        assert!(align(&after, &lock(Some(20))).is_none(), "nothing is left to do");
    }

    #[test]
    fn drift_is_corrected_and_an_unset_duration_removed() {
        let Write::Create(lease) = create(&lock(Some(20))) else { panic!() };
        let free = record(serde_json::to_value(&lease).unwrap());
        assert!(align(&free, &lock(Some(20))).is_none());
        let shorter = patched(&free.lease, &align(&free, &lock(Some(7))).unwrap()).unwrap();
        assert_eq!(shorter.metadata.annotations.unwrap()[DEFAULT_DURATION], "7");
        let unset = patched(&free.lease, &align(&free, &lock(None)).unwrap()).unwrap();
        assert!(!unset.metadata.annotations.unwrap().contains_key(DEFAULT_DURATION));
    }

    #[test]
    fn a_lease_that_is_handed_over_keeps_its_users_and_loses_its_owner() {
        let Write::Create(lease) = create(&lock(Some(20))) else { panic!() };
        let mut json = serde_json::to_value(&lease).unwrap();
        json["metadata"]["annotations"]["join.leasehold.dev/pod_x.1"] = json!("7");
        json["spec"]["holderIdentity"] = json!("pod_x.2");
        let held = record(json);
        let after = Record::parse(patched(&held.lease, &hand_over(&held, &lock(Some(20))).unwrap()).unwrap()).unwrap();
        assert!(after.ephemeral && after.default_duration.is_none() && !is_owned(&after));
        assert_eq!((&after.holder, &after.waiters), (&held.holder, &held.waiters));
    }

    #[test]
    fn a_lease_that_is_handed_over_keeps_what_protects_from_a_dead_holder() {
        let mut cr = lock(Some(20));
        cr.spec.policy.reclaim = Reclaim::Never;
        cr.spec.policy.lock_delay_seconds = 15;
        cr.spec.policy.max_waiters = Some(3);
        let Write::Create(lease) = create(&cr) else { panic!() };
        let mut json = serde_json::to_value(&lease).unwrap();
        json["spec"]["holderIdentity"] = json!("pod_x.2");
        let held = record(json);
        let after = Record::parse(patched(&held.lease, &hand_over(&held, &cr).unwrap()).unwrap()).unwrap();
        assert_eq!((after.policy.reclaim, after.policy.lock_delay.as_secs()), (held.policy.reclaim, 15));
        assert_eq!((held.policy.max_waiters, after.policy.max_waiters), (Some(3), None));
    }

    /// The collector of garbage would delete what names its owner there.
    #[test]
    fn what_earlier_versions_wrote_among_the_owners_is_replaced() {
        let Write::Create(made) = create(&lock(None)) else { panic!() };
        assert_eq!(made.metadata.owner_references, None);
        assert_eq!(made.metadata.annotations.as_ref().unwrap()[OWNER], "DistributedLock/build/lock-uid");
        let reference = |kind: &str, uid: &str| json!({ "apiVersion": "leasehold.dev/v1alpha1", "kind": kind, "name": "build", "uid": uid, "controller": true });
        let beside = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "build", "uid": "c" });
        for (what, owners, stay) in [
            ("ours", json!([reference("DistributedLock", "lock-uid")]), None),
            ("an earlier one's", json!([reference("DistributedLock", "old")]), None),
            ("ours beside another", json!([beside, reference("DistributedLock", "lock-uid")]), Some(json!([beside]))),
        ] {
            let mut json = serde_json::to_value(&made).unwrap();
            json["metadata"]["ownerReferences"] = owners;
            json["metadata"]["annotations"].as_object_mut().unwrap().remove(OWNER);
            let old = record(json);
            assert!(is_owned(&old), "{what}");
            let after =
                record(serde_json::to_value(patched(&old.lease, &align(&old, &lock(None)).unwrap()).unwrap()).unwrap());
            assert_eq!(serde_json::to_value(&after.lease.metadata.owner_references).unwrap(), json!(stay), "{what}");
            assert_eq!(owner(&after.lease, &lock(None)), Owner::This, "{what}");
            assert!(align(&after, &lock(None)).is_none(), "{what}");
            let handed = patched(&old.lease, &hand_over(&old, &lock(None)).unwrap()).unwrap();
            assert_eq!(serde_json::to_value(&handed.metadata.owner_references).unwrap(), json!(stay), "{what}");
        }
        let other = |owners: Value| {
            let mut json = serde_json::to_value(&made).unwrap();
            json["metadata"]["ownerReferences"] = owners;
            owner(&record(json).lease, &lock(None))
        };
        let pod = json!([{ "apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "p", "controller": true }]);
        assert_eq!(other(pod), Owner::Other("Pod web".to_owned()));
        assert_eq!(owner(&made, &semaphore(1)), Owner::Other("DistributedLock build".to_owned()));
    }

    fn semaphore(permits: i32) -> Semaphore {
        let mut semaphore = Semaphore::new("build", SemaphoreSpec { permits, ..SemaphoreSpec::default() });
        semaphore.metadata.uid = Some("semaphore-uid".to_owned());
        semaphore
    }

    #[test]
    fn permits_are_changed_only_from_what_was_seen_and_nobody_is_touched() {
        let Write::Create(lease) = create(&semaphore(2)) else { panic!() };
        let mut json = serde_json::to_value(&lease).unwrap();
        json["metadata"]["annotations"]["holder.leasehold.dev/pod_x.1"] = json!("4");
        json["metadata"]["annotations"]["join.leasehold.dev/pod_y.1"] = json!("7");
        let held = record(json);
        assert_eq!((held.kind, held.capacity), (Kind::Semaphore, 2));
        assert!(align(&held, &semaphore(2)).is_none());
        let write = align(&held, &semaphore(0)).unwrap();
        let after = Record::parse(patched(&held.lease, &write).unwrap()).unwrap();
        assert_eq!((after.capacity, after.transitions), (0, held.transitions));
        assert_eq!((&after.shared, &after.waiters), (&held.shared, &held.waiters));
        let other = patched(&held.lease, &align(&held, &semaphore(5)).unwrap()).unwrap();
        patched(&other, &write).expect_err("somebody else has written them since");
    }

    #[test]
    fn an_unused_lease_of_another_kind_is_turned_into_what_is_wanted_as_it_was_seen() {
        let Write::Create(lease) = create(&lock(None)) else { panic!() };
        let mut json = serde_json::to_value(&lease).unwrap();
        json["metadata"]["annotations"].as_object_mut().unwrap().remove(OWNER);
        let free = record(json);
        let write = align(&free, &semaphore(3)).unwrap();
        let after = Record::parse(patched(&free.lease, &write).unwrap()).unwrap();
        assert_eq!((after.kind, after.capacity, after.is_held()), (Kind::Semaphore, 3, false));
        let mut joined = (*free.lease).clone();
        joined.metadata.resource_version = Some("10".to_owned());
        patched(&joined, &write).expect_err("somebody has joined since");

        let mut back = (*after.lease).clone();
        back.metadata.annotations.as_mut().unwrap().remove(OWNER);
        let back = Record::parse(back).unwrap();
        let again = Record::parse(patched(&back.lease, &align(&back, &lock(None)).unwrap()).unwrap()).unwrap();
        assert_eq!((again.kind, again.is_held(), again.capacity), (Kind::Lock, false, 1));
        assert!(!again.lease.metadata.annotations.as_ref().unwrap().contains_key(PERMITS));
    }
}
