//! Every form of write, with fences that do and fences that do not.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use leasehold::{FENCE, FENCED};
use leasehold_testkit::Namespace;
use serde_json::{Value, json};

use super::{Form, fenced_namespace, object, refused, rules, untouched};
use crate::support::namespace;

/// The fence that stands on every object before it is attacked. As text it is smaller than some that are less.
const BEFORE: &str = "20.10";

/// Data that only a holder may write, with this fence or as it is.
fn with(fence: Option<&str>) -> Value {
    let mut body = json!({ "data": { "by": "stale" } });
    if let Some(fence) = fence {
        body["metadata"]["annotations"] = json!({ FENCE: fence });
    }
    body
}

fn metadata(metadata: &Value) -> Value {
    json!({ "metadata": metadata, "data": { "by": "stale" } })
}

fn steps(more: Option<Value>) -> Form {
    let data = json!({ "op": "replace", "path": "/data/by", "value": "stale" });
    Form::Json(Value::Array(Some(data).into_iter().chain(more).collect()))
}

/// What a write must not get through, and what the refusal must say.
fn attacks() -> Vec<(String, Form, &'static str)> {
    const OLD: &str = "was written already";
    const LEFT: &str = "leaves its fence 20.10 as it is";
    const NONE: &str = "takes its fence away or brings none";
    const MALFORMED: &str = "is not a fence";
    const DELETION: &str = "a deletion can bring no fence";
    let place = |kind: &str, key: &str| format!("/metadata/{kind}/{}", key.replace('/', "~1"));
    let (fence, label) = (place("annotations", FENCE), place("labels", FENCED));
    let step = |op: &str, path: &str, value: &str| Some(json!({ "op": op, "path": path, "value": value }));
    let off = json!({ "labels": { FENCED: null } });
    let off_with_old = json!({ "labels": { FENCED: null }, "annotations": { FENCE: "10.99" } });
    let bare = json!({ "labels": { FENCED: null }, "annotations": { FENCE: null } });
    let mut attacks = vec![
        ("put, old", Form::Put(with(Some("10.99"))), OLD),
        ("put, left", Form::Put(with(None)), LEFT),
        ("put, removed", Form::Put(metadata(&json!({ "annotations": null }))), NONE),
        ("put, unprotected", Form::Put(metadata(&json!({ "labels": null }))), LEFT),
        ("merge, old", Form::Merge(with(Some("10.99"))), OLD),
        ("merge, left", Form::Merge(with(None)), LEFT),
        ("merge, the same", Form::Merge(with(Some(BEFORE))), LEFT),
        ("merge, removed", Form::Merge(metadata(&json!({ "annotations": { FENCE: null } }))), NONE),
        ("merge, unprotected", Form::Merge(metadata(&off)), LEFT),
        ("merge, unprotected with an old one", Form::Merge(metadata(&off_with_old)), OLD),
        ("merge, unprotected and removed", Form::Merge(metadata(&bare)), NONE),
        ("merge, not quite protected", Form::Merge(metadata(&json!({ "labels": { FENCED: "false" } }))), LEFT),
        ("json, old", steps(step("replace", &fence, "10.99")), OLD),
        ("json, left", steps(None), LEFT),
        ("json, removed", steps(Some(json!({ "op": "remove", "path": fence }))), NONE),
        ("json, unprotected", steps(Some(json!({ "op": "remove", "path": label }))), LEFT),
        (
            "json, moved away",
            steps(Some(json!({ "op": "move", "from": fence, "path": "/metadata/annotations/x" }))),
            NONE,
        ),
        ("strategic, old", Form::Strategic(with(Some("10.99"))), OLD),
        ("strategic, left", Form::Strategic(with(None)), LEFT),
        ("strategic, replaced", Form::Strategic(metadata(&json!({ "annotations": { "$patch": "replace" } }))), NONE),
        ("apply, old", Form::Apply(with(Some("10.99"))), OLD),
        ("apply, left", Form::Apply(with(None)), LEFT),
        ("apply, unprotected", Form::Apply(metadata(&json!({ "labels": { FENCED: "no" } }))), LEFT),
        ("another label alone", Form::Merge(json!({ "metadata": { "labels": { "a": "b" } } })), LEFT),
        ("another annotation alone", Form::Merge(json!({ "metadata": { "annotations": { "a": "b" } } })), LEFT),
        ("a finalizer alone", Form::Merge(json!({ "metadata": { "finalizers": ["example.com/a"] } })), LEFT),
        ("a field that was not there", Form::Merge(json!({ "immutable": true })), LEFT),
        ("a field removed", Form::Merge(json!({ "data": null })), LEFT),
        ("delete", Form::Delete, DELETION),
        ("delete this version", Form::DeleteThisVersion, DELETION),
        ("delete all", Form::DeleteAll, DELETION),
    ]
    .into_iter()
    .map(|(name, form, message)| (name.to_owned(), form, message))
    .collect::<Vec<_>>();
    // Less as numbers, one way or the other.
    for old in ["20.9", "19.11", "9.11", "9.9", "1.9999999999999999999"] {
        attacks.push((format!("less: {old}"), Form::Merge(with(Some(old))), OLD));
    }
    let forty = "9".repeat(40);
    let (many, many_after) = (format!("{forty}.1"), format!("21.{forty}"));
    for none in [
        "",
        "21",
        "21.",
        ".1",
        "21.1.1",
        "-21.1",
        "+21.1",
        "21.-1",
        " 21.1",
        "21.1 ",
        "21.1\n",
        "021.1",
        "0.1",
        "21.0",
        "2e9.1",
        "0x21.1",
        "21,1",
        "true",
        "٢١.١",
        "18446744073709551616.1",
        "21.18446744073709551616",
        &many,
        &many_after,
    ] {
        attacks.push((format!("malformed: {none:?}"), Form::Merge(with(Some(none))), MALFORMED));
    }
    attacks
}

