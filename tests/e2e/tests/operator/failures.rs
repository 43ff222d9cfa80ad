//! An operator is killed at the worst time, or two of them act at once, or resources come and go under their users.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams, ListParams, WatchEvent, WatchParams};
use leasehold::protocol::record::SessionRecord;
use leasehold::protocol::{Record, write};
use leasehold_operator::crd::{DistributedLock, State};
use leasehold_testkit::{Signal, eventually};

use crate::support::{SOON, Scene, holder, lock_yaml};

const LOCKS: usize = 120;
const TIMES: usize = 3;

fn name(batch: usize, n: usize) -> String {
    format!("lock-{batch}-{n}")
}

/// A session holds very many locks, another waits for each, and the first falls silent. The operator is stopped as soon as
/// it has ended that session: it cannot have evicted it everywhere by then.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_had_begun_when_it_was_killed_the_other_one_finishes() -> Result<()> {
    let mut scene = Scene::new().await?;
    let other = scene.another_operator().await?;
    assert_eq!((scene.operator.metric("leasehold_leading").await?, other.metric("leasehold_leading").await?), (1, 0));
    let alive = scene.client("alive").await?.keep_alive();
    scene.lock("held").await?;
    alive.acquire("held", 1).await?;

    let mut batch = 0;
    let dead = loop {
        batch += 1;
        ensure!(batch <= TIMES, "it was quicker each time than it could be stopped");
        let yaml: Vec<String> = (0..LOCKS).map(|n| lock_yaml(&name(batch, n), "{}")).collect();
        scene.apply(&yaml.join("---\n")).await?;
        scene.record(&name(batch, LOCKS - 1), |record| !record.ephemeral).await?;
        let mut dead = scene.client_for(&format!("dead-{batch}"), Duration::from_secs(5)).await?;
        let mut renewed = leasehold::clock::now().moment;
        for n in 0..LOCKS {
            let lock = name(batch, n);
            scene.record(&lock, |_| true).await?;
            dead.acquire(&lock, u32::try_from(n)? + 1).await?;
            alive.join(&lock, u32::try_from(batch * LOCKS + n)? + 1).await?;
            if leasehold::clock::now().moment.since(renewed) > Duration::from_secs(1) {
                dead.renew().await?;
                renewed = leasehold::clock::now().moment;
            }
        }
        tombstone(&scene, &dead.session.lease_name()).await?;
        scene.operator.process.signal(Signal::STOP)?;
        let mut left = 0;
        for n in 0..LOCKS {
            let record = scene.read(&name(batch, n)).await?.context("a lock was lost")?;
            left += usize::from(holder(&record).starts_with(dead.session.as_str()));
        }
        // What it had sent may be carried out still.
        if left > 40 {
            break dead;
        }
        scene.operator.process.signal(Signal::CONT)?;
    };
    scene.operator.process.signal(Signal::KILL)?;
    scene.operator.process.wait_exit(SOON).await.context("killed")?;

    for n in 0..LOCKS {
        let heir = alive.id(u32::try_from(batch * LOCKS + n)? + 1).to_string();
        let lock = name(batch, n);
        let record = eventually(SOON, "an eviction to be finished", async || {
            let record = scene.read(&lock).await?.context("a lock was lost")?;
            ensure!(holder(&record) == heir, "{} holds {lock}", holder(&record));
            Ok(record)
        })
        .await?;
        // Acquired once, handed on once.
        assert_eq!(record.transitions, 2, "{lock} went through other hands");
        ensure!(record.waiters.is_empty(), "{:?}", record.waiters);
    }
    let session = SessionRecord::parse(scene.lease(&dead.session.lease_name()).await?)?;
    ensure!(session.ended, "it was ended once, for good");
    assert_eq!(other.metric("leasehold_sessions_ended_total").await?, 0, "the first one had ended it");
    assert_eq!(holder(&scene.record("held", |_| true).await?), alive.id(1).to_string());
    scene
        .status(&name(batch, LOCKS - 1), |status| {
            status.holder.as_ref().is_some_and(|told| told.session.as_deref() == Some(alive.session.as_str()))
        })
        .await?;
    alive.stop().await
}

