//! Whether locks are new, as a rule, when this client first has to do with them.

use std::sync::atomic::{AtomicI8, Ordering};

use crate::protocol::contender::Answer;

/// By so many the ones are ahead of the others at most, so that a change of habits is noticed, and so many guesses at most
/// can turn out wrong at once.
const FAR_AHEAD: i8 = 32;

/// By how many those are ahead of whose Leases there were none yet.
///
/// Where most are new, a lock is created without a look: one request instead of two, and three instead of two where it is
/// there after all.
#[derive(Debug, Default)]
pub(crate) struct Names(AtomicI8);

impl Names {
    pub(super) fn are_mostly_new(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// One is taken to be new. Until it is known to be, it counts as one that is not.
    pub(super) fn guessed(&self) {
        self.step(-1);
    }

    /// This came of the first request that had to do with a lock: it was to create it, or else to read it.
    pub(super) fn learn(&self, answer: &Answer, creates: bool) {
        match answer {
            Answer::Is(_) if creates => self.step(2),
            Answer::Denied(..) if creates => self.0.store(-FAR_AHEAD, Ordering::Relaxed),
            Answer::Absent => self.step(1),
            Answer::Is(_) => self.step(-1),
            _ => {}
        }
    }

    fn step(&self, by: i8) {
        let ahead = |ahead: i8| Some((ahead + by).clamp(-FAR_AHEAD, FAR_AHEAD));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, ahead);
    }
}
