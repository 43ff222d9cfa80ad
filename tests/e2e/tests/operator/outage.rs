//! The API server is away for a minute, forgets, or falls silent.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, DeleteParams};
use leasehold::LossReason;
use leasehold_operator::crd::{DistributedLock, State};
use leasehold_testkit::{Cluster, Signal, eventually};

use crate::proxy::Proxy;
use crate::support::{Scene, holder};

/// Longer than it takes to notice that nothing is heard any more, on a busy machine too.
const LATE: Duration = Duration::from_secs(150);
const ERRORS: &str = "leasehold_watch_errors_total{resource=\"leases\"}";

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_a_minute_costs_only_those_their_locks_who_could_not_renew() -> Result<()> {
    let cluster = Cluster::start().await?;
    let mut scene = Scene::cluster_wide(&cluster).await?;
    for name in ["long", "short"] {
        scene.lock(name).await?;
    }
    let long = scene.user("long")?.lock("long").lease_duration(Duration::from_secs(240)).build()?.acquire().await?;
    let short = scene.user("short")?.lock("short").build()?.acquire().await?;
    let held = |name: String| {
        move |status: &leasehold_operator::crd::DistributedLockStatus| {
            status.holder.as_ref().is_some_and(|told| told.id == name)
        }
    };
    scene.status("long", held(long.holder_identity())).await?;
    scene.status("short", held(short.holder_identity())).await?;
    let token = short.token();
    let lost = short.lost();

    cluster.stop_apiserver().await?;
    // Nobody can renew for longer than that session lives.
    tokio::time::sleep(Duration::from_mins(1)).await;
    ensure!(scene.operator.process.try_wait()?.is_none(), "it has ended: {}", scene.operator.process.output());
    ensure!(scene.operator.get("/healthz").await?.starts_with("HTTP/1.1 200"), "a restart would not help");
    ensure!(lost.is_cancelled(), "it believes in a hold that it could not renew");
    assert_eq!(short.check().expect_err("it is lost").reason, LossReason::Expired);
    long.check().context("its time has not passed")?;
    cluster.start_apiserver().await?;

    // It is evicted, though nobody waits.
    scene.status("short", |status| status.state == Some(State::Free)).await?;
    let next = scene.user("next")?.lock("short").build()?.acquire().await?;
    ensure!(next.token() > token, "{} after {token}", next.token());
    scene.status("short", held(next.holder_identity())).await?;
    long.check().context("it renewed in time")?;
    scene.status("long", held(long.holder_identity())).await?;
    assert_eq!(scene.record("long", |_| true).await?.transitions, 1, "somebody else had it meanwhile");
    eventually(LATE, "the operator to be ready", async || {
        ensure!(scene.operator.get("/readyz").await?.starts_with("HTTP/1.1 200"));
        Ok(())
    })
    .await?;
    drop(short);
    next.release().await?;
    long.release().await?;
    scene.status("long", |status| status.state == Some(State::Free)).await?;
    ensure!(!scene.operator.process.output().contains("panicked"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_time_that_the_api_server_has_forgotten_is_begun_anew() -> Result<()> {
    let cluster = Cluster::start().await?;
    let scene = Scene::cluster_wide(&cluster).await?;
    for name in ["kept", "gone", "dead"] {
        scene.lock(name).await?;
    }
    let kept = scene.user("kept")?.lock("kept").build()?.acquire().await?;
    let dead = scene.client("dead").await?;
    let listed = || scene.operator.process.output().matches("watching Leases").count();
    assert_eq!(listed(), 1);

    // It sees nothing of what comes now, and an API server that starts remembers only what comes after.
    scene.operator.process.signal(Signal::STOP)?;
    dead.acquire("dead", 1).await?;
    scene.apply(&crate::support::lock_yaml("new", "{}")).await?;
    let locks: Api<DistributedLock> = scene.namespace.api();
    locks.delete("gone", &DeleteParams::default()).await?;
    cluster.stop_apiserver().await?;
    cluster.start_apiserver().await?;
    scene.operator.process.signal(Signal::CONT)?;

    eventually(LATE, "Leases to be listed again", async || {
        ensure!(listed() > 1, "{}", scene.operator.process.output());
        Ok(())
    })
    .await?;
    ensure!(scene.operator.metric(ERRORS).await? > 0);
    scene.record("dead", |record| holder(record).is_empty()).await?;
    scene.status("dead", |status| status.state == Some(State::Free)).await?;
    scene.status("new", |status| status.state == Some(State::Free)).await?;
    scene.no_lease("gone").await?;
    kept.check().context("it renewed in time")?;
    scene.status("kept", |status| status.state == Some(State::Held)).await?;
    kept.release().await?;
    scene.status("kept", |status| status.state == Some(State::Free)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_have_gone_silent_are_given_up() -> Result<()> {
    let proxy = Proxy::before(&Cluster::shared().await?.config()).await?;
    let scene = Scene::behind(&proxy).await?;
    scene.lock("kept").await?;
    scene.lock("dead").await?;
    let kept = scene.user("kept")?.lock("kept").build()?.acquire().await?;
    scene.status("kept", |status| status.state == Some(State::Held)).await?;

    proxy.freeze();
    let dead = scene.client("dead").await?;
    dead.acquire("dead", 1).await?;
    scene.apply(&crate::support::lock_yaml("new", "{}")).await?;
    let locks: Api<DistributedLock> = scene.namespace.api();
    eventually(LATE, "the operator to hear again", async || {
        let dead = scene.read("dead").await?.context("there is no Lease")?;
        ensure!(holder(&dead).is_empty(), "nobody has evicted {}", holder(&dead));
        let new = locks.get("new").await?.status.and_then(|status| status.state);
        ensure!(new == Some(State::Free), "the new lock is {new:?}");
        Ok(())
    })
    .await?;
    ensure!(scene.operator.get("/healthz").await?.starts_with("HTTP/1.1 200"));
    ensure!(scene.operator.get("/readyz").await?.starts_with("HTTP/1.1 200"));
    kept.check().context("it renewed in time")?;
    kept.release().await?;
    Ok(())
}
