//! The command that runs while the lock is held: a child process with a process group of its own.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process_group, test_kill_process_group, waitpid,
};
use tokio::signal::unix::{self, SignalKind};

use crate::exit::{self, Failure};
use crate::strays::{self, Reaper};
use crate::terminal::Terminal;

/// How often to look whether what is left of an ended command's group has gone. The kernel tells a parent of its own
/// children only.
const LOOK: Duration = Duration::from_millis(20);

/// What became of the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It has ended, with this exit code as shells have it.
    Ended(u8),
    /// This signal stopped it.
    Stopped(i32),
}

/// The running command.
#[derive(Debug)]
pub(crate) struct Child {
    /// Also its process group.
    pid: Pid,
    changes: unix::Signal,
    ended: Option<u8>,
}

impl Child {
    /// Starts the command. It dies when this process does, in whatever way.
    ///
    /// To be called on the main thread: the kernel ties the death of a child to the thread that started it, and of all
    /// threads only the main one lives as long as the process.
    #[expect(unsafe_code, reason = "what is to happen between fork and exec has no safe interface")]
    pub(crate) fn start(
        command: &[OsString],
        environment: &[(&str, String)],
        terminal: Option<&Terminal>,
        reaper: &Reaper,
    ) -> Result<Self, Failure> {
        let [program, arguments @ ..] = command else {
            return Err(Failure::usage("no command"));
        };
        let changes = unix::signal(SignalKind::child()).map_err(|error| Failure::internal(&error))?;
        let mut command = Command::new(program);
        command.args(arguments).envs(environment.iter().map(|(key, value)| (key, value))).process_group(0);
        let parent = getpid();
        let ttou = terminal.map(Terminal::ttou);
        let tty = terminal.filter(|terminal| terminal.is_for_command()).map(|terminal| terminal.fd().as_raw_fd());
        // SAFETY: between fork and exec this makes system calls and nothing else: no heap, no lock. The descriptor is
        // open, as `terminal` outlives the call to `spawn`.
        unsafe {
            command.pre_exec(move || {
                if let Some(tty) = tty {
                    // As SIGTTOU is ignored, a group in the background may do that. If it fails, the command is stopped
                    // when it uses the terminal, and gets it then.
                    libc::tcsetpgrp(tty, libc::getpid());
                }
                if let Some(ttou) = ttou {
                    ttou.set(Signal::TTOU)?;
                }
                die_with(parent)
            });
        }
        let mut paused = reaper.pause();
        // Not reaped by std: only `wait` does that, and it is never called.
        let child = command.spawn().map_err(|error| not_started(program, &error))?;
        let pid = Pid::from_child(&child);
        *paused = Some(pid);
        drop(paused);
        Ok(Self { pid, changes, ended: None })
    }

    /// The command's process group.
    pub(crate) fn group(&self) -> Pid {
        self.pid
    }

    /// Sends a signal to the command and everything it started that is still in its group.
    pub(crate) fn signal(&self, signal: Signal) {
        // There may be nobody left.
        let _ = kill_process_group(self.pid, signal);
    }

    /// The same, and to those as well who have left its group.
    pub(crate) fn signal_all(&self, signal: Signal) {
        strays::signal_all(self.pid, signal);
    }

    /// The next thing that becomes of the command. Nothing is lost when the future is dropped.
    pub(crate) async fn change(&mut self) -> Change {
        loop {
            if let Some(code) = self.ended {
                return Change::Ended(code);
            }
            match self.look() {
                Some(change) => return change,
                None => self.changes.recv().await,
            };
        }
    }

    /// Waits until the command has ended and nothing is left of what it started.
    pub(crate) async fn gone(&mut self) -> u8 {
        let code = loop {
            if let Change::Ended(code) = self.change().await {
                break code;
            }
        };
        // No process gets this id while it is still the name of a group.
        while test_kill_process_group(self.pid).is_ok() || !strays::all().is_empty() {
            tokio::time::sleep(LOOK).await;
        }
        code
    }

    fn look(&mut self) -> Option<Change> {
        loop {
            match waitpid(Some(self.pid), WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((_, status))) => {
                    let change = change_of(status);
                    if let Some(Change::Ended(code)) = change {
                        self.ended = Some(code);
                    }
                    if change.is_some() {
                        return change;
                    }
                }
                Err(Errno::INTR) => {}
                // Somebody else has taken its exit code.
                Err(_) => {
                    self.ended = Some(exit::INTERNAL);
                    return Some(Change::Ended(exit::INTERNAL));
                }
                Ok(None) => return None,
            }
        }
    }
}

/// Has the kernel kill this process when its parent's main thread ends.
#[cfg(target_os = "linux")]
fn die_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before the line above.
    if getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
}

#[cfg(not(target_os = "linux"))]
fn die_with(_parent: Pid) -> io::Result<()> {
    Ok(())
}

fn change_of(status: WaitStatus) -> Option<Change> {
    if let Some(code) = status.exit_status() {
        // The kernel keeps eight bits of it.
        return Some(Change::Ended(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
    }
    let ended = status.terminating_signal().map(|signal| Change::Ended(exit::of_signal(signal)));
    ended.or_else(|| status.stopping_signal().map(Change::Stopped))
}

fn not_started(program: &OsString, error: &io::Error) -> Failure {
    let code = if error.kind() == io::ErrorKind::NotFound { exit::NOT_FOUND } else { exit::CANNOT_RUN };
    Failure::new(code, format!("cannot run {}: {error}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str) -> Child {
        let command = ["/bin/sh", "-c", script].map(OsString::from);
        Child::start(&command, &[("LEASEHOLD_NAME", "x y".to_owned())], None, &Reaper::idle()).unwrap()
    }

    #[tokio::test]
    async fn exit_codes_are_those_of_shells() {
        let _alone = strays::ALONE.lock().await;
        assert_eq!(start("exit 3").change().await, Change::Ended(3));
        assert_eq!(start("kill -TERM $$").change().await, Change::Ended(143));
        assert_eq!(start("test \"$LEASEHOLD_NAME\" = 'x y'").change().await, Change::Ended(0));
        for (command, code) in [("/nonexistent/x", exit::NOT_FOUND), ("/dev/null", exit::CANNOT_RUN)] {
            assert_eq!(
                Child::start(&[command.into()], &[], None, &Reaper::idle()).unwrap_err().code,
                code,
                "{command}"
            );
        }
    }

    #[tokio::test]
    async fn it_has_a_group_of_its_own_which_is_signalled_whole() {
        let _alone = strays::ALONE.lock().await;
        let mut child = start("sleep 1000 & sleep 1000 & wait");
        assert_ne!(child.group(), rustix::process::getpgrp());
        child.signal(Signal::STOP);
        assert_eq!(child.change().await, Change::Stopped(libc::SIGSTOP));
        child.signal(Signal::KILL);
        assert_eq!(child.gone().await, 137);
        assert!(test_kill_process_group(child.group()).is_err());
        // And once more, for whoever asks later.
        assert_eq!(child.change().await, Change::Ended(137));
    }
}
