//! Tasks that wait for each other in a circle, in one process and in several, whose clocks are simulated.

use std::sync::Arc;
use std::time::Duration;

use leasehold::protocol::record::HOLDS;
use leasehold::testing::{Process, ProcessOptions};
use leasehold::{AcquireError, Client, LockGuard, MemoryStore, OnDeadlock, clock};
use tokio::task::JoinHandle;

const AFTER: Duration = Duration::from_secs(5);

fn client(store: &MemoryStore, on: OnDeadlock) -> Client {
    Client::builder().store(Arc::new(store.clone())).on_deadlock(on).deadlock_after(AFTER).build().unwrap()
}

fn process(seed: u64) -> Process {
    Process::new(ProcessOptions { seed, ..ProcessOptions::default() })
}

async fn pause(time: Duration) {
    clock::sleep_until(clock::moment() + time).await;
}

/// A task that takes the first, and after a second the second; and then holds both for a second. Whether it got that.
fn takes(
    process: &Process,
    client: &Client,
    first: &'static str,
    second: &'static str,
) -> JoinHandle<Result<(), AcquireError>> {
    let client = client.clone();
    process.spawn(async move {
        let one = client.lock(first).build().unwrap().acquire().await?;
        pause(Duration::from_secs(1)).await;
        let two = client.lock(second).build().unwrap().acquire().await?;
        pause(Duration::from_secs(1)).await;
        two.release().await.unwrap();
        one.release().await.unwrap();
        Ok(())
    })
}

fn reports(store: &MemoryStore) -> usize {
    let (leases, _) = store.server().list(None, "").unwrap();
    let keys = leases.iter().flat_map(|lease| lease.metadata.annotations.iter().flatten());
    keys.filter(|(key, _)| key.starts_with(HOLDS)).count()
}

/// How many got what they wanted, and what the one was told that did not.
async fn outcomes(tasks: Vec<JoinHandle<Result<(), AcquireError>>>) -> (usize, Vec<String>) {
    let mut errors = Vec::new();
    let all = tasks.len();
    for task in tasks {
        match task.await.unwrap() {
            Ok(()) => {}
            Err(AcquireError::Deadlock { deadlock, .. }) => errors.push(deadlock.to_string()),
            Err(other) => panic!("{other}"),
        }
    }
    (all - errors.len(), errors)
}

#[tokio::test(start_paused = true)]
async fn of_those_who_wait_in_a_circle_one_gives_way_and_the_others_go_on() {
    for processes in [vec![1, 2, 3], vec![1, 1, 1], vec![1, 1, 2]] {
        let store = MemoryStore::new();
        let all: Vec<_> = (1..=3).map(|seed| (process(seed), client(&store, OnDeadlock::FailYoungest))).collect();
        let names = ["a", "b", "c"];
        let tasks = processes.iter().enumerate().map(|(n, process)| {
            let (process, client) = &all[*process - 1];
            takes(process, client, names[n], names[(n + 1) % 3])
        });
        let begun = tokio::time::timeout(Duration::from_secs(60), outcomes(tasks.collect()));
        let (got, errors) = begun.await.unwrap_or_else(|_| panic!("nobody gives way: {processes:?}"));
        assert_eq!((got, errors.len()), (2, 1), "{processes:?}: {errors:?}");
        assert!(names.iter().all(|name| errors[0].contains(&format!("waits for {name:?}"))), "{errors:?}");
        for (_, client) in &all {
            client.shutdown().await;
        }
        assert_eq!(reports(&store), 0, "something was left");
    }
}

