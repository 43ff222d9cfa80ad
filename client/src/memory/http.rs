//! The API server as a service of HTTP.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, Response};
use http_body::Frame;
use kube::client::Body;
use serde::Serialize;
use serde_json::{Value, json};

use super::lever::Verb;
use super::selector::Selector;
use super::state::Scope;
use super::status::Refused;
use super::verbs::{Change, Propagation, Removal, Removed};
use super::{ApiServer, Event, From, decode, json_patch, status};
use crate::clock;

/// The body of an answer.
pub struct ResponseBody(Content);

enum Content {
    Whole(Option<Bytes>),
    Stream(BoxStream<'static, Bytes>),
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Stream(stream) => {
                stream.poll_next_unpin(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }
}

/// More than this no body of a request may have, in bytes.
const BODY_MAX: usize = 3 * 1024 * 1024;

impl tower::Service<Request<Body>> for ApiServer {
    type Response = Response<ResponseBody>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let answer = server.answer(&head, &body).unwrap_or_else(|status| Answer::json(status.code, &status));
            let response = Response::builder().status(answer.code).header(CONTENT_TYPE, "application/json");
            response.body(ResponseBody(answer.content)).map_err(kube::Error::HttpError)
        })
    }
}

struct Answer {
    code: u16,
    content: Content,
}

impl Answer {
    fn json(code: u16, object: &impl Serialize) -> Self {
        let mut object = serde_json::to_value(object).unwrap_or_default();
        if object.get("kind").is_none() {
            object["kind"] = json!("Status");
            object["apiVersion"] = json!("v1");
        }
        Self { code, content: Content::Whole(Some(object.to_string().into())) }
    }
}

/// What a request is for.
struct Target {
    namespace: Option<String>,
    name: Option<String>,
    query: BTreeMap<String, String>,
}

impl Target {
    fn of(uri: &http::Uri) -> Option<Self> {
        let path = uri.path().strip_prefix("/apis/coordination.k8s.io/v1/")?;
        let parts: Vec<String> = path.split('/').map(|part| unescape(part, false)).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (namespace, name) = match parts[..] {
            ["leases"] => (None, None),
            ["namespaces", namespace, "leases"] => (Some(namespace), None),
            ["namespaces", namespace, "leases", name] => (Some(namespace), Some(name)),
            _ => return None,
        };
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(key, true), unescape(value, true))
        });
        let query = pairs.collect();
        Some(Self { namespace: namespace.map(str::to_owned), name: name.map(str::to_owned), query })
    }

    fn parameter(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.query.get(key).map(|value| !matches!(value.as_str(), "0" | "false" | "False" | "FALSE" | "f" | "F"))
    }

    fn version(&self) -> Result<Option<u64>, Refused> {
        match self.parameter("resourceVersion") {
            "" => Ok(None),
            version => version.parse().map(Some).map_err(|_| status::error("the resourceVersion is not a number")),
        }
    }

    /// Whose Leases are meant, if the other parameters fit together.
    fn scope(&self, fits: bool) -> Result<Scope, Refused> {
        let selector = Selector::parse(self.parameter("labelSelector"), self.parameter("fieldSelector"))
            .map_err(status::bad_request)?;
        if !fits {
            let cause = status::cause("resourceVersionMatch", "forbidden here");
            return Err(status::invalid("", vec![cause]));
        }
        if !selector.is_supported() {
            return Err(status::bad_request("field label not supported"));
        }
        let namespace = self.namespace.as_deref().or(selector.namespace()).map(Into::into);
        Ok(Scope { namespace, selector })
    }
}

