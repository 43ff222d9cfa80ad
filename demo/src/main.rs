//! Locks at work: a control plane, the operator, and what people type at a shell. In the end, what came of it.
//!
//! Everything that a user would type is typed: each line is shown and run by a shell, in real processes. Two things only a
//! program can show, and `leasehold-demo worker` does, with the client crate: a holder that looks at its guard before each
//! step, and so finds out by itself that it was paused past its lock. What `kubectl leasehold run` runs does not look: it is
//! stopped.

mod contend;
mod elect;
mod hung;
mod resize;
mod stage;
mod transfer;
mod typed;
mod verdict;
mod worker;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use leasehold::clock;

use crate::stage::Stage;

/// The semaphore's name, as its example has it.
const SEMAPHORE: &str = "db-connections";
/// The lock's name, and for how many seconds a lease stands without a renewal.
const LOCK: &str = "shared-file";
const LEASE: u64 = 5;

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
        Some(Role::Worker { file }) => worker::work(LOCK, &file, LEASE).await,
        None => perform().await,
    }
}

async fn perform() -> Result<()> {
    let begun = clock::moment();
    let stage = Stage::set(LOCK).await?;
    let contended = contend::perform(&stage, LOCK, LEASE).await?;
    hung::perform(&stage, LEASE).await?;
    let elected = elect::perform(&stage, LEASE).await?;
    let shared = resize::perform(&stage, SEMAPHORE).await?;
    let moved = transfer::perform(&stage, SEMAPHORE).await?;
    stage.strike().await?;
    let verdict = contended.verdict;
    println!(
        "
What was measured
  lines written             {lines}
  times the lock was held   {tenancies} (by {holders} workers; {broken} broke off)
  dead holder passed over   {kill:.1} s after SIGKILL, {stop:.1} s after SIGSTOP (leases stand for {LEASE} s)
  next leader               {elected:.1} s after SIGKILL
  at work at a time         {shared} permits
  transfers                 {moved}, and nothing was lost
  the demo took             {took:.0} s
CHECKED: the work never overlapped.
CHECKED: tokens only grew.
CHECKED: never were more at work than the semaphore had permits.
CHECKED: a lock, a read-write lock and permits are held together or not at all, in any order, without deadlock.
CHECKED: exit codes said what happened: 75 somebody else has it, 76 it was lost.
Nothing is left running.",
        lines = verdict.lines,
        tenancies = verdict.tenancies,
        holders = verdict.holders,
        broken = verdict.broken_off,
        kill = contended.after_kill.as_secs_f64(),
        stop = contended.after_stop.as_secs_f64(),
        elected = elected.as_secs_f64(),
        shared = shared.iter().map(|(n, most)| format!("{most} of {n}")).collect::<Vec<_>>().join(", "),
        took = clock::moment().since(begun).as_secs_f64(),
    );
    Ok(())
}
