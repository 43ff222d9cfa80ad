//! What stays on a Lease when its process is gone, or at most for a time; and tasks that wait for each other.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leasehold::{AcquireError, Client, LossReason, OnDeadlock, TryAcquireError, clock};

use crate::support::{SOON, Workers, client, namespace, record, rules};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_has_kept_stays_for_its_time() -> Result<()> {
    const KEPT: Duration = Duration::from_secs(6);
    let (namespace, _dump) = namespace("kept").await?;
    let workers = Workers::new(&namespace).await?;
    let mut keeper = workers.start("keeper", &["--name", "a", "--session", "2", "keep", "6"])?;
    keeper.wait_for_line(SOON, |line| line == "kept").await?;
    keeper.kill();
    let begun = clock::moment();
    let kept = record(&namespace, "a").await?.and_then(|record| record.holder).context("nobody holds it")?;
    ensure!(kept.kept, "{kept:?}");
    let lock = client(&namespace, 2)?.lock("a").build()?;
    assert!(matches!(lock.try_acquire().await, Err(TryAcquireError::Held { .. })));
    let next = tokio::time::timeout(SOON, lock.acquire()).await.context("it is never free")??;
    // It is counted by who waits, from when it first sees it.
    let waited = clock::moment().since(begun);
    ensure!(waited >= KEPT, "it was free after {waited:?}");
    next.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ends_early_keeps_others_out_for_the_rest_of_its_time() -> Result<()> {
    const LEAST: Duration = Duration::from_secs(4);
    let (namespace, _dump) = namespace("least").await?;
    let job = || anyhow::Ok(client(&namespace, 2)?.lock("daily").hold_at_least(LEAST).build()?);
    let begun = clock::moment();
    job()?.acquire().await?.release().await?;
    assert!(job()?.try_acquire().await.is_err(), "another one begins at once");
    // One that has just been started believes what stands there, and has not watched it.
    let guard = loop {
        let late = client(&namespace, 2)?.lock("daily").max_clock_skew(Duration::from_secs(1)).build()?;
        match late.try_acquire().await {
            Ok(guard) => break guard,
            Err(error) => ensure!(clock::moment().since(begun) < SOON, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let after = clock::moment().since(begun);
    ensure!(after >= LEAST, "after {after:?}");
    guard.release().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_takes_too_long_is_lost_and_passes_on() -> Result<()> {
    let (namespace, _dump) = namespace("most").await?;
    let hangs = client(&namespace, 6)?.lock("a").max_hold(Duration::from_secs(2)).build()?.acquire().await?;
    let next = tokio::time::timeout(SOON, client(&namespace, 6)?.lock("a").build()?.acquire()).await??;
    assert_eq!(hangs.check().expect_err("it is over").reason, LossReason::HeldTooLong);
    ensure!(next.token() > hangs.token());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_wait_for_each_other_the_youngest_gives_way() -> Result<()> {
    let (namespace, _dump) = namespace("deadlock").await?;
    let mut rules = rules();
    rules[0].verbs.push("list".to_owned());
    let account = namespace.service_account("user", rules).await?;
    let both_hold = tokio::sync::Barrier::new(2);
    let takes = async |host: &str, first: &str, second: &str| -> Result<Result<(), AcquireError>> {
        let builder = Client::builder().kube_config(account.config()).namespace(namespace.name()).host(host);
        let client = builder.on_deadlock(OnDeadlock::FailYoungest).deadlock_after(Duration::from_secs(1)).build()?;
        let held = client.lock(first).build()?.acquire().await?;
        both_hold.wait().await;
        let outcome = client.lock(second).build()?.acquire_timeout(SOON).await;
        held.release().await?;
        Ok(outcome.map(drop))
    };
    let (one, two) = tokio::join!(takes("one", "a", "b"), takes("two", "b", "a"));
    let failed: Vec<_> = [one?, two?].into_iter().filter_map(Result::err).collect();
    ensure!(failed.len() == 1 && matches!(failed[0], AcquireError::Deadlock { .. }), "{failed:?}");
    let told = failed[0].to_string();
    let named = ["waits for \"a\"", "waits for \"b\"", "one_", "two_"];
    ensure!(named.iter().all(|part| told.contains(part)), "{told}");
    Ok(())
}
