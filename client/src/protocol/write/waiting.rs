//! What is said of those who wait, beside their `join` keys, and goes with these.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::record::{DEADLOCK, HOLDER, HOLDS, JOIN, Record, Waiter};
use super::super::{HolderId, Kind};
use super::{Ops, Write};

/// What else stands there of a waiter, by prefix.
const BESIDE: [&str; 2] = [HOLDS, DEADLOCK];

/// Say what a waiter's task holds elsewhere, or nothing any more. Condition: the `join` key as it was written.
#[must_use]
pub fn report(record: &Record, waiter: &Waiter, holds: &[HolderId]) -> Write {
    let mut ops = of_waiter(record, waiter);
    let key = format!("{HOLDS}{}", waiter.id);
    if holds.is_empty() {
        ops.remove_if_there(record, &key);
    } else {
        let holds: Vec<_> = holds.iter().map(ToString::to_string).collect();
        ops.add(["metadata", "annotations", &key], json!(holds.join(" ")));
    }
    ops.write()
}

/// Tell a waiter to give up, since it waits in this circle, which it shows to people. The waiter's own watch shows it.
/// Condition: the `join` key as it was written.
#[must_use]
pub fn give_up(record: &Record, waiter: &Waiter, circle: &str) -> Write {
    let mut ops = of_waiter(record, waiter);
    ops.add(["metadata", "annotations", &format!("{DEADLOCK}{}", waiter.id)], json!(circle));
    let label = format!("{HOLDER}{}", waiter.id.session);
    // If the same session holds it as well, its label tells its token, and shows the Lease to its watch already.
    let stands = record.lease.metadata.labels.as_ref().and_then(|labels| labels.get(&label));
    ops.test(["metadata", "labels", &label], json!(stands));
    if stands.is_none() {
        ops.add(["metadata", "labels", &label], json!(""));
    }
    ops.write()
}

/// Begins a command that concerns one waiter alone.
fn of_waiter(record: &Record, waiter: &Waiter) -> Ops {
    let mut ops = Ops::of(record);
    ops.test(["metadata", "uid"], json!(record.uid));
    ops.test(["metadata", "annotations", &format!("{JOIN}{}", waiter.id)], json!(waiter.ticket.to_string()));
    ops
}

/// What was said of waiters that are none any more.
fn old(annotations: Option<&BTreeMap<String, String>>) -> impl Iterator<Item = &str> {
    let all = annotations.into_iter().flat_map(|all| all.keys().map(move |key| (all, key)));
    all.filter(|(all, key)| {
        let id = BESIDE.iter().find_map(|prefix| key.strip_prefix(prefix));
        id.is_some_and(|id| !all.contains_key(&format!("{JOIN}{id}")))
    })
    .map(|(_, key)| key.as_str())
}

/// Takes out what was said of waiters that are none any more.
pub(super) fn without_old(annotations: &mut BTreeMap<String, String>) {
    let old: Vec<_> = old(Some(annotations)).map(str::to_owned).collect();
    annotations.retain(|key, _| !old.contains(key));
}

impl Ops {
    /// Removes what was said of this waiter, as far as that is known.
    pub(super) fn remove_beside_waiter(&mut self, record: &Record, id: &HolderId) {
        for prefix in BESIDE {
            self.remove_if_there(record, &format!("{prefix}{id}"));
        }
    }

    /// Removes what was said of waiters just when they were let in, or left.
    pub(super) fn remove_old_reports(&mut self, record: &Record) {
        for key in old(record.lease.metadata.annotations.as_ref()) {
            self.remove(["metadata", "annotations", key]);
        }
    }

    /// Removes the label by which a lock's waiter was told to give up. The holder's own stays.
    pub(super) fn remove_told(&mut self, record: &Record, waiter: &Waiter) {
        let session = &waiter.id.session;
        let others = record.all_ids().any(|id| id.session == *session && *id != waiter.id);
        let label = format!("{HOLDER}{session}");
        let stands = record.lease.metadata.labels.as_ref().and_then(|labels| labels.get(&label));
        if record.kind == Kind::Lock && waiter.told_to_give_up.is_some() && !others && stands.is_some() {
            self.test(["metadata", "labels", &label], Value::from(""));
            self.remove(["metadata", "labels", &label]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cancel;
    use super::*;

    #[test]
    fn nobody_is_told_who_has_left_meanwhile() {
        let lease = |waiters: &[&str]| {
            let mut annotations = json!({ "leasehold.dev/format": "1", "leasehold.dev/permits": "1",
                "holder.leasehold.dev/h_x.1": "3" });
            for (ticket, id) in waiters.iter().enumerate() {
                annotations[format!("join.leasehold.dev/{id}")] = json!((ticket + 4).to_string());
            }
            json!({ "metadata": { "name": "a", "uid": "u", "resourceVersion": "9", "annotations": annotations,
                "labels": { "leasehold.dev/kind": "semaphore" } }, "spec": { "holderIdentity": "semaphore" } })
        };
        let record = Record::parse(serde_json::from_value(lease(&["a_x.1", "b_x.1"])).unwrap()).unwrap();
        let Write::Patch(patch) = cancel(&record, &record.waiters[0]) else { panic!("it is a patch") };
        let mut as_seen = lease(&["a_x.1", "b_x.1"]);
        json_patch::patch(&mut as_seen, &patch).unwrap();
        assert_eq!(as_seen["metadata"]["labels"]["holder.leasehold.dev/b_x"], json!(""));
        let mut left = lease(&["a_x.1"]);
        assert!(json_patch::patch(&mut left, &patch).is_err(), "no label is left of who has gone: {left}");
    }
}
