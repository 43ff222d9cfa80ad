//! `list` and `status`.

use anyhow::{Result, ensure};
use leasehold_testkit::eventually;
use serde_json::Value;

use crate::support::{SOON, Scene, end};

#[tokio::test]
async fn a_lock_without_a_lease_is_free() -> Result<()> {
    let scene = Scene::new().await?;
    scene.outcome(&["status", "unheard-of"]).await?.is(0, &["State:     Free", "Waiters:   0"]);
    scene.outcome(&["list"]).await?.is(0, &["no locks in namespace", scene.namespace.name()]);
    let list = scene.outcome(&["list", "-o", "json"]).await?;
    assert_eq!(serde_json::from_str::<Value>(&list.output)?["items"], Value::Array(Vec::new()));
    Ok(())
}

#[tokio::test]
async fn holders_and_waiters_are_shown() -> Result<()> {
    let scene = Scene::new().await?;
    let mut holder = scene.holder("job", &[]).await?;
    let mut waiter = scene.cli(["run", "job", "--", "true"])?.env("POD_NAME", "second").start()?;
    scene.wait_joins("job", 1).await?;

    scene.outcome(&["list"]).await?.is(0, &["NAME", "SINCE", "job", "Held", "worker"]);
    scene.outcome(&["list", "-o", "name"]).await?.is(0, &["lease.coordination.k8s.io/job\n"]);
    scene.outcome(&["status", "job"]).await?.is(0, &["Held", "worker (worker_", "1. second (second_"]);
    scene
        .outcome(&["status", "job", "-o", "yaml"])
        .await?
        .is(0, &["name: job\n", "state: Held\n", "- identity: second_"]);
    let status = scene.outcome(&["status", "job", "-o", "json"]).await?;
    status.is(0, &[]);
    let status: Value = serde_json::from_str(&status.output)?;
    assert_eq!(status["namespace"], scene.namespace.name());
    assert_eq!((&status["kind"], &status["holders"][0]["host"]), (&"lock".into(), &"worker".into()));
    assert_eq!(status["waiters"][0]["host"], "second");

    // As the administrator: in all namespaces.
    let admin = scene.namespace.cluster().kubeconfig_path().display().to_string();
    let all = scene.outcome(&["list", "-A", "--kubeconfig", &admin]).await?;
    all.is(0, &["NAMESPACE"]);
    let line = all.output.lines().find(|line| line.starts_with(scene.namespace.name()));
    assert!(line.is_some_and(|line| line.contains("job")), "{}", all.output);

    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    end(&mut waiter).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn a_lock_is_called_what_people_call_it() -> Result<()> {
    const ORDER: &str = "order:payment:4711";
    let scene = Scene::new().await?;
    let lease = "order-payment-4711--u5aja2xsokmdklzq54c4iifvzd";
    // No cluster is needed for that.
    let name = scene.cli(["name", ORDER])?.env("KUBECONFIG", "/nowhere");
    crate::support::outcome(name).await?.is(0, &[&format!("{lease}\n")]);
    scene.outcome(&["status", ORDER]).await?.is(0, &["State:     Free"]);
    let mut holder = scene.holder(ORDER, &[]).await?;
    scene.outcome(&["list"]).await?.is(0, &[ORDER, "Held"]);
    scene.outcome(&["list", "-o", "name"]).await?.is(0, &[&format!("lease.coordination.k8s.io/{lease}\n")]);
    let status = scene.outcome(&["status", ORDER]).await?;
    status.is(0, &[&format!("Name:      {ORDER}\nLease:     {lease}\n"), "Held"]);
    let busy = scene.script(&[ORDER, "--no-wait"], "exit 0")?;
    crate::support::outcome(busy).await?.is(75, &[ORDER]);
    scene.outcome(&["ask", ORDER]).await?.is(0, &["to let go of order:payment:4711"]);
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn foreign_leases_are_shown_and_not_listed() -> Result<()> {
    let scene = Scene::new().await?;
    let lease = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "controller"},
        "spec": {"holderIdentity": "controller-7c9_3b1f", "leaseDurationSeconds": 15},
    }))?;
    let leases = scene.namespace.api::<k8s_openapi::api::coordination::v1::Lease>();
    leases.create(&kube::api::PostParams::default(), &lease).await?;
    scene.outcome(&["status", "controller"]).await?.is(0, &["controller-7c9_3b1f", "for 15s each"]);
    scene.outcome(&["list"]).await?.is(0, &["no locks"]);
    Ok(())
}

#[tokio::test]
async fn a_holder_is_asked_to_let_go_and_tells_whoever_runs_it() -> Result<()> {
    let scene = Scene::new().await?;
    scene.outcome(&["ask", "job"]).await?.is(0, &["nobody who can be asked holds job"]);
    let mut holder = scene.holder("job", &[]).await?;
    let asked = scene.outcome(&["ask", "job", "--within", "90s", "--reason", "the\u{7} migration is due"]).await?;
    asked.is(0, &["asked worker_", "to let go of job within 90s"]);
    scene.outcome(&["status", "job"]).await?.is(0, &["Asked:     by ", "within 90s: the\\u{7} migration is due"]);
    let status = scene.outcome(&["status", "job", "-o", "json"]).await?;
    let status: Value = serde_json::from_str(&status.output)?;
    assert_eq!(status["holders"][0]["releaseRequest"]["withinSeconds"], 90);
    scene
        .outcome(&["ask", "job", "--within", "0s"])
        .await?
        .is(64, &["within: 0ns will not do: 1 s to a day are possible"]);
    eventually(SOON, "the holder to hear of it", async || {
        let output = holder.output();
        ensure!(output.contains("asks for lock job to be released within 90s: the"), "{output}");
        Ok(())
    })
    .await?;
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    Ok(())
}
