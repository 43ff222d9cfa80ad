//! Signals to this process.

#![expect(unsafe_code, reason = "no safe interface asks whether a signal is ignored, or sets that it is")]

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::task::Poll;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

/// The signals that end a process, and that whoever sends them means for the command.
const ENDING: [Signal; 6] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];
/// The signals of job control, while a command runs.
const JOB_CONTROL: [Signal; 2] = [Signal::TSTP, Signal::CONT];

/// Signals as they come in.
#[derive(Debug)]
pub(crate) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// From now on the signals that would end this process come in here.
    ///
    /// Those that whoever started this process had ignored stay ignored, for the command too: nohup does that, and a
    /// shell for what it runs in the background.
    pub(crate) fn ending() -> io::Result<Self> {
        let mut signals = Self(Vec::new());
        signals.listen(&ENDING)?;
        Ok(signals)
    }

    /// From now on the signals of job control come in here too: a wrapper that is stopped must stop its command as well.
    pub(crate) fn with_job_control(&mut self) -> io::Result<()> {
        self.listen(&JOB_CONTROL)
    }

    fn listen(&mut self, signals: &[Signal]) -> io::Result<()> {
        for &signal in signals {
            if !is_ignored(signal)? && !self.0.iter().any(|(known, _)| *known == signal) {
                self.0.push((signal, unix::signal(SignalKind::from_raw(signal.as_raw()))?));
            }
        }
        Ok(())
    }

    /// The next signal that ends a process. Those of job control, which come in here too once a command has run, do
    /// what they do to any process.
    pub(crate) async fn next_ending(&mut self) -> Signal {
        loop {
            match self.next().await {
                Signal::CONT => {}
                Signal::TSTP => {
                    let _ = stop_self();
                }
                signal => return signal,
            }
        }
    }

    /// The next signal. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (signal, stream) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// What the kernel does when a signal comes.
#[derive(Clone, Copy)]
pub(crate) struct Disposition(libc::sigaction);

impl std::fmt::Debug for Disposition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Disposition").field(&self.0.sa_sigaction).finish()
    }
}

impl Disposition {
    pub(crate) fn ignore() -> Self {
        Self::plain(libc::SIG_IGN)
    }

    pub(crate) fn default() -> Self {
        Self::plain(libc::SIG_DFL)
    }

    fn plain(handler: libc::sighandler_t) -> Self {
        // SAFETY: all zeroes is a valid value: no flags, an empty mask, the default action.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = handler;
        Self(action)
    }

    /// Sets it, and returns what was there before. May be called between fork and exec.
    pub(crate) fn set(self, signal: Signal) -> io::Result<Self> {
        sigaction(signal, Some(&self))
    }
}

fn is_ignored(signal: Signal) -> io::Result<bool> {
    Ok(sigaction(signal, None)?.0.sa_sigaction == libc::SIG_IGN)
}

fn sigaction(signal: Signal, new: Option<&Disposition>) -> io::Result<Disposition> {
    let new = new.map_or(std::ptr::null(), |new| &raw const new.0);
    let mut old = MaybeUninit::uninit();
    // SAFETY: `new` is null or valid, `old` is large enough. The only handlers that are ever set are those that stood
    // there before, which are fit to be called at any time.
    if unsafe { libc::sigaction(signal.as_raw(), new, old.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it succeeded, so it has written the old action.
    Ok(Disposition(unsafe { old.assume_init() }))
}

/// Stops this process with its process group, as Ctrl-Z would have, and returns when it is continued.
///
/// The kernel refuses to stop a group in whose session nobody is left to continue it; then this returns at once.
pub(crate) fn stop_self() -> io::Result<()> {
    // First the others of the group, while this process does not care. Then this thread, so that the signal is
    // delivered before the call returns.
    let handler = Disposition::ignore().set(Signal::TSTP)?;
    let stopped = rustix::process::kill_current_process_group(Signal::TSTP)
        .map_err(io::Error::from)
        .and_then(|()| Disposition::default().set(Signal::TSTP))
        .map(|_| {
            // SAFETY: it has no precondition.
            unsafe { libc::raise(libc::SIGTSTP) }
        });
    handler.set(Signal::TSTP)?;
    stopped.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_ignored_signal_stays_ignored_and_others_come_in() {
        let old = Disposition::ignore().set(Signal::USR2).unwrap();
        assert!(is_ignored(Signal::USR2).unwrap());
        let mut signals = Signals::ending().unwrap();
        assert!(is_ignored(Signal::USR2).unwrap());
        for signal in [Signal::USR2, Signal::USR1] {
            rustix::process::kill_process(rustix::process::getpid(), signal).unwrap();
        }
        assert_eq!(signals.next().await, Signal::USR1);
        old.set(Signal::USR2).unwrap();
    }
}
