use axum::body::Body;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use super::super::state::Board;
use super::super::state::tests::{at, lock};
use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const EVERYWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

fn shared() -> Arc<Shared> {
    let mut board = Board::new(at(0));
    board.changed(lock("job", "1", 1, "web-0_aaaaaaaaaa.1", &["web-1_bbbbbbbbbb.1"]), at(1));
    Shared::new(board)
}

fn site(shared: &Arc<Shared>) -> Site {
    Site::new(Arc::clone(shared), None, About::default(), CancellationToken::new())
}

fn request(method: &str, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header("host", "localhost:8532")
}

async fn answer(request: axum::http::request::Builder, address: IpAddr) -> Response {
    routes(site(&shared()), address).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn get_json(path: &str) -> Value {
    let response = answer(request("GET", path), LOOPBACK).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    serde_json::from_str(&text(response).await).unwrap()
}

#[tokio::test]
async fn every_answer_says_what_a_browser_may_do_with_it() {
    for (method, path, status) in [
        ("GET", "/", 200),
        ("HEAD", "/app.js", 200),
        ("GET", "/nothing", 404),
        ("POST", "/", 405),
        ("GET", "/api/locks", 200),
    ] {
        let response = answer(request(method, path), LOOPBACK).await;
        assert_eq!(response.status(), status, "{method} {path}");
        for (name, value) in HEADERS {
            assert_eq!(response.headers().get(&name).unwrap(), value, "{method} {path}");
        }
    }
    assert!(POLICY.contains("default-src 'none'") && POLICY.contains("frame-ancestors 'none'"));
    assert!(!POLICY.contains("unsafe") && !POLICY.contains('*') && !POLICY.contains("http"));
}

#[tokio::test]
async fn nothing_can_be_done_but_read() {
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"] {
        for path in ["/", "/api/locks", "/api/stream", "/nothing"] {
            let response = answer(request(method, path), LOOPBACK).await;
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(response.headers()[header::ALLOW], "GET, HEAD");
        }
    }
}

