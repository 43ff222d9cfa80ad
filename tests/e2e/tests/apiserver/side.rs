//! One of the two servers, and what has been seen of it.
//!
//! In what is sent, a text that begins with `$` stands for something that only this server knows: `$version` and `$uid`
//! for those that were last seen of the Lease in question (of any, if none was), `$version-3` for the third last that was seen of any,
//! `$mark` for the version of the last list, `$namespace0` for a namespace, `$name` for a generated name.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use futures::io::AsyncBufReadExt as _;
use futures::stream::{BoxStream, StreamExt as _};
use kube::Client;
use kube::client::Body as ClientBody;
use leasehold_testkit::Cluster;
use serde_json::{Value, json};

use crate::step::{Body, Request, Watch};

pub(crate) struct Side {
    pub(crate) client: Client,
    pub(crate) namespaces: [String; 2],
    /// What has been seen, in the order in which it first was.
    pub(crate) versions: Vec<String>,
    pub(crate) uids: Vec<String>,
    pub(crate) names: Vec<String>,
    last: BTreeMap<(String, String), Value>,
    mark: String,
}

/// A client of the real one that sends each request once: what an answer makes others repeat is compared too.
pub(crate) fn client(cluster: &Cluster) -> Result<Client> {
    let mut config = cluster.config();
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) object: Value,
}

/// The events of a watch, or how it was refused.
pub(crate) type Events = std::result::Result<BoxStream<'static, Result<Value>>, Answer>;

impl Side {
    pub(crate) fn new(client: Client, namespaces: [String; 2]) -> Self {
        let (versions, uids, names) = (Vec::new(), Vec::new(), Vec::new());
        Self { client, namespaces, versions, uids, names, last: BTreeMap::new(), mark: String::new() }
    }

    pub(crate) async fn send(&mut self, request: &Request) -> Result<Answer> {
        let target = self.target(request.namespace, request.name.as_deref());
        let query: Vec<_> = request.query.iter().map(|(key, value)| (*key, self.filled_text(value, &target))).collect();
        let body = match &request.body {
            Body::None => Vec::new(),
            Body::Text(text) => text.as_bytes().to_vec(),
            Body::Json(value) => self.filled(value, &target).to_string().into_bytes(),
            Body::Last(changes) => self.as_last_seen(&target, changes).to_string().into_bytes(),
        };
        if query.iter().any(|(key, version)| *key == "resourceVersion" && !version.is_empty()) {
            self.catch_up().await?;
        }
        let http = http::Request::builder()
            .method(request.method)
            .uri(uri(
                request.namespace.map(|_| target.0.as_str()),
                request.name.as_ref().map(|_| target.1.as_str()),
                &query,
            ))
            .header("content-type", request.content_type)
            .header("accept", "application/json")
            .body(ClientBody::from(body))?;
        let response = self.client.send(http).await?;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect_bytes().await?;
        let object = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        self.learn(&object);
        Ok(Answer { code, object })
    }

    pub(crate) async fn watch(&self, watch: &Watch) -> Result<Events> {
        let target = self.target(watch.namespace, watch.name.as_deref());
        let mut query = vec![
            ("watch", "true".to_owned()),
            ("labelSelector", watch.labels.to_owned()),
            ("resourceVersion", self.filled_text(&watch.version, &target)),
        ];
        if let Some(name) = &watch.name {
            query.push(("fieldSelector", format!("metadata.name={name}")));
        }
        query.extend(watch.query.iter().cloned());
        if watch.version == "0" {
            self.catch_up().await?;
        }
        let http = http::Request::get(uri(watch.namespace.map(|_| target.0.as_str()), None, &query)).body(Vec::new())?;
        match self.client.request_stream(http).await {
            Ok(stream) => {
                let lines = Box::pin(stream).lines();
                Ok(Ok(lines.map(|line| Ok(serde_json::from_str(&line?)?)).boxed()))
            }
            Err(kube::Error::Api(status)) => Ok(Err(Answer { code: status.code, object: json!(status) })),
            Err(error) => Err(error.into()),
        }
    }

    /// Who asks for a version may be answered with what the server knew a moment ago. It knows all after a list without.
    async fn catch_up(&self) -> Result<()> {
        let query = [("limit", "1".to_owned())];
        self.client.request_text(http::Request::get(uri(None, None, &query)).body(Vec::new())?).await?;
        Ok(())
    }

