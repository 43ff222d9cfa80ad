//! Manifests as objects, and the programs that make them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use leasehold_testkit::Cluster;
use serde::Deserialize as _;
use serde_json::Value;
use tokio::process::Command;

/// Longer than anything here takes, on a busy machine too.
pub(crate) const SOON: Duration = Duration::from_secs(45);
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// The namespace that the manifests are for.
pub(crate) const SYSTEM: &str = "leasehold-system";

/// Objects by kind, namespace and name.
pub(crate) type Objects = BTreeMap<String, Value>;

/// Reads several documents of YAML.
pub(crate) fn objects(yaml: &str) -> Result<Objects> {
    let mut objects = Objects::new();
    for document in serde_yaml_ng::Deserializer::from_str(yaml) {
        let object = Value::deserialize(document)?;
        if object.is_null() {
            continue;
        }
        let name = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let key = format!("{} {}/{}", name("/kind"), name("/metadata/namespace"), name("/metadata/name"));
        ensure!(!key.contains(" /") || !key.ends_with('/'), "an object without a name: {object}");
        ensure!(objects.insert(key.clone(), object).is_none(), "twice: {key}");
    }
    Ok(objects)
}

/// What `kubectl kustomize` makes of a folder of the repository, or of another one.
pub(crate) async fn kustomize(cluster: &Cluster, folder: impl AsRef<Path>) -> Result<Objects> {
    let folder = Path::new(ROOT).join(folder);
    objects(&cluster.kubectl(&["kustomize", &folder.to_string_lossy()]).await?)
}

/// Builds a program of tests/tools unless that is done already, and tells its path.
pub(crate) async fn tool(name: &str) -> Result<String> {
    let mut build = Command::new(format!("{ROOT}/tests/tools/build.sh"));
    run(build.arg(name).stderr(Stdio::inherit())).await.map(|path| path.trim().to_owned())
}

/// Runs a program to its end and returns what it wrote to standard output.
pub(crate) async fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("it cannot be run")?;
    let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
    ensure!(output.status.success(), "{:?}: {}\n{out}\n{err}", command.as_std(), output.status);
    Ok(out)
}

/// Runs helm with these arguments.
pub(crate) async fn helm(cluster: &Cluster, args: &[&str]) -> Result<String> {
    let mut helm = Command::new(tool("helm").await?);
    let home = tempfile::tempdir()?;
    for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(folder, home.path());
    }
    run(helm.arg("--kubeconfig").arg(cluster.kubeconfig_path()).args(args)).await
}

/// Where the chart is.
pub(crate) fn chart() -> String {
    format!("{ROOT}/charts/leasehold")
}

/// What `helm template` makes of the chart with these values.
pub(crate) async fn template(cluster: &Cluster, values: &[&str]) -> Result<Objects> {
    let chart = chart();
    let mut args = vec!["template", "leasehold", &chart, "--namespace", SYSTEM];
    for value in values {
        args.extend(["--set", value]);
    }
    objects(&helm(cluster, &args).await?)
}

/// Every line that the operator logs is an object, and every field of its own is in the documents.
pub(crate) fn check_log(output: &str) -> Result<()> {
    let told = std::fs::read_to_string(format!("{ROOT}/docs/operations.md"))?;
    let fields =
        told.split("### Logs").nth(1).and_then(|rest| rest.split("###").next()).context("a chapter on logs")?;
    let mut seen = 0;
    for line in output.lines().filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(["timestamp", "level", "target"].iter().all(|key| line[key].is_string()), "{line}");
        if !line["target"].as_str().is_some_and(|target| target.starts_with("leasehold_operator")) {
            continue;
        }
        for field in line["fields"].as_object().context("fields")?.keys() {
            seen += 1;
            ensure!(fields.contains(&format!("`{field}`")), "{field} is not in docs/operations.md: {line}");
        }
    }
    ensure!(seen > 0, "nothing was logged");
    Ok(())
}
