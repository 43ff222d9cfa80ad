//! Patches, sound and unsound.

use serde_json::{Value, json};

use crate::chance::Chance;
use crate::lease::{HOLDERS, annotations, finalizers, labels, micro_time, odd_metadata, spec};

const JOIN: &str = "/metadata/annotations/join.leasehold.dev~1h_x.1";

fn test(chance: &mut Chance) -> Value {
    let (path, value) = match chance.below(22) {
        0..=3 => ("/metadata/uid", json!("$uid")),
        4 => ("/metadata/uid", json!("$uid-1")),
        5 | 6 => ("/metadata/resourceVersion", json!("$version")),
        7 => ("/metadata/resourceVersion", json!("$version-1")),
        8 | 9 => (JOIN, json!(null)),
        10 => (JOIN, json!("$version-1")),
        11 => ("/metadata/annotations", json!(null)),
        12 => ("/metadata/labels/k", json!(chance.one(&["1", "2"]))),
        13 | 14 => ("/spec/holderIdentity", json!(chance.one(&HOLDERS))),
        15 => ("/spec/leaseTransitions", json!(chance.below(3))),
        16 => ("/spec/leaseTransitions", json!(1.0)),
        17 => ("/nowhere/at/all", json!(null)),
        18 => ("/metadata/labels", json!({ "n": "7", "k": "1" })),
        19 => ("/metadata/finalizers/0", json!("x.dev/f")),
        20 => ("/metadata/finalizers/-1", json!("x.dev/g")),
        _ => ("/metadata/annotations/x", json!(chance.one(&["y", "y & z"]))),
    };
    json!({ "op": "test", "path": path, "value": value })
}

fn copy_or_move(chance: &mut Chance) -> Value {
    let targets =
        [JOIN, "/metadata/labels/holder.leasehold.dev~1h_x", "/metadata/annotations/x", "/spec/holderIdentity"];
    let (from, path) = match chance.below(12) {
        0..=4 => ("/metadata/resourceVersion", chance.one(&targets)),
        5 => ("/metadata/annotations/absent", chance.one(&targets)),
        6 => ("/spec/holderIdentity", "/metadata/annotations/x"),
        7 => ("/metadata/annotations", "/metadata/labels"),
        8 => ("/spec/renewTime", "/spec/acquireTime"),
        9 => ("/metadata/finalizers/0", "/metadata/finalizers/-"),
        10 => ("/metadata/labels/k", "/metadata/annotations/x"),
        _ => ("/nowhere/at/all", "/metadata/annotations/x"),
    };
    json!({ "op": chance.one(&["copy", "copy", "copy", "move"]), "from": from, "path": path })
}

fn change(chance: &mut Chance) -> Value {
    let op = chance.one(&["add", "add", "add", "replace", "remove"]);
    let (path, value) = match chance.below(22) {
        0 | 1 => ("/metadata/annotations/x", json!(chance.one(&["y", "y & z", "<"]))),
        2 => ("/metadata/labels/k", json!(chance.one(&["1", "2", "not good!"]))),
        3 => ("/metadata/annotations", annotations(chance)),
        4 => ("/metadata/labels", labels(chance)),
        5 => ("/metadata/finalizers", finalizers(chance)),
        6 => ("/metadata/finalizers/-", json!("x.dev/g")),
        7 => ("/metadata/finalizers/0", json!("x.dev/h")),
        8 => ("/metadata/finalizers/-1", json!("x.dev/i")),
        9 => ("/metadata/finalizers/5", json!("x.dev/j")),
        10 => ("/spec/holderIdentity", json!(chance.one(&HOLDERS))),
        11 => ("/spec/leaseTransitions", json!(chance.pick(&[0, 1, 2, -1]))),
        12 => ("/spec/leaseDurationSeconds", chance.pick(&[json!(15), json!(0), json!("15"), json!(null)])),
        13 => ("/spec/renewTime", micro_time(chance)),
        14 => ("/metadata/annotations/~01", json!("x")),
        15 => (JOIN, json!("$version-1")),
        16 => ("/spec/unknown", json!({})),
        17 => ("/metadata/labels/absent", json!("1")),
        _ => ("/spec/acquireTime", micro_time(chance)),
    };
    json!({ "op": op, "path": path, "value": value })
}

