//! Which of several that say something is listened to.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::record::DEFAULT_DURATION;
use leasehold::protocol::{Liveness, Record, Write};
use leasehold::{AcquireError, Client, ClientBuilder, MemoryStore, MultiLock, Store, clock};
use serde_json::json;

const NAME: &str = "a";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A Lease as the operator makes it for a resource that says 40 seconds.
async fn store() -> MemoryStore {
    let store = MemoryStore::new();
    let annotations = json!({DEFAULT_DURATION: "40"});
    let lease: Lease = serde_json::from_value(json!({"metadata": {"name": NAME, "annotations": annotations}})).unwrap();
    store.write(NAME, &Write::Create(Box::new(lease))).await.unwrap();
    store
}

/// By what whoever acquires the lock lives.
async fn liveness(store: &MemoryStore, options: ClientBuilder, own: Option<u64>) -> Option<Duration> {
    let lock = options.store(Arc::new(store.clone())).build().unwrap().lock(NAME);
    let lock = own.into_iter().fold(lock, |lock, own| lock.lease_duration(seconds(own)));
    let guard = lock.build().unwrap().acquire().await.unwrap();
    let record = Record::parse(store.read(NAME).await.unwrap()).unwrap();
    guard.release().await.unwrap();
    match record.holder.unwrap().liveness {
        Liveness::Own(duration) => Some(duration),
        Liveness::Session(_) => None,
    }
}

/// What a process does whose environment names options: this program, once more.
fn in_a_process_of_its_own(test: &str, variables: &[(&str, &str)]) {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", test, "--ignored", "--nocapture"]).envs(variables.iter().copied());
    let output = program.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn code_comes_before_the_custom_resource_and_that_before_what_is_built_in() {
    let store = store().await;
    assert_eq!(liveness(&MemoryStore::new(), Client::builder(), None).await, None);
    assert_eq!(liveness(&store, Client::builder(), None).await, Some(seconds(40)));
    assert_eq!(liveness(&store, Client::builder().lease_duration(seconds(50)), None).await, Some(seconds(50)));
    assert_eq!(liveness(&store, Client::builder().lease_duration(seconds(50)), Some(60)).await, Some(seconds(60)));
}

#[test]
fn the_environment_comes_between_code_and_the_custom_resource() {
    let variables = [("LEASEHOLD_LEASE_DURATION", "45s"), ("LEASEHOLD_WAIT_LIMIT", "50ms")];
    in_a_process_of_its_own("with_a_duration_in_the_environment", &variables);
}

#[tokio::test]
#[ignore = "it is run with variables by another test"]
async fn with_a_duration_in_the_environment() {
    let store = store().await;
    let options = || ClientBuilder::from_env().unwrap();
    assert_eq!(liveness(&store, options(), None).await, Some(seconds(45)));
    assert_eq!(liveness(&store, options().lease_duration(seconds(50)), None).await, Some(seconds(50)));
    assert_eq!(liveness(&store, options(), Some(60)).await, Some(seconds(60)));
    // The environment is not looked at where nobody asks for that.
    assert_eq!(liveness(&store, Client::builder(), None).await, Some(seconds(40)));
    let client = options().store(Arc::new(store)).build().unwrap();
    let _guard = client.lock(NAME).same_task_waits(true).build().unwrap().acquire().await.unwrap();
    let error = client.lock(NAME).same_task_waits(true).build().unwrap().acquire().await.unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut { .. }), "{error}");
}

#[test]
fn the_usual_client_listens_to_the_environment() {
    let variables = [("LEASEHOLD_GRACE", "25s"), ("KUBECONFIG", "/nonexistent/file")];
    in_a_process_of_its_own("the_usual_client_is_refused", &variables);
    in_a_process_of_its_own("the_usual_client_is_refused", &[("LEASEHOLD_GRACE", "much"), variables[1]]);
}

#[tokio::test]
#[ignore = "it is run with variables by another test"]
async fn the_usual_client_is_refused() {
    // A value that cannot be read is told before a cluster is looked for.
    let read = ClientBuilder::from_env().is_ok();
    let error = Client::try_default().await.unwrap_err().to_string();
    assert_eq!(error.starts_with("LEASEHOLD_GRACE: \"much\" will not do"), !read, "{error}");
    assert_eq!(error.starts_with("no cluster to connect to"), read, "{error}");
}

#[tokio::test]
async fn who_names_no_limit_waits_as_long_as_the_lock_or_its_client_says() {
    const LIMIT: Duration = Duration::from_millis(50);
    let store = MemoryStore::new();
    let client = |limit: Option<Duration>| {
        let options = Client::builder().store(Arc::new(store.clone()));
        limit.into_iter().fold(options, ClientBuilder::wait_limit).build().unwrap()
    };
    let (holder, limited, patient) = (client(None), client(Some(LIMIT)), client(Some(seconds(3600))));
    let _lock = holder.lock(NAME).build().unwrap().acquire().await.unwrap();
    let _permit = holder.semaphore("s").with_permits(1).build().unwrap().acquire(1).await.unwrap();
    let _write = holder.read_write_lock("rw").unwrap().write().await.unwrap();

    let told =
        |outcome: Option<AcquireError>| assert!(matches!(&outcome, Some(AcquireError::TimedOut { .. })), "{outcome:?}");
    let begun = clock::moment();
    let lock = limited.lock(NAME).build().unwrap();
    told(lock.acquire().await.err());
    told(limited.semaphore("s").with_permits(1).build().unwrap().acquire(1).await.err());
    told(limited.read_write_lock("rw").unwrap().read().await.err());
    told(MultiLock::new().lock(&lock).build().unwrap().acquire().await.err());
    // What is said of one lock comes first.
    told(patient.lock(NAME).wait_limit(LIMIT).build().unwrap().acquire().await.err());
    told(patient.semaphore("s").with_permits(1).wait_limit(LIMIT).build().unwrap().acquire(1).await.err());
    told(patient.read_write_lock("rw").unwrap().wait_limit(LIMIT).unwrap().write().await.err());
    assert!(clock::moment().since(begun) >= LIMIT * 7);
    let endless = limited.lock(NAME).wait_limit(None).build().unwrap();
    assert!(tokio::time::timeout(LIMIT * 4, endless.acquire()).await.is_err(), "it has given up");
    // And what the call says before that.
    assert!(tokio::time::timeout(LIMIT * 4, lock.acquire_timeout(seconds(3600))).await.is_err(), "it has given up");
    for error in [
        limited.lock(NAME).wait_limit(Duration::ZERO).build().unwrap_err(),
        limited.semaphore("s").wait_limit(Duration::ZERO).build().unwrap_err(),
        limited.read_write_lock("rw").unwrap().wait_limit(Duration::ZERO).unwrap_err(),
    ] {
        assert!(error.to_string().starts_with("wait_limit: with no time at all"), "{error}");
    }
}
