//! What is answered to whom.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::stream::{self, Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::assets;
use super::detail::Detail;
use super::feed::{About, Feed, Message, Wanted};
use super::list::Window;
use super::resource;
use super::state::Key;
use super::watching::Shared;
use crate::output::compact;
use crate::read::Leases;

/// How many pages are told of changes at once.
const PAGES: usize = 64;
/// A page is told of changes at most so often.
const PAUSE: Duration = Duration::from_millis(250);
/// The same of one that shows who waits for whom, which takes a look at all locks.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// A page that hears nothing for longer takes this process for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Scripts, styles and answers of this process alone, nothing from anywhere else, and no script made of text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
/// On every answer.
const HEADERS: [(header::HeaderName, &str); 7] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// What answers are made of.
pub(super) struct Site {
    pub(super) shared: Arc<Shared>,
    /// For a lock's custom resource and its Events. `None`: there are none, as in a test without a cluster.
    pub(super) leases: Option<Leases>,
    pub(super) about: About,
    pub(super) stop: CancellationToken,
    pages: Arc<Semaphore>,
}

impl Site {
    pub(super) fn new(shared: Arc<Shared>, leases: Option<Leases>, about: About, stop: CancellationToken) -> Self {
        Self { shared, leases, about, stop, pages: Arc::new(Semaphore::new(PAGES)) }
    }
}

/// All that is answered, where it is served at this address.
pub(super) fn routes(site: Site, address: IpAddr) -> Router {
    Router::new()
        .route("/api/stream", get(stream))
        .route("/api/locks", get(locks))
        .route("/api/locks/{namespace}/{lease}", get(lock))
        .route("/api/locks/{namespace}/{lease}/resource", get(resource))
        .route("/api/graph", get(graph))
        .fallback(asset)
        .layer(middleware::from_fn_with_state(address, guard))
        .with_state(Arc::new(site))
}

/// Lets in who reads, from this machine's own pages, and says on every answer what a browser may do with it.
async fn guard(State(address): State<IpAddr>, request: Request, next: Next) -> Response {
    // Another port of this machine is the same site, but somebody else's page.
    let mut sites = request.headers().get_all("sec-fetch-site").iter();
    let from_elsewhere = sites.any(|site| site != "same-origin" && site != "none");
    let mut response = if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let allow = [(header::ALLOW, "GET, HEAD")];
        (StatusCode::METHOD_NOT_ALLOWED, allow, "nothing can be changed here\n").into_response()
    } else if !is_for_us(request.uri(), request.headers(), address) {
        let why = "the request's Host is none of this process: open the page at the address that it has printed\n";
        (StatusCode::FORBIDDEN, why).into_response()
    } else if from_elsewhere && request.uri().path().starts_with("/api/") {
        (StatusCode::FORBIDDEN, "only this process's own pages are answered\n").into_response()
    } else {
        next.run(request).await
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a browser that sent this took it for one of this machine's names. A name that somebody else has made to point
/// here is none: whose page that is could read everything otherwise.
fn is_for_us(uri: &Uri, headers: &HeaderMap, address: IpAddr) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Some(host) = host.to_str().ok().and_then(|host| host.parse::<axum::http::uri::Authority>().ok()) else {
        return false;
    };
    let named = |host: &str| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            // An address is what it says. Who serves to other machines is reached by others of its own.
            Ok(ip) => ip.is_loopback() || !address.is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        }
    };
    !host.as_str().contains('@') && named(host.host()) && uri.host().is_none_or(named)
}

fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text + "\n").into_response()
}

fn wrong(why: String) -> Response {
    (StatusCode::BAD_REQUEST, why + "\n").into_response()
}

async fn asset(uri: Uri) -> Response {
    match assets::find(uri.path()) {
        Some((kind, text)) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        None => (StatusCode::NOT_FOUND, "there is nothing here\n").into_response(),
    }
}

async fn locks(State(site): State<Arc<Site>>, RawQuery(query): RawQuery) -> Response {
    match Wanted::parse(&query.unwrap_or_default()) {
        Ok(wanted) => json(compact(&Window::new(wanted.list).look(&site.shared.board()))),
        Err(why) => wrong(why),
    }
}

async fn lock(State(site): State<Arc<Site>>, Path((namespace, lease)): Path<(String, String)>) -> Response {
    match Key::parse(&format!("{namespace}/{lease}")) {
        Some(key) => json(compact(&Detail::of(&site.shared.board(), &key))),
        None => wrong("NAMESPACE/LEASE is expected".to_owned()),
    }
}

async fn graph(State(site): State<Arc<Site>>) -> Response {
    json(compact(&*site.shared.drawn().await))
}

async fn resource(State(site): State<Arc<Site>>, Path((namespace, lease)): Path<(String, String)>) -> Response {
    let Some(key) = Key::parse(&format!("{namespace}/{lease}")) else {
        return wrong("NAMESPACE/LEASE is expected".to_owned());
    };
    let resource = site.shared.board().locks.get(&key).and_then(|seat| seat.resource.clone());
    match (resource, &site.leases) {
        (Some((kind, name)), Some(leases)) => {
            json(compact(&resource::look(leases.client(), &key.namespace, &kind, &name).await))
        }
        _ => (StatusCode::NOT_FOUND, "it has no custom resource\n").into_response(),
    }
}

async fn stream(State(site): State<Arc<Site>>, RawQuery(query): RawQuery) -> Response {
    let wanted = match Wanted::parse(&query.unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(why) => return wrong(why),
    };
    let Ok(page) = Arc::clone(&site.pages).try_acquire_owned() else {
        let why = format!("{PAGES} pages are open already: close some\n");
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    let messages = messages(&site, Feed::new(wanted, site.about.clone()), page);
    let events = messages.map(|(name, text)| Ok::<_, Infallible>(Event::default().event(name).data(text)));
    // A comment would not be told to the page's script.
    let alive = KeepAlive::new().interval(KEEP_ALIVE).event(Event::default().event("alive").data("{}"));
    Sse::new(events.take_until(site.stop.clone().cancelled_owned())).keep_alive(alive).into_response()
}

fn messages(site: &Site, feed: Feed, page: OwnedSemaphorePermit) -> impl Stream<Item = Message> + use<> {
    struct Page {
        feed: Feed,
        shared: Arc<Shared>,
        changes: watch::Receiver<u64>,
        first: bool,
        _permit: OwnedSemaphorePermit,
    }
    let changes = site.shared.changes();
    let page = Page { feed, shared: Arc::clone(&site.shared), changes, first: true, _permit: page };
    let told = stream::unfold(page, |mut page| async move {
        loop {
            if !page.first {
                sleep(if page.feed.shows_graph() { LONG_PAUSE } else { PAUSE }).await;
                page.changes.changed().await.ok()?;
            }
            page.first = false;
            page.changes.mark_unchanged();
            let drawn = if page.feed.shows_graph() { Some(page.shared.drawn().await) } else { None };
            let messages = page.feed.tell(&page.shared.board(), drawn);
            if !messages.is_empty() {
                return Some((stream::iter(messages), page));
            }
        }
    });
    told.flatten()
}

/// Where a page is found.
pub(super) fn url(address: SocketAddr) -> String {
    let shown = match address.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => SocketAddr::from(([127, 0, 0, 1], address.port())),
        ip if ip.is_unspecified() => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, address.port())),
        _ => address,
    };
    format!("http://{shown}/")
}

#[cfg(test)]
mod tests;
