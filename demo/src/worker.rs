//! One worker: takes the lock, adds lines to the shared file as long as it holds it, and lets go.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use leasehold::{Client, LockGuard, ReleaseError};
use tokio::signal::unix::{SignalKind, signal};

/// Works until SIGTERM. What happens is said on standard output.
pub(crate) async fn work(name: &str, file: &Path, session: u64) -> Result<()> {
    let client = Client::builder()
        .kube_config(kube::Config::infer().await?)
        .session_duration(Duration::from_secs(session))
        .build()?;
    let lock = client.lock(name).build()?;
    let mut terminated = signal(SignalKind::terminate())?;
    let cycles = async {
        loop {
            let guard = lock.acquire().await?;
            say(&format!("holds {}", guard.token()));
            append(&guard, file).await?;
            match guard.release().await {
                Ok(()) => say("released"),
                Err(ReleaseError::Lost(lost)) => say(&format!("stopped: {lost}")),
                Err(error) => say(&format!("released, but: {error}")),
            }
        }
    };
    tokio::select! {
        outcome = cycles => return outcome,
        _ = terminated.recv() => {}
    }
    client.shutdown().await;
    Ok(())
}

/// Twenty lines, with a check before each. A worker that does not hold the lock any more stops before the next.
async fn append(guard: &LockGuard, file: &Path) -> Result<()> {
    let mut file = std::fs::File::options().append(true).open(file)?;
    for line in 1..=20 {
        if guard.check().is_err() {
            return Ok(());
        }
        writeln!(file, "{} {line} {}", guard.token(), guard.holder_identity())?;
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    Ok(())
}

fn say(line: &str) {
    println!("{line}");
    let _ = std::io::stdout().flush();
}
