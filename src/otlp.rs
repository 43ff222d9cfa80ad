//! Traces are exported by OTLP over HTTP, in a thread of its own and in batches.
//!
//! Nothing waits for the collector: what it does not take is dropped once the queue is full, and that it cannot be
//! reached is told once, until it can be again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use http::Uri;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

/// What these spans are of.
const SERVICE: &str = "leasehold-operator";
/// No request takes longer than this.
const LIMIT: Duration = Duration::from_secs(5);
/// No answer is longer than this.
const LONGEST: usize = 1 << 20;

/// The export of traces.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Begins to export to a collector, whether it can be reached or not. `instance` is what this process is called.
    ///
    /// # Errors
    /// `endpoint` is no URL of a collector, or begins with `https` where no certificate authorities are found.
    pub fn start(endpoint: &str, instance: &str, runtime: &Handle) -> Result<Self> {
        let url: Uri =
            format!("{}/v1/traces", endpoint.trim_end_matches('/')).parse().with_context(|| no_url(endpoint))?;
        ensure!(url.host().is_some() && matches!(url.scheme_str(), Some("http" | "https")), no_url(endpoint));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector::new(&url, runtime.clone())?)
            .with_endpoint(url.to_string())
            .with_timeout(LIMIT)
            .build()
            .context("traces cannot be exported")?;
        let resource = Resource::builder()
            .with_service_name(SERVICE)
            .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            provider: SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build(),
        })
    }

    /// The spans that are exported: the operator's own, those of requests to the API server, and whatever else there is
    /// at `info`.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let what = Targets::new()
            .with_default(Level::INFO)
            .with_target("leasehold_operator::spans", Level::DEBUG)
            .with_target("kube_client::client::builder", Level::DEBUG);
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(SERVICE))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(what)
    }

    /// Exports what has not been exported yet, and ends. Blocks the thread, but for no longer than `limit`.
    pub fn flush(&self, limit: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(limit) {
            tracing::warn!(%error, "the last spans could not be exported");
        }
    }
}

fn no_url(endpoint: &str) -> String {
    format!("--otlp-endpoint: {endpoint:?} is no URL of a collector: write for instance http://collector:4318")
}

/// The way to the collector, by tasks of the operator's runtime.
#[derive(Debug)]
struct Collector {
    post: Post,
    runtime: Handle,
    /// It could not be reached last time, or did not want what it got.
    away: Arc<AtomicBool>,
}

#[derive(Clone, Debug)]
enum Post {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<hyper_rustls::HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Collector {
    fn new(url: &Uri, runtime: Handle) -> Result<Self> {
        let builder = Client::builder(TokioExecutor::new());
        let post = if url.scheme_str() == Some("https") {
            let connector = HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
                .context(
                    "--otlp-endpoint: no certificate authorities were found: set SSL_CERT_FILE to a file of them",
                )?;
            Post::Tls(builder.build(connector.https_only().enable_http1().build()))
        } else {
            Post::Plain(builder.build(HttpConnector::new()))
        };
        Ok(Self { post, runtime, away: Arc::default() })
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (post, away) = (self.post.clone(), Arc::clone(&self.away));
        let sent = self.runtime.spawn(async move {
            let url = request.uri().clone();
            let answer = tokio::time::timeout(LIMIT, post.send(request)).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs()).into()));
            let failed = match &answer {
                Ok(answer) if answer.status().is_success() => None,
                Ok(answer) => Some(format!("it answered {}", answer.status())),
                Err(error) => Some(in_full(error.as_ref())),
            };
            match (failed, away.load(Ordering::Relaxed)) {
                (Some(error), false) => {
                    tracing::warn!(%url, error, "traces cannot be exported, and are dropped until they can be");
                    away.store(true, Ordering::Relaxed);
                }
                (None, true) => {
                    tracing::info!(%url, "traces are exported again");
                    away.store(false, Ordering::Relaxed);
                }
                (Some(_), true) | (None, false) => {}
            }
            answer
        });
        sent.await?
    }
}

impl Post {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        match self {
            Self::Plain(client) => send(client, request).await,
            Self::Tls(client) => send(client, request).await,
        }
    }
}

async fn send<C>(client: &Client<C, Full<Bytes>>, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
    let body = Limited::new(body, LONGEST).collect().await?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

/// An error, and what it comes from.
fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests;
