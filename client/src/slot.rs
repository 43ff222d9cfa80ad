//! What a lock's driver is asked, and what it hands out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, mpsc, oneshot, watch};

use crate::ahead::Ahead;
use crate::clock;
use crate::error::LossReason;
use crate::loan::Loan;
use crate::protocol::contender::{Refusal, Wish};
use crate::protocol::lending::Terms;
use crate::protocol::{HolderId, Kind, Mode, Moment, ReleaseRequest, SessionId};
use crate::session::SessionUse;
use crate::task::Waiting;
use crate::telemetry::Course;
use crate::validity::Validity;

/// One lock that this client has to do with: its driver, and the queue of this process's own tasks for it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
    /// What this process holds of it, and who acquired it.
    owners: Mutex<Vec<Owner>>,
    /// Who of this process waits for it, by their places. There may be thousands, and the first leaves first.
    queue: Mutex<BTreeMap<u64, Queued>>,
    /// What this process holds of it may be passed on without the driver.
    loan: Mutex<Option<Loan>>,
    /// Something is said on the Lease of what these hold elsewhere.
    reports: AtomicBool,
    /// The custom resource lets nobody wait, as far as the driver knows.
    nobody_waits: Arc<AtomicBool>,
}

/// A task that waits: by a place in the cluster's queue, or for its turn in this process.
#[derive(Clone, Debug)]
pub(crate) struct LocalWaiter {
    by: Waiting,
    pub(crate) n: u64,
    pub(crate) mode: Mode,
    /// Its place in the cluster's queue.
    pub(crate) id: Option<HolderId>,
}

#[derive(Debug)]
struct Queued {
    waiter: LocalWaiter,
    /// What it would like to be handed by whoever of this process has the lock.
    order: Option<Box<Order>>,
}

/// A place among those who wait in this process.
#[derive(Debug)]
pub(crate) struct InLine {
    slot: Arc<Slot>,
    pub(crate) n: u64,
}

impl InLine {
    /// Whoever has this place would like to be handed the lock by whoever of this process has it.
    pub(crate) fn park(&self, order: Box<Order>) {
        if let Some(queued) = self.slot.queue().get_mut(&self.n) {
            queued.order = Some(order);
        }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        // What it had parked is dropped when the queue is free again: that takes longer.
        let _queued = self.slot.queue().remove(&self.n);
        // What was said of those who wait holds no longer of those who are left, until it is said anew.
        self.slot.report(Vec::new());
    }
}

/// Names a guard, within this process: several can have one hold, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuardId(u64);

impl GuardId {
    /// One never used before.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Owner {
    guard: GuardId,
    id: HolderId,
    by: Waiting,
    /// Whoever acquired it has it still, or has said who has.
    is_known: bool,
    mode: Mode,
    validity: Arc<Validity>,
}

impl Slot {
    pub(crate) fn new(commands: mpsc::UnboundedSender<Command>, nobody_waits: Arc<AtomicBool>) -> Self {
        Self {
            commands,
            turn: Arc::default(),
            owners: Mutex::default(),
            queue: Mutex::default(),
            loan: Mutex::default(),
            reports: AtomicBool::new(false),
            nobody_waits,
        }
    }

    /// Whether whoever calls this holds it in a way that would never let it have it so, and so would wait for itself.
    pub(crate) fn is_in_its_own_way(&self, wish: &Wish) -> bool {
        let by = Waiting::current();
        let excludes = |held: Mode| match (wish.kind, held, wish.mode) {
            (Kind::Lock, ..) => true,
            // Permits are passed around: who acquired them tells little.
            (Kind::Semaphore, ..) | (_, Mode::Read, Mode::Read | Mode::Upgradeable) => false,
            (Kind::ReadWriteLock, held, wanted) => (held, wanted) != (Mode::Upgradeable, Mode::Read),
        };
        let there = |owner: &&Owner| match owner.validity.check() {
            Ok(()) => true,
            // Its turn comes back with the guard, and is on its way where that is being released.
            Err(LossReason::Released | LossReason::HeldTooLong) => false,
            Err(_) => wish.kind == Kind::Lock,
        };
        self.owners().iter().filter(|owner| owner.by == by && excludes(owner.mode)).any(|owner| there(&owner))
    }

    /// Whoever does not get it at once does not get it.
    pub(crate) fn lets_nobody_wait(&self) -> bool {
        self.nobody_waits.load(Ordering::Acquire)
    }

