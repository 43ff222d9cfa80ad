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
    let lists = ["finalizers", "ownerReferences"].map(|key| {
        let list = patch.get_mut("metadata").and_then(|metadata| metadata.get_mut(key)).filter(|list| list.is_array());
        (key, list.map(Value::take))
    });
    for (key, list) in lists {
        let Some(Value::Array(new)) = list else { continue };
        let there = document.get_mut("metadata").and_then(|metadata| metadata.get_mut(key)).map(Value::take);
        let mut list = match there {
            Some(Value::Array(there)) => there,
            _ => Vec::new(),
        };
        for new in new {
            let same = |there: &&mut Value| match key {
                "finalizers" => **there == new,
                _ => there.get("uid") == new.get("uid"),
            };
            match list.iter_mut().find(same) {
                Some(there) => merge(there, new),
                None => list.push(new),
            }
        }
        patch["metadata"][key] = Value::Array(list);
    }
    merge(document, patch);
    Some(())
}

fn has_directives(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| key.starts_with('$') || has_directives(value)),
        Value::Array(list) => list.iter().any(has_directives),
        _ => false,
    }
}
