//! The resource definition of `docs/fencing.md`.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use leasehold_testkit::eventually;
use serde_json::{Value, json};

use super::ROOT;
use crate::support::{SOON, namespace};

fn definition() -> Result<CustomResourceDefinition> {
    let guide = std::fs::read_to_string(format!("{ROOT}/docs/fencing.md"))?;
    let (_, rest) = guide.split_once("```yaml\n").context("there is no definition in it")?;
    Ok(serde_yaml_ng::from_str(rest.split_once("```").context("it does not end")?.0)?)
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
