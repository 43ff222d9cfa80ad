//! Writes that are not for the writer to make. Each is refused by the policies, and passes without them.

mod full;
mod lawful;
mod locks;
mod sessions;
mod shared;
mod stuck;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use leasehold::protocol::SessionId;
use leasehold_testkit::{Account, Cluster, Namespace};
use serde_json::{Value, json};

use super::{bind, rules};

/// Whoever is attacked. It is no Pod's name here, and need not be.
const VICTIM: &str = "victim_0a1b2c3dk3j9x2m1";
/// Another who waits.
const OTHER: &str = "other_4e5f6071k3j9x2m1";

/// A write to a Lease.
enum Form {
    /// What is changed, by a JSON Patch.
    Change(Vec<Value>),
    /// The Lease is to be made, instead of the one that stands there.
    Create(Value),
    Delete,
}

/// What is attempted, on which Lease, and what the refusal has to say.
struct Attack {
    name: &'static str,
    before: Value,
    form: Form,
    message: &'static str,
}

fn path(map: &str, key: &str) -> String {
    format!("/metadata/{map}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn annotate(key: &str, value: &str) -> Value {
    json!({ "op": "add", "path": path("annotations", key), "value": value })
}

fn unannotate(key: &str) -> Value {
    json!({ "op": "remove", "path": path("annotations", key) })
}

fn label(key: &str, value: &str) -> Value {
    json!({ "op": "add", "path": path("labels", key), "value": value })
}

fn unlabel(key: &str) -> Value {
    json!({ "op": "remove", "path": path("labels", key) })
}

/// Sets it to the Lease's resourceVersion.
fn dated(map: &str, key: &str) -> Value {
    json!({ "op": "copy", "from": "/metadata/resourceVersion", "path": path(map, key) })
}

fn spec(field: &str, value: impl Into<Value>) -> Value {
    json!({ "op": "add", "path": format!("/spec/{field}"), "value": value.into() })
}

/// An owner with whom it would go.
fn owned() -> Value {
    let owner = json!({ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u" });
    json!({ "op": "add", "path": "/metadata/ownerReferences", "value": [owner] })
}

fn join(id: &str) -> String {
    format!("join.leasehold.dev/{id}")
}

fn want(id: &str) -> String {
    format!("want.leasehold.dev/{id}")
}

fn holder(id: &str) -> String {
    format!("holder.leasehold.dev/{id}")
}

/// A Lease of this kind with these annotations, its name still to be given.
fn lease(kind: &str, annotations: &[(&str, &str)], spec: &Value) -> Value {
    let mut all = json!({ "leasehold.dev/format": "1" });
    for (key, value) in annotations {
        all[*key] = json!(value);
    }
    json!({ "metadata": { "labels": { "leasehold.dev/kind": kind }, "annotations": all }, "spec": spec })
}

/// A lock that is held by this acquisition of this session, or free, with waiters by these ids in their order.
fn lock(session: &str, waiters: &[&str]) -> Value {
    let joins: Vec<(String, String)> =
        waiters.iter().enumerate().map(|(n, id)| (join(id), (n + 2).to_string())).collect();
    let joins: Vec<(&str, &str)> = joins.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let holding = if session.is_empty() { String::new() } else { format!("{session}.1") };
    let mut lock = lease("lock", &joins, &json!({ "holderIdentity": holding, "leaseTransitions": 3 }));
    if !session.is_empty() {
        lock["metadata"]["labels"][holder(session)] = json!("1");
    }
    lock
}

/// The same with this annotation.
fn with(mut lease: Value, key: &str, value: &str) -> Value {
    lease["metadata"]["annotations"][key] = json!(value);
    lease
}

/// The lock goes from `from` to this acquisition, as by a grant.
fn passes(from: &str, session: &str, n: u32, queued: bool) -> Vec<Value> {
    let id = format!("{session}.{n}");
    let mut ops = vec![spec("holderIdentity", id.as_str()), spec("leaseTransitions", 4)];
    ops.extend((!from.is_empty()).then(|| unlabel(&holder(from))));
    ops.push(dated("labels", &holder(session)));
    ops.extend(queued.then(|| unannotate(&join(&id))));
    ops
}

/// A Pod's view of a namespace: it has the shipped permissions on Leases, and is nobody's administrator.
struct Side {
    admin: Api<Lease>,
    attacker: Api<Lease>,
    me: String,
    account: Account,
}

impl Side {
    async fn new(namespace: &Namespace) -> Result<Self> {
        let account = namespace.pod_account("mallory", rules()).await?;
        let meta = &account.pod().context("a Pod")?.metadata;
        let uid = meta.uid.as_deref().context("a uid")?;
        let me = SessionId::of_pod("mallory", uid, "k3j9x2m1").to_string();
        let attacker = Api::namespaced(account.client()?, namespace.name());
        Ok(Self { admin: namespace.api(), attacker, me, account })
    }

    /// Makes the Lease as it was before, and writes to it as the attacker.
    async fn attempt(&self, name: &str, attack: &Attack) -> Result<Result<(), kube::Error>> {
        let named = |lease: &Value| -> Result<Lease> {
            let mut lease = lease.clone();
            lease["metadata"]["name"] = json!(name);
            Ok(serde_json::from_value(lease)?)
        };
        if !attack.before.is_null() {
            self.admin.create(&PostParams::default(), &named(&attack.before)?).await?;
        }
        Ok(match &attack.form {
            Form::Change(ops) => {
                let patch = serde_json::from_value(Value::Array(ops.clone()))?;
                self.attacker.patch(name, &PatchParams::default(), &Patch::<()>::Json(patch)).await.map(drop)
            }
            Form::Create(lease) => self.attacker.create(&PostParams::default(), &named(lease)?).await.map(drop),
            Form::Delete => self.attacker.delete(name, &DeleteParams::default()).await.map(drop),
        })
    }

    /// All attacks, each with the name of its Lease.
    fn attacks(&self) -> Vec<(String, Attack)> {
        let locks = locks::locks(&self.me).into_iter().chain(stuck::locks(&self.me));
        let locks = locks.chain(shared::shared(&self.me)).chain(stuck::shared(&self.me)).enumerate();
        let locks = locks.map(|(n, attack)| (format!("lease-{n}"), attack));
        let sessions = sessions::sessions(&self.me).into_iter().enumerate().map(|(n, (session, attack))| {
            // Each its own: the random part is anybody's to choose.
            let session: SessionId = format!("{session}{n}").parse().expect("a session");
            let rename = |value: &Value| {
                let renamed = value.to_string();
                let renamed =
                    renamed.replace(&self.me, &format!("{}{n}", self.me)).replace(VICTIM, &format!("{VICTIM}{n}"));
                serde_json::from_str(&renamed).expect("it was JSON before")
            };
            let form = match &attack.form {
                Form::Change(ops) => Form::Change(ops.iter().map(rename).collect()),
                Form::Create(lease) => Form::Create(rename(lease)),
                Form::Delete => Form::Delete,
            };
            (session.lease_name(), Attack { before: rename(&attack.before), form, ..attack })
        });
        locks.chain(sessions).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_for_the_writer_is_refused_by_the_policies_and_passes_without_them() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let (strict, open) = (cluster.namespace("attacked").await?, cluster.namespace("attacked-open").await?);
    bind(&strict).await?;
    let (strict, open) = (Side::new(&strict).await?, Side::new(&open).await?);
    let (mut failures, mut count) = (Vec::new(), 0);
    for ((name, attack), (open_name, same)) in strict.attacks().into_iter().zip(open.attacks()) {
        count += 1;
        if let Err(error) = open.attempt(&open_name, &same).await? {
            failures.push(format!("{}: without the policies: {error}", attack.name));
        }
        match strict.attempt(&name, &attack).await? {
            Err(kube::Error::Api(status))
                if status.code == 403
                    && status.message.contains("ValidatingAdmissionPolicy 'leasehold-strict-")
                    && status.message.contains(attack.message) => {}
            outcome => failures.push(format!("{}: {outcome:?} (wanted: {})", attack.name, attack.message)),
        }
    }
    ensure!(failures.is_empty(), "of {count}:\n{}", failures.join("\n"));
    if count < 140 {
        bail!("there are only {count} attacks");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_others_are_not_looked_at() -> Result<()> {
    let strict = Cluster::shared().await?.namespace("others").await?;
    bind(&strict).await?;
    let side = Side::new(&strict).await?;
    // As client-go's leader election does, and whatever else there is.
    for name in ["controller", "session-manager", "node-1"] {
        let lease = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "holderIdentity": "a" } }))?;
        let mut lease: Lease = side.attacker.create(&PostParams::default(), &lease).await?;
        lease.spec.get_or_insert_default().holder_identity = Some("another".to_owned());
        side.attacker.replace(name, &PostParams::default(), &lease).await?;
        side.attacker.delete(name, &DeleteParams::default()).await?;
    }
    Ok(())
}
