//! Versions that a server knows no more, or not yet: in a cluster of its own, whose API server is restarted.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use leasehold::testing::ApiServer;
use leasehold_testkit::Cluster;
use serde_json::{Value, json};

use crate::compare::{comparable, event};
use crate::side::{Side, client};
use crate::step::{Body, JSON, Request, Watch};

const LONG: Duration = Duration::from_secs(20);

fn request(method: &'static str, version: &str, body: Body) -> Request {
    let query = if version.is_empty() { Vec::new() } else { vec![("resourceVersion", version.to_owned())] };
    let name = (method != "POST").then(|| "a".to_owned());
    Request { method, namespace: Some(0), name, query, content_type: JSON, body }
}

/// The first thing that a watch from this version tells.
async fn first_event(side: &mut Side, version: &str) -> Result<Value> {
    let watch = Watch {
        namespace: Some(0),
        name: Some("a".to_owned()),
        labels: "",
        matching: json!({}),
        version: version.to_owned(),
        query: Vec::new(),
    };
    match side.watch(&watch).await? {
        Err(refused) => Ok(comparable(side, &refused)),
        Ok(mut events) => {
            let next = tokio::time::timeout(LONG, events.next()).await.context("it is known still: nothing is told")?;
            let first = next.context("the watch ends")??;
            Ok(json!({ "event": event(side, &first), "code": first["object"]["code"] }))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forgotten_or_still_to_come_is_refused_alike() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = cluster.namespace("forgotten").await?;
    let namespaces = [namespace.name().to_owned(), String::new()];
    let server = ApiServer::new();
    let mut real = Side::new(client(&cluster)?, namespaces.clone());
    let mut memory = Side::new(server.client(namespace.name()), namespaces);
    for side in [&mut real, &mut memory] {
        let lease = json!({ "metadata": { "name": "a" }, "spec": { "leaseTransitions": 1 } });
        side.send(&request("POST", "", Body::Json(lease))).await?;
        side.send(&request("PUT", "", Body::Last(vec![("/spec/leaseTransitions", json!(2))]))).await?;
    }
    cluster.stop_apiserver().await?;
    cluster.start_apiserver().await?;
    server.advance(10); // as other things are written in the real one
    server.restart();
    real.client = client(&cluster)?;
    // Older than what the server has known since it began, and just that; the object's own version is such a one too.
    for version in ["$version-1", "$version"] {
        let told = (first_event(&mut real, version).await?, first_event(&mut memory, version).await?);
        assert_eq!(told.0, told.1, "from {version}");
        assert_eq!(told.0["code"], 410, "it is known still, so this shows nothing: {}", told.0);
    }
    let far = u64::MAX.to_string();
    let mut answers = Vec::new();
    for side in [&mut real, &mut memory] {
        let get = side.send(&request("GET", &far, Body::None)).await?;
        let list = Request { name: None, ..request("GET", &far, Body::None) };
        let list = side.send(&list).await?;
        answers.push([comparable(side, &get), comparable(side, &list)]);
    }
    assert_eq!(answers[0], answers[1]);
    Ok(())
}
