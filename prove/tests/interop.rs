//! client-go's leader election and our client, on one Lease.
//!
//! The client-go program is built first where that has to be done, which takes a minute.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use leasehold::protocol::record::{EPHEMERAL, FORMAT};
use leasehold::protocol::{Record, write};
use leasehold::{Client, KubeStore, Lock, LockGuard, Store as _, clock};
use leasehold_prove::interop::Options;
use leasehold_prove::interop::harness::{Arena, LEASE, contend};
use leasehold_testkit::{Process, Signal, eventually};

/// Long enough for a machine with better things to do.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn never_two_leaders_and_each_side_in_turn() -> Result<()> {
    let (mut ours, mut theirs, mut deeds) = (0, 0, 0);
    // Who gets it is a matter of luck, and ours hand on to ours first: until both have had it from each other.
    for seed in 7..19 {
        let outcome = contend(&Options { duration: Duration::from_secs(20), seed: Some(seed) }).await?;
        println!("{}", outcome.report());
        assert_eq!(outcome.findings.violations, Vec::<String>::new());
        ours += outcome.findings.client_go_to_ours;
        theirs += outcome.findings.ours_to_client_go;
        let done = &outcome.deeds;
        deeds += done.kills_ours + done.kills_client_go + done.stops_ours + done.stops_client_go;
        if ours > 0 && theirs > 0 && deeds > 0 {
            return Ok(());
        }
    }
    anyhow::bail!("it passed {ours} times to ours, {theirs} times to client-go's; {deeds} were killed or stopped")
}

fn client(arena: &Arena) -> Result<Client> {
    let namespace = arena.namespace();
    let builder = Client::builder().kube_config(namespace.config()).namespace(namespace.name());
    Ok(builder.session_duration(LEASE).build()?)
}

fn lock(arena: &Arena, name: &str) -> Result<Lock> {
    Ok(client(arena)?.lock(name).lease_duration(LEASE).build()?)
}

async fn acquired(lock: &Lock) -> Result<LockGuard> {
    Ok(lock.acquire_timeout(SOON).await?)
}

async fn leads(process: &mut Process) -> Result<()> {
    process.wait_for_line(SOON, |line| line.starts_with("leading ")).await.map(drop)
}

async fn steps_down(process: &mut Process) -> Result<()> {
    process.signal(Signal::USR1)?;
    process.wait_for_line(SOON, |line| line.starts_with("stopped ")).await.map(drop)
}

async fn read(leases: &Api<Lease>) -> Result<Record> {
    Ok(Record::parse(leases.get("a").await?)?)
}

