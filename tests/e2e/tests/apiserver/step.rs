//! What is done in a sequence.

use std::fmt;

use serde_json::{Value, json};

use crate::chance::Chance;
use crate::{lease, patch};

pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];
pub(crate) const JSON: &str = "application/json";

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Request(Request),
    Watch(Watch),
}

/// A request, with what only the server knows left open: see [`crate::side`].
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    /// `None`: of all namespaces.
    pub(crate) namespace: Option<usize>,
    pub(crate) name: Option<String>,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) content_type: &'static str,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    None,
    Text(&'static str),
    Json(Value),
    /// The Lease as it was last seen, with these parts replaced (`null`: removed).
    Last(Vec<(&'static str, Value)>),
}

#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) namespace: Option<usize>,
    pub(crate) name: Option<String>,
    pub(crate) labels: &'static str,
    /// The labels of a Lease that is meant.
    pub(crate) matching: Value,
    pub(crate) version: String,
    pub(crate) query: Vec<(&'static str, String)>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Watch(watch) => format!(
                "WATCH namespace {:?} name {:?} labels {:?} from {:?} {:?}",
                watch.namespace, watch.name, watch.labels, watch.version, watch.query
            ),
            Self::Request(request) => {
                let body = match &request.body {
                    Body::None => String::new(),
                    Body::Text(text) => (*text).to_owned(),
                    Body::Json(value) => value.to_string(),
                    Body::Last(changes) => format!("as last seen, but {changes:?}"),
                };
                let Request { method, namespace, name, query, content_type, .. } = request;
                format!("{method} namespace {namespace:?} name {name:?} {query:?} {content_type} {body}")
            }
        };
        let cut: String = text.chars().take(600).collect();
        write!(f, "{cut}{}", if cut.len() < text.len() { " …" } else { "" })
    }
}

const SELECTORS: [(&str, &[(&str, &str)]); 12] = [
    ("", &[]),
    ("k", &[("k", "1")]),
    ("!k", &[]),
    ("k=1", &[("k", "1")]),
    ("k==2", &[("k", "2")]),
    ("k!=1", &[]),
    ("k in (1, 2),n", &[("k", "1"), ("n", "7")]),
    ("k notin (1)", &[]),
    ("n>6", &[("n", "7")]),
    ("n<7", &[("n", "6")]),
    ("holder.leasehold.dev/h_x", &[("holder.leasehold.dev/h_x", "")]),
    ("k=", &[("k", "")]),
];
const BAD_SELECTORS: [&str; 8] = ["k in", "=", "k=a b", "not a key", "k in (a", "k>x", "!", "k=1,,n"];

/// A label selector, and labels that it means.
fn selector(chance: &mut Chance) -> (&'static str, Value) {
    let (text, labels) = chance.pick(&SELECTORS);
    (text, json!(labels.iter().copied().collect::<std::collections::BTreeMap<_, _>>()))
}

fn name(chance: &mut Chance) -> String {
    match chance.below(40) {
        0 => "absent".to_owned(),
        1 => "Bad_Name".to_owned(),
        2 => "$name".to_owned(),
        _ => NAMES[chance.below(NAMES.len())].to_owned(),
    }
}

/// The Leases of a, most of them in the first namespace.
fn namespace(chance: &mut Chance) -> usize {
    usize::from(chance.percent(20))
}

fn version(chance: &mut Chance) -> String {
    chance.one(&["", "", "0", "$version", "$version-1", "$version-3", "$version-9", "$mark"]).to_owned()
}

fn create(chance: &mut Chance) -> Request {
    let name = name(chance);
    let mut lease = lease::lease(chance, &name);
    match chance.below(30) {
        _ if !lease.is_object() => {}
        0..=2 => lease["metadata"] = json!({ "generateName": "gen-", "labels": { "k": "1" } }),
        3 => lease["metadata"] = json!({ "generateName": chance.one(&["-", "a-", "A", "x."]) }),
        4 => lease["metadata"] = json!({ "name": chance.one(&["", "UPPER", "a..b", "-a", "a_b", "a.b-c"]) }),
        _ => {}
    }
    request(chance, "POST", None, Body::Json(lease))
}

fn request(chance: &mut Chance, method: &'static str, name: Option<String>, body: Body) -> Request {
    let namespace = Some(namespace(chance));
    Request { method, namespace, name, query: Vec::new(), content_type: JSON, body }
}

fn replace(chance: &mut Chance) -> Request {
    let name = name(chance);
    let body = match chance.below(10) {
        0 | 1 => Body::Json(lease::lease(chance, &name)),
        2 => {
            // Neither uid nor version, or only one of them.
            let mut metadata = json!({ "name": name });
            if chance.percent(30) {
                metadata["resourceVersion"] = json!("$version");
            }
            if chance.percent(30) {
                metadata["uid"] = json!("$uid");
            }
            Body::Json(json!({ "metadata": metadata, "spec": lease::spec(chance) }))
        }
        _ => {
            let mut changes = Vec::new();
            while chance.percent(60) {
                changes.push(match chance.below(12) {
                    0..=2 => ("/spec", lease::spec(chance)),
                    3 => ("/metadata/labels", lease::labels(chance)),
                    4 => ("/metadata/annotations", lease::annotations(chance)),
                    5 => ("/metadata/resourceVersion", json!(chance.one(&["$version-1", "$version-3", "", "0", "x"]))),
                    6 => ("/metadata/uid", json!(chance.one(&["$uid-1", ""]))),
                    7 | 8 => ("/metadata/managedFields", json!([{}])),
                    9 => ("/metadata/finalizers", lease::finalizers(chance)),
                    10 => ("/metadata/name", json!("other")),
                    _ => ("/metadata/namespace", json!("$namespace1")),
                });
            }
            Body::Last(changes)
        }
    };
    request(chance, "PUT", Some(name), body)
}

