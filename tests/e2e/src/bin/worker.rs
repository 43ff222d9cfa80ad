//! A process that takes a lock, for tests that pause and kill it.
//!
//! It says on standard output what happens to it, a word and its values on a line.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use leasehold::{Client, Lock, LockGuard, clock};

#[derive(Debug, Parser)]
struct Options {
    /// The lock's name.
    #[arg(long)]
    name: String,
    /// The session's duration, in seconds.
    #[arg(long, default_value_t = 3)]
    session: u64,
    /// Let the hold live by the lock's own Lease, for so many seconds.
    #[arg(long)]
    own: Option<u64>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Add one to the number in a file, so many times: read it, and write it back later.
    Count { file: PathBuf, times: u32 },
    /// Hold the lock and add a line to a file every few milliseconds, as long as the lock is held.
    Hold { file: PathBuf },
    /// Lead, and add a line to a file every few milliseconds while doing so; again and again.
    Lead { file: PathBuf },
    /// Try once.
    Try,
}

// One thread: what the process does first after a pause is then the work, and not the client's own tasks.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let client = Client::builder()
        .kube_config(kube::Config::infer().await?)
        .session_duration(Duration::from_secs(options.session))
        .build()?;
    if let What::Lead { file } = &options.what {
        return lead(&client, &options, file).await;
    }
    let mut lock = client.lock(&options.name);
    if let Some(own) = options.own {
        lock = lock.lease_duration(Duration::from_secs(own));
    }
    let lock = lock.build()?;
    match options.what {
        What::Count { file, times } => count(&lock, &file, times).await?,
        What::Hold { file } => hold(&lock, &file).await?,
        What::Lead { .. } => {}
        What::Try => match lock.try_acquire().await {
            Ok(guard) => {
                say(&format!("acquired {}", guard.token()));
                guard.release().await?;
            }
            Err(error) => say(&format!("refused {error}")),
        },
    }
    client.shutdown().await;
    Ok(())
}

fn say(line: &str) {
    println!("{line}");
    let _ = std::io::stdout().flush();
}

async fn acquire(lock: &Lock) -> Result<LockGuard> {
    say("waiting");
    let guard = lock.acquire().await?;
    say(&format!("acquired {} {}", guard.token(), guard.holder_identity()));
    Ok(guard)
}

async fn count(lock: &Lock, file: &PathBuf, times: u32) -> Result<()> {
    for _ in 0..times {
        let guard = acquire(lock).await?;
        let number: u64 = std::fs::read_to_string(file)?.trim().parse().context("a number")?;
        tokio::time::sleep(Duration::from_millis(2)).await;
        guard.check()?;
        std::fs::write(file, (number + 1).to_string())?;
        guard.release().await?;
    }
    Ok(())
}

/// Works whenever it leads. Only the runner stands between the work and its next line.
async fn lead(client: &Client, options: &Options, file: &PathBuf) -> Result<()> {
    let mut election = client.election(&options.name);
    if let Some(own) = options.own {
        election = election.lease_duration(Duration::from_secs(own));
    }
    let election = election.build()?;
    loop {
        say("waiting");
        let outcome = election
            .run_while_leading(async |leading| {
                say(&format!("leading {} {}", leading.token(), leading.holder_identity()));
                let mut file = std::fs::File::options().append(true).create(true).open(file)?;
                while !leading.ending().is_cancelled() {
                    // Work that blocks. Between it and the line the work is polled anew.
                    std::thread::sleep(Duration::from_millis(8));
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    writeln!(file, "{} {}", leading.token(), clock::moment().since_start().as_nanos())?;
                }
                anyhow::Ok(())
            })
            .await;
        say(&format!("ended {outcome:?}"));
    }
}

/// Works as long as the lock is held, and then says what the guard says.
async fn hold(lock: &Lock, file: &PathBuf) -> Result<()> {
    let guard = acquire(lock).await?;
    let lost = guard.lost();
    let mut file = std::fs::File::options().append(true).create(true).open(file)?;
    while let Ok(()) = guard.check() {
        writeln!(file, "{} {}", guard.token(), clock::moment().since_start().as_nanos())?;
        // Work that blocks: only the check stands between it and the next line.
        tokio::time::sleep(Duration::from_millis(1)).await;
        std::thread::sleep(Duration::from_millis(8));
    }
    let reason = guard.check().expect_err("it failed before");
    say(&format!("check-failed {reason}"));
    tokio::time::timeout(Duration::from_secs(5), lost.cancelled()).await.context("lost() has not fired")?;
    say("lost-fired");
    // Lost is for good: no later check succeeds, whatever the renewals do.
    for _ in 0..50 {
        anyhow::ensure!(guard.check().is_err(), "a check succeeded after the loss");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    say(&format!("released {:?}", guard.release().await.err().map(|error| error.to_string())));
    Ok(())
}
