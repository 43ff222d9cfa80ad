//! What is kept after its process has let go of it, held for at least a time, or for at most one. An hour takes no time
//! here: processes and their clocks are simulated.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::contender::{Answer, Contender, Next, Notice, Wish};
use leasehold::protocol::{HolderId, Moment, Now, Record, Write};
use leasehold::testing::{Process, ProcessOptions};
use leasehold::{Client, LockBuilder, LossReason, MemoryStore, MultiLock, ReleaseError, Store, TryAcquireError, clock};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// A process whose wall clock is that much ahead.
fn process(seed: u64, ahead: Duration) -> Process {
    let wall = Timestamp::UNIX_EPOCH + jiff::SignedDuration::try_from(ahead).unwrap();
    Process::new(ProcessOptions { seed, wall, ..ProcessOptions::default() })
}

fn client(store: &MemoryStore) -> Client {
    Client::builder().store(Arc::new(store.clone())).build().unwrap()
}

fn holder(store: &MemoryStore, name: &str) -> Lease {
    let (leases, _) = store.server().list(None, "").unwrap();
    let lease = leases.iter().find(|lease| lease.metadata.name.as_deref() == Some(name));
    (**lease.expect("it stays")).clone()
}

/// A process that takes the lock, keeps it, and ends in an orderly way.
async fn keeps(store: &MemoryStore, time: Duration) -> u64 {
    let client = client(store);
    process(1, Duration::ZERO)
        .spawn(async move {
            let guard = client.lock("a").build().unwrap().acquire().await.unwrap();
            let token = guard.token();
            guard.keep(time).await.unwrap();
            client.shutdown().await;
            token
        })
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_nobodys_until_its_time_has_passed() {
    let store = MemoryStore::new();
    let client = client(&store);
    process(1, Duration::ZERO)
        .spawn(async move {
            let lock = client.lock("a").build().unwrap();
            let begun = clock::moment();
            let first = lock.acquire().await.unwrap();
            let token = first.token();
            first.keep(HOUR).await.unwrap();
            // Not this process's either, however often it looks, and also after its driver has gone and come again.
            for _ in 0..5 {
                let tried = lock.try_acquire().await;
                assert!(matches!(tried, Err(TryAcquireError::Held { .. })), "{tried:?}");
                clock::sleep_until(clock::moment() + MINUTE).await;
            }
            let next = lock.acquire().await.unwrap();
            let after = clock::moment().since(begun);
            // Who has waited from the beginning has watched it for so long.
            assert!((HOUR..HOUR + 6 * MINUTE).contains(&after), "after {after:?}");
            assert!(next.token() > token);
            next.release().await.unwrap();
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_outlives_its_process_and_goes_to_who_waits() {
    let store = MemoryStore::new();
    let token = keeps(&store, HOUR).await;
    let kept = Record::parse(holder(&store, "a")).unwrap();
    assert!(kept.holder.as_ref().is_some_and(|holder| holder.kept));
    assert_eq!(kept.ids().count(), 0, "it is nobody's");
    let client = client(&store);
    process(2, Duration::ZERO)
        .spawn(async move {
            let begun = clock::moment();
            let next = client.lock("a").build().unwrap().acquire().await.unwrap();
            let after = clock::moment().since(begun);
            assert!((HOUR..HOUR + MINUTE).contains(&after), "after {after:?}");
            assert!(next.token() > token);
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_who_relies_on_clocks_believes_what_stands_there() {
    let skewed = |lock: LockBuilder| lock.max_clock_skew(Duration::from_secs(10)).build().unwrap();
    for (late, relies, free) in [
        (HOUR + MINUTE, true, true),
        // Nobody has watched it for an hour.
        (HOUR + MINUTE, false, false),
        // The hour is over, but perhaps not for all.
        (HOUR + Duration::from_secs(9), true, false),
    ] {
        let store = MemoryStore::new();
        let token = keeps(&store, HOUR).await;
        let client = client(&store);
        process(2, late)
            .spawn(async move {
                let lock = client.lock("a");
                let lock = if relies { skewed(lock) } else { lock.build().unwrap() };
                let tried = lock.try_acquire().await;
                assert_eq!(tried.is_ok(), free, "{late:?}, {relies}: {tried:?}");
                if let Ok(guard) = tried {
                    assert!(guard.token() > token);
                }
            })
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn kept_permits_come_back_one_by_one_and_by_the_clock_where_that_is_relied_on() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store), client(&store));
    process(1, Duration::ZERO)
        .spawn(async move {
            let calls = one.semaphore("calls").with_permits(3).build().unwrap();
            let kept = calls.acquire(2).await.unwrap();
            kept.keep(HOUR).await.unwrap();
            // What else this process holds and gives back leaves it alone.
            calls.acquire(1).await.unwrap().release().await.unwrap();
            clock::sleep_until(clock::moment() + MINUTE).await;
            assert_eq!(calls.available_permits().await.unwrap(), 1);
            assert!(calls.try_acquire(2).await.is_err());
            one.shutdown().await;
        })
        .await
        .unwrap();
    process(2, HOUR + Duration::from_secs(20))
        .spawn(async move {
            let builder = || two.semaphore("calls").with_permits(3);
            assert!(builder().build().unwrap().try_acquire(3).await.is_err());
            let relies = builder().max_clock_skew(Duration::from_secs(5)).build().unwrap();
            relies.try_acquire(3).await.unwrap().release().await.unwrap();
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_too_early_stays_for_the_rest() {
    let store = MemoryStore::new();
    let client = client(&store);
    process(1, Duration::ZERO)
        .spawn(async move {
            let daily = client.lock("a").hold_at_least(HOUR).build().unwrap();
            let begun = clock::moment();
            let held = daily.acquire().await.unwrap();
            clock::sleep_until(begun + MINUTE).await;
            held.release().await.unwrap();
            // Dropped is no other than released.
            let next = daily.acquire().await.unwrap();
            let after = clock::moment().since(begun);
            assert!((HOUR..HOUR + MINUTE).contains(&after), "after {after:?}");
            drop(next);
            assert!(daily.acquire_timeout(HOUR / 2).await.is_err());
            let late = daily.acquire().await.unwrap();
            clock::sleep_until(clock::moment() + HOUR * 2).await;
            late.release().await.unwrap();
            // Nothing is left of it, after that time.
            client.lock("a").build().unwrap().try_acquire().await.unwrap().release().await.unwrap();
            // Also if the client shuts down before. Who did not get it keeps nothing.
            let held = daily.acquire().await.unwrap();
            assert!(daily.acquire_timeout(MINUTE).await.is_err());
            client.shutdown().await;
            held.check().unwrap_err();
        })
        .await
        .unwrap();
    assert!(Record::parse(holder(&store, "a")).unwrap().holder.unwrap().kept);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_was_not_got_whole_keeps_nothing() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store), client(&store));
    process(1, Duration::ZERO)
        .spawn(async move {
            let _held = two.lock("b").build().unwrap().acquire().await.unwrap();
            let lock = |name| one.lock(name).hold_at_least(HOUR).build().unwrap();
            let both = MultiLock::new().lock(&lock("a")).lock(&lock("b")).build().unwrap();
            both.acquire_timeout(MINUTE).await.unwrap_err();
            two.lock("a").build().unwrap().try_acquire().await.expect("nobody has it").release().await.unwrap();
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_waiting_for_a_set_keeps_nothing_of_it() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store), client(&store));
    process(1, Duration::ZERO)
        .spawn(async move {
            let held = two.lock("b").build().unwrap().acquire().await.unwrap();
            let lock = |name| one.lock(name).hold_at_least(HOUR).build().unwrap();
            let both = MultiLock::new().lock(&lock("a")).lock(&lock("b")).build().unwrap();
            tokio::time::timeout(MINUTE, both.acquire()).await.unwrap_err();
            let a = two.lock("a").build().unwrap();
            a.acquire_timeout(Duration::from_secs(1)).await.expect("nobody has it").release().await.unwrap();
            // Whoever has all of it keeps all of it.
            drop(held);
            both.acquire().await.unwrap().release().await.unwrap();
            assert!(a.try_acquire().await.is_err());
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_only_tries_now_and_then_gets_what_was_kept_when_its_time_has_passed() {
    let store = MemoryStore::new();
    keeps(&store, HOUR).await;
    let client = client(&store);
    process(2, Duration::ZERO)
        .spawn(async move {
            let lock = client.lock("a").build().unwrap();
            let mut tries = 1;
            while lock.try_acquire().await.is_err() && tries < 100 {
                clock::sleep_until(clock::moment() + MINUTE).await;
                tries += 1;
            }
            assert!((60..=62).contains(&tries), "{tries} tries");
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn time_to_stop_is_left_when_something_was_held_too_long() {
    let store = MemoryStore::new();
    let grace = Duration::from_secs(5);
    let builder = Client::builder().store(Arc::new(store.clone())).grace(grace);
    let (careful, other) = (builder.build().unwrap(), client(&store));
    process(1, Duration::ZERO)
        .spawn(async move {
            let guard = careful.lock("a").max_hold(MINUTE).build().unwrap().acquire().await.unwrap();
            let lost = guard.lost();
            let next = async {
                other.lock("a").build().unwrap().acquire().await.unwrap().release().await.unwrap();
                clock::moment()
            };
            let told = async {
                lost.cancelled().await;
                clock::moment()
            };
            let (told, next) = tokio::join!(told, next);
            assert!(next.since(told) >= grace, "{:?}", next.since(told));
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_for_longer_than_it_may_be() {
    let store = MemoryStore::new();
    let client = client(&store);
    process(1, Duration::ZERO)
        .spawn(async move {
            for own in [None, Some(MINUTE)] {
                let bounded = client.lock("a").max_hold(HOUR);
                let bounded = own.map_or(bounded, |own| client.lock("a").max_hold(HOUR).lease_duration(own));
                let begun = clock::moment();
                let guard = bounded.build().unwrap().acquire().await.unwrap();
                assert!(guard.remaining() <= HOUR);
                guard.lost().cancelled().await;
                let lost = guard.check().unwrap_err();
                assert_eq!((lost.reason, clock::moment().since(begun).as_secs()), (LossReason::HeldTooLong, 3600));
                // It is given back without the guard.
                let next = client.lock("a").build().unwrap().acquire().await.unwrap();
                next.release().await.unwrap();
                assert!(matches!(guard.release().await, Err(ReleaseError::Lost(lost)) if lost.reason == LossReason::HeldTooLong));
            }
        })
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_held_too_long_passes_on_at_once_though_nobody_looks() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store), client(&store));
    let bound = Duration::from_secs(2);
    let holds = process(1, Duration::ZERO).spawn(async move {
        let _guard = one.lock("a").max_hold(bound).build().unwrap().acquire().await.unwrap();
        std::future::pending::<()>().await;
    });
    let waits = process(2, Duration::ZERO).spawn(async move {
        // The other one first.
        clock::sleep_until(clock::moment() + Duration::from_millis(100)).await;
        let begun = clock::moment();
        two.lock("a").build().unwrap().acquire().await.unwrap().release().await.unwrap();
        clock::moment().since(begun)
    });
    let waited = waits.await.unwrap();
    assert!((bound / 2..bound * 2).contains(&waited), "{waited:?}");
    holds.abort();
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_is_not_kept() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store), client(&store));
    process(1, Duration::ZERO)
        .spawn(async move {
            let fixed = one.lock("a").lease_duration(MINUTE).renewal(false).build().unwrap();
            let guard = fixed.acquire().await.unwrap();
            clock::sleep_until(clock::moment() + MINUTE).await;
            let late = guard.keep(HOUR).await;
            assert!(matches!(late, Err(ReleaseError::Lost(_))), "{late:?}");
            let _next = two.lock("a").build().unwrap().acquire_timeout(MINUTE * 2).await.unwrap();
        })
        .await
        .unwrap();
}

#[test]
fn impossible_terms_are_refused() {
    let lock = || client(&MemoryStore::new()).lock("a");
    for (builder, option) in [
        (lock().hold_at_least(Duration::ZERO), "hold_at_least"),
        (lock().max_hold(HOUR * 24 * 4000), "max_hold"),
        (lock().hold_at_least(HOUR).max_hold(MINUTE), "hold_at_least"),
        (lock().max_clock_skew(Duration::from_millis(999)), "max_clock_skew"),
        (lock().max_clock_skew(HOUR * 25), "max_clock_skew"),
    ] {
        assert_eq!(builder.build().unwrap_err().option, option);
    }
}

/// A renewal that was sent before, and is carried out after.
#[tokio::test]
async fn a_late_renewal_does_not_take_back_what_is_kept() {
    let store = MemoryStore::new();
    let name = "a";
    let id: HolderId = "host_abc.1".parse().unwrap();
    let mut contender = Contender::new(name.to_owned(), Duration::from_secs(30), Duration::ZERO, 0);
    let at = |seconds: u64| Now {
        moment: Moment::from_start(Duration::from_secs(seconds)),
        stamp: Timestamp::from_second(seconds.try_into().unwrap()).unwrap(),
    };
    let answer = async |write: &Write| {
        let lease = store.write(name, write).await.unwrap().unwrap();
        Answer::Is(Box::new(Record::parse(lease).unwrap()))
    };
    contender.start(id.clone(), Wish { own_duration: Some(MINUTE), ..Wish::default() }, at(100).moment);
    assert!(matches!(contender.poll(at(100)), Next::Read));
    contender.answer(Answer::Absent, at(100).moment);
    let Next::Write(create) = contender.poll(at(100)) else { panic!("it makes the lock") };
    contender.answer(answer(&create).await, at(100).moment);
    let Next::Wait(_) = contender.poll(at(100)) else { panic!("it holds it") };
    assert!(matches!(contender.next_notice(), Some(Notice::Acquired { .. })));
    let Next::Write(renewal) = contender.poll(at(121)) else { panic!("it renews it") };
    contender.answer(Answer::Unclear("the connection broke".to_owned()), at(122).moment);
    contender.keep(&id, HOUR);
    let mut kept = false;
    for second in 123..140 {
        match contender.poll(at(second)) {
            Next::Write(write) => {
                contender.answer(answer(&write).await, at(second).moment);
                kept = true;
            }
            Next::Read | Next::Check => {
                let record = Record::parse(store.read(name).await.unwrap()).unwrap();
                contender.answer(Answer::Is(Box::new(record)), at(second).moment);
            }
            Next::Wait(_) => {}
        }
    }
    assert!(kept && !contender.is_engaged());
    assert!(store.write(name, &renewal).await.is_err(), "it takes back that the hold is to stay");
    assert!(Record::parse(holder(&store, name)).unwrap().holder.unwrap().kept);
}

/// A write by which it was to be kept, of which nobody knows what came of it, and a lock that another holds by then.
#[tokio::test]
async fn it_is_not_said_that_something_is_kept_which_another_has() {
    for carried_out in [true, false] {
        let store = MemoryStore::new();
        let id: HolderId = "host_abc.1".parse().unwrap();
        let mut contender = Contender::new("a".to_owned(), Duration::from_secs(30), Duration::ZERO, 0);
        let at = |seconds: u64| Now {
            moment: Moment::from_start(Duration::from_secs(seconds)),
            stamp: Timestamp::from_second(seconds.try_into().unwrap()).unwrap(),
        };
        let answer = |lease: Lease| Answer::Is(Box::new(Record::parse(lease).unwrap()));
        contender.start(id.clone(), Wish::default(), at(100).moment);
        contender.poll(at(100));
        contender.answer(Answer::Absent, at(100).moment);
        let Next::Write(create) = contender.poll(at(100)) else { panic!("it makes the lock") };
        contender.answer(answer(store.write("a", &create).await.unwrap().unwrap()), at(100).moment);
        contender.poll(at(101));
        contender.keep(&id, HOUR);
        let Next::Write(keep) = contender.poll(at(102)) else { panic!("it keeps the lock") };
        if carried_out {
            store.write("a", &keep).await.unwrap();
        } else {
            let record = Record::parse(store.read("a").await.unwrap()).unwrap();
            let other: HolderId = "other_xyz.1".parse().unwrap();
            let term = leasehold::protocol::write::Term { duration: MINUTE, own: false };
            let taken = leasehold::protocol::write::acquire(&record, &other, &[], term, at(103).stamp);
            store.write("a", &taken).await.unwrap();
        }
        contender.answer(Answer::Unclear("the connection broke".to_owned()), at(104).moment);
        let mut left = None;
        for second in 105..140 {
            if let Next::Read | Next::Check = contender.poll(at(second)) {
                contender.answer(answer(store.read("a").await.unwrap()), at(second).moment);
            }
            while let Some(notice) = contender.next_notice() {
                if let Notice::Left { clean, .. } = notice {
                    left = Some(clean);
                }
            }
        }
        assert_eq!(left, Some(carried_out));
    }
}
