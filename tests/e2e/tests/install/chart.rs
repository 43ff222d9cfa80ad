//! The chart and the kustomizations say the same.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use leasehold_testkit::Cluster;
use serde_json::{Map, Value};

use crate::support::{Objects, ROOT, chart, helm, kustomize, template};

/// Helm's own labels, on every object of the chart.
const LABELS: [&str; 4] =
    ["app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart"];
/// What keeps an object when its release is uninstalled.
const KEEP: &str = "helm.sh/resource-policy";

/// What is Helm's alone is taken off, and must have been there.
fn plain(mut objects: Objects) -> Result<Objects> {
    for (key, object) in &mut objects {
        let labels = object["metadata"]["labels"].as_object_mut();
        for label in LABELS {
            ensure!(labels.as_deref().is_some_and(|all| all.contains_key(label)), "{key} has no label {label}");
        }
        remove(object, "labels", &LABELS);
        let kept = object["metadata"]["annotations"].get(KEEP).is_some();
        ensure!(
            kept == key.starts_with("CustomResourceDefinition "),
            "{key}: whether it stays when the release is uninstalled"
        );
        remove(object, "annotations", &[KEEP]);
    }
    Ok(objects)
}

/// Removes keys from a map of metadata, and the map with the last of them.
fn remove(object: &mut Value, map: &str, keys: &[&str]) {
    let metadata = object["metadata"].as_object_mut().expect("objects have metadata");
    if let Some(all) = metadata.get_mut(map).and_then(Value::as_object_mut) {
        all.retain(|key, _| !keys.contains(&key.as_str()));
        if all.is_empty() {
            metadata.remove(map);
        }
    }
}

/// Fails with what differs, object by object.
fn compare(case: &str, chart: Objects, kustomized: &Objects) -> Result<()> {
    let chart = plain(chart)?;
    let mut told = String::new();
    for key in chart.keys().filter(|key| !kustomized.contains_key(*key)) {
        writeln!(told, "only in the chart: {key}")?;
    }
    for (key, there) in kustomized {
        match chart.get(key) {
            None => writeln!(told, "not in the chart: {key}")?,
            Some(here) if here != there => {
                writeln!(told, "{key}:\n--- chart\n{here:#}\n--- config\n{there:#}")?;
            }
            Some(_) => {}
        }
    }
    if !told.is_empty() {
        bail!("{case}:\n{told}");
    }
    Ok(())
}

fn deployment(objects: &mut Objects) -> &mut Value {
    &mut objects.get_mut("Deployment leasehold-system/leasehold-operator").expect("a Deployment")["spec"]
}

fn without(mut objects: Objects, kinds: &[&str]) -> Objects {
    objects.retain(|key, _| !kinds.iter().any(|kind| key.starts_with(&format!("{kind} "))));
    objects
}

fn with(mut objects: Objects, more: Objects) -> Objects {
    objects.extend(more);
    objects
}

#[tokio::test]
async fn each_switch_of_the_chart_gives_what_its_kustomization_gives() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let default = kustomize(cluster, "config/default").await?;
    ensure!(default.len() == 19, "{:?}", default.keys());
    // Its namespace has to be there before a release can be.
    let default = without(default, &["Namespace"]);
    ensure!(default.len() == 18, "{:?}", default.keys());
    compare("as it is", template(cluster, &[]).await?, &default)?;

    let kustomized = without(kustomize(cluster, "config/namespaced").await?, &["Namespace"]);
    compare("namespaces", template(cluster, &["namespaces={team-a}"]).await?, &kustomized)?;
    let two = template(cluster, &["namespaces={team-a,team-b}"]).await?;
    for namespace in ["team-a", "team-b"] {
        ensure!(two.contains_key(&format!("RoleBinding {namespace}/leasehold-operator")), "{:?}", two.keys());
    }
    ensure!(!two.keys().any(|key| key.starts_with("ClusterRoleBinding ")), "{:?}", two.keys());

    for (folder, switch) in [("monitoring", "monitoring"), ("fencing", "fencing"), ("strict", "strict")] {
        let more = kustomize(cluster, format!("config/{folder}")).await?;
        let switch = format!("{switch}.enabled=true");
        compare(folder, template(cluster, &[&switch]).await?, &with(default.clone(), more))?;
    }
    for (switch, kinds) in [
        ("flowControl.enabled=false", &["FlowSchema", "PriorityLevelConfiguration"][..]),
        ("networkPolicy.enabled=false", &["NetworkPolicy"]),
        ("podDisruptionBudget.enabled=false", &["PodDisruptionBudget"]),
        ("crds.install=false", &["CustomResourceDefinition"]),
    ] {
        compare(switch, template(cluster, &[switch]).await?, &without(default.clone(), kinds))?;
    }
    let mut no_roles = default.clone();
    no_roles.retain(|key, _| {
        !["user", "view", "edit", "breaker"].iter().any(|end| *key == format!("ClusterRole /leasehold-{end}"))
    });
    compare("userRoles", template(cluster, &["userRoles.create=false"]).await?, &no_roles)?;

    let mut three = default.clone();
    deployment(&mut three)["replicas"] = 3.into();
    compare("replicas", template(cluster, &["replicas=3"]).await?, &three)?;
    Ok(())
}

