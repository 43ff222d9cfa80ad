//! The chart's life on a real API server: install, upgrade, uninstall.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use leasehold_testkit::Cluster;

use crate::support::{SYSTEM, chart, helm};

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &to)? } else { fs::copy(entry.path(), &to).map(drop)? }
    }
    Ok(())
}

#[tokio::test]
async fn an_upgrade_upgrades_definitions_and_an_uninstall_leaves_them() -> Result<()> {
    let cluster = Cluster::start().await?;
    let chart = chart();
    let args = ["--namespace", SYSTEM];
    let install = ["install", "leasehold", &chart, "--create-namespace", args[0], args[1]];
    let told = helm(&cluster, &install).await?;
    ensure!(told.contains("works in all namespaces"), "{told}");
    let crd = "crd/distributedlocks.leasehold.dev";
    cluster.kubectl(&["wait", "--for=condition=Established", crd]).await?;
    cluster.kubectl(&["create", "namespace", "team-a"]).await?;
    let folder = tempfile::tempdir()?;
    let lock = folder.path().join("lock.yaml");
    fs::write(
        &lock,
        "{apiVersion: leasehold.dev/v1alpha1, kind: DistributedLock, metadata: {name: a, namespace: team-a}}",
    )?;
    cluster.kubectl(&["apply", "-f", &lock.to_string_lossy()]).await?;

    // The next version has one word more in a definition.
    let next = folder.path().join("leasehold");
    copy(Path::new(&chart), &next)?;
    let definition = next.join("files/crds/distributedlock.yaml");
    let changed = fs::read_to_string(&definition)?.replacen("description: ", "description: Changed. ", 1);
    ensure!(changed.contains("Changed."));
    fs::write(&definition, changed)?;
    let next = next.to_string_lossy();
    let upgrade =
        ["upgrade", "leasehold", &next, args[0], args[1], "--set", "replicas=3", "--set", "namespaces={team-a}"];
    helm(&cluster, &upgrade).await?;
    let there = cluster.kubectl(&["get", crd, "-o", "yaml"]).await?;
    ensure!(there.contains("Changed."), "{there}");
    let deployment = ["get", "deployment", "leasehold-operator", "-n", SYSTEM, "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(cluster.kubectl(&deployment).await?, "3");
    let bindings = cluster.kubectl(&["get", "rolebindings,clusterrolebindings", "-A", "-o", "name"]).await?;
    ensure!(!bindings.contains("clusterrolebinding.rbac.authorization.k8s.io/leasehold-operator"), "{bindings}");
    cluster.kubectl(&["get", "rolebinding", "leasehold-operator", "-n", "team-a"]).await?;

    helm(&cluster, &["uninstall", "leasehold", args[0], args[1]]).await?;
    let left = cluster.kubectl(&["get", "deployments,services,roles", "-n", SYSTEM, "-o", "name"]).await?;
    ensure!(!left.contains("leasehold"), "{left}");
    cluster.kubectl(&["get", "dlock", "a", "-n", "team-a"]).await?;
    Ok(())
}
