//! Until when something may be believed in, and that its end is for good.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::error::LossReason;
use crate::protocol::Moment;

/// A deadline that can be put off while it has not passed, and never after.
#[derive(Debug)]
pub(crate) struct Validity {
    /// Nanoseconds of the deadline by this machine's clock; [`OVER`] when it is over.
    until: AtomicU64,
    reason: OnceLock<LossReason>,
    /// From when on it was over.
    ended: OnceLock<Moment>,
    /// Made when somebody asks for it: of most guards nobody does.
    lost: OnceLock<CancellationToken>,
    /// It is over when this is.
    parent: Option<Arc<Validity>>,
    /// It is over then, however often it is renewed.
    at_most_until: Moment,
    /// Nor may it stay on the Lease for longer than until then, held or kept.
    kept_at_most_until: Option<Moment>,
}

const OVER: u64 = 0;

impl Validity {
    /// Valid until then.
    pub(crate) fn until(deadline: Moment) -> Self {
        Self::new(deadline, None)
    }

    /// Valid as long as `parent` is.
    pub(crate) fn within(parent: Arc<Validity>) -> Self {
        Self::new(Moment::from_start(Duration::MAX), Some(parent))
    }

    fn new(deadline: Moment, parent: Option<Arc<Validity>>) -> Self {
        let at_most_until = Moment::from_start(Duration::MAX);
        let until = AtomicU64::new(nanos(deadline));
        Self {
            until,
            reason: OnceLock::new(),
            ended: OnceLock::new(),
            lost: OnceLock::new(),
            parent,
            at_most_until,
            kept_at_most_until: None,
        }
    }

    /// And then it is over, however often it is renewed.
    pub(crate) fn at_most_until(self, end: Moment) -> Self {
        Self { at_most_until: end, ..self }
    }

    /// And then nothing of it may be left on the Lease.
    pub(crate) fn kept_at_most_until(self, end: Option<Moment>) -> Self {
        Self { kept_at_most_until: end, ..self }
    }

    /// Until when it may be left on the Lease, where that is bounded.
    pub(crate) fn is_kept_at_most_until(&self) -> Option<Moment> {
        self.kept_at_most_until
    }

    /// Whether it is still valid, by the clock and at this very moment. Once it is not, it never is again.
    pub(crate) fn check(&self) -> Result<(), LossReason> {
        self.check_at(clock::moment())
    }

    fn check_at(&self, now: Moment) -> Result<(), LossReason> {
        if let Some(parent) = &self.parent {
            parent.check_at(now)?;
        }
        let until = self.until.load(Ordering::Acquire);
        let too_long = now >= self.at_most_until;
        if until != OVER && nanos(now) < until && !too_long {
            return Ok(());
        }
        self.lose(if too_long { LossReason::HeldTooLong } else { LossReason::Expired });
        Err(self.reason.get().copied().unwrap_or(LossReason::Expired))
    }

    /// Puts the deadline off, unless it has passed. A nearer deadline than the present one changes nothing.
    pub(crate) fn extend_to(&self, deadline: Moment) -> Result<(), LossReason> {
        let wanted = nanos(deadline);
        let mut until = self.until.load(Ordering::Acquire);
        loop {
            if until == OVER || nanos(clock::moment()) >= until {
                return self.check();
            }
            match self.until.compare_exchange_weak(until, until.max(wanted), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => until = now,
            }
        }
    }

    /// Ends it.
    pub(crate) fn lose(&self, reason: LossReason) {
        let _ = self.reason.set(reason);
        let until = self.until.swap(OVER, Ordering::AcqRel);
        if until != OVER {
            let _ = self.ended.set(Moment::from_start(Duration::from_nanos(until)).min(clock::moment()));
        }
        fence(Ordering::SeqCst);
        self.lost.get().inspect(|lost| lost.cancel());
    }

    /// For how long it has been over, by the clock and at this very moment. `None` while it is not.
    pub(crate) fn over_for(&self) -> Option<Duration> {
        let over = self.check().is_err();
        over.then(|| self.ended.get().map_or(Duration::ZERO, |ended| clock::moment().since(*ended)))
    }

