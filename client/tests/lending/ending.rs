//! What lingers when something ends: a watch, a runtime, a process.

use leasehold::protocol::policy::{LOCK_DELAY, RECLAIM};

use super::*;

#[test]
fn the_end_of_a_runtime_on_which_something_lingers_takes_nothing_else_with_it() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (stays, ends) = (runtime(), runtime());
    let store = MemoryStore::new();
    let client = client(&store, "one");
    let guard = stays.block_on(client.lock("b").build().unwrap().acquire()).unwrap();
    ends.block_on(comes_to_linger(&lingering(&client), &store));
    drop(ends);
    guard.check().unwrap();
    stays.block_on(until(|| !is_held(&store)));
    guard.check().unwrap();
    stays.block_on(async {
        lingering(&client).acquire().await.unwrap().release().await.unwrap();
        guard.release().await.unwrap();
    });
}

#[test]
fn all_that_lingers_on_a_runtime_that_ends_is_given_back() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (stays, ends) = (runtime(), runtime());
    let store = MemoryStore::new();
    let client = client(&store, "one");
    // Their session ends with the runtime as well, and before or after them.
    let names = ["a", "b", "c", "d"];
    for name in names {
        let lock = client.lock(name).linger(MINUTE).build().unwrap();
        ends.block_on(soon(async {
            while !record_of(&store, name).is_some_and(|record| record.is_held()) {
                lock.acquire().await.unwrap().release().await.unwrap();
            }
        }));
    }
    drop(ends);
    let is_free = |name| !record_of(&store, name).is_some_and(|record| record.is_held());
    stays.block_on(until(|| names.into_iter().all(is_free)));
}

#[test]
fn what_was_released_unheard_before_a_runtime_ended_is_given_back() {
    let stays = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = MemoryStore::new();
    let client = client(&store, "one");
    // The session lives here, and goes on.
    let guard = stays.block_on(client.lock("b").build().unwrap().acquire()).unwrap();
    for lock in [lock(&client, |lock| lock), lock(&client, |lock| lock.local_handoff(MINUTE))] {
        let ends = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let released = ends.block_on(lock.acquire()).unwrap();
        // Its driver runs no more.
        drop(released);
        drop(ends);
        stays.block_on(until(|| !is_held(&store)));
        guard.check().unwrap();
    }
}

/// A store whose watches come to their end in good order every 20 s.
#[derive(Debug)]
struct Ending(MemoryStore);

impl Store for Ending {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        self.0.read(name)
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        self.0.write(name, write)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Lease>, Failure>> {
        self.0.list()
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        let store = self.0.clone();
        let reached = async move { Ok(Sight::Reached(store.server().list(None, "")?.1)) };
        let end = tokio::time::sleep(Duration::from_secs(20));
        self.0.watch(name, label, from).take_until(end).chain(futures::stream::once(reached)).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn it_lingers_from_one_watch_to_the_next() {
    let store = MemoryStore::new();
    let here = Client::builder().store(Arc::new(Ending(store.clone()))).host("here").build().unwrap();
    let there = client(&store, "there");
    let process = Process::new(ProcessOptions::default());
    let lingers = {
        let (here, store) = (here.clone(), store.clone());
        async move {
            let lock = here.lock("a").linger(MINUTE * 10).build().unwrap();
            comes_to_linger(&lock, &store).await;
            lock
        }
    };
    let lock = process.spawn(lingers).await.unwrap();
    let before = (record(&store).unwrap().version, store.server().requests().watch);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(19)).await;
        assert_eq!(record(&store).unwrap().version, before.0, "it was given back at the end of a watch");
    }
    assert!(store.server().requests().watch >= before.1 + 5);
    // Who joins is seen all the same.
    let other = process.spawn(async move { super::lock(&there, |lock| lock).acquire().await.unwrap() });
    let guard = tokio::time::timeout(Duration::from_millis(100), other).await.expect("at once").unwrap();
    process.enter(|| drop(guard));
    drop(lock);
    process.kill();
}

#[tokio::test]
async fn what_a_dead_holder_would_keep_from_others_does_not_linger() {
    for policy in [(RECLAIM, "never"), (LOCK_DELAY, "15")] {
        let store = MemoryStore::new();
        let mut lease = Lease::default();
        lease.metadata.name = Some("a".to_owned());
        lease.metadata.annotations = Some([(policy.0.to_owned(), policy.1.to_owned())].into());
        store.write("a", &Write::Create(Box::new(lease))).await.unwrap();
        let client = client(&store, "one");
        let lock = lingering(&client);
        for _ in 0..5 {
            lock.acquire().await.unwrap().release().await.unwrap();
            assert!(!is_held(&store), "{policy:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