fn has(record: &Record, annotation: &str) -> bool {
    record.lease.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(annotation))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_tells_of_client_gos_leader_and_follows_it() -> Result<()> {
    let arena = Arena::new().await?;
    let mut theirs = arena.client_go("theirs", "a", SOON * 2, true)?;
    leads(&mut theirs).await?;
    let election = client(&arena)?.election("a").lease_duration(LEASE).build()?;
    let mut leaders = election.observe().await?;
    let told = tokio::time::timeout(SOON, leaders.changed()).await?.context("nobody leads")?;
    assert_eq!((&*told.identity, told.token, told.host), ("theirs", None, None));
    let following = tokio::spawn({
        let election = election.clone();
        async move { election.campaign_timeout(SOON).await }
    });
    // Its renewals are no news.
    assert!(tokio::time::timeout(LEASE, leaders.changed()).await.is_err() && !following.is_finished());
    steps_down(&mut theirs).await?;
    let leadership = following.await??;
    let ours = async {
        // For a moment nobody may have led.
        while leaders.changed().await.is_none_or(|leader| leader.identity != leadership.holder_identity()) {}
    };
    tokio::time::timeout(SOON, ours).await.context("our leader is not told of")?;
    leadership.step_down().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_client_go_made_passes_to_ours_and_back() -> Result<()> {
    let arena = Arena::new().await?;
    let leases = arena.namespace().api::<Lease>();
    let mut theirs = arena.client_go("theirs", "a", Duration::from_secs(2), true)?;
    leads(&mut theirs).await?;
    let made = read(&leases).await?;
    assert_eq!(made.holder.as_ref().map(|holder| holder.identity.as_str()), Some("theirs"));
    assert!(made.lease.metadata.annotations.is_none() && made.lease.metadata.labels.is_none());

    let lock = lock(&arena, "a")?;
    assert!(lock.try_acquire().await.is_err(), "it is held");
    steps_down(&mut theirs).await?;
    let free = read(&leases).await?;
    let left = free.lease.spec.clone().context("a spec")?;
    assert_eq!((free.holder, left.holder_identity.as_deref(), left.lease_duration_seconds), (None, Some(""), Some(1)));
    let guard = acquired(&lock).await?;
    let held = read(&leases).await?;
    assert_eq!(held.uid, made.uid);
    assert!(held.transitions > made.transitions);
    let spec = held.lease.spec.clone().context("a spec")?;
    assert_eq!(spec.lease_duration_seconds.map(i64::from), i64::try_from(LEASE.as_secs()).ok());
    assert!(!held.ephemeral, "it was theirs");

    // It contends again by now, and must wait for as long as the hold is renewed.
    let waiting = tokio::time::timeout(LEASE * 2, leads(&mut theirs)).await;
    assert!(waiting.is_err(), "client-go leads while the lock is held");
    guard.release().await?;
    leads(&mut theirs).await?;
    let back = read(&leases).await?;
    assert_eq!(back.uid, made.uid, "the Lease was there before us, and stays");
    assert!(back.transitions > held.transitions);
    assert!(has(&back, FORMAT), "client-go keeps what it does not know");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn client_go_copes_with_a_lease_that_goes_when_ours_releases() -> Result<()> {
    let arena = Arena::new().await?;
    let leases = arena.namespace().api::<Lease>();
    let lock = lock(&arena, "a")?;
    let mut theirs = None;
    let mut last = 0;
    for round in 0..3 {
        let guard = acquired(&lock).await?;
        assert!(guard.token() > last, "tokens grow over the removal of a Lease");
        last = guard.token();
        let held = read(&leases).await?;
        assert_eq!(held.ephemeral, round == 0, "what client-go made is not ours to remove");
        let process = match &mut theirs {
            Some(process) => process,
            none => none.insert(arena.client_go("theirs", "a", Duration::from_secs(2), true)?),
        };
        let too_early = tokio::time::timeout(LEASE, leads(process)).await;
        assert!(too_early.is_err(), "client-go leads while the lock is held");
        guard.check()?;
        guard.release().await?;
        leads(process).await?;
        let now = read(&leases).await?;
        assert_eq!(now.uid == held.uid, round > 0, "only what was made on the spot is removed");
        assert!(!has(&now, EPHEMERAL));
        steps_down(process).await?;
    }
    Ok(())
}

/// A dead holder's Lease that was made on the spot passes to client-go as it is, with all that stands on it.
#[tokio::test(flavor = "multi_thread")]
async fn client_go_takes_over_from_a_dead_holder_and_is_followed_by_ours() -> Result<()> {
    let arena = Arena::new().await?;
    let leases = arena.namespace().api::<Lease>();
    let mut ours = arena.ours("ours", "a", 0, 600_000..=600_000, 1)?;
    ours.wait_for_line(SOON, |line| line.starts_with("leading ")).await?;
    let held = read(&leases).await?;
    ours.kill();
    let mut theirs = arena.client_go("theirs", "a", Duration::from_secs(2), true)?;
    leads(&mut theirs).await?;
    let taken = read(&leases).await?;
    assert_eq!(taken.transitions, held.transitions + 1);
    assert!(taken.ephemeral && taken.lease.metadata.labels == held.lease.metadata.labels, "client-go keeps all");
    assert_eq!(taken.holder.context("a holder")?.token, None, "the label of the one before is not client-go's");

    // Not while it leads, and not by its Lease being removed.
    let lock = lock(&arena, "a")?;
    ensure!(lock.acquire_timeout(LEASE * 2).await.is_err(), "it is held");
    assert_eq!(read(&leases).await?.uid, held.uid);
    theirs.kill();
    let guard = acquired(&lock).await?;
    assert_eq!(read(&leases).await?.transitions, taken.transitions + 1);
    guard.release().await?;
    eventually(SOON, "the Lease to go", async || {
        ensure!(leases.get_opt("a").await?.is_none(), "it is still there");
        Ok(())
    })
    .await
}

/// client-go compares records by their JSON, in which times have whole seconds. A hold that was granted by a process
/// whose clock is an hour ahead has to be seen to be renewed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn client_go_sees_renewals_of_a_hold_that_was_granted_by_a_clock_which_is_ahead() -> Result<()> {
    let arena = Arena::new().await?;
    let namespace = arena.namespace();
    let leases = namespace.api::<Lease>();
    let ahead = lock(&arena, "a")?;
    let before = acquired(&ahead).await?;
    let lock = lock(&arena, "a")?;
    let waiter = tokio::spawn(async move { lock.acquire().await });
    eventually(SOON, "a waiter", async || {
        ensure!(read(&leases).await?.waiters.len() == 1, "nobody waits");
        Ok(())
    })
    .await?;
    let record = read(&leases).await?;
    let an_hour_ahead = clock::now().stamp.saturating_add(jiff::SignedDuration::from_hours(1))?;
    let grant = write::grant(&record, &record.waiters[0].id, &[], an_hour_ahead);
    let store = KubeStore::new(namespace.config(), namespace.name())?;
    store.write("a", &grant).await?;
    let guard = tokio::time::timeout(SOON, waiter).await???;
    drop(before);

    let mut theirs = arena.client_go("theirs", "a", Duration::ZERO, true)?;
    let too_early = tokio::time::timeout(LEASE * 3, leads(&mut theirs)).await;
    guard.check()?;
    assert!(too_early.is_err(), "client-go leads beside a guard");
    guard.release().await?;
    leads(&mut theirs).await
}

/// Somebody removes the Lease of a client-go leader: it makes another, and ours waits for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_removed_under_client_go_is_waited_for_again() -> Result<()> {
    let arena = Arena::new().await?;
    let leases = arena.namespace().api::<Lease>();
    let mut theirs = arena.client_go("theirs", "a", Duration::from_secs(2), true)?;
    leads(&mut theirs).await?;
    let lock = lock(&arena, "a")?;
    let waiter = tokio::spawn(async move { lock.acquire().await });
    eventually(SOON, "a waiter", async || {
        ensure!(read(&leases).await?.waiters.len() == 1, "nobody waits");
        Ok(())
    })
    .await?;
    steps_down(&mut theirs).await?;
    let guard = tokio::time::timeout(SOON, waiter).await???;
    let held = read(&leases).await?;
    let only = Preconditions { uid: Some(held.uid.clone()), ..Preconditions::default() };
    leases.delete("a", &DeleteParams { preconditions: Some(only), ..DeleteParams::default() }).await?;
    tokio::time::timeout(SOON, guard.lost().cancelled()).await.context("a removed Lease is not noticed")?;
    leads(&mut theirs).await?;
    assert_ne!(read(&leases).await?.uid, held.uid);
    Ok(())
}
