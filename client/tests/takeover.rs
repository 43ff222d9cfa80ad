//! What a process leaves behind that held many locks.

use std::sync::Arc;
use std::time::Duration;

use leasehold::testing::{Process, ProcessOptions};
use leasehold::{Client, MemoryStore, clock};

fn client(store: &MemoryStore, host: &str) -> Client {
    Client::builder().store(Arc::new(store.clone())).host(host).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_for_the_end_of_a_session_once_has_all_its_locks_at_once() {
    let store = MemoryStore::new();
    let (dead, heir) =
        (Process::new(ProcessOptions::default()), Process::new(ProcessOptions { seed: 2, ..Default::default() }));
    let (before, after) = (client(&store, "before"), client(&store, "after"));
    let (tell, told) = tokio::sync::oneshot::channel();
    dead.spawn(async move {
        let mut guards = Vec::new();
        for name in ["a", "b", "c"] {
            guards.push(before.lock(name).build().unwrap().acquire().await.unwrap());
        }
        let _ = tell.send(guards[2].token());
        // It is killed before it drops them.
        std::future::pending::<()>().await;
    });
    let token = told.await.unwrap();
    dead.kill();
    let took = heir.spawn(async move {
        let mut took = Vec::new();
        for name in ["a", "b", "c"] {
            let begun = clock::moment();
            let guard = after.lock(name).build().unwrap().acquire().await.unwrap();
            assert!(name != "c" || guard.token() > token);
            took.push(clock::moment().since(begun));
            guard.release().await.unwrap();
        }
        took
    });
    let took = took.await.unwrap();
    assert!(took[0] > Duration::from_secs(20), "{took:?}");
    assert!(took[1..].iter().all(|took| *took < Duration::from_millis(500)), "{took:?}");
}
