//! A namespace of a test's own.

use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::account::{Account, Scope};
use crate::cluster::Cluster;
use crate::dump;

const SOON: Duration = Duration::from_secs(30);

/// A namespace with a unique name, see [`Cluster::namespace`].
pub struct Namespace {
    cluster: Cluster,
    client: Client,
    name: String,
    uid: String,
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Namespace {
    pub(crate) fn new(cluster: Cluster, client: Client, object: NamespaceObject) -> Result<Self> {
        Ok(Self {
            cluster,
            client,
            name: object.metadata.name.context("a namespace without a name")?,
            uid: object.metadata.uid.context("a namespace without a uid")?,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster that it is in.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The administrator's client, the same one at each call.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The administrator's configuration with this as default namespace.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut config = self.cluster.config();
        config.default_namespace.clone_from(&self.name);
        config
    }

    /// The administrator's API for one kind of object in this namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), &self.name)
    }

    /// Runs kubectl as the administrator in this namespace, see
    /// [`Cluster::kubectl`].
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", self.name.as_str()];
        all.extend(args);
        self.cluster.kubectl(&all).await
    }

    /// A new service account that may do in this namespace what `rules` say.
    pub async fn service_account(&self, name: &str, rules: Vec<PolicyRule>) -> Result<Account> {
        Account::create(self, name, rules, Scope::Namespace).await
    }

    /// A new service account that may do in the whole cluster what `rules` say.
    pub async fn cluster_account(&self, name: &str, rules: Vec<PolicyRule>) -> Result<Account> {
        Account::create(self, name, rules, Scope::Cluster).await
    }

    /// A new service account as in [`service_account`](Self::service_account)
    /// with a pod of the same name, and a token that belongs to that pod.
    pub async fn pod_account(&self, name: &str, rules: Vec<PolicyRule>) -> Result<Account> {
        self.service_account(name, rules).await?.in_pod(name).await
    }

    /// Creates a pod that nothing ever runs, for instance as the owner of other
    /// objects; in its `default` service account if none is named.
    pub async fn pod(&self, name: &str, service_account: Option<&str>) -> Result<Pod> {
        self.api::<Pod>()
            .create(&PostParams::default(), &pod_object(name, service_account.unwrap_or("default"), &json!({}))?)
            .await
            .with_context(|| format!("cannot create the pod {name}"))
    }

    /// The Leases, Leasehold's resources, pods and events of this namespace as
    /// YAML, for a person to read. What cannot be read is said in its place.
    pub async fn dump(&self) -> String {
        dump::namespace(self.client(), &self.name).await
    }

    pub(crate) fn owner_reference(&self) -> serde_json::Value {
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "name": self.name,
            "uid": self.uid,
        })
    }

    /// Pods are refused without it. A controller creates it too, if there is
    /// one, and does not mind who was first.
    pub(crate) async fn ensure_default_account(&self) -> Result<()> {
        let account = serde_json::from_value(json!({ "metadata": { "name": "default" } }))?;
        let accounts = self.api::<ServiceAccount>();
        match accounts.create(&PostParams::default(), &account).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            created => created.map(drop).context("cannot create the default service account"),
        }
    }
}

/// A pod that needs nothing but its service account, with what is to be added to its top-level fields' fields.
pub(crate) fn pod_object(name: &str, service_account: &str, more: &Value) -> Result<Pod> {
    let mut pod = json!({
        "metadata": { "name": name },
        "spec": {
            "serviceAccountName": service_account,
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "main", "image": "example.invalid/never-pulled" }],
        },
    });
    for (field, more) in more.as_object().into_iter().flatten() {
        for (key, value) in more.as_object().into_iter().flatten() {
            pod[field][key] = value.clone();
        }
    }
    Ok(serde_json::from_value(pod)?)
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.cluster.is_disposable() {
            return;
        }
        if thread::panicking() {
            eprintln!("the namespace {} is left as it is", self.name);
            return;
        }
        // A runtime of its own: the test's may be the one that is going down.
        let config = self.cluster.config();
        let name = self.name.clone();
        let deleted = thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let namespaces = Api::<NamespaceObject>::all(Client::try_from(config)?);
                let how = DeleteParams::background();
                tokio::time::timeout(SOON, namespaces.delete(&name, &how)).await??;
                Ok(())
            })
        })
        .join();
        if !matches!(deleted, Ok(Ok(()))) {
            eprintln!("cannot delete the namespace {}: {deleted:?}", self.name);
        }
    }
}
