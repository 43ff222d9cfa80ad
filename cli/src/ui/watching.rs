//! One watch for all pages: what it sees is put on the board.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::WatchEvent;
use leasehold::clock::now;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::state::Board;
use super::wait_for::Drawn;
use crate::exit::{self, Failure, chain};
use crate::follow::LONGEST_PAUSE;
use crate::read::{LeaseEvents, Leases};

/// After so long without any event the API server is asked for its version, which anybody may ask for.
const QUIET: Duration = Duration::from_secs(5);
/// How long it may take to answer that.
const PROBE: Duration = Duration::from_secs(5);
/// After so long without a bookmark, which comes about once a minute, a watch has silently died.
const SILENCE: Duration = Duration::from_secs(300);

/// The board, and whoever wants to hear of changes.
#[derive(Debug)]
pub(super) struct Shared {
    board: Mutex<Board>,
    changed: watch::Sender<u64>,
    /// The last picture, and of which version of the board it is.
    drawn: tokio::sync::Mutex<Option<(u64, Arc<Drawn>)>>,
}

impl Shared {
    pub(super) fn new(board: Board) -> Arc<Self> {
        let changed = watch::Sender::new(board.version());
        Arc::new(Self { board: Mutex::new(board), changed, drawn: tokio::sync::Mutex::default() })
    }

    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Who waits for whom: made once of each version of the board for all who want it, one at a time, and while the board
    /// is free for others.
    pub(super) async fn drawn(&self) -> Arc<Drawn> {
        let mut last = self.drawn.lock().await;
        let (version, records) = {
            let board = self.board();
            match &*last {
                Some((known, drawn)) if *known == board.version() => return Arc::clone(drawn),
                _ => (board.version(), board.in_use()),
            }
        };
        let drawn = Arc::new(Drawn::of(&records));
        *last = Some((version, Arc::clone(&drawn)));
        drawn
    }

    /// Changes the board and tells those who listen, if anything has changed.
    pub(super) fn change(&self, change: impl FnOnce(&mut Board, Timestamp)) {
        let version = {
            let mut board = self.board();
            change(&mut board, now().stamp);
            board.version()
        };
        self.changed.send_if_modified(|known| std::mem::replace(known, version) != version);
    }
}

/// All that there is, and what becomes of it.
pub(super) async fn look(leases: &Leases, all_namespaces: bool) -> Result<(Vec<Lease>, LeaseEvents), Failure> {
    let both = |failure: Failure| match failure.code {
        exit::FORBIDDEN => Failure::new(failure.code, format!("{}\nIt takes \"list\" and \"watch\"", failure.message)),
        _ => failure,
    };
    let (all, version) = leases.all(all_namespaces, None).await.map_err(both)?;
    let events = leases.watch(all_namespaces, &version).await.map_err(both)?;
    Ok((all, events))
}

/// Puts on the board what happens, for ever. What goes wrong stands there too, and is tried again.
pub(super) async fn follow(shared: &Shared, leases: &Leases, all_namespaces: bool, mut events: LeaseEvents) {
    loop {
        let ended_well = until_it_ends(shared, leases, &mut events).await;
        // What has happened meanwhile is seen by listing again.
        let mut pause = if ended_well { Duration::ZERO } else { Duration::from_millis(100) };
        events = loop {
            sleep(pause).await;
            match look(leases, all_namespaces).await {
                Ok((all, events)) => {
                    shared.change(|board, now| board.relist(all, now));
                    break events;
                }
                Err(failure) => shared.change(|board, _| board.silent(&failure.message)),
            }
            pause = (pause * 2).clamp(Duration::from_millis(100), LONGEST_PAUSE);
        };
    }
}

/// Whether the API server ended the watch as it does after a while, and not because something is wrong.
async fn until_it_ends(shared: &Shared, leases: &Leases, events: &mut LeaseEvents) -> bool {
    let mut quiet = Duration::ZERO;
    loop {
        let Ok(event) = timeout(QUIET, events.next()).await else {
            quiet += QUIET;
            match timeout(PROBE, leases.client().apiserver_version()).await {
                // A refusal is an answer too.
                Ok(Ok(_) | Err(kube::Error::Api(_))) if quiet < SILENCE => shared.change(Board::heard),
                Ok(Ok(_) | Err(kube::Error::Api(_))) => return false,
                Ok(Err(error)) => {
                    shared.change(|board, _| board.silent(&chain(&error)));
                    return false;
                }
                Err(_) => {
                    shared.change(|board, _| board.silent(&format!("no answer within {PROBE:?}")));
                    return false;
                }
            }
            continue;
        };
        quiet = Duration::ZERO;
        match event {
            Some(Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease))) => {
                shared.change(|board, now| board.changed(lease, now));
            }
            Some(Ok(WatchEvent::Deleted(lease))) => shared.change(|board, now| board.deleted(&lease, now)),
            Some(Ok(WatchEvent::Bookmark(_))) => shared.change(Board::heard),
            None => return true,
            // It began too long ago, or the connection is gone.
            Some(Ok(WatchEvent::Error(_)) | Err(_)) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::{at, lock};
    use super::*;

    #[tokio::test]
    async fn one_picture_of_each_version_is_made_for_all() {
        let shared = Shared::new(Board::new(at(0)));
        let (one, other) = tokio::join!(shared.drawn(), shared.drawn());
        assert!(Arc::ptr_eq(&one, &other), "for both");
        shared.change(Board::heard);
        assert!(Arc::ptr_eq(&one, &shared.drawn().await), "nothing has changed");
        shared.change(|board, now| board.changed(lock("job", "1", 1, "x_x.1", &["y_y.1"]), now));
        assert_ne!(one, shared.drawn().await);
    }
}