#[tokio::test]
async fn a_name_that_somebody_else_made_to_point_here_is_refused() {
    let status = async |host: &str, address| {
        let request = Request::builder().uri("/api/locks").header("host", host);
        answer(request, address).await.status()
    };
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8532", "[::1]:8532", "[::1]"] {
        assert_eq!(status(host, LOOPBACK).await, StatusCode::OK, "{host}");
        assert_eq!(status(host, EVERYWHERE).await, StatusCode::OK, "{host}");
    }
    for host in [
        "",
        "evil.example",
        "evil.example:8532",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "user@localhost",
        "2130706433",
        "127.1",
        "0x7f.1",
        "[::1",
        "localhost evil",
    ] {
        assert_eq!(status(host, LOOPBACK).await, StatusCode::FORBIDDEN, "{host}");
        assert_eq!(status(host, EVERYWHERE).await, StatusCode::FORBIDDEN, "{host}");
    }
    assert_eq!(status("10.0.0.7:8532", LOOPBACK).await, StatusCode::FORBIDDEN);
    assert_eq!(status("10.0.0.7:8532", EVERYWHERE).await, StatusCode::OK);
    // No Host at all, two of them, or another one in the request's line.
    let none = Request::builder().uri("/");
    assert_eq!(answer(none, LOOPBACK).await.status(), StatusCode::FORBIDDEN);
    let two = request("GET", "/").header("host", "localhost");
    assert_eq!(answer(two, LOOPBACK).await.status(), StatusCode::FORBIDDEN);
    let other = request("GET", "http://evil.example/");
    assert_eq!(answer(other, LOOPBACK).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn another_sites_page_is_not_answered() {
    let from = async |site: &str, path: &str| {
        answer(request("GET", path).header("sec-fetch-site", site), LOOPBACK).await.status()
    };
    // A page of another port of this machine is of the same site.
    for site in ["cross-site", "same-site", "", "Same-Origin", "same-origin, cross-site", "of-tomorrow"] {
        for path in ["/api/stream", "/api/locks", "/api/graph"] {
            assert_eq!(from(site, path).await, StatusCode::FORBIDDEN, "{site} {path}");
        }
    }
    let two =
        request("GET", "/api/locks").header("sec-fetch-site", "same-origin").header("sec-fetch-site", "same-site");
    assert_eq!(answer(two, LOOPBACK).await.status(), StatusCode::FORBIDDEN);
    for site in ["same-origin", "none"] {
        assert_eq!(from(site, "/api/locks").await, StatusCode::OK, "{site}");
    }
    // Older browsers say nothing, and no other programs do.
    assert_eq!(answer(request("GET", "/api/locks"), LOOPBACK).await.status(), StatusCode::OK);
    // A link to the page is followed.
    assert_eq!(from("cross-site", "/").await, StatusCode::OK);
}

#[tokio::test]
async fn what_is_asked_for_is_answered() {
    let list = get_json("/api/locks?filter=contended").await;
    assert_eq!((&list["rows"][0]["name"], &list["counts"]["matching"]), (&"job".into(), &1.into()));
    assert_eq!(get_json("/api/locks?filter=free").await["rows"], Value::Array(Vec::new()));
    let lock = get_json("/api/locks/ops/job").await;
    assert_eq!(lock["lock"]["holders"][0]["identity"], "web-0_aaaaaaaaaa.1");
    assert_eq!(lock["timeline"]["spans"][1]["role"], "waits");
    assert!(get_json("/api/locks/ops/other").await.get("lock").is_none());
    assert_eq!(get_json("/api/graph").await["nodes"].as_array().unwrap().len(), 3);
    for (path, status) in [
        ("/api/locks?filter=x", 400),
        ("/api/locks?rows=1001", 400),
        ("/api/stream?lock=job", 400),
        ("/api/locks/ops/a%2Fb", 400),
        ("/api/locks/ops/job/resource", 404),
        ("/api/nothing", 404),
        ("/../../etc/passwd", 404),
    ] {
        assert_eq!(answer(request("GET", path), LOOPBACK).await.status(), status, "{path}");
    }
}

/// The next event of a stream: its name and its data.
async fn event(body: &mut Body) -> (String, Value) {
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let frame = String::from_utf8(frame.to_vec()).unwrap();
    let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    (field("event: "), serde_json::from_str(&field("data: ")).unwrap())
}

#[tokio::test]
async fn a_page_is_told_at_first_everything_and_then_what_changes_until_the_end() {
    let shared = shared();
    let site = site(&shared);
    let stop = site.stop.clone();
    let request = request("GET", "/api/stream?lock=ops/job").body(Body::empty()).unwrap();
    let response = routes(site, LOOPBACK).oneshot(request).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    let mut body = response.into_body();
    for name in ["about", "server", "list", "lock"] {
        assert_eq!(event(&mut body).await.0, name);
    }
    shared.change(|board, now| board.changed(lock("job", "1", 2, "web-1_bbbbbbbbbb.1", &[]), now));
    let (name, list) = event(&mut body).await;
    assert_eq!((&*name, &list["rows"][0]["holder"]), ("list", &"web-1".into()));
    let (name, lock) = event(&mut body).await;
    assert_eq!((&*name, lock["timeline"]["spans"].as_array().unwrap().len()), ("lock", 3));
    stop.cancel();
    assert!(body.frame().await.is_none(), "it ends");
}

#[tokio::test]
async fn only_so_many_pages_are_told() {
    let routes = routes(site(&shared()), LOOPBACK);
    let open = async || {
        let request = request("GET", "/api/stream").body(Body::empty()).unwrap();
        routes.clone().oneshot(request).await.unwrap()
    };
    let mut pages = Vec::new();
    for _ in 0..PAGES {
        pages.push(open().await);
    }
    assert!(pages.iter().all(|page| page.status() == StatusCode::OK));
    assert_eq!(open().await.status(), StatusCode::SERVICE_UNAVAILABLE);
    pages.pop();
    assert_eq!(open().await.status(), StatusCode::OK, "one was closed");
}

#[test]
fn an_address_that_means_all_is_told_as_one_that_can_be_opened() {
    let told = |address: &str| url(address.parse().unwrap());
    assert_eq!(told("127.0.0.1:80"), "http://127.0.0.1:80/");
    assert_eq!(told("0.0.0.0:8532"), "http://127.0.0.1:8532/");
    assert_eq!(told("[::]:8532"), "http://[::1]:8532/");
    assert_eq!(told("10.1.2.3:1"), "http://10.1.2.3:1/");
}