    /// Whoever calls this has acquired it.
    pub(crate) fn is_acquired(&self, grant: &Grant, mode: Mode, is_known: bool) {
        let (guard, id, validity) = (grant.guard, grant.tenancy.id.clone(), grant.validity.clone());
        self.owners().push(Owner { guard, id, by: Waiting::current(), is_known, mode, validity });
    }

    pub(crate) fn is_changed(&self, guard: GuardId, mode: Mode) {
        self.owners().iter_mut().filter(|owner| owner.guard == guard).for_each(|owner| owner.mode = mode);
    }

    /// It is given back: nobody has it any more, whatever is left of its guard.
    pub(crate) fn is_given_back(&self, guard: GuardId) {
        self.owners().retain(|owner| owner.guard != guard);
    }

    /// Whoever calls this has it from now on, whoever acquired it.
    pub(crate) fn is_adopted(&self, guard: GuardId) {
        let by = Waiting::current();
        let mut owners = self.owners();
        owners
            .iter_mut()
            .filter(|owner| owner.guard == guard)
            .for_each(|owner| (owner.by, owner.is_known) = (by, true));
    }

    /// What this process holds of it, and by which task or thread, as far as that is known.
    pub(crate) fn held(&self) -> Vec<(Waiting, HolderId)> {
        let there = |owner: &&Owner| owner.is_known && owner.validity.check().is_ok();
        self.owners().iter().filter(there).map(|owner| (owner.by, owner.id.clone())).collect()
    }

    /// Says on the Lease what those hold elsewhere who wait for it by this process's place in the queue. Nothing is said
    /// anew that was not said before.
    pub(crate) fn report(&self, holds: Vec<HolderId>) {
        if !self.reports.swap(!holds.is_empty(), Ordering::AcqRel) && holds.is_empty() {
            return;
        }
        let place = self.queue().values().find_map(|queued| queued.waiter.id.clone());
        if let Some(id) = place {
            let _ = self.commands.send(Command::Report(id, holds));
        }
    }

    /// Whoever calls this waits for it, until what is returned is dropped.
    pub(crate) fn waits(self: &Arc<Self>, mode: Mode) -> InLine {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let waiter = LocalWaiter { by: Waiting::current(), n, mode, id: None };
        self.queue().insert(n, Queued { waiter, order: None });
        InLine { slot: self.clone(), n }
    }

    /// Who waits for it in this process, and by which task or thread.
    pub(crate) fn waiting(&self) -> Vec<(Waiting, LocalWaiter)> {
        self.queue().values().map(|queued| (queued.waiter.by, queued.waiter.clone())).collect()
    }

    /// Whether anybody in this process waits for it.
    pub(crate) fn somebody_waits(&self) -> bool {
        !self.queue().is_empty()
    }

    /// Whoever has this place among those who wait in this process waits by this acquisition from now on.
    pub(crate) fn waits_by(&self, n: u64, id: &HolderId) {
        self.queue().get_mut(&n).into_iter().for_each(|queued| queued.waiter.id = Some(id.clone()));
    }

    /// What the first of those who wait in this process has parked, if it would do.
    pub(crate) fn unpark(&self, would_do: impl FnOnce(&Order) -> bool) -> Option<Box<Order>> {
        self.queue().first_entry()?.get_mut().order.take_if(|order| would_do(order))
    }

    /// The driver leaves it to this process's tasks to pass this on, until it takes it back.
    pub(crate) fn lend(&self, loan: Loan) {
        *self.loan() = Some(loan);
    }

    pub(crate) fn take_back(&self) -> Option<Loan> {
        self.loan().take()
    }

    /// Passes what this guard had, which has just been released, on to whoever is next in this process. Otherwise the driver is
    /// to be told of the release.
    pub(crate) fn pass_on(&self, guard: GuardId) -> bool {
        let mut place = self.loan();
        let Some(loan) = place.as_mut().filter(|loan| loan.guard == guard) else { return false };
        let Some(order) = self.unpark(|order| !order.reply.is_closed() && loan.goes_to(order)) else { return false };
        let (reply, grant) = loan.give(*order);
        // If nobody wants it any more, it is dropped, and so released.
        drop(place);
        let _ = reply.send(Ok(grant));
        true
    }

