//! What the testkit promises of clusters, namespaces and identities.

use std::env;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace as NamespaceObject, Pod};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use leasehold_testkit::{Cluster, DISPOSABLE_VARIABLE, KUBECONFIG_VARIABLE, Namespace, Program, Signal, eventually};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

fn leases(verbs: &[&str]) -> Vec<PolicyRule> {
    vec![PolicyRule {
        api_groups: Some(vec!["coordination.k8s.io".into()]),
        resources: Some(vec!["leases".into()]),
        verbs: verbs.iter().map(|&verb| verb.into()).collect(),
        ..PolicyRule::default()
    }]
}

async fn create_lease(namespace: &Namespace, name: &str, owner: Option<&Pod>) -> Result<Lease> {
    let owners: Vec<_> = owner
        .iter()
        .map(|pod| {
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "name": pod.metadata.name, "uid": pod.metadata.uid,
            })
        })
        .collect();
    let lease = serde_json::from_value(json!({
        "metadata": { "name": name, "ownerReferences": owners },
        "spec": { "holderIdentity": "somebody" },
    }))?;
    Ok(namespace.api::<Lease>().create(&PostParams::default(), &lease).await?)
}

#[tokio::test]
async fn two_namespaces_have_different_names_and_default_accounts() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let one = cluster.namespace("twins").await?;
    let two = cluster.namespace("twins").await?;
    assert!(one.name().starts_with("twins-"));
    assert_ne!(one.name(), two.name());
    // Refused without a default service account.
    one.pod("idle", None).await?;
    Ok(())
}

