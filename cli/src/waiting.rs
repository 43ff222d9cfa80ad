//! What is said while the lock is waited for.

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use leasehold::Progress;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::exit;
use crate::read::Leases;

/// A wait shorter than this is not worth a word.
const PATIENCE: Duration = Duration::from_secs(2);
/// At most this often a person at a terminal is told something new.
const PAUSE: Duration = Duration::from_secs(1);
/// How long to look for what is known of the holder.
const LOOK: Duration = Duration::from_secs(2);

/// Says what is waited for: once into a log, and at a terminal whenever something has changed.
pub(crate) async fn report(leases: &Leases, name: &str, mut progress: watch::Receiver<Option<Progress>>) -> Infallible {
    sleep(PATIENCE).await;
    loop {
        let seen = progress.borrow_and_update().clone();
        if let Some(Progress { holder, ahead, .. }) = seen {
            // Whoever waits may read. If the API server does not answer just now, the holder's name must do.
            let held_by = match timeout(LOOK, leases.get(name)).await {
                Ok(Ok(lock)) => lock.held_by(leasehold::clock::now().stamp),
                _ => format!("held by {holder}"),
            };
            exit::say(format_args!("waiting for lock {name}, {held_by}, {ahead} ahead"));
            if !io::stderr().is_terminal() {
                return pending().await;
            }
            sleep(PAUSE).await;
        }
        if progress.changed().await.is_err() {
            return pending().await;
        }
    }
}
