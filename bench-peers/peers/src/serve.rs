//! The line protocol, the same for every peer.

use std::fmt::Write as _;
use std::future::Future;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::Options;

/// What serves one contender, or all of a process that are said to share it.
pub(crate) trait Connection: Send + Sync + Sized + 'static {
    type Contender: Contender;

    fn contender(&self, lock: &str, index: usize) -> impl Future<Output = Result<Self::Contender>> + Send;
}

pub(crate) trait Contender: Send + 'static {
    fn acquire(&mut self) -> impl Future<Output = Result<()>> + Send;
    fn release(&mut self) -> impl Future<Output = Result<()>> + Send;
    /// Whether it believes to hold the lock still.
    fn holds(&self) -> bool;
}

struct Server<C: Connection> {
    connections: Vec<Arc<C>>,
    contenders: Vec<Arc<Mutex<C::Contender>>>,
    loops: JoinSet<()>,
    tally: Arc<Tally>,
}

/// How often each has acquired, how many hold at this moment, and how often one acquired while another held.
#[derive(Default)]
struct Tally {
    acquired: Vec<AtomicU64>,
    holding: AtomicUsize,
    overlaps: AtomicU64,
    over: AtomicBool,
}

pub(crate) async fn serve<C, F, R>(options: &Options, connect: F) -> Result<()>
where
    C: Connection,
    F: Fn(Options) -> R,
    R: Future<Output = Result<C>> + Send,
{
    let mut server =
        Server { connections: Vec::new(), contenders: Vec::new(), loops: JoinSet::new(), tally: Arc::default() };
    say("ready");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["quit"] => break,
            [verb, words @ ..] => {
                if let Err(error) = server.obey(verb, words, async || connect(options.clone()).await).await {
                    say(&format!("error {verb}: {}", one_line(&error)));
                }
            }
        }
    }
    // Not to wait for what is under way.
    std::process::exit(0);
}

impl<C: Connection> Server<C> {
    async fn obey(&mut self, verb: &str, words: &[&str], connect: impl AsyncFn() -> Result<C>) -> Result<()> {
        match (verb, words) {
            ("open", [lock, count, how]) => self.open(lock, count.parse()?, *how == "shared", connect).await?,
            ("acquire", [index]) => self.acquire(index.parse()?)?,
            ("release", [index]) => self.release(index.parse()?)?,
            ("cycle", [rounds, limit]) => self.cycle(rounds.parse()?, limit.parse()?).await?,
            ("start", [held]) => self.start(Duration::from_millis(held.parse()?)),
            ("mark", []) => self.mark(),
            ("stop", []) => self.stop().await,
            ("hold", [count, at_once, limit]) => {
                self.hold(count.parse()?, at_once.parse()?, limit.parse()?, connect).await?;
            }
            ("held", []) => {
                let held = |one: &&Arc<Mutex<C::Contender>>| one.try_lock().is_ok_and(|one| one.holds());
                say(&format!("held {}", self.contenders.iter().filter(held).count()));
            }
            ("free", []) => self.free().await,
            _ => bail!("not understood"),
        }
        Ok(())
    }

    /// Releases what is held, so that the next run finds it free.
    async fn free(&mut self) {
        let freed = futures::stream::iter(self.contenders.drain(..))
            .map(|contender| async move { contender.lock().await.release().await.is_ok() })
            .buffer_unordered(64)
            .filter(|freed| std::future::ready(*freed))
            .count()
            .await;
        say(&format!("freed {freed}"));
    }

    async fn open(
        &mut self,
        lock: &str,
        count: usize,
        shared: bool,
        connect: impl AsyncFn() -> Result<C>,
    ) -> Result<()> {
        self.connections.clear();
        self.contenders.clear();
        for index in 0..count {
            if index == 0 || !shared {
                self.connections.push(Arc::new(connect().await?));
            }
            let connection = self.connections.last().context("a connection")?;
            self.contenders.push(Arc::new(Mutex::new(connection.contender(lock, index).await?)));
        }
        self.tally = Arc::new(Tally { acquired: (0..count).map(|_| AtomicU64::new(0)).collect(), ..Tally::default() });
        say("opened");
        Ok(())
    }

    fn contender(&self, index: usize) -> Result<Arc<Mutex<C::Contender>>> {
        self.contenders.get(index).cloned().context("no such contender")
    }

    fn acquire(&self, index: usize) -> Result<()> {
        let contender = self.contender(index)?;
        tokio::spawn(async move {
            match contender.lock().await.acquire().await {
                Ok(()) => say(&format!("acquired {index} {}", now())),
                Err(error) => say(&format!("failed {index} {}", one_line(&error))),
            }
        });
        Ok(())
    }

