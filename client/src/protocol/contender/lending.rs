//! Whether what this client holds may go on being its, though the guard is given back.

use super::super::policy::Reclaim;
use super::super::{HolderId, Kind, Moment};
use super::{Contender, Known};

impl Contender {
    /// Whether this hold may be kept, as far as is known. Otherwise it is to be given back as soon as its guard is.
    ///
    /// Against it speaks: another client's waiter, or that what stands on the Lease is not known; a request to let go; what
    /// belongs to the guard and stands beside its hold; a record of its own, by which the hold lives; a longest time for
    /// which anybody may hold it, and a queue in which nobody may wait, and so be seen.
    #[must_use]
    pub fn is_undisputed(&self, id: &HolderId) -> bool {
        let Known::Present(record) = &self.known else { return false };
        let Some(hold) = self.holds.iter().find(|hold| hold.id == *id && !hold.lost) else { return false };
        let Some(holder) = record.holding(id).filter(|_| record.kind == Kind::Lock) else { return false };
        let asked = hold.request.is_some() || holder.request.is_some();
        let marked = hold.payload.is_some() || holder.payload.is_some() || hold.own.is_some() || hold.change.is_some();
        let bounded = record.policy.max_hold.is_some() || record.policy.max_waiters == Some(0);
        let wanted = record.waiters.iter().any(|waiter| waiter.id.session != id.session);
        !(asked || marked || bounded || wanted)
    }

    /// Whether others wait for longer than its session lasts where a holder has died: for a while, or for a person.
    #[must_use]
    pub fn outlives_its_holder(&self) -> bool {
        let Known::Present(record) = &self.known else { return false };
        record.policy.reclaim == Reclaim::Never || !record.policy.lock_delay.is_zero()
    }

    /// What is held is to be read at this time, whether it is watched or not: it is kept back from others for longer than its
    /// guards need it.
    pub fn look_at(&mut self, at: Option<Moment>) {
        self.look_at = at;
    }
}
