//! `ui`: a web page on this machine that shows what stands on the Leases.
//!
//! One watch sees what happens and puts it on a board; each page is told what has changed of what it shows. Nothing is
//! written to the cluster.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use leasehold::clock::now;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::args::{ClusterArgs, UiArgs};
use crate::config;
use crate::exit::{Failure, say};
use crate::output::print_on;
use crate::read::Leases;
use crate::signals::Signals;

mod assets;
mod detail;
mod feed;
mod http;
mod list;
mod resource;
mod state;
mod timeline;
mod wait_for;
mod watching;

use feed::About;
use http::Site;
use state::Board;
use watching::Shared;

/// How long pages are given to hear that this is over.
const GOODBYE: Duration = Duration::from_secs(2);

pub(crate) async fn ui(cluster: &ClusterArgs, args: &UiArgs) -> Result<u8, Failure> {
    let config = config::load(cluster).await?;
    let mut signals = Signals::ending().map_err(|error| Failure::internal(&error))?;
    let leases = Leases::new(config)?;
    let listener = listen(args).await?;
    let bound = listener.local_addr().map_err(|error| Failure::internal(&error))?;
    let (all, events) = tokio::select! {
        biased;
        _ = signals.next_ending() => return Ok(0),
        looked = watching::look(&leases, args.all_namespaces) => looked?,
    };
    let began = now().stamp;
    let mut board = Board::new(began);
    board.relist(all, began);
    let shared = Shared::new(board);
    let about = About {
        version: env!("CARGO_PKG_VERSION"),
        namespace: (!args.all_namespaces).then(|| leases.namespace().to_owned()),
        context: config::context().map(str::to_owned),
        server: config::server().to_owned(),
        since: Some(began),
    };
    let stop = CancellationToken::new();
    let site = Site::new(shared.clone(), Some(leases.clone()), about, stop.clone());
    let routes = http::routes(site, bound.ip());
    let mut served = tokio::spawn(
        axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned()).into_future(),
    );
    tell(&leases, args, bound)?;
    tokio::select! {
        biased;
        _ = signals.next_ending() => {}
        () = watching::follow(&shared, &leases, args.all_namespaces, events) => {}
        ended = &mut served => {
            let why = ended.map_err(std::io::Error::other).and_then(|ended| ended);
            return why.map(|()| 0).map_err(|error| Failure::internal(&error));
        }
    }
    stop.cancel();
    let _ = timeout(GOODBYE, served).await;
    Ok(0)
}

async fn listen(args: &UiArgs) -> Result<TcpListener, Failure> {
    let address = SocketAddr::new(args.address, args.port);
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "\nPerhaps this is served there already. Choose another port: --port N, or --port 0 for any that is free"
            }
            std::io::ErrorKind::PermissionDenied => "\nChoose a port from 1024 on: --port N",
            std::io::ErrorKind::AddrNotAvailable => "\nThis machine has no such address",
            _ => "",
        };
        Failure::usage(format!("cannot serve at {address}: {error}{advice}"))
    })
}

/// Says where it is: to a script on standard output, to people on standard error.
fn tell(leases: &Leases, args: &UiArgs, bound: SocketAddr) -> Result<(), Failure> {
    let place = if args.all_namespaces { format!("in all namespaces{}", config::of_context()) } else { leases.place() };
    let url = http::url(bound);
    say(format_args!("showing what is held {place}; Ctrl-C ends it"));
    if !bound.ip().is_loopback() {
        say(format_args!(
            "WARNING: anybody who reaches {bound} over the network sees this with your rights; there is no password and no \
             encryption"
        ));
    }
    // Nobody who reads that is no reason to end: the port may have been chosen.
    print_on(&format!("{url}\n"))?;
    if args.open
        && let Err(error) = open(&url)
    {
        say(format_args!("no browser can be opened ({error}): open {url} yourself"));
    }
    Ok(())
}

fn open(url: &str) -> std::io::Result<()> {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(program);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child =
        command.spawn().map_err(|error| std::io::Error::new(error.kind(), format!("{program}: {error}")))?;
    // It may stay as long as the browser does.
    std::thread::spawn(move || match child.wait() {
        Ok(status) if !status.success() => say(format_args!("no browser was opened: {program} ended with {status}")),
        _ => {}
    });
    Ok(())
}
