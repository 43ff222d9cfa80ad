//! The one place that looks at a clock.

#![expect(clippy::disallowed_methods, reason = "this is the file in which clocks are read")]

use std::time::Duration;

use jiff::Timestamp;

use crate::protocol::{Moment, Now};
#[cfg(feature = "testing")]
use crate::testing::Process;

/// What time it is: by the clock that counts through suspend, and by the wall clock.
#[must_use]
pub fn now() -> Now {
    #[cfg(feature = "testing")]
    if let Some(process) = Process::current() {
        return process.now();
    }
    Now { moment: moment(), stamp: Timestamp::now() }
}

/// What time it is, by the clock that counts through suspend (`CLOCK_BOOTTIME` on Linux).
#[must_use]
pub fn moment() -> Moment {
    #[cfg(target_os = "linux")]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    // Elsewhere the monotonic clock is the one that comes nearest (on macOS it counts through sleep).
    #[cfg(not(target_os = "linux"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    #[cfg(feature = "testing")]
    if let Some(process) = Process::current() {
        return process.now().moment;
    }
    let time = rustix::time::clock_gettime(CLOCK);
    let seconds = Duration::from_secs(time.tv_sec.try_into().unwrap_or_default());
    Moment::from_start(seconds + Duration::from_nanos(time.tv_nsec.try_into().unwrap_or_default()))
}

/// Which start of this machine [`moment`] counts from, where that can be told: moments of two starts have nothing to do
/// with each other.
pub(crate) fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    let plain = !id.is_empty() && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    plain.then(|| id.to_owned())
}

/// Sleeps until about then. After a suspend it may sleep that much longer: for work that can wait.
pub async fn sleep_until(then: Moment) {
    sleep(then.since(moment())).await;
}

/// Sleeps for so long.
pub(crate) async fn sleep(time: Duration) {
    #[cfg(feature = "testing")]
    let time = Process::current().map_or(time, |process| process.by_the_runtime(time));
    tokio::time::sleep(time).await;
}

/// Sleeps until then, and not longer if the machine was suspended in between: for deadlines.
pub async fn sleep_until_deadline(then: Moment) {
    if then <= moment() {
        // Whoever asks again and again must not keep everybody else from running.
        return tokio::task::yield_now().await;
    }
    #[cfg(feature = "testing")]
    if Process::current().is_some() {
        return sleep_until(then).await;
    }
    #[cfg(target_os = "linux")]
    if boot_timer(then).await.is_ok() {
        return;
    }
    // Without such a timer: look at the clock that counts through suspend often enough.
    loop {
        let left = then.since(moment());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(Duration::from_millis(500))).await;
    }
}

#[cfg(target_os = "linux")]
async fn boot_timer(then: Moment) -> std::io::Result<()> {
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let at = then.since_start();
    let at =
        Timespec { tv_sec: at.as_secs().try_into().map_err(std::io::Error::other)?, tv_nsec: at.subsec_nanos().into() };
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: never, it_value: at })?;
    // SAFETY: the descriptor is owned by what is registered, so it stays open, and the same, until that is dropped.
    #[expect(unsafe_code, reason = "the safe constructors are deprecated")]
    let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
    let _fired = timer.readable().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_is_neither_overslept_nor_undercut() {
        let then = moment() + Duration::from_millis(30);
        sleep_until_deadline(then).await;
        assert!(moment() >= then);
        sleep_until_deadline(moment() - Duration::from_secs(1)).await;
    }
}
