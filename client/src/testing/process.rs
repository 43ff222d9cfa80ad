//! A process that is simulated: it has a clock of its own, and can be paused and killed.

#![expect(clippy::disallowed_methods, reason = "its clock is the runtime's, which tests set")]

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::protocol::{Moment, Now};

thread_local! {
    static CURRENT: RefCell<Option<Process>> = const { RefCell::new(None) };
}

/// A process among others in one program, on a tokio runtime whose clock is paused.
///
/// Whatever runs in one of its tasks ([`spawn`](Self::spawn)) sees its clock and not the machine's, and can be
/// [paused](Self::pause) and [killed](Self::kill) as a process can. Time passes as tokio's paused clock says: when nobody
/// has anything to do it jumps to the next timer. With one seed for everything that is left to chance, a run is the same
/// every time.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use leasehold::clock;
/// use leasehold::testing::{Process, ProcessOptions};
///
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
/// runtime.block_on(async {
///     let fast = Process::new(ProcessOptions { rate: 1.01, ..ProcessOptions::default() });
///     let before = fast.enter(clock::moment);
///     tokio::time::sleep(Duration::from_secs(100)).await;
///     assert_eq!(fast.enter(clock::moment).since(before).as_secs(), 101);
/// });
/// ```
#[derive(Clone, Debug)]
pub struct Process {
    inner: Arc<Inner>,
}

/// What a simulated process is like.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// How fast its clock runs: 1.01 is one percent too fast.
    pub rate: f64,
    /// What its clock shows at the start.
    pub boot: Duration,
    /// What its wall clock shows at the start.
    pub wall: Timestamp,
    /// What its random numbers begin with.
    pub seed: u64,
}

impl Default for ProcessOptions {
    fn default() -> Self {
        Self { rate: 1.0, boot: Duration::from_hours(1), wall: Timestamp::UNIX_EPOCH, seed: 1 }
    }
}

#[derive(Debug)]
struct Inner {
    rate: f64,
    boot: Duration,
    start: Instant,
    random: AtomicU64,
    state: Mutex<State>,
}

/// So many steps of a process in which no time passes are taken for a loop without an end.
const ENDLESS: u32 = 300_000;

#[derive(Debug)]
struct State {
    /// How many steps were taken since the clock last went on, and what it showed then.
    steps: (Instant, u32),
    wall: Timestamp,
    running: Running,
    /// Tasks that wanted to run while the process was paused.
    held_up: Vec<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Running {
    Yes,
    Paused,
    Killed,
}

impl Process {
    /// A process that begins now. Call it on a runtime whose clock is paused.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "it is made for the call")]
    pub fn new(options: ProcessOptions) -> Self {
        let start = Instant::now();
        let state = State { steps: (start, 0), wall: options.wall, running: Running::Yes, held_up: Vec::new() };
        let inner = Inner {
            rate: options.rate,
            boot: options.boot,
            start,
            random: AtomicU64::new(options.seed),
            state: Mutex::new(state),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The process to which the task that runs now belongs.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Does something as this process would: by its clock.
    pub fn enter<T>(&self, act: impl FnOnce() -> T) -> T {
        struct Leave(Option<Process>);
        impl Drop for Leave {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _leave = Leave(CURRENT.replace(Some(self.clone())));
        act()
    }

    /// Starts a task of this process. It runs unless the process is paused, and never again once that is killed.
    ///
    /// A process that takes hundreds of thousands of steps while its clock stands still is in a loop without an end: the
    /// task that is about to take the next one panics.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        tokio::spawn(Task { process: self.clone(), future: Some(Box::pin(future)) })
    }

    /// Stops it, as SIGSTOP does: no task of it runs, and its clock goes on.
    pub fn pause(&self) {
        let mut state = self.state();
        if state.running == Running::Yes {
            state.running = Running::Paused;
        }
    }

    /// Lets it go on, as SIGCONT does.
    pub fn resume(&self) {
        let mut state = self.state();
        if state.running == Running::Paused {
            state.running = Running::Yes;
            state.held_up.drain(..).for_each(Waker::wake);
        }
    }

    /// Ends it, as SIGKILL does: nothing of it runs again. What it has sent is on its way all the same.
    pub fn kill(&self) {
        let mut state = self.state();
        state.running = Running::Killed;
        state.held_up.drain(..).for_each(Waker::wake);
    }

    /// Whether it runs: it is neither paused nor killed.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state().running == Running::Yes
    }

    /// Sets its wall clock.
    pub fn set_wall_clock(&self, wall: Timestamp) {
        let elapsed = self.elapsed();
        self.state().wall = saturating_sub(wall, elapsed);
    }

    /// What time it is for this process.
    #[must_use]
    pub fn now(&self) -> Now {
        let elapsed = self.elapsed();
        let stamp = saturating_add(self.state().wall, elapsed);
        Now { moment: Moment::from_start(self.inner.boot + elapsed), stamp }
    }

    /// How long this process's clock's `time` is by the runtime's clock.
    #[must_use]
    pub fn by_the_runtime(&self, time: Duration) -> Duration {
        time.div_f64(self.inner.rate) + Duration::from_nanos(1)
    }

    /// The next number by chance. This is Steele, Lea and Flood's `SplitMix64` (OOPSLA 2014).
    #[must_use]
    pub fn random(&self) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let mut z = self.inner.random.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn elapsed(&self) -> Duration {
        self.inner.start.elapsed().mul_f64(self.inner.rate)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn saturating_add(stamp: Timestamp, time: Duration) -> Timestamp {
    SignedDuration::try_from(time).ok().and_then(|time| stamp.checked_add(time).ok()).unwrap_or(Timestamp::MAX)
}

fn saturating_sub(stamp: Timestamp, time: Duration) -> Timestamp {
    SignedDuration::try_from(time).ok().and_then(|time| stamp.checked_sub(time).ok()).unwrap_or(Timestamp::MIN)
}

/// A task of a simulated process.
struct Task<F> {
    process: Process,
    /// `None` once the process has been killed.
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let process = self.process.clone();
        {
            let mut state = process.state();
            match state.running {
                Running::Yes => {
                    let now = Instant::now();
                    state.steps = if state.steps.0 == now { (now, state.steps.1 + 1) } else { (now, 0) };
                    assert!(state.steps.1 < ENDLESS, "a task runs and runs, and no time passes");
                }
                Running::Paused => {
                    state.held_up.push(cx.waker().clone());
                    return Poll::Pending;
                }
                Running::Killed => {
                    drop(state);
                    process.enter(|| self.future = None);
                    return Poll::Pending;
                }
            }
        }
        match &mut self.future {
            Some(future) => process.enter(|| future.as_mut().poll(cx)),
            None => Poll::Pending,
        }
    }
}
