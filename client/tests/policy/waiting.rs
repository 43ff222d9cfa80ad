//! How many may wait, and who gives up in a deadlock.

use super::*;
// ------------------------------------------------------------------------------------------------------ max waiters

fn asks(store: &MemoryStore, seed: u64) -> JoinHandle<Result<(), AcquireError>> {
    let client = client(store);
    process(seed).spawn(async move {
        let guard = client.lock("a").build().unwrap().acquire().await?;
        pause(seconds(1)).await;
        guard.release().await.unwrap();
        Ok(())
    })
}

fn limit_of(error: AcquireError) -> (usize, Option<u32>) {
    assert!(error.is_retryable());
    match error {
        AcquireError::Full { waiters, limit, .. } => (waiters, limit),
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_wait_than_may() {
    let store = made("a", "lock", &[(MAX_WAITERS, "2")]).await;
    let (one, holder) = (client(&store), process(1));
    let guard = holder.spawn(async move { one.lock("a").build().unwrap().acquire().await.unwrap() }).await.unwrap();
    // Four at the same time: all may join, and two of them see that they were too late.
    let all: Vec<_> = (2..6).map(|seed| asks(&store, seed)).collect();
    tokio::time::sleep(seconds(20)).await;
    assert_eq!(record(&store, "a").await.waiters.len(), 2);
    let (refused, waiting): (Vec<_>, Vec<_>) = all.into_iter().partition(JoinHandle::is_finished);
    assert_eq!((refused.len(), waiting.len()), (2, 2));
    for refused in refused {
        assert_eq!(limit_of(refused.await.unwrap().unwrap_err()), (2, Some(2)));
    }
    // One who comes later does not join at all.
    let before = store.server().version();
    let told = asks(&store, 7).await.unwrap().unwrap_err();
    let text = "lock \"a\" is held, and no more may wait for it: 2 do, and its custom resource allows 2 (maxWaiters)";
    assert!(told.to_string().starts_with(text), "{told}");
    assert_eq!(limit_of(told), (2, Some(2)));
    let joins = record(&store, "a").await.version.0 > before.0;
    assert!(!joins, "it joined");
    // Who waits already stays, also if fewer may.
    annotate(&store, "a", MAX_WAITERS, "0").await;
    tokio::time::sleep(seconds(30)).await;
    holder.enter(|| drop(guard));
    for waits in waiting {
        waits.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_may_wait_it_is_had_at_once_or_not_at_all() {
    let store = made("a", "lock", &[(MAX_WAITERS, "0")]).await;
    let (one, two) = (client(&store), client(&store));
    process(1)
        .spawn(async move {
            let lock = one.lock("a").build().unwrap();
            for _ in 0..3 {
                let guard = lock.acquire().await.unwrap();
                let other = two.lock("a").build().unwrap();
                assert_eq!(limit_of(other.acquire().await.unwrap_err()), (0, Some(0)));
                // A task of the same process neither.
                let same = lock.clone();
                let same = tokio::time::timeout(seconds(20), process(1).spawn(async move { same.acquire().await }));
                assert_eq!(limit_of(same.await.unwrap().unwrap().unwrap_err()), (0, Some(0)));
                guard.release().await.unwrap();
                pause(seconds(20)).await;
            }
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_dead_do_not_keep_the_living_from_waiting() {
    for limit in ["0", "1"] {
        let store = made("a", "lock", &[(MAX_WAITERS, limit)]).await;
        dies(&store, "a", None).await;
        if limit == "1" {
            let (dead, dying) = (client(&store), process(2));
            dying.spawn(async move { drop(dead.lock("a").build().unwrap().acquire().await) });
            tokio::time::sleep(seconds(5)).await;
            dying.kill();
        }
        let client = client(&store);
        process(3)
            .spawn(async move {
                let begun = clock::moment();
                let lock = client.lock("a").build().unwrap();
                while let Err(error) = lock.acquire().await {
                    assert!(error.is_retryable());
                    assert!(clock::moment().since(begun) < seconds(300), "it never gets it: {error}");
                    pause(seconds(20)).await;
                }
            })
            .await
            .unwrap();
    }
}

// --------------------------------------------------------------------------------------------------------- deadlocks

async fn circle(on: OnDeadlock, policy_of: &[&str]) -> Vec<Result<(), AcquireError>> {
    let store = MemoryStore::new();
    for name in ["a", "b"] {
        let annotations = if policy_of.contains(&name) { json!({ ON_DEADLOCK: BREAK_YOUNGEST }) } else { json!({}) };
        let lease = json!({ "metadata": { "name": name, "labels": { "leasehold.dev/kind": "lock" },
            "annotations": annotations }, "spec": {} });
        store.write(name, &Write::Create(Box::new(serde_json::from_value(lease).unwrap()))).await.unwrap();
    }
    let takes = |seed: u64, first: &'static str, second: &'static str| {
        let builder = Client::builder().store(Arc::new(store.clone()));
        let client = builder.on_deadlock(on).deadlock_after(seconds(5)).build().unwrap();
        process(seed).spawn(async move {
            let one = client.lock(first).build().unwrap().acquire().await?;
            pause(seconds(seed)).await;
            let two = client.lock(second).build().unwrap().acquire_timeout(seconds(120)).await?;
            two.release().await.unwrap();
            one.release().await.unwrap();
            Ok(())
        })
    };
    let (one, other) = (takes(1, "a", "b"), takes(2, "b", "a"));
    vec![one.await.unwrap(), other.await.unwrap()]
}

#[tokio::test(start_paused = true)]
async fn the_resource_can_make_who_came_last_give_up() {
    let deadlocks = |outcomes: &[Result<(), AcquireError>]| {
        outcomes.iter().filter(|outcome| matches!(outcome, Err(AcquireError::Deadlock { .. }))).count()
    };
    let outcomes = circle(OnDeadlock::Report, &["a", "b"]).await;
    assert_eq!(
        (outcomes.iter().filter(|outcome| outcome.is_ok()).count(), deadlocks(&outcomes)),
        (1, 1),
        "{outcomes:?}"
    );
    // It is the one for which the youngest waits that says so.
    let only = [circle(OnDeadlock::Report, &["a"]).await, circle(OnDeadlock::Report, &["b"]).await];
    assert_eq!(deadlocks(&only.concat()), 1, "{only:?}");
    let ignored = circle(OnDeadlock::Ignore, &["a", "b"]).await;
    assert_eq!(deadlocks(&ignored), 0, "{ignored:?}");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_told_to_gives_up_at_once() {
    for kind in ["lock", "semaphore"] {
        let store = made("a", kind, &[("leasehold.dev/permits", "1")]).await;
        let (one, holder) = (client(&store), process(1));
        holder
            .spawn(async move {
                if kind == "lock" {
                    std::mem::forget(one.lock("a").build().unwrap().acquire().await.unwrap());
                } else {
                    std::mem::forget(one.semaphore("a").build().unwrap().acquire(1).await.unwrap());
                }
            })
            .await
            .unwrap();
        let waiter = |seed: u64| {
            let client = client(&store);
            process(seed).spawn(async move {
                match kind {
                    "lock" => client.lock("a").build().unwrap().acquire().await.map(drop),
                    _ => client.semaphore("a").build().unwrap().acquire(1).await.map(drop),
                }
            })
        };
        let first = waiter(2);
        tokio::time::sleep(seconds(1)).await;
        let second = waiter(3);
        tokio::time::sleep(seconds(1)).await;
        let before = record(&store, "a").await;
        let told = write::give_up(&before, &before.waiters[1], "x waits for y");
        store.write("a", &told).await.unwrap();
        assert_eq!(record(&store, "a").await.waiters[1].told_to_give_up.as_deref(), Some("x waits for y"));
        let outcome = tokio::time::timeout(seconds(2), second).await.expect("at once").unwrap();
        let error = outcome.unwrap_err();
        assert!(matches!(&error, AcquireError::Deadlock { deadlock, .. } if deadlock.to_string() == "x waits for y"));
        assert!(!error.is_retryable());
        tokio::time::sleep(seconds(1)).await;
        let after = record(&store, "a").await;
        assert_eq!(after.waiters.len(), 1);
        let left = after.lease.metadata.annotations.as_ref().unwrap();
        assert!(!left.keys().any(|key| key.starts_with(DEADLOCK)), "{left:?}");
        assert_eq!(left.keys().filter(|key| key.starts_with(JOIN)).count(), 1);
        let labels = after.lease.metadata.labels.clone().unwrap();
        if kind == "lock" {
            assert_eq!(labels.len(), 2, "{labels:?}");
            assert!(!left.contains_key(LIVENESS));
        }
        // It is refused once the waiter has gone, and the other one waits on.
        assert!(store.write("a", &told).await.is_err());
        assert!(!first.is_finished());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_told_to_a_waiter_goes_with_its_place_however_that_goes() {
    let store = made("a", "lock", &[]).await;
    dies(&store, "a", None).await;
    // The waiter is dead too, and hears nothing: whoever passes it over takes that away as well.
    let (dead, dying) = (client(&store), process(2));
    dying.spawn(async move { drop(dead.lock("a").build().unwrap().acquire().await) });
    tokio::time::sleep(seconds(1)).await;
    dying.kill();
    let before = record(&store, "a").await;
    store.write("a", &write::give_up(&before, &before.waiters[0], "a circle")).await.unwrap();
    waits(&store, 3, "a").await.unwrap();
    let left = record(&store, "a").await;
    assert!(left.waiters.is_empty());
    let left = left.lease.metadata.annotations.clone().unwrap();
    assert!(!left.keys().any(|key| key.starts_with(DEADLOCK)), "{left:?}");
}
