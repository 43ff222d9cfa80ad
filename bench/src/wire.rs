//! How a request is sent: by PUT or JSON Patch, as JSON or protobuf, by HTTP/1.1 or HTTP/2, on a connection that is kept or not.
//!
//! Protobuf is neither read nor written here as a client would have to: what differs is told by the API server's side alone.

use anyhow::{Context as _, Result, bail};
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use hdrhistogram::Histogram;
use http::{Request, Response, header};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::client::{Body, ConfigExt as _};
use leasehold::clock;
use leasehold_testkit::Cluster;
use serde_json::json;
use tower::{BoxError, ServiceBuilder};

use crate::measure::{Bench, millis, ratio, record};
use crate::usage::{Servers, Spent};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// They take turns, so that what else goes on befalls all alike.
const TURNS: usize = 5;
/// As long as each other: in protobuf one takes the place of the other.
const HOLDERS: [&str; 2] = ["holder-one_u0123.1", "holder-two_u4567.2"];

/// The way to the API server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    One,
    Two,
    /// HTTP/1.1, and a connection for each request.
    Anew,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Protobuf,
}

struct Variant {
    name: &'static str,
    way: Way,
    patch: bool,
    sent: Format,
    answered: Format,
    gzip: bool,
    /// So many annotations stand there besides.
    keys: usize,
    /// Somebody watches, and what is measured ends with the event.
    watched: Option<Format>,
}

const PUT: Variant = Variant {
    name: "put",
    way: Way::One,
    patch: false,
    sent: Format::Json,
    answered: Format::Json,
    gzip: false,
    keys: 0,
    watched: None,
};
const PATCH: Variant = Variant { name: "patch", patch: true, ..PUT };
const EVENT: Variant = Variant { name: "put_event", watched: Some(Format::Json), ..PUT };

const VARIANTS: [Variant; 14] = [
    PUT,
    Variant { name: "put_gzip", gzip: true, ..PUT },
    Variant { name: "put_protobuf_answer", answered: Format::Protobuf, ..PUT },
    Variant { name: "put_protobuf", sent: Format::Protobuf, answered: Format::Protobuf, ..PUT },
    Variant { name: "put_http2", way: Way::Two, ..PUT },
    Variant { name: "put_new_connection", way: Way::Anew, ..PUT },
    PATCH,
    Variant { name: "patch_protobuf_answer", answered: Format::Protobuf, ..PATCH },
    Variant { name: "patch_128_keys", keys: 128, ..PATCH },
    Variant { name: "patch_128_keys_protobuf_answer", keys: 128, answered: Format::Protobuf, ..PATCH },
    EVENT,
    Variant { name: "put_event_protobuf", watched: Some(Format::Protobuf), ..EVENT },
    Variant { name: "put_event_http2", way: Way::Two, ..EVENT },
    Variant { name: "put_event_128_keys_protobuf", watched: Some(Format::Protobuf), keys: 128, ..EVENT },
];

/// One variant at work, on a Lease of its own.
struct Runner {
    variant: &'static Variant,
    client: Client,
    path: String,
    uid: String,
    /// The last answer.
    stands: Vec<u8>,
    version: String,
    turn: usize,
    watch: Option<Watch>,
    times: Histogram<u64>,
    spent: Option<Spent>,
    done: u64,
    answer_bytes: usize,
    is_compressed: bool,
}

/// Measures all variants, so many requests each.
pub(crate) async fn wire(bench: &mut Bench, cluster: &Cluster, rounds: usize) -> Result<()> {
    let servers = Servers::of(cluster).await;
    let mut runners = Vec::new();
    for variant in &VARIANTS {
        runners.push(Runner::new(bench, variant).await?);
    }
    for _ in 0..TURNS {
        for runner in &mut runners {
            for _ in 0..10 {
                runner.request(false).await?;
            }
            let before = servers.as_ref().map(Servers::spent).transpose()?;
            for _ in 0..rounds.div_ceil(TURNS) {
                runner.request(true).await?;
            }
            if let (Some(servers), Some(before)) = (&servers, before) {
                let spent = servers.spent()? - before;
                runner.spent = Some(runner.spent.map_or(spent, |sum| sum + spent));
            }
        }
    }
    let floor = millis(&runners[0].times);
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header([
        "",
        "median, ms",
        "× a PUT",
        "clients, CPU ms",
        "API server, CPU ms",
        "answer, B",
        "compressed",
    ]);
    for runner in &runners {
        let (name, took) = (runner.variant.name, millis(&runner.times));
        bench.report.add(&format!("wire_{name}"), took, "ms", Some(floor), runner.times.len());
        let each = |seconds: f64| seconds * 1000.0 / ratio(runner.done, 1);
        let cpu = runner.spent.map(|spent| [each(spent.clients), each(spent.apiserver)]);
        if let Some([clients, apiserver]) = cpu {
            bench.report.add(&format!("wire_{name}_cpu_clients"), clients, "ms", None, runner.done);
            bench.report.add(&format!("wire_{name}_cpu_apiserver"), apiserver, "ms", None, runner.done);
        }
        let cpu = cpu.map_or_else(Default::default, |cpu| cpu.map(|cpu| format!("{cpu:.3}")));
        let [clients, apiserver] = cpu;
        table.add_row([
            name.to_owned(),
            format!("{took:.3}"),
            format!("{:.2}", took / floor),
            clients,
            apiserver,
            runner.answer_bytes.to_string(),
            if runner.is_compressed { "yes" } else { "no" }.to_owned(),
        ]);
    }
    for column in 1..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("\n{table}");
    Ok(())
}

