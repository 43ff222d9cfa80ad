//! `/metrics`, `/healthz` and `/readyz`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use leasehold::clock;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::lead::{Office, Ready};
use crate::metrics::Metrics;
use crate::warden::Post;

/// The warden's loop goes round at least once a second. After this long without it is stuck.
const STUCK: Duration = Duration::from_secs(15);

/// What there is to tell.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) post: Arc<Post>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) office: Office,
    pub(crate) ready: Ready,
}

/// Answers until told to stop.
pub(crate) async fn serve(listener: TcpListener, told: Told, stop: CancellationToken) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(told);
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn metrics(State(told): State<Told>) -> impl IntoResponse {
    let now = clock::now().moment;
    let (census, longest) = told.post.with(|warden| (warden.census(), warden.longest(now)));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], told.metrics.encode(census, longest, told.office.is_ours()))
}

async fn healthz(State(told): State<Told>) -> (StatusCode, String) {
    let silent = clock::now().moment.since(told.post.pulse().beat);
    if silent >= STUCK {
        let told = format!("the watch of Leases has been stuck for {} s\n", silent.as_secs());
        return (StatusCode::SERVICE_UNAVAILABLE, told);
    }
    match told.office.check_health() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(unhealthy) => (StatusCode::SERVICE_UNAVAILABLE, format!("{unhealthy}\n")),
    }
}

async fn readyz(State(told): State<Told>) -> (StatusCode, &'static str) {
    let unseen = (!told.post.pulse().synced).then_some("Leases have not been listed yet\n");
    let what = unseen.or_else(|| told.ready.waits_for());
    what.map_or((StatusCode::OK, "ok\n"), |what| (StatusCode::SERVICE_UNAVAILABLE, what))
}
