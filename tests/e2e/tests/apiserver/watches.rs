//! Watches that run beside a sequence, and how they end.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::compare::{self, comparable};
use crate::side::{Events, Side};
use crate::step::{Body, JSON, Request, Watch};

const LONG: Duration = Duration::from_secs(20);

/// Creates and removes a Lease that this watch is told of: the last thing that it is told.
pub(crate) async fn fence(side: &mut Side, watch: &Watch, number: usize) -> Result<()> {
    let name = watch.name.clone().unwrap_or_else(|| "a".to_owned());
    let lease = json!({
        "metadata": { "name": name, "labels": watch.matching, "annotations": { "fence": number.to_string() } },
    });
    let request = |method, name, body| Request {
        method,
        namespace: Some(watch.namespace.unwrap_or(0)),
        name,
        query: Vec::new(),
        content_type: JSON,
        body,
    };
    let created = side.send(&request("POST", None, Body::Json(lease))).await?;
    anyhow::ensure!(created.code == 201, "the fence stands already: {created:?}");
    side.send(&request("DELETE", Some(name), Body::None)).await?;
    Ok(())
}

/// What a watch has told, up to its fence.
pub(crate) async fn told(side: &mut Side, events: Events, number: usize) -> Result<Vec<Value>> {
    let mut events = match events {
        Ok(events) => events,
        Err(refused) => return Ok(vec![comparable(side, &refused)]),
    };
    let mut told = Vec::new();
    loop {
        let next = tokio::time::timeout(LONG, events.next()).await;
        let Some(event) = next.with_context(|| format!("nothing more is told after {told:#?}"))? else {
            told.push(json!("the end"));
            return Ok(told);
        };
        let event = event?;
        let object = &event["object"];
        let fence = side.is_ours(object) && object["metadata"]["annotations"]["fence"] == json!(number.to_string());
        told.extend(compare::event(side, &event));
        if fence {
            if told.iter().any(|event| compare::has_generated_name(&event["object"])) {
                told.sort_by_cached_key(Value::to_string); // what is there at the beginning comes by name
            }
            return Ok(told);
        }
    }
}
