//! The client over an in-memory store: what a user sees, quickly. The same is tested on a real API server elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leasehold::{AcquireError, Client, MemoryStore, OnLost, ReleaseError, TryAcquireError, WithLockError};

fn client(store: &MemoryStore) -> Client {
    Client::builder().store(Arc::new(store.clone())).session_duration(Duration::from_secs(3)).build().unwrap()
}

#[tokio::test]
async fn one_holder_at_a_time_and_growing_tokens() {
    let store = MemoryStore::new();
    let (inside, last) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let workers = (0..8).map(|_| {
        let lock = client(&store).lock("work").build().unwrap();
        let (inside, last) = (inside.clone(), last.clone());
        tokio::spawn(async move {
            for _ in 0..25 {
                let guard = lock.acquire().await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                let before = last.swap(guard.token(), Ordering::SeqCst);
                assert!(before < guard.token(), "token {} after {before}", guard.token());
                tokio::task::yield_now().await;
                guard.check().unwrap();
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.release().await.unwrap();
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    let status = client(&store).lock("work").build().unwrap().status().await.unwrap();
    assert!(status.holder.is_none() && status.waiters.is_empty(), "{status:?}");
}

#[tokio::test]
async fn try_acquire_says_who_is_ahead() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store).lock("a").build().unwrap(), client(&store).lock("a").build().unwrap());
    let guard = one.try_acquire().await.unwrap();
    let error = two.try_acquire().await.unwrap_err();
    assert!(matches!(&error, TryAcquireError::Held { holder, .. } if *holder == guard.holder_identity()), "{error}");
    assert!(two.is_locked().await.unwrap());
    guard.release().await.unwrap();
    assert!(!two.is_locked().await.unwrap());
    two.try_acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_wait_limit_and_a_dropped_wait_leave_no_waiter() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store).lock("a").build().unwrap(), client(&store).lock("a").build().unwrap());
    let guard = one.acquire().await.unwrap();
    let error = two.acquire_timeout(Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(&error, AcquireError::TimedOut { holder, .. } if *holder == guard.holder_identity()), "{error}");
    assert!(tokio::time::timeout(Duration::from_millis(50), two.acquire()).await.is_err());
    let left = async {
        while !one.status().await.unwrap().waiters.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), left).await.expect("a waiter stayed behind");
    guard.release().await.unwrap();
}

#[tokio::test]
async fn tasks_of_one_process_queue_up_locally() {
    let store = MemoryStore::new();
    let client = client(&store);
    let lock = client.lock("a").build().unwrap();
    let guard = lock.acquire().await.unwrap();
    let second = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await.unwrap().release().await }
    });
    tokio::task::yield_now().await;
    assert!(lock.status().await.unwrap().waiters.is_empty());
    drop(guard);
    second.await.unwrap().unwrap();
}

#[tokio::test]
async fn own_liveness_with_and_without_renewal() {
    let store = MemoryStore::new();
    let client = client(&store);
    let kept = client.lock("kept").lease_duration(Duration::from_secs(1)).build().unwrap().acquire().await.unwrap();
    let fixed = client.lock("fixed").lease_duration(Duration::from_secs(1)).renewal(false).build().unwrap();
    let guard = fixed.acquire().await.unwrap();
    assert!(guard.remaining() <= Duration::from_secs(1));
    assert!(guard.extend().await.unwrap() > Duration::from_millis(900));
    tokio::time::timeout(Duration::from_secs(3), guard.lost().cancelled()).await.expect("a fixed term ends");
    assert!(guard.check().is_err() && guard.extend().await.is_err());
    assert!(matches!(guard.release().await, Err(ReleaseError::Lost(_))));
    kept.check().expect("a renewed one does not");
    kept.release().await.unwrap();
}

#[tokio::test]
async fn an_own_holder_that_stops_renewing_is_passed_over() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store), client(&store));
    let dead = one.lock("a").lease_duration(Duration::from_secs(1)).renewal(false).build().unwrap();
    let guard = dead.acquire().await.unwrap();
    let next = two.lock("a").build().unwrap().acquire_timeout(Duration::from_secs(10)).await.unwrap();
    assert!(guard.check().is_err(), "the first is lost before the second has it");
    assert!(next.token() > guard.token());
    next.release().await.unwrap();
}

