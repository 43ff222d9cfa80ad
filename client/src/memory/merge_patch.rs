//! Merge patches: RFC 7386, and what Kubernetes makes of it for Leases.

use serde_json::{Map, Value};

/// A JSON Merge Patch.
pub(super) fn merge(document: &mut Value, patch: Value) {
    match (document, patch) {
        (Value::Object(document), Value::Object(patch)) => merge_maps(document, patch),
        (document, mut patch) => {
            prune(&mut patch);
            *document = patch;
        }
    }
}

fn merge_maps(document: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, mut value) in patch {
        match (document.get_mut(&key), value) {
            (_, Value::Null) => drop(document.remove(&key)),
            (Some(Value::Object(there)), Value::Object(patch)) => merge_maps(there, patch),
            (_, new) => {
                value = new;
                prune(&mut value);
                document.insert(key, value);
            }
        }
    }
}

/// A `null` in what is new removes nothing.
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(prune);
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

/// A strategic merge patch: finalizers are a set, owners are told apart by their uid. `None`: it has directives
/// (`$patch` and the like), which are not simulated.
pub(super) fn merge_strategic(document: &mut Value, mut patch: Value) -> Option<()> {
    if has_directives(&patch) {
        return None;
    }
    if patch.is_null() {
        return Some(()); // as if it were empty
    }
    // What the patch says of the kind is not looked at.
    if let Some(fields) = patch.as_object_mut() {
        fields.retain(|key, value| !(["kind", "apiVersion"].contains(&key.as_str()) && value.is_string()));
    }
    let lists = ["finalizers", "ownerReferences"].map(|key| {
        let list = patch.get_mut("metadata").and_then(|metadata| metadata.get_mut(key)).filter(|list| list.is_array());
        (key, list.map(Value::take))
    });
    for (key, list) in lists {
        let Some(Value::Array(new)) = list else { continue };
        let there = document.get_mut("metadata").and_then(|metadata| metadata.get_mut(key)).map(Value::take);
        patch["metadata"][key] = Value::Array(match there {
            Some(Value::Array(there)) if !there.is_empty() => united(there, new, key),
            _ => new,
        });
    }
    merge(document, patch);
    Some(())
}

/// The elements of both lists, each once. Those of the patch keep their order, and so do the others; one that was there
/// already and only there comes before the first of the patch that stood behind it.
fn united(there: Vec<Value>, new: Vec<Value>, key: &str) -> Vec<Value> {
    let same = |one: &Value, other: &Value| match key {
        "finalizers" => one == other,
        _ => one.get("uid") == other.get("uid"),
    };
    let once = |list: Vec<Value>| {
        list.into_iter().fold(Vec::<Value>::new(), |mut seen, value| {
            match seen.iter_mut().find(|other| same(other, &value)) {
                Some(other) => merge(other, value),
                None => seen.push(value),
            }
            seen
        })
    };
    let (there, new) = (once(there), once(new));
    let place = |value: &Value| there.iter().position(|other| same(other, value));
    let mut others = there.iter().filter(|value| !new.iter().any(|new| same(new, value))).peekable();
    let mut united = Vec::with_capacity(there.len() + new.len());
    for new in &new {
        let before = place(new);
        while let Some(other) = others.next_if(|other| before.is_some_and(|before| place(other) < Some(before))) {
            united.push(other.clone());
        }
        let mut value = before.map_or(Value::Null, |before| there[before].clone());
        merge(&mut value, new.clone());
        united.push(value);
    }
    united.extend(others.cloned());
    united
}

fn has_directives(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| key.starts_with('$') || has_directives(value)),
        Value::Array(list) => list.iter().any(has_directives),
        _ => false,
    }
}