#[tokio::test]
async fn what_the_chart_adds_to_the_pods_stands_where_it_belongs() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let digest = format!("sha256:{}", "5".repeat(64));
    let values = [
        "image.repository=registry.example/locks",
        &format!("image.digest={digest}"),
        "image.pullPolicy=Always",
        "imagePullSecrets[0].name=pull",
        "log=debug",
        "extraArgs={--leader-election=false}",
        "priorityClassName=important",
        "nodeSelector.disk=fast",
        "tolerations[0].operator=Exists",
        "podAnnotations.note=this",
        "podLabels.team=a",
        "networkPolicy.apiServerPorts={16443}",
        "monitoring.enabled=true",
        "monitoring.labels.release=prometheus",
    ];
    let mut made = template(cluster, &values).await?;
    let template = &mut deployment(&mut made)["template"];
    let container = &template["spec"]["containers"][0];
    assert_eq!(container["image"], format!("registry.example/locks@{digest}"));
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(container["args"].as_array().and_then(|all| all.last()).unwrap(), "--leader-election=false");
    let log = container["env"].as_array().unwrap().iter().find(|one| one["name"] == "LEASEHOLD_LOG");
    assert_eq!(log.unwrap()["value"], "debug");
    assert_eq!(template["spec"]["imagePullSecrets"][0]["name"], "pull");
    assert_eq!(template["spec"]["priorityClassName"], "important");
    assert_eq!(template["spec"]["nodeSelector"]["disk"], "fast");
    assert_eq!(template["spec"]["tolerations"][0]["operator"], "Exists");
    assert_eq!(template["metadata"]["annotations"]["note"], "this");
    let labels: &Map<String, Value> = template["metadata"]["labels"].as_object().unwrap();
    assert_eq!((labels.len(), &labels["team"]), (2, &"a".into()));
    let egress = &made["NetworkPolicy leasehold-system/leasehold-operator"]["spec"]["egress"];
    let ports: Vec<_> = egress[0]["ports"].as_array().unwrap().iter().map(|one| &one["port"]).collect();
    assert_eq!(ports, [443, 6443, 16443]);
    for kind in ["ServiceMonitor", "PrometheusRule"] {
        let labels = &made[&format!("{kind} leasehold-system/leasehold-operator")]["metadata"]["labels"];
        assert_eq!(
            (&labels["release"], &labels["app.kubernetes.io/name"]),
            (&"prometheus".into(), &"leasehold-operator".into())
        );
    }
    Ok(())
}

#[tokio::test]
async fn values_that_mean_nothing_are_refused() -> Result<()> {
    let cluster = Cluster::shared().await?;
    for (value, part) in [
        ("replica=3", "replica"),
        ("namespace.create=true", "namespace"),
        ("replicas=many", "replicas"),
        ("replicas=-1", "replicas"),
        ("namespaces={Team_A}", "namespaces"),
        ("monitoring.enable=true", "monitoring"),
        ("networkPolicy.apiServerPorts={70000}", "apiServerPorts"),
        ("image.digest=latest", "digest"),
    ] {
        let refused = template(cluster, &[value]).await.expect_err(value).to_string();
        ensure!(refused.contains("schema") && refused.contains(part), "{value}: {refused}");
    }
    Ok(())
}

#[tokio::test]
async fn the_chart_is_of_the_version_that_the_workspace_has() -> Result<()> {
    let cluster = Cluster::shared().await?;
    helm(cluster, &["lint", "--strict", &chart()]).await?;
    let told: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(Path::new(&chart()).join("Chart.yaml"))?)?;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((&told["version"], &told["appVersion"]), (&version.into(), &format!("v{version}").into()));
    let deployment = std::fs::read_to_string(format!("{ROOT}/config/manager/deployment.yaml"))?;
    ensure!(deployment.contains(&format!("leasehold-operator:v{version}\n")), "the image of config/manager is another");
    Ok(())
}