#[tokio::test]
async fn with_lock_returns_what_the_work_returns() {
    let store = MemoryStore::new();
    let lock = client(&store).lock("a").build().unwrap();
    let token = lock.with_lock(OnLost::Cancel, async |guard| guard.token()).await.unwrap();
    assert!(token > 0);
    let fixed = client(&store).lock("b").lease_duration(Duration::from_secs(1)).renewal(false).build().unwrap();
    let cancelled = fixed.with_lock(OnLost::Cancel, async |_| std::future::pending::<()>().await).await;
    assert!(matches!(cancelled, Err(WithLockError::Lost { output: None, .. })), "{cancelled:?}");
    let finished = fixed
        .with_lock(OnLost::Finish, async |guard| {
            guard.lost().cancelled().await;
            7
        })
        .await;
    assert!(matches!(finished, Err(WithLockError::Lost { output: Some(7), .. })), "{finished:?}");
}

#[tokio::test]
async fn shutdown_releases_everything() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store), client(&store));
    let guard = one.lock("a").build().unwrap().acquire().await.unwrap();
    let lost = guard.lost();
    one.shutdown().await;
    assert!(lost.is_cancelled() && guard.check().is_err());
    let two = two.lock("a").build().unwrap();
    tokio::time::timeout(Duration::from_secs(1), two.acquire()).await.unwrap().unwrap().release().await.unwrap();
    assert!(matches!(one.lock("a").build().unwrap().acquire().await, Err(AcquireError::ShutDown)));
}

#[tokio::test]
async fn wait_until_free_does_not_take_it() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store).lock("a").build().unwrap(), client(&store).lock("a").build().unwrap());
    let guard = one.acquire().await.unwrap();
    let waiting = tokio::spawn(async move { two.wait_until_free().await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    guard.release().await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().unwrap();
    assert!(!one.is_locked().await.unwrap());
}

#[test]
fn bad_options_say_what_would_be_right() {
    let store = || Arc::new(MemoryStore::new());
    let builder = || Client::builder().store(store());
    for duration in [0, 500, 1500, 61_000] {
        let error = builder().session_duration(Duration::from_millis(duration)).build().unwrap_err();
        assert!(error.to_string().contains("whole seconds from 1 to 60"), "{error}");
    }
    assert!(builder().grace(Duration::from_secs(20)).build().is_err());
    assert!(Client::builder().build().unwrap_err().to_string().contains("try_default"));
    let client = builder().build().unwrap();
    for name in ["", "a\nb", "\0", &"a".repeat(1025)] {
        let error = client.lock(name).build().unwrap_err();
        assert_eq!(error.option, "name", "{error}");
    }
    assert!(client.lock("a").lease_duration(Duration::from_millis(10)).build().is_err());
}

/// Cancelled at every possible point of its way, an acquisition never keeps the lock.
#[tokio::test(flavor = "current_thread")]
async fn an_acquire_cancelled_anywhere_gives_back_what_it_got() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store).lock("a").build().unwrap(), client(&store).lock("a").build().unwrap());
    for polls in 0..60 {
        {
            let mut acquiring = std::pin::pin!(one.acquire());
            for _ in 0..polls {
                let done =
                    std::future::poll_fn(|cx| std::task::Poll::Ready(acquiring.as_mut().poll(cx).is_ready())).await;
                if done {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let next = tokio::time::timeout(Duration::from_secs(5), two.acquire()).await;
        next.unwrap_or_else(|_| panic!("cancelled after {polls} polls, it keeps the lock"))
            .unwrap()
            .release()
            .await
            .unwrap();
    }
}

#[test]
fn without_a_runtime_threads_exclude_each_other_and_keep_what_they_hold() {
    let store = MemoryStore::new();
    let inside = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (client, inside) = (client(&store), inside.clone());
            std::thread::spawn(move || {
                let lock = client.lock("a").build().unwrap();
                for _ in 0..10 {
                    let guard = lock.blocking_acquire(None).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                    guard.check().unwrap();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    guard.blocking_release().unwrap();
                }
                client.blocking_shutdown();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let client = client(&store);
    let lock = client.lock("a").build().unwrap();
    let guard = lock.blocking_try_acquire().unwrap();
    assert!(lock.blocking_acquire(Some(Duration::from_millis(20))).is_err());
    // This thread blocks for longer than the session lasts; the renewals do not mind.
    std::thread::sleep(Duration::from_millis(3200));
    guard.check().expect("the session was not renewed while the thread was blocked");
    assert!(lock.blocking_status().unwrap().is_locked());
    drop(guard);
    client.blocking_shutdown();
}
