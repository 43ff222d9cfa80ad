//! Leaderships that end while something of them is still about, and elections whose names are not their Leases'.

use std::sync::Arc;
use std::time::Duration;

use leasehold::testing::{Process, ProcessOptions};
use leasehold::{CancellationToken, Client, Election, MemoryStore, clock};
use leasehold::{Store, protocol::Record, protocol::Write};

const D: Duration = Duration::from_secs(15);

fn client(store: &MemoryStore) -> Client {
    Client::builder().store(Arc::new(store.clone())).key_prefix("team-a/").build().unwrap()
}

fn process(seed: u64) -> Process {
    Process::new(ProcessOptions { seed, ..ProcessOptions::default() })
}

async fn break_it(store: &MemoryStore, election: &Election) {
    let name = leasehold::protocol::name::lease_name(election.name()).unwrap();
    let record = Record::parse(store.read(&name).await.unwrap()).unwrap();
    store.write(&name, &Write::Delete { uid: record.uid.clone(), version: record.version }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_loses_a_leadership_campaigns_again_whatever_is_left_of_it() {
    let store = MemoryStore::new();
    let election = client(&store).election("jobs:nightly").build().unwrap();
    let stop = CancellationToken::new();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let one = process(1);
    let run = one.spawn({
        let (election, stop, one) = (election.clone(), stop.clone(), one.clone());
        async move {
            election
                .run_whenever_leading(stop, move |leading| {
                    let (tell, one, of_it) = (tell.clone(), one.clone(), leading.clone());
                    async move {
                        tell.send(leading.token()).unwrap();
                        // It outlives the leadership, as a reconcile does that has been begun.
                        one.spawn(async move { of_it.guard(std::future::pending::<()>()).await });
                        leading.ending().cancelled().await;
                    }
                })
                .await
        }
    });
    let first = told.recv().await.unwrap();
    break_it(&store, &election).await;
    let second = tokio::time::timeout(D * 4, told.recv()).await.expect("it does not lead again").unwrap();
    assert!(second > first);
    stop.cancel();
    tokio::time::timeout(D * 4, run).await.expect("it goes on").unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_leader_is_seen_at_once_also_where_the_lease_has_another_name() {
    let store = MemoryStore::new();
    let (one, two) = (client(&store), client(&store));
    let (leads, looks) = (process(1), process(2));
    let election = one.election("jobs:nightly").build().unwrap();
    let leadership = leads.spawn(async move { election.campaign().await.unwrap() }).await.unwrap();
    let seen = looks.spawn(async move {
        let mut leaders = two.election("jobs:nightly").build().unwrap().observe().await.unwrap();
        leaders.changed().await.expect("somebody leads");
        let begun = clock::moment();
        assert!(leaders.changed().await.is_none(), "nobody leads");
        clock::moment().since(begun)
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    leads.spawn(async move { leadership.step_down().await.unwrap() }).await.unwrap();
    let after = seen.await.unwrap();
    assert!(after < Duration::from_secs(3), "it was seen after {after:?}");
}

#[test]
fn what_could_never_be_renewed_in_time_is_refused() {
    let careful = || {
        let builder = Client::builder().store(Arc::new(MemoryStore::new()));
        builder.grace(Duration::from_secs(10)).build().unwrap()
    };
    let error = careful().lock("a").lease_duration(D).build().unwrap_err();
    assert!(error.to_string().contains("15s leaves no time to renew"), "{error}");
    careful().lock("a").lease_duration(D).renewal(false).build().unwrap();
    assert!(careful().election("a").build().is_err());
    careful().election("a").lease_duration(D * 2).build().unwrap();
    let builder = Client::builder().store(Arc::new(MemoryStore::new())).grace(Duration::from_millis(19_500));
    assert!(builder.build().is_err());
}