    fn loan(&self) -> MutexGuard<'_, Option<Loan>> {
        self.loan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, BTreeMap<u64, Queued>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owners(&self) -> MutexGuard<'_, Vec<Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a lock's driver is asked to do. What is asked of a hold names its guard, and means no other, nor the next one that
/// has the same hold.
#[derive(Debug)]
pub(crate) enum Command {
    /// Begin an acquisition. If whoever asks goes away, it is given up.
    Acquire(Box<Order>),
    /// Give back what is held, or leave it on the Lease for so long. The answer says whether it was held until then. It is
    /// passed on within the process only where nothing is said of leaving it, and an answer is wanted: a guard that was
    /// dropped may have been cut off.
    Release(GuardId, Option<Duration>, Option<oneshot::Sender<bool>>),
    /// Renew a hold that lives by its own record.
    Renew(GuardId, oneshot::Sender<()>),
    /// Make more or less of a hold. The answer is its fencing token from then on.
    Change(GuardId, Mode, oneshot::Sender<u64>),
    /// Show people this text beside a hold. The answer is why not, if it will not be there.
    Publish(GuardId, String, oneshot::Sender<Result<(), String>>),
    /// It is held until then at least, given back or not.
    Stay(GuardId, Moment),
    /// Say what those hold elsewhere who wait by this acquisition.
    Report(HolderId, Vec<HolderId>),
    /// Somebody wants to be told of a loss, or of a request to let go, at once.
    WatchForLoss(GuardId),
    /// Nobody of this process will ask for it any more: what rests is given back.
    EndRests,
    /// Give up whatever is going on, and begin nothing any more. The answer comes when it is over.
    ShutDown(oneshot::Sender<()>),
}

/// For how long something is held.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stay {
    /// Given back before, it is left on the Lease for the rest.
    pub(crate) at_least: Option<Duration>,
    /// Then it is lost.
    pub(crate) at_most: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) guard: GuardId,
    pub(crate) slot: Arc<Slot>,
    pub(crate) session: SessionUse,
    pub(crate) wish: Wish,
    pub(crate) stay: Stay,
    /// Whether it may be had from another task of this process, and kept for the next.
    pub(crate) terms: Terms,
    /// Its place among those who wait in this process.
    pub(crate) in_line: Option<u64>,
    pub(crate) reply: oneshot::Sender<Result<Grant, Refusal>>,
    /// In this process one acquisition of a lock at a time: the others queue up for this. Whoever has parked this takes it over
    /// with the hold.
    pub(crate) turn: Option<OwnedMutexGuard<()>>,
    /// Who holds the lock and how many wait ahead, as far as known.
    pub(crate) ahead: Ahead,
    pub(crate) course: Course,
}

impl Order {
    /// Whether a lock's hold by this session, which is good, is what was asked for.
    pub(crate) fn is_met_by(&self, resource_id: Option<&Arc<str>>, session: &SessionId) -> bool {
        self.wish.kind == Kind::Lock
            && self.wish.own_duration.is_none()
            && self.wish.resource_id.as_ref() == resource_id
            && self.session.id() == session
            && self.session.validity().check().is_ok()
    }
}

/// What is the same for all guards that have the same hold.
#[derive(Debug)]
pub(crate) struct Tenancy {
    /// As it stands on the Lease.
    pub(crate) id: HolderId,
    /// How many fences were taken under its token.
    pub(crate) fences: AtomicU64,
}

/// A hold. It is released when this is dropped, wherever that happens: in a guard, or on its way to a caller who has
/// just gone away.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) guard: GuardId,
    /// Guards of this process that have the same hold one after the other share it.
    pub(crate) tenancy: Arc<Tenancy>,
    pub(crate) token: u64,
    pub(crate) validity: Arc<Validity>,
    pub(crate) slot: Arc<Slot>,
    /// Who asks for it to be let go, and how.
    pub(crate) request: watch::Receiver<Option<ReleaseRequest>>,
    /// Until when it stays on the Lease though it is given back. Only what somebody has got does.
    pub(crate) stay_until: Option<Moment>,
    pub(crate) released: bool,
}

impl Grant {
    /// For how long it has to stay there still.
    pub(crate) fn rest(&self) -> Option<Duration> {
        rest(self.stay_until)
    }
}

/// For how long something is to stay still, if it is.
pub(crate) fn rest(until: Option<Moment>) -> Option<Duration> {
    until.map(|until| until.since(clock::moment())).filter(|rest| !rest.is_zero())
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.slot.is_given_back(self.guard);
        if !self.released {
            self.validity.lose(LossReason::Released);
            let _ = self.slot.commands.send(Command::Release(self.guard, self.rest(), None));
        }
    }
}
