//! The operator as a process: cost, probes, shutdown, company.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::rbac::v1::ClusterRole;
use leasehold::clock;
use leasehold::protocol::write;
use leasehold_operator::crd::State;
use leasehold_testkit::{Cluster, Signal, eventually};

use crate::support::{Operator, ROOT, SOON, Scene, holder};

const LEADING: &str = "leasehold_leading";
const WRITES: &str = "leasehold_status_writes_total{result=\"ok\"}";

#[tokio::test]
async fn status_is_written_at_most_once_a_second_and_ends_up_right() -> Result<()> {
    let scene = Scene::new().await?;
    scene.lock("busy").await?;
    let (first, second) = (scene.client("pod-a").await?.keep_alive(), scene.client("pod-b").await?.keep_alive());
    let before = scene.operator.metric(WRITES).await?;
    let begin = clock::now().moment;
    let mut record = first.acquire("busy", 1).await?;
    for n in 1..=200_u32 {
        let (from, to) = if n % 2 == 1 { (&first, &second) } else { (&second, &first) };
        record = to.join("busy", n + 1).await?;
        record = from.hand_off("busy", &record, &to.id(n + 1)).await?;
    }
    assert_eq!(record.transitions, 201);
    let last = holder(&record).to_owned();
    let status = scene.status("busy", |status| status.holder.as_ref().is_some_and(|told| told.id == last)).await?;
    assert_eq!((status.state, status.waiters), (Some(State::Held), 0));
    let seconds = clock::now().moment.since(begin).as_secs();
    let writes = scene.operator.metric(WRITES).await? - before;
    ensure!(writes <= seconds + 2, "{writes} status writes in {seconds} s");
    first.stop().await?;
    second.stop().await
}

#[tokio::test]
async fn it_tells_how_it_is_and_stops_when_told() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let mut scene = Scene::new().await?;
        scene.lock("build").await?;
        ensure!(scene.operator.get("/healthz").await?.ends_with("ok\n"));
        assert_eq!(scene.operator.metric("leasehold_locks{state=\"free\"}").await?, 1);
        assert!(scene.operator.metric("leasehold_reconciles_total{result=\"ok\"}").await? >= 1);
        let begin = clock::now().moment;
        scene.operator.process.signal(signal)?;
        scene.operator.process.wait_success(SOON).await?;
        let took = clock::now().moment.since(begin);
        ensure!(took < Duration::from_secs(8), "it took {took:?}");
    }
    Ok(())
}

#[tokio::test]
async fn two_operators_do_no_more_harm_than_one() -> Result<()> {
    let scene = Scene::new().await?;
    let other = scene.another_operator().await?;
    scene.lock("build").await?;
    let dead = scene.client("dead").await?;
    let alive = scene.client("alive").await?.keep_alive();
    let held = dead.acquire("build", 1).await?;
    alive.join("build", 1).await?;
    let granted = scene.record("build", |record| holder(record) == alive.id(1).to_string()).await?;
    assert_eq!(granted.transitions, write::next_transition(held.transitions), "one eviction, not two");
    let evictions = "leasehold_evictions_total{to=\"waiter\"}";
    assert_eq!(scene.operator.metric(evictions).await? + other.metric(evictions).await?, 1);
    alive.stop().await
}

