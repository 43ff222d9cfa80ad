//! Runs a Kubernetes control plane for a person or around a command.

#![expect(clippy::doc_markdown, reason = "these comments are what --help prints")]

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;
use std::{env, process};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use leasehold_testkit::{Cluster, DISPOSABLE_VARIABLE, KUBECONFIG_VARIABLE, build_control_plane};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{interval, sleep, timeout};

/// A Kubernetes control plane without nodes: etcd, API server, controllers
///
/// Its binaries are built with Go at the first use, which takes some minutes,
/// or taken from the folder that KUBEBUILDER_ASSETS names.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  eval \"$(controlplane up)\"              start one and use it in this shell
  controlplane down                      stop it and remove all it stored
  controlplane run -- cargo test         one for the time of a command")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start one in the background and print how to use it; there is at most one
    Up,
    /// Stop the one in the background and remove all it stored
    Down,
    /// Start one, run a command with KUBECONFIG and LEASEHOLD_TEST_KUBECONFIG
    /// set, stop it, and exit as the command did
    ///
    /// Where LEASEHOLD_TEST_KUBECONFIG is set already, the command runs
    /// against that cluster and nothing is started.
    Run {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// The process in the background
    #[command(hide = true)]
    Serve,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    match Arguments::parse().verb {
        Verb::Up => up().await,
        Verb::Down => down().await,
        Verb::Run { command } => run(&command).await,
        Verb::Serve => serve().await,
    }
}

/// The files by which `up`, `down` and the process in the background find each
/// other. That process holds the lock as long as it lives.
struct State {
    lock: PathBuf,
    pid: PathBuf,
    kubeconfig: PathBuf,
    log: PathBuf,
}

impl State {
    fn open() -> Result<Self> {
        let cache = match env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
            Some(cache) => PathBuf::from(cache),
            None => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(".cache"),
        };
        let folder = cache.join("leasehold").join("cluster");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Self {
            lock: folder.join("lock"),
            pid: folder.join("pid"),
            kubeconfig: folder.join("kubeconfig"),
            log: folder.join("log"),
        })
    }

    /// The lock, `None` while a process in the background holds it.
    fn try_lock(&self) -> Result<Option<File>> {
        let file = File::options().create(true).append(true).open(&self.lock)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    fn is_up(&self) -> Result<bool> {
        Ok(self.try_lock()?.is_none() && self.kubeconfig.exists())
    }
}

async fn up() -> Result<ExitCode> {
    let state = State::open()?;
    if !state.is_up()? {
        tokio::task::spawn_blocking(build_control_plane).await??;
        start_in_background(&state).await?;
    }
    println!("export KUBECONFIG={}", shell_quoted(&state.kubeconfig));
    Ok(ExitCode::SUCCESS)
}

async fn start_in_background(state: &State) -> Result<()> {
    let log = File::create(&state.log)?;
    let mut child = Command::new(env::current_exe()?)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Not to be hit by what the terminal sends to this process' group.
        .process_group(0)
        .current_dir("/")
        .spawn()
        .context("cannot start the process in the background")?;
    let mut ticks = interval(Duration::from_millis(100));
    for tick in 1.. {
        ticks.tick().await;
        if state.is_up()? {
            break;
        }
        if child.try_wait()?.is_some() {
            let log = fs::read_to_string(&state.log).unwrap_or_default();
            bail!("the control plane did not start:\n{log}");
        }
        if tick % 20 == 0 {
            eprintln!("controlplane: starting etcd and the API server, {} s", tick / 10);
        }
    }
    Ok(())
}

async fn down() -> Result<ExitCode> {
    let state = State::open()?;
    if state.try_lock()?.is_some() {
        eprintln!("controlplane: there is none in the background");
        return Ok(ExitCode::SUCCESS);
    }
    let pid = fs::read_to_string(&state.pid).context("it is just starting")?;
    let pid = pid.trim().parse().ok().and_then(Pid::from_raw).context("no process id")?;
    kill_process(pid, Signal::TERM).context("cannot signal the process in the background")?;
    let stopped = timeout(Duration::from_secs(30), async {
        while state.try_lock()?.is_none() {
            sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    });
    stopped.await.context("it does not stop")??;
    Ok(ExitCode::SUCCESS)
}

async fn serve() -> Result<ExitCode> {
    let state = State::open()?;
    let Some(_lock) = state.try_lock()? else {
        bail!("there is one already");
    };
    // Of one that was killed.
    remove(&state.kubeconfig)?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    fs::write(&state.pid, process::id().to_string())?;
    let cluster = Cluster::start().await?;
    let draft = state.kubeconfig.with_extension("new");
    fs::copy(cluster.kubeconfig_path(), &draft)?;
    fs::rename(&draft, &state.kubeconfig)?;
    loop {
        tokio::select! {
            _ = terminated.recv() => break,
            _ = interrupted.recv() => break,
            _ = hung_up.recv() => {}
        }
    }
    remove(&state.kubeconfig)?;
    remove(&state.pid)?;
    drop(cluster);
    Ok(ExitCode::SUCCESS)
}

async fn run(command: &[String]) -> Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command")?;
    // A command gets a Ctrl-C of the terminal itself; this process has to stay
    // to tidy up after it.
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let given = env::var_os(KUBECONFIG_VARIABLE).is_some_and(|path| !path.is_empty());
    let cluster = Cluster::named_or_start().await?;
    let mut child = tokio::process::Command::new(program);
    child
        .args(arguments)
        .env("KUBECONFIG", cluster.kubeconfig_path())
        .env(KUBECONFIG_VARIABLE, cluster.kubeconfig_path())
        .kill_on_drop(true);
    if !given {
        child.env(DISPOSABLE_VARIABLE, "1");
    }
    let mut child = match child.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("controlplane: cannot run {program}: {error}");
            let missing = error.kind() == ErrorKind::NotFound;
            return Ok(ExitCode::from(if missing { 127 } else { 126 }));
        }
    };
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {
                if let Some(pid) = pid {
                    let _ = kill_process(pid, Signal::TERM);
                }
            }
        }
    };
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn shell_quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
