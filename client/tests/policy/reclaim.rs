//! What becomes of what a dead holder had: a lock delay, and who may take it back.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_a_holder_had_that_fell_silent_passes_on_after_the_delay() {
    for (kind, own) in [("lock", None), ("lock", Some(seconds(10))), ("semaphore", None)] {
        let mut without = None;
        for delay in [0, 40, 300] {
            let annotations = [(LOCK_DELAY, &*delay.to_string()), ("leasehold.dev/permits", "1")];
            let store = made("a", kind, &annotations).await;
            dies(&store, "a", own).await;
            let after = waits(&store, 2, "a").await.unwrap();
            about(after, *without.get_or_insert(after) + seconds(delay));
        }
        assert!(without >= own.or(Some(SESSION)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_who_comes_later_counts_from_when_it_is_certain() {
    let store = made("a", "lock", &[(LOCK_DELAY, "40")]).await;
    dies(&store, "a", None).await;
    let first = waits(&store, 2, "a");
    tokio::time::sleep(seconds(60)).await;
    // The tombstone has stood there for half a minute, which this one has not seen.
    let tried = client(&store);
    let tried = process(3).spawn(async move {
        let tried = tried.lock("a").build().unwrap().try_acquire().await;
        assert!(matches!(tried, Err(TryAcquireError::Held { .. })), "{tried:?}");
    });
    tried.await.unwrap();
    about(first.await.unwrap(), seconds(70));
}

#[tokio::test(start_paused = true)]
async fn who_tries_now_and_then_gets_it_after_the_delay_too() {
    let store = made("a", "lock", &[(LOCK_DELAY, "400")]).await;
    dies(&store, "a", None).await;
    let client = client(&store);
    process(2)
        .spawn(async move {
            let begun = clock::moment();
            let lock = client.lock("a").build().unwrap();
            while lock.try_acquire().await.is_err() {
                assert!(clock::moment().since(begun) < seconds(900), "it never gets it");
                pause(seconds(100)).await;
            }
            assert!(clock::moment().since(begun) > seconds(400));
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_clean_release_by_evidence_or_where_it_was_kept_there_is_no_delay() {
    let store = made("a", "lock", &[(LOCK_DELAY, "600")]).await;
    let one = client(&store);
    let holder = process(1);
    let released = holder.spawn(async move {
        let guard = one.lock("a").build().unwrap().acquire().await.unwrap();
        pause(seconds(10)).await;
        guard.release().await.unwrap();
        one.shutdown().await;
    });
    about(waits(&store, 2, "a").await.unwrap(), seconds(10));
    released.await.unwrap();

    dies(&store, "a", None).await;
    let waiting = waits(&store, 3, "a");
    tokio::time::sleep(seconds(5)).await;
    end_by_evidence(&store, "a").await;
    about(waiting.await.unwrap(), seconds(5));

    let keeper = client(&store);
    let kept = process(4).spawn(async move {
        keeper.lock("a").build().unwrap().acquire().await.unwrap().keep(seconds(60)).await.unwrap();
        keeper.shutdown().await;
    });
    kept.await.unwrap();
    about(waits(&store, 5, "a").await.unwrap(), seconds(60));
}

#[tokio::test(start_paused = true)]
async fn evidence_can_be_made_to_count_for_no_more_than_silence() {
    let store = made("a", "lock", &[(RECLAIM, EXPIRY), (LOCK_DELAY, "20")]).await;
    dies(&store, "a", None).await;
    let waiting = waits(&store, 2, "a");
    tokio::time::sleep(seconds(5)).await;
    end_by_evidence(&store, "a").await;
    about(waiting.await.unwrap(), seconds(5) + SESSION + seconds(20));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_is_to_reclaim_it_only_a_person_frees_it() {
    for (own, evidence) in [(None, false), (None, true), (Some(seconds(10)), false)] {
        let store = made("a", "lock", &[(RECLAIM, NEVER)]).await;
        dies(&store, "a", own).await;
        // The first in the queue dies as well, and is passed over.
        let (dead, dying) = (client(&store), process(2));
        dying.spawn(async move { drop(dead.lock("a").build().unwrap().acquire().await) });
        tokio::time::sleep(seconds(5)).await;
        dying.kill();
        let waiting = waits(&store, 3, "a");
        if evidence {
            end_by_evidence(&store, "a").await;
        }
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert!(!waiting.is_finished(), "it was taken from a dead holder, by evidence: {evidence}");
        break_it(&store, "a").await;
        let waited = waiting.await.unwrap();
        assert!(waited < Duration::from_hours(1) + seconds(15), "after {waited:?}");
    }
}
