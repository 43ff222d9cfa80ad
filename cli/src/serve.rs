//! Who leads, for a container beside this one: `/`, `/readyz`, `/healthz`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use leasehold::Election;
use leasehold::election::{ElectionHealth, Leader};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long after the end of a leadership this process may take to let go of it.
const TOLERANCE: Duration = Duration::from_secs(20);
/// The pause before somebody is looked for again who could not be seen.
const PAUSE: Duration = Duration::from_secs(2);

struct Told {
    election: Election,
    health: ElectionHealth,
    leader: watch::Receiver<Option<Leader>>,
}

/// The answer to `GET /`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    election: &'a str,
    /// Whether it is this process, by its own clock and at this very moment.
    is_leader: bool,
    /// Who leads, as far as the Lease tells: nobody, where this is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<Leader>,
}

/// Answers until told to stop.
pub(crate) async fn serve(listener: TcpListener, election: Election, stop: CancellationToken) -> std::io::Result<()> {
    let (seen, leader) = watch::channel(None);
    tokio::spawn(observe(election.clone(), seen));
    let told = Told { health: election.health(TOLERANCE), election, leader };
    let routes = Router::new()
        .route("/", get(root))
        .route("/readyz", get(readyz))
        .route("/healthz", get(healthz))
        .with_state(Arc::new(told));
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn observe(election: Election, seen: watch::Sender<Option<Leader>>) {
    let mut leaders = loop {
        match election.observe().await {
            Ok(leaders) => break leaders,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    loop {
        let leader = leaders.changed().await;
        if seen.send(leader).is_err() {
            return;
        }
    }
}

async fn root(State(told): State<Arc<Told>>) -> impl IntoResponse {
    let leader = told.leader.borrow().clone();
    let answer = Answer { election: told.election.name(), is_leader: told.election.is_leader(), leader };
    let kind = [(header::CONTENT_TYPE, "application/json")];
    match serde_json::to_string(&answer) {
        Ok(text) => (StatusCode::OK, kind, text + "\n"),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, kind, format!("{{\"error\": {:?}}}\n", error.to_string())),
    }
}

async fn readyz(State(told): State<Arc<Told>>) -> (StatusCode, &'static str) {
    if told.election.is_leader() {
        (StatusCode::OK, "leads\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "does not lead\n")
    }
}

async fn healthz(State(told): State<Arc<Told>>) -> (StatusCode, String) {
    match told.health.check() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(unhealthy) => (StatusCode::SERVICE_UNAVAILABLE, format!("{unhealthy}\n")),
    }
}
