//! What is to be done for one resource: pure.

use kube::ResourceExt as _;
use leasehold::protocol::{Kind, Record, Write};

use super::observe::Observed;
use super::owner::{Owner, owner};
use super::resource::LeaseBacked;
use super::write;
use crate::crd::{DeletionPolicy, FINALIZER};

/// One thing to do. Each is conditional on what was observed.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Keep the resource from vanishing before its Lease is taken care of.
    AddFinalizer,
    /// Make the Lease.
    Create(Write),
    /// Adopt the Lease, or bring it in line with the spec.
    Align(Write),
    /// Leave the Lease alone, for this reason.
    Block(Blocked),
    /// Remove the Lease: nobody uses it.
    Delete(Write),
    /// Give the Lease to those who use it.
    HandOver(Write),
    /// Let neither go while the Lease is in use.
    Wait,
    /// Let the resource go.
    RemoveFinalizer,
}

/// Why a resource cannot be what it is wanted to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// The Lease belongs to somebody else, told for people.
    OwnedByOther(String),
    /// The Lease is in use as something else.
    UsedAs(Kind),
    /// The Lease cannot be read, told for people: it is of a later format.
    Unreadable(String),
}

/// What is to be done, in this order.
pub(super) fn decide<R: LeaseBacked>(seen: &Observed<R>) -> Vec<Action> {
    if seen.cr.meta().deletion_timestamp.is_some() { let_go(seen) } else { keep(seen) }
}

fn keep<R: LeaseBacked>(seen: &Observed<R>) -> Vec<Action> {
    let mut actions = Vec::new();
    if !has_finalizer(seen) {
        actions.push(Action::AddFinalizer);
    }
    if let Some(why) = &seen.unreadable {
        actions.push(Action::Block(Blocked::Unreadable(why.clone())));
        return actions;
    }
    match &seen.record {
        None => actions.push(Action::Create(write::create(&*seen.cr))),
        Some(record) => match owner(&record.lease, &*seen.cr) {
            Owner::Other(owner) => actions.push(Action::Block(Blocked::OwnedByOther(owner))),
            Owner::This | Owner::Nobody if record.kind != R::KIND && is_used(record) => {
                actions.push(Action::Block(Blocked::UsedAs(record.kind)));
            }
            Owner::This | Owner::Nobody => {
                actions.extend(write::align(record, &*seen.cr).map(Action::Align));
            }
        },
    }
    actions
}

fn let_go<R: LeaseBacked>(seen: &Observed<R>) -> Vec<Action> {
    if !has_finalizer(seen) {
        return Vec::new();
    }
    // What cannot be read is left to those who can.
    let mine = seen.record.as_ref().filter(|record| owner(&record.lease, &*seen.cr) == Owner::This);
    let mut actions = match mine {
        None => Vec::new(),
        Some(record) if !is_used(record) => vec![Action::Delete(write::delete(record))],
        // What comes next follows from what its users do.
        Some(_) if seen.cr.policy().deletion_policy == DeletionPolicy::Wait => return vec![Action::Wait],
        Some(record) => write::hand_over(record, &*seen.cr).map(Action::HandOver).into_iter().collect(),
    };
    actions.push(Action::RemoveFinalizer);
    actions
}

fn is_used(record: &Record) -> bool {
    record.is_held() || !record.waiters.is_empty()
}

