//! Holds that outlive whoever took them, by their handles.
#![cfg(feature = "memory")]

use std::sync::Arc;
use std::time::Duration;

use leasehold::{Client, Handle, HandleError, MemoryStore, MultiLock};

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_secs(1);

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Two processes and a third that has only handles.
fn clients() -> [Client; 3] {
    let store = Arc::new(MemoryStore::new());
    [(); 3].map(|()| Client::builder().store(store.clone()).build().unwrap())
}

fn over(result: Result<impl std::fmt::Debug, HandleError>) -> String {
    match result {
        Err(HandleError::Over { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_hold_stays_when_its_process_has_gone_and_ends_by_its_handle() -> Outcome {
    let [one, two, three] = clients();
    let handle = one.lock("job").build()?.acquire().await?.into_handle(LONG).await?;
    one.shutdown().await;
    let lock = two.lock("job").build()?;
    assert!(lock.try_acquire().await.is_err());
    let handle: Handle = handle.to_string().parse()?;
    if let Some(left) = handle.remaining() {
        assert!(left > LONG * 9 / 10 && left < LONG, "{left:?}");
    }
    let renewed = three.renew_handle(&handle, LONG * 2).await?;
    let status = lock.status().await?.holder.ok_or("it is held")?;
    assert!(status.kept && status.identity == handle.holder_identity());
    assert_eq!(status.lease_duration_seconds, Some(1200));
    three.release_handle(&renewed).await?;
    assert!(!lock.is_locked().await?);
    // And it is over for good.
    let held = lock.try_acquire().await?;
    for handle in [&handle, &renewed] {
        over(three.release_handle(handle).await);
        over(three.renew_handle(handle, LONG).await);
    }
    held.check()?;
    assert!(lock.is_locked().await?);
    Ok(())
}

#[tokio::test]
async fn a_release_goes_straight_to_who_waits() -> Outcome {
    let [one, two, three] = clients();
    let handle = one.lock("job").build()?.acquire().await?.into_handle(LONG).await?;
    let lock = two.lock("job").build()?;
    let waits = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    while lock.status().await?.waiters.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    three.release_handle(&handle).await?;
    let guard = waits.await??;
    guard.check()?;
    assert!(over(three.release_handle(&handle).await).contains("it is held by"));
    guard.check()?;
    Ok(())
}

#[tokio::test]
async fn what_another_has_taken_over_is_neither_renewed_nor_ended() -> Outcome {
    let [one, two, three] = clients();
    let handle = one.lock("job").build()?.acquire().await?.into_handle(SHORT).await?;
    // Whoever waits has it when its term has ended.
    let guard = two.lock("job").build()?.acquire_timeout(Duration::from_secs(30)).await?;
    over(three.renew_handle(&handle, LONG).await);
    over(three.release_handle(&handle).await);
    guard.check()?;
    guard.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_term_that_has_ended_by_the_own_clock_is_not_renewed() -> Outcome {
    let [one, two, three] = clients();
    let handle = one.lock("job").build()?.acquire().await?.into_handle(SHORT).await?;
    let Some(left) = handle.remaining() else { return Ok(()) };
    let renewed = three.renew_handle(&handle, LONG).await?;
    tokio::time::sleep(left + Duration::from_millis(50)).await;
    // The one that the renewal returned is good still.
    assert!(over(three.renew_handle(&handle, LONG).await).contains("this machine's clock"));
    three.renew_handle(&renewed, LONG).await?;
    // What stands there can be ended by either.
    three.release_handle(&handle).await?;
    assert!(!two.lock("job").build()?.is_locked().await?);
    Ok(())
}

#[tokio::test]
async fn permits_and_writers_have_handles_too() -> Outcome {
    let [one, two, three] = clients();
    let of = |client: &Client| client.semaphore("db").with_permits(3).build();
    let handle = of(&one)?.acquire(2).await?.into_handle(LONG).await?;
    let write = one.read_write_lock("catalog")?.write().await?.into_handle(LONG).await?;
    one.shutdown().await;
    assert_eq!(of(&two)?.available_permits().await?, 1);
    assert!(two.read_write_lock("catalog")?.try_read().await.is_err());
    let (handle, write) = (three.renew_handle(&handle, LONG).await?, three.renew_handle(&write, LONG).await?);
    assert_eq!(of(&two)?.available_permits().await?, 1);
    three.release_handle(&handle).await?;
    three.release_handle(&write).await?;
    assert_eq!(of(&two)?.available_permits().await?, 3);
    two.read_write_lock("catalog")?.try_read().await?.release().await?;
    over(three.release_handle(&handle).await);
    Ok(())
}

#[tokio::test]
async fn several_are_acquired_if_they_can_be_now_kept_and_named() -> Outcome {
    let [one, two, three] = clients();
    let (a, b) = (one.lock("a").build()?, one.lock("b").build()?);
    let both = MultiLock::new().lock(&a).lock(&b).build()?;
    let other = two.lock("b").build()?.acquire().await?;
    assert!(both.try_acquire().await.is_err());
    // Nothing of it stays.
    assert!(!a.is_locked().await?);
    other.release().await?;
    let handles = both.try_acquire().await?.into_handles(LONG).await?;
    assert_eq!(handles.iter().map(Handle::lease_name).collect::<Vec<_>>(), ["a", "b"]);
    for handle in &handles {
        three.release_handle(handle).await?;
    }
    both.try_acquire().await?.keep(LONG).await?;
    assert!(a.status().await?.holder.is_some_and(|holder| holder.kept) && b.is_locked().await?);
    Ok(())
}

#[tokio::test]
async fn what_will_not_do_is_told() -> Outcome {
    let [one, ..] = clients();
    let lock = one.lock("job").build()?;
    let outcome = lock.acquire().await?.into_handle(Duration::ZERO).await;
    assert!(matches!(outcome, Err(HandleError::Options(_))), "{outcome:?}");
    let handle = lock.acquire().await?.into_handle(LONG).await?;
    let elsewhere: Handle = handle.to_string().replace("/default/", "/other/").parse()?;
    let outcome = one.release_handle(&elsewhere).await;
    assert!(matches!(outcome, Err(HandleError::Options(_))), "{outcome:?}");
    one.release_handle(&handle).await?;
    Ok(())
}