impl Runner {
    async fn new(bench: &Bench, variant: &'static Variant) -> Result<Self> {
        let name = format!("wire-{}", variant.name.replace('_', "-"));
        let lease = bench.lease(&name).await?;
        let client = connect(&bench.config, variant.way)?;
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", bench.namespace);
        let uid = lease.metadata.uid.context("a uid")?;
        let annotations: serde_json::Map<String, serde_json::Value> = (0..variant.keys)
            .map(|n| (format!("join.leasehold.dev/contender-{n}_uabcdefgh.{n}"), json!((100_000 + n).to_string())))
            .collect();
        // As the first write of the protocol does it: from then on nothing keeps account of who has written what.
        let first = json!([
            {"op": "add", "path": "/metadata/managedFields", "value": [{}]},
            {"op": "add", "path": "/metadata/annotations", "value": annotations},
            {"op": "add", "path": "/spec", "value": {"holderIdentity": HOLDERS[0], "leaseTransitions": 1}},
        ]);
        let mut runner = Self {
            variant,
            client,
            path: format!("{path}/{name}"),
            uid,
            stands: Vec::new(),
            version: String::new(),
            turn: 0,
            watch: None,
            times: Histogram::new(3)?,
            spent: None,
            done: 0,
            answer_bytes: 0,
            is_compressed: false,
        };
        let request = Request::patch(&runner.path).header(header::CONTENT_TYPE, "application/json-patch+json");
        runner.send(request, serde_json::to_vec(&first)?).await?;
        if let Some(format) = variant.watched {
            let version = &runner.version;
            let uri = format!("{path}?watch=1&fieldSelector=metadata.name%3D{name}&resourceVersion={version}");
            runner.watch = Some(Watch::open(&runner.client, &uri, format).await?);
        }
        Ok(runner)
    }

    /// Gives the Lease from one holder to the other.
    async fn request(&mut self, measured: bool) -> Result<()> {
        let (from, to) = (HOLDERS[self.turn % 2], HOLDERS[(self.turn + 1) % 2]);
        self.turn += 1;
        let begun = clock::moment();
        if self.variant.patch {
            let steps = json!([
                {"op": "test", "path": "/metadata/uid", "value": self.uid},
                {"op": "test", "path": "/spec/holderIdentity", "value": from},
                {"op": "replace", "path": "/spec/holderIdentity", "value": to},
            ]);
            let request = Request::patch(&self.path).header(header::CONTENT_TYPE, "application/json-patch+json");
            self.send(request, serde_json::to_vec(&steps)?).await?;
        } else if self.variant.sent == Format::Protobuf {
            let body = replaced(&self.stands, from.as_bytes(), to.as_bytes())?;
            self.send(Request::put(&self.path).header(header::CONTENT_TYPE, PROTOBUF), body).await?;
        } else {
            // What stands there is known, as it is to a client.
            let mut lease: Lease = match self.variant.answered {
                Format::Json => serde_json::from_slice(&self.stands)?,
                Format::Protobuf => serde_json::from_value(json!({
                    "metadata": {"name": self.path.rsplit('/').next(), "uid": self.uid, "managedFields": [{}]},
                    "spec": {"leaseTransitions": 1},
                }))?,
            };
            lease.metadata.resource_version = Some(self.version.clone());
            lease.spec.get_or_insert_default().holder_identity = Some(to.to_owned());
            let request = Request::put(&self.path).header(header::CONTENT_TYPE, JSON);
            self.send(request, serde_json::to_vec(&lease)?).await?;
        }
        if let Some(watch) = &mut self.watch {
            watch.event().await?;
        }
        record(&mut self.times, begun, measured)?;
        self.done += u64::from(measured);
        Ok(())
    }

