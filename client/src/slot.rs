//! What a lock's driver is asked, and what it hands out.

use std::sync::Arc;

use tokio::sync::{OwnedMutexGuard, mpsc, oneshot, watch};

use crate::error::LossReason;
use crate::protocol::contender::{Refusal, Wish};
use crate::protocol::{HolderId, Mode};
use crate::session::SessionUse;
use crate::validity::Validity;

/// One lock that this client has to do with: its driver, and the queue of this process's own tasks for it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
}

/// What a lock's driver is asked to do. What is asked of a hold names it, and means no other.
#[derive(Debug)]
pub(crate) enum Command {
    /// Begin an acquisition. If whoever asks goes away, it is given up.
    Acquire(Box<Order>),
    /// Release what is held. The answer says whether it was held until then.
    Release(HolderId, Option<oneshot::Sender<bool>>),
    /// Renew a hold that lives by its own record.
    Renew(HolderId, oneshot::Sender<()>),
    /// Make more or less of a hold. The answer is its fencing token from then on.
    Change(HolderId, Mode, oneshot::Sender<u64>),
    /// Somebody wants to be told of a loss at once.
    WatchForLoss(HolderId),
    /// Give up whatever is going on, and begin nothing any more. The answer comes when it is over.
    ShutDown(oneshot::Sender<()>),
}

#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) slot: Arc<Slot>,
    pub(crate) session: SessionUse,
    pub(crate) wish: Wish,
    pub(crate) reply: oneshot::Sender<Result<Grant, Refusal>>,
    /// In this process one acquisition of a lock at a time: the others queue up for this.
    pub(crate) turn: OwnedMutexGuard<()>,
    /// Who holds the lock and how many wait ahead, as far as known.
    pub(crate) ahead: watch::Sender<(String, usize)>,
}

/// A hold. It is released when this is dropped, wherever that happens: in a guard, or on its way to a caller who has
/// just gone away.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) id: HolderId,
    pub(crate) token: u64,
    pub(crate) validity: Arc<Validity>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) released: bool,
}

impl Drop for Grant {
    fn drop(&mut self) {
        if !self.released {
            self.validity.lose(LossReason::Released);
            let _ = self.slot.commands.send(Command::Release(self.id.clone(), None));
        }
    }
}
