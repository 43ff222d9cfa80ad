//! The shipped roles against the audit log of the API server: what the operator does must be what it may do, to the verb.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::rbac::v1::PolicyRule;
use leasehold_operator::crd::{DistributedLockStatus, ReadWriteLock, Semaphore, State};
use leasehold_testkit::{Cluster, Signal, eventually};
use serde::Deserialize as _;
use serde_json::Value;

use crate::support::{Operator, ROOT, SOON, Scene, holder};

const SYSTEM: &str = "leasehold-system";
const ROLES: [(&str, &str); 2] =
    [("leasehold-operator", "operator_role"), ("leasehold-operator-leader-election", "leader_election_role")];

/// What is shipped, and not needed by [`everything`]: role, resource, verb, and why it is there all the same.
///
/// Whoever adds a rule rather adds to [`everything`] what the operator does by it.
const EXCEPTED: [(&str, &str, &str, &str); 1] = [(
    "leasehold-operator",
    "sessions.leasehold.dev",
    "end",
    "no request has this verb: admission asks whether the operator has it (config/strict)",
)];

/// Role, resource with its group, verb.
type Right = (String, String, String);

/// Every verb of the roles as they stand in config/rbac.
fn shipped() -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for (role, file) in ROLES {
        let yaml = std::fs::read_to_string(format!("{ROOT}/config/rbac/{file}.yaml"))?;
        for document in serde_yaml_ng::Deserializer::from_str(&yaml) {
            let object = Value::deserialize(document)?;
            if object["metadata"]["name"] != role || object["rules"].is_null() {
                continue;
            }
            let rules: Vec<PolicyRule> = serde_json::from_value(object["rules"].clone())?;
            for rule in rules {
                ensure!(
                    rule.resource_names.is_none() && rule.non_resource_urls.is_none(),
                    "not compared here: {rule:?}"
                );
                for group in rule.api_groups.iter().flatten() {
                    for resource in rule.resources.iter().flatten() {
                        let resource = format!("{resource}.{group}");
                        let all = rule.verbs.iter().map(|verb| (role.to_owned(), resource.clone(), verb.clone()));
                        rights.extend(all);
                    }
                }
            }
        }
    }
    Ok(rights)
}

