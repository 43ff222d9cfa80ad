//! Namespaces where `config/strict` counts: everybody writes in his own name, by a real token.

mod attacks;
mod breaking;
mod traffic;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace as NamespaceObject;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use leasehold::protocol::{Version, Write};
use leasehold::{Client, Failure, KubeStore, Sight, Store};
use leasehold_testkit::{Account, Namespace, eventually};
use serde_json::json;

use crate::support::{ROOT, SOON, Scene};

/// What a client of locks has, and no more: the shipped role's rule for Leases.
fn rules() -> Vec<PolicyRule> {
    let verbs = ["get", "list", "watch", "create", "update", "patch", "delete"];
    vec![PolicyRule {
        api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
        resources: Some(vec!["leases".to_owned()]),
        verbs: verbs.map(str::to_owned).into(),
        ..PolicyRule::default()
    }]
}

/// A namespace with an operator, where the policies count.
async fn strict_scene() -> Result<Scene> {
    let scene = Scene::new().await?;
    bind(&scene.namespace).await?;
    Ok(scene)
}

/// Lets the policies count in a namespace.
async fn bind(namespace: &Namespace) -> Result<()> {
    let cluster = namespace.cluster();
    // Tests that start at the same time get into each other's way here.
    eventually(SOON, "the policies to be applied", async || {
        cluster.kubectl(&["apply", "-k", &format!("{ROOT}/config/strict")]).await
    })
    .await?;
    let bound = json!({ "metadata": { "labels": { "leasehold.dev/strict": "enabled" } } });
    let namespaces: Api<NamespaceObject> = Api::all(cluster.client()?);
    namespaces.patch(namespace.name(), &PatchParams::default(), &Patch::Merge(&bound)).await?;
    // They count a moment later, each by itself: when what none of them takes can no longer be created.
    let account = namespace.service_account("probe", rules()).await?;
    let leases: Api<Lease> = Api::namespaced(account.client()?, namespace.name());
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    for (name, kind) in [("session-probe.x", "session"), ("probe", "lock"), ("probe", "semaphore")] {
        let probe =
            serde_json::from_value(json!({ "metadata": { "name": name, "labels": { "leasehold.dev/kind": kind } },
            "spec": { "holderIdentity": "nobody_x.1" } }))?;
        eventually(SOON, "the policies to count", async || match leases.create(&dry, &probe).await {
            Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("strict mode") => Ok(()),
            outcome => bail!("{outcome:?}"),
        })
        .await?;
    }
    Ok(())
}

/// Writes of these clients that were forbidden.
#[derive(Clone, Debug, Default)]
struct Forbidden(Arc<Mutex<Vec<String>>>);

impl Forbidden {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A client as this account has it, by its own name, whose forbidden writes are noted.
fn client_of(account: &Account, namespace: &Namespace, session: u64, forbidden: &Forbidden) -> Result<Client> {
    let store = Noting(KubeStore::new(account.config(), namespace.name())?, forbidden.clone());
    let builder = Client::builder().kube_config(account.config()).namespace(namespace.name()).store(Arc::new(store));
    Ok(builder.session_duration(Duration::from_secs(session)).build()?)
}

#[derive(Debug)]
struct Noting(KubeStore, Forbidden);

impl Store for Noting {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        self.0.read(name)
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        async move {
            let answer = self.0.write(name, write).await;
            if let Err(Failure::Forbidden(why)) = &answer {
                self.1.0.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name}: {why}\n{write:?}"));
            }
            answer
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Lease>, Failure>> {
        self.0.list()
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        self.0.watch(name, label, from)
    }
}
