//! What is asked of what is held: to give it back, to renew it, to make more or less of it, to say something beside it.

use std::time::Duration;

use super::super::{HolderId, Mode, Moment};
use super::{Contender, Exit, Known, Payload};

impl Contender {
    /// Give up whatever there is of this acquisition: cancel it, or release the hold.
    pub fn leave(&mut self, id: &HolderId) {
        if let Some(turn) = self.turn.take_if(|turn| turn.id == *id) {
            self.exits.push(Exit { id: turn.id, lost: false, ours: true, keep: None });
        }
        self.leave_hold(id, None);
    }

    /// Give up this hold, but leave it on the Lease for so long from then on, by itself.
    pub fn keep(&mut self, id: &HolderId, duration: Duration) {
        self.leave_hold(id, Some(duration));
    }

    fn leave_hold(&mut self, id: &HolderId, keep: Option<Duration>) {
        for hold in self.holds.extract_if(.., |hold| hold.id == *id) {
            self.exits.push(Exit { id: hold.id, lost: hold.lost, ours: false, keep: keep.filter(|_| !hold.lost) });
        }
        self.refusals = 0;
    }

    /// Give up everything.
    pub fn leave_all(&mut self) {
        let turn = self.turn.as_ref().map(|turn| turn.id.clone());
        let ids: Vec<_> = turn.into_iter().chain(self.holds.iter().map(|hold| hold.id.clone())).collect();
        for id in &ids {
            self.leave(id);
        }
    }

    /// How long the request just polled may take, where `usual` is what requests are given.
    ///
    /// What is renewed on this Lease needs time for another attempt. What is not ends at its time whatever is answered: for
    /// its sake nothing is given up, and so nothing made unclear.
    #[must_use]
    pub fn time_limit(&self, now: Moment, usual: Duration) -> Duration {
        let renewed = self.holds.iter().filter(|hold| !hold.lost).filter_map(|hold| hold.own);
        let renewed = renewed.filter(|own| own.renew_at.is_some() && own.deadline > now);
        renewed.map(|own| own.deadline.since(now) / 2).fold(usual, Duration::min)
    }

    /// Renew a hold that lives by its own record now, whether it is due or not.
    pub fn renew_now(&mut self, id: &HolderId, now: Moment) {
        let own = self.holds.iter_mut().filter(|hold| hold.id == *id).find_map(|hold| hold.own.as_mut());
        if let Some(own) = own {
            own.renew_at = Some(now);
        }
    }

    /// Make more or less of a hold: [`Notice::Changed`](super::Notice::Changed) tells when it is. The last wish counts.
    pub fn change(&mut self, id: &HolderId, mode: Mode) {
        if let Some(hold) = self.holds.iter_mut().find(|hold| hold.id == *id) {
            hold.change = Some(mode);
        }
    }

    /// Show people this text beside a hold, as long as it lasts: [`Notice::Published`](super::Notice::Published) tells when it is there.
    /// False: it does not last any more.
    pub fn publish(&mut self, id: &HolderId, text: String) -> bool {
        let hold = self.holds.iter_mut().find(|hold| hold.id == *id && !hold.lost);
        hold.map(|hold| hold.payload = Some(Payload { text, awaited: true })).is_some()
    }

    /// It is to be watched for the loss of what is held, whether anybody asked for that or not: whoever does not let go
    /// when it is asked to loses it, or who holds it for longer than the resource allows.
    #[must_use]
    pub fn is_evicted_on_request(&self) -> bool {
        matches!(&self.known, Known::Present(record) if record.evicts_on_request || record.policy.max_hold.is_some())
            && self.holds.iter().any(|hold| !hold.lost)
    }

    /// Whether there is nothing to do but to hold: what is watched then is the loss of it, and nobody waits for that here.
    #[must_use]
    pub fn only_holds(&self) -> bool {
        let nothing_else = self.turn.is_none() && self.exits.is_empty() && matches!(self.known, Known::Present(_));
        let holds = !self.holds.is_empty() && self.holds.iter().all(|hold| hold.change.is_none());
        nothing_else && holds && !self.is_evicted_on_request()
    }
}