#[tokio::test(start_paused = true)]
async fn who_only_reports_waits_on_and_who_ignores_says_nothing() {
    for (on, said) in [(OnDeadlock::Report, 2), (OnDeadlock::Ignore, 0)] {
        let store = MemoryStore::new();
        let (one, two) = (client(&store, on), client(&store, on));
        let tasks = [takes(&process(1), &one, "a", "b"), takes(&process(2), &two, "b", "a")];
        tokio::time::sleep(AFTER * 5).await;
        assert!(tasks.iter().all(|task| !task.is_finished()));
        assert_eq!(reports(&store), said);
        // Somebody breaks the circle. What was said goes with the waiting.
        tasks[0].abort();
        outcomes(tasks.into_iter().skip(1).collect()).await;
        assert_eq!(reports(&store), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_waiter_said_goes_when_it_goes() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store, OnDeadlock::Report), client(&store, OnDeadlock::Report));
    let holder = process(1);
    let held = holder.spawn(async move { one.lock("b").build().unwrap().acquire().await.unwrap() }).await.unwrap();
    let waits = takes(&process(2), &two, "a", "b");
    tokio::time::sleep(AFTER * 3).await;
    assert_eq!(reports(&store), 1);
    waits.abort();
    tokio::time::sleep(AFTER).await;
    assert_eq!(reports(&store), 0);
    holder.enter(|| held.check()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_is_no_deadlock() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store, OnDeadlock::FailYoungest), client(&store, OnDeadlock::FailYoungest));
    let slow = process(1).spawn(async move {
        let _other = one.lock("c").build().unwrap().acquire().await.unwrap();
        let held = one.lock("a").build().unwrap().acquire().await.unwrap();
        pause(AFTER * 10).await;
        held.release().await.unwrap();
    });
    let waits = process(2).spawn(async move {
        let _other = two.lock("b").build().unwrap().acquire().await.unwrap();
        pause(Duration::from_secs(1)).await;
        two.lock("a").build().unwrap().acquire().await.unwrap().release().await.unwrap();
    });
    waits.await.unwrap();
    slow.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_guard_in_other_hands_is_in_nobodys_way_once_they_have_it() {
    for adopted in [true, false] {
        let store = MemoryStore::new();
        let (one, two) = (client(&store, OnDeadlock::FailYoungest), client(&store, OnDeadlock::FailYoungest));
        let (give, given) = tokio::sync::oneshot::channel::<LockGuard>();
        let process_one = process(1);
        let first = process_one.spawn(async move {
            give.send(one.lock("a").build().unwrap().acquire().await.unwrap()).unwrap();
            // It holds something of its own as well.
            let _own = one.lock("c").build().unwrap().acquire().await.unwrap();
            pause(Duration::from_secs(2)).await;
            one.lock("b").build().unwrap().acquire().await.map(drop)
        });
        let taker = process_one.spawn(async move {
            let guard = given.await.unwrap();
            if adopted {
                guard.adopt();
            }
            pause(AFTER * 6).await;
            guard.release().await.unwrap();
        });
        let second = process(2).spawn(async move {
            let _held = two.lock("b").build().unwrap().acquire().await.unwrap();
            pause(Duration::from_secs(1)).await;
            two.lock("a").build().unwrap().acquire().await.map(drop)
        });
        let outcomes = [first.await.unwrap().is_ok(), second.await.unwrap().is_ok()];
        assert_eq!(outcomes, [adopted, true], "adopted: {adopted}");
        taker.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_held_that_waits_no_longer_is_in_nobodys_way() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store, OnDeadlock::FailYoungest), client(&store, OnDeadlock::FailYoungest));
    let (shared, other) = (process(1), process(2));
    let holder = other.spawn(async move {
        let _held = two.lock("a").build().unwrap().acquire().await.unwrap();
        pause(AFTER * 2).await;
        // Nobody who waits for a holds b any more, when this looks.
        two.lock("b").build().unwrap().acquire().await.map(drop)
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let first = shared.spawn({
        let one = one.clone();
        async move { one.lock("a").build().unwrap().acquire().await.map(drop) }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let second = shared.spawn(async move {
        let _held = one.lock("b").build().unwrap().acquire().await.unwrap();
        // It stands behind the first in its process, and what it holds is told by the first one's place.
        one.lock("a").build().unwrap().acquire_timeout(AFTER + Duration::from_secs(4)).await.unwrap_err();
        pause(AFTER * 8).await;
    });
    holder.await.unwrap().unwrap();
    first.await.unwrap().unwrap();
    second.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn permits_count_once_somebody_has_said_that_they_are_his() {
    for adopted in [false, true] {
        let store = MemoryStore::new();
        let (one, two) = (client(&store, OnDeadlock::FailYoungest), client(&store, OnDeadlock::FailYoungest));
        let takes = |process: &Process, client: Client| {
            process.spawn(async move {
                let pool = client.semaphore("pool").with_permits(2).build().unwrap();
                let held = pool.acquire(1).await.unwrap();
                if adopted {
                    held.adopt();
                }
                pause(Duration::from_secs(1)).await;
                pool.acquire_timeout(1, AFTER * 10).await.map(drop)
            })
        };
        let both = [takes(&process(1), one), takes(&process(2), two)];
        let mut failures = Vec::new();
        for task in both {
            failures.extend(task.await.unwrap().err());
        }
        let found = failures.iter().filter(|error| matches!(error, AcquireError::Deadlock { .. })).count();
        assert_eq!(found, usize::from(adopted), "{failures:?}");
    }
}

#[test]
fn too_short_a_time_is_refused() {
    let builder = Client::builder().store(Arc::new(MemoryStore::new())).deadlock_after(Duration::from_millis(10));
    assert!(builder.build().unwrap_err().to_string().contains("deadlock_after: 10ms will not do"));
}
