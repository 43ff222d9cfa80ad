//! A process that contends in an election in which client-go contends too.
//!
//! It says on standard output what it believes, a word and the time on a line, as the client-go program does:
//!
//! - `leading <ns> <token>`: it has just got the lock,
//! - `still <ns>`: it held it then: the time was taken before the leadership was asked,
//! - `stopped <ns> <why>`: it does not hold it any more.
//!
//! SIGUSR1 makes it release the lock, as it does by itself after a while.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use jiff::{SignedDuration, Timestamp};
use leasehold::protocol::Moment;
use leasehold::testing::{Process, ProcessOptions};
use leasehold::{Client, Election, clock};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Clone, Debug, Parser)]
struct Options {
    /// Whom to talk to, and in which namespace.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The lock's name.
    #[arg(long)]
    name: String,
    /// What the process is called on the Lease.
    #[arg(long)]
    host: String,
    /// The lease's duration, in seconds. The session's is the same.
    #[arg(long, default_value_t = 4)]
    lease: u64,
    /// How long to hold the lock at least, in milliseconds.
    #[arg(long, default_value_t = 0)]
    hold_at_least: u64,
    /// How long to hold the lock at most, in milliseconds. Short holds are more frequent than long ones.
    #[arg(long, default_value_t = 3000)]
    hold: u64,
    /// How long to rest at most before the next time, in milliseconds.
    #[arg(long, default_value_t = 2500)]
    rest: u64,
    /// By how many seconds the wall clock is ahead.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    ahead: i64,
    /// What chance begins with.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

// One thread: what the process does first after a pause is then as likely a check as it is the client's own work.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    if options.ahead == 0 {
        return work(options).await;
    }
    let wall = wall_clock().saturating_add(SignedDuration::from_secs(options.ahead))?;
    let process = ProcessOptions { wall, boot: clock::moment().since_start(), ..ProcessOptions::default() };
    Process::new(ProcessOptions { seed: options.seed, ..process }).spawn(work(options)).await?
}

fn wall_clock() -> Timestamp {
    clock::now().stamp
}

async fn work(options: Options) -> Result<()> {
    let config = kube::Config::from_custom_kubeconfig(
        kube::config::Kubeconfig::read_from(&options.kubeconfig)?,
        &kube::config::KubeConfigOptions::default(),
    )
    .await?;
    let lease = Duration::from_secs(options.lease);
    let client = Client::builder().kube_config(config).host(&options.host).session_duration(lease).build()?;
    let election = client.election(&options.name).lease_duration(lease).build()?;
    let mut chance = StdRng::seed_from_u64(options.seed);
    let mut asked = signal(SignalKind::user_defined1())?;
    loop {
        let shortest = Duration::from_millis(options.hold_at_least);
        let hold = Duration::from_millis(options.hold).saturating_sub(shortest);
        let hold = shortest + hold.mul_f64(chance.random::<f64>().powi(2));
        let rest = Duration::from_millis(chance.random_range(0..=options.rest));
        // A single failure is what a faulty network looks like.
        if let Err(error) = lead(&election, hold, &mut asked).await {
            eprintln!("{error}");
        }
        tokio::time::sleep(rest).await;
    }
}

async fn lead(election: &Election, hold: Duration, asked: &mut Signal) -> Result<()> {
    let leadership = election.campaign().await?;
    let begun = clock::moment();
    leadership.check()?;
    say("leading", begun, &leadership.token().to_string());
    let mut released = false;
    loop {
        let at = clock::moment();
        if let Err(lost) = leadership.check() {
            say("stopped", clock::moment(), &lost.to_string());
            return Ok(());
        }
        say("still", at, "");
        if released || at.since(begun) >= hold {
            break;
        }
        tokio::select! {
            _ = asked.recv() => released = true,
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    }
    let outcome = leadership.step_down().await;
    say("stopped", clock::moment(), &outcome.err().map_or_else(|| "released".to_owned(), |error| error.to_string()));
    Ok(())
}

fn say(word: &str, at: Moment, more: &str) {
    let line = format!("{word} {} {more}", at.since_start().as_nanos());
    println!("{}", line.trim_end());
    let _ = std::io::stdout().flush();
}
