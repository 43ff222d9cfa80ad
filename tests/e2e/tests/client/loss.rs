//! Holders that die, are stopped, or are robbed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams};
use leasehold::protocol::record::SessionRecord;
use leasehold::{LossReason, ReleaseError, clock};
use leasehold_testkit::{Namespace, Signal, eventually};

use crate::support::{SOON, Workers, client, namespace, record, tokens, waiters};

/// The sessions of this host that have been ended.
async fn ended_sessions(namespace: &Namespace, host: &str) -> Result<usize> {
    let leases = namespace.api::<Lease>().list(&ListParams::default()).await?;
    let sessions = leases.items.into_iter().filter_map(|lease| SessionRecord::parse(lease).ok());
    Ok(sessions.filter(|session| session.id.host() == host && session.ended).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_holder_is_ended_and_then_passed_over() -> Result<()> {
    let (namespace, _dump) = namespace("killed").await?;
    let workers = Workers::new(&namespace).await?;
    let file = workers.path().join("work");
    let args = ["--name", "a", "hold", &file.to_string_lossy()];
    let mut dead = workers.start("dead", &args)?;
    dead.wait_for_line(SOON, |line| line.starts_with("acquired")).await?;
    let mut next = workers.start("next", &args)?;
    waiters(&namespace, "a", 1).await?;
    dead.signal(Signal::KILL)?;
    next.wait_for_line(SOON, |line| line.starts_with("acquired")).await?;
    assert_eq!(ended_sessions(&namespace, "dead").await?, 1, "evicted without ending the session first");
    eventually(SOON, "the new holder to work", async || {
        let tokens = tokens(&file)?;
        ensure!(tokens.first() < tokens.last(), "only {:?} has", tokens.last());
        Ok(())
    })
    .await?;
    assert!(tokens(&file)?.is_sorted(), "they worked at the same time");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_holder_does_no_work_after_it_is_continued() -> Result<()> {
    for own in [false, true] {
        let (namespace, _dump) = namespace("stopped").await?;
        let workers = Workers::new(&namespace).await?;
        let file = workers.path().join("work");
        let path = file.to_string_lossy();
        let mut args = vec!["--name", "a"];
        if own {
            args.extend(["--own", "3"]);
        }
        args.extend(["hold", &path]);
        let mut stopped = workers.start("stopped", &args)?;
        stopped.wait_for_line(SOON, |line| line.starts_with("acquired")).await?;
        let mut next = workers.start("next", &args)?;
        waiters(&namespace, "a", 1).await?;
        stopped.signal(Signal::STOP)?;
        next.wait_for_line(SOON, |line| line.starts_with("acquired")).await?;
        let before = tokens(&file)?.len();
        eventually(SOON, "the new holder to work", async || {
            ensure!(tokens(&file)?.len() > before + 20, "not yet");
            Ok(())
        })
        .await?;
        stopped.signal(Signal::CONT)?;
        stopped.wait_for_line(SOON, |line| line.starts_with("check-failed")).await?;
        stopped.wait_for_line(SOON, |line| line == "lost-fired").await?;
        stopped.wait_for_line(SOON, |line| line.starts_with("released Some")).await?;
        stopped.wait_success(SOON).await?;
        assert!(tokens(&file)?.is_sorted(), "the stopped holder worked after its lock had passed on (own: {own})");
        // And the one that holds it now was not disturbed by the other's awakening.
        let before = tokens(&file)?.len();
        eventually(SOON, "the new holder to go on", async || {
            ensure!(tokens(&file)?.len() > before + 20, "not yet");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_holder_and_killed_waiters_are_passed_over_together() -> Result<()> {
    let (namespace, _dump) = namespace("dead-queue").await?;
    let workers = Workers::new(&namespace).await?;
    let file = workers.path().join("work");
    // Long sessions: passed over one after the other, the four of them would take four times as long.
    let args = ["--name", "a", "--session", "9", "hold", &file.to_string_lossy()];
    let mut dead = Vec::new();
    for n in 0..4 {
        let mut process = workers.start(&format!("dead-{n}"), &args)?;
        process.wait_for_line(SOON, |line| line.starts_with(if n == 0 { "acquired" } else { "waiting" })).await?;
        waiters(&namespace, "a", n).await?;
        dead.push(process);
    }
    let survivor = client(&namespace, 9)?.lock("a").build()?;
    let waiting = tokio::spawn(async move { survivor.acquire().await });
    waiters(&namespace, "a", 4).await?;
    for process in &dead {
        process.signal(Signal::KILL)?;
    }
    let begun = clock::moment();
    let guard = tokio::time::timeout(SOON, waiting).await.context("the survivor waits for ever")???;
    let took = clock::moment().since(begun);
    // Twice the time that one takes, and half of what four would.
    ensure!(took < Duration::from_secs(2 * 9), "it took {took:?}: one after the other");
    let left = record(&namespace, "a").await?.context("the Lease")?.waiters;
    assert!(left.is_empty(), "dead waiters stayed in the queue: {left:?}");
    guard.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_deleted_under_its_holder_is_a_loss() -> Result<()> {
    let (namespace, _dump) = namespace("deleted").await?;
    let lock = client(&namespace, 6)?.lock("a").build()?;
    let guard = lock.acquire().await?;
    let lost = guard.lost();
    namespace.api::<Lease>().delete("a", &DeleteParams::default()).await?;
    tokio::time::timeout(SOON, lost.cancelled()).await.context("lost() has not fired")?;
    assert_eq!(guard.check().unwrap_err().reason, LossReason::Broken);
    assert!(matches!(guard.release().await, Err(ReleaseError::Lost(_))));
    // Nobody who did not ask to be told at once is left in the dark for long either.
    let guard = lock.acquire().await?;
    namespace.api::<Lease>().delete("a", &DeleteParams::default()).await?;
    eventually(SOON, "the loss to be noticed", async || {
        ensure!(guard.check().is_err(), "not yet");
        Ok(())
    })
    .await?;
    drop(guard);
    lock.acquire().await?.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_deleted_under_its_holder_is_a_loss_and_others_wait_for_it() -> Result<()> {
    let (namespace, _dump) = namespace("session").await?;
    let client = client(&namespace, 3)?;
    let guard = client.lock("a").build()?.acquire().await?;
    let leases = namespace.api::<Lease>();
    let sessions = leases.list(&ListParams::default().labels("leasehold.dev/kind=session")).await?;
    let session = sessions.items[0].metadata.name.clone().context("a name")?;
    leases.delete(&session, &DeleteParams::default()).await?;
    tokio::time::timeout(SOON, guard.lost().cancelled()).await.context("lost() has not fired")?;
    assert!(leases.get_opt(&session).await?.is_none(), "a late renewal brought the session back");
    assert_eq!(guard.check().unwrap_err().reason, LossReason::SessionEnded);
    drop(guard);
    // The next session has another name.
    client.lock("a").build()?.acquire().await?.release().await?;
    Ok(())
}
