//! Two replicas of which one leads. The leader is killed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::select_ok;
use leasehold::clock;
use leasehold_testkit::Process;

use crate::stage::Stage;

const SOON: Duration = Duration::from_secs(60);

/// How long it took until the other led.
pub(crate) async fn perform(stage: &Stage, lease: u64) -> Result<Duration> {
    println!("\nTwo replicas elect a leader, which works.\n");
    let elect = format!("kubectl leasehold elect reports --lease-duration {lease}s -q");
    let elect = format!("{elect} --shell -- 'echo works $PPID; exec sleep 1000'");
    let mut replicas = Vec::new();
    for name in ["replica-1", "replica-2"] {
        replicas.push((name, stage.worker().start(name, &elect)?));
    }
    let (leader, pid) = leader(&mut replicas).await?;
    println!("    {leader} leads");
    stage
        .worker()
        .until("kubectl leasehold status reports", "the other waits", |status| status.contains("Waiters:   1"))
        .await?;
    let begun = clock::moment();
    stage.worker().run(&format!("kill -KILL {pid}     # kubectl leasehold elect, of {leader}"), 0).await?;
    replicas.retain(|(name, _)| *name != leader);
    let (next, pid) = self::leader(&mut replicas).await?;
    let after = clock::moment().since(begun);
    println!("    {next} leads, {:.1} s later", after.as_secs_f64());
    let most = Duration::from_secs(lease * 3);
    ensure!(after < most, "CHECK FAILED: a dead leader kept others from leading for longer than {most:?}");
    stage.worker().run(&format!("kill -TERM {pid}"), 0).await?;
    for (name, replica) in &mut replicas {
        let status = replica.wait_exit(SOON).await?;
        ensure!(status.code() == Some(143), "CHECK FAILED: {name} ended with {status} instead of 143 (SIGTERM)");
    }
    Ok(after)
}

/// Who says that it works, and the process that runs it.
async fn leader(replicas: &mut [(&'static str, Process)]) -> Result<(&'static str, u32)> {
    let waiting = replicas.iter_mut().map(|(name, process)| {
        Box::pin(async move {
            let line = process.wait_for_line(SOON, |line| line.starts_with("works ")).await?;
            anyhow::Ok((*name, line.trim_start_matches("works ").parse()?))
        })
    });
    Ok(select_ok(waiting).await.context("nobody leads")?.0)
}
