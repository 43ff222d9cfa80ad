//! What the API server and its controllers do to protected objects goes on.

use anyhow::{Result, ensure};
use http::{HeaderName, HeaderValue};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace as NamespaceObject, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use leasehold::{FENCE, FENCED};
use leasehold_testkit::{Namespace, eventually};
use serde_json::json;

use super::{Form, fenced_namespace, object, refused};
use crate::support::SOON;

/// As the administrator sees it who says that he is somebody else.
fn seen_by(namespace: &Namespace, user: &str) -> Result<Api<ConfigMap>> {
    let mut config = namespace.config();
    let header = |name, value: &str| anyhow::Ok((HeaderName::from_static(name), HeaderValue::from_str(value)?));
    config.headers.push(header("impersonate-user", user)?);
    config.headers.push(header("impersonate-group", "system:masters")?);
    Ok(Api::namespaced(kube::Client::try_from(config)?, namespace.name()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_changes_nothing_passes() -> Result<()> {
    let (namespace, _dump) = fenced_namespace("idle").await?;
    let objects = namespace.api::<ConfigMap>();
    objects.create(&PostParams::default(), &object("a", Some("5.1"))).await?;
    let same = json!({ "data": { "by": "holder" } });
    for form in [Form::Put(json!({})), Form::Merge(same.clone()), Form::Strategic(same.clone()), Form::Apply(same)] {
        form.send(&objects, "a").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_go_from_what_is_being_deleted_and_nothing_else_changes_there() -> Result<()> {
    let (namespace, _dump) = fenced_namespace("finalizers").await?;
    let objects = namespace.api::<ConfigMap>();
    let mut draft = object("a", Some("5.1"));
    draft.metadata.finalizers = Some(vec!["example.com/a".to_owned(), "example.com/b".to_owned()]);
    objects.create(&PostParams::default(), &draft).await?;
    let less = |finalizers: serde_json::Value| Form::Merge(json!({ "metadata": { "finalizers": finalizers } }));
    refused(less(json!(["example.com/b"])).send(&objects, "a").await)?;
    let collector = "system:serviceaccount:kube-system:generic-garbage-collector";
    seen_by(&namespace, collector)?.delete("a", &DeleteParams::default()).await?;
    refused(Form::Merge(json!({ "data": { "by": "stale" } })).send(&objects, "a").await)?;
    refused(Form::Merge(json!({ "metadata": { "annotations": { FENCE: "4.1" } } })).send(&objects, "a").await)?;
    let harm = json!({ "metadata": { "finalizers": null }, "data": { "by": "stale" } });
    refused(Form::Merge(harm).send(&objects, "a").await)?;
    less(json!(["example.com/b"])).send(&objects, "a").await?;
    // Deleted again, it stays deleted.
    Form::Delete.send(&objects, "a").await?;
    less(json!(null)).send(&objects, "a").await?;
    ensure!(objects.get_opt("a").await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_garbage_collector_takes_owners_away_and_deletes() -> Result<()> {
    let (namespace, _dump) = fenced_namespace("owners").await?;
    let objects = namespace.api::<ConfigMap>();
    let mut owner = object("owner", None);
    owner.metadata.labels = None;
    let uid = objects.create(&PostParams::default(), &owner).await?.metadata.uid;
    for user in [
        "system:serviceaccount:kube-system:generic-garbage-collector",
        "system:serviceaccount:kube-system:namespace-controller",
        "system:kube-controller-manager",
    ] {
        let mut draft = object("owned", Some("5.1"));
        let reference = json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid }]);
        draft.metadata.owner_references = Some(serde_json::from_value(reference)?);
        objects.create(&PostParams::default(), &draft).await?;
        let orphan = Form::Merge(json!({ "metadata": { "ownerReferences": null } }));
        refused(orphan.send(&objects, "owned").await)?;
        let controller = seen_by(&namespace, user)?;
        refused(Form::Merge(json!({ "data": { "by": "stale" } })).send(&controller, "owned").await)?;
        orphan.send(&controller, "owned").await?;
        refused(Form::Delete.send(&objects, "owned").await)?;
        Form::Delete.send(&controller, "owned").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_with_the_protected_objects_in_it() -> Result<()> {
    let (namespace, _dump) = fenced_namespace("gone").await?;
    let objects = namespace.api::<ConfigMap>();
    objects.create(&PostParams::default(), &object("a", Some("5.1"))).await?;
    refused(Form::Delete.send(&objects, "a").await)?;
    let namespaces: Api<NamespaceObject> = Api::all(namespace.client());
    namespaces.delete(namespace.name(), &DeleteParams::default()).await?;
    eventually(SOON, "the namespace to go", async || {
        ensure!(namespaces.get_opt(namespace.name()).await?.is_none(), "it is still there");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_written_without_a_fence_and_takes_no_protection_away() -> Result<()> {
    let (namespace, _dump) = fenced_namespace("status").await?;
    let pods = namespace.api::<Pod>();
    namespace.pod("a", None).await?;
    let labels = json!({ "labels": { FENCED: "true" }, "annotations": { FENCE: "5.1" } });
    Form::Merge(json!({ "metadata": labels })).send(&pods, "a").await?;
    Form::Status(json!({ "status": { "phase": "Running" } })).send(&pods, "a").await?;
    for metadata in [
        json!({ "labels": { FENCED: null } }),
        json!({ "labels": { FENCED: "false" } }),
        json!({ "annotations": { FENCE: null } }),
        json!({ "annotations": { FENCE: "1.1" } }),
        json!({ "annotations": { FENCE: "9.1" } }),
    ] {
        let refusal = refused(Form::Status(json!({ "metadata": metadata })).send(&pods, "a").await)?;
        ensure!(refusal.contains("a write to its status"), "{refusal}");
    }
    let now = pods.get("a").await?;
    ensure!(now.status.and_then(|status| status.phase).as_deref() == Some("Running"));
    ensure!(now.metadata.annotations.unwrap_or_default()[FENCE] == "5.1");
    Ok(())
}
