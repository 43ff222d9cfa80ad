//! A process that does not do what a leader must: blocked, or without its runtime.

use super::*;

fn brief(store: &MemoryStore) -> Election {
    let client = Client::builder().store(Arc::new(store.clone())).session_duration(Duration::from_secs(3));
    client.build().unwrap().election("reports").lease_duration(Duration::from_secs(1)).build().unwrap()
}

fn wait_for<T>(mut probe: impl FnMut() -> Option<T>) -> T {
    for _ in 0..4000 {
        if let Some(found) = probe() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it never came");
}

#[test]
fn a_process_that_is_blocked_under_its_leadership_is_unhealthy_and_well_again_after() {
    let store = MemoryStore::new();
    let election = brief(&store);
    let health = election.health(Duration::from_millis(500));
    health.check().unwrap();
    let (block, blocked) = mpsc::channel::<()>();
    let (leads, led) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let leadership = election.campaign().await.unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
            leads.send(()).unwrap();
            let _ = blocked.recv();
            drop(leadership);
        });
    });
    led.recv().unwrap();
    health.check().expect("it was renewed until now");
    let found = wait_for(|| health.check().err());
    assert!(
        matches!(&found, Unhealthy::NotLetGo { name, ended } if name == "reports" && ended.as_millis() >= 500),
        "{found}"
    );
    block.send(()).unwrap();
    thread.join().unwrap();
    health.check().expect("it has let go");
}

/// No timer has fired and no task has run by the time the work is polled again: only the clock knows.
#[tokio::test(flavor = "current_thread")]
async fn work_that_blocks_past_the_deadline_is_not_polled_again() {
    let (election, again) = (brief(&MemoryStore::new()), AtomicBool::new(false));
    let outcome = election
        .run_while_leading(async |_| {
            std::thread::sleep(Duration::from_millis(1500));
            tokio::task::yield_now().await;
            again.store(true, Ordering::SeqCst);
        })
        .await;
    assert!(!again.load(Ordering::SeqCst), "it worked when another could have led");
    assert!(matches!(outcome, Err(RunError::Lost { output: None, .. })), "{outcome:?}");
}

#[test]
fn a_process_whose_renewals_ended_with_their_runtime_is_unhealthy() {
    let election = brief(&MemoryStore::new());
    let health = election.health(Duration::from_secs(3600));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let leadership = runtime.block_on(election.campaign()).unwrap();
    health.check().unwrap();
    drop(runtime);
    assert_eq!(health.check(), Err(Unhealthy::Deserted { name: "reports".to_owned() }));
    assert!(!election.is_leader() && leadership.check().is_err());
    drop(leadership);
    health.check().expect("nothing is left in its hands");
}
