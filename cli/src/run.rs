//! `run`: acquire the lock, look after the command, release the lock.

use std::time::Duration;

use leasehold::clock::{moment, now, sleep_until_deadline};
use leasehold::protocol::Moment;
use leasehold::{LockGuard, Lost, ReleaseRequest};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::args::{ClusterArgs, RunArgs};
use crate::backend::{self, Backend, NotAcquired, Released};
use crate::child::{Change, Child};
use crate::config;
use crate::exit::{self, Failure, say};
use crate::read::Leases;
use crate::signals::{self, Signals};
use crate::terminal::Terminal;
use crate::waiting;
use crate::watchdog::Watchdog;

/// How long to look for the holder whom to name in a message.
const LOOK: Duration = Duration::from_secs(2);
/// How long a killed command may take to vanish. One that hangs in the kernel does no work either.
const VANISH: Duration = Duration::from_secs(1);

pub(crate) async fn run(cluster: &ClusterArgs, args: &RunArgs) -> Result<u8, Failure> {
    let grace = args.grace().map_err(Failure::usage)?;
    let config = config::load(cluster).await?;
    let namespace = config.default_namespace.clone();
    let mut signals = Signals::ending().map_err(|error| Failure::internal(&error))?;
    let leases = Leases::new(config.clone())?;
    let backend = Backend::new(config, &args.name, args.lease_duration, grace)?;
    let outcome = match acquire(&backend, &leases, args, &mut signals).await {
        Ok(guard) => run_under(guard, signals, &namespace, args, grace).await,
        Err(failure) => Err(failure),
    };
    let lost = matches!(&outcome, Err(failure) if failure.code == exit::LOST);
    backend.leave(lost).await;
    outcome
}

async fn acquire(
    backend: &Backend,
    leases: &Leases,
    args: &RunArgs,
    signals: &mut Signals,
) -> Result<LockGuard, Failure> {
    let name = &args.name;
    let limit = args.limit();
    let (progress, seen) = watch::channel(None);
    let acquired = tokio::select! {
        biased;
        // Dropping the acquisition leaves the queue.
        signal = signals.next() => return Err(Failure::signal(signal.as_raw())),
        acquired = backend.acquire(limit, |step| { progress.send_replace(Some(step)); }) => acquired,
        never = waiting::report(leases, name, seen) => match never {},
    };
    match acquired {
        Ok(guard) => Ok(guard),
        Err(NotAcquired::Failed(failure)) => Err(failure),
        Err(NotAcquired::Busy(identity)) => {
            let held_by = match timeout(LOOK, leases.get(name)).await {
                Ok(Ok(lock)) if lock.holder.is_some() || identity.is_empty() => lock.held_by(now().stamp),
                _ => format!("held by {identity}"),
            };
            let message = match limit.filter(|limit| !limit.is_zero()) {
                Some(limit) => format!("lock {name} was not acquired within {limit:?}: {held_by}"),
                None => format!("lock {name} was not acquired: {held_by}"),
            };
            Err(Failure::new(args.conflict_exit_code, message))
        }
    }
}

