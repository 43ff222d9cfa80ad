//! What is said of those who wait, beside their `join` keys, and goes with these.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::record::queue::Queue;
use super::super::record::{DEADLOCK, HOLDER, HOLDS, JOIN, Record, WANT, Waiter};
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
    let queue = folded(record);
    match queue.key.filter(|_| queue.has(&waiter.id)) {
        Some(key) => ops.test(["metadata", "annotations", key], json!(queue.text)),
        None => {
            ops.test(["metadata", "annotations", &format!("{JOIN}{}", waiter.id)], json!(waiter.ticket.to_string()));
        }
    }
    ops
}

/// What of the queue is folded.
fn folded(record: &Record) -> Queue<'_> {
    let annotations = record.lease.metadata.annotations.as_ref().filter(|_| record.kind == Kind::Lock);
    annotations.map(Queue::of).unwrap_or_default()
}

/// Of a lock's queue, who has a key of its own and can do without; nobody if there are fewer than so many. It is not
/// for this one, and not for those.
pub(super) fn foldable<'a>(record: &'a Record, to: &HolderId, gone: &[&Waiter], least: usize) -> Vec<&'a Waiter> {
    let has_key = |id: &HolderId| {
        record.lease.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(&format!("{JOIN}{id}")))
    };
    let queue = folded(record);
    let stays = |waiter: &&Waiter| waiter.id != *to && !gone.iter().any(|gone| gone.id == waiter.id);
    let keys: Vec<_> =
        record.waiters.iter().filter(stays).filter(|waiter| !queue.has(&waiter.id) && has_key(&waiter.id)).collect();
    if record.kind == Kind::Lock && keys.len() >= least { keys } else { Vec::new() }
}

/// Takes out those waiters, and all that is said of them.
pub(super) fn without(record: &Record, annotations: &mut BTreeMap<String, String>, gone: &[&Waiter]) {
    for waiter in gone {
        for prefix in [JOIN, WANT] {
            annotations.remove(&format!("{prefix}{}", waiter.id));
        }
    }
    let queue = folded(record);
    if let Some(key) = queue.key.filter(|_| gone.iter().any(|waiter| queue.has(&waiter.id))) {
        annotations.remove(key);
        annotations.extend(queue.changed(gone, &[], record.version));
    }
    let old: Vec<_> = old(Some(annotations)).map(str::to_owned).collect();
    annotations.retain(|key, _| !old.contains(key));
}

/// What was said of waiters that are none any more.
fn old(annotations: Option<&BTreeMap<String, String>>) -> impl Iterator<Item = &str> {
    let queue = annotations.map(Queue::of).unwrap_or_default();
    let waits = move |all: &BTreeMap<String, String>, id: &str| {
        all.contains_key(&format!("{JOIN}{id}")) || id.parse().is_ok_and(|id| queue.has(&id))
    };
    let all = annotations.into_iter().flat_map(|all| all.keys().map(move |key| (all, key)));
    all.filter(move |(all, key)| {
        let id = BESIDE.iter().find_map(|prefix| key.strip_prefix(prefix));
        id.is_some_and(|id| !waits(all, id))
    })
    .map(|(_, key)| key.as_str())
}

impl Ops {
    /// Removes waiters, and folds the keys of others. Condition: all of them wait as seen.
    pub(super) fn remove_waiters(&mut self, record: &Record, gone: &[&Waiter], fold: &[&Waiter]) {
        let annotations = record.lease.metadata.annotations.as_ref();
        let queue = folded(record);
        for waiter in gone.iter().chain(fold) {
            let key = format!("{JOIN}{}", waiter.id);
            // One that is folded has a key as well where its join was carried out twice.
            if let Some(ticket) = annotations.and_then(|annotations| annotations.get(&key)) {
                self.test(["metadata", "annotations", &key], json!(ticket));
                self.remove(["metadata", "annotations", &key]);
            }
        }
        for waiter in gone {
            self.remove_if_there(record, &format!("{WANT}{}", waiter.id));
            self.remove_beside_waiter(record, &waiter.id);
        }
        if fold.is_empty() && !gone.iter().any(|waiter| queue.has(&waiter.id)) {
            return;
        }
        if let Some(key) = queue.key {
            self.remove(["metadata", "annotations", key]);
        }
        if let Some((key, value)) = queue.changed(gone, fold, record.version) {
            self.add(["metadata", "annotations", &key], json!(value));
        }
    }

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
