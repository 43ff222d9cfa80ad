//! The custom resource of a lock, and Kubernetes' Events of it, where they may be read.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client};
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::exit::chain;

/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_secs(10);
/// How many Events are shown, the latest ones.
const MOST_EVENTS: usize = 50;
/// How many are asked for.
const PAGE: u32 = 500;

/// What is known of it. What cannot be read has a problem instead.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resource {
    kind: String,
    name: String,
    /// As Kubernetes has them: `type`, `status`, `reason`, `message`, `lastTransitionTime`.
    conditions: Vec<Value>,
    /// The latest first.
    events: Vec<Told>,
    problems: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Told {
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    kind: String,
    reason: String,
    note: String,
    count: i32,
}

pub(super) async fn look(client: &Client, namespace: &str, kind: &str, name: &str) -> Resource {
    let mut resource = Resource { kind: kind.to_owned(), name: name.to_owned(), ..Resource::default() };
    let plural = match kind {
        "DistributedLock" => "distributedlocks",
        "Semaphore" => "semaphores",
        "ReadWriteLock" => "readwritelocks",
        _ => {
            resource.problems.push("it is of no kind that is known here".to_owned());
            return resource;
        }
    };
    let described =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("leasehold.dev", "v1alpha1", kind), plural);
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &described);
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let about =
        ListParams::default().fields(&format!("involvedObject.kind={kind},involvedObject.name={name}")).limit(PAGE);
    let (object, events) = tokio::join!(within(objects.get(name)), within(events.list(&about)));
    match object {
        Ok(object) => resource.conditions = conditions(&object.data),
        Err(why) => resource.problems.push(format!("the {kind} cannot be read: {why}")),
    }
    match events {
        Ok(events) => resource.events = latest(events.items),
        Err(why) => resource.problems.push(format!("its Events cannot be read: {why}")),
    }
    resource
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {LIMIT:?}")),
    }
}

fn conditions(object: &Value) -> Vec<Value> {
    object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn latest(events: Vec<Event>) -> Vec<Told> {
    let told = |event: Event| {
        let series = event.series.as_ref();
        let at = series.and_then(|series| series.last_observed_time.as_ref()).or(event.event_time.as_ref());
        let at = at.map(|time| time.0).or(event.last_timestamp.map(|time| time.0));
        Told {
            at: at.or(event.metadata.creation_timestamp.map(|time| time.0)),
            count: series.and_then(|series| series.count).or(event.count).unwrap_or(1),
            kind: event.type_.unwrap_or_default(),
            reason: event.reason.unwrap_or_default(),
            note: event.message.unwrap_or_default(),
        }
    };
    let mut events: Vec<_> = events.into_iter().map(told).collect();
    events.sort_by(|a, b| b.cmp(a));
    events.truncate(MOST_EVENTS);
    events
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_latest_events_come_first_and_not_too_many() {
        let event = |n: usize| {
            let time = format!("2026-11-21T09:{:02}:{:02}.000000Z", n / 60, n % 60);
            serde_json::from_value(json!({
                "metadata": {"name": n.to_string()}, "involvedObject": {}, "eventTime": time, "reason": "Acquired",
                "type": "Normal", "message": n.to_string(),
            }))
            .unwrap()
        };
        let told = latest((0..80).map(event).collect());
        assert_eq!((told.len(), &*told[0].note, &*told[49].note, told[0].count), (MOST_EVENTS, "79", "30", 1));
    }

    #[test]
    fn a_resource_without_a_status_has_no_conditions() {
        assert!(conditions(&json!({"spec": {}})).is_empty());
        assert_eq!(conditions(&json!({"status": {"conditions": [{"type": "Ready"}]}})), [json!({"type": "Ready"})]);
    }
}
