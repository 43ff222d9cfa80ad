//! The operator beside real clients, whom it has nothing to do for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use leasehold_operator::crd::State;
use tokio::task::JoinSet;

use crate::support::Scene;

const CLIENTS: u64 = 6;
const TURNS: u64 = 20;

/// Contends for a lock from several clients at once, and counts the turns.
async fn contend(scene: &Scene, lock: &'static str) -> Result<u64> {
    let inside = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for number in 0..CLIENTS {
        let client = leasehold::Client::builder()
            .kube_config(scene.namespace.config())
            .namespace(scene.namespace.name())
            .host(format!("worker-{number}"))
            .build()?;
        let inside = Arc::clone(&inside);
        workers.spawn(async move {
            let wanted = client.lock(lock).build()?;
            for _ in 0..TURNS {
                let guard = wanted.acquire().await?;
                ensure!(inside.fetch_add(1, Ordering::SeqCst) == 0, "two at once");
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.release().await?;
            }
            client.shutdown().await;
            Ok(TURNS)
        });
    }
    let mut turns = 0;
    while let Some(done) = workers.join_next().await {
        turns += done??;
    }
    Ok(turns)
}

#[tokio::test]
async fn those_who_live_are_never_interfered_with() -> Result<()> {
    let scene = Scene::new().await?;
    scene.lock("kept").await?;
    assert_eq!(contend(&scene, "kept").await?, CLIENTS * TURNS);
    assert_eq!(contend(&scene, "on-the-spot").await?, CLIENTS * TURNS);
    scene.status("kept", |status| status.state == Some(State::Free) && status.waiters == 0).await?;
    scene.no_lease("on-the-spot").await?;
    for name in [
        "leasehold_sessions_ended_total{reason=\"silence\"}",
        "leasehold_sessions_ended_total{reason=\"evidence\"}",
        "leasehold_evictions_total{to=\"waiter\"}",
        "leasehold_evictions_total{to=\"nobody\"}",
        "leasehold_waiters_passed_over_total",
        "leasehold_leases_removed_total",
    ] {
        assert_eq!(scene.operator.metric(name).await?, 0, "{name}");
    }
    let warnings =
        scene.namespace.kubectl(&["get", "events", "--field-selector", "type=Warning", "-o", "name"]).await?;
    assert_eq!(warnings, "");
    Ok(())
}

#[tokio::test]
async fn adoption_and_hand_over_in_mid_contention_lose_nobody() -> Result<()> {
    let scene = Scene::new().await?;
    let contended = contend(&scene, "build");
    let come_and_go = async {
        for _ in 0..3 {
            scene.lock("build").await?;
            scene.namespace.kubectl(&["delete", "dlock", "build", "--timeout=30s"]).await?;
        }
        anyhow::Ok(())
    };
    let (turns, came) = tokio::join!(contended, come_and_go);
    came?;
    assert_eq!(turns?, CLIENTS * TURNS);
    scene.no_lease("build").await
}
