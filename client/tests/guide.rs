//! The patterns with fixed terms of `docs/guide.md` do what is said of them. An hour takes no time here: processes and
//! their clocks are simulated.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use leasehold::testing::{Process, ProcessOptions};
use leasehold::{Client, Lock, MemoryStore, Semaphore, TryAcquireError, clock};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// A process whose wall clock is that much ahead.
fn process(seed: u64, ahead: Duration) -> Process {
    let wall = Timestamp::UNIX_EPOCH + SignedDuration::try_from(ahead).unwrap();
    Process::new(ProcessOptions { seed, wall, ..ProcessOptions::default() })
}

fn client(store: &MemoryStore) -> Client {
    Client::builder().store(Arc::new(store.clone())).build().unwrap()
}

fn nightly(client: &Client) -> Lock {
    let lock = client.lock("nightly-report").hold_at_least(HOUR).lease_duration(HOUR);
    lock.max_clock_skew(Duration::from_secs(10)).build().unwrap()
}

/// Whether it is this process's turn. It is done in no time then, and gives it back.
async fn has_its_turn(store: &MemoryStore) -> bool {
    let client = client(store);
    let turn = nightly(&client).try_acquire().await;
    let mine = match turn {
        Ok(guard) => guard.release().await.is_ok(),
        Err(TryAcquireError::Held { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    client.shutdown().await;
    mine
}

#[tokio::test(start_paused = true)]
async fn a_job_once_in_a_while_is_done_by_one_of_those_who_come_and_again_the_next_day() {
    let store = MemoryStore::new();
    for (seed, ahead, turn) in [
        (1, Duration::ZERO, true),
        // Its clock is late, or it started late, and the first is done long since.
        (2, MINUTE, false),
        (3, HOUR / 2, false),
        // The next day. It was not there before, and has watched nothing.
        (4, HOUR * 24, true),
        (5, HOUR * 24 + MINUTE, false),
    ] {
        let store = store.clone();
        let had = process(seed, ahead).spawn(async move { has_its_turn(&store).await }).await.unwrap();
        assert_eq!(had, turn, "{ahead:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_process_is_killed_is_not_done_again_in_the_same_hour() {
    let store = MemoryStore::new();
    let killed = process(1, Duration::ZERO);
    let first = store.clone();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    killed.spawn(async move {
        let client = client(&first);
        let _guard = nightly(&client).acquire().await.unwrap();
        begun.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    has_begun.await.unwrap();
    killed.kill();
    for (seed, ahead, turn) in [(2, MINUTE * 59, false), (3, HOUR + MINUTE, true)] {
        let store = store.clone();
        let had = process(seed, ahead).spawn(async move { has_its_turn(&store).await }).await.unwrap();
        assert_eq!(had, turn, "{ahead:?}");
    }
}

fn limiter(client: &Client) -> Semaphore {
    let limiter = client.semaphore("mail-provider").with_permits(3).lease_duration(MINUTE).renewal(false);
    limiter.hold_at_least(MINUTE).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn permits_that_are_given_back_early_come_back_when_their_minute_is_over() {
    let store = MemoryStore::new();
    process(1, Duration::ZERO)
        .spawn(async move {
            let client = client(&store);
            let limiter = limiter(&client);
            let begun = clock::moment();
            for call in 0..7 {
                let permit = limiter.acquire(1).await.unwrap();
                let after = clock::moment().since(begun);
                // Three in the first minute, three in the second.
                let minutes = MINUTE * (call / 3);
                assert!((minutes..minutes + MINUTE).contains(&after), "call {call} after {after:?}");
                permit.release().await.unwrap();
            }
        })
        .await
        .unwrap();
}
