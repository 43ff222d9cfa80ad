//! Three workers and one lock. One that holds it is killed, and one is stopped for too long.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::select_ok;
use leasehold::clock;
use leasehold_testkit::{Process, Signal};

use crate::stage::Stage;
use crate::verdict::{self, Verdict};

const SOON: Duration = Duration::from_secs(60);
/// The worker that is a program of its own.
const PROGRAM: &str = "worker-c";

#[derive(Debug)]
pub(crate) struct Contended {
    pub(crate) verdict: Verdict,
    pub(crate) after_kill: Duration,
    pub(crate) after_stop: Duration,
}

struct Worker {
    name: &'static str,
    process: Process,
}

pub(crate) async fn perform(stage: &Stage, lock: &str, lease: u64) -> Result<Contended> {
    println!("\nThree workers contend for the lock {lock:?}. Each holder adds 20 lines to a file, then lets go.");
    println!("A lease stands for {lease} s: so long a dead worker can keep the lock.\n");
    let again = format!("kubectl leasehold run {lock} --lease-duration {lease}s -- ./add-lines.sh");
    let again = format!("until [ -e enough ]; do {again}; done");
    let mut workers = Vec::new();
    for name in ["worker-a", "worker-b"] {
        workers.push(Worker { name, process: stage.worker().start(name, &again)? });
    }
    workers.push(Worker { name: PROGRAM, process: stage.program(PROGRAM)? });
    println!();
    stage.show_lock(Duration::from_secs(3)).await?;
    stage.worker().run(&format!("kubectl leasehold wait {lock} --for held --timeout 30s"), 0).await?;
    stage.worker().run(&format!("kubectl leasehold status {lock}"), 0).await?;

    let holder = next_holder(&mut workers, |name| name != PROGRAM).await?;
    let pid = holder.pid.context("a command says who runs it")?;
    println!("\n--- {} holds the lock (token {}) and is killed ---\n", holder.name, holder.token);
    stage.worker().run(&format!("kill -KILL {pid}     # kubectl leasehold run, of {}", holder.name), 0).await?;
    let after_kill = passed_on(stage, &mut workers, &holder).await?;
    println!("\nAfter {:.1} s the lock had passed on. What it ran was killed with it.\n", after_kill.as_secs_f64());
    stage.show_lock(Duration::from_secs(2)).await?;

    let holder = next_holder(&mut workers, |name| name == PROGRAM).await?;
    let at = workers.iter().position(|worker| worker.name == PROGRAM).context("the program")?;
    let pid = workers[at].process.id();
    println!("\n--- {PROGRAM} holds the lock (token {}) and is stopped, past its lease ---\n", holder.token);
    stage.worker().run(&format!("kill -STOP {pid}"), 0).await?;
    let mut stopped = workers.remove(at);
    let after_stop = passed_on(stage, &mut workers, &holder).await?;
    println!("\nAfter {:.1} s the lock had passed on. {PROGRAM} is continued:", after_stop.as_secs_f64());
    stage.worker().run(&format!("kill -CONT {pid}"), 0).await?;
    let line = stopped.process.wait_for_line(SOON, |line| line.starts_with("stopped")).await?;
    println!("    {PROGRAM}: {line}\n");
    workers.push(stopped);

    stage.worker().run("touch enough", 0).await?;
    for worker in workers.iter().filter(|worker| worker.name == PROGRAM) {
        worker.process.signal(Signal::TERM)?;
    }
    for worker in &mut workers {
        worker.process.wait_success(SOON).await?;
    }
    stage.wait_free().await?;
    stage.show_lock(Duration::ZERO).await?;

    let verdict = verdict::check(&stage.read("file")?).context("CHECK FAILED: the work overlapped")?;
    ensure!(verdict.holders == 3, "CHECK FAILED: only {} workers got the lock", verdict.holders);
    ensure!(verdict.broken_off >= 1, "CHECK FAILED: nobody was interrupted, so nothing was shown");
    let most = Duration::from_secs(lease * 3);
    ensure!(after_kill < most && after_stop < most, "CHECK FAILED: a dead holder kept the lock longer than {most:?}");
    Ok(Contended { verdict, after_kill, after_stop })
}

/// Who holds the lock.
#[derive(Clone, Debug)]
struct Holder {
    name: &'static str,
    token: u64,
    /// Who runs the command.
    pid: Option<u32>,
}

/// The next worker of these to say that it holds the lock.
async fn next_holder(workers: &mut [Worker], of: impl Fn(&str) -> bool) -> Result<Holder> {
    for worker in workers.iter_mut() {
        worker.process.drain_lines();
    }
    let waiting = workers.iter_mut().filter(|worker| of(worker.name)).map(|Worker { name, process }| {
        Box::pin(async move {
            let line = process.wait_for_line(SOON, |line| line.starts_with("holds ")).await?;
            let mut words = line.split(' ').skip(1);
            let token = words.next().context("a token")?.parse()?;
            anyhow::Ok(Holder { name, token, pid: words.next().map(str::parse).transpose()? })
        })
    });
    let (holder, _) = select_ok(waiting).await.context("no worker gets the lock")?;
    Ok(holder)
}

/// How long it takes until somebody holds the lock by a larger token. Meanwhile the lock is shown.
async fn passed_on(stage: &Stage, workers: &mut [Worker], from: &Holder) -> Result<Duration> {
    let begun = clock::moment();
    let passed = async {
        loop {
            if next_holder(workers, |_| true).await?.token > from.token {
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
