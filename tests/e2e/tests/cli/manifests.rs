//! The manifests of examples/command-line: the API server takes them, and without a kubelet their containers' command lines are
//! run by hand, with the rights that they bring along.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use leasehold_testkit::{Signal, eventually};
use serde_json::Value;

use crate::examples::{examples, script};
use crate::support::{SOON, Scene, end, outcome};

#[tokio::test]
async fn the_api_server_takes_the_manifests() -> Result<()> {
    let scene = Scene::new().await?;
    let folder = examples().join("command-line");
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a name")?.to_owned();
        let file = path.display().to_string();
        let applied = scene.namespace.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", &file]).await?;
        ensure!(applied.contains("(server dry run)"), "{name}: {applied}");
        // What stands behind the name of the program is a command line of its.
        let text = fs::read_to_string(&path)?;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let value: Value = serde::Deserialize::deserialize(document)?;
            for words in command_lines(&value) {
                check(&scene, &words).await.with_context(|| format!("{name}: {words:?}"))?;
                seen.insert(words[1].clone());
            }
        }
    }
    assert_eq!(seen, ["elect", "run"].map(str::to_owned).into());
    Ok(())
}

/// It is refused for its kubeconfig, and not for what it is asked to do.
async fn check(scene: &Scene, words: &[String]) -> Result<()> {
    let outcome = outcome(scene.cli(["--kubeconfig", "/nonexistent"])?.args(&words[1..])).await?;
    ensure!(outcome.code == Some(64) && outcome.output.contains("/nonexistent"), "{outcome:?}");
    Ok(())
}

/// The commands and arguments of all containers that run kubectl-leasehold.
fn command_lines(value: &Value) -> Vec<Vec<String>> {
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|word| Some(word.as_str()?.to_owned())).collect()
    };
    match value {
        Value::Object(map) => {
            let mut own = map.get("command").map(words).unwrap_or_default();
            own.extend(map.get("args").map(words).unwrap_or_default());
            let own = (own.first().is_some_and(|word| word == "kubectl-leasehold")).then_some(own);
            own.into_iter().chain(map.values().flat_map(command_lines)).collect()
        }
        Value::Array(items) => items.iter().flat_map(command_lines).collect(),
        _ => Vec::new(),
    }
}

/// All documents of one manifest.
fn documents(name: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(examples().join("command-line").join(name))?;
    serde_yaml_ng::Deserializer::from_str(&text).map(|one| Ok(serde::Deserialize::deserialize(one)?)).collect()
}

/// The arguments of its only container that runs kubectl-leasehold, with another program to run or another address.
fn arguments(name: &str, instead: &[(&str, &str)]) -> Result<Vec<String>> {
    let lines: Vec<Vec<String>> = documents(name)?.iter().flat_map(command_lines).collect();
    let [line] = &lines[..] else { anyhow::bail!("{name}: {lines:?}") };
    let mut words = line[1..].to_vec();
    for (from, to) in instead {
        let word = words.iter_mut().find(|word| word == from).with_context(|| format!("{name} has no {from}"))?;
        (*to).clone_into(word);
    }
    Ok(words)
}

/// From now on the scene's worker is the service account of rights.yaml.
async fn be_the_account_of_the_manifests(scene: &Scene) -> Result<()> {
    let rights = examples().join("command-line/rights.yaml").display().to_string();
    scene.namespace.kubectl(&["apply", "-f", &rights]).await?;
    let token = scene.namespace.kubectl(&["create", "token", "jobs"]).await?;
    let kubeconfig = fs::read_to_string(scene.kubeconfig())?;
    let lines = kubeconfig.lines().map(|line| match line.split_once("token: ") {
        Some((before, _)) => format!("{before}token: {}", token.trim()),
        None => line.to_owned(),
    });
    fs::write(scene.kubeconfig(), lines.collect::<Vec<_>>().join("\n"))?;
    let user = scene.namespace.cluster().kubectl_path().await?;
    let asked = leasehold_testkit::Program::new(user).args(["auth", "whoami", "-o", "yaml"]);
    outcome(asked.env("KUBECONFIG", scene.kubeconfig())).await?.is(0, &[":jobs"]);
    Ok(())
}

#[tokio::test]
async fn what_runs_at_night_runs_once_and_a_migration_one_at_a_time() -> Result<()> {
    let scene = Scene::new().await?;
    be_the_account_of_the_manifests(&scene).await?;
    let report = script(&scene, "report", "echo \"reports as $LEASEHOLD_HOLDER\"")?;
    let job = arguments("cronjob.yaml", &[("/usr/local/bin/report", &report)])?;
    outcome(scene.cli(&job)?.env("POD_NAME", "report-1")).await?.is(0, &["reports as report-1_"]);
    let again = outcome(scene.cli(&job)?.env("POD_NAME", "report-2")).await?;
    again.is(0, &["nightly-report", "held by report-1, which has left it held"]);
    ensure!(!again.output.contains("reports as"), "{}", again.output);

    let migrate = script(&scene, "migrate", "echo migrates; exec cat")?;
    let migration = arguments("init-container.yaml", &[("/usr/local/bin/migrate", &migrate)])?;
    let mut first = scene.cli(&migration)?.env("POD_NAME", "shop-1").piped_stdin().start()?;
    first.wait_for_line(SOON, |line| line == "migrates").await?;
    let mut second = scene.cli(&migration)?.env("POD_NAME", "shop-2").start()?;
    scene.wait_joins("shop-migration", 1).await?;
    scene.outcome(&["status", "shop-migration"]).await?.is(0, &["shop-1", "Payload:   v1", "1. shop-2"]);
    ensure!(!second.output().contains("migrates"), "{}", second.output());
    drop(first.stdin());
    end(&mut first).await?.is(0, &[]);
    end(&mut second).await?.is(0, &["migrates"]);
    Ok(())
}

#[tokio::test]
async fn a_sidecar_labels_the_pod_that_its_service_selects() -> Result<()> {
    let scene = Scene::new().await?;
    be_the_account_of_the_manifests(&scene).await?;
    scene.namespace.pod("reports-0", Some("jobs")).await?;
    let service = documents("sidecar.yaml")?.into_iter().find(|document| document["kind"] == "Service");
    let selector = service.context("a Service")?["spec"]["selector"].clone();
    let is_selected = async || -> Result<bool> {
        let labels = scene.namespace.api::<Pod>().get("reports-0").await?.metadata.labels.unwrap_or_default();
        let wanted = selector.as_object().context("a selector")?;
        Ok(wanted.iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str()))
    };
    ensure!(!is_selected().await?);
    let sidecar = arguments("sidecar.yaml", &[("0.0.0.0:4040", "127.0.0.1:0")])?;
    let mut sidecar = scene.cli(&sidecar)?.env("POD_NAME", "reports-0").start()?;
    eventually(SOON, "a label", async || {
        ensure!(is_selected().await?, "{}", sidecar.output());
        Ok(())
    })
    .await?;
    sidecar.signal(Signal::TERM)?;
    end(&mut sidecar).await?.is(0, &["answering at http://127.0.0.1:"]);
    ensure!(!is_selected().await?, "the label stays");
    Ok(())
}
