//! Leases and parts of them, sound and unsound.
//!
//! A text that begins with `$` stands for something that only the server knows, see [`crate::side`].

use serde_json::{Map, Value, json};

use crate::chance::Chance;

pub(crate) const HOLDERS: [&str; 5] = ["h_x.1", "", "pod-1_3f6c2f0e-1111", "a<b&c>", "größe\n"];

pub(crate) fn labels(chance: &mut Chance) -> Value {
    match chance.below(24) {
        0 => json!(null),
        1 => json!({}),
        2 => json!({ "k": null }),
        3 => json!({ "bad key": "x" }),
        4 => json!({ "k": "not good!" }),
        5 => json!({ "k": 1 }),
        6 => json!({ "UPPER.example/x": "1" }),
        7 => json!({ "k": "x".repeat(64) }),
        8 => json!([]),
        9..=12 => json!({ "k": "2", "leasehold.dev/kind": "lock" }),
        13..=15 => json!({ "holder.leasehold.dev/h_x": "$version" }),
        _ => json!({ "k": "1", "n": "7" }),
    }
}

pub(crate) fn annotations(chance: &mut Chance) -> Value {
    match chance.below(24) {
        0 => json!(null),
        1 => json!({}),
        2 => json!({ "x": null }),
        3 => json!({ "not a key": "x" }),
        4 => json!({ "x": true }),
        5 => json!({ "UPPER.example/x": "1" }),
        6 => json!({ "x": "y".repeat(200_000) }),
        7 => json!({ "x": "y".repeat(256 * 1024) }),
        8 => json!({ "x": "y".repeat(256 * 1024 - 1) }),
        9 => json!({ "a/b/c": "" }),
        10..=13 => json!({ "join.leasehold.dev/h_x.1": "$version", "x": "y" }),
        _ => json!({ "x": "y & z" }),
    }
}

pub(crate) fn finalizers(chance: &mut Chance) -> Value {
    match chance.below(10) {
        0 => json!(["not a name"]),
        1 => json!([]),
        2 => json!(["plain"]),
        3 => json!(null),
        4 => json!([""]),
        5 => json!(["x.dev/f", "x.dev/g", "x.dev/f"]),
        6 => json!(["x.dev/g"]),
        _ => json!(["x.dev/f"]),
    }
}

fn owners(chance: &mut Chance) -> Value {
    let owner = json!({ "apiVersion": "x.dev/v1", "kind": "X", "name": "x", "uid": "12" });
    match chance.below(5) {
        0 => json!([{ "apiVersion": "v1", "kind": "Event", "name": "x", "uid": "12" }]),
        1 => json!([{ "apiVersion": "", "kind": "X", "name": "x", "uid": "12" }]),
        2 => json!([owner, owner]),
        3 => {
            let controller = |uid: &str| {
                let mut owner = owner.clone();
                owner["controller"] = json!(true);
                owner["uid"] = json!(uid);
                owner
            };
            json!([controller("12"), controller("13")])
        }
        _ => json!([owner]),
    }
}

pub(crate) fn micro_time(chance: &mut Chance) -> Value {
    match chance.below(16) {
        0 => json!(null),
        1 => json!("2026-01-01T00:00:00Z"),
        2 => json!("2026-01-01T00:00:00.123Z"),
        3 => json!("2026-01-01T00:00:00.123456789Z"),
        4 => json!("2026-01-01T02:00:00.123456+02:00"),
        5 => json!("2026-01-01 00:00:00.123456Z"),
        6 => json!("2026-02-30T00:00:00.123456Z"),
        7 => json!(17),
        8 => json!(""),
        _ => json!(format!("2026-01-01T00:00:0{}.000000Z", chance.below(3))),
    }
}

pub(crate) fn spec(chance: &mut Chance) -> Value {
    let mut spec = json!({
        "holderIdentity": chance.one(&HOLDERS), "leaseDurationSeconds": 15, "leaseTransitions": chance.below(3),
        "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": "2026-01-01T00:00:00.000000Z",
    });
    match chance.below(28) {
        0 => return json!({}),
        1 => return json!(null),
        2 => return json!([]),
        3 => spec["leaseDurationSeconds"] = json!(0),
        4 => spec["leaseDurationSeconds"] = json!(-5),
        5 => spec["leaseDurationSeconds"] = json!(1.5),
        6 => spec["leaseDurationSeconds"] = json!("15"),
        7 => spec["leaseTransitions"] = json!(-1),
        8 => spec["holderIdentity"] = json!(null),
        9 => spec["holderIdentity"] = json!(1),
        10 => spec["unknown"] = json!({ "a": 1 }),
        11 => spec["strategy"] = json!("OldestEmulationVersion"),
        12 => spec["preferredHolder"] = json!("x"),
        13..=16 => spec["renewTime"] = micro_time(chance),
        17 => spec["acquireTime"] = micro_time(chance),
        18 => spec["leaseTransitions"] = json!(2_147_483_647),
        _ => {}
    }
    spec
}

/// Something unusual in the metadata.
pub(crate) fn odd_metadata(chance: &mut Chance) -> (&'static str, Value) {
    match chance.below(20) {
        0 => ("uid", json!("$uid")),
        1 => ("uid", json!("00000000-0000-0000-0000-000000000000")),
        2 => ("resourceVersion", json!("$version")),
        3 => ("resourceVersion", json!("$version-1")),
        4 => ("resourceVersion", json!(chance.one(&["0", "x", "-1", ""]))),
        5 => ("namespace", json!(chance.one(&["$namespace0", "$namespace1", ""]))),
        6 => ("generation", json!(chance.pick(&[0, 5, -1]))),
        7 => ("creationTimestamp", json!(chance.one(&["2020-01-01T00:00:00Z", "2020-01-01T00:00:00.5Z", "soon"]))),
        8 => ("deletionTimestamp", json!("2020-01-01T00:00:00Z")),
        9 => ("deletionGracePeriodSeconds", json!(chance.pick(&[0, 30, -1]))),
        10 => ("ownerReferences", owners(chance)),
        11 => ("managedFields", json!([{}])),
        12 => ("managedFields", json!([])),
        13 => ("selfLink", json!("/x")),
        14 => ("unknown", json!(1)),
        15 => ("generateName", json!("gen-")),
        _ => ("finalizers", finalizers(chance)),
    }
}

pub(crate) fn metadata(chance: &mut Chance, name: &str) -> Map<String, Value> {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(name));
    if chance.percent(60) {
        metadata.insert("labels".to_owned(), labels(chance));
    }
    if chance.percent(50) {
        metadata.insert("annotations".to_owned(), annotations(chance));
    }
    while chance.percent(25) {
        let (key, value) = odd_metadata(chance);
        metadata.insert(key.to_owned(), value);
    }
    metadata
}

/// A whole Lease, as it is sent.
pub(crate) fn lease(chance: &mut Chance, name: &str) -> Value {
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata(chance, name), "spec": spec(chance),
    });
    match chance.below(40) {
        0 => lease["kind"] = json!("Pod"),
        1 => lease["apiVersion"] = json!("v1"),
        2 => lease["metadata"] = json!(null),
        3 => drop(lease.as_object_mut().map(|lease| lease.remove("kind"))),
        4 => drop(lease.as_object_mut().map(|lease| lease.remove("apiVersion"))),
        5 => drop(lease.as_object_mut().map(|lease| lease.remove("spec"))),
        6 => lease = json!([]),
        7 => lease["apiVersion"] = json!("coordination.k8s.io/v1beta1"),
        _ => {}
    }
    lease
}
