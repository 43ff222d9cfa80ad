//! What is said while something is waited for.

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use leasehold::Progress;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::args::VoiceArgs;
use crate::exit;
use crate::read::Leases;

/// A wait shorter than this is not worth a word.
const PATIENCE: Duration = Duration::from_secs(2);
/// At most this often a person at a terminal is told something new.
const PAUSE: Duration = Duration::from_secs(1);
/// How long to look for what is known of the holder.
const LOOK: Duration = Duration::from_secs(2);

/// What is waited for, and how that goes.
#[derive(Clone, Debug)]
pub(crate) struct Waited {
    pub(crate) noun: &'static str,
    pub(crate) name: String,
    pub(crate) progress: Progress,
}

/// Says what is waited for: once into a log, and at a terminal (or by `-v`) whenever something has changed.
pub(crate) async fn report(
    leases: &Leases,
    mut progress: watch::Receiver<Option<Waited>>,
    voice: VoiceArgs,
) -> Infallible {
    if voice.quiet {
        return pending().await;
    }
    sleep(PATIENCE).await;
    loop {
        let seen = progress.borrow_and_update().clone();
        if let Some(Waited { noun, name, progress: Progress { holder, ahead, .. } }) = seen {
            // Whoever waits may read. If the API server does not answer just now, the holder's name must do.
            let held_by = match timeout(LOOK, leases.get(&name)).await {
                Ok(Ok(lock)) => lock.held_by(leasehold::clock::now().stamp),
                _ => format!("held by {holder}"),
            };
            exit::say(format_args!("waiting for {noun} {name}, {held_by}, {ahead} ahead"));
            if !io::stderr().is_terminal() && !voice.verbose {
                return pending().await;
            }
            sleep(PAUSE).await;
        }
        if progress.changed().await.is_err() {
            return pending().await;
        }
    }
}