#[tokio::test]
async fn an_account_may_do_what_its_rules_say_and_no_more() -> Result<()> {
    let namespace = Cluster::shared().await?.namespace("rules").await?;
    let other = Cluster::shared().await?.namespace("rules").await?;
    let account = namespace.service_account("reader", leases(&["list"])).await?;
    let client = account.client()?;

    Api::<Lease>::default_namespaced(client.clone()).list(&ListParams::default()).await?;
    for (api, name) in [
        (Api::<Lease>::namespaced(client.clone(), other.name()), "another namespace"),
        (Api::<Lease>::all(client.clone()), "all namespaces"),
    ] {
        let refused = api.list(&ListParams::default()).await;
        assert!(is_forbidden(&refused), "{name}: {refused:?}");
    }
    let refused = Api::<ConfigMap>::default_namespaced(client).list(&ListParams::default()).await;
    assert!(is_forbidden(&refused), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_cluster_account_may_do_it_in_every_namespace() -> Result<()> {
    let namespace = Cluster::shared().await?.namespace("wide").await?;
    let account = namespace.cluster_account("reader", leases(&["list"])).await?;
    Api::<Lease>::all(account.client()?).list(&ListParams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn the_token_of_a_pod_account_names_the_pod_and_ends_with_it() -> Result<()> {
    let namespace = Cluster::shared().await?.namespace("bound").await?;
    let account = namespace.pod_account("worker", leases(&["get"])).await?;
    // The API server remembers a good token for ten seconds: not to be used yet.
    let unused = account.in_pod("short-lived").await?;

    let reviews: Api<SelfSubjectReview> = Api::all(account.client()?);
    let review = SelfSubjectReview::default();
    let answer = reviews.create(&PostParams::default(), &review).await?;
    let user = answer.status.and_then(|status| status.user_info).expect("the user");
    assert_eq!(user.username, Some(account.username()));
    let extra = user.extra.expect("claims");
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], ["worker"]);
    let uid = account.pod().and_then(|pod| pod.metadata.uid.clone()).expect("a pod's uid");
    assert_eq!(extra["authentication.kubernetes.io/pod-uid"], [uid]);

    namespace.api::<Pod>().delete("short-lived", &DeleteParams::default()).await?;
    let reviews: Api<SelfSubjectReview> = Api::all(unused.client()?);
    eventually(SOON, "the token to be refused", async || {
        let answer = reviews.create(&PostParams::default(), &review).await;
        ensure!(matches!(&answer, Err(kube::Error::Api(status)) if status.code == 401));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_accounts_kubeconfig_works() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let namespace = cluster.namespace("file").await?;
    let account = namespace.service_account("reader", leases(&["list"])).await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("kubeconfig");
    account.write_kubeconfig(&path)?;

    let kubeconfig = Kubeconfig::read_from(&path)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    assert_eq!(config.default_namespace, namespace.name());
    let client = Client::try_from(config)?;
    Api::<Lease>::default_namespaced(client).list(&ListParams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn what_a_deleted_pod_owned_is_collected() -> Result<()> {
    let namespace = Cluster::shared().await?.namespace("collect").await?;
    let pod = namespace.pod("owner", None).await?;
    create_lease(&namespace, "owned", Some(&pod)).await?;
    create_lease(&namespace, "free", None).await?;
    namespace.api::<Pod>().delete("owner", &DeleteParams::default()).await?;
    eventually(SOON, "the Lease to be collected", async || {
        ensure!(namespace.api::<Lease>().get_opt("owned").await?.is_none());
        Ok(())
    })
    .await?;
    assert!(namespace.api::<Lease>().get_opt("free").await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_dump_shows_leases_and_says_what_is_not_there() -> Result<()> {
    let namespace = Cluster::shared().await?.namespace("dump").await?;
    create_lease(&namespace, "shown", None).await?;
    let dump = namespace.dump().await;
    assert!(dump.contains("holderIdentity: somebody"), "{dump}");
    assert!(dump.contains("# leases: 1"), "{dump}");
    assert!(dump.contains("# distributedlocks: "), "{dump}");
    assert!(!dump.contains("managedFields"), "{dump}");
    Ok(())
}

#[tokio::test]
async fn kubectl_speaks_to_the_cluster() -> Result<()> {
    let namespace = Cluster::shared().await?.namespace("kubectl").await?;
    create_lease(&namespace, "listed", None).await?;
    let names = namespace.kubectl(&["get", "leases", "--output=name"]).await?;
    assert_eq!(names.trim_end(), "lease.coordination.k8s.io/listed");
    let error = namespace.kubectl(&["get", "lease", "missing"]).await.expect_err("none such");
    assert!(error.to_string().contains("NotFound"), "{error:#}");
    Ok(())
}

#[tokio::test]
async fn an_api_server_comes_back_with_its_data_and_port() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = cluster.namespace("outage").await?;
    let leases = namespace.api::<Lease>();
    create_lease(&namespace, "kept", None).await?;

    cluster.stop_apiserver().await?;
    assert!(leases.get("kept").await.is_err());
    assert!(cluster.stop_apiserver().await.is_err(), "it is stopped already");
    cluster.start_apiserver().await?;
    leases.get("kept").await?;

    cluster.kill_apiserver().await?;
    assert!(leases.get("kept").await.is_err());
    cluster.start_apiserver().await?;
    leases.get("kept").await?;

    cluster.signal_apiserver(Signal::STOP).await?;
    let paused = tokio::time::timeout(Duration::from_millis(300), leases.get("kept")).await;
    assert!(paused.is_err(), "{paused:?}");
    cluster.signal_apiserver(Signal::CONT).await?;
    leases.get("kept").await?;
    Ok(())
}

/// Run by the test below in a process of its own.
#[tokio::test]
#[ignore = "a part of another test"]
async fn make_a_namespace_and_drop_it() -> Result<()> {
    let namespace = Cluster::shared().await?.namespace("guest").await?;
    println!("\nnamespace {}", namespace.name());
    Ok(())
}

#[tokio::test]
async fn a_namespace_in_somebody_elses_cluster_is_deleted_on_drop() -> Result<()> {
    let cluster = Cluster::shared().await?;
    for disposable in [true, false] {
        let program = Program::new(env::current_exe()?)
            .args(["--ignored", "--exact", "--nocapture", "make_a_namespace_and_drop_it"])
            .env(KUBECONFIG_VARIABLE, cluster.kubeconfig_path());
        let program =
            if disposable { program.env(DISPOSABLE_VARIABLE, "1") } else { program.env_remove(DISPOSABLE_VARIABLE) };
        let mut child = program.start()?;
        let line = child.wait_for_line(SOON, |line| line.starts_with("namespace ")).await?;
        child.wait_success(SOON).await?;
        let namespaces: Api<NamespaceObject> = Api::all(cluster.client()?);
        let name = line.trim_start_matches("namespace ");
        if disposable {
            namespaces.get(name).await?;
        } else {
            eventually(SOON, "the namespace to go", async || {
                ensure!(namespaces.get_opt(name).await?.is_none());
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

fn is_forbidden<T>(answer: &kube::Result<T>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.code == 403)
}

#[tokio::test]
async fn an_etcd_that_was_killed_comes_back_with_its_data() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = cluster.namespace("etcd").await?;
    create_lease(&namespace, "kept", None).await?;
    cluster.kill_etcd().await?;
    ensure!(cluster.kill_etcd().await.is_err(), "it is not running");
    cluster.start_etcd().await?;
    eventually(SOON, "the Lease", async || Ok(namespace.api::<Lease>().get("kept").await?)).await?;
    create_lease(&namespace, "new", None).await?;
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_to_expire_does() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = cluster.namespace("expiry").await?;
    let account = namespace.service_account("short", leases(&["list"])).await?;
    let mut config = account.config();
    config.auth_info.token = Some(account.expiring_token(Duration::from_secs(2)).await?.into());
    let api = Api::<Lease>::namespaced(Client::try_from(config)?, namespace.name());
    api.list(&ListParams::default()).await?;
    eventually(SOON, "the token to expire", async || match api.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 401 => Ok(()),
        other => anyhow::bail!("{:?}", other.map(|list| list.items.len())),
    })
    .await
}