    /// The namespace and name that are meant.
    fn target(&self, namespace: Option<usize>, name: Option<&str>) -> (String, String) {
        let name = match name.unwrap_or_default() {
            "$name" => self.names.last().map_or("absent", String::as_str),
            name => name,
        };
        (self.namespaces[namespace.unwrap_or(0)].clone(), name.to_owned())
    }

    fn as_last_seen(&self, target: &(String, String), changes: &[(&str, Value)]) -> Value {
        let bare = json!({ "metadata": { "name": target.1 } });
        let mut lease = self.last.get(target).cloned().unwrap_or(bare);
        for (path, value) in changes {
            let (parent, key) = path.rsplit_once('/').unwrap_or_default();
            if let Some(parent) = lease.pointer_mut(parent) {
                parent[key] = self.filled(value, target);
            }
        }
        lease
    }

    fn filled(&self, value: &Value, target: &(String, String)) -> Value {
        match value {
            Value::String(text) => json!(self.filled_text(text, target)),
            Value::Array(list) => list.iter().map(|value| self.filled(value, target)).collect(),
            Value::Object(map) => {
                json!(map.iter().map(|(key, value)| (key, self.filled(value, target))).collect::<BTreeMap<_, _>>())
            }
            value => value.clone(),
        }
    }

    fn filled_text(&self, text: &str, target: &(String, String)) -> String {
        let text = text.replace("$namespace0", &self.namespaces[0]).replace("$namespace1", &self.namespaces[1]);
        let Some(what) = text.strip_prefix('$') else { return text };
        let (kind, back) = what.split_once('-').map_or((what, 0), |(kind, back)| (kind, back.parse().unwrap_or(0)));
        let seen = |all: &[String], field: &str| {
            let last = self.last.get(target).and_then(|lease| lease["metadata"][field].as_str());
            match last.filter(|_| back == 0) {
                Some(last) => last.to_owned(),
                None => all.iter().rev().nth(back).cloned().unwrap_or_default(),
            }
        };
        match kind {
            "version" => seen(&self.versions, "resourceVersion"),
            "uid" => seen(&self.uids, "uid"),
            "mark" => self.mark.clone(),
            _ => text,
        }
    }

    /// Remembers what an object shows.
    pub(crate) fn learn(&mut self, object: &Value) {
        let metadata = &object["metadata"];
        if let Some(items) = object["items"].as_array() {
            metadata["resourceVersion"].as_str().unwrap_or_default().clone_into(&mut self.mark);
            items
                .iter()
                .filter(|item| self.is_ours(item))
                .cloned()
                .collect::<Vec<_>>()
                .iter()
                .for_each(|item| self.learn(item));
        } else if object["kind"] == "Lease" || metadata["uid"].is_string() {
            for (field, seen) in
                [("resourceVersion", &mut self.versions), ("uid", &mut self.uids), ("name", &mut self.names)]
            {
                let value = metadata[field].as_str().unwrap_or_default().to_owned();
                let prefix = metadata["generateName"].as_str();
                let told = field != "name" || prefix.is_some_and(|prefix| value.starts_with(prefix));
                if told && !value.is_empty() && !seen.contains(&value) {
                    seen.push(value);
                }
            }
            let [namespace, name] = ["namespace", "name"].map(|field| metadata[field].as_str().unwrap_or_default());
            self.last.insert((namespace.to_owned(), name.to_owned()), object.clone());
        }
    }

    pub(crate) fn is_ours(&self, lease: &Value) -> bool {
        let namespace = &lease["metadata"]["namespace"];
        namespace.is_null() || self.namespaces.iter().any(|ours| ours == namespace)
    }

    /// What is there in a namespace: the names.
    pub(crate) async fn present(&mut self, namespace: usize) -> Result<Vec<String>> {
        let list = Request {
            method: "GET",
            namespace: Some(namespace),
            name: None,
            query: Vec::new(),
            content_type: "",
            body: Body::None,
        };
        let answer = self.send(&list).await?;
        let items = answer.object["items"].as_array().context("a list")?.iter();
        Ok(items.filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }
}

fn uri(namespace: Option<&str>, name: Option<&str>, query: &[(&str, String)]) -> String {
    let namespace = namespace.map(|namespace| format!("namespaces/{namespace}/")).unwrap_or_default();
    let name = name.map(|name| format!("/{name}")).unwrap_or_default();
    let query: Vec<_> = query.iter().map(|(key, value)| format!("{key}={}", escaped(value))).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("/apis/coordination.k8s.io/v1/{namespace}leases{name}{mark}{}", query.join("&"))
}

fn escaped(text: &str) -> String {
    let escape = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(escape).collect()
}
