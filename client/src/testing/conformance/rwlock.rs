//! What is asked of a read-write lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::exclusive::{self, Exclusive};
use super::{LIMIT, PATIENCE, Promises, eventually, get, join, name, release, soon};
use crate::access::Progress;
use crate::error::{AcquireError, TryAcquireError};
use crate::provider::{
    AnyGuard, AnyReadWriteLock, AnyUpgradeableReadWriteLock, AnyWriteGuard, HoldOptions, ReadWriteLockProvider,
    UpgradeError, UpgradeableReadWriteLockProvider,
};

/// The writer's place.
struct Writer(Arc<dyn AnyReadWriteLock>);

impl Exclusive for Writer {
    fn try_acquire(&self) -> BoxFuture<'_, Result<Box<dyn AnyGuard>, TryAcquireError>> {
        self.0.try_write().map(|writer| writer.map(|writer| writer as Box<dyn AnyGuard>)).boxed()
    }

    fn acquire<'a>(
        &'a self,
        limit: Option<Duration>,
        _: &'a mut (dyn FnMut(Progress) + Send),
    ) -> BoxFuture<'a, Result<Box<dyn AnyGuard>, AcquireError>> {
        self.0.write_within(limit).map(|writer| writer.map(|writer| writer as Box<dyn AnyGuard>)).boxed()
    }
}

pub(super) async fn all(process: impl AsyncFn() -> Arc<dyn ReadWriteLockProvider>, promises: Promises) {
    let make = async |name: &str| {
        let lock = process().await.read_write_lock(name).expect("a read-write lock");
        assert_eq!(lock.name(), name, "a read-write lock does not know its name");
        lock
    };
    let writer = async |name: &str, _: HoldOptions| Arc::new(Writer(make(name).await)) as Arc<dyn Exclusive>;
    // It takes no options and tells nothing of waits.
    exclusive::all("rwlock", writer, Promises { expiry: false, order: false, ..promises }).await;
    readers_read_together(&name("rwlock-readers"), &make, promises).await;
    a_writer_can_become_a_reader(&name("rwlock-downgrade"), &make, promises).await;
    if promises.exclusion {
        writers_exclude_everybody(&name("rwlock-exclusion"), &make, promises.tokens).await;
    }
    if promises.exclusion && promises.order {
        a_writer_that_waits_is_not_overtaken(&name("rwlock-order"), &make).await;
    }
}

pub(super) async fn upgradeable(
    process: impl AsyncFn() -> Arc<dyn UpgradeableReadWriteLockProvider>,
    promises: Promises,
) {
    let make = async |name: &str| process().await.upgradeable_read_write_lock(name).expect("a read-write lock");
    an_upgradeable_reader_becomes_the_writer(&name("rwlock-upgrade"), &make, promises).await;
    if promises.exclusion {
        one_reader_is_upgradeable_and_waits_for_the_others(&name("rwlock-upgradeable"), &make).await;
        an_upgrade_that_gives_up_still_reads(&name("rwlock-gives-up"), &make).await;
    }
}

fn must_be_held<T>(tried: Result<T, TryAcquireError>, name: &str, rule: &str) {
    match tried {
        Err(TryAcquireError::Held { .. }) => {}
        Err(error) => panic!("{name}: {rule}, and the try must say so, and not {error:?}"),
        Ok(_) => panic!("{name}: two hold what excludes each other: {rule}"),
    }
}

async fn readers_read_together(name: &str, make: impl AsyncFn(&str) -> Arc<dyn AnyReadWriteLock>, promises: Promises) {
    let (one, two) = (make(name).await, make(name).await);
    let first = get(one.read(), "what is free, to read").await;
    let second = get(two.read_timeout(PATIENCE), "what is read, to read as well").await;
    assert!(first.check().is_ok() && second.check().is_ok(), "{name}: of two who read together one does not check");
    if promises.exclusion {
        must_be_held(soon(one.try_write(), "a try comes to its end").await, name, "nobody writes while others read");
    }
    release(first).await;
    release(second).await;
}

async fn a_writer_can_become_a_reader(
    name: &str,
    make: impl AsyncFn(&str) -> Arc<dyn AnyReadWriteLock>,
    promises: Promises,
) {
    let (one, two) = (make(name).await, make(name).await);
    let writer = get(one.write(), "what is free, to write").await;
    if promises.exclusion {
        must_be_held(soon(two.try_read(), "a try comes to its end").await, name, "nobody reads while another writes");
    }
    let reader = get(writer.downgrade(), "what was written, to read").await;
    let other = eventually("others read beside who wrote before", async || two.try_read().await).await;
    if promises.exclusion {
        must_be_held(soon(two.try_write(), "a try comes to its end").await, name, "nobody writes while others read");
    }
    release(reader).await;
    release(other).await;
}