fn unescape(text: &str, plus: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) if plus => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl ApiServer {
    fn answer(&self, head: &http::request::Parts, body: &[u8]) -> Result<Answer, Refused> {
        let target = Target::of(&head.uri).ok_or_else(status::no_such_path)?;
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if header(ACCEPT).contains("as=") && !header(ACCEPT).contains(',') {
            return Err(status::not_acceptable());
        }
        if body.len() > BODY_MAX {
            return Err(status::too_large("the body"));
        }
        if head.method != Method::GET && !target.parameter("dryRun").is_empty() {
            return Err(status::not_implemented("dryRun"));
        }
        let content_type = header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
        let json = || match content_type {
            "" | "application/json" => {
                serde_json::from_slice(body).map_err(|error| status::bad_request(error.to_string()))
            }
            _ => Err(status::unsupported_media_type()),
        };
        match (&head.method, target.namespace.as_deref(), target.name.as_deref()) {
            (&Method::GET, Some(namespace), Some(name)) => self.get_one(namespace, name, &target),
            (&Method::GET, _, None) if target.flag("watch") == Some(true) => self.watch_many(&target),
            (&Method::GET, _, None) => self.list_many(&target),
            (&Method::POST, Some(namespace), None) => {
                let lease = decode::lease(json()?).map_err(status::bad_request)?;
                let mut state = self.state();
                let taken = state.faults.take(Verb::Create)?;
                let lease = taken.answer(state.create(namespace, lease, clock::now().stamp))?;
                Ok(Answer::json(201, &*lease))
            }
            (&Method::PUT, Some(namespace), Some(name)) => {
                let lease = decode::lease(json()?).map_err(status::bad_request)?;
                let mut state = self.state();
                let taken = state.faults.take(Verb::Replace)?;
                let (lease, created) = taken.answer(state.replace(namespace, name, lease, clock::now().stamp))?;
                Ok(Answer::json(if created { 201 } else { 200 }, &*lease))
            }
            (&Method::PATCH, Some(namespace), Some(name)) => self.patch_one(namespace, name, content_type, body),
            (&Method::DELETE, Some(namespace), Some(name)) => {
                let options = if body.is_empty() { options_in(&target) } else { json()? };
                self.delete_one(namespace, name, &removal(options)?)
            }
            _ => Err(status::method_not_allowed()),
        }
    }

    fn get_one(&self, namespace: &str, name: &str, target: &Target) -> Result<Answer, Refused> {
        let version = target.version()?;
        let current = self.state().version;
        if let Some(version) = version.filter(|version| *version > current) {
            return Err(status::too_new(version, current));
        }
        Ok(Answer::json(200, &*self.read(namespace, name)?))
    }

    fn patch_one(&self, namespace: &str, name: &str, content_type: &str, body: &[u8]) -> Result<Answer, Refused> {
        let kinds = ["json-patch+json", "merge-patch+json", "strategic-merge-patch+json"];
        let kind = content_type.strip_prefix("application/").filter(|kind| kinds.contains(kind));
        let kind = kind.ok_or_else(status::unsupported_media_type)?;
        let mut state = self.state();
        let taken = state.faults.take(Verb::Patch)?;
        state.get(namespace, name)?; // a patch is only looked at if there is something to patch
        let wrong = || status::bad_request("error decoding patch");
        let patch: Value = serde_json::from_slice(body).map_err(|_| wrong())?;
        let lease = match (kind, &patch) {
            ("json-patch+json", patch) => {
                let operations = json_patch::operations(patch).ok_or_else(wrong)?;
                if operations.len() > 10_000 {
                    return Err(status::too_large("a patch of more than 10000 operations"));
                }
                state.patch(namespace, name, Change::Json(&operations))
            }
            ("merge-patch+json", Value::Object(_)) => state.patch(namespace, name, Change::Merge(patch)),
            ("strategic-merge-patch+json", Value::Object(_) | Value::Null) => {
                state.patch(namespace, name, Change::Strategic(patch))
            }
            _ => Err(wrong()),
        };
        Ok(Answer::json(200, &*taken.answer(lease)?))
    }

    fn delete_one(&self, namespace: &str, name: &str, removal: &Removal) -> Result<Answer, Refused> {
        let mut state = self.state();
        let taken = state.faults.take(Verb::Delete)?;
        Ok(match taken.answer(state.delete(namespace, name, removal, clock::now().stamp))? {
            Removed::Now(lease) => Answer::json(200, &status::removed(name, lease.metadata.uid.as_deref())),
            Removed::Later(lease) => Answer::json(if removal.not_orphaned { 202 } else { 200 }, &*lease),
        })
    }

    fn list_many(&self, target: &Target) -> Result<Answer, Refused> {
        let (asked, how) = (target.parameter("resourceVersion"), target.parameter("resourceVersionMatch"));
        let fits = match how {
            "" => true,
            "NotOlderThan" => !asked.is_empty(),
            "Exact" => !matches!(asked, "" | "0"),
            _ => false,
        };
        let scope = target.scope(fits && target.flag("sendInitialEvents").is_none())?;
        let version = target.version()?;
        let mut state = self.state();
        let taken = state.faults.take(Verb::List)?;
        if let Some(version) = version.filter(|version| *version > state.version) {
            return Err(status::too_new(version, state.version));
        }
        let (leases, version) = match version {
            Some(version) if how == "Exact" => (state.select_at(&scope, version)?, version),
            _ => (state.select(&scope), state.version),
        };
        drop(state);
        taken.answer(Ok(()))?;
        Ok(Answer::json(
            200,
            &json!({
                "kind": "LeaseList",
                "apiVersion": "coordination.k8s.io/v1",
                "metadata": { "resourceVersion": version.to_string() },
                "items": leases.iter().map(|lease| json!(**lease)).collect::<Vec<_>>(),
            }),
        ))
    }

    fn watch_many(&self, target: &Target) -> Result<Answer, Refused> {
        let initial = target.flag("sendInitialEvents");
        let how = target.parameter("resourceVersionMatch");
        let fits = if initial.is_some() { how == "NotOlderThan" } else { how.is_empty() };
        let scope = target.scope(fits)?;
        let version = target.version()?.filter(|version| *version != 0);
        let bookmarks = target.flag("allowWatchBookmarks") == Some(true);
        let initial = initial.unwrap_or(version.is_none());
        let end_mark = bookmarks && target.flag("sendInitialEvents") == Some(true);
        let watch = self.begin_watch(scope, &From { version, initial, end_mark, bookmarks })?;
        let seconds = match target.parameter("timeoutSeconds") {
            "" => 0,
            seconds => seconds.parse().map_err(|_| status::bad_request("timeoutSeconds is not a number"))?,
        };
        let end = async move {
            match seconds {
                0 => std::future::pending().await,
                seconds => clock::sleep(Duration::from_secs(seconds)).await,
            }
        };
        let lines =
            watch.map(|event| line(&event)).take_until(Box::pin(end) as Pin<Box<dyn Future<Output = ()> + Send>>);
        Ok(Answer { code: 200, content: Content::Stream(lines.boxed()) })
    }
}

