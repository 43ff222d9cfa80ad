//! Programs under test as child processes.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};

use crate::spawn;

/// How long the rest of the output of a child that has ended is waited for. It
/// only takes that long where somebody else has the pipe too.
const REST: Duration = Duration::from_secs(1);
/// How often a running child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

/// The path of a program of this workspace, in the folder of the program that
/// asks or, for a test, in the one above.
///
/// # Errors
///
/// Where it has not been built; the error says which command builds it.
pub fn bin(name: &str) -> Result<PathBuf> {
    let this = env::current_exe().context("cannot tell the path of this program")?;
    let mut folder = this.parent().context("this program is in no folder")?;
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder = folder.parent().unwrap_or(folder);
    }
    let path = folder.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let release = if folder.ends_with("release") { " --release" } else { "" };
    bail!("there is no {}; build it with: cargo build{release} --workspace --bins", path.display());
}

/// A program that is about to be started.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use leasehold_testkit::Program;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> anyhow::Result<()> {
/// let mut child = Program::new("sh").args(["-c", "echo ready; exec sleep 60"]).start()?;
/// child.wait_for_line(Duration::from_secs(5), |line| line == "ready").await?;
/// child.kill();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a program does nothing until it is started"]
pub struct Program {
    command: Command,
    name: String,
    log: Option<PathBuf>,
}

impl Program {
    /// A program with this process' environment, nothing on standard input and
    /// a process group of its own.
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        let path = path.as_ref();
        let name = Path::new(path).file_name().unwrap_or(path);
        let mut command = Command::new(path);
        command.stdin(Stdio::null()).process_group(0);
        Self { command, name: name.to_string_lossy().into_owned(), log: None }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Removes a variable from its environment.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(key);
        self
    }

    /// Sets its working folder.
    pub fn current_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Keeps a pipe to its standard input, see [`Process::stdin`].
    pub fn piped_stdin(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// What it is called in messages; the file's name otherwise.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Also writes its output, both streams line by line, to this file.
    pub fn log(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    /// Starts it. It is killed when the [`Process`] is dropped and, by the
    /// kernel, when this process ends in whatever way.
    pub fn start(mut self) -> Result<Process> {
        let log = match &self.log {
            Some(path) => Some(File::create(path).with_context(|| format!("cannot write {}", path.display()))?),
            None => None,
        };
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = self.command.get_program().to_owned();
        let mut child = spawn::spawn(self.command).with_context(|| format!("cannot start {}", program.display()))?;

        let record = Arc::new(Mutex::new(Record { text: String::new(), log }));
        let (sender, lines) = unbounded_channel();
        let stdout = child.stdout.take().context("the child has no standard output")?;
        let stderr = child.stderr.take().context("the child has no standard error")?;
        let readers =
            [read_lines(stdout, Arc::clone(&record), Some(sender)), read_lines(stderr, Arc::clone(&record), None)];
        Ok(Process { stdin: child.stdin.take(), child, name: self.name, program, lines, record, readers, status: None })
    }
}

/// What a child has written so far, and where that is kept besides.
#[derive(Debug)]
struct Record {
    text: String,
    log: Option<File>,
}

/// Reads a stream to its end on a thread of its own: a child must never block
/// because nobody reads.
fn read_lines(
    stream: impl Read + Send + 'static,
    record: Arc<Mutex<Record>>,
    lines: Option<UnboundedSender<String>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
            let line = String::from_utf8_lossy(&bytes);
            let line = line.strip_suffix('\n').unwrap_or(&line).to_owned();
            bytes.clear();
            let mut record = record.lock().expect("no reader panics");
            record.text.push_str(&line);
            record.text.push('\n');
            if let Some(log) = &mut record.log {
                let _ = writeln!(log, "{line}");
            }
            drop(record);
            if let Some(lines) = &lines {
                let _ = lines.send(line);
            }
        }
    })
}

/// A running or ended child process; dropping it kills it with its group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    program: OsString,
    stdin: Option<ChildStdin>,
    lines: UnboundedReceiver<String>,
    record: Arc<Mutex<Record>>,
    readers: [JoinHandle<()>; 2],
    status: Option<ExitStatus>,
}

impl Process {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The pipe to its standard input, if asked for by
    /// [`Program::piped_stdin`] and not taken yet; dropping the pipe closes it.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// Sends it a signal, for instance [`Signal::KILL`], [`Signal::STOP`],
    /// [`Signal::CONT`], [`Signal::TERM`] or [`Signal::INT`]; its children get none.
    ///
    /// # Errors
    ///
    /// Where it is known to have ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if let Some(status) = self.status {
            bail!("{} has ended already: {status}", self.name);
        }
        // Not reaped yet, so the id is still its own.
        kill_process(self.pid(), signal).with_context(|| format!("cannot signal {} ({})", self.name, self.id()))
    }

    /// The next line of its standard output, `None` at the end of it.
    pub async fn next_line(&mut self) -> Option<String> {
        self.lines.recv().await
    }

    /// The lines of standard output that are there and not taken yet.
    pub fn drain_lines(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.lines.try_recv().ok()).collect()
    }

    /// Reads its standard output up to a line that `wanted` accepts, and
    /// returns that line. Lines before it are dropped.
    ///
    /// # Errors
    ///
    /// When its output ends before or `limit` passes; with all it has written.
    pub async fn wait_for_line(&mut self, limit: Duration, mut wanted: impl FnMut(&str) -> bool) -> Result<String> {
        let found = timeout(limit, async {
            while let Some(line) = self.lines.recv().await {
                if wanted(&line) {
                    return Some(line);
                }
            }
            None
        })
        .await;
        match found {
            Ok(Some(line)) => Ok(line),
            Ok(None) => bail!("{} ended before the line came:\n{}", self.name, self.output()),
            Err(_) => bail!("no such line of {} in {limit:?}:\n{}", self.name, self.output()),
        }
    }

    /// All it has written so far, to standard output and standard error, in
    /// the order of arrival.
    #[must_use]
    pub fn output(&self) -> String {
        self.record.lock().expect("no reader panics").text.clone()
    }

    /// Its exit status, `None` while it runs.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits until it ends; [`output`](Self::output) and the lines are complete
    /// then, unless a child of its own is still there to write more.
    ///
    /// # Errors
    ///
    /// When it still runs after `limit`; with all it has written.
    pub async fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = timeout(limit, async {
            loop {
                if let Some(status) = self.try_wait()? {
                    return Ok(status);
                }
                sleep(POLL).await;
            }
        })
        .await;
        match ended {
            Ok(status) => {
                self.read_rest().await;
                status
            }
            Err(_) => bail!("{} still runs after {limit:?}:\n{}", self.name, self.output()),
        }
    }

    async fn read_rest(&self) {
        let _ = timeout(REST, async {
            while !self.readers.iter().all(JoinHandle::is_finished) {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// Waits until it ends and requires exit code 0.
    ///
    /// # Errors
    ///
    /// When it still runs after `limit` or failed; with all it has written.
    pub async fn wait_success(&mut self, limit: Duration) -> Result<()> {
        let status = self.wait_exit(limit).await?;
        ensure!(status.success(), "{}: {status}\n{}", self.program.display(), self.output());
        Ok(())
    }

    /// Kills it and its process group with SIGKILL and reaps it. Does nothing
    /// to a process that is known to have ended.
    pub fn kill(&mut self) {
        if matches!(self.try_wait(), Ok(None)) {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            self.status = self.child.wait().ok();
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
