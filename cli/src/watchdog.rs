//! A backstop: the command ends before the lock can pass on, also when all else in this process hangs.
//!
//! The lease is renewed, and its loss noticed, by tasks that share a runtime with the connections to the API server. A
//! thread of its own that only looks at the clock depends on none of that.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use leasehold::clock::moment;
use leasehold::protocol::Moment;
use rustix::process::{Pid, Signal};

use crate::exit::{self, say};
use crate::strays;

/// How often to look at the clock at least: a sleep stands still while the machine is suspended, and the lease does not.
const LOOK: Duration = Duration::from_secs(1);
/// How long this process may take to end by itself once the command has been killed.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Kills a process group at a moment that is put off again and again. Dropping it calls it off.
///
/// Once it is dropped it kills nobody: what was begun by then is waited for, so that it does not strike the next command.
#[derive(Debug)]
pub(crate) struct Watchdog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `None`: called off. Kept locked while the watchdog kills.
    until: Mutex<Option<Moment>>,
    changed: Condvar,
}

impl Watchdog {
    pub(crate) fn over(group: Pid, until: Moment) -> io::Result<Self> {
        Self::new(until, move || strays::signal_all(group, Signal::KILL))
    }

    fn new(until: Moment, kill: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared { until: Mutex::new(Some(until)), changed: Condvar::new() });
        let watched = Arc::clone(&shared);
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let Some(late) = watched.late() else {
                return;
            };
            kill();
            if !watched.is_called_off_within(LAST_WORDS, late) {
                say("the lock is lost, and this process hangs; the command was killed");
                std::process::exit(exit::LOST.into());
            }
        })?;
        Ok(Self(shared))
    }

    /// The command may go on until then.
    pub(crate) fn put_off(&self, until: Moment) {
        *self.0.lock() = Some(until);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.0.lock() = None;
        self.0.changed.notify_all();
    }
}

type Until<'a> = MutexGuard<'a, Option<Moment>>;

impl Shared {
    fn lock(&self) -> Until<'_> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the moment has come. As long as what it returns is kept, it cannot be put off or called off any more.
    /// `None`: it was called off before.
    fn late(&self) -> Option<Until<'_>> {
        let mut until = self.lock();
        loop {
            let left = (*until)?.since(moment());
            if left.is_zero() {
                return Some(until);
            }
            until = self.changed.wait_timeout(until, left.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn is_called_off_within(&self, limit: Duration, late: Until<'_>) -> bool {
        let waited = self.changed.wait_timeout_while(late, limit, |until| until.is_some());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// A try tells nothing where its thread stands still for longer than it waits: the next one waits for twice as long.
    fn waits() -> impl Iterator<Item = Duration> {
        (0..).map(|tries| Duration::from_millis(20 << tries))
    }

    #[test]
    fn it_bites_when_it_was_not_put_off_and_not_before() {
        let _alone = strays::ALONE.blocking_lock();
        for wait in waits() {
            let mut child = Command::new("/bin/sleep").arg("1000").process_group(0).spawn().unwrap();
            let begun = moment();
            let watchdog = Watchdog::over(Pid::from_child(&child), begun + wait).unwrap();
            watchdog.put_off(begun + 2 * wait);
            let is_in_time = moment() < begun + wait;
            let status = child.wait().unwrap();
            drop(watchdog);
            assert_eq!(status.signal(), Some(libc::SIGKILL));
            if is_in_time {
                assert!(moment().since(begun) >= 2 * wait);
                return;
            }
        }
    }

    #[test]
    fn it_can_be_called_off() {
        let (kills, killed) = mpsc::channel();
        let an_hour = Duration::from_secs(3600);
        let watchdog = Watchdog::new(moment() + an_hour, move || kills.send(()).unwrap()).unwrap();
        drop(watchdog);
        // Its thread has ended: what would kill has gone with it, unused.
        assert_eq!(killed.recv_timeout(Duration::from_secs(60)), Err(mpsc::RecvTimeoutError::Disconnected));
    }

    #[test]
    fn once_it_is_called_off_it_kills_no_more() {
        let (begins, begun) = mpsc::channel();
        let has_ended = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&has_ended);
        let watchdog = Watchdog::new(moment(), move || {
            begins.send(()).unwrap();
            thread::sleep(Duration::from_millis(100));
            ends.store(true, Ordering::SeqCst);
        });
        begun.recv().unwrap();
        drop(watchdog.unwrap());
        assert!(has_ended.load(Ordering::SeqCst));
    }
}
