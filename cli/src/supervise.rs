//! A command that runs while something is held, and that is stopped before that can be somebody else's.

use std::ffi::OsString;
use std::time::Duration;

use leasehold::clock::{moment, sleep_until_deadline};
use leasehold::protocol::Moment;
use leasehold::{Lost, ReleaseRequest};
use rustix::process::Signal;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::child::{Change, Child};
use crate::exit::{self, Failure, say};
use crate::held::Held;
use crate::signals::{self, Signals};
use crate::strays::Reaper;
use crate::terminal::Terminal;
use crate::watchdog::Watchdog;

/// How long killed processes may take to vanish. What hangs in the kernel does no work either.
const VANISH: Duration = Duration::from_secs(1);
/// How often what is started while it is being killed is killed as well.
const AGAIN: Duration = Duration::from_millis(20);

/// What is run, and by which rules.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    pub(crate) command: &'a [OsString],
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) grace: Duration,
    pub(crate) lease_duration: Duration,
    pub(crate) terminal: Option<&'a Terminal>,
    pub(crate) reaper: &'a Reaper,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself, with this exit code.
    ByItself(u8),
    /// It was stopped, or not begun, since what it needs is lost.
    Stopped(Failure),
}

/// Runs a command until it ends or has to. And whether this process was told to end meanwhile.
pub(crate) async fn run(held: &Held, signals: &mut Signals, work: &Work<'_>) -> Result<(Ended, bool), Failure> {
    let Work { command, environment, grace, lease_duration, terminal, reaper } = work;
    signals.with_job_control().map_err(|error| Failure::internal(&error))?;
    let passes_on = moment() + held.remaining() + *grace;
    // Nothing may come between this and the start.
    if let Err(lost) = held.check() {
        let failure = Failure::new(exit::LOST, format!("the command was not started: {lost}"));
        return Ok((Ended::Stopped(failure), false));
    }
    let mut child = Child::start(command, environment, *terminal, reaper)?;
    let watchdog = match Watchdog::over(child.group(), passes_on) {
        Ok(watchdog) => watchdog,
        Err(error) => {
            kill(&mut child).await;
            return Err(Failure::internal(&error));
        }
    };
    let mut running = Running {
        held,
        child,
        signals,
        terminal: *terminal,
        wants_terminal: terminal.is_some_and(Terminal::is_for_command),
        grace: *grace,
        passes_on,
        watchdog,
        asked: vec![None; held.all().len()],
        told_to_end: false,
    };
    let sample = (*lease_duration / 10).min(Duration::from_secs(1));
    let ended = running.supervise(sample).await;
    drop(running.watchdog);
    if let Some(terminal) = terminal {
        terminal.take_back_from(running.child.group());
    }
    let ended = match ended {
        Ok(code) => Ended::ByItself(code),
        Err(lost) => Ended::Stopped(Failure::new(exit::LOST, format!("the command was stopped: {lost}"))),
    };
    Ok((ended, running.told_to_end))
}

/// Kills the command and all that it started, and what that starts meanwhile.
async fn kill(child: &mut Child) {
    let killing = async {
        loop {
            child.signal_all(Signal::KILL);
            if timeout(AGAIN, child.gone()).await.is_ok() {
                return;
            }
            sleep(AGAIN).await;
        }
    };
    let _ = timeout(VANISH, killing).await;
}

/// A command that runs under a lock.
struct Running<'a> {
    held: &'a Held,
    child: Child,
    signals: &'a mut Signals,
    terminal: Option<&'a Terminal>,
    /// The command has the terminal, or has asked for it by using it.
    wants_terminal: bool,
    grace: Duration,
    /// When the lock may pass to somebody else if it is not renewed any more. No earlier than this, that is.
    passes_on: Moment,
    /// For the case that nothing here runs any more by then.
    watchdog: Watchdog,
    /// Who asked for what, when that was last told.
    asked: Vec<Option<ReleaseRequest>>,
    /// A signal that ends a process was sent to this one.
    told_to_end: bool,
}

