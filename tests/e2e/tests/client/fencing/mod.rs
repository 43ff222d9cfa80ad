//! Writes to protected objects, with the policy of `config/fencing` bound and without.
//!
//! Each write that must be refused is sent to an object of a namespace without the policy as well, where it passes: so it is
//! the policy that refuses it, and nothing else.

mod forms;
mod guide;
mod paused;
mod tidying;

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::{Result, bail, ensure};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace as NamespaceObject};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource};
use leasehold::{FENCE, FENCED};
use leasehold_testkit::{Cluster, DumpOnFailure, Namespace, eventually};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::{SOON, namespace};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A namespace where the policy counts.
async fn fenced_namespace(prefix: &str) -> Result<(Namespace, DumpOnFailure)> {
    let cluster = Cluster::shared().await?;
    // Tests that start at the same time get into each other's way here.
    eventually(SOON, "the policy to be applied", async || {
        cluster.kubectl(&["apply", "-k", &format!("{ROOT}/config/fencing")]).await
    })
    .await?;
    let (namespace, dump) = namespace(prefix).await?;
    let bound = json!({ "metadata": { "labels": { "leasehold.dev/fencing": "enabled" } } });
    let namespaces: Api<NamespaceObject> = Api::all(cluster.client()?);
    namespaces.patch(namespace.name(), &PatchParams::default(), &Patch::Merge(&bound)).await?;
    // It counts a moment later: when what no fence is can no longer be created.
    let probe = object("probe", Some("no fence"));
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    eventually(SOON, "the policy to count", async || match namespace.api::<ConfigMap>().create(&dry, &probe).await {
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("is not a fence") => Ok(()),
        outcome => bail!("{outcome:?}"),
    })
    .await?;
    Ok((namespace, dump))
}

/// What who writes protected objects needs beside the locks. `deletecollection` is for the tests' sake.
fn rules() -> Vec<PolicyRule> {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(resources.iter().map(ToString::to_string).collect()),
        verbs: verbs.iter().map(ToString::to_string).collect(),
        ..PolicyRule::default()
    };
    let all = ["get", "list", "create", "update", "patch", "delete", "deletecollection"];
    let mut rules = crate::support::rules();
    rules.push(rule("", &["configmaps", "pods", "pods/status"], &all));
    rules
}

/// A protected object, on which this fence stands.
fn object(name: &str, fence: Option<&str>) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.to_owned());
    object.metadata.labels = Some([(FENCED.to_owned(), "true".to_owned())].into());
    object.metadata.annotations = fence.map(|fence| [(FENCE.to_owned(), fence.to_owned())].into());
    object.data = Some(BTreeMap::from([("by".to_owned(), "holder".to_owned())]));
    object
}

/// A write to an object.
#[derive(Clone, Debug)]
enum Form {
    /// This is merged into the object as it is, its resourceVersion left out, and put in its place.
    Put(Value),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
    Json(Value),
    Status(Value),
    Delete,
    DeleteThisVersion,
    DeleteAll,
}

impl Form {
    async fn send<K>(&self, api: &Api<K>, name: &str) -> Result<(), kube::Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned + serde::Serialize,
    {
        let params = PatchParams::default();
        match self {
            Self::Put(changes) => {
                let json = |error| kube::Error::SerdeError(error);
                let mut body = serde_json::to_value(api.get(name).await?).map_err(json)?;
                merge(&mut body, changes);
                merge(&mut body, &json!({ "metadata": { "resourceVersion": null, "managedFields": null } }));
                let object = serde_json::from_value(body).map_err(json)?;
                api.replace(name, &PostParams::default(), &object).await.map(drop)
            }
            Self::Merge(body) => api.patch(name, &params, &Patch::Merge(body)).await.map(drop),
            Self::Strategic(body) => api.patch(name, &params, &Patch::Strategic(body)).await.map(drop),
            Self::Apply(body) => {
                let mut body = body.clone();
                merge(&mut body, &json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()) }));
                api.patch(name, &PatchParams::apply("writer").force(), &Patch::Apply(&body)).await.map(drop)
            }
            Self::Json(steps) => {
                let patch = serde_json::from_value(steps.clone()).map_err(kube::Error::SerdeError)?;
                api.patch(name, &params, &Patch::<()>::Json(patch)).await.map(drop)
            }
            Self::Status(body) => api.patch_status(name, &params, &Patch::Merge(body)).await.map(drop),
            Self::Delete => api.delete(name, &DeleteParams::default()).await.map(drop),
            Self::DeleteThisVersion => {
                let object = api.get(name).await?;
                let (uid, resource_version) = (object.meta().uid.clone(), object.meta().resource_version.clone());
                let only = DeleteParams::default().preconditions(Preconditions { uid, resource_version });
                api.delete(name, &only).await.map(drop)
            }
            Self::DeleteAll => {
                let named = ListParams::default().fields(&format!("metadata.name={name}"));
                api.delete_collection(&DeleteParams::default(), &named).await.map(drop)
            }
        }
    }
}

/// Merges as a merge patch does.
fn merge(into: &mut Value, changes: &Value) {
    let Value::Object(changes) = changes else {
        *into = changes.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, change) in changes {
        if change.is_null() {
            into.as_object_mut().expect("it is made one above").remove(key);
        } else {
            merge(&mut into[key], change);
        }
    }
}

/// The policy's refusal, or an error if it was none.
fn refused(outcome: Result<(), kube::Error>) -> Result<String> {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("leasehold-fencing") => {
            Ok(status.message)
        }
        outcome => bail!("it was not refused by the policy: {outcome:?}"),
    }
}

/// Nothing was changed since this was read.
async fn untouched(api: &Api<ConfigMap>, before: &ConfigMap) -> Result<()> {
    let name = before.metadata.name.as_deref().unwrap_or_default();
    let now = api.get(name).await?;
    ensure!(now.metadata.resource_version == before.metadata.resource_version, "it was written: {now:?}");
    Ok(())
}
