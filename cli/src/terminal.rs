//! The terminal that this process was started from, and whose process group it listens to.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::process::{Pid, Signal};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use crate::signals::Disposition;
use crate::strays::group_of;

/// The controlling terminal.
///
/// The command has a process group of its own, and a terminal takes keys from, and sends Ctrl-C to, only one group. So it
/// is given to the command's group, and taken back in the end.
#[derive(Debug)]
pub(crate) struct Terminal {
    tty: File,
    own: Pid,
    /// What SIGTTOU did before. While a `Terminal` exists it is ignored: a process in the background may then
    /// take the terminal back, and say why.
    ttou: Disposition,
}

impl Terminal {
    /// `None` where there is none, as in a pod or under cron.
    pub(crate) fn open() -> Option<Self> {
        // A group that was begun outside of this container gets no terminal back.
        let own = Pid::from_raw(group_of(0))?;
        let tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let ttou = Disposition::ignore().set(Signal::TTOU).ok()?;
        Some(Self { tty, own, ttou })
    }

    /// Whether the terminal listens to this process's group.
    pub(crate) fn is_ours(&self) -> bool {
        tcgetpgrp(&self.tty).is_ok_and(|group| group == self.own)
    }

    /// Whether the command gets the terminal from the start.
    ///
    /// Not as part of a pipeline: in `run … | less` it is `less` that reads from the terminal. If the command does
    /// after all, the kernel stops it, and then it gets the terminal.
    pub(crate) fn is_for_command(&self) -> bool {
        self.is_ours() && io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// Gives it to another group of the session, if it is this group's to give.
    pub(crate) fn give_to(&self, group: Pid) {
        if self.is_ours() {
            let _ = tcsetpgrp(&self.tty, group);
        }
    }

    /// Takes it back from the group that it was given to. A shell may have taken it meanwhile, and keeps it.
    pub(crate) fn take_back_from(&self, group: Pid) {
        if tcgetpgrp(&self.tty).is_ok_and(|present| present == group) {
            let _ = tcsetpgrp(&self.tty, self.own);
        }
    }

    /// The terminal for use between fork and exec.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.tty.as_fd()
    }

    /// What SIGTTOU is to do in the command.
    pub(crate) fn ttou(&self) -> Disposition {
        self.ttou
    }
}