fn has_finalizer<R: LeaseBacked>(seen: &Observed<R>) -> bool {
    seen.cr.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::{Value, json};

    use super::super::owner::{OWNER, note};
    use super::*;
    use crate::crd::{DistributedLock, DistributedLockSpec, Semaphore, SemaphoreSpec};

    pub(in super::super) fn lock(seconds: Option<i32>) -> DistributedLock {
        let mut lock = DistributedLock::new(
            "build",
            DistributedLockSpec { lease_duration_seconds: seconds, ..DistributedLockSpec::default() },
        );
        lock.metadata.namespace = Some("ns".to_owned());
        lock.metadata.uid = Some("lock-uid".to_owned());
        lock.metadata.generation = Some(1);
        lock
    }

    pub(in super::super) fn record(mut lease: Value) -> Record {
        let defaults = json!({ "name": "build", "namespace": "ns", "uid": "lease-uid", "resourceVersion": "9" });
        let mut meta = lease["metadata"].take();
        if meta.is_null() {
            meta = json!({});
        }
        for (key, value) in defaults.as_object().unwrap() {
            meta[key] = value.clone();
        }
        lease["metadata"] = meta;
        Record::parse(serde_json::from_value(lease).unwrap()).unwrap()
    }

    fn names(cr: impl LeaseBacked, record: Option<Record>) -> Vec<&'static str> {
        let actions = decide(&Observed::new(Arc::new(cr), record.map(Arc::new)));
        actions
            .iter()
            .map(|action| match action {
                Action::AddFinalizer => "add finalizer",
                Action::Create(_) => "create",
                Action::Align(_) => "align",
                Action::Block(_) => "block",
                Action::Delete(_) => "delete",
                Action::HandOver(_) => "hand over",
                Action::Wait => "wait",
                Action::RemoveFinalizer => "remove finalizer",
            })
            .collect()
    }

    #[test]
    fn each_situation_has_its_actions() {
        let new = || lock(None);
        let kept = || {
            let mut lock = lock(None);
            lock.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
            lock
        };
        let deleted = || {
            let mut lock = kept();
            lock.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
            lock
        };
        let patient = || {
            let mut lock = deleted();
            lock.spec.policy.deletion_policy = DeletionPolicy::Wait;
            lock
        };
        let mine = json!({ OWNER: note(&lock(None)), "leasehold.dev/format": "1" });
        let label = json!({ "leasehold.dev/kind": "lock" });
        let owned = |spec: Value| record(json!({ "metadata": { "annotations": mine, "labels": label }, "spec": spec }));
        let waited = record(json!({ "metadata": { "labels": label,
            "annotations": { "join.leasehold.dev/pod_x.1": "4", OWNER: note(&lock(None)) } }, "spec": {} }));
        let foreign = || record(json!({ "spec": { "holderIdentity": "somebody" } }));
        let taken = record(json!({ "metadata": { "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "Deployment",
            "name": "web", "uid": "u", "controller": true }] }, "spec": {} }));
        let earlier = record(json!({ "metadata": { "ownerReferences": [{ "apiVersion": "leasehold.dev/v1alpha1",
            "kind": "DistributedLock", "name": "build", "uid": "old", "controller": true }] }, "spec": {} }));
        let mut finished = deleted();
        finished.metadata.finalizers = None;

        for (what, cr, record, wanted) in [
            ("a new lock", new(), None, vec!["add finalizer", "create"]),
            ("a lock whose Lease was deleted", kept(), None, vec!["create"]),
            ("a lock as it should be", kept(), Some(owned(json!({}))), vec![]),
            ("somebody's Lease without owner", new(), Some(foreign()), vec!["add finalizer", "align"]),
            ("a Lease of an earlier resource of this name", kept(), Some(earlier), vec!["align"]),
            ("a Lease that belongs to a Deployment", kept(), Some(taken), vec!["block"]),
        ] {
            assert_eq!(names(cr, record), wanted, "{what}");
        }
        for (what, cr, record, wanted) in [
            ("deleted while free", deleted(), Some(owned(json!({}))), vec!["delete", "remove finalizer"]),
            (
                "deleted while held",
                deleted(),
                Some(owned(json!({ "holderIdentity": "x" }))),
                vec!["hand over", "remove finalizer"],
            ),
            ("deleted while waited for", deleted(), Some(waited.clone()), vec!["hand over", "remove finalizer"]),
            ("deleted while held, to wait", patient(), Some(owned(json!({ "holderIdentity": "x" }))), vec!["wait"]),
            ("deleted while waited for, to wait", patient(), Some(waited), vec!["wait"]),
            ("to wait no longer", patient(), Some(owned(json!({}))), vec!["delete", "remove finalizer"]),
            ("to wait for somebody else's", patient(), Some(foreign()), vec!["remove finalizer"]),
            ("deleted without its Lease", deleted(), None, vec!["remove finalizer"]),
            ("deleted beside a Lease of somebody else", deleted(), Some(foreign()), vec!["remove finalizer"]),
            ("deleted and let go", finished, Some(foreign()), vec![]),
        ] {
            assert_eq!(names(cr, record), wanted, "{what}");
        }
    }

    #[test]
    fn a_lease_of_a_later_format_is_left_alone_and_keeps_nobody_from_going() {
        let mut cr = lock(None);
        cr.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        let unreadable = |cr| Observed { unreadable: Some("later".to_owned()), ..Observed::new(Arc::new(cr), None) };
        let actions = decide(&unreadable(cr.clone()));
        assert!(matches!(&actions[..], [Action::Block(Blocked::Unreadable(_))]), "{actions:?}");
        cr.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
        cr.spec.policy.deletion_policy = DeletionPolicy::Wait;
        let actions = decide(&unreadable(cr));
        assert!(matches!(&actions[..], [Action::RemoveFinalizer]), "{actions:?}");
    }

    #[test]
    fn a_lease_of_another_kind_is_taken_only_when_nobody_uses_it() {
        let semaphore = || {
            let mut semaphore = Semaphore::new("build", SemaphoreSpec { permits: 3, ..SemaphoreSpec::default() });
            semaphore.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
            semaphore
        };
        let of = |kind: &str, annotations: Value, holder: &str| {
            record(json!({ "metadata": { "labels": { "leasehold.dev/kind": kind }, "annotations": annotations },
                "spec": { "holderIdentity": holder } }))
        };
        let waited = json!({ "join.leasehold.dev/pod_x.1": "4" });
        let held = json!({ "holder.leasehold.dev/pod_x.1": "4" });
        for (what, record, wanted) in [
            ("a free lock", of("lock", json!({}), ""), "align"),
            ("a held lock", of("lock", json!({}), "pod_x.1"), "block"),
            ("a lock that is waited for", of("lock", waited.clone(), ""), "block"),
            ("a semaphore in use", of("semaphore", held.clone(), "semaphore"), "align"),
            ("a read-write lock in use", of("rwlock", held, "rwlock"), "block"),
        ] {
            assert_eq!(names(semaphore(), Some(record)), [wanted], "{what}");
        }
        let mut deleted = semaphore();
        deleted.metadata.uid = Some("uid".to_owned());
        deleted.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
        let owned = |mut annotations: Value| {
            annotations[OWNER] = json!(note(&deleted));
            record(
                json!({ "metadata": { "labels": { "leasehold.dev/kind": "semaphore" }, "annotations": annotations } }),
            )
        };
        let (free, waited) = (owned(json!({})), owned(waited));
        assert_eq!(names(deleted.clone(), Some(free)), ["delete", "remove finalizer"]);
        assert_eq!(names(deleted, Some(waited)), ["hand over", "remove finalizer"]);
    }
}
