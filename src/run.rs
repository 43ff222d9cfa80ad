//! Starting everything, and stopping it again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use kube::{Client, Config};
use leasehold::clock;
use leasehold::election::Leading;
use leasehold::protocol::Kind;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::announce::Announcer;
use crate::args::RunArgs;
use crate::controller::{self, LeaseBacked};
use crate::crd::{DistributedLock, ReadWriteLock, Semaphore};
use crate::hearing::attentive;
use crate::lead::{Office, Ready};
use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::pods;
use crate::scope::Scope;
use crate::serve::{Told, serve};
use crate::warden::{self, Place, Post, Warden};

/// How long everything may take to finish at the end.
const FINISH: Duration = Duration::from_secs(8);
/// How much of it is left for what is to be told of it, where traces are exported.
pub const FLUSH: Duration = Duration::from_secs(2);

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
    let limit = if args.traces_to().is_some() { FINISH.saturating_sub(FLUSH) } else { FINISH };
    if tokio::time::timeout(limit, finish).await.is_err() {
        tracing::warn!("not everything finished within {} s", limit.as_secs());
    }
    ended
}

/// Connections of their own for Leases, for each watch of Leases, and for everything else.
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
    let office = Office::new(args, &config)?;
    let (watches, ears) =
        warden::watch(&config, &scopes).context("the configuration of the API server cannot be used")?;
    let client = Client::try_from(attentive(config)).context("the configuration of the API server cannot be used")?;
    let warden = Warden::new(format!("operator {}", args.name));
    let post = Arc::new(Post::new(warden, clock::now().moment));
    let ready = Ready::default();
    let (announcer, publishing) = Announcer::start(client.clone(), args.name.clone(), Arc::clone(&metrics));
    let tools = controller::Tools {
        client: client.clone(),
        leases: Arc::clone(&leases),
        post: Arc::clone(&post),
        announcer,
        metrics: Arc::clone(&metrics),
    };
    let (tell, told) = unbounded_channel();

    let mut tasks = JoinSet::new();
    let acting = Acting { scopes: scopes.clone(), tools, told: Arc::new(told.into()), ready: ready.clone() };
    tasks.spawn({
        let (office, ready, stop) = (office.clone(), ready.clone(), stop.clone());
        async move { office.hold(&ready, stop.clone(), |leading| acting.clone().act(leading, stop.clone())).await }
    });
    tasks.spawn(done(publishing));
    let answers = Told {
        post: Arc::clone(&post),
        leases: Arc::clone(&leases),
        metrics: Arc::clone(&metrics),
        office: office.clone(),
        ready,
    };
    let serving = serve(listener, answers, stop.clone());
    tasks.spawn(async move { serving.await.context("serving metrics failed") });
    if args.evidence {
        let tools = pods::Tools { post: Arc::clone(&post), metrics: Arc::clone(&metrics) };
        tasks.spawn(done(pods::run(tools, client.clone(), scopes.clone(), stop.clone())));
    }
    let tools = warden::Tools { post, leases, metrics, office, changed: tell };
    tasks.spawn(done(warden::run(tools, watches, ears, stop.clone())));
    Ok(tasks)
}

/// What a replica does while it acts, besides what the warden does.
#[derive(Clone)]
struct Acting {
    scopes: Vec<Scope>,
    tools: controller::Tools,
    told: Arc<Mutex<UnboundedReceiver<(Place, Kind)>>>,
    ready: Ready,
}

/// However it ends, nobody is told of locks any more, and this replica stands by.
struct StandBy(Arc<Post>, Ready);

impl Drop for StandBy {
    fn drop(&mut self) {
        self.0.with(Warden::unfollow_all);
        self.1.stands_by();
    }
}

impl Acting {
    /// Runs all controllers until told to stop, or until `leading` ends.
    async fn act(self, leading: Option<Leading>, stop: CancellationToken) {
        let Self { scopes, tools, told, ready } = self;
        let mut told = told.lock_owned().await;
        let mut controls = controls::<DistributedLock>(&scopes, &tools, &stop, leading.as_ref());
        controls.extend(self::controls::<Semaphore>(&scopes, &tools, &stop, leading.as_ref()));
        controls.extend(self::controls::<ReadWriteLock>(&scopes, &tools, &stop, leading.as_ref()));
        ready.acts(controls.iter().map(|control| control.ready.clone()).collect());
        let _stand_by = StandBy(Arc::clone(&tools.post), ready);
        let (routes, running): (Vec<_>, FuturesUnordered<_>) =
            controls.into_iter().map(|control| (control.route, control.running)).unzip();
        // What was known while others acted is to be acted upon now.
        tools.post.with(|_| ());
        tokio::select! {
            () = running.collect::<()>() => {}
            () = route(&mut told, routes) => {}
        }
    }
}

/// One controller, with its way to be told of changes.
struct Control {
    ready: CancellationToken,
    route: Route,
    running: BoxFuture<'static, ()>,
}

/// Where changes of a kind of resource are to be told.
struct Route {
    kind: Kind,
    scope: Scope,
    changed: UnboundedSender<Place>,
}

/// The controllers of one kind, one for each scope.
fn controls<R: LeaseBacked>(
    scopes: &[Scope],
    tools: &controller::Tools,
    stop: &CancellationToken,
    leading: Option<&Leading>,
) -> Vec<Control> {
    let context = Arc::new(controller::Context::<R>::new(tools.clone()));
    let control = |scope: &Scope| {
        let (tell, told) = unbounded_channel();
        let changes = futures::stream::unfold(told, async |mut told| Some((told.recv().await?, told)));
        let ready = CancellationToken::new();
        let (context, leading) = (Arc::clone(&context), leading.cloned());
        let running = controller::run(scope.clone(), changes, context, ready.clone(), stop.clone(), leading);
        let route = Route { kind: R::KIND, scope: scope.clone(), changed: tell };
        Control { ready, route, running: running.boxed() }
    };
    scopes.iter().map(control).collect()
}

/// Brings each change to the controllers of that kind in whose scope it is.
async fn route(changes: &mut UnboundedReceiver<(Place, Kind)>, routes: Vec<Route>) {
    while let Some((place, kind)) = changes.recv().await {
        let concerned = |route: &&Route| route.kind == kind && route.scope.includes(&place.namespace);
        for route in routes.iter().filter(concerned) {
            let _ = route.changed.send(place.clone());
        }
    }
    // The controllers have something to finish still.
    std::future::pending::<()>().await;
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
