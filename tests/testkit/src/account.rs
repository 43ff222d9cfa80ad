//! Service accounts with real tokens.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use kube::api::{Api, PostParams};
use kube::config::{AuthInfo, Kubeconfig};
use kube::{Client, Config, Resource};
use serde_json::{Value, json};

use crate::cluster::{Cluster, write_kubeconfig};
use crate::eventually;
use crate::namespace::{Namespace, pod_object};
use crate::token;

/// How long a token is valid: longer than any run of the tests.
const TOKEN_SECONDS: u32 = 6 * 60 * 60;

/// For so long after its end the API server still takes a token (the leeway of
/// the library that it reads them with).
const LEEWAY_SECONDS: u64 = 60;

/// Where the rules of an account hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Namespace,
    Cluster,
}

/// An identity with a token, see [`Namespace::service_account`].
#[derive(Clone)]
pub struct Account {
    cluster: Cluster,
    admin: Client,
    namespace: String,
    name: String,
    pod: Option<Pod>,
    token: String,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("username", &self.username())
            .field("pod", &self.pod_name())
            .finish_non_exhaustive()
    }
}

impl Account {
    pub(crate) async fn create(
        namespace: &Namespace,
        name: &str,
        rules: Vec<PolicyRule>,
        scope: Scope,
    ) -> Result<Self> {
        let admin = namespace.client();
        create::<ServiceAccount>(&namespace.api(), json!({ "metadata": { "name": name } })).await?;
        let subjects = json!([{
            "kind": "ServiceAccount", "name": name, "namespace": namespace.name(),
        }]);
        let review = rules.first().map(|rule| review_of(rule, namespace.name(), scope));
        match scope {
            Scope::Namespace => {
                let metadata = json!({ "name": name });
                create::<Role>(&namespace.api(), json!({ "metadata": metadata, "rules": rules })).await?;
                let role = role_reference("Role", name);
                create::<RoleBinding>(
                    &namespace.api(),
                    json!({ "metadata": metadata, "roleRef": role, "subjects": subjects }),
                )
                .await?;
            }
            Scope::Cluster => {
                // Objects of the whole cluster, so named after the namespace,
                // and collected when it goes.
                let name = format!("{}:{name}", namespace.name());
                let metadata = json!({ "name": name, "ownerReferences": [namespace.owner_reference()] });
                let api = Api::<ClusterRole>::all(admin.clone());
                create(&api, json!({ "metadata": metadata, "rules": rules })).await?;
                let role = role_reference("ClusterRole", &name);
                create::<ClusterRoleBinding>(
                    &Api::all(admin.clone()),
                    json!({ "metadata": metadata, "roleRef": role, "subjects": subjects }),
                )
                .await?;
            }
        }
        let mut account = Self {
            cluster: namespace.cluster().clone(),
            admin,
            namespace: namespace.name().to_owned(),
            name: name.to_owned(),
            pod: None,
            token: String::new(),
        };
        account.token = account.request_token(None).await?;
        if let Some(review) = review {
            account.wait_allowed(&review).await?;
        }
        Ok(account)
    }

    /// The same service account in a new pod of this name, with a token that
    /// names the pod and is void when the pod is gone.
    pub async fn in_pod(&self, pod: &str) -> Result<Self> {
        self.in_pod_like(pod, &json!({})).await
    }

    /// The same in a pod that differs from the usual one by these fields, as in `{"spec": {…}}`.
    pub async fn in_pod_like(&self, pod: &str, more: &Value) -> Result<Self> {
        let created = self
            .admin_api()
            .create(&PostParams::default(), &pod_object(pod, &self.name, more)?)
            .await
            .with_context(|| format!("cannot create the pod {pod}"))?;
        let token = self.request_token(Some(&created)).await?;
        Ok(Self { pod: Some(created), token, ..self.clone() })
    }

    /// The service account's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pod that the token belongs to, as it was created.
    #[must_use]
    pub fn pod(&self) -> Option<&Pod> {
        self.pod.as_ref()
    }

    fn pod_name(&self) -> Option<&str> {
        self.pod.as_ref()?.metadata.name.as_deref()
    }