fn odd(chance: &mut Chance) -> Value {
    match chance.below(22) {
        0 | 1 => json!({ "op": "add", "path": "nowhere/kind", "value": "Lease" }),
        2 => json!({ "op": "increase", "path": "/spec/leaseTransitions" }),
        3 => json!({ "op": "add" }),
        4 => json!({ "op": 1, "path": "/spec" }),
        5 => {
            json!({ "op": "remove", "path": chance.one(&["/metadata", "/spec", "/kind", "/metadata/name", "/metadata/uid"]) })
        }
        6 => {
            json!({ "op": "remove", "path": chance.one(&["/metadata/resourceVersion", "/metadata/creationTimestamp"]) })
        }
        7 => json!({ "op": "replace", "path": "/kind", "value": "Pod" }),
        8 => json!({ "op": "replace", "path": "/apiVersion", "value": "v1" }),
        9 => json!({ "op": "replace", "path": "/metadata/name", "value": "other" }),
        10 => json!({ "op": "add", "path": "/metadata/managedFields", "value": [{}] }),
        11 => json!({ "op": "test", "path": "/metadata/annotations/x" }),
        12 => json!({ "op": "add", "path": "/metadata/annotations/x" }),
        13 => json!({ "op": "replace", "path": "/metadata/uid", "value": "$uid-1" }),
        14 => json!({ "op": "replace", "path": "/metadata/resourceVersion", "value": "$version-1" }),
        15 => json!({ "op": "copy", "path": "/spec/holderIdentity" }),
        16 => json!({ "op": "test", "path": "", "value": {} }),
        17 => json!({ "op": "add", "path": "/metadata/finalizers/x", "value": "x" }),
        18 => json!({ "op": "replace", "path": "/apiVersion", "value": "coordination.k8s.io/v1beta1" }),
        19 => json!(null),
        _ => {
            let (key, value) = odd_metadata(chance);
            json!({ "op": "add", "path": format!("/metadata/{key}"), "value": value })
        }
    }
}

pub(crate) fn json_patch(chance: &mut Chance) -> Value {
    if chance.percent(3) {
        // (Nothing is done to a document after it has been replaced as a whole: that has strange answers.)
        let whole = json!([{ "op": "replace", "path": "", "value": { "metadata": { "name": "a" } } }]);
        return chance.pick(&[json!({}), json!(null), json!([]), json!([1]), json!("x"), whole]);
    }
    let mut operations = Vec::new();
    if chance.percent(40) {
        // As the client begins its patches where the maps are missing.
        let field = chance.one(&["annotations", "labels"]);
        let path = format!("/metadata/{field}");
        operations.push(json!({ "op": "test", "path": path, "value": null }));
        operations.push(json!({ "op": "add", "path": path, "value": {} }));
    }
    for _ in 0..=chance.below(4) {
        operations.push(match chance.below(12) {
            0..=3 => test(chance),
            4..=6 => copy_or_move(chance),
            7..=10 => change(chance),
            _ => odd(chance),
        });
    }
    json!(operations)
}

pub(crate) fn merge_patch(chance: &mut Chance) -> Value {
    if chance.percent(4) {
        return chance.pick(&[
            json!(null),
            json!([]),
            json!("x"),
            json!({}),
            json!({ "kind": "Pod" }),
            json!({ "x": 1 }),
        ]);
    }
    let mut patch = json!({});
    if chance.percent(50) {
        patch["metadata"]["labels"] = labels(chance);
    }
    if chance.percent(40) {
        patch["metadata"]["annotations"] = annotations(chance);
    }
    if chance.percent(25) {
        patch["metadata"]["finalizers"] = finalizers(chance);
    }
    if chance.percent(40) {
        patch["spec"] = spec(chance);
    }
    if chance.percent(20) {
        let (key, value) = odd_metadata(chance);
        patch["metadata"][key] = value;
    }
    if chance.percent(5) {
        patch["metadata"] = json!(null);
    }
    patch
}
