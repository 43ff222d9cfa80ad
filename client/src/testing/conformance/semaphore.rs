//! What is asked of a semaphore.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::exclusive::{self, Exclusive, are_ahead};
use super::{LIMIT, Promises, eventually, get, join, name, release, soon};
use crate::access::Progress;
use crate::error::{AcquireError, TryAcquireError};
use crate::provider::{AnyGuard, AnySemaphore, HoldOptions, SemaphoreProvider};

const PERMITS: u32 = 3;

/// All of its permits.
struct Whole(Arc<dyn AnySemaphore>);

impl Exclusive for Whole {
    fn try_acquire(&self) -> BoxFuture<'_, Result<Box<dyn AnyGuard>, TryAcquireError>> {
        self.0.try_acquire(PERMITS).map(|permits| permits.map(|permits| permits as Box<dyn AnyGuard>)).boxed()
    }

    fn acquire<'a>(
        &'a self,
        limit: Option<Duration>,
        progress: &'a mut (dyn FnMut(Progress) + Send),
    ) -> BoxFuture<'a, Result<Box<dyn AnyGuard>, AcquireError>> {
        let acquired = self.0.acquire_with_progress(PERMITS, limit, progress);
        acquired.map(|permits| permits.map(|permits| permits as Box<dyn AnyGuard>)).boxed()
    }
}

pub(super) async fn all(process: impl AsyncFn() -> Arc<dyn SemaphoreProvider>, promises: Promises) {
    let whole = async |name: &str, options: HoldOptions| {
        let semaphore = process().await.semaphore_with(name, Some(PERMITS), &options).expect("a semaphore");
        assert_eq!(semaphore.name(), name, "a semaphore does not know its name");
        Arc::new(Whole(semaphore)) as Arc<dyn Exclusive>
    };
    exclusive::all("semaphore", whole, promises).await;
    let make = async |name: &str| process().await.semaphore(name, PERMITS).expect("a semaphore");
    permits_are_held_beside_each_other(&name("semaphore-beside"), &make, promises).await;
    no_permits_cannot_be_acquired(&name("semaphore-none"), &make).await;
    if promises.exclusion {
        more_than_there_are_is_an_error(&name("semaphore-more"), &make).await;
        never_more_are_out_than_there_are(&name("semaphore-sum"), &make).await;
    }
    if promises.exclusion && promises.order {
        a_large_request_is_not_overtaken(&name("semaphore-large"), &make).await;
        a_small_request_waits_behind_a_large_one(&name("semaphore-small"), &make).await;
    }
}

async fn permits_are_held_beside_each_other(
    name: &str,
    make: impl AsyncFn(&str) -> Arc<dyn AnySemaphore>,
    promises: Promises,
) {
    let (one, two) = (make(name).await, make(name).await);
    let pair = get(one.acquire(2), "two permits").await;
    let single = get(two.acquire(1), "the third permit").await;
    assert_eq!((pair.permits(), single.permits()), (2, 1), "{name}: permits do not know how many they are");
    if promises.exclusion {
        let more = soon(one.try_acquire(1), "a try comes to its end").await;
        assert!(
            matches!(more, Err(TryAcquireError::Held { .. })),
            "{name}: a fourth permit of three must be held, and not {more:?}"
        );
    }
    release(pair).await;
    let again = eventually("permits that were released are free", async || two.try_acquire(2).await).await;
    release(again).await;
    release(single).await;
}

async fn no_permits_cannot_be_acquired(name: &str, make: impl AsyncFn(&str) -> Arc<dyn AnySemaphore>) {
    let acquired = soon(make(name).await.acquire(0), "an acquisition of nothing comes to its end").await;
    assert!(acquired.is_err(), "{name}: no permits at all were acquired");
}

async fn more_than_there_are_is_an_error(name: &str, make: impl AsyncFn(&str) -> Arc<dyn AnySemaphore>) {
    let rule = "an acquisition of more permits than there are fails instead of waiting";
    let acquired = soon(make(name).await.acquire(PERMITS + 1), rule).await;
    assert!(
        matches!(&acquired, Err(AcquireError::Api { .. })),
        "{name}: an acquisition of more permits than there are must fail for good, and not say {acquired:?}"
    );
}

async fn never_more_are_out_than_there_are(name: &str, make: impl AsyncFn(&str) -> Arc<dyn AnySemaphore>) {
    let out = Arc::new(AtomicU32::new(0));
    let mut tasks = Vec::new();
    for worker in 0..4 {
        let (semaphore, out, name) = (make(name).await, out.clone(), name.to_owned());
        tasks.push(tokio::spawn(async move {
            for round in 0..6 {
                let wanted = 1 + (worker + round) % PERMITS;
                let permits = get(semaphore.acquire(wanted), "permits that everybody wants").await;
                let before = out.fetch_add(wanted, Ordering::SeqCst);
                assert!(before + wanted <= PERMITS, "{name}: {wanted} were let in beside {before} of {PERMITS}");
                tokio::task::yield_now().await;
                out.fetch_sub(wanted, Ordering::SeqCst);
                release(permits).await;
            }
        }));
    }
    join(tasks).await;
}

async fn a_large_request_is_not_overtaken(name: &str, make: impl AsyncFn(&str) -> Arc<dyn AnySemaphore>) {
    let (one, large, small) = (make(name).await, make(name).await, make(name).await);
    let held = get(one.acquire(1), "one permit").await;
    let waiting = tokio::spawn(async move { get(large.acquire(PERMITS), "all permits").await });
    // Two are free, and yet not for those who come after whoever waits for all of them.
    eventually("no small request overtakes a large one that waits", async || match small.try_acquire(1).await {
        Err(TryAcquireError::Held { .. }) => Ok(()),
        outcome => {
            drop(outcome);
            Err(())
        }
    })
    .await;
    release(held).await;
    let all = match soon(waiting, "a large request is served").await {
        Ok(all) => all,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    release(all).await;
}

async fn a_small_request_waits_behind_a_large_one(name: &str, make: impl AsyncFn(&str) -> Arc<dyn AnySemaphore>) {
    let one = make(name).await;
    let (single, pair) = (get(one.acquire(1), "one permit").await, get(one.acquire(2), "two permits").await);
    let (served, mut order) = mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for (ahead, wanted) in [PERMITS, 1].into_iter().enumerate() {
        let (semaphore, served) = (make(name).await, served.clone());
        tasks.push(tokio::spawn(async move {
            let permits = get(semaphore.acquire(wanted), "permits that were waited for").await;
            let _ = served.send(wanted);
            release(permits).await;
        }));
        let probe = Arc::new(Whole(make(name).await)) as Arc<dyn Exclusive>;
        are_ahead(ahead + 1, &probe).await;
    }
    // Enough for the small request, and not for the large one that came before it.
    release(single).await;
    // Time to do the wrong thing.
    crate::clock::sleep(LIMIT).await;
    release(pair).await;
    join(tasks).await;
    let first = order.recv().await;
    assert_eq!(
        first,
        Some(PERMITS),
        "{name}: waiters are not served in the order in which they came: a small overtook"
    );
}