    fn release(&self, index: usize) -> Result<()> {
        let contender = self.contender(index)?;
        tokio::spawn(async move {
            let mut contender = contender.lock().await;
            let begun = now();
            match contender.release().await {
                Ok(()) => say(&format!("released {index} {begun} {}", now())),
                Err(error) => say(&format!("failed {index} {}", one_line(&error))),
            }
        });
        Ok(())
    }

    /// The first contender acquires and releases, so often or for so many milliseconds.
    async fn cycle(&self, rounds: usize, limit: u64) -> Result<()> {
        let contender = self.contender(0)?;
        // On a thread of the runtime's, as everything else.
        let took = tokio::spawn(async move {
            let (mut contender, mut took) = (contender.lock().await, String::new());
            let end = now() + limit * 1_000_000;
            for _ in 0..rounds {
                let begun = now();
                if begun >= end {
                    break;
                }
                contender.acquire().await?;
                contender.release().await?;
                write!(took, " {}", now() - begun)?;
            }
            anyhow::Ok(took)
        });
        say(&format!("cycled -1{}", took.await??));
        Ok(())
    }

    /// All contend without a pause, and hold it for so long in each turn.
    fn start(&mut self, held: Duration) {
        self.tally.over.store(false, Ordering::SeqCst);
        for (index, contender) in self.contenders.iter().enumerate() {
            self.loops.spawn(contend(contender.clone(), index, self.tally.clone(), held));
        }
        say("started");
    }

    fn mark(&self) {
        let mut line = format!("marked {} -1 {}", now(), self.tally.overlaps.load(Ordering::SeqCst));
        for count in &self.tally.acquired {
            let _ = write!(line, " {}", count.load(Ordering::Relaxed));
        }
        say(&line);
    }

    /// Nobody begins again; those who are at it have a moment to end.
    async fn stop(&mut self) {
        self.tally.over.store(true, Ordering::SeqCst);
        let all = async { while self.loops.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), all).await;
        self.loops.abort_all();
        say("stopped");
    }

    /// Acquires many locks over one connection, so many at a time, as many as it can in the milliseconds.
    async fn hold(
        &mut self,
        count: usize,
        at_once: usize,
        limit: u64,
        connect: impl AsyncFn() -> Result<C>,
    ) -> Result<()> {
        let connection = Arc::new(connect().await?);
        self.connections = vec![connection.clone()];
        self.contenders.clear();
        let (next, held) = (Arc::new(AtomicUsize::new(0)), Arc::new(std::sync::Mutex::new(Vec::new())));
        let failed = Arc::new(AtomicU64::new(0));
        let (begun, mut workers) = (now(), JoinSet::new());
        for _ in 0..at_once {
            let (connection, next, held, failed) = (connection.clone(), next.clone(), held.clone(), failed.clone());
            workers.spawn(async move {
                while now() < begun + limit * 1_000_000 {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    let Ok(mut contender) = connection.contender(&format!("held-{index}"), index).await else {
                        failed.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    match contender.acquire().await {
                        Ok(()) => held.lock().expect("no panic").push(Arc::new(Mutex::new(contender))),
                        Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
        let all = async { while workers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_millis(limit + 5000), all).await;
        workers.abort_all();
        self.contenders.append(&mut held.lock().expect("no panic"));
        say(&format!("holding {} {} {}", self.contenders.len(), failed.load(Ordering::Relaxed), now() - begun));
        Ok(())
    }
}

async fn contend<C: Contender>(contender: Arc<Mutex<C>>, index: usize, tally: Arc<Tally>, held: Duration) {
    let mut contender = contender.lock().await;
    while !tally.over.load(Ordering::SeqCst) {
        if contender.acquire().await.is_err() {
            // Of its own: not to be in the way of those who get on.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        if tally.holding.fetch_add(1, Ordering::SeqCst) > 0 {
            tally.overlaps.fetch_add(1, Ordering::SeqCst);
        }
        tally.acquired[index].fetch_add(1, Ordering::Relaxed);
        if !held.is_zero() {
            // What holds for no time is hardly ever met by another.
            tokio::time::sleep(held).await;
        }
        tally.holding.fetch_sub(1, Ordering::SeqCst);
        let _ = contender.release().await;
    }
}

/// One write a line.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever reads has gone: then the process goes too, at the end of its input.
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

/// `CLOCK_MONOTONIC` in nanoseconds, the same in all processes of a machine.
#[expect(clippy::cast_sign_loss, reason = "it begins with 0")]
pub(crate) fn now() -> u64 {
    let at = clock_gettime(ClockId::Monotonic);
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}
