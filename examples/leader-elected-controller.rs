//! A controller of kube's in two replicas, of which only the leader's runs.
//!
//! Run it: make example NAME=leader-elected-controller
//!
//! Look for: one replica leads and annotates the `ConfigMap`s with its name and its token. It is told to stop, ends the
//! reconciles that it has begun, and steps down; the other goes on at once, with a larger token. See docs/election.md.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use leasehold::{CancellationToken, Client};
use serde_json::json;

const MAPS: usize = 3;
const LABEL: &str = "example.leasehold.dev/counted";
const BY: &str = "example.leasehold.dev/by";
const TOKEN: &str = "example.leasehold.dev/token";
const PAUSE: Duration = Duration::from_millis(20);

struct Context {
    replica: &'static str,
    token: u64,
    maps: Api<ConfigMap>,
    /// Each reconcile of either replica notes its token when it begins and when it has done its work.
    journal: Arc<Mutex<Vec<u64>>>,
}

fn token(map: &ConfigMap) -> Option<u64> {
    map.annotations().get(TOKEN)?.parse().ok()
}

async fn reconcile(map: Arc<ConfigMap>, context: Arc<Context>) -> kube::Result<Action> {
    context.journal.lock().unwrap().push(context.token);
    tokio::time::sleep(PAUSE).await;
    // A write on its way when a leadership ends may arrive late. So it is made upon the version whose token was compared.
    if token(&map) < Some(context.token) {
        let annotations = json!({ BY: context.replica, TOKEN: context.token.to_string() });
        let change = json!({ "metadata": { "resourceVersion": map.resource_version(), "annotations": annotations } });
        context.maps.patch(&map.name_any(), &PatchParams::default(), &Patch::Merge(change)).await?;
    }
    context.journal.lock().unwrap().push(context.token);
    Ok(Action::requeue(PAUSE))
}

/// Ends when it was told to `stop`, by SIGTERM for example.
async fn replica(replica: &'static str, journal: Arc<Mutex<Vec<u64>>>, stop: CancellationToken) -> Result<()> {
    let client = Client::try_default().await?;
    let maps = Api::<ConfigMap>::default_namespaced(kube::Client::try_default().await?);
    let election = client.election("leader-elected-controller").build()?;
    let work = election.run_whenever_leading(stop, async |leading| {
        println!("{replica}: leads, token {}", leading.token());
        let controller = Controller::new(maps.clone(), watcher::Config::default().labels(LABEL));
        let context = Context { replica, token: leading.token(), maps: maps.clone(), journal: journal.clone() };
        let again = |_, _: &_, _| Action::requeue(PAUSE);
        let reconciles = leading.run_controller(controller, reconcile, again, Arc::new(context));
        reconciles.for_each(async |outcome| _ = outcome.inspect_err(|error| println!("{replica}: {error}"))).await;
    });
    work.await?.with_context(|| format!("{replica} did not end its reconciles when it was told to"))?;
    println!("{replica}: has ended its reconciles and stepped down");
    client.shutdown().await;
    Ok(())
}

/// Waits until each `ConfigMap` has the token of one leader, stops that one, and waits for those of the next.
async fn hand_over(maps: &Api<ConfigMap>, stops: &BTreeMap<&str, CancellationToken>) -> Result<()> {
    let (mut tokens, mut leaders) = (BTreeMap::new(), BTreeSet::new());
    let mut watch = watcher(maps.clone(), watcher::Config::default().labels(LABEL)).applied_objects().boxed();
    while leaders.len() < stops.len() {
        let map = watch.try_next().await?.context("the watch has ended")?;
        let Some(token) = token(&map) else { continue };
        let before = tokens.insert(map.name_any(), token).unwrap_or_default();
        ensure!(before <= token, "{} had token {before}, and then {token}", map.name_any());
        if tokens.len() == MAPS && tokens.values().all(|each| *each == token) && leaders.insert(token) {
            println!("{}: has reconciled all, and is told to stop", map.annotations()[BY]);
            stops[map.annotations()[BY].as_str()].cancel();
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let maps = Api::<ConfigMap>::default_namespaced(kube::Client::try_default().await?);
    let (delete, labelled) = (DeleteParams::default(), ListParams::default().labels(LABEL));
    maps.delete_collection(&delete, &labelled).await?;
    for number in 0..MAPS {
        let map = json!({ "metadata": { "name": format!("counted-{number}"), "labels": { LABEL: "true" } } });
        maps.create(&PostParams::default(), &serde_json::from_value(map)?).await?;
    }
    let journal = Arc::new(Mutex::new(Vec::new()));
    let stops = BTreeMap::from(["a", "b"].map(|name| (name, CancellationToken::new())));
    let replicas = stops.iter().map(|(name, stop)| tokio::spawn(replica(name, journal.clone(), stop.clone())));
    let replicas = try_join_all(replicas.map(async |replica| replica.await?));
    let all = async { tokio::try_join!(hand_over(&maps, &stops), replicas) };
    let outcome = tokio::time::timeout(Duration::from_secs(60), all).await;
    maps.delete_collection(&delete, &labelled).await?;
    ensure!(journal.lock().unwrap().is_sorted(), "reconciles of two replicas were mixed");
    outcome.context("the handover took too long")??;
    println!("ok: two leaders, and no reconcile under both at a time");
    Ok(())
}
