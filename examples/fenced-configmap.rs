//! A fenced write to a `ConfigMap`: the API server refuses what a former holder still writes.
//!
//! Run it: make example NAME=fenced-configmap (it needs an administrator's rights, for the policy)
//!
//! Look for: the first holder makes ready a write and is held up; somebody breaks its lock; the second holder
//! writes. When the first one's write arrives at last, it is refused with a message that says why. See docs/fencing.md.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use leasehold::{Client, FENCE, FENCED};
use serde_json::json;

const NAME: &str = "fenced-configmap";

/// What `kubectl apply -k config/fencing` and `kubectl label namespace … leasehold.dev/fencing=enabled` do.
async fn protect(kube: &kube::Client) -> Result<()> {
    let policy: ValidatingAdmissionPolicy = serde_yaml_ng::from_str(include_str!("../config/fencing/policy.yaml"))?;
    let binding: ValidatingAdmissionPolicyBinding =
        serde_yaml_ng::from_str(include_str!("../config/fencing/binding.yaml"))?;
    let apply = PatchParams::apply("leasehold-examples").force();
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(kube.clone());
    policies.patch("leasehold-fencing", &apply, &Patch::Apply(&policy)).await?;
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(kube.clone());
    bindings.patch("leasehold-fencing", &apply, &Patch::Apply(&binding)).await?;
    let label = Patch::Merge(json!({ "metadata": { "labels": { "leasehold.dev/fencing": "enabled" } } }));
    let namespaces: Api<Namespace> = Api::all(kube.clone());
    namespaces.patch(kube.default_namespace(), &PatchParams::default(), &label).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let kube = kube::Client::try_default().await?;
    let settings: Api<ConfigMap> = Api::default_namespaced(kube.clone());
    protect(&kube).await?;
    let draft = json!({ "metadata": { "name": NAME, "labels": { FENCED: "true" }, "annotations": { FENCE: "1.1" } } });
    settings.create(&PostParams::default(), &serde_json::from_value(draft)?).await?;
    // A policy counts a moment after it was applied.
    let bare = Patch::Merge(json!({ "data": { "probe": "" } }));
    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    while settings.patch(NAME, &dry, &bare).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let (first, second) = (Client::try_default().await?, Client::try_default().await?);
    let guard = first.lock(NAME).build()?.acquire().await?;
    let by_first = json!({ "metadata": { "annotations": { FENCE: guard.next_fence()? } }, "data": { "by": "first" } });
    println!("first: has the lock and is about to write, token {}", guard.token());

    // Here it is paused for long; and since it does not answer, somebody breaks the lock.
    Api::<Lease>::default_namespaced(kube).delete(NAME, &DeleteParams::default()).await?;
    let next = second.lock(NAME).build()?.acquire().await?;
    let mut object = settings.get(NAME).await?;
    object.data = Some([("by".to_owned(), "second".to_owned())].into());
    next.fence(&mut object)?;
    settings.replace(NAME, &PostParams::default(), &object).await?;
    println!("second: has the lock and has written, token {}", next.token());

    match settings.patch(NAME, &PatchParams::default(), &Patch::Merge(&by_first)).await {
        Err(kube::Error::Api(status)) if status.code == 403 => println!("first: {}", status.message),
        outcome => bail!("the former holder's write was not refused: {outcome:?}"),
    }
    ensure!(settings.get(NAME).await?.data.unwrap_or_default()["by"] == "second");

    // To remove it, its label goes first, by a write with a fence.
    let metadata = json!({ "labels": { FENCED: null }, "annotations": { FENCE: next.next_fence()? } });
    settings.patch(NAME, &PatchParams::default(), &Patch::Merge(json!({ "metadata": metadata }))).await?;
    settings.delete(NAME, &DeleteParams::default()).await?;
    next.release().await?;
    first.shutdown().await;
    second.shutdown().await;
    println!("ok: the former holder's write was refused");
    Ok(())
}
