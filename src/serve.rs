//! `/metrics`, `/healthz` and `/readyz`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use leasehold::clock;
use leasehold::protocol::Moment;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::hearing::DEAF;
use crate::lead::{Office, Ready};
use crate::leases::{Answers, Leases};
use crate::metrics::Metrics;
use crate::warden::Post;

/// The warden's loop goes round at least once a second. After this long without it is stuck.
const STUCK: Duration = Duration::from_secs(15);
/// A watch that hears nothing is begun anew. After this long, though the API server answers, that has not helped.
const GIVEN_UP: Duration = Duration::from_mins(5);
/// For so long the API server has been answering by then: after an outage a watch needs up to [`DEAF`] to notice that it is
/// deaf, then a pause, and then a list.
const ANSWERS: Duration = Duration::from_mins(2);

/// What there is to tell.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) post: Arc<Post>,
    pub(crate) leases: Arc<Leases>,
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
    let (now, pulse) = (clock::now().moment, told.post.pulse());
    let silent = now.since(pulse.beat);
    if silent >= STUCK {
        let told = format!("the watch of Leases has been stuck for {} s\n", silent.as_secs());
        return (StatusCode::SERVICE_UNAVAILABLE, told);
    }
    if is_given_up(now, pulse.heard, told.leases.answers()) {
        let told = format!("a watch of Leases has heard nothing for {} s\n", now.since(pulse.heard).as_secs());
        return (StatusCode::SERVICE_UNAVAILABLE, told);
    }
    match told.office.check_health() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(unhealthy) => (StatusCode::SERVICE_UNAVAILABLE, format!("{unhealthy}\n")),
    }
}

async fn readyz(State(told): State<Told>) -> (StatusCode, &'static str) {
    let pulse = told.post.pulse();
    let unseen = (!pulse.synced).then_some("Leases have not been listed yet\n");
    let is_deaf = clock::now().moment.since(pulse.heard) > DEAF + Duration::from_secs(5);
    let deaf = is_deaf.then_some("a watch of Leases hears nothing\n");
    let what = unseen.or(deaf).or_else(|| told.ready.waits_for());
    what.map_or((StatusCode::OK, "ok\n"), |what| (StatusCode::SERVICE_UNAVAILABLE, what))
}

/// Whether a watch has heard nothing for very long, though the API server has been answering other requests for longer than
/// a watch needs to begin anew, and lately.
fn is_given_up(now: Moment, heard: Moment, answers: Option<Answers>) -> bool {
    let long_enough = |answers: Answers| {
        let since = answers.since.max(heard);
        answers.last > heard && now.since(answers.last) < GIVEN_UP && answers.last.since(since) >= ANSWERS
    };
    now.since(heard) >= GIVEN_UP && answers.is_some_and(long_enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_given_up_only_where_the_api_server_answers_and_is_not_heard() {
        let at = |minutes| Moment::from_start(Duration::from_mins(minutes));
        for (now, answers, wanted) in [
            (13, Some((1, 13)), false),
            (15, Some((1, 15)), true),
            (15, Some((13, 15)), true),
            (15, Some((1, 12)), true),
            (15, Some((1, 10)), false),
            // It answers again after an outage, and the watch has had no time to begin anew.
            (15, Some((14, 15)), false),
            (15, None, false),
            (20, Some((1, 15)), false),
        ] {
            let told = answers.map(|(since, last)| Answers { since: at(since), last: at(last) });
            assert_eq!(is_given_up(at(now), at(10), told), wanted, "{now} {answers:?}");
        }
    }
}
