//! Somebody who holds a lock and does not let go: it is looked at, asked and broken.

use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold_testkit::eventually;

use crate::stage::Stage;

const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn perform(stage: &Stage, lease: u64) -> Result<()> {
    println!("\nA migration hangs, and others want to go on.\n");
    let shell = stage.worker();
    let run =
        format!("kubectl leasehold run migration --lease-duration {lease}s --payload 'step 3 of 7' -- sleep 1000");
    let mut hung = shell.start("migrator", &run)?;
    shell.run("kubectl leasehold wait migration --for held --timeout 30s", 0).await?;
    shell.run("kubectl leasehold run migration --no-wait -- echo never", 75).await?;
    shell.run("kubectl leasehold list", 0).await?;
    shell.run("kubectl leasehold ask migration --within 2s --reason 'the next release is due'", 0).await?;
    eventually(SOON, "a word to the holder", async || {
        ensure!(hung.output().contains("asks for lock migration"), "CHECK FAILED: who was asked was not told");
        Ok(())
    })
    .await?;
    shell.run("kubectl leasehold break migration --reason 'it hangs' --yes", 0).await?;
    let status = hung.wait_exit(SOON).await?;
    println!("    migrator: ended with exit code {}, and said:", status.code().unwrap_or(-1));
    for line in hung.output().lines() {
        println!("    migrator: {line}");
    }
    ensure!(status.code() == Some(76), "CHECK FAILED: whose lock was broken ended with {status} instead of 76");
    shell.run("kubectl leasehold wait migration --for free --timeout 30s", 0).await?;
    let next = shell.run("kubectl leasehold run migration -- echo 'the next one migrates'", 0).await?;
    ensure!(next.contains("the next one migrates"), "CHECK FAILED: it did not run: {next}");
    Ok(())
}
