//! The resource definition and the shell of `docs/fencing.md`.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use leasehold::FENCE;
use leasehold_testkit::{Program, bin, eventually};
use serde_json::{Value, json};

use super::{Form, ROOT, fenced_namespace, object, refused, rules};
use crate::support::{SOON, namespace};

/// What follows this in the guide, up to the end of the block.
fn block(begin: &str) -> Result<String> {
    let guide = std::fs::read_to_string(format!("{ROOT}/docs/fencing.md"))?;
    let (_, rest) = guide.split_once(begin).with_context(|| format!("it does not have {begin}"))?;
    Ok(rest.split_once("```").context("it does not end")?.0.to_owned())
}

fn definition() -> Result<CustomResourceDefinition> {
    Ok(serde_yaml_ng::from_str(&block("```yaml\n")?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_in_the_guide_writes_with_a_fence() -> Result<()> {
    let (namespace, _dump) = fenced_namespace("shell").await?;
    let objects = namespace.api::<ConfigMap>();
    objects.create(&PostParams::default(), &object("prices", Some("1.1"))).await?;
    let folder = tempfile::tempdir()?;
    let account = namespace.service_account("writer", rules()).await?;
    account.write_kubeconfig(&folder.path().join("kubeconfig"))?;
    let (kubectl, plugin) = (namespace.cluster().kubectl_path().await?, bin("kubectl-leasehold")?);
    let folders =
        [kubectl.parent(), plugin.parent()].map(|folder| folder.unwrap_or(Path::new("/")).display().to_string());
    let script = format!("kubectl leasehold run prices{}", block("kubectl leasehold run prices")?);
    let mut shell = Program::new("sh")
        .args(["-ec", &script])
        .env("KUBECONFIG", folder.path().join("kubeconfig"))
        .env("PATH", format!("{}:{}", folders.join(":"), std::env::var("PATH")?))
        .start()?;
    shell.wait_success(SOON).await?;
    let now = objects.get("prices").await?;
    ensure!(now.data.unwrap_or_default()["tea"] == "4.20");
    let fence = now.metadata.annotations.unwrap_or_default()[FENCE].clone();
    let (token, n) = fence.split_once('.').context("no fence")?;
    ensure!(token.parse::<u64>()? > 1 && n == "1", "{fence}");
    refused(Form::Merge(json!({ "data": { "tea": "0" } })).send(&objects, "prices").await)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_in_the_guide_refuses_stale_writes() -> Result<()> {
    let (namespace, _dump) = namespace("schema").await?;
    let definition = definition()?;
    let (name, spec) = (definition.metadata.name.clone().context("a name")?, &definition.spec);
    let apply = PatchParams::apply("test").force();
    Api::<CustomResourceDefinition>::all(namespace.client()).patch(&name, &apply, &Patch::Apply(&definition)).await?;
    let resource = ApiResource {
        group: spec.group.clone(),
        version: "v1".to_owned(),
        api_version: format!("{}/v1", spec.group),
        kind: spec.names.kind.clone(),
        plural: spec.names.plural.clone(),
    };
    let objects: Api<DynamicObject> = Api::namespaced_with(namespace.client(), namespace.name(), &resource);
    let fence = |token: u64, n: u64| json!({ "token": token, "n": n });
    let draft: DynamicObject = serde_json::from_value(json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "metadata": { "name": "a" },
        "spec": { "tea": "4.20", "fence": fence(20, 10) },
    }))?;
    eventually(SOON, "the definition to be served", async || {
        objects.create(&PostParams::default(), &draft).await.map(drop).map_err(Into::into)
    })
    .await?;
    let write =
        async |spec: Value| objects.patch("a", &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await;
    for (stale, message) in [
        (json!({ "tea": "1" }), "is not greater"),
        (json!({ "tea": "1", "fence": fence(20, 10) }), "is not greater"),
        (json!({ "tea": "1", "fence": fence(20, 9) }), "is not greater"),
        (json!({ "tea": "1", "fence": fence(9, 99) }), "is not greater"),
        (json!({ "tea": "1", "fence": null }), "Required value"),
        (json!({ "tea": "1", "fence": { "n": null } }), "Required value"),
        (json!(null), "Required value"),
    ] {
        match write(stale.clone()).await {
            Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains(message) => {}
            outcome => bail!("{stale}: {outcome:?}"),
        }
    }
    let status = json!({ "status": { "printed": true } });
    objects.patch_status("a", &PatchParams::default(), &Patch::Merge(status)).await?;
    write(json!({ "tea": "4.30", "fence": fence(20, 11) })).await?;
    write(json!({ "tea": "4.40", "fence": fence(21, 1) })).await?;
    ensure!(objects.get("a").await?.data["spec"]["tea"] == "4.40");
    Ok(())
}
