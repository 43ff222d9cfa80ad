//! Children that cannot outlive this process, and folders that do not either.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread;

use rustix::io::Errno;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

type Job = Box<dyn FnOnce() + Send>;

/// The thread that starts every child. The kernel ties a parent-death signal
/// to the *thread* that forked, and the threads of tests and of runtimes end
/// before their process does; this one never returns.
static SPAWNER: LazyLock<Sender<Job>> = LazyLock::new(|| {
    let (jobs, inbox) = channel::<Job>();
    thread::Builder::new()
        .name("testkit-spawner".into())
        .spawn(move || {
            for job in inbox {
                job();
            }
        })
        .expect("a thread can be started");
    jobs
});

/// Starts `command` such that the kernel kills it when this process ends, in
/// whatever way it ends.
pub(crate) fn spawn(mut command: Command) -> io::Result<Child> {
    let parent = getpid();
    // SAFETY: between fork and exec the closure makes two system calls and
    // touches neither the heap nor a lock.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above.
            if getppid() != Some(parent) {
                return Err(Errno::SRCH.into());
            }
            Ok(())
        });
    }
    let (answer, result) = sync_channel(1);
    SPAWNER
        .send(Box::new(move || {
            let _ = answer.send(command.spawn());
        }))
        .map_err(|_| io::Error::other("the spawner thread is gone"))?;
    result.recv().map_err(|_| io::Error::other("the spawner thread is gone"))?
}

/// Removes a folder once this process has ended, even by SIGKILL: a shell that
/// reads from a pipe whose other end only this process holds.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
    pipe: Option<ChildStdin>,
}

/// Reads to the end of the pipe, then removes the folder. Children of the dead
/// process may still be writing for a moment, hence the repetitions. Signals of
/// a terminal are for the process that is watched, not for its watchdog.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
read -r word
[ "$word" = done ] && exit
for pause in 0 0.1 0.2 0.5 1 2 5; do
    sleep $pause
    rm -rf -- "$1" && [ ! -e "$1" ] && exit
done
"#;

impl Watchdog {
    /// Watches over `folder` until this process ends or the watchdog is dropped.
    pub(crate) fn over(folder: &Path) -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "leasehold-testkit-watchdog"])
            .arg(folder)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }
}

impl Drop for Watchdog {
    /// Whoever drops the watchdog has removed the folder or wants to keep it.
    fn drop(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.shell.wait();
    }
}