async fn run_under(
    guard: LockGuard,
    mut signals: Signals,
    namespace: &str,
    args: &RunArgs,
    grace: Duration,
) -> Result<u8, Failure> {
    let environment = [
        ("LEASEHOLD_NAME", args.name.clone()),
        ("LEASEHOLD_NAMESPACE", namespace.to_owned()),
        ("LEASEHOLD_HOLDER", guard.holder_identity()),
        ("LEASEHOLD_TOKEN", guard.token().to_string()),
    ];
    let terminal = Terminal::open();
    signals.with_job_control().map_err(|error| Failure::internal(&error))?;
    let passes_on = moment() + guard.remaining() + grace;
    // Nothing may come between this and the start.
    if let Err(lost) = guard.check() {
        return Err(Failure::new(exit::LOST, format!("the command was not started: {lost}")));
    }
    let mut child = match Child::start(&args.command, &environment, terminal.as_ref()) {
        Ok(child) => child,
        Err(failure) => {
            backend::release(guard).await;
            return Err(failure);
        }
    };
    let wants_terminal = terminal.as_ref().is_some_and(Terminal::is_for_command);
    let sample = (args.lease_duration / 10).min(Duration::from_secs(1));
    let watchdog = match Watchdog::over(child.group(), passes_on) {
        Ok(watchdog) => watchdog,
        Err(error) => {
            child.signal(Signal::KILL);
            let _ = timeout(VANISH, child.gone()).await;
            return Err(Failure::internal(&error));
        }
    };
    let mut running =
        Running { guard, child, signals, terminal, wants_terminal, grace, passes_on, watchdog, asked: None };
    let ended = running.supervise(sample).await;
    drop(running.watchdog);
    if let Some(terminal) = &running.terminal {
        terminal.take_back_from(running.child.group());
    }
    let code = ended.map_err(|lost| Failure::new(exit::LOST, format!("the command was stopped: {lost}")))?;
    match backend::release(running.guard).await {
        Released::Cleanly => Ok(code),
        Released::Lost(lost) => {
            let message = format!("the command ended with exit code {code}, perhaps without the lock: {lost}");
            Err(Failure::new(exit::LOST, message))
        }
        Released::Unclear(why) => {
            let lease = args.lease_duration;
            say(format_args!("{why}; at the latest the lock passes on in {lease:?}"));
            Ok(code)
        }
    }
}

/// A command that runs under a lock.
struct Running {
    guard: LockGuard,
    child: Child,
    signals: Signals,
    terminal: Option<Terminal>,
    /// The command has the terminal, or has asked for it by using it.
    wants_terminal: bool,
    grace: Duration,
    /// When the lock may pass to somebody else if it is not renewed any more. No earlier than this, that is.
    passes_on: Moment,
    /// For the case that nothing here runs any more by then.
    watchdog: Watchdog,
    /// Who asked for the lock, when that was last told.
    asked: Option<ReleaseRequest>,
}

impl Running {
    /// Looks after the command until it has ended: by itself, with its exit code, or because the lock is lost.
    async fn supervise(&mut self, sample: Duration) -> Result<u8, Lost> {
        let lost = self.guard.lost();
        let mut sample = interval(sample);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = lost.cancelled() => {
                    let lost = self.guard.check().expect_err("it is lost");
                    self.stop(&lost).await;
                    return Err(lost);
                }
                change = self.child.change() => match change {
                    Change::Ended(code) => return Ok(code),
                    Change::Stopped(signal) => self.stopped(signal),
                },
                signal = self.signals.next() => self.forward(signal),
                _ = sample.tick() => {
                    let remaining = self.guard.remaining();
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
        let asked = self.guard.release_request();
        if let Some(ReleaseRequest { by, within, reason, .. }) = asked.as_ref().filter(|_| asked != self.asked) {
            // Others wrote this: it may not do anything to a terminal or a log.
            let why = if reason.is_empty() { String::new() } else { format!(": {}", reason.escape_debug()) };
            let (by, name) = (by.escape_debug(), self.guard.name());
            say(format_args!("{by} asks for lock {name} to be released within {within:?}{why}"));
        }
        self.asked = asked;
    }

    fn forward(&mut self, signal: Signal) {
        match signal {
            Signal::CONT => self.resume(),
            signal => self.child.signal(signal),
        }
    }

    /// A signal of job control stopped the command: either it needs the terminal, or whoever sits there wants the
    /// shell back, which waits for this process to stop.
    ///
    /// A stopped process renews nothing. That is safe, because the command is stopped too, and is not continued
    /// if the lock has been lost meanwhile.
    fn stopped(&mut self, signal: i32) {
        let Some(terminal) = &self.terminal else {
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
        if self.guard.check().is_err() {
            return;
        }
        if let Some(terminal) = self.terminal.as_ref().filter(|_| self.wants_terminal) {
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
            self.child.signal(Signal::TERM);
            // It may be stopped.
            self.child.signal(Signal::CONT);
            loop {
                tokio::select! {
                    biased;
                    () = sleep_until_deadline(until) => break,
                    _ = self.child.gone() => return,
                    // Ctrl-Z does not gain it any time.
                    signal = self.signals.next() => if signal != Signal::TSTP {
                        self.child.signal(signal);
                    },
                }
            }
        }
        self.child.signal(Signal::KILL);
        let _ = timeout(VANISH, self.child.gone()).await;
    }
}
