//! A peer: a process that is told by lines what to do, and says by lines what it did.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, timeout_at};

/// Time for what should be done in no time, on a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// How to start one.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
}

/// Ends with its standard input, so not later than this process; dropping it kills it.
pub(crate) struct Peer {
    child: Child,
    input: ChildStdin,
    lines: UnboundedReceiver<String>,
    /// What was said while something else was waited for.
    earlier: VecDeque<String>,
}

impl Peer {
    pub(crate) async fn start(start: &Start) -> Result<Self> {
        let mut child = Command::new(&start.program)
            .args(&start.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", start.program.display()))?;
        let input = child.stdin.take().context("no standard input")?;
        let mut output = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let (tell, lines) = unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = output.next_line().await {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        let mut peer = Self { child, input, lines, earlier: VecDeque::new() };
        peer.told("ready", SOON).await?;
        Ok(peer)
    }

    pub(crate) async fn tell(&mut self, command: &str) -> Result<()> {
        Ok(self.input.write_all(format!("{command}\n").as_bytes()).await?)
    }

    /// Waits for a line that begins with these words, and returns the numbers that follow.
    ///
    /// # Errors
    ///
    /// Where the peer says that something failed, or says nothing of the kind in time.
    pub(crate) async fn told(&mut self, words: &str, limit: Duration) -> Result<Vec<i64>> {
        let rest = |line: &str| match line.strip_prefix(words) {
            Some(rest) if rest.is_empty() || rest.starts_with(' ') => Some(rest.to_owned()),
            _ => None,
        };
        let numbers = |rest: String| Ok(rest.split_whitespace().map(str::parse).collect::<Result<_, _>>()?);
        if let Some((at, rest)) = self.earlier.iter().enumerate().find_map(|(at, line)| Some((at, rest(line)?))) {
            self.earlier.remove(at);
            return numbers(rest);
        }
        let deadline = Instant::now() + limit;
        loop {
            let line = timeout_at(deadline, self.lines.recv()).await;
            let line = line.with_context(|| format!("not {words:?} within {limit:?}"))?;
            let line = line.with_context(|| format!("the peer ended before {words:?}"))?;
            if let Some(rest) = rest(&line) {
                return numbers(rest);
            }
            if line.starts_with("error") || line.starts_with("failed") {
                bail!("{line}");
            }
            self.earlier.push_back(line);
        }
    }

    pub(crate) async fn ask(&mut self, command: &str, words: &str, limit: Duration) -> Result<Vec<i64>> {
        self.tell(command).await?;
        self.told(words, limit).await
    }

    pub(crate) async fn open(&mut self, lock: &str, contenders: usize, shared: bool) -> Result<()> {
        let how = if shared { "shared" } else { "own" };
        self.ask(&format!("open {lock} {contenders} {how}"), "opened", SOON).await.map(drop)
    }

    /// Tells a contender to acquire; see [`acquired`](Self::acquired).
    pub(crate) async fn acquire(&mut self, contender: usize) -> Result<()> {
        self.tell(&format!("acquire {contender}")).await
    }

    /// When it had acquired.
    pub(crate) async fn acquired(&mut self, contender: usize, limit: Duration) -> Result<i64> {
        first(&self.told(&format!("acquired {contender}"), limit).await?)
    }

    /// Releases, and says when that began.
    pub(crate) async fn release(&mut self, contender: usize) -> Result<i64> {
        first(&self.ask(&format!("release {contender}"), &format!("released {contender}"), SOON).await?)
    }

    /// Ends it as a crash does, and says when.
    pub(crate) async fn kill(mut self) -> Result<i64> {
        let at = now();
        self.child.kill().await?;
        Ok(at)
    }
}

/// How often whom has acquired until now.
pub(crate) struct Mark {
    pub(crate) at: i64,
    /// Where the peer counts them itself.
    pub(crate) requests: Option<i64>,
    pub(crate) overlaps: i64,
    pub(crate) acquired: Vec<i64>,
}

impl Peer {
    pub(crate) async fn mark(&mut self) -> Result<Mark> {
        let numbers = self.ask("mark", "marked", SOON).await?;
        let [at, requests, overlaps, acquired @ ..] = numbers.as_slice() else { bail!("a mark without numbers") };
        let requests = Some(*requests).filter(|requests| *requests >= 0);
        Ok(Mark { at: *at, requests, overlaps: *overlaps, acquired: acquired.to_vec() })
    }
}

pub(crate) fn first(numbers: &[i64]) -> Result<i64> {
    numbers.first().copied().context("a number")
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of the peers.
pub(crate) fn now() -> i64 {
    let at = clock_gettime(ClockId::Monotonic);
    at.tv_sec * 1_000_000_000 + at.tv_nsec
}
