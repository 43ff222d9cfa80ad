//! What a lock's resource asks of everybody who uses it, written on the Lease by hand as the operator writes it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams, PostParams};
use leasehold::protocol::record::{DEADLOCK, HOLDER};
use leasehold::{AcquireError, LossReason, TryAcquireError, clock};
use leasehold_testkit::{Namespace, Signal, eventually};
use serde_json::{Value, json};

use crate::support::{SOON, Workers, client, lock, namespace, record, waiters};

/// Makes the lock's Lease as the operator does, with these annotations.
async fn made(namespace: &Namespace, name: &str, annotations: Value) -> Result<()> {
    let lease = json!({ "metadata": { "name": name, "labels": { "leasehold.dev/kind": "lock" }, "annotations": annotations },
        "spec": {} });
    namespace.api::<Lease>().create(&PostParams::default(), &serde_json::from_value(lease)?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_had_passes_on_after_the_delay_and_never_where_only_a_person_frees_it() -> Result<()> {
    const DELAY: Duration = Duration::from_secs(8);
    let (namespace, _dump) = namespace("delay").await?;
    made(&namespace, "a", json!({ "leasehold.dev/lock-delay-seconds": DELAY.as_secs().to_string() })).await?;
    made(&namespace, "b", json!({ "leasehold.dev/reclaim": "never" })).await?;
    let workers = Workers::new(&namespace).await?;
    let mut dead = Vec::new();
    for name in ["a", "b"] {
        let file = workers.path().join(name);
        let mut worker = workers.start(name, &["--name", name, "hold", &file.to_string_lossy()])?;
        worker.wait_for_line(SOON, |line| line.starts_with("acquired")).await?;
        dead.push(worker);
    }
    let wait = |name: &'static str| {
        let lock = lock(&namespace, name);
        tokio::spawn(async move {
            let guard = lock?.acquire().await?;
            anyhow::Ok((guard, clock::moment()))
        })
    };
    let (first, second) = (wait("a"), wait("b"));
    for name in ["a", "b"] {
        waiters(&namespace, name, 1).await?;
    }
    let killed = clock::moment();
    for worker in &mut dead {
        worker.signal(Signal::KILL)?;
    }
    let (guard, when) = tokio::time::timeout(SOON, first).await.context("nobody got it after the delay")???;
    let after = when.since(killed);
    ensure!(after >= DELAY, "it passed on {after:?} after its holder was killed");
    guard.release().await?;
    // Both were killed at the same time: the other one is certainly known to be dead as well.
    ensure!(!second.is_finished(), "it was taken from a dead holder");
    let tried = lock(&namespace, "b")?.try_acquire().await;
    ensure!(matches!(tried, Err(TryAcquireError::Held { .. })), "{tried:?}");
    let freed = json!([{ "op": "replace", "path": "/spec/holderIdentity", "value": "" }]);
    namespace.kubectl(&["patch", "lease", "b", "--type=json", "-p", &freed.to_string()]).await?;
    let (guard, _) = tokio::time::timeout(SOON, second).await.context("a person freed it, and nobody got it")???;
    guard.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_of_durations_holds_and_queues_are_kept() -> Result<()> {
    let (namespace, _dump) = namespace("bounds").await?;
    let bounds = json!({ "leasehold.dev/min-duration-seconds": "10", "leasehold.dev/max-duration-seconds": "20",
        "leasehold.dev/max-hold-seconds": "4", "leasehold.dev/max-waiters": "1" });
    made(&namespace, "a", bounds).await?;
    let asks = client(&namespace, 6)?.lock("a").lease_duration(Duration::from_secs(30)).build()?;
    let error = asks.acquire().await.expect_err("it is out of bounds").to_string();
    ensure!(error.contains("allows 10s to 20s: set lease_duration"), "{error}");

    // Its session's six seconds are too few: it lives by the Lease itself.
    let guard = lock(&namespace, "a")?.acquire().await?;
    let lives = lock(&namespace, "a")?.status().await?.holder.and_then(|holder| holder.lease_duration_seconds);
    assert_eq!(lives, Some(10));

    let next = lock(&namespace, "a")?;
    let next = tokio::spawn(async move { next.acquire().await });
    waiters(&namespace, "a", 1).await?;
    let error = lock(&namespace, "a")?.acquire().await.expect_err("one waits already");
    ensure!(matches!(error, AcquireError::Full { waiters: 1, limit: Some(1), .. }), "{error}");

    tokio::time::timeout(SOON, guard.lost().cancelled()).await.context("it is held for ever")?;
    assert_eq!(guard.check().expect_err("it is over").reason, LossReason::HeldTooLong);
    // Nobody has dropped the guard.
    tokio::time::timeout(SOON, next).await.context("it was not given back")???.release().await.ok();
    drop(guard);

    // A later program made of it what this one does not know.
    namespace.kubectl(&["annotate", "lease", "a", "--overwrite", "leasehold.dev/format=2"]).await?;
    let error = lock(&namespace, "a")?.acquire().await.expect_err("it is of another format").to_string();
    ensure!(error.contains("it is of format 2, and this program knows format 1: upgrade it"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_that_is_told_of_a_deadlock_gives_up() -> Result<()> {
    let (namespace, _dump) = namespace("told").await?;
    made(&namespace, "a", json!({})).await?;
    let guard = lock(&namespace, "a")?.acquire().await?;
    let waiting = lock(&namespace, "a")?;
    let waiting = tokio::spawn(async move { waiting.acquire().await });
    let seen = waiters(&namespace, "a", 1).await?;
    let waiter = &seen.waiters[0].id;
    // As the operator's patch does, by hand.
    let told = json!({ "metadata": { "annotations": { format!("{DEADLOCK}{waiter}"): "x waits for y; y waits for x" },
        "labels": { format!("{HOLDER}{}", waiter.session): "" } } });
    namespace.api::<Lease>().patch("a", &PatchParams::default(), &Patch::Merge(told)).await?;
    let error = tokio::time::timeout(SOON, waiting).await.context("it waits on")??.expect_err("it waits in a circle");
    ensure!(matches!(error, AcquireError::Deadlock { .. }), "{error}");
    ensure!(error.to_string().ends_with("release what is held: x waits for y; y waits for x"), "{error}");
    eventually(SOON, "nothing to be left of the waiter", async || {
        let record = record(&namespace, "a").await?.context("a Lease")?;
        let text = serde_json::to_string(&record.lease.metadata)?;
        ensure!(record.waiters.is_empty() && !text.contains(waiter.session.as_str()), "{text}");
        Ok(())
    })
    .await?;
    guard.release().await?;
    Ok(())
}
