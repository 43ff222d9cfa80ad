//! What of an answer has to be the same.

use serde_json::{Value, json};

use crate::side::{Answer, Side};

/// An answer with what only this server knows replaced by the order in which it was first seen.
pub(crate) fn comparable(side: &Side, answer: &Answer) -> Value {
    json!({ "code": answer.code, "object": object(side, &answer.object) })
}

/// An event of a watch, likewise. `None`: it is nobody's business here.
pub(crate) fn event(side: &mut Side, event: &Value) -> Option<Value> {
    if event["type"] == "BOOKMARK" {
        let annotations = &event["object"]["metadata"]["annotations"];
        return annotations.is_object().then(|| json!({ "type": "BOOKMARK", "annotations": annotations }));
    }
    if !side.is_ours(&event["object"]) {
        return None;
    }
    side.learn(&event["object"]);
    Some(json!({ "type": event["type"], "object": object(side, &event["object"]) }))
}

/// Of something comparable.
pub(crate) fn has_generated_name(object: &Value) -> bool {
    object["metadata"]["name"].as_str().is_some_and(|name| name.starts_with('#'))
}

fn object(side: &Side, value: &Value) -> Value {
    if let Some(items) = value["items"].as_array() {
        let mut items: Vec<Value> =
            items.iter().filter(|item| side.is_ours(item)).map(|item| object(side, item)).collect();
        if items.iter().any(has_generated_name) {
            items.sort_by_cached_key(Value::to_string); // by chance names come in another order
        }
        return json!({ "kind": value["kind"], "items": items });
    }
    // (A client's own rendering of a Status has no kind.)
    if value["kind"] == "Status" || value["status"].is_string() {
        let details = &value["details"];
        let causes = details["causes"].as_array().is_some_and(|causes| !causes.is_empty());
        return json!({
            "status": value["status"], "reason": value["reason"], "causes": causes,
            "uid": seen(side, details["uid"].as_str().unwrap_or_default()),
        });
    }
    let mut value = value.clone();
    for field in ["creationTimestamp", "deletionTimestamp"] {
        if let Some(time) = value["metadata"].get_mut(field).filter(|time| time.is_string()) {
            *time = json!("some time");
        }
    }
    // An item of a list does not say what it is.
    if let Some(fields) = value.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    if let Some(fields) = value["metadata"].get_mut("managedFields") {
        *fields = json!("tracked");
    }
    ranked(side, &mut value);
    value
}

fn ranked(side: &Side, value: &mut Value) {
    match value {
        Value::String(text) => *text = seen(side, text),
        Value::Array(list) => list.iter_mut().for_each(|value| ranked(side, value)),
        Value::Object(map) => map.values_mut().for_each(|value| ranked(side, value)),
        _ => {}
    }
}

fn seen(side: &Side, text: &str) -> String {
    let place = |all: &[String]| all.iter().position(|seen| seen == text);
    if let Some(n) = place(&side.versions) {
        format!("#version {n}")
    } else if let Some(n) = place(&side.uids) {
        format!("#uid {n}")
    } else if let Some(n) = place(&side.names) {
        format!("#name {n}")
    } else if let Some(n) = place(&side.namespaces) {
        format!("#namespace {n}")
    } else if text.len() > 200 {
        format!("{} bytes of {:?}", text.len(), text.chars().next())
    } else {
        text.to_owned()
    }
}
