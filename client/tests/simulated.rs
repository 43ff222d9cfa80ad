//! What takes minutes, on a clock that does not.

use std::sync::Arc;
use std::time::Duration;

use leasehold::protocol::record::SessionRecord;
use leasehold::protocol::write;
use leasehold::testing::{Process, ProcessOptions};
use leasehold::{Client, MemoryStore, Store};

fn simulated(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test);
}

fn process(host: &str, store: &MemoryStore) -> (Process, Client) {
    let client = Client::builder().store(Arc::new(store.clone())).host(host).build().unwrap();
    (Process::new(ProcessOptions::default()), client)
}

/// There is no operator here: it is a waiter that waits the minute for which an absent session may still be believed in.
#[test]
fn the_lock_of_a_dead_holder_passes_on_though_its_session_was_deleted() {
    simulated(async {
        let store = MemoryStore::new();
        let (dying, client) = process("dying", &store);
        let held = dying.spawn(async move {
            let guard = client.lock("a").build().unwrap().acquire().await.unwrap();
            let session = guard.holder_identity().rsplit_once('.').unwrap().0.to_owned();
            (guard, client, session)
        });
        let (_guard, _client, session) = held.await.unwrap();
        dying.kill();
        let session: leasehold::protocol::SessionId = session.parse().unwrap();
        let lease = store.read(&session.lease_name()).await.unwrap();
        let record = SessionRecord::parse(lease).unwrap();
        store.write(&session.lease_name(), &write::remove_session(&record)).await.unwrap();

        let (waiting, client) = process("waiting", &store);
        let limit = Duration::from_secs(75);
        let acquired = waiting.spawn(async move {
            let lock = client.lock("a").build().unwrap();
            assert!(lock.acquire_timeout(Duration::from_secs(55)).await.is_err(), "it may still have been believed in");
            lock.acquire_timeout(limit).await.map(drop)
        });
        acquired.await.unwrap().expect("nobody holds it any more");
    });
}