impl Running<'_> {
    /// Looks after the command until it has ended: by itself, with its exit code, or because the lock is lost.
    async fn supervise(&mut self, sample: Duration) -> Result<u8, Lost> {
        let lost = self.held.lost();
        let mut sample = interval(sample);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = lost.cancelled() => {
                    let lost = self.held.check().expect_err("it is lost");
                    self.stop(&lost).await;
                    return Err(lost);
                }
                change = self.child.change() => match change {
                    Change::Ended(code) => return Ok(code),
                    Change::Stopped(signal) => self.stopped(signal),
                },
                signal = self.signals.next() => self.forward(signal),
                _ = sample.tick() => {
                    let remaining = self.held.remaining();
                    if !remaining.is_zero() {
                        self.passes_on = moment() + remaining + self.grace;
                        self.watchdog.put_off(self.passes_on);
                    }
                    self.tell_who_asks();
                }
            }
        }
    }

    /// Whether to let go is for whoever started the command to decide.
    fn tell_who_asks(&mut self) {
        for (hold, told) in self.held.all().iter().zip(&mut self.asked) {
            let asked = hold.release_request();
            if let Some(ReleaseRequest { by, within, reason, .. }) = asked.as_ref().filter(|_| asked != *told) {
                // Others wrote this: it may not do anything to a terminal or a log.
                let why = if reason.is_empty() { String::new() } else { format!(": {}", reason.escape_debug()) };
                let (by, name) = (by.escape_debug(), hold.name());
                say(format_args!("{by} asks for lock {name} to be released within {within:?}{why}"));
            }
            *told = asked;
        }
    }

    fn forward(&mut self, signal: Signal) {
        match signal {
            Signal::CONT => self.resume(),
            signal => self.hand_on(signal),
        }
    }

    fn hand_on(&mut self, signal: Signal) {
        self.told_to_end |= !matches!(signal, Signal::TSTP | Signal::CONT | Signal::USR1 | Signal::USR2);
        self.child.signal(signal);
    }

    /// A signal of job control stopped the command: either it needs the terminal, or whoever sits there wants the
    /// shell back, which waits for this process to stop.
    ///
    /// A stopped process renews nothing. That is safe, because the command is stopped too, and is not continued
    /// if the lock has been lost meanwhile.
    fn stopped(&mut self, signal: i32) {
        let Some(terminal) = self.terminal else {
            return;
        };
        let needs_terminal = matches!(signal, libc::SIGTTIN | libc::SIGTTOU);
        if !needs_terminal && signal != libc::SIGTSTP {
            return;
        }
        self.wants_terminal |= needs_terminal;
        if needs_terminal && terminal.is_ours() {
            return self.resume();
        }
        terminal.take_back_from(self.child.group());
        let kept = self.passes_on.since(moment()).as_secs();
        say(format_args!("stopped; the lock is kept for another {kept}s"));
        let _ = signals::stop_self();
        // In the background of a shell it stays stopped until it gets the terminal, of which SIGCONT will tell.
        if !needs_terminal {
            self.resume();
        }
    }

    fn resume(&mut self) {
        if self.held.check().is_err() {
            return;
        }
        if let Some(terminal) = self.terminal.filter(|_| self.wants_terminal) {
            terminal.give_to(self.child.group());
        }
        self.child.signal(Signal::CONT);
    }

    /// Stops the command: within the grace, and before the lock can pass to somebody else where it has expired.
    async fn stop(&mut self, lost: &Lost) {
        let until = self.passes_on.min(moment() + self.grace);
        let left = until.since(moment());
        if !left.is_zero() {
            say(format_args!("{lost}; the command gets SIGTERM now and SIGKILL in {:.1}s", left.as_secs_f64()));
            self.child.signal_all(Signal::TERM);
            // It may be stopped.
            self.child.signal_all(Signal::CONT);
            loop {
                tokio::select! {
                    biased;
                    () = sleep_until_deadline(until) => break,
                    _ = self.child.gone() => return,
                    // Ctrl-Z does not gain it any time.
                    signal = self.signals.next() => if signal != Signal::TSTP {
                        self.hand_on(signal);
                    },
                }
            }
        }
        kill(&mut self.child).await;
    }
}
