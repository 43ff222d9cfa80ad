//! What happened in a run, and what should not have.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The history of one run. Most runs go without one: a run whose history is wanted is made again.
#[derive(Debug)]
pub(super) struct Log {
    start: Instant,
    told: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    violations: Vec<String>,
    /// Changes with everything that happens, and is the same in a run that is made again.
    trace: u64,
}

impl Log {
    pub(super) fn new(told: bool) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the runtime's clock is the simulation's own")]
        let start = Instant::now();
        Self { start, told, state: Mutex::default() }
    }

    /// Notes what happened, if anybody wants to know.
    pub(super) fn tell(&self, line: impl FnOnce() -> String) {
        if self.told {
            let line = format!("{:>10.3} {}", self.time().as_secs_f64(), line());
            self.state().lines.push(line);
        }
    }

    /// A guarantee was broken.
    pub(super) fn violation(&self, told: impl fmt::Display) {
        let told = format!("{:.3} s: {told}", self.time().as_secs_f64());
        self.tell(|| format!("VIOLATION {told}"));
        self.state().violations.push(told);
    }

    /// Mixes something that happened into the trace of this run.
    pub(super) fn trace(&self, what: u64) {
        let time = u64::try_from(self.time().as_nanos()).unwrap_or(u64::MAX);
        let mut state = self.state();
        state.trace = (state.trace.rotate_left(5) ^ what ^ time).wrapping_mul(0x0100_0000_01b3);
    }

    pub(super) fn is_violated(&self) -> bool {
        !self.state().violations.is_empty()
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.state().lines.clone()
    }

    pub(super) fn traced(&self) -> u64 {
        self.state().trace
    }

    /// How long this run has lasted, by its own clock.
    #[expect(clippy::disallowed_methods, reason = "the runtime's clock is the simulation's own")]
    pub(super) fn time(&self) -> Duration {
        self.start.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