fn modify(chance: &mut Chance) -> Request {
    let name = name(chance);
    let (content_type, body) = match chance.below(20) {
        0..=10 => ("application/json-patch+json", Body::Json(patch::json_patch(chance))),
        11..=14 => ("application/merge-patch+json", Body::Json(patch::merge_patch(chance))),
        15..=17 => ("application/strategic-merge-patch+json", Body::Json(patch::merge_patch(chance))),
        18 => ("application/merge-patch+json", Body::Text("{")),
        _ => (JSON, Body::Json(json!({}))),
    };
    Request { content_type, ..request(chance, "PATCH", Some(name), body) }
}

fn delete(chance: &mut Chance) -> Request {
    let name = name(chance);
    let body = match chance.below(12) {
        0..=3 => Body::None,
        4 => Body::Json(json!({})),
        5 => Body::Json(json!({ "propagationPolicy": chance.one(&["Background", "x", ""]) })),
        6 => Body::Json(json!({ "propagationPolicy": "Background", "orphanDependents": false })),
        7 => Body::Json(json!({ "orphanDependents": false, "gracePeriodSeconds": 30 })),
        8 => Body::Json(json!({ "preconditions": { "uid": "$uid-1" } })),
        9 => Body::Json(json!({ "preconditions": { "resourceVersion": chance.one(&["$version-1", "x", ""]) } })),
        _ => Body::Json(json!({ "preconditions": { "uid": "$uid", "resourceVersion": "$version" } })),
    };
    request(chance, "DELETE", Some(name), body)
}

fn read(chance: &mut Chance) -> Request {
    let name = name(chance);
    let mut request = request(chance, "GET", Some(name), Body::None);
    if chance.percent(30) {
        request.query.push(("resourceVersion", version(chance)));
    }
    request
}

fn list(chance: &mut Chance) -> Request {
    let mut request = request(chance, "GET", None, Body::None);
    if chance.percent(25) {
        request.namespace = None;
    }
    let (labels, _) = selector(chance);
    request.query.push(("labelSelector", labels.to_owned()));
    if chance.percent(5) {
        request.query.push(("labelSelector", chance.one(&BAD_SELECTORS).to_owned()));
        request.query.remove(0);
    }
    if chance.percent(30) {
        let fields = [
            "metadata.name=a",
            "metadata.name!=a",
            "metadata.name==b,metadata.namespace!=x",
            "spec.x=1",
            "a",
            "metadata.namespace=$namespace1",
            "metadata.namespace=$namespace0,metadata.name=a",
        ];
        request.query.push(("fieldSelector", chance.one(&fields).to_owned()));
    }
    if chance.percent(40) {
        request.query.push(("resourceVersion", version(chance)));
    }
    if chance.percent(25) {
        request.query.push(("resourceVersionMatch", chance.one(&["Exact", "Exact", "NotOlderThan", "x"]).to_owned()));
    }
    request
}

fn watch(chance: &mut Chance) -> Watch {
    let (labels, matching) = selector(chance);
    let mut watch = Watch {
        namespace: chance.pick(&[Some(0), Some(0), Some(0), Some(1), None]),
        name: chance.percent(50).then(|| NAMES[chance.below(2)].to_owned()),
        labels,
        matching,
        version: version(chance),
        query: Vec::new(),
    };
    match chance.below(16) {
        0 => chance.one(&["x", "-1"]).clone_into(&mut watch.version),
        1 => watch.query.push(("resourceVersionMatch", "NotOlderThan".to_owned())),
        2 => watch.query.push(("sendInitialEvents", "true".to_owned())),
        3 => {
            watch.query.push(("resourceVersionMatch", "NotOlderThan".to_owned()));
            watch.query.push(("sendInitialEvents", chance.one(&["true", "false"]).to_owned()));
            watch.query.push(("allowWatchBookmarks", "true".to_owned()));
        }
        4 => watch.labels = chance.pick(&BAD_SELECTORS),
        _ => {}
    }
    watch
}

/// The sequence of this number.
pub(crate) fn sequence(number: u64, steps: usize) -> Vec<Step> {
    let chance = &mut Chance::new(number);
    // Something is there, most of the time.
    let mut sequence = vec![Step::Request(Request {
        namespace: Some(0),
        ..request(chance, "POST", None, Body::Json(json!({ "metadata": { "name": "a" }, "spec": {} })))
    })];
    while sequence.len() < steps {
        sequence.push(match chance.below(100) {
            0..=13 => Step::Request(create(chance)),
            14..=31 => Step::Request(replace(chance)),
            32..=66 => Step::Request(modify(chance)),
            67..=77 => Step::Request(delete(chance)),
            78..=83 => Step::Request(read(chance)),
            84..=92 => Step::Request(list(chance)),
            _ => Step::Watch(watch(chance)),
        });
    }
    sequence
}
