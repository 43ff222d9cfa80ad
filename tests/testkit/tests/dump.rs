//! What a failing test prints.

use std::env;
use std::fs;
use std::process::Stdio;

use anyhow::Result;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use leasehold_testkit::{Cluster, DumpOnFailure};
use serde_json::json;

/// Run by the test below in a process of its own.
#[tokio::test]
#[ignore = "a part of another test"]
async fn fail_with_a_guard() -> Result<()> {
    let cluster = Cluster::shared().await.expect("a cluster");
    let namespace = cluster.namespace("panic").await.expect("a namespace");
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    fs::write(&log, "the last words\n").expect("a log");
    let _guard = DumpOnFailure::new(&namespace).log_file(&log);
    let lease = json!({ "metadata": { "name": "seen" }, "spec": { "holderIdentity": "culprit" } });
    let lease: Lease = serde_json::from_value(lease).expect("a Lease");
    namespace.api::<Lease>().create(&PostParams::default(), &lease).await.expect("created");
    anyhow::bail!("as it should")
}

#[tokio::test]
async fn a_failing_test_prints_its_namespace_and_logs() -> Result<()> {
    let output = tokio::process::Command::new(env::current_exe()?)
        .args(["--ignored", "--exact", "fail_with_a_guard"])
        .env("LEASEHOLD_TEST_KUBECONFIG", Cluster::shared().await?.kubeconfig_path())
        .stdin(Stdio::null())
        .output()
        .await?;
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("holderIdentity: culprit"), "{text}");
    assert!(text.contains("the last words"), "{text}");
    Ok(())
}
