//! Starting everything, and stopping it again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kube::{Client, Config};
use leasehold::clock;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::announce::Announcer;
use crate::args::RunArgs;
use crate::leases::Leases;
use crate::lock;
use crate::metrics::Metrics;
use crate::scope::Scope;
use crate::serve::{Told, serve};
use crate::warden::{self, Place, Post, Warden};

/// How long everything may take to finish at the end.
const FINISH: Duration = Duration::from_secs(8);

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting, and a task that ended by itself.
pub async fn run(args: RunArgs) -> Result<()> {
    let config = Config::infer().await.context(
        "no way to the API server was found: run in a pod with a service account, or set KUBECONFIG to a kubeconfig",
    )?;
    let listener = TcpListener::bind(args.metrics_addr)
        .await
        .with_context(|| format!("cannot serve metrics on {}: choose another --metrics-addr", args.metrics_addr))?;
    tracing::info!(address = %listener.local_addr()?, "serving /metrics, /healthz and /readyz");

    let stop = CancellationToken::new();
    let mut tasks = start(&args, config, listener, &stop)?;
    let ended = tokio::select! {
        signal = told_to_stop() => {
            tracing::info!(signal = signal?, "stopping");
            Ok(())
        }
        Some(ended) = tasks.join_next() => {
            let ended = ended.context("a task of the operator has failed").and_then(|task| task);
            Err(ended.err().unwrap_or_else(|| anyhow::anyhow!("a task of the operator has ended by itself")))
        }
    };
    stop.cancel();
    let finish = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(FINISH, finish).await.is_err() {
        tracing::warn!("not everything finished within {} s", FINISH.as_secs());
    }
    ended
}

/// Two connections: one for Leases alone, one for everything else.
fn start(
    args: &RunArgs,
    config: Config,
    listener: TcpListener,
    stop: &CancellationToken,
) -> Result<JoinSet<Result<()>>> {
    let scopes = Scope::list(args.namespaces.clone());
    let metrics = Arc::new(Metrics::new());
    let leases = Leases::new(config.clone(), Arc::clone(&metrics));
    let leases = Arc::new(leases.context("the configuration of the API server cannot be used")?);
    let client = Client::try_from(config).context("the configuration of the API server cannot be used")?;
    let warden = Warden::new(format!("operator {}", args.name));
    let post = Arc::new(Post::new(warden, clock::now().moment));
    let (announcer, publishing) = Announcer::start(client.clone(), args.name.clone(), Arc::clone(&metrics));
    let context = Arc::new(lock::Context::new(
        client.clone(),
        Arc::clone(&leases),
        Arc::clone(&post),
        announcer,
        Arc::clone(&metrics),
    ));
    let (tell, told) = unbounded_channel();

    let mut tasks = JoinSet::new();
    let controllers: Vec<Control> = scopes.iter().cloned().map(Control::new).collect();
    let ready = controllers.iter().map(|control| control.ready.clone()).collect();
    let routes = controllers.iter().map(|control| (control.scope.clone(), control.changed.clone())).collect();
    let running: FuturesUnordered<_> =
        controllers.into_iter().map(|control| control.run(Arc::clone(&context), stop.clone())).collect();
    tasks.spawn(async move {
        running.collect::<()>().await;
        Ok(())
    });
    tasks.spawn(done(route(told, routes)));
    tasks.spawn(done(publishing));
    let answers = Told { post: Arc::clone(&post), metrics: Arc::clone(&metrics), ready };
    let serving = serve(listener, answers, stop.clone());
    tasks.spawn(async move { serving.await.context("serving metrics failed") });
    let tools = warden::Tools { post, leases, metrics, changed: tell };
    tasks.spawn(done(warden::run(tools, client, scopes, stop.clone())));
    Ok(tasks)
}

/// One controller, with its way to be told of changes.
struct Control {
    scope: Scope,
    ready: CancellationToken,
    changed: UnboundedSender<Place>,
    changes: UnboundedReceiver<Place>,
}

impl Control {
    fn new(scope: Scope) -> Self {
        let (tell, told) = unbounded_channel();
        Self { scope, ready: CancellationToken::new(), changed: tell, changes: told }
    }

    async fn run(self, context: Arc<lock::Context>, stop: CancellationToken) {
        let changes = futures::stream::unfold(self.changes, async |mut changes| Some((changes.recv().await?, changes)));
        lock::run(self.scope, changes, context, self.ready, stop).await;
    }
}

/// Brings each change to the controllers in whose scope it is.
async fn route(mut changes: UnboundedReceiver<Place>, routes: Vec<(Scope, UnboundedSender<Place>)>) {
    while let Some(place) = changes.recv().await {
        for (_, changed) in routes.iter().filter(|(scope, _)| scope.includes(&place.namespace)) {
            let _ = changed.send(place.clone());
        }
    }
}

async fn done(task: impl Future<Output = ()>) -> Result<()> {
    task.await;
    Ok(())
}

async fn told_to_stop() -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
