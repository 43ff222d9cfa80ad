//! Clients that wait for each other are named by an Event on each resource concerned.

use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold::OnDeadlock;

use crate::support::Scene;

#[tokio::test]
async fn who_waits_for_each_other_is_told_on_both_resources() -> Result<()> {
    let scene = Scene::new().await?;
    for name in ["accounts", "orders"] {
        scene.lock(name).await?;
    }
    let namespace = scene.namespace.name();
    let wait = |host: &'static str, first: &'static str, second: &'static str| {
        let builder =
            leasehold::Client::builder().kube_config(scene.namespace.config()).namespace(namespace).host(host);
        let builder = builder.on_deadlock(OnDeadlock::Report).deadlock_after(Duration::from_secs(1));
        async move {
            let client = builder.build()?;
            let held = client.lock(first).build()?.acquire().await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let waits = client.lock(second).build()?.acquire().await?;
            anyhow::Ok((held, waits))
        }
    };
    let both =
        [tokio::spawn(wait("billing", "accounts", "orders")), tokio::spawn(wait("shipping", "orders", "accounts"))];
    for name in ["accounts", "orders"] {
        let told = scene.event(name, "Deadlock").await?;
        for part in ["billing_", "shipping_", "accounts\"", "orders\""] {
            ensure!(told.contains(part), "{told}");
        }
    }
    ensure!(scene.operator.metric("leasehold_deadlocks_total").await? == 1);
    ensure!(both.iter().all(|one| !one.is_finished()));
    both.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}
