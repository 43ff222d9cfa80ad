//! Leader election: handed over, taken over, labelled, and with the rights of the shipped example.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use leasehold::election::{Election, LabelState, PodLabel, RunError};
use leasehold::{CancellationToken, Client, clock};
use leasehold_testkit::{Account, Namespace, Signal, eventually};
use serde::Deserialize as _;
use serde_json::json;

use crate::support::{SOON, Workers, namespace, tokens, waiters};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/leader-election/leader-election.yaml");
/// How long a lease lasts here.
const D: Duration = Duration::from_secs(6);

fn client(namespace: &Namespace, host: &str) -> Result<Client> {
    let builder = Client::builder().kube_config(namespace.config()).namespace(namespace.name()).host(host);
    Ok(builder.session_duration(D).build()?)
}

fn election(namespace: &Namespace, host: &str) -> Result<Election> {
    Ok(client(namespace, host)?.election("reports").lease_duration(D).build()?)
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(SOON, future).await.with_context(|| format!("waited for {what}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_is_seen_and_hands_over_at_once() -> Result<()> {
    let (namespace, _dump) = namespace("elect").await?;
    let (one, two) = (election(&namespace, "one")?, election(&namespace, "two")?);
    let mut leaders = election(&namespace, "onlooker")?.observe().await?;
    assert_eq!(soon("the first answer", leaders.changed()).await?, None);
    let first = one.campaign().await?;
    let told = soon("the first leader", leaders.changed()).await?.context("nobody leads")?;
    assert_eq!((told.host.as_deref(), &told.identity), (Some("one"), &first.holder_identity()));
    // Who reads it by client-go's rules finds what is expected there.
    let spec = namespace.api::<Lease>().get("reports").await?.spec.context("a spec")?;
    assert_eq!(spec.lease_duration_seconds, Some(6));
    assert!(spec.renew_time.is_some() && spec.acquire_time.is_some() && spec.lease_transitions.is_some());
    let following = tokio::spawn(async move { two.campaign().await });
    waiters(&namespace, "reports", 1).await?;
    let begun = clock::moment();
    first.step_down().await?;
    let second = soon("the second leader", following).await???;
    let took = clock::moment().since(begun);
    ensure!(took < D / 2, "the lease was waited for: {took:?}");
    let told = soon("the second leader", leaders.changed()).await?.context("nobody leads")?;
    assert_eq!((told.host.as_deref(), told.token), (Some("two"), Some(second.token())));
    // As somebody else's leader does: by an update that knows nothing of queues.
    second.step_down().await?;
    let none = soon("the end", leaders.changed()).await?;
    assert_eq!((none, one.is_leader()), (None, false));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_or_stopped_leader_is_followed_and_works_no_more() -> Result<()> {
    for signal in [Signal::KILL, Signal::STOP] {
        let (namespace, _dump) = namespace("elect-dead").await?;
        let workers = Workers::new(&namespace).await?;
        let file = workers.path().join("work");
        let args = ["--name", "reports", "--own", "3", "lead", &file.to_string_lossy()];
        let mut first = workers.start("first", &args)?;
        first.wait_for_line(SOON, |line| line.starts_with("leading")).await?;
        let mut next = workers.start("next", &args)?;
        waiters(&namespace, "reports", 1).await?;
        first.signal(signal)?;
        next.wait_for_line(SOON, |line| line.starts_with("leading")).await?;
        if signal == Signal::STOP {
            first.signal(Signal::CONT)?;
            first.wait_for_line(SOON, |line| line.starts_with("waiting")).await?;
        }
        let before = tokens(&file)?.len();
        eventually(SOON, "the new leader to work", async || {
            ensure!(tokens(&file)?.len() > before + 50, "not yet");
            Ok(())
        })
        .await?;
        assert!(tokens(&file)?.is_sorted(), "{signal:?}: they worked at the same time");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_leadership_ends_the_work_and_begins_another_term() -> Result<()> {
    let (namespace, _dump) = namespace("elect-broken").await?;
    let one = election(&namespace, "one")?;
    let outcome = one
        .run_while_leading(async |leading| {
            namespace.api::<Lease>().delete("reports", &DeleteParams::default()).await.map(drop)?;
            leading.ending().cancelled().await;
            std::future::pending::<()>().await;
            Ok::<_, kube::Error>(())
        })
        .await;
    assert!(matches!(outcome, Err(RunError::Lost { output: None, .. })), "{outcome:?}");
    let stop = CancellationToken::new();
    let done = one.run_whenever_leading(stop.clone(), async |leading| {
        stop.cancel();
        leading.ending().cancelled().await;
        leading.check().is_ok()
    });
    assert_eq!(soon("the second term", done).await??, Some(true));
    assert_eq!(one.leader().await?, None, "it has not stepped down");
    Ok(())
}

/// What the example gives, by a token of its service account that belongs to a Pod.
async fn example(namespace: &Namespace, pod: &str) -> Result<Account> {
    let yaml = std::fs::read_to_string(EXAMPLE)?;
    let mut rules: Option<Vec<PolicyRule>> = None;
    for document in serde_yaml_ng::Deserializer::from_str(&yaml) {
        let object = serde_json::Value::deserialize(document)?;
        if object["kind"] == "Role" {
            rules = serde_json::from_value::<Role>(object)?.rules;
        }
    }
    namespace.service_account("candidates", rules.context("the example has a Role")?).await?.in_pod(pod).await
}

async fn labels(namespace: &Namespace, pod: &str) -> Result<(Option<String>, Option<String>)> {
    let meta = namespace.api::<Pod>().get(pod).await?.metadata;
    let key = "leader.leasehold.dev/reports";
    Ok((meta.labels.and_then(|all| all.get(key).cloned()), meta.annotations.and_then(|all| all.get(key).cloned())))
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_examples_rights_the_leaders_pod_has_the_label_that_the_examples_service_selects() -> Result<()> {
    let (namespace, _dump) = namespace("elect-pod").await?;
    namespace.kubectl(&["apply", "-f", EXAMPLE]).await?;
    let first = example(&namespace, "reports-1").await?;
    let second = first.in_pod("reports-2").await?;
    let candidate = |account: &Account, pod: &str| {
        let client = Client::builder().kube_config(account.config()).host(pod).session_duration(D).build()?;
        let label = PodLabel::new().pod(pod);
        anyhow::Ok((client.election("reports").lease_duration(D).label_pod(label).build()?, client))
    };
    // A process that died has left its label.
    let left = json!({ "metadata": { "labels": { "leader.leasehold.dev/reports": "true" } } });
    namespace.api::<Pod>().patch("reports-2", &PatchParams::default(), &Patch::Merge(left)).await?;
    let ((one, first), (two, second)) = (candidate(&first, "reports-1")?, candidate(&second, "reports-2")?);
    assert_eq!(one.label_state(), Some(LabelState::Unknown));
    let leadership = one.campaign().await?;
    let following = tokio::spawn({
        let two = two.clone();
        async move { two.campaign().await }
    });
    let token = leadership.token().to_string();
    eventually(SOON, "the label to stand on the leader's Pod alone", async || {
        let (mine, others) = (labels(&namespace, "reports-1").await?, labels(&namespace, "reports-2").await?);
        ensure!(mine == (Some("true".to_owned()), Some(token.clone())), "the leader's: {mine:?}");
        ensure!(others == (None, None), "the other's: {others:?}");
        Ok(())
    })
    .await?;
    eventually(SOON, "the states to be told", async || {
        ensure!(one.label_state() == Some(LabelState::Set), "{:?}", one.label_state());
        ensure!(two.label_state() == Some(LabelState::Removed), "{:?}", two.label_state());
        Ok(())
    })
    .await?;
    // By what the Service selects there is one Pod.
    let service = namespace.api::<Service>().get("reports-leader").await?;
    let selector = service.spec.and_then(|spec| spec.selector).context("a selector")?;
    let selector: Vec<String> = selector.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    let selected = async || {
        let pods = namespace.api::<Pod>().list(&ListParams::default().labels(&selector.join(","))).await?.items;
        anyhow::Ok(pods.into_iter().filter_map(|pod| pod.metadata.name).collect::<Vec<_>>())
    };
    assert_eq!(selected().await?, ["reports-1"]);
    waiters(&namespace, "reports", 1).await?;
    leadership.step_down().await?;
    // It goes before the leadership does.
    assert_eq!(labels(&namespace, "reports-1").await?, (None, None));
    let leadership = soon("the second leader", following).await???;
    eventually(SOON, "the Service to follow", async || {
        let selected = selected().await?;
        ensure!(selected == ["reports-2"], "{selected:?}");
        Ok(())
    })
    .await?;
    // What is lost takes the label with it.
    namespace.api::<Lease>().delete("reports", &DeleteParams::default()).await?;
    soon("the loss", leadership.lost().cancelled()).await?;
    eventually(SOON, "the label to go", async || {
        ensure!(selected().await?.is_empty());
        Ok(())
    })
    .await?;
    drop(leadership);
    first.shutdown().await;
    second.shutdown().await;
    let left = namespace.api::<Lease>().list(&ListParams::default()).await?.items;
    assert!(left.is_empty(), "something is left behind: {left:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_label_pods_leads_all_the_same_and_says_so() -> Result<()> {
    let (namespace, _dump) = namespace("elect-mute").await?;
    let account = namespace.pod_account("mute", crate::support::rules()).await?;
    let client = Client::builder().kube_config(account.config()).build()?;
    let election = client.election("reports").label_pod(PodLabel::new().pod("mute")).build()?;
    let leadership = election.campaign().await?;
    eventually(SOON, "it to be told", async || {
        let state = election.label_state();
        let told = matches!(&state, Some(LabelState::Failing { message }) if message.contains("cannot patch resource"));
        ensure!(told, "{state:?}");
        Ok(())
    })
    .await?;
    leadership.check()?;
    leadership.step_down().await?;
    Ok(())
}