async fn writers_exclude_everybody(name: &str, make: impl AsyncFn(&str) -> Arc<dyn AnyReadWriteLock>, tokens: bool) {
    // How many read; -1 where one writes. And the token of whoever wrote last.
    let (inside, written) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::new();
    for worker in 0..4 {
        let (lock, inside, written, name) = (make(name).await, inside.clone(), written.clone(), name.to_owned());
        tasks.push(tokio::spawn(async move {
            for round in 0..5 {
                let writes = (worker + round) % 3 == 0;
                let guard: Box<dyn AnyGuard> = if writes {
                    get(lock.write(), "what everybody wants, to write").await
                } else {
                    get(lock.read(), "what everybody wants, to read").await
                };
                let token = guard.token();
                let beside =
                    if writes { inside.swap(-1, Ordering::SeqCst) } else { inside.fetch_add(1, Ordering::SeqCst) };
                assert!(beside == 0 || (!writes && beside > 0), "{name}: two hold what excludes each other");
                let before =
                    if writes { written.swap(token, Ordering::SeqCst) } else { written.load(Ordering::SeqCst) };
                assert!(!tokens || token > before, "{name}: tokens do not grow: {token} after the writer's {before}");
                tokio::task::yield_now().await;
                inside.fetch_add(if writes { 1 } else { -1 }, Ordering::SeqCst);
                release(guard).await;
            }
        }));
    }
    join(tasks).await;
}

async fn a_writer_that_waits_is_not_overtaken(name: &str, make: impl AsyncFn(&str) -> Arc<dyn AnyReadWriteLock>) {
    let (one, two, three) = (make(name).await, make(name).await, make(name).await);
    let reader = get(one.read(), "what is free, to read").await;
    let writing = tokio::spawn(async move { get(two.write(), "what is read, to write").await });
    eventually("no reader overtakes a writer that waits", async || match three.try_read().await {
        Err(TryAcquireError::Held { .. }) => Ok(()),
        outcome => {
            drop(outcome);
            Err(())
        }
    })
    .await;
    let behind = tokio::spawn(async move { get(three.read(), "what another waits to write, to read").await });
    release(reader).await;
    let writer = soon(writing, "a writer is served").await.unwrap_or_else(|error| resume(error));
    release(writer).await;
    let reader = soon(behind, "a reader behind a writer is served").await.unwrap_or_else(|error| resume(error));
    release(reader).await;
}

fn resume(error: tokio::task::JoinError) -> ! {
    std::panic::resume_unwind(error.into_panic())
}

async fn an_upgradeable_reader_becomes_the_writer(
    name: &str,
    make: impl AsyncFn(&str) -> Arc<dyn AnyUpgradeableReadWriteLock>,
    promises: Promises,
) {
    let (one, two) = (make(name).await, make(name).await);
    let reader = get(one.upgradeable_read(), "what is free, to read and perhaps to write").await;
    let before = reader.token();
    let writer: Box<dyn AnyWriteGuard> = get(reader.upgrade(), "what one alone reads, to write").await;
    assert_eq!(writer.check(), Ok(()), "{name}: an upgraded guard does not check");
    if promises.tokens {
        assert!(writer.token() > before, "{name}: tokens do not grow: {} after {before}", writer.token());
    }
    if promises.exclusion {
        must_be_held(soon(two.try_read(), "a try comes to its end").await, name, "nobody reads while another writes");
    }
    release(get(writer.downgrade(), "what was written, to read").await).await;
    let reader = get(two.upgradeable_read_timeout(PATIENCE), "what was released").await;
    let reader = get(reader.downgrade(), "what was to be written perhaps, only to read").await;
    let other = eventually("another can be the upgradeable reader", async || one.try_upgradeable_read().await).await;
    release(reader).await;
    release(other).await;
}

async fn one_reader_is_upgradeable_and_waits_for_the_others(
    name: &str,
    make: impl AsyncFn(&str) -> Arc<dyn AnyUpgradeableReadWriteLock>,
) {
    let (one, two, three) = (make(name).await, make(name).await, make(name).await);
    let upgradeable = get(one.upgradeable_read(), "what is free, to read and perhaps to write").await;
    let reader = get(two.read(), "what is read, to read as well").await;
    let another = soon(three.try_upgradeable_read(), "a try comes to its end").await;
    must_be_held(another, name, "one reader at a time is upgradeable");
    let gone = Arc::new(AtomicBool::new(false));
    let upgrading = tokio::spawn({
        let (gone, name) = (gone.clone(), name.to_owned());
        async move {
            let writer = get(upgradeable.upgrade(), "what others read, to write").await;
            assert!(gone.load(Ordering::SeqCst), "{name}: two hold what excludes each other: upgraded beside a reader");
            release(writer).await;
        }
    });
    eventually("nobody is let in while an upgrade waits", async || match three.try_read().await {
        Err(TryAcquireError::Held { .. }) => Ok(()),
        outcome => {
            drop(outcome);
            Err(())
        }
    })
    .await;
    gone.store(true, Ordering::SeqCst);
    release(reader).await;
    join(vec![upgrading]).await;
}

async fn an_upgrade_that_gives_up_still_reads(
    name: &str,
    make: impl AsyncFn(&str) -> Arc<dyn AnyUpgradeableReadWriteLock>,
) {
    let (one, two) = (make(name).await, make(name).await);
    let upgradeable = get(one.upgradeable_read(), "what is free, to read and perhaps to write").await;
    let reader = get(two.read(), "what is read, to read as well").await;
    let upgraded = soon(upgradeable.upgrade_timeout(LIMIT), "an upgrade gives up after its wait limit").await;
    let Err(UpgradeError::TimedOut { guard, .. }) = upgraded else {
        panic!("{name}: an upgrade beside a reader must give up after its wait limit, and not {upgraded:?}");
    };
    assert_eq!(guard.check(), Ok(()), "{name}: after an upgrade that gave up it still reads");
    let other = eventually("others are let in after an upgrade that gave up", async || two.try_read().await).await;
    for guard in [guard as Box<dyn AnyGuard>, reader, other] {
        release(guard).await;
    }
}
