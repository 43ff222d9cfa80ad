//! What stays with a process after its release.

use super::*;

#[tokio::test]
async fn nothing_lingers_unwatched() {
    let store = MemoryStore::new();
    let faulty = Faulty(store.clone(), Arc::default());
    let deaf = Client::builder().store(Arc::new(faulty)).host("deaf").build().unwrap();
    let lock = lingering(&deaf);
    for _ in 0..5 {
        lock.acquire().await.unwrap().release().await.unwrap();
        assert!(!is_held(&store), "it lingers, and nobody would see who joins");
    }
}

#[tokio::test]
async fn a_lock_that_lingers_is_had_again_without_a_request() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let lock = lingering(&client);
    comes_to_linger(&lock, &store).await;
    let before = store.server().requests();
    assert_eq!(before.watch, 1);
    let mut last = (0, 0);
    for _ in 0..100 {
        let guard = if last.1 % 2 == 0 { lock.acquire().await.unwrap() } else { lock.try_acquire().await.unwrap() };
        let fence = fence(&guard);
        assert!(fence > last, "{fence:?} after {last:?}");
        last = fence;
        guard.release().await.unwrap();
    }
    assert_eq!(store.server().requests(), before);
    assert!(lock.status().await.unwrap().holder.is_some());
    client.shutdown().await;
    assert!(!is_held(&store), "a shutdown gives back what lingers");
    assert!(lock.acquire().await.is_err());
}

#[tokio::test]
async fn what_lingers_goes_to_who_waits_for_it() {
    let store = MemoryStore::new();
    let (here, there) = (client(&store, "here"), client(&store, "there"));
    let mine = lingering(&here);
    comes_to_linger(&mine, &store).await;
    let guard = mine.acquire().await.unwrap();
    let token = guard.token();
    guard.release().await.unwrap();
    // Whoever only tries is told that it is held.
    let tried = lock(&there, |lock| lock).try_acquire().await.unwrap_err();
    assert!(matches!(tried, TryAcquireError::Held { .. }), "{tried}");
    let guard = soon(lock(&there, |lock| lock).acquire()).await.unwrap();
    assert!(guard.token() > token);
    let again = tokio::spawn(async move { mine.acquire().await.unwrap().token() });
    waits(&store).await;
    guard.release().await.unwrap();
    assert!(soon(again).await.unwrap() > token);
}

#[tokio::test]
async fn what_lingers_goes_to_who_asks_for_it_or_breaks_it() {
    let store = MemoryStore::new();
    let (here, there) = (client(&store, "here"), client(&store, "there"));
    let lock = lingering(&here);
    comes_to_linger(&lock, &store).await;
    let guard = lock.acquire().await.unwrap();
    let token = guard.token();
    guard.release().await.unwrap();
    lingering(&there).request_release(MINUTE, "the backup").await.unwrap();
    until(|| !is_held(&store)).await;
    comes_to_linger(&lock, &store).await;
    let guard = lock.acquire().await.unwrap();
    let broken = guard.token();
    assert!(broken > token);
    guard.release().await.unwrap();
    there.break_holds("a", None, "by hand").await.unwrap();
    // What is acquired from then on is acquired anew, and nobody was told of a loss.
    until(|| store.server().requests().writes() > 0 && !is_held(&store)).await;
    let fresh = async {
        loop {
            let guard = lock.acquire().await.unwrap();
            match guard.check() {
                Ok(()) if guard.token() > broken => return guard,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let guard = soon(fresh).await;
    guard.check().unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_lingers_for_its_time_and_its_session_goes_after_it() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let process = Process::new(ProcessOptions::default());
    let at = |seconds| {
        let store = store.clone();
        async move {
            clock::sleep_until(clock::moment() + Duration::from_secs(seconds)).await;
            is_held(&store)
        }
    };
    let (before, after) = process
        .spawn({
            let (held_before, held_after) = (at(59), at(2));
            let (client, store) = (client.clone(), store.clone());
            async move {
                comes_to_linger(&lingering(&client), &store).await;
                let before = held_before.await;
                let after = held_after.await;
                clock::sleep_until(clock::moment() + MINUTE).await;
                (before, after)
            }
        })
        .await
        .unwrap();
    assert!(before && !after);
    let (leases, _) = store.server().list(None, "").unwrap();
    assert!(leases.is_empty(), "{leases:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_what_lingered_is_nobodys() {
    let store = MemoryStore::new();
    let (paused, other) = (client(&store, "paused"), client(&store, "other"));
    let (sleeper, awake) =
        (Process::new(ProcessOptions::default()), Process::new(ProcessOptions { seed: 2, ..Default::default() }));
    let mine = lingering(&paused);
    let token = sleeper
        .spawn({
            let (mine, store) = (mine.clone(), store.clone());
            async move {
                comes_to_linger(&mine, &store).await;
                let guard = mine.acquire().await.unwrap();
                let token = guard.token();
                guard.release().await.unwrap();
                token
            }
        })
        .await
        .unwrap();
    sleeper.pause();
    // Somebody else has it when the session has ended.
    let guard = awake.spawn(async move { lock(&other, |lock| lock).acquire().await.unwrap() }).await.unwrap();
    assert!(guard.token() > token);
    let again = sleeper.spawn({
        let mine = mine.clone();
        async move { mine.acquire().await.unwrap() }
    });
    sleeper.resume();
    tokio::time::sleep(MINUTE).await;
    assert!(!again.is_finished(), "what lingered was handed out after its session had ended");
    awake.enter(|| guard.check().unwrap());
    awake.enter(|| drop(guard));
    let again = again.await.unwrap();
    sleeper.enter(|| again.check().unwrap());
    sleeper.enter(|| drop(again));
}

#[tokio::test]
async fn what_a_guard_said_or_was_told_is_not_passed_on() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let lock = lingering(&client);
    let guard = lock.acquire().await.unwrap();
    guard.publish("step 3 of 7").await.unwrap();
    guard.release().await.unwrap();
    assert!(!is_held(&store));
    let guard = lock.acquire().await.unwrap();
    lock.request_release(MINUTE, "please").await.unwrap();
    soon(guard.release_requested()).await;
    guard.release().await.unwrap();
    assert!(!is_held(&store));
    // A hold that ends by itself is over for everybody.
    let bounded = client.lock("a").linger(MINUTE).max_hold(Duration::from_millis(50)).build().unwrap();
    let guard = bounded.acquire().await.unwrap();
    soon(guard.lost().cancelled()).await;
    assert_eq!(guard.check().unwrap_err().reason, LossReason::HeldTooLong);
    let _ = guard.release().await;
    until(|| !is_held(&store)).await;
}

#[tokio::test]
async fn work_that_may_have_failed_passes_nothing_on() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let lock = lingering(&client);
    comes_to_linger(&lock, &store).await;
    let token = lock.with_lock(OnLost::Finish, async |guard| guard.token()).await.unwrap();
    assert!(!is_held(&store));
    assert!(lock.acquire().await.unwrap().token() > token);
}

#[tokio::test]
async fn what_lingers_is_given_back_when_nobody_can_ask_for_it() {
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let lock = lingering(&client);
    comes_to_linger(&lock, &store).await;
    drop(client);
    assert!(is_held(&store));
    drop(lock);
    until(|| !is_held(&store)).await;
}
