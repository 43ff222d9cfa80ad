//! What is asked of everything that one alone can hold: a lock, all permits of a semaphore, the writer's place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Notify, mpsc};

use super::{LIMIT, PATIENCE, Promises, TERM, eventually, get, join, name, release, soon};
use crate::access::Progress;
use crate::error::{AcquireError, ReleaseError, TryAcquireError};
use crate::provider::{AnyGuard, HoldOptions};

/// Something that one alone can hold.
pub(super) trait Exclusive: Send + Sync + 'static {
    fn try_acquire(&self) -> BoxFuture<'_, Result<Box<dyn AnyGuard>, TryAcquireError>>;

    fn acquire<'a>(
        &'a self,
        limit: Option<Duration>,
        progress: &'a mut (dyn FnMut(Progress) + Send),
    ) -> BoxFuture<'a, Result<Box<dyn AnyGuard>, AcquireError>>;
}

/// Every rule. `make` makes the thing of this name as another process would have it.
pub(super) async fn all(what: &str, make: impl AsyncFn(&str, HoldOptions) -> Arc<dyn Exclusive>, promises: Promises) {
    let named = |rule: &str| name(&format!("{what}-{rule}"));
    let plain = async |name: &str| make(name, HoldOptions::default()).await;
    a_guard_tells_what_it_is(&named("guard"), &plain).await;
    a_dropped_guard_is_given_back(&named("drop"), &plain).await;
    if promises.tokens {
        tokens_grow(&named("tokens"), &plain).await;
    }
    if promises.exclusion {
        a_try_does_not_wait(&named("try"), &plain).await;
        a_wait_limit_is_kept(&named("limit"), &plain).await;
        a_cancelled_wait_leaves_nothing(&named("cancel"), &plain).await;
        one_at_a_time(&named("exclusion"), &plain, promises.tokens).await;
    }
    if promises.exclusion && promises.order {
        first_come_first_served(&named("order"), &plain).await;
    }
    if promises.expiry {
        let term = HoldOptions::new().lease_duration(TERM).renewal(false);
        what_has_expired_is_lost(&named("expiry"), async |name: &str| make(name, term).await, promises).await;
    }
}

async fn acquire(of: &Arc<dyn Exclusive>, what: &str) -> Box<dyn AnyGuard> {
    get(of.acquire(None, &mut |_| {}), what).await
}

async fn a_guard_tells_what_it_is(name: &str, make: impl AsyncFn(&str) -> Arc<dyn Exclusive>) {
    let one = make(name).await;
    let guard = acquire(&one, "what is free").await;
    assert_eq!(guard.name(), name, "a guard does not know what it holds");
    let first = guard.holder_identity();
    assert!(!first.is_empty(), "{name}: a guard has no holder identity");
    assert_eq!(guard.check(), Ok(()), "{name}: what was just acquired does not check");
    assert!(guard.remaining() > Duration::ZERO, "{name}: what was just acquired has no time remaining");
    assert!(!guard.lost().is_cancelled(), "{name}: what was just acquired counts as lost");
    let extended = soon(guard.extend(), "extend() comes to its end").await;
    assert!(extended.as_ref().is_ok_and(|time| !time.is_zero()), "{name}: extend() of what is held: {extended:?}");
    release(guard).await;
    let guard = acquire(&one, "what was released").await;
    assert_ne!(guard.holder_identity(), first, "{name}: two acquisitions have the same identity");
    release(guard).await;
}

async fn a_dropped_guard_is_given_back(name: &str, make: impl AsyncFn(&str) -> Arc<dyn Exclusive>) {
    let (one, two) = (make(name).await, make(name).await);
    drop(acquire(&one, "what is free").await);
    release(acquire(&two, "what was dropped").await).await;
}

async fn tokens_grow(name: &str, make: impl AsyncFn(&str) -> Arc<dyn Exclusive>) {
    let (one, two) = (make(name).await, make(name).await);
    let mut last = 0;
    for process in [&one, &two, &two, &one] {
        let guard = acquire(process, "what is free").await;
        assert!(guard.token() > last, "{name}: tokens do not grow: {} after {last}", guard.token());
        last = guard.token();
        release(guard).await;
    }
}

async fn a_try_does_not_wait(name: &str, make: impl AsyncFn(&str) -> Arc<dyn Exclusive>) {
    let (one, two) = (make(name).await, make(name).await);
    let guard = get(one.try_acquire(), "what is free, by a try").await;
    match soon(two.try_acquire(), "a try comes to its end").await {
        Err(TryAcquireError::Held { .. }) => {}
        Err(error) => panic!("{name}: a try of what is held must say so, and not {error:?}"),
        Ok(_) => panic!("{name}: two hold it at once: a try took what was held"),
    }
    release(guard).await;
    let guard = eventually("a try takes what was released", async || two.try_acquire().await).await;
    release(guard).await;
}

