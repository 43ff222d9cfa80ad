//! `graph`: who waits for whom, on a real API server.

use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold::OnDeadlock;
use leasehold_testkit::eventually;
use serde_json::Value;

use crate::support::{SOON, Scene};

#[tokio::test]
async fn who_waits_for_each_other_is_drawn_as_a_circle() -> Result<()> {
    let scene = Scene::new().await?;
    scene.outcome(&["graph"]).await?.is(0, &["nobody waits in namespace", scene.namespace.name()]);
    let client = |host: &str| {
        let builder = leasehold::Client::builder().kube_config(scene.namespace.config());
        let builder = builder.namespace(scene.namespace.name()).host(host);
        builder.on_deadlock(OnDeadlock::Report).deadlock_after(Duration::from_secs(1)).build()
    };
    let (billing, shipping, other) = (client("billing")?, client("shipping")?, client("other")?);
    let (has_first, first) = tokio::sync::oneshot::channel();
    let (has_second, second) = tokio::sync::oneshot::channel();
    let one = tokio::spawn(async move {
        let _held = billing.lock("accounts").build()?.acquire().await?;
        let _ = has_first.send(());
        second.await?;
        let _waits = billing.lock("orders").build()?.acquire().await?;
        anyhow::Ok(())
    });
    let two = tokio::spawn(async move {
        first.await?;
        let _held = shipping.lock("orders").build()?.acquire().await?;
        let _ = has_second.send(());
        let _waits = shipping.lock("accounts").build()?.acquire().await?;
        anyhow::Ok(())
    });
    let _unconnected = other.lock("beside").build()?.acquire().await?;

    let graph = eventually(SOON, "a circle", async || {
        let graph = scene.outcome(&["graph", "-o", "json"]).await?;
        let graph: Value = serde_json::from_str(&graph.output)?;
        ensure!(graph["circles"].as_array().is_some_and(|circles| circles.len() == 1), "{graph:#}");
        Ok(graph)
    })
    .await?;
    ensure!(!graph["nodes"].to_string().contains("beside"), "nobody waits for it: {graph:#}");
    let text = scene.outcome(&["graph", "accounts", "--fail-on-deadlock"]).await?;
    text.is(
        80,
        &["[circle 1], and holds", "circle 1 is a deadlock:\n", "waits for lock accounts, held by billing (billing_"],
    );
    ensure!(!text.output.contains('\u{1b}'), "{}", text.output);
    scene.outcome(&["graph", "beside", "--fail-on-deadlock"]).await?.is(0, &["lock beside\n`-- held by other (other_"]);
    scene.outcome(&["graph", "nothing"]).await?.is(0, &["nobody holds nothing or waits for it in namespace"]);
    scene.outcome(&["graph", "-o", "dot"]).await?.is(0, &["digraph", "lock orders", "color=red"]);
    scene.outcome(&["graph", "-l", "leasehold.dev/kind=semaphore"]).await?.is(0, &["nobody waits"]);
    scene.outcome(&["graph", "-l", "a b"]).await?.is(64, &["-l \"a b\" is no selector"]);
    one.abort();
    two.abort();
    Ok(())
}