/// A writer's view of a namespace: it has all permissions on what it writes, and is nobody's administrator.
async fn writer(namespace: &Namespace) -> Result<Api<ConfigMap>> {
    let account = namespace.service_account("writer", rules()).await?;
    Ok(Api::namespaced(account.client()?, namespace.name()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_stale_write_is_refused_by_the_policy_and_passes_without_it() -> Result<()> {
    let (fenced, _dump) = fenced_namespace("attacks").await?;
    let (open, _other_dump) = namespace("attacks-open").await?;
    let (fenced, open) = (writer(&fenced).await?, writer(&open).await?);
    for (n, (attack, form, message)) in attacks().into_iter().enumerate() {
        let name = format!("object-{n}");
        let before = open.create(&PostParams::default(), &object(&name, Some(BEFORE))).await?;
        form.send(&open, &name).await.with_context(|| format!("{attack}: without the policy"))?;
        let after = open.get_opt(&name).await?;
        let version = after.and_then(|object| object.metadata.resource_version);
        ensure!(version != before.metadata.resource_version, "{attack}: without the policy it changed nothing");

        let before = fenced.create(&PostParams::default(), &object(&name, Some(BEFORE))).await?;
        let refusal = refused(form.send(&fenced, &name).await).with_context(|| attack.clone())?;
        ensure!(refusal.contains(message), "{attack}: {refusal}");
        untouched(&fenced, &before).await.context(attack)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_write_with_a_greater_fence_passes() -> Result<()> {
    let (namespace, _dump) = fenced_namespace("greater").await?;
    let objects = writer(&namespace).await?;
    let path = format!("/metadata/annotations/{}", FENCE.replace('/', "~1"));
    let greater =
        ["20.11", "21.1", "100.1", "20.100", "9223372036854775807.1", "9999999999999999999.9999999999999999999"];
    for (n, fence) in greater.into_iter().enumerate() {
        let forms = [
            Form::Put(with(Some(fence))),
            Form::Merge(with(Some(fence))),
            Form::Strategic(with(Some(fence))),
            Form::Apply(with(Some(fence))),
            steps(Some(json!({ "op": "add", "path": path, "value": fence }))),
        ];
        for (m, form) in forms.into_iter().enumerate() {
            let name = format!("object-{n}-{m}");
            // One has none yet, and one has something from before it was protected.
            for (name, before) in [(name.clone(), Some(BEFORE)), (format!("{name}-first"), None)] {
                let mut draft = object(&name, before);
                // A JSON patch adds to what is there.
                draft.metadata.annotations.get_or_insert_default().insert("other".to_owned(), String::new());
                objects.create(&PostParams::default(), &draft).await?;
                form.send(&objects, &name).await.with_context(|| format!("{form:?}"))?;
                let now = objects.get(&name).await?;
                ensure!(now.metadata.annotations.unwrap_or_default()[FENCE] == fence);
                ensure!(now.data.unwrap_or_default()["by"] == "stale");
                // And now it is that fence which counts.
                refused(form.send(&objects, &name).await.map(drop)).map(drop).or_else(|error| {
                    // The very same once more changes nothing, and that may be.
                    ensure!(error.to_string().contains("Ok(())"), error);
                    Ok(())
                })?;
                refused(Form::Merge(with(Some("20.10"))).send(&objects, &name).await)?;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_created_protected_and_unprotected_as_the_guide_says() -> Result<()> {
    let (namespace, _dump) = fenced_namespace("create").await?;
    let objects = writer(&namespace).await?;
    let create = async |object: ConfigMap| objects.create(&PostParams::default(), &object).await.map(drop);
    create(object("with", Some("5.1"))).await?;
    create(object("without", None)).await?;
    ensure!(refused(create(object("malformed", Some("5"))).await)?.contains("is not a fence"));
    // The first write to one without a fence needs one as well.
    ensure!(refused(Form::Merge(with(None)).send(&objects, "without").await)?.contains("brings none"));
    Form::Merge(with(Some("1.1"))).send(&objects, "without").await?;

    // Whatever stood there before an object was protected does not lock it for good.
    let mut plain = object("plain", Some("never a fence"));
    plain.metadata.labels = None;
    create(plain).await?;
    Form::Merge(json!({ "data": { "by": "anybody" } })).send(&objects, "plain").await?;
    let protect = |fence: Value| {
        Form::Merge(json!({ "metadata": { "labels": { FENCED: "true" }, "annotations": { FENCE: fence } } }))
    };
    ensure!(refused(protect(json!("no")).send(&objects, "plain").await)?.contains("is not a fence"));
    protect(Value::Null).send(&objects, "plain").await?;
    refused(Form::Merge(with(None)).send(&objects, "plain").await)?;

    // With a fence the label goes, and then the object.
    let unprotect = json!({ "metadata": { "labels": { FENCED: null }, "annotations": { FENCE: "5.2" } } });
    Form::Merge(unprotect).send(&objects, "with").await?;
    Form::DeleteThisVersion.send(&objects, "with").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_is_fenced_like_a_small_one() -> Result<()> {
    let (namespace, _dump) = fenced_namespace("large").await?;
    let objects = writer(&namespace).await?;
    // What a ConfigMap holds at most is 1 MiB. Many keys cost the policy most.
    for (name, keys, bytes) in [("keys", 20_000, 30), ("bytes", 1, 1_000_000)] {
        let mut draft = object(name, Some(BEFORE));
        let data = draft.data.get_or_insert_default();
        data.extend((0..keys).map(|n| (format!("key-{n:05}"), "x".repeat(bytes))));
        objects.create(&PostParams::default(), &draft).await?;
        ensure!(refused(Form::Merge(with(None)).send(&objects, name).await)?.contains("leaves its fence"));
        ensure!(refused(Form::Merge(with(Some("9.9"))).send(&objects, name).await)?.contains("already"));
        Form::Put(json!({})).send(&objects, name).await.context("it changes nothing")?;
        Form::Merge(with(Some("21.1"))).send(&objects, name).await.context("it has a greater fence")?;
    }
    Ok(())
}
