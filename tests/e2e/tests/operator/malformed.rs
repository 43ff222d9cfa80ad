//! Leases that people have written by hand, wrongly, beside an operator and a client at work.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use leasehold_operator::crd::State;
use leasehold_testkit::eventually;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::json;

use crate::support::{SOON, Scene, holder, lock_yaml};

#[path = "../../../../client/tests/malformed/leases.rs"]
mod leases;

const WANTED: usize = 60;

/// Writes many Leases as nobody of ours would write them. The names of those that the API server takes.
async fn write_malformed(scene: &Scene) -> Result<Vec<String>> {
    let api: Api<Lease> = scene.namespace.api();
    let mut runner = TestRunner::deterministic();
    let mut written = Vec::new();
    for n in 0..40 * WANTED {
        if written.len() == WANTED {
            break;
        }
        let mut lease = leases::lease("a").new_tree(&mut runner).map_err(anyhow::Error::msg)?.current();
        let name = if n % 4 == 0 { format!("session-odd.{n}") } else { format!("odd-{n}") };
        lease.metadata.name = Some(name.clone());
        // Without it nobody would look at most of them.
        let labels = lease.metadata.labels.get_or_insert_default();
        labels.entry("leasehold.dev/kind".to_owned()).or_insert_with(|| "lock".to_owned());
        match api.create(&PostParams::default(), &lease).await {
            Ok(_) => written.push(name),
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {}
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(written.len() == WANTED, "the API server took only {} of them", written.len());
    Ok(written)
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_leases_disturb_nobody_and_work_again_when_they_are_mended() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.lock("orderly").await?;
    let before = scene.client("before").await?.keep_alive();
    before.acquire("orderly", 1).await?;
    let names = write_malformed(&scene).await?;
    // Resources adopt some of them.
    let yaml: Vec<String> =
        names.iter().filter(|name| name.starts_with("odd-")).take(20).map(|name| lock_yaml(name, "{}")).collect();
    scene.apply(&yaml.join("---\n")).await?;

    // An orderly lock goes from hand to hand all the while.
    let after = scene.user("after")?.lock("orderly").build()?;
    let waiting = tokio::spawn({
        let after = after.clone();
        async move { after.acquire().await }
    });
    let record = scene.record("orderly", |record| record.waiters.len() == 1).await?;
    let heir = record.waiters[0].id.clone();
    before.hand_off("orderly", &record, &heir).await?;
    let guard = tokio::time::timeout(SOON, waiting).await.context("the waiter was forgotten")???;
    guard.check()?;
    guard.release().await?;
    scene.status("orderly", |status| status.state == Some(State::Free)).await?;
    before.stop().await?;

    // Whoever tries to use one of the others is let in, or waits, or is told why not.
    let user = scene.user("curious")?;
    for name in names.iter().filter(|name| name.starts_with("odd-")).take(15) {
        if let Ok(guard) = user.lock(name).build()?.try_acquire().await {
            guard.check()?;
            guard.release().await?;
        }
    }

    // It does not try the same again and again.
    let tried = || async {
        let metrics = scene.operator.get("/metrics").await?;
        let lines = metrics.lines().filter(|line| line.starts_with("leasehold_lease_requests_failed_total"));
        let counts = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        anyhow::Ok(counts.sum::<u64>())
    };
    let so_far = tried().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let then = tried().await?;
    ensure!(then - so_far < 100, "{} requests failed within five seconds", then - so_far);

    // Mended by hand, one works again.
    let api: Api<Lease> = scene.namespace.api();
    let odd = json!({ "metadata": { "name": "mended", "labels": { "leasehold.dev/kind": "semaphore" },
        "annotations": { "leasehold.dev/permits": "-3", "join.leasehold.dev/me": "x",
            "payload.leasehold.dev/x_y.1": "a < b" } },
        "spec": { "holderIdentity": "a & b <c>", "leaseTransitions": 7 } });
    let odd: Lease = serde_json::from_value(odd)?;
    api.create(&PostParams::default(), &odd).await?;
    let mend = json!({ "metadata": { "labels": { "leasehold.dev/kind": "lock" },
        "annotations": { "leasehold.dev/permits": null, "join.leasehold.dev/me": null } },
        "spec": { "holderIdentity": "" } });
    api.patch("mended", &PatchParams::default(), &Patch::Merge(mend)).await?;
    scene.apply(&lock_yaml("mended", "{}")).await?;
    let guard = user.lock("mended").build()?.acquire().await?;
    scene.status("mended", |status| status.state == Some(State::Held)).await?;
    guard.release().await?;
    scene.status("mended", |status| status.state == Some(State::Free)).await?;

    let output = scene.operator.process.output();
    ensure!(!output.contains("panicked"), "{output}");
    ensure!(scene.operator.process.try_wait()?.is_none(), "it has ended: {output}");
    ensure!(scene.operator.get("/healthz").await?.starts_with("HTTP/1.1 200"));
    Ok(())
}

/// The API server's JSON Patch cannot tell that a text is the same if it has one of these characters. What is said beside a
/// hold, and who a foreign holder is, may have them.
#[tokio::test(flavor = "multi_thread")]
async fn texts_that_no_patch_can_test_are_in_nobody_s_way() -> Result<()> {
    let scene = Scene::new().await?;
    scene.lock("build").await?;
    let guard = scene.user("holder")?.lock("build").build()?.acquire().await?;
    guard.publish("load < 5 & rising").await?;
    let next = scene.user("next")?.lock("build").build()?;
    let waiting = tokio::spawn(async move { next.acquire().await });
    scene.record("build", |record| record.waiters.len() == 1).await?;
    guard.release().await?;
    let guard = tokio::time::timeout(SOON, waiting).await.context("it was never handed on")???;
    // Nor when the holder dies.
    guard.publish("a <b> & c").await?;
    drop(guard);

    let foreign = json!({ "metadata": { "name": "foreign", "labels": { "leasehold.dev/kind": "lock" } },
        "spec": { "holderIdentity": "a & <b>", "leaseDurationSeconds": 1 } });
    scene.namespace.api::<Lease>().create(&PostParams::default(), &serde_json::from_value(foreign)?).await?;
    let waiter = scene.client("waiter").await?.keep_alive();
    waiter.join("foreign", 1).await?;
    eventually(SOON, "the foreign holder to be evicted", async || {
        let record = scene.read("foreign").await?.context("there is no Lease")?;
        ensure!(holder(&record) == waiter.id(1).to_string(), "{} holds it", holder(&record));
        Ok(())
    })
    .await?;
    waiter.stop().await
}