    /// What the API server calls it: `system:serviceaccount:…`.
    #[must_use]
    pub fn username(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    /// Its bearer token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A new token of this account that is valid for so long only, in whole
    /// seconds: shorter than the API server itself would make one.
    ///
    /// The API server remembers for ten seconds that a token was good, and
    /// takes one for good until a minute after its end: so this one ends a
    /// minute earlier.
    ///
    /// # Errors
    ///
    /// Where this process did not start the cluster: its signing key is needed.
    pub async fn expiring_token(&self, lifetime: Duration) -> Result<String> {
        let account = self.admin_api::<ServiceAccount>().get(&self.name).await?;
        let claims = token::claims(&self.token)?;
        let end = claims_now() + lifetime.as_secs() - LEEWAY_SECONDS;
        let claims = json!({
            "iss": claims["iss"],
            "aud": claims["aud"],
            "sub": self.username(),
            "iat": end - u64::from(TOKEN_SECONDS),
            "nbf": end - u64::from(TOKEN_SECONDS),
            "exp": end,
            "kubernetes.io": {
                "namespace": self.namespace,
                "serviceaccount": { "name": self.name, "uid": account.metadata.uid },
            },
        });
        token::sign(&self.cluster.account_key().await?, &claims)
    }

    /// A configuration that logs in as this account, in its namespace.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut config = self.cluster.config();
        config.auth_info = AuthInfo { token: Some(self.token.clone().into()), ..AuthInfo::default() };
        config.default_namespace.clone_from(&self.namespace);
        config
    }

    /// A new client that logs in as this account.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::try_from(self.config())?)
    }

    /// Writes a kubeconfig that logs in as this account, in its namespace. It
    /// works as long as the cluster is there.
    pub fn write_kubeconfig(&self, path: &Path) -> Result<()> {
        write_kubeconfig(&self.kubeconfig()?, path)
    }

    fn kubeconfig(&self) -> Result<Kubeconfig> {
        let mut kubeconfig = self.cluster.kubeconfig().clone();
        let current = kubeconfig.current_context.clone().context("no current context")?;
        let context = kubeconfig
            .contexts
            .iter()
            .find(|context| context.name == current)
            .and_then(|context| context.context.as_ref())
            .context("the current context is missing")?;
        let cluster = context.cluster.clone();
        kubeconfig.clusters.retain(|named| named.name == cluster);
        kubeconfig.auth_infos = serde_json::from_value(json!([{
            "name": self.name, "user": { "token": self.token },
        }]))?;
        kubeconfig.contexts = serde_json::from_value(json!([{
            "name": current,
            "context": { "cluster": cluster, "user": self.name, "namespace": self.namespace },
        }]))?;
        Ok(kubeconfig)
    }

    fn admin_api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    async fn request_token(&self, pod: Option<&Pod>) -> Result<String> {
        let bound = pod.map(|pod| {
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "name": pod.metadata.name, "uid": pod.metadata.uid,
            })
        });
        let request: TokenRequest = serde_json::from_value(json!({
            "spec": {
                "audiences": [],
                "expirationSeconds": TOKEN_SECONDS,
                "boundObjectRef": bound,
            },
        }))?;
        let answer = self
            .admin_api::<ServiceAccount>()
            .create_token_request(&self.name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("cannot get a token for {}", self.username()))?;
        Ok(answer.status.context("a token request without an answer")?.token)
    }

    /// The API server learns of roles by watching them, a moment later.
    async fn wait_allowed(&self, review: &Value) -> Result<()> {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client()?);
        let review = serde_json::from_value(json!({ "spec": review }))?;
        eventually(Duration::from_secs(30), "the account's role to count", async || {
            let answer = reviews.create(&PostParams::default(), &review).await?;
            ensure!(answer.status.is_some_and(|status| status.allowed), "not allowed yet");
            Ok(())
        })
        .await
    }
}

/// The wall clock in seconds, as tokens tell time.
#[expect(clippy::disallowed_methods, reason = "a token is dated by the wall clock")]
fn claims_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

async fn create<K>(api: &Api<K>, object: Value) -> Result<K>
where
    K: Clone + fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let object: K = serde_json::from_value(object)?;
    api.create(&PostParams::default(), &object).await.with_context(|| format!("cannot create {object:?}"))
}

fn role_reference(kind: &str, name: &str) -> Value {
    json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name })
}

/// A question that is answered with yes once a role with this rule counts.
fn review_of(rule: &PolicyRule, namespace: &str, scope: Scope) -> Value {
    let first = |list: Option<&Vec<String>>| list.and_then(|list| list.first()).cloned();
    let verb = rule.verbs.first();
    if let Some(path) = first(rule.non_resource_urls.as_ref()) {
        return json!({ "nonResourceAttributes": { "path": path, "verb": verb } });
    }
    let named = first(rule.resources.as_ref()).unwrap_or_default();
    let (resource, subresource) = named.split_once('/').unwrap_or((&named, ""));
    json!({ "resourceAttributes": {
        "namespace": (scope == Scope::Namespace).then_some(namespace),
        "group": first(rule.api_groups.as_ref()),
        "resource": resource,
        "subresource": subresource,
        "name": first(rule.resource_names.as_ref()),
        "verb": verb,
    }})
}
