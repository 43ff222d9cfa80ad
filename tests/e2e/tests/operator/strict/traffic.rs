//! What clients do themselves passes, and what they may not do they leave to the operator.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::rbac::v1::PolicyRule;
use leasehold::protocol::write::give_up;
use leasehold::provider::Provider;
use leasehold::testing::conformance::{self, Promises};
use leasehold::{AcquireError, Client, KubeStore, Store as _, TryAcquireError};
use leasehold_testkit::{Account, eventually};

use super::{Forbidden, client_of, rules, strict_scene};
use crate::support::{SOON, Scene, holder, lock_yaml};

/// Clients in as many Pods, each by a token bound to its own.
async fn pods<const N: usize>(scene: &Scene, forbidden: &Forbidden) -> Result<[Client; N]> {
    let account = scene.namespace.service_account("app", rules()).await?;
    let mut clients = Vec::new();
    for number in 0..N {
        // Of one Deployment with a long name: where it is cut they are all the same.
        let pod = account.in_pod(&format!("a-deployment-with-a-rather-long-name-66b6c48dd5-pod{number}")).await?;
        clients.push(client_of(&pod, &scene.namespace, 6, forbidden)?);
    }
    clients.try_into().map_err(|_| anyhow::anyhow!("as many as were made"))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_in_pods_keep_every_promise() -> Result<()> {
    let scene = strict_scene().await?;
    let account = scene.namespace.service_account("app", rules()).await?;
    let (forbidden, count) = (Forbidden::default(), AtomicU32::new(0));
    let process = async || {
        let pod = account.in_pod(&format!("pod-{}", count.fetch_add(1, Ordering::SeqCst))).await.expect("a pod");
        Arc::new(client_of(&pod, &scene.namespace, 30, &forbidden).expect("a client")) as Arc<dyn Provider>
    };
    conformance::all(process, Promises::all()).await;
    // Where somebody dies, whoever waits tries to take over, unless the operator is faster. It is told once to leave it.
    let death = |why: &String| why.starts_with("conformance-") && why.contains("-expiry-");
    let (deaths, others): (Vec<_>, Vec<_>) = forbidden.all().into_iter().partition(death);
    let names: BTreeSet<&str> = deaths.iter().filter_map(|why| Some(why.split_once(':')?.0)).collect();
    ensure!(others.is_empty() && deaths.len() == names.len(), "{others:#?} {deaths:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_queued_for_handed_on_renewed_kept_and_spoken_of() -> Result<()> {
    let scene = strict_scene().await?;
    let forbidden = Forbidden::default();
    let [one, two, three] = pods(&scene, &forbidden).await?;
    scene.lock("standing").await?;
    for name in ["standing", "on-the-spot", "order:payment:4711"] {
        let held = one.lock(name).build()?.acquire().await?;
        let (second, third) = (two.lock(name).build()?, three.lock(name).build()?);
        let second = tokio::spawn(async move { second.acquire().await });
        let lease = leasehold::protocol::name::lease_name(name)?;
        scene.record(&lease, |record| record.waiters.len() == 1).await?;
        let third = tokio::spawn(async move { third.acquire().await });
        scene.record(&lease, |record| record.waiters.len() == 2).await?;
        held.publish("step 1 of 2").await?;
        held.publish("").await?;
        three.lock(name).build()?.request_release(Duration::from_mins(1), "in a hurry").await?;
        let token = held.token();
        held.release().await?;
        let second = tokio::time::timeout(SOON, second).await???;
        ensure!(second.token() > token);
        // Given up, and handed on in the end.
        third.abort();
        scene.record(&lease, |record| record.waiters.is_empty()).await?;
        second.release().await?;
    }
    // By its own record: renewed, and left there.
    let own = one.lock("own").lease_duration(Duration::from_secs(6)).build()?.acquire().await?;
    own.extend().await?;
    own.keep(Duration::from_secs(2)).await?;
    let kept = two.lock("own").build()?;
    ensure!(matches!(kept.try_acquire().await, Err(TryAcquireError::Held { .. })));
    // The operator gives it to who waits: a client may not.
    tokio::time::timeout(SOON, kept.acquire()).await.context("it is kept for ever")??.release().await?;
    for client in [one, two, three] {
        client.shutdown().await;
    }
    // What was kept two tried to take over, once for each of its acquisitions at most: the operator may be faster.
    let (own, others): (Vec<_>, Vec<_>) = forbidden.all().into_iter().partition(|why| why.starts_with("own: "));
    ensure!(others.is_empty() && own.len() <= 2, "{others:#?} {own:#?}");
    Ok(())
}

/// Who waits by a key of its own is who the policy knows: each client tries once to fold the queue, and hands on without.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_queue_is_handed_on_as_it_is() -> Result<()> {
    let scene = strict_scene().await?;
    let forbidden = Forbidden::default();
    let clients: [Client; 11] = pods(&scene, &forbidden).await?;
    scene.lock("orders").await?;
    let mut guard = clients[0].lock("orders").build()?.acquire().await?;
    let mut waiting = Vec::new();
    for (ahead, client) in clients[1..].iter().enumerate() {
        let lock = client.lock("orders").build()?;
        waiting.push(tokio::spawn(async move { lock.acquire().await }));
        scene.record("orders", |record| record.waiters.len() == ahead + 1).await?;
    }
    for next in waiting {
        guard.release().await?;
        guard = tokio::time::timeout(SOON, next).await.context("nobody hands on")???;
    }
    guard.release().await?;
    for client in clients {
        client.shutdown().await;
    }
    let refused = forbidden.all();
    ensure!(!refused.is_empty() && refused.len() <= 11, "{refused:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_is_shared_upgraded_and_given_back() -> Result<()> {
    let scene = strict_scene().await?;
    let forbidden = Forbidden::default();
    let [one, two, three] = pods(&scene, &forbidden).await?;
    let permits = |client: &Client, count| client.semaphore("db").with_permits(count).build();
    let first = permits(&one, 3)?.acquire(2).await?;
    let second = permits(&two, 3)?.acquire(1).await?;
    let waiting = permits(&three, 3)?;
    let waiting = tokio::spawn(async move { waiting.acquire(2).await });
    scene.record("db", |record| record.waiters.len() == 1).await?;
    first.publish("half of it").await?;
    second.release().await?;
    first.release().await?;
    tokio::time::timeout(SOON, waiting).await???.release().await?;

    let reader = one.read_write_lock("catalog")?.read().await?;
    let upgradeable = two.read_write_lock("catalog")?.upgradeable_read().await?;
    let writer = three.read_write_lock("catalog")?;
    let writer = tokio::spawn(async move { writer.write().await });
    scene.record("catalog", |record| record.waiters.len() == 1).await?;
    let upgraded = tokio::spawn(async move { upgradeable.upgrade().await });
    scene.record("catalog", |record| record.upgrading.is_some()).await?;
    reader.release().await?;
    let upgraded = tokio::time::timeout(SOON, upgraded).await???;
    let downgraded = upgraded.downgrade().await?;
    downgraded.release().await?;
    tokio::time::timeout(SOON, writer).await???.release().await?;
    for client in [one, two, three] {
        client.shutdown().await;
    }
    ensure!(forbidden.all().is_empty(), "{:#?}", forbidden.all());
    Ok(())
}

/// As the operator tells it: its label is on the Lease, and goes with it.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_to_give_up_leaves_and_who_is_not_told_is_handed_it() -> Result<()> {
    let scene = strict_scene().await?;
    let forbidden = Forbidden::default();
    let [one, two, three] = pods(&scene, &forbidden).await?;
    scene.lock("orders").await?;
    let operator = KubeStore::new(scene.namespace.config(), scene.namespace.name())?;
    let held = one.lock("orders").build()?.acquire().await?;
    let (second, third) = (two.lock("orders").build()?, three.lock("orders").build()?);
    let second = tokio::spawn(async move { second.acquire().await });
    scene.record("orders", |record| record.waiters.len() == 1).await?;
    let third = tokio::spawn(async move { third.acquire().await });
    let record = scene.record("orders", |record| record.waiters.len() == 2).await?;
    operator.write("orders", &give_up(&record, &record.waiters[1], "a circle")).await?;
    let gave_up = tokio::time::timeout(SOON, third).await.context("it stays")??;
    ensure!(matches!(gave_up, Err(AcquireError::Deadlock { .. })), "{gave_up:?}");
    let told = |lease: &k8s_openapi::api::coordination::v1::Lease| {
        lease.metadata.labels.iter().flatten().filter(|(key, _)| key.starts_with("holder.leasehold.dev/")).count()
    };
    scene.record("orders", |record| record.waiters.len() == 1 && told(&record.lease) == 1).await?;
    held.release().await?;
    tokio::time::timeout(SOON, second).await.context("it waits for ever")???.release().await?;
    ensure!(forbidden.all().is_empty(), "{:#?}", forbidden.all());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_are_elected_and_hand_over() -> Result<()> {
    let scene = strict_scene().await?;
    let forbidden = Forbidden::default();
    let [one, two] = pods(&scene, &forbidden).await?;
    let election = |client: &Client| client.election("reports").lease_duration(Duration::from_secs(6)).build();
    let first = election(&one)?.campaign().await?;
    let following = election(&two)?;
    let following = tokio::spawn(async move { following.campaign().await });
    scene.record("reports", |record| record.waiters.len() == 1).await?;
    tokio::time::sleep(Duration::from_secs(3)).await; // It renews in between.
    first.check()?;
    first.step_down().await?;
    tokio::time::timeout(SOON, following).await???.step_down().await?;
    ensure!(forbidden.all().is_empty(), "{:#?}", forbidden.all());
    Ok(())
}

/// Its clients are refused what they do elsewhere, and wait instead: neither fails, and nobody gets anything early.
#[tokio::test(flavor = "multi_thread")]
async fn the_dead_are_left_to_the_operator_and_whoever_waits_is_let_in_by_it() -> Result<()> {
    let mut scene = strict_scene().await?;
    let forbidden = Forbidden::default();
    let [one, two, three] = pods(&scene, &forbidden).await?;
    scene.apply(&lock_yaml("build", "{}")).await?;
    scene.status("build", |status| status.state.is_some()).await?;
    scene.operator.process.kill();
    // Its runtime ends, and with it all that keeps its session.
    let dead = std::thread::spawn(move || -> Result<String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let identity = runtime.block_on(async {
            let guard = one.lock("build").build()?.acquire().await?;
            let identity = guard.holder_identity();
            std::mem::forget(guard);
            anyhow::Ok(identity)
        });
        runtime.shutdown_background();
        identity
    });
    let dead =
        tokio::task::spawn_blocking(move || dead.join()).await?.map_err(|_| anyhow::anyhow!("it panicked"))??;
    let first = two.lock("build").build()?;
    let first = tokio::spawn(async move { first.acquire().await });
    scene.record("build", |record| record.waiters.len() == 1).await?;
    // It tries to end the session, which it may not.
    eventually(SOON, "the session to fall silent", async || {
        ensure!(forbidden.all().iter().any(|why| why.starts_with("session-")), "{:?}", forbidden.all());
        Ok(())
    })
    .await?;
    ensure!(!first.is_finished(), "{:?}", first.await);
    ensure!(holder(&scene.read("build").await?.context("the Lease")?) == dead);
    // Nor does anybody who only tries fail otherwise than by somebody's having it.
    let tried = three.lock("build").build()?.try_acquire().await;
    ensure!(matches!(tried, Err(TryAcquireError::Held { .. })), "{tried:?}");
    let refused = forbidden.all().len();
    ensure!(refused < 6, "they try again and again: {:#?}", forbidden.all());

    let _operator = scene.another_operator().await?;
    let first = tokio::time::timeout(SOON, first).await.context("nobody lets it in")???;
    first.release().await?;
    Ok(())
}

/// Who is no Pod needs a name of its own, by RBAC.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_pod_acts_under_a_name_that_is_granted() -> Result<()> {
    let scene = strict_scene().await?;
    let with = |host: Option<&str>| {
        let mut rules = rules();
        rules.extend(host.map(|host| PolicyRule {
            api_groups: Some(vec!["leasehold.dev".to_owned()]),
            resources: Some(vec!["sessions".to_owned()]),
            resource_names: Some(vec![host.to_owned()]),
            verbs: vec!["use".to_owned()],
            ..PolicyRule::default()
        }));
        rules
    };
    let client = |account: &Account, host: &str| {
        let builder = Client::builder().kube_config(account.config()).namespace(scene.namespace.name());
        builder.host(host).build()
    };
    let jane = scene.namespace.service_account("jane", with(Some("jane-laptop"))).await?;
    let other = scene.namespace.service_account("other", with(None)).await?;
    eventually(SOON, "the name to be granted", async || {
        client(&jane, "jane-laptop")?.lock("a").build()?.acquire().await?.release().await?;
        Ok(())
    })
    .await?;
    for (account, host) in [(&jane, "john-laptop"), (&other, "jane-laptop"), (&other, "other")] {
        let error = client(account, host)?.lock("a").build()?.acquire().await.expect_err("it has no such name");
        ensure!(error.to_string().contains("is no Pod"), "{error}");
        ensure!(error.to_string().contains(&format!("resourceNames [{host}]")), "{error}");
    }
    Ok(())
}
