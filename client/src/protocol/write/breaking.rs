//! Breaking a hold: by a person, of a holder that may be alive.

use jiff::Timestamp;
use serde_json::json;

use super::super::record::{Broken, Holder, Record};
use super::super::{Kind, write};
use super::shared::{self, Round};
use super::{Ops, Write};

/// End a hold whatever becomes of its holder, and say on the Lease who did it, when and what for.
///
/// A lock goes to its first waiter, or is free; its Lease stays, also where it was made on the spot: the trace is on it. What
/// is shared is given back, and the first in the queue is told. Condition: as of an eviction; that very hold stands there.
#[must_use]
pub fn break_hold(record: &Record, holder: &Holder, by: &str, reason: &str, stamp: Timestamp) -> Write {
    let trace = Broken {
        by: by.to_owned(),
        at: format!("{stamp:.0}"),
        reason: reason.to_owned(),
        holder: holder.identity.clone(),
    };
    let broken = match (record.kind, record.waiters.first()) {
        (Kind::Lock, Some(first)) => write::grant(record, &first.id, &[], stamp),
        (Kind::Lock, None) => write::release(record, &[], true),
        (_, next) => shared::remove_dead(record, &Round { dead: vec![holder], next, ..Round::default() }),
    };
    match broken {
        Write::Patch(patch) => {
            let mut ops = Ops(patch.0, record.version);
            for (key, value) in trace.annotations() {
                ops.add(["metadata", "annotations", key], json!(value));
            }
            ops.write()
        }
        Write::Create(mut lease) | Write::Replace(mut lease) => {
            let annotations = lease.metadata.annotations.get_or_insert_default();
            annotations.extend(trace.annotations().into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())));
            Write::Replace(lease)
        }
        removal @ Write::Delete { .. } => removal,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::Lease;
    use serde_json::Value;

    use super::*;

    fn lock(waiters: &[&str]) -> Record {
        let mut annotations = json!({ "leasehold.dev/format": "1", "leasehold.dev/ephemeral": "true" });
        for (ticket, waiter) in waiters.iter().enumerate() {
            annotations[format!("join.leasehold.dev/{waiter}")] = json!((ticket + 2).to_string());
        }
        let lease: Lease = serde_json::from_value(json!({
            "metadata": { "name": "a", "uid": "u", "resourceVersion": "9", "annotations": annotations,
                "labels": { "leasehold.dev/kind": "lock", "holder.leasehold.dev/pod_x": "1" } },
            "spec": { "holderIdentity": "pod_x.1", "leaseTransitions": 4, "renewTime": "2026-01-01T00:00:00.000000Z" },
        }))
        .unwrap();
        Record::parse(lease).unwrap()
    }

    #[test]
    fn a_lock_goes_to_its_first_waiter_or_is_free_and_its_lease_stays() {
        let said = |lease: &Value| {
            let said = &lease["metadata"]["annotations"];
            ["broken-by", "broken-at", "break-reason", "broken-holder"]
                .map(|key| said[format!("leasehold.dev/{key}")].clone())
        };
        let wanted = ["jane", "1970-01-01T00:00:00Z", "it hangs", "pod_x.1"].map(Value::from);
        let breaks = |record: &Record| {
            break_hold(record, record.holder.as_ref().unwrap(), "jane", "it hangs", Timestamp::UNIX_EPOCH)
        };
        let Write::Replace(free) = breaks(&lock(&[])) else { panic!("it is to stay") };
        let free = serde_json::to_value(free).unwrap();
        assert_eq!((&free["spec"]["holderIdentity"], &free["spec"]["leaseTransitions"]), (&json!(""), &json!(5)));
        assert_eq!(said(&free), wanted);
        assert_eq!(free["metadata"]["resourceVersion"], "9", "as it was seen, and no other");

        let record = lock(&["pod_y.1", "pod_z.1"]);
        let Write::Patch(patch) = breaks(&record) else { panic!("others may join beside it") };
        let mut lease = serde_json::to_value(&*record.lease).unwrap();
        json_patch::patch(&mut lease, &patch).unwrap();
        assert_eq!(
            (&lease["spec"]["holderIdentity"], &lease["spec"]["leaseTransitions"]),
            (&json!("pod_y.1"), &json!(5))
        );
        assert_eq!(said(&lease), wanted);
        // Of another tenancy it is not true any more.
        let mut later = serde_json::to_value(&*record.lease).unwrap();
        later["spec"]["leaseTransitions"] = json!(5);
        assert!(json_patch::patch(&mut later, &patch).is_err());
    }
}