/// What the operator asked for, by the role that allowed it, and what it was refused.
async fn used(cluster: &Cluster) -> Result<(BTreeSet<Right>, BTreeSet<String>)> {
    let (mut used, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let operator = format!("system:serviceaccount:{SYSTEM}:leasehold-operator");
    for event in cluster.audit_events().await? {
        if event["user"]["username"] != operator.as_str() || event["objectRef"].is_null() {
            continue;
        }
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let part = Some(text("/objectRef/subresource")).filter(|part| !part.is_empty());
        let part = part.map(|part| format!("/{part}")).unwrap_or_default();
        let resource = format!("{}{part}.{}", text("/objectRef/resource"), text("/objectRef/apiGroup"));
        let verb = text("/verb").to_owned();
        let annotations = &event["annotations"];
        if annotations["authorization.k8s.io/decision"] != "allow" {
            refused.insert(format!("{verb} {resource} in {:?}", text("/objectRef/namespace")));
            continue;
        }
        // As in: RBAC: allowed by RoleBinding "a/b" of ClusterRole "c" to ServiceAccount "d/e"
        let reason = annotations["authorization.k8s.io/reason"].as_str().unwrap_or_default();
        let role = reason.split("Role \"").nth(1).and_then(|rest| rest.split_once('"'));
        let (role, _) = role.with_context(|| format!("no role allowed it: {event:#}"))?;
        used.insert((role.to_owned(), resource, verb));
    }
    Ok((used, refused))
}

/// Makes the operator do everything that it is there for.
async fn everything(scene: &Scene) -> Result<()> {
    let yaml = |kind: &str, name: &str, spec: &str| {
        format!("apiVersion: leasehold.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
    };
    scene.apply(&(yaml("Semaphore", "db", "{permits: 2}") + &yaml("ReadWriteLock", "map", "{}"))).await?;
    scene.status_of::<Semaphore>("db", |status| status.permits == 2).await?;
    scene.status_of::<ReadWriteLock>("map", |status| status.state.is_some()).await?;
    scene.lock("build").await?;
    // One dies for somebody, one for nobody.
    scene.client("first").await?.acquire("build", 1).await?;
    let second = scene.client("second").await?.keep_alive();
    second.join("build", 2).await?;
    scene.record("build", |record| holder(record) == second.id(2).to_string()).await?;
    second.stop().await?;
    scene.record("build", |record| holder(record).is_empty()).await?;
    scene.status("build", |status| status.state == Some(State::Free)).await?;
    scene.event("build", "Evicted").await?;
    // It is broken twice: the second Event is added to the first.
    let alive = scene.client("alive").await?.keep_alive();
    for n in 1..=2 {
        alive.acquire("build", n).await?;
        let held = |status: &DistributedLockStatus| {
            status.holder.as_ref().is_some_and(|one| one.id == alive.id(n).to_string())
        };
        scene.status("build", held).await?;
        scene.namespace.kubectl(&["delete", "lease", "build"]).await?;
        scene.status("build", |status| status.state == Some(State::Free)).await?;
        scene.event("build", "Broken").await?;
    }
    alive.stop().await?;
    // A session that is deleted by hand is looked for.
    let gone = scene.client("gone").await?;
    gone.acquire("build", 1).await?;
    scene.namespace.kubectl(&["delete", "lease", &gone.session.lease_name()]).await?;
    eventually(SOON, "the operator to look", async || {
        ensure!(scene.operator.process.output().contains("read the Lease"));
        Ok(())
    })
    .await?;
    // What is free goes with its resource.
    for (kind, name) in [("sem", "db"), ("rwlock", "map")] {
        scene.namespace.kubectl(&["delete", kind, name]).await?;
        scene.no_lease(name).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_operator_does_all_that_it_may_and_nothing_that_it_may_not() -> Result<()> {
    let cluster = Cluster::start_audited().await?;
    // In one namespace: so it is seen apart what each of the two roles is needed for.
    let namespace = Scene::namespace(&cluster).await?;
    cluster.kubectl(&["apply", "-f", &format!("{ROOT}/config/manager/namespace.yaml")]).await?;
    cluster.kubectl(&["apply", "-k", &format!("{ROOT}/config/rbac")]).await?;
    cluster.kubectl(&["delete", "clusterrolebinding", "leasehold-operator"]).await?;
    let subject = format!("--serviceaccount={SYSTEM}:leasehold-operator");
    namespace.kubectl(&["create", "rolebinding", "operator", "--clusterrole=leasehold-operator", &subject]).await?;
    let token = cluster.kubectl(&["create", "token", "leasehold-operator", "-n", SYSTEM]).await?;
    let kubeconfig = tempfile::NamedTempFile::new()?;
    std::fs::copy(cluster.kubeconfig_path(), kubeconfig.path())?;
    let path = kubeconfig.path().to_string_lossy();
    cluster.kubectl(&["config", "set-credentials", "admin", "--token", token.trim(), "--kubeconfig", &path]).await?;
    let args = ["--namespace", namespace.name(), "--leader-election-namespace", SYSTEM];
    let operator = Operator::start_by(kubeconfig.path(), &args).await?;
    // One to take over, for what an election takes.
    let mut other = Operator::start_by(kubeconfig.path(), &args).await?;
    let mut scene = Scene::with(namespace, operator)?;
    everything(&scene).await?;
    // A third of a session's time goes by until it is renewed.
    eventually(SOON, "the leader's session to be renewed", async || {
        let (used, _) = used(&cluster).await?;
        let renewed = |(role, _, verb): &Right| role == ROLES[1].0 && verb == "update";
        ensure!(used.iter().any(renewed), "{used:?}");
        Ok(())
    })
    .await?;
    scene.operator.process.signal(Signal::TERM)?;
    scene.operator.process.wait_success(SOON).await?;
    eventually(SOON, "the other to act", async || {
        ensure!(other.metric("leasehold_leading").await? == 1, "it stands by");
        Ok(())
    })
    .await?;
    scene.lock("last").await?;
    other.process.signal(Signal::TERM)?;
    other.process.wait_success(SOON).await?;

    let shipped = shipped()?;
    let excepted = EXCEPTED.map(|(role, resource, verb, _)| (role.to_owned(), resource.to_owned(), verb.to_owned()));
    let needed = &shipped - &excepted.into();
    // What was asked last is written down a moment later.
    let compared = eventually(Duration::from_secs(10), "what is used to be what is shipped", async || {
        let (used, refused) = used(&cluster).await?;
        let mut told = String::new();
        for (role, resource, verb) in &needed - &used {
            writeln!(told, "{role} has {verb} of {resource}, and the operator did without")?;
        }
        for (role, resource, verb) in &used - &shipped {
            writeln!(told, "{role} allowed {verb} of {resource}, and does not have that in config/rbac")?;
        }
        for what in refused {
            writeln!(told, "refused: {what}")?;
        }
        if !told.is_empty() {
            bail!("{told}");
        }
        Ok(used.len())
    });
    ensure!(compared.await? >= 20);
    Ok(())
}
