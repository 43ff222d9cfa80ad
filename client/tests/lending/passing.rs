//! What tasks of a process pass on among themselves while its driver sleeps.

use futures::FutureExt;
use tokio::task::JoinHandle;

use super::*;

/// A task that waits for it in this process.
async fn next(lock: &Lock) -> JoinHandle<LockGuard> {
    let lock = lock.clone();
    let waits = tokio::spawn(async move { lock.acquire().await.unwrap() });
    tokio::task::yield_now().await;
    waits
}

/// Releases it to the next task at once: no driver runs meanwhile.
fn pass(guard: LockGuard) {
    guard.release().now_or_never().expect("it is passed on without the driver").unwrap();
}

#[test]
fn it_goes_from_task_to_task_while_its_driver_does_nothing() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (stopped, other) = (runtime(), runtime());
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let lock = lock(&client, |lock| lock.local_handoff(MINUTE));
    let first = stopped.block_on(lock.acquire()).unwrap();
    let before = fence(&first);
    let (fences, last) = other.block_on(async {
        let task = |_| {
            let lock = lock.clone();
            tokio::spawn(async move {
                let guard = lock.acquire().await.unwrap();
                (fence(&guard), guard)
            })
        };
        let tasks: Vec<_> = (0..10).map(task).collect();
        tokio::task::yield_now().await;
        let (mut fences, mut last) = (Vec::new(), first);
        for task in tasks {
            soon(last.release()).await.unwrap();
            let (fence, guard) = soon(task).await.unwrap();
            fences.push(fence);
            last = guard;
        }
        (fences, last)
    });
    assert!(fences.into_iter().eq((2..=11).map(|n| (before.0, n))));
    let writes = store.server().requests().writes();
    stopped.block_on(soon(last.release())).unwrap();
    assert_eq!(store.server().requests().writes(), writes + 1, "the last one gives it back");
    assert!(!is_held(&store));
}

#[tokio::test]
async fn what_becomes_of_it_is_told_to_whoever_has_it_by_then() {
    let store = MemoryStore::new();
    let (here, there) = (client(&store, "here"), client(&store, "there"));
    let lock = lingering(&here);
    comes_to_linger(&lock, &store).await;
    let (first, second) = (lock.acquire().await.unwrap(), next(&lock).await);
    pass(first);
    let second = soon(second).await.unwrap();
    second.check().unwrap();
    there.break_holds("a", None, "by hand").await.unwrap();
    until(|| second.check().is_err()).await;
    assert_eq!(second.check().unwrap_err().reason, LossReason::Broken);
}

#[tokio::test]
async fn a_shutdown_ends_it_for_whoever_has_it_by_then() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let lock = lock(&client, |lock| lock.local_handoff(MINUTE));
    let (first, second) = (lock.acquire().await.unwrap(), next(&lock).await);
    pass(first);
    let second = soon(second).await.unwrap();
    soon(client.shutdown()).await;
    assert_eq!(second.check().unwrap_err().reason, LossReason::Released);
    assert!(!is_held(&store));
}

#[tokio::test]
async fn the_longest_hold_of_one_guard_is_not_that_of_the_next() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let short = lock(&client, |lock| lock.local_handoff(MINUTE).max_hold(Duration::from_millis(50)));
    let long = lock(&client, |lock| lock.local_handoff(MINUTE));
    let (first, second) = (short.acquire().await.unwrap(), next(&long).await);
    pass(first);
    let second = soon(second).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    second.check().unwrap();
    // The other way round it is the driver's.
    let third = next(&short).await;
    soon(second.release()).await.unwrap();
    let third = soon(third).await.unwrap();
    until(|| third.check().is_err()).await;
    assert_eq!(third.check().unwrap_err().reason, LossReason::HeldTooLong);
}

#[tokio::test]
async fn nobody_who_is_gone_has_it() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let lock = lock(&client, |lock| lock.local_handoff(MINUTE));
    let (first, second, third) = (lock.acquire().await.unwrap(), next(&lock).await, next(&lock).await);
    let token = first.token();
    pass(first);
    // It is the second's already, who never hears of it.
    second.abort();
    assert!(soon(second).await.unwrap_err().is_cancelled());
    let third = soon(third).await.unwrap();
    assert!(third.token() > token, "what was dropped may have been cut off: its token is no longer good");
    third.release().await.unwrap();
    assert!(!is_held(&store));
}

#[tokio::test]
async fn who_has_joined_elsewhere_is_not_passed_over_once_it_is_seen() {
    let store = MemoryStore::new();
    let (here, there) = (client(&store, "here"), client(&store, "there"));
    let mine = lingering(&here);
    comes_to_linger(&mine, &store).await;
    let (first, second, third) = (mine.acquire().await.unwrap(), next(&mine).await, next(&mine).await);
    pass(first);
    let second = soon(second).await.unwrap();
    let other = tokio::spawn(async move { lock(&there, |lock| lock).acquire().await.unwrap() });
    waits(&store).await;
    // The watch has shown it by the next time that this task runs.
    tokio::time::sleep(Duration::from_millis(20)).await;
    soon(second.release()).await.unwrap();
    let other = soon(other).await.unwrap();
    assert!(!third.is_finished());
    other.release().await.unwrap();
    soon(third).await.unwrap().release().await.unwrap();
}
