//! Locks at work: a control plane, the operator, three workers, one killed and one stopped, and what came of it.

mod resize;
mod stage;
mod verdict;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use futures::future::select_ok;
use leasehold::clock;
use leasehold_testkit::{Process, Signal};

use crate::stage::Stage;

/// The semaphore's name, as its example has it.
const SEMAPHORE: &str = "db-connections";
/// The lock's name, and how long a session lives without a renewal.
const LOCK: &str = "shared-file";
const SESSION: u64 = 5;

#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// One of the demo's workers.
    #[command(hide = true)]
    Worker { file: PathBuf },
}

#[tokio::main]
async fn main() -> Result<()> {
    match Options::parse().role {
        Some(Role::Worker { file }) => worker::work(LOCK, &file, SESSION).await,
        None => perform().await,
    }
}

async fn perform() -> Result<()> {
    let begun = clock::moment();
    let stage = Stage::set(LOCK).await?;
    println!("\nThree workers contend for the lock {LOCK:?}. Each holder adds 20 lines to a file, then lets go.");
    println!("Sessions last {SESSION} s: so long a dead worker can keep the lock.\n");
    let mut workers = Vec::new();
    for name in ["worker-a", "worker-b", "worker-c"] {
        workers.push((name, stage.worker(name)?));
    }
    stage.show_lock(Duration::from_secs(4)).await?;

    let (victim, killed) = next_holder(&mut workers).await?;
    let (name, mut process) = workers.remove(victim);
    process.signal(Signal::KILL)?;
    println!("\n--- {name} holds the lock (token {killed}) and is killed with SIGKILL ---\n");
    let after_kill = passed_on(&stage, &mut workers, killed).await?;
    println!("\nAfter {:.1} s the lock had passed on.", after_kill.as_secs_f64());
    process.kill();
    workers.push((name, stage.worker(name)?));
    println!("{name} is started again.\n");
    stage.show_lock(Duration::from_secs(3)).await?;

    let (victim, stopped) = next_holder(&mut workers).await?;
    let (name, mut process) = workers.remove(victim);
    process.signal(Signal::STOP)?;
    println!("\n--- {name} holds the lock (token {stopped}) and is stopped with SIGSTOP, past its session ---\n");
    let after_stop = passed_on(&stage, &mut workers, stopped).await?;
    println!(
        "\nAfter {:.1} s the lock had passed on. {name} is continued, and believes it still holds it:",
        after_stop.as_secs_f64()
    );
    process.signal(Signal::CONT)?;
    let line = process.wait_for_line(Duration::from_secs(30), |line| line.starts_with("stopped")).await?;
    println!("    {name}: {line}\n");
    workers.push((name, process));
    stage.show_lock(Duration::from_secs(3)).await?;

    println!("\nEverybody is told to stop.");
    for (_, process) in &workers {
        process.signal(Signal::TERM)?;
    }
    for (_, process) in &mut workers {
        process.wait_success(Duration::from_secs(30)).await?;
    }
    stage.wait_free().await?;
    stage.show_lock(Duration::ZERO).await?;
    let text = std::fs::read_to_string(stage.file())?;
    println!("\nSix workers share the semaphore {SEMAPHORE:?}, which is resized meanwhile.");
    stage.add_semaphore(SEMAPHORE).await?;
    let shared = resize::perform(&stage, SEMAPHORE).await?;
    stage.strike().await?;

    let verdict = verdict::check(&text).context("CHECK FAILED: the work overlapped")?;
    ensure!(verdict.holders == 3, "CHECK FAILED: only {} workers got the lock", verdict.holders);
    ensure!(verdict.broken_off >= 1, "CHECK FAILED: nobody was interrupted, so nothing was shown");
    let most = Duration::from_secs(SESSION * 3);
    ensure!(after_kill < most && after_stop < most, "CHECK FAILED: a dead holder kept the lock longer than {most:?}");
    println!(
        "
What was measured
  lines written             {lines}
  times the lock was held   {tenancies} (by {holders} workers; {broken} broke off)
  dead holder passed over   {kill:.1} s after SIGKILL, {stop:.1} s after SIGSTOP (sessions last {SESSION} s)
  at work at a time         {shared} permits
  the demo took             {took:.0} s
CHECKED: the work never overlapped.
CHECKED: tokens only grew.
CHECKED: never were more at work than the semaphore had permits.
Nothing is left running.",
        lines = verdict.lines,
        tenancies = verdict.tenancies,
        holders = verdict.holders,
        broken = verdict.broken_off,
        kill = after_kill.as_secs_f64(),
        stop = after_stop.as_secs_f64(),
        shared = shared.iter().map(|(n, most)| format!("{most} of {n}")).collect::<Vec<_>>().join(", "),
        took = clock::moment().since(begun).as_secs_f64(),
    );
    Ok(())
}

/// The next worker to say that it holds the lock, and its token.
async fn next_holder(workers: &mut [(&str, Process)]) -> Result<(usize, u64)> {
    for (_, process) in workers.iter_mut() {
        process.drain_lines();
    }
    let waiting = workers.iter_mut().enumerate().map(|(at, (_, process))| {
        Box::pin(async move {
            let line = process.wait_for_line(Duration::from_secs(60), |line| line.starts_with("holds ")).await?;
            anyhow::Ok((at, line.trim_start_matches("holds ").parse()?))
        })
    });
    let (holder, _) = select_ok(waiting).await.context("no worker gets the lock")?;
    Ok(holder)
}

/// How long it takes until somebody holds the lock by a larger token. Meanwhile the lock is shown.
async fn passed_on(stage: &Stage, workers: &mut [(&str, Process)], token: u64) -> Result<Duration> {
    let begun = clock::moment();
    let passed = async {
        loop {
            let (_, next) = next_holder(workers).await?;
            if next > token {
                return anyhow::Ok(clock::moment().since(begun));
            }
        }
    };
    tokio::select! {
        passed = passed => passed,
        shown = stage.show_lock(Duration::from_secs(120)) => {
            shown?;
            anyhow::bail!("CHECK FAILED: the lock did not pass on within two minutes")
        }
    }
}
