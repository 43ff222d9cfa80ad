//! `kubectl apply -k config/default` on a real API server.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use leasehold_testkit::{Cluster, eventually};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{ROOT, SOON, SYSTEM};

/// A cluster of these tests' own, with everything of config/default in it.
pub(crate) async fn installed() -> Result<&'static Cluster> {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    let start = async || {
        let cluster = Cluster::start().await?;
        cluster.kubectl(&["apply", "-k", &format!("{ROOT}/config/default")]).await?;
        // What the API server has made of it is what was meant: no field was dropped, or is another at a second look.
        cluster.kubectl(&["diff", "-k", &format!("{ROOT}/config/default")]).await?;
        anyhow::Ok(cluster)
    };
    CLUSTER.get_or_try_init(start).await
}

#[tokio::test]
async fn the_operators_pods_are_let_in_where_only_restricted_ones_are() -> Result<()> {
    let cluster = installed().await?;
    let client = cluster.client()?;
    let deployment = Api::<Deployment>::namespaced(client.clone(), SYSTEM).get("leasehold-operator").await?;
    let template = deployment.spec.context("a spec")?.template;
    let pods: Api<Pod> = Api::namespaced(client, SYSTEM);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let metadata = json!({ "name": "like-the-operator", "labels": template.metadata.and_then(|meta| meta.labels) });
    let mut pod = json!({ "metadata": metadata, "spec": template.spec });
    let created = eventually(SOON, "the pod to be let in", async || {
        Ok(pods.create(&dry, &serde_json::from_value(pod.clone())?).await?)
    });
    let spec = created.await?.spec.context("a spec")?;
    // Each container stops soon enough to be ended by itself.
    ensure!(spec.termination_grace_period_seconds > Some(8));
    pod["spec"]["securityContext"]["runAsNonRoot"] = Value::Null;
    pod["spec"]["containers"][0]["securityContext"]["runAsNonRoot"] = Value::Null;
    let refused = pods.create(&dry, &serde_json::from_value(pod)?).await.expect_err("it may run as root");
    ensure!(refused.to_string().contains("violates PodSecurity \"restricted:latest\""), "{refused}");
    Ok(())
}

#[tokio::test]
async fn whoever_may_view_or_edit_a_namespace_may_view_or_edit_its_locks() -> Result<()> {
    let cluster = installed().await?;
    let namespace = cluster.namespace("people").await?;
    for role in ["view", "edit", "admin", "leasehold-user"] {
        let (role_of, person) = (format!("--clusterrole={role}"), format!("--user=a-{role}"));
        namespace.kubectl(&["create", "rolebinding", role, &role_of, &person]).await?;
    }
    let may = async |person: &str, verb: &str, what: &str| -> Result<bool> {
        let person = format!("--as=a-{person}");
        let (what, part) = what.split_once('/').unwrap_or((what, ""));
        let part = format!("--subresource={part}");
        let told = namespace.kubectl(&["auth", "can-i", verb, what, &part, &person]).await;
        // What it answers no to, it fails at.
        match told {
            Ok(told) => Ok(told.trim() == "yes"),
            Err(error) if format!("{error:#}").contains("exit status: 1") => Ok(false),
            Err(error) => Err(error),
        }
    };
    // The controller that adds rules to view, edit and admin takes a moment.
    eventually(SOON, "the roles to be aggregated", async || {
        for person in ["view", "edit", "admin"] {
            ensure!(may(person, "get", "distributedlocks.leasehold.dev").await?, "{person}");
        }
        for person in ["edit", "admin"] {
            ensure!(may(person, "create", "distributedlocks.leasehold.dev").await?, "{person}");
        }
        Ok(())
    })
    .await?;
    for kind in ["distributedlocks.leasehold.dev", "semaphores.leasehold.dev", "readwritelocks.leasehold.dev"] {
        for verb in ["get", "list", "watch"] {
            for person in ["view", "edit", "admin", "leasehold-user"] {
                ensure!(may(person, verb, kind).await?, "{person} may not {verb} {kind}");
            }
        }
        for verb in ["create", "update", "patch", "delete", "deletecollection"] {
            for (person, allowed) in [("view", false), ("edit", true), ("admin", true), ("leasehold-user", false)] {
                ensure!(may(person, verb, kind).await? == allowed, "{person}: {verb} {kind}");
            }
        }
        // Status is the operator's.
        ensure!(!may("admin", "patch", &format!("{kind}/status")).await?, "{kind}/status");
    }
    for (person, allowed) in [("view", false), ("edit", true), ("admin", true)] {
        ensure!(may(person, "patch", "semaphores.leasehold.dev/scale").await? == allowed, "{person}: scale");
    }
    ensure!(may("leasehold-user", "patch", "leases.coordination.k8s.io").await?);
    Ok(())
}

#[tokio::test]
async fn what_is_deleted_by_its_manifests_is_gone() -> Result<()> {
    let cluster = Cluster::start().await?;
    let manifests = format!("{ROOT}/config/default");
    cluster.kubectl(&["apply", "-k", &manifests]).await?;
    cluster.kubectl(&["delete", "-k", &manifests, "--wait=false"]).await?;
    tokio::time::timeout(Duration::from_secs(60), async {
        let crds = cluster.kubectl(&["wait", "--for=delete", "crd/distributedlocks.leasehold.dev", "--timeout=50s"]);
        crds.await?;
        cluster.kubectl(&["wait", "--for=delete", &format!("namespace/{SYSTEM}"), "--timeout=50s"]).await
    })
    .await??;
    let left = cluster.kubectl(&["get", "flowschemas,clusterroles,clusterrolebindings", "-o", "name"]).await?;
    ensure!(!left.contains("leasehold"), "{left}");
    Ok(())
}