    async fn send(&mut self, request: http::request::Builder, body: Vec<u8>) -> Result<()> {
        let answered = if self.variant.answered == Format::Json { JSON } else { PROTOBUF };
        let mut request = request.header(header::ACCEPT, answered);
        if self.variant.gzip {
            request = request.header(header::ACCEPT_ENCODING, "gzip");
        }
        let answer = self.client.send(request.body(Body::from(body))?).await?;
        let answer = checked(answer).await?;
        self.is_compressed = answer.headers().contains_key(header::CONTENT_ENCODING);
        self.stands = answer.into_body().collect_bytes().await?.to_vec();
        self.answer_bytes = self.stands.len();
        self.version = match self.variant.answered {
            Format::Json => {
                let lease: Lease = serde_json::from_slice(&self.stands)?;
                lease.metadata.resource_version.context("a version")?
            }
            Format::Protobuf => version(&self.stands).context("no version in protobuf")?,
        };
        Ok(())
    }
}

/// Events of a Lease as they come.
struct Watch {
    body: Body,
    format: Format,
    rest: Vec<u8>,
}

impl Watch {
    async fn open(client: &Client, uri: &str, format: Format) -> Result<Self> {
        let accept = match format {
            Format::Json => JSON.to_owned(),
            Format::Protobuf => format!("{PROTOBUF};stream=watch"),
        };
        let answer = client.send(Request::get(uri).header(header::ACCEPT, accept).body(Body::empty())?).await?;
        Ok(Self { body: checked(answer).await?.into_body(), format, rest: Vec::new() })
    }

    /// Waits for the next.
    async fn event(&mut self) -> Result<()> {
        loop {
            let ends = match self.format {
                Format::Json => self.rest.iter().position(|byte| *byte == b'\n').map(|end| end + 1),
                // Each has its length before it.
                Format::Protobuf => match self.rest.first_chunk::<4>() {
                    Some(length) => Some(4 + usize::try_from(u32::from_be_bytes(*length))?),
                    None => None,
                },
            };
            if let Some(end) = ends.filter(|end| *end <= self.rest.len()) {
                let event: Vec<u8> = self.rest.drain(..end).collect();
                if self.format == Format::Json {
                    let _event: kube::core::WatchEvent<Lease> = serde_json::from_slice(&event)?;
                }
                return Ok(());
            }
            let frame = self.body.frame().await.context("the watch ended")??;
            self.rest.extend(frame.into_data().unwrap_or_default());
        }
    }
}

async fn checked(answer: Response<Body>) -> Result<Response<Body>> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status();
    let body = answer.into_body().collect_bytes().await?;
    bail!("{status}: {}", String::from_utf8_lossy(&body));
}

/// A client that goes this way, as the library makes its own otherwise.
fn connect(config: &kube::Config, way: Way) -> Result<Client> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let tls = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?);
    let connector = match way {
        Way::Two => tls.https_only().enable_http2().wrap_connector(connector),
        Way::One | Way::Anew => tls.https_only().enable_http1().wrap_connector(connector),
    };
    let mut builder = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
    builder.http2_only(way == Way::Two);
    if way == Way::Anew {
        builder.pool_max_idle_per_host(0);
    }
    let stack = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .service(builder.build(connector));
    Ok(Client::new(stack, config.default_namespace.clone()))
}

/// These bytes with `to` for `from`, which is as long and occurs once.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Result<Vec<u8>> {
    let at = bytes.windows(from.len()).position(|part| part == from).context("the holder is not there")?;
    let mut bytes = bytes.to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    Ok(bytes)
}

/// The resourceVersion of an object in protobuf: behind four bytes an `Unknown`, whose second field is the object, whose first
/// are the metadata, whose sixth it is.
fn version(bytes: &[u8]) -> Option<String> {
    let object = field(bytes.strip_prefix(b"k8s\0")?, 2)?;
    String::from_utf8(field(field(object, 1)?, 6)?.to_vec()).ok()
}

/// The first field of this number, which has a length.
fn field(mut bytes: &[u8], wanted: u64) -> Option<&[u8]> {
    loop {
        let (tag, rest) = number(bytes)?;
        let (value, rest) = number(rest)?;
        if tag & 7 != 2 {
            // A number: there is nothing else before what is looked for.
            bytes = rest;
            continue;
        }
        let (content, rest) = rest.split_at_checked(usize::try_from(value).ok()?)?;
        if tag >> 3 == wanted {
            return Some(content);
        }
        bytes = rest;
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
    let (digits, rest) = bytes.split_at(length);
    Some((digits.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)), rest))
}