/// Waits until this session has been ended, and returns at once.
async fn tombstone(scene: &Scene, lease: &str) -> Result<()> {
    let leases: Api<Lease> = scene.namespace.api();
    let from = leases.list(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
    if SessionRecord::parse(scene.lease(lease).await?)?.ended {
        return Ok(());
    }
    let params = WatchParams::default().fields(&format!("metadata.name={lease}"));
    let mut watch = leases.watch(&params, &from).await?.boxed();
    tokio::time::timeout(SOON, async {
        while let Some(event) = watch.next().await {
            if let WatchEvent::Added(lease) | WatchEvent::Modified(lease) = event?
                && SessionRecord::parse(lease)?.ended
            {
                return Ok(());
            }
        }
        anyhow::bail!("the watch ended")
    })
    .await?
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_act_at_once_come_to_rest() -> Result<()> {
    let scene = Scene::with_args(&["--leader-election=false"]).await?;
    let other = scene.another_operator_with(&["--leader-election=false"]).await?;
    for operator in [&scene.operator, &other] {
        assert_eq!(operator.metric("leasehold_leading").await?, 1);
    }
    scene.lock("build").await?;
    let first = scene.client("first").await?.keep_alive();
    let second = scene.client("second").await?.keep_alive();
    let mut record = first.acquire("build", 1).await?;
    for n in 1..=60_u32 {
        let (from, to) = if n % 2 == 1 { (&first, &second) } else { (&second, &first) };
        record = to.join("build", n + 1).await?;
        record = from.hand_off("build", &record, &to.id(n + 1)).await?;
        if n % 20 == 0 {
            scene.apply(&lock_yaml("build", &format!("{{leaseDurationSeconds: {n}}}"))).await?;
        }
    }
    let last = holder(&record).to_owned();
    scene.status("build", |status| status.holder.as_ref().is_some_and(|told| told.id == last)).await?;
    scene.record("build", |record| record.default_duration == Some(Duration::from_mins(1))).await?;

    // Neither takes back what the other has written.
    let locks: Api<DistributedLock> = scene.namespace.api();
    let versions = async || {
        let lock = locks.get("build").await?.metadata.resource_version;
        anyhow::Ok((lock, scene.lease("build").await?.metadata.resource_version))
    };
    let mut before = versions().await?;
    eventually(SOON, "both to come to rest", async || {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let now = versions().await?;
        let before = std::mem::replace(&mut before, now.clone());
        ensure!(now == before, "{before:?}, and five seconds later {now:?}");
        Ok(())
    })
    .await?;
    let record = scene.record("build", |_| true).await?;
    assert_eq!((holder(&record), record.transitions), (last.as_str(), 61));
    first.stop().await?;
    second.stop().await?;
    // The dead is evicted once.
    let free = scene.record("build", |record| holder(record).is_empty()).await?;
    assert_eq!(free.transitions, write::next_transition(61));
    Ok(())
}

#[tokio::test]
async fn of_three_namespaces_it_works_in_the_two_that_it_was_told() -> Result<()> {
    let (scene, [second, third]) = Scene::in_two_of_three().await?;
    let yaml = tempfile::NamedTempFile::new()?;
    std::fs::write(yaml.path(), lock_yaml("build", "{}"))?;
    for namespace in [&third, &second] {
        namespace.kubectl(&["apply", "-f", &yaml.path().to_string_lossy()]).await?;
    }
    scene.lock("build").await?;
    let of_second: Api<DistributedLock> = second.api();
    eventually(SOON, "the lock of the second namespace", async || {
        let state = of_second.get("build").await?.status.and_then(|status| status.state);
        ensure!(state == Some(State::Free), "{state:?}");
        Ok(())
    })
    .await?;
    // Both are told of changes that come later, each of its own.
    let user = leasehold::Client::builder().kube_config(second.config()).namespace(second.name()).build()?;
    let guard = user.lock("build").build()?.acquire().await?;
    eventually(SOON, "the lock of the second namespace to be held", async || {
        let state = of_second.get("build").await?.status.and_then(|status| status.state);
        ensure!(state == Some(State::Held), "{state:?}");
        Ok(())
    })
    .await?;
    scene.client("dead").await?.acquire("build", 1).await?;
    scene.record("build", |record| holder(record).is_empty() && record.transitions == 2).await?;
    guard.check().context("the other namespace's is another lock")?;
    guard.release().await?;
    // It was the first to be made.
    let untouched = third.api::<DistributedLock>().get("build").await?;
    ensure!(untouched.status.is_none() && untouched.metadata.finalizers.is_none(), "{untouched:#?}");
    ensure!(third.api::<Lease>().get_opt("build").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_resource_that_is_edited_deleted_and_made_again_under_its_holder_leaves_him_alone() -> Result<()> {
    let scene = Scene::new().await?;
    scene.apply(&lock_yaml("build", "{leaseDurationSeconds: 20}")).await?;
    scene.status("build", |status| status.state.is_some()).await?;
    let (alive, next) = (scene.client("alive").await?.keep_alive(), scene.client("next").await?.keep_alive());
    let held = alive.acquire("build", 1).await?;
    next.join("build", 1).await?;
    let untouched = |record: &Record| {
        holder(record) == alive.id(1).to_string()
            && (record.transitions, &record.uid) == (held.transitions, &held.uid)
            && record.waiters.len() == 1
    };
    for seconds in [40_u64, 5] {
        scene.apply(&lock_yaml("build", &format!("{{leaseDurationSeconds: {seconds}}}"))).await?;
        let wanted = Some(Duration::from_secs(seconds));
        let record = scene.record("build", |record| record.default_duration == wanted).await?;
        ensure!(untouched(&record), "{:#?}", record.lease);
    }

    let locks: Api<DistributedLock> = scene.namespace.api();
    for time in 0..3 {
        let uid = locks.get("build").await?.metadata.uid;
        // Whether the first has gone by the time the second is made is not up to anybody.
        locks.delete("build", &DeleteParams::default()).await?;
        eventually(SOON, "another one to be made", async || scene.apply(&lock_yaml("build", "{}")).await).await?;
        eventually(SOON, "the new one to have the Lease", async || {
            let now = locks.get("build").await.ok();
            let mine = now.as_ref().and_then(|now| now.metadata.uid.clone()).filter(|now| Some(now) != uid.as_ref());
            // The edit of a resource that was going goes with it.
            let Some(mine) = mine else {
                scene.apply(&lock_yaml("build", "{}")).await?;
                anyhow::bail!("the first is still there")
            };
            let record = scene.read("build").await?.context("the Lease went with its resource")?;
            ensure!(untouched(&record), "{time}: {:#?}", record.lease);
            let annotations = record.lease.metadata.annotations.as_ref();
            let owner = annotations.and_then(|annotations| annotations.get("leasehold.dev/owner"));
            let is_its_own = owner == Some(&format!("DistributedLock/build/{mine}"));
            ensure!(is_its_own && !record.ephemeral, "{owner:?}, {}", record.ephemeral);
            ensure!(record.default_duration.is_none());
            Ok(())
        })
        .await?;
        scene.status("build", |status| status.state == Some(State::Held) && status.waiters == 1).await?;
    }
    let record = scene.record("build", untouched).await?;
    let record = alive.hand_off("build", &record, &next.id(1)).await?;
    next.release("build", &record).await?;
    scene.status("build", |status| status.state == Some(State::Free)).await?;
    ensure!(scene.read("build").await?.is_some(), "it belongs to a resource");
    alive.stop().await?;
    next.stop().await
}