    /// How long it is valid from now on if nothing renews it; zero when it is over.
    pub(crate) fn remaining(&self) -> Duration {
        if self.check().is_err() {
            return Duration::ZERO;
        }
        let until = Moment::from_start(Duration::from_nanos(self.until.load(Ordering::Acquire)));
        let own = until.min(self.at_most_until).since(clock::moment());
        self.parent.as_ref().map_or(own, |parent| own.min(parent.remaining()))
    }

    /// It lives by something else, not by a deadline of its own.
    pub(crate) fn has_parent(&self) -> bool {
        self.parent.is_some()
    }

    /// Cancelled when it is over.
    pub(crate) fn lost(&self) -> &CancellationToken {
        let parent = self.parent.as_ref().map(|parent| parent.lost());
        let lost = self.lost.get_or_init(|| parent.map_or_else(CancellationToken::new, CancellationToken::child_token));
        // Either whoever ends it finds the token, or it is found here that it has ended.
        fence(Ordering::SeqCst);
        if self.is_over() {
            lost.cancel();
        }
        lost
    }

    /// Whether it is known to be over. That its time has passed is told by [`check`](Self::check) alone.
    pub(crate) fn is_over(&self) -> bool {
        let over = self.until.load(Ordering::Acquire) == OVER;
        over || self.parent.as_ref().is_some_and(|parent| parent.is_over())
    }
}

/// As it is kept in one word; never [`OVER`].
fn nanos(moment: Moment) -> u64 {
    u64::try_from(moment.since_start().as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn what_is_over_stays_over_also_if_a_late_renewal_succeeds() {
        let validity = Validity::until(clock::moment());
        let later = clock::moment() + Duration::from_secs(60);
        assert_eq!(validity.extend_to(later), Err(LossReason::Expired));
        assert_eq!(validity.check(), Err(LossReason::Expired));
        assert!(validity.lost().is_cancelled());
        assert_eq!(validity.remaining(), Duration::ZERO);
    }

    #[test]
    fn what_may_not_be_held_any_longer_is_over_by_the_clock_alone() {
        let session = Arc::new(Validity::until(clock::moment() + Duration::from_secs(60)));
        let bounded = Validity::within(session).at_most_until(clock::moment() + Duration::from_secs(30));
        assert!(bounded.remaining() <= Duration::from_secs(30) && bounded.check().is_ok());
        let over = Validity::until(clock::moment() + Duration::from_secs(60)).at_most_until(clock::moment());
        assert_eq!(over.extend_to(clock::moment() + Duration::from_secs(90)), Ok(()));
        assert_eq!(over.check(), Err(LossReason::HeldTooLong));
    }

    #[test]
    fn whoever_asks_for_the_token_hears_of_an_end_before_and_meanwhile() {
        let over = Validity::until(clock::moment() + Duration::from_secs(60));
        over.lose(LossReason::Broken);
        assert!(over.lost().is_cancelled());
        for _ in 0..2000 {
            let session = Arc::new(Validity::until(clock::moment() + Duration::from_secs(60)));
            let hold = Validity::within(session.clone());
            let together = Barrier::new(2);
            let lost = std::thread::scope(|scope| {
                scope.spawn(|| {
                    together.wait();
                    session.lose(LossReason::Expired);
                });
                together.wait();
                hold.lost().clone()
            });
            assert!(lost.is_cancelled());
        }
    }

    #[test]
    fn a_deadline_moves_forward_only() {
        let validity = Validity::until(clock::moment() + Duration::from_secs(60));
        validity.extend_to(clock::moment()).unwrap();
        assert!(validity.remaining() > Duration::from_secs(50));
    }

    #[test]
    fn a_hold_ends_with_its_session_and_alone() {
        let session = Arc::new(Validity::until(clock::moment() + Duration::from_secs(60)));
        let (broken, other) = (Validity::within(session.clone()), Validity::within(session.clone()));
        broken.lose(LossReason::Broken);
        assert_eq!(broken.check(), Err(LossReason::Broken));
        assert_eq!(other.check(), Ok(()));
        session.lose(LossReason::Expired);
        assert_eq!(other.check(), Err(LossReason::Expired));
        assert!(other.lost().is_cancelled());
    }
}
