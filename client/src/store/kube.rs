//! Leases in a Kubernetes API server.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams};
use kube::client::ConfigExt;
use kube::{Api, Client, Config};
use tower::{BoxError, ServiceBuilder};

use super::{Failure, Sight, Store, others_than_sessions, still_stands};
use crate::protocol::{Version, Write};

/// A watch comes to its end after this many seconds, and goes on as another. One that has silently died is noticed sooner,
/// since it shows nothing.
const WATCH_SECONDS: u32 = 290;

/// How many Leases are listed at a time.
const PAGE: u32 = 500;

/// The Leases of one namespace of a Kubernetes API server.
///
/// It has a connection pool of its own: lock traffic waits behind nothing else.
#[derive(Clone)]
pub struct KubeStore {
    leases: Api<Lease>,
}

impl std::fmt::Debug for KubeStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeStore").field("leases", &self.leases.resource_url()).finish()
    }
}

impl KubeStore {
    /// Connects to the API server that `config` names. No request is sent yet.
    ///
    /// Retries are switched off whatever `config` says: a write that is sent twice behind the protocol's back can land
    /// after its deadline.
    ///
    /// # Errors
    /// What [`kube::Client`] says of the configuration.
    pub fn new(mut config: Config, namespace: &str) -> Result<Self, kube::Error> {
        config.default_retry = false;
        Ok(Self { leases: Api::namespaced(connect(config)?, namespace) })
    }

    /// The Leases of another namespace, by the same connections.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { leases: Api::namespaced(self.leases.clone().into_client(), namespace) }
    }
}

impl Store for KubeStore {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        async move { self.leases.get(name).await.map_err(|error| failure(&error)) }.boxed()
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        async move {
            let post = PostParams::default();
            let answer = match write {
                Write::Create(lease) => self.leases.create(&post, lease).await.map(Some),
                Write::Replace(lease) => self.leases.replace(name, &post, lease).await.map(Some),
                Write::Patch(patch) => {
                    let patch = Patch::Json::<()>(patch.clone());
                    self.leases.patch(name, &PatchParams::default(), &patch).await.map(Some)
                }
                Write::Delete { uid, version } => {
                    let only = Preconditions { uid: Some(uid.clone()), resource_version: Some(version.to_string()) };
                    let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
                    let answer = self.leases.delete(name, &params).await;
                    answer.map(|answer| answer.left().filter(|lease| still_stands(name, lease)))
                }
            };
            answer.map_err(|error| failure(&error))
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Lease>, Failure>> {
        async move {
            let mut params = ListParams::default().labels(&others_than_sessions()).limit(PAGE);
            let mut all = Vec::new();
            loop {
                let page = self.leases.list(&params).await.map_err(|error| failure(&error))?;
                all.extend(page.items);
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params.continue_token = Some(token),
                    None => return Ok(all),
                }
            }
        }
        .boxed()
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        let mut params = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
        if let Some(label) = label {
            params = params.labels(label);
        }
        let from = from.map_or_else(String::new, |from| from.to_string());
        let leases = self.leases.clone();
        futures::stream::once(async move { leases.watch(&params, &from).await })
            .try_flatten()
            .map(|event| match event {
                Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease)) => Ok(Sight::Shows(Box::new(lease))),
                Ok(WatchEvent::Deleted(lease)) => {
                    Ok(Sight::Hides(version(lease.metadata.resource_version.as_deref())?))
                }
                Ok(WatchEvent::Bookmark(mark)) => Ok(Sight::Reached(version(Some(&mark.metadata.resource_version))?)),
                Ok(WatchEvent::Error(status)) => Err(Failure::of(&status)),
                Err(error) => Err(failure(&error)),
            })
            .boxed()
    }
}

/// A client whose requests leave at once.
///
/// The usual one leaves Nagle's algorithm on: now and then a request then waits 40 ms for the other side's delayed
/// acknowledgement, which is forty times what it takes.
pub(crate) fn connect(config: Config) -> Result<Client, kube::Error> {
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    // If the program has chosen a provider of cryptography already, that one stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(config.connect_timeout);
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let requests = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let stack = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(requests);
    Ok(Client::new(stack, config.default_namespace))
}

fn version(text: Option<&str>) -> Result<Version, Failure> {
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| Failure::Unclear("the watch sent an event without a resourceVersion".to_owned()))
}

fn failure(error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => Failure::of(status),
        error => Failure::Unclear(causes(error)),
    }
}

/// An error with what caused it: the outermost alone ("client error (Connect)") helps nobody.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