async fn a_wait_limit_is_kept(name: &str, make: impl AsyncFn(&str) -> Arc<dyn Exclusive>) {
    let (one, two, three) = (make(name).await, make(name).await, make(name).await);
    let guard = acquire(&one, "what is free").await;
    // Many times the limit: machines may be slow, and a limit that is ignored is ignored for ever.
    let waited = tokio::time::timeout(PATIENCE / 4, two.acquire(Some(LIMIT), &mut |_| {})).await;
    match waited.unwrap_or_else(|_| panic!("{name}: a wait limit of {LIMIT:?} was ignored for {:?}", PATIENCE / 4)) {
        Err(AcquireError::TimedOut { waited, .. }) => {
            assert!(waited >= LIMIT, "{name}: it gave up after {waited:?}, before its wait limit of {LIMIT:?}");
        }
        Err(error) => panic!("{name}: after its wait limit an acquisition says so, and not {error:?}"),
        Ok(_) => panic!("{name}: two hold it at once: a wait with a limit took what was held"),
    }
    release(guard).await;
    let rule = "whoever gave up leaves no waiter behind, so that a try succeeds";
    release(eventually(rule, async || three.try_acquire().await).await).await;
}

async fn a_cancelled_wait_leaves_nothing(name: &str, make: impl AsyncFn(&str) -> Arc<dyn Exclusive>) {
    let (one, two, three) = (make(name).await, make(name).await, make(name).await);
    let guard = acquire(&one, "what is free").await;
    let cancelled = tokio::time::timeout(LIMIT, two.acquire(None, &mut |_| {})).await;
    assert!(cancelled.is_err(), "{name}: two hold it at once, or a wait without limit came to an end: {cancelled:?}");
    release(guard).await;
    release(acquire(&three, "what another was cancelled while waiting for").await).await;
}

/// Tasks of several processes, two of each, come again and again.
async fn one_at_a_time(name: &str, make: impl AsyncFn(&str) -> Arc<dyn Exclusive>, tokens: bool) {
    let (inside, last) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let process = make(name).await;
        for _ in 0..2 {
            let (process, inside, last, name) = (process.clone(), inside.clone(), last.clone(), name.to_owned());
            tasks.push(tokio::spawn(async move {
                for _ in 0..6 {
                    let guard = acquire(&process, "what everybody wants").await;
                    let others = inside.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(others, 0, "{name}: two hold it at once");
                    let before = last.swap(guard.token(), Ordering::SeqCst);
                    let token = guard.token();
                    assert!(!tokens || token > before, "{name}: tokens do not grow: {token} after {before}");
                    tokio::task::yield_now().await;
                    assert_eq!(guard.check(), Ok(()), "{name}: what is held does not check");
                    inside.fetch_sub(1, Ordering::SeqCst);
                    release(guard).await;
                }
            }));
        }
    }
    join(tasks).await;
}

async fn first_come_first_served(name: &str, make: impl AsyncFn(&str) -> Arc<dyn Exclusive>) {
    const WAITERS: usize = 4;
    let guard = acquire(&make(name).await, "what is free").await;
    let (served, mut order) = mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for n in 0..WAITERS {
        let (process, served) = (make(name).await, served.clone());
        tasks.push(tokio::spawn(async move {
            let guard = acquire(&process, "what was waited for").await;
            let _ = served.send(n);
            release(guard).await;
        }));
        are_ahead(n + 1, &make(name).await).await;
    }
    release(guard).await;
    join(tasks).await;
    drop(served);
    let mut seen = Vec::new();
    while let Some(n) = order.recv().await {
        seen.push(n);
    }
    let came: Vec<usize> = (0..WAITERS).collect();
    assert_eq!(seen, came, "{name}: waiters are not served in the order in which they came");
}

/// Waits until so many wait: somebody who comes now hears that they are ahead.
pub(super) async fn are_ahead(count: usize, probe: &Arc<dyn Exclusive>) {
    let rule = format!("an acquisition that waits behind {count} others is told so");
    eventually(&rule, async || {
        let told = Notify::new();
        let mut progress = |progress: Progress| {
            if progress.ahead >= count {
                told.notify_one();
            }
        };
        let waiting = probe.acquire(Some(LIMIT), &mut progress);
        tokio::select! {
            biased;
            () = told.notified() => Ok(()),
            _ = waiting => Err(()),
        }
    })
    .await;
}

async fn what_has_expired_is_lost(name: &str, make: impl AsyncFn(&str) -> Arc<dyn Exclusive>, promises: Promises) {
    let (one, two) = (make(name).await, make(name).await);
    let guard = acquire(&one, "what is free").await;
    assert!(guard.remaining() <= TERM, "{name}: a term of {TERM:?} has {:?} remaining", guard.remaining());
    let lost = guard.lost();
    let next = acquire(&two, "what was held for a time that is over").await;
    if promises.exclusion {
        assert!(guard.check().is_err(), "{name}: a guard still checks when somebody else has it");
    }
    soon(lost.cancelled(), "lost() fires when the time is over").await;
    assert!(guard.check().is_err(), "{name}: a lost guard still checks");
    assert_eq!(guard.remaining(), Duration::ZERO, "{name}: a lost guard has time remaining");
    let extended = soon(guard.extend(), "extend() comes to its end").await;
    assert!(extended.is_err(), "{name}: a lost guard was extended: {extended:?}");
    assert!(guard.check().is_err(), "{name}: a lost guard checks again");
    if promises.tokens {
        assert!(next.token() > guard.token(), "{name}: tokens do not grow: {} after {}", next.token(), guard.token());
    }
    let released = soon(guard.release(), "a release comes to its end").await;
    assert!(
        matches!(released, Err(ReleaseError::Lost(_))),
        "{name}: the release of what had been lost must say so, and not {released:?}"
    );
    drop(next);
}
