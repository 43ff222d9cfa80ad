//! Whether locks are new, as a rule, when this client first has to do with them.

use std::sync::atomic::{AtomicI8, Ordering};

use crate::protocol::contender::{Answer, Denial};

/// By so many the ones are ahead of the others at most, so that a change of habits is soon noticed.
const FAR_AHEAD: i8 = 8;

/// This client may not create any.
const NEVER: i8 = i8::MIN;

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

    /// This came of the first request that had to do with a lock: it was to create it, or else to read it.
    pub(super) fn learn(&self, answer: &Answer, creates: bool) {
        let step = match answer {
            Answer::Denied(Denial::Forbidden, _) if creates => return self.0.store(NEVER, Ordering::Relaxed),
            Answer::Is(_) if creates => 1,
            Answer::Absent => 1,
            Answer::Is(_) | Answer::Refused => -1,
            _ => return,
        };
        let ahead = |by: i8| (by != NEVER).then(|| (by + step).clamp(-FAR_AHEAD, FAR_AHEAD));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, ahead);
    }
}
