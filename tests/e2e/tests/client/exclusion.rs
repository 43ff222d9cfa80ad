//! At most one holder, and tokens that grow.

use anyhow::{Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use leasehold_testkit::eventually;

use crate::support::{SOON, Workers, lock, namespace, record};

#[tokio::test(flavor = "multi_thread")]
async fn none_of_twenty_processes_loses_an_increment() -> Result<()> {
    let (namespace, _dump) = namespace("count").await?;
    let workers = Workers::new(&namespace).await?;
    let file = workers.path().join("number");
    std::fs::write(&file, "0")?;
    let path = file.to_string_lossy();
    let mut processes = (0..20)
        .map(|n| workers.start(&format!("worker-{n}"), &["--name", "count", "--session", "20", "count", &path, "5"]))
        .collect::<Result<Vec<_>>>()?;
    let mut tokens = Vec::new();
    for process in &mut processes {
        process.wait_success(SOON * 3).await?;
        let output = process.output();
        let mine = output.lines().filter_map(|line| line.strip_prefix("acquired ")?.split(' ').next()?.parse().ok());
        tokens.extend(mine.collect::<Vec<u64>>());
    }
    assert_eq!(std::fs::read_to_string(&file)?, "100");
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 100, "a token was given twice");
    // It was made by being named, and so it is gone.
    eventually(SOON, "the Lease to go", async || {
        ensure!(record(&namespace, "count").await?.is_none(), "it is still there");
        Ok(())
    })
    .await?;
    // So are the sessions: everybody has shut down.
    eventually(SOON, "the sessions to go", async || {
        let leases = namespace.api::<Lease>().list(&kube::api::ListParams::default()).await?;
        ensure!(leases.items.is_empty(), "{} are left", leases.items.len());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_grow_over_deletion_and_re_creation() -> Result<()> {
    let (namespace, _dump) = namespace("tokens").await?;
    let (one, two) = (lock(&namespace, "a")?, lock(&namespace, "a")?);
    let mut last = 0;
    for round in 0..30 {
        let lock = if round % 2 == 0 { &one } else { &two };
        let guard = lock.acquire().await?;
        ensure!(guard.token() > last, "round {round}: {} after {last}", guard.token());
        last = guard.token();
        if round % 3 == 0 {
            namespace.api::<Lease>().delete("a", &DeleteParams::default()).await?;
            guard.release().await.expect_err("somebody has removed it");
        } else {
            guard.release().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_on_the_lease_is_the_guards() -> Result<()> {
    let (namespace, _dump) = namespace("label").await?;
    let (one, two) = (lock(&namespace, "a")?, lock(&namespace, "a")?);
    let first = one.acquire().await?;
    let second = tokio::spawn(async move { two.acquire().await });
    crate::support::waiters(&namespace, "a", 1).await?;
    first.release().await?;
    let second = second.await??;
    let status = one.status().await?;
    assert_eq!(status.holder.as_ref().and_then(|holder| holder.token), Some(second.token()));
    assert_eq!(status.holder.map(|holder| holder.identity), Some(second.holder_identity()));
    second.release().await?;
    Ok(())
}
