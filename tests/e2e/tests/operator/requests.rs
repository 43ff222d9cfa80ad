//! Requests to let go, and what the operator makes of them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use leasehold::LossReason;
use leasehold_operator::crd::{Semaphore, SemaphoreStatus};

use crate::support::{SOON, Scene, holder, lock_yaml};

#[tokio::test]
async fn whoever_does_not_let_go_in_time_is_evicted_only_where_the_resource_says_so() -> Result<()> {
    let scene = Scene::new().await?;
    scene.lock("patient").await?;
    scene.apply(&lock_yaml("strict", "{releaseRequests: Evict}")).await?;
    scene.record("strict", |record| record.evicts_on_request).await?;
    let (stubborn, other) = (scene.user("stubborn")?, scene.user("other")?);
    let advised = stubborn.lock("patient").build()?.acquire().await?;
    let guard = stubborn.lock("strict").build()?.acquire().await?;
    guard.publish("on step 3").await?;
    let waiting = tokio::spawn({
        let lock = other.lock("strict").build()?;
        async move { lock.acquire().await }
    });
    scene.record("strict", |record| record.waiters.len() == 1).await?;

    // The one that is only advised was asked first, and for less time.
    let second = Duration::from_secs(1);
    other.lock("patient").build()?.request_release(second, "please").await?;
    other.lock("strict").build()?.request_release(second * 3, "the disk is needed").await?;
    let lost = guard.lost();
    let status =
        scene.status("strict", |status| status.holder.as_ref().is_some_and(|holder| holder.release_request.is_some()));
    let told = status.await?.holder.context("a holder")?;
    assert_eq!(told.payload.as_deref(), Some("on step 3"));
    let request = told.release_request.context("a request")?;
    assert_eq!((&*request.by, &*request.reason, request.within_seconds), ("other", "the disk is needed", 3));

    let next = tokio::time::timeout(SOON, waiting).await.context("nobody was evicted")???;
    tokio::time::timeout(SOON, lost.cancelled()).await.context("it has not heard of it")?;
    assert_eq!(guard.check().expect_err("evicted").reason, LossReason::Broken);
    assert!(next.token() > guard.token());
    let note = scene.event("strict", "Evicted").await?;
    ensure!(note.contains("did not let go within 3 s as other asked") && note.contains("the disk is needed"), "{note}");
    next.check()?;
    next.release().await?;
    // By now the other one's time is long over.
    advised.check()?;
    let record = scene.record("patient", |record| !holder(record).is_empty()).await?;
    assert_eq!(holder(&record), advised.holder_identity());
    advised.release().await?;

    // What the resource no longer says does not count.
    scene.apply(&lock_yaml("strict", "{releaseRequests: Advise}")).await?;
    scene.record("strict", |record| !record.evicts_on_request).await?;
    Ok(())
}

#[tokio::test]
async fn of_those_who_share_only_who_was_asked_is_evicted() -> Result<()> {
    let scene = Scene::new().await?;
    let yaml = "apiVersion: leasehold.dev/v1alpha1\nkind: Semaphore\nmetadata:\n  name: db\n\
                spec: {permits: 2, releaseRequests: Evict}\n";
    scene.apply(yaml).await?;
    scene.record("db", |record| record.evicts_on_request && record.capacity == 2).await?;
    let semaphore = |user: &str| anyhow::Ok(scene.user(user)?.semaphore("db").build()?);
    let (first, second) = (semaphore("first")?.acquire(1).await?, semaphore("second")?.acquire(1).await?);
    let third = semaphore("third")?;
    let waiting = tokio::spawn({
        let third = third.clone();
        async move { third.acquire(1).await }
    });
    scene.record("db", |record| record.waiters.len() == 1).await?;
    third.request_release(Some(&first.holder_identity()), Duration::from_secs(1), "now").await?;
    let let_in = tokio::time::timeout(SOON, waiting).await.context("nobody was evicted")???;
    tokio::time::timeout(SOON, first.lost().cancelled()).await.context("it has not heard of it")?;
    second.check()?;
    let of_two = |status: &SemaphoreStatus| status.held == 2 && status.waiters == 0;
    let status = scene.status_of::<Semaphore>("db", of_two).await?;
    let holders: Vec<&str> = status.holders.iter().map(|one| &*one.holder.id).collect();
    assert_eq!(holders, [second.holder_identity(), let_in.holder_identity()]);
    Ok(())
}
