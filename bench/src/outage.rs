//! What becomes of thousands of sessions when the API server falls silent, or is killed and started again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _};
use leasehold::{Client, LockGuard, clock};
use leasehold_testkit::{Cluster, Signal};

use crate::counting::Counts;
use crate::measure::Bench;

/// So many begin at once.
const AT_ONCE: usize = 32;
/// As long as a session lasts that is not renewed, and some more.
const SETTLED: Duration = Duration::from_secs(40);

/// What happens, to how many, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) silent_for: Duration,
    /// Sessions of the API server that falls silent.
    pub(crate) silenced: usize,
    pub(crate) killed_for: Duration,
    /// Sessions of the API server that is killed.
    pub(crate) killed: usize,
}

/// Each session has a lock, and connections of its own as it would in a process of its own.
pub(crate) async fn outage(bench: &mut Bench, cluster: &Cluster, plan: Plan) -> Result<()> {
    let holders = hold(bench, "silence", plan.silenced).await?;
    cluster.signal_apiserver(Signal::STOP).await?;
    tokio::time::sleep(plan.silent_for).await;
    cluster.signal_apiserver(Signal::CONT).await?;
    tell(bench, "silence", plan.silent_for, holders).await;

    let holders = hold(bench, "restart", plan.killed).await?;
    cluster.kill_apiserver().await?;
    tokio::time::sleep(plan.killed_for).await;
    let begun = clock::moment();
    cluster.start_apiserver().await?;
    let took = clock::moment().since(begun);
    bench.report.add("outage_restart_until_ready", took.as_secs_f64(), "s", None, 1);
    tell(bench, "restart", plan.killed_for, holders).await;
    Ok(())
}

async fn hold(bench: &Bench, what: &str, sessions: usize) -> Result<Vec<(Client, LockGuard)>> {
    println!("{sessions} sessions are opened");
    let counts = Arc::new(Counts::default());
    let holders = futures::stream::iter(0..sessions)
        .map(|n| {
            let client = bench.client(&counts);
            async move {
                let client = client?;
                let guard = client.lock(format!("outage-{what}-{n}")).build()?.acquire().await?;
                anyhow::Ok((client, guard))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    // Until all watch what they hold.
    tokio::time::sleep(SETTLED).await;
    Ok(holders)
}

async fn tell(bench: &mut Bench, what: &str, lasted: Duration, holders: Vec<(Client, LockGuard)>) {
    tokio::time::sleep(SETTLED).await;
    let lost = holders.iter().filter(|(_, guard)| guard.check().is_err()).count();
    let name = format!("outage_{what}_{}_s_{}_lost", lasted.as_secs(), holders.len());
    let whole = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    bench.report.add(&name, whole(lost), "sessions", Some(whole(holders.len())), 1);
    futures::stream::iter(holders).for_each_concurrent(AT_ONCE, async |(client, _)| client.shutdown().await).await;
}