/// Waits until this replica acts.
async fn acts(operator: &Operator) -> Result<()> {
    eventually(SOON, "the replica to act", async || {
        ensure!(operator.metric(LEADING).await? == 1, "it stands by");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn of_two_replicas_one_acts_and_what_the_other_has_seen_counts_when_it_takes_over() -> Result<()> {
    const LONG: Duration = Duration::from_secs(20);
    let mut scene = Scene::new().await?;
    let other = scene.another_operator().await?;
    assert_eq!((scene.operator.metric(LEADING).await?, other.metric(LEADING).await?), (1, 0));
    scene.lock("build").await?;
    scene.client("soon-dead").await?.acquire("build", 1).await?;
    scene.record("build", |record| holder(record).is_empty() && record.transitions == 2).await?;
    // Its clock runs at both.
    let dead = scene.client_for("dead", LONG).await?;
    dead.acquire("build", 1).await?;
    scene.status("build", |status| status.state == Some(State::Held)).await?;
    let ended = "leasehold_sessions_ended_total{reason=\"silence\"}";
    for metric in [WRITES, ended, "leasehold_evictions_total{to=\"nobody\"}"] {
        assert_eq!(other.metric(metric).await?, 0, "it acted while it stood by: {metric}");
    }
    scene.operator.process.signal(Signal::KILL)?;
    scene.operator.process.wait_exit(SOON).await.context("killed")?;
    acts(&other).await?;
    let took_over = clock::now().moment;
    scene.record("build", |record| holder(record).is_empty()).await?;
    let waited = clock::now().moment.since(took_over);
    // It has counted since the session was opened, and not since it acts.
    ensure!(waited < LONG * 3 / 4, "it began to count anew: {waited:?}");
    scene.status("build", |status| status.state == Some(State::Free)).await?;
    ensure!(scene.event("build", "Evicted").await?.contains("what it held is free"));
    Ok(())
}

#[tokio::test]
async fn a_replica_that_is_told_to_stop_is_followed_at_once() -> Result<()> {
    let mut scene = Scene::new().await?;
    let other = scene.another_operator().await?;
    scene.lock("build").await?;
    ensure!(other.get("/readyz").await?.starts_with("HTTP/1.1 200"), "who stands by is ready");
    scene.operator.process.signal(Signal::TERM)?;
    let begin = clock::now().moment;
    scene.operator.process.wait_success(SOON).await?;
    acts(&other).await?;
    let took = clock::now().moment.since(begin);
    // Otherwise it takes 15 s.
    ensure!(took < Duration::from_secs(10), "the lease was waited for: {took:?}");
    scene.client("dead").await?.acquire("build", 1).await?;
    scene.status("build", |status| status.state == Some(State::Held)).await?;
    scene.record("build", |record| holder(record).is_empty()).await?;
    Ok(())
}

#[tokio::test]
async fn a_new_operator_takes_up_where_the_last_one_was_killed() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.lock("build").await?;
    let dead = scene.client("dead").await?;
    let alive = scene.client("alive").await?.keep_alive();
    dead.acquire("build", 1).await?;
    alive.join("build", 1).await?;
    scene.operator.process.signal(Signal::KILL)?;
    scene.operator.process.wait_exit(SOON).await.context("killed")?;
    let _next = scene.another_operator().await?;
    scene.record("build", |record| holder(record) == alive.id(1).to_string()).await?;
    scene
        .status("build", |status| status.holder.as_ref().is_some_and(|told| told.id == alive.id(1).to_string()))
        .await?;
    alive.stop().await
}

#[tokio::test]
async fn it_outlives_the_api_server_and_the_manifests_apply() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.kubectl(&["apply", "-k", &format!("{ROOT}/config/default")]).await?;
    for (role, verb, allowed) in [("view", "get", true), ("view", "create", false), ("edit", "create", true)] {
        eventually(SOON, "the roles to be aggregated", async || {
            let rules = cluster.kubectl(&["get", "clusterrole", role, "-o", "json"]).await?;
            let role_now: ClusterRole = serde_json::from_str(&rules)?;
            let mut rules = role_now.rules.into_iter().flatten();
            let found = rules.any(|rule| {
                rule.resources.is_some_and(|all| all.iter().any(|one| one == "distributedlocks"))
                    && rule.verbs.iter().any(|one| one == verb)
            });
            ensure!(found == allowed, "{role} {verb}");
            Ok(())
        })
        .await?;
    }

    let scene = Scene::cluster_wide(&cluster).await?;
    scene.lock("build").await?;
    let dead = scene.client("dead").await?;
    dead.acquire("build", 1).await?;
    scene.status("build", |status| status.state == Some(State::Held)).await?;
    cluster.stop_apiserver().await?;
    eventually(SOON, "the operator to notice", async || {
        ensure!(scene.operator.metric("leasehold_watch_errors_total{resource=\"leases\"}").await? > 0);
        Ok(())
    })
    .await?;
    // A restart would not help, so it does not ask for one.
    ensure!(scene.operator.get("/healthz").await?.starts_with("HTTP/1.1 200"));
    cluster.start_apiserver().await?;
    scene.record("build", |record| holder(record).is_empty()).await?;
    scene.status("build", |status| status.state == Some(State::Free)).await?;
    Ok(())
}