fn line(event: &Event) -> Bytes {
    let (kind, object) = match event {
        Event::Added(lease) => ("ADDED", json!(**lease)),
        Event::Modified(lease) => ("MODIFIED", json!(**lease)),
        Event::Deleted(lease) => ("DELETED", json!(**lease)),
        Event::Bookmark { version, initial } => {
            let mut metadata = json!({ "resourceVersion": version.to_string() });
            if *initial {
                metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
            }
            let api_version = "coordination.k8s.io/v1";
            ("BOOKMARK", json!({ "kind": "Lease", "apiVersion": api_version, "metadata": metadata, "spec": {} }))
        }
        Event::Error(status) => {
            let mut object = json!(status);
            object["kind"] = json!("Status");
            object["apiVersion"] = json!("v1");
            ("ERROR", object)
        }
    };
    format!("{}\n", json!({ "type": kind, "object": object })).into()
}

fn options_in(target: &Target) -> Value {
    let mut options = json!({});
    if let Some(policy) = target.query.get("propagationPolicy") {
        options["propagationPolicy"] = json!(policy);
    }
    if let Some(orphan) = target.flag("orphanDependents") {
        options["orphanDependents"] = json!(orphan);
    }
    options
}

fn removal(options: Value) -> Result<Removal, Refused> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Options {
        preconditions: Option<Preconditions>,
        propagation_policy: Option<String>,
        orphan_dependents: Option<bool>,
        dry_run: Option<Vec<String>>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Preconditions {
        uid: Option<String>,
        resource_version: Option<String>,
    }
    let options: Options = serde_json::from_value(options).map_err(|error| status::bad_request(error.to_string()))?;
    if options.dry_run.is_some_and(|dry| !dry.is_empty()) {
        return Err(status::not_implemented("dryRun"));
    }
    let invalid = |field, why| status::invalid("", vec![status::cause(field, why)]);
    let propagation = match (options.propagation_policy.as_deref(), options.orphan_dependents) {
        (Some(_), Some(_)) => return Err(invalid("propagationPolicy", "orphanDependents is set too")),
        (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), _) => Some(Propagation::Foreground),
        (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
        (Some(_), _) => return Err(invalid("propagationPolicy", "not supported")),
        (None, None) => None,
    };
    let (uid, version) = options.preconditions.map_or((None, None), |only| (only.uid, only.resource_version));
    Ok(Removal { uid, version, propagation, not_orphaned: options.orphan_dependents == Some(false) })
}
