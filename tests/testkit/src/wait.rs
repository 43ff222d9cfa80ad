//! Waiting for something to become true, without bare sleeps.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{sleep, timeout};

/// The first pause between two attempts; each further one is a half longer.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Calls `attempt` until it succeeds, and returns what it returned.
///
/// The first attempt is made at once; the pauses between attempts grow from
/// 10 ms to 250 ms. An attempt that is under way when `limit` has passed is
/// dropped.
///
/// # Errors
///
/// After `limit`: an error that names `what` was waited for, how long, and the
/// error of the last attempt that ended.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use anyhow::ensure;
/// # use leasehold_testkit::eventually;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> anyhow::Result<()> {
/// let mut calls = 0;
/// let answer = eventually(Duration::from_secs(5), "a third call", async || {
///     calls += 1;
///     ensure!(calls >= 3, "only {calls} calls");
///     Ok(calls)
/// })
/// .await?;
/// assert_eq!(answer, 3);
/// # Ok(())
/// # }
/// ```
pub async fn eventually<T>(limit: Duration, what: &str, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let mut attempts = 0_u32;
    let mut last = None;
    let outcome = timeout(limit, async {
        let mut pause = FIRST_PAUSE;
        loop {
            attempts += 1;
            match attempt().await {
                Ok(value) => return value,
                Err(error) => last = Some(error),
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    })
    .await;
    outcome.map_err(|_| {
        last.unwrap_or_else(|| anyhow!("the first attempt did not end"))
            .context(format!("waited {limit:?} for {what} ({attempts} attempts)"))
    })
}
