//! What tasks of one process pass on among themselves, and what lingers: whether others are kept waiting for it, and
//! whether anything is passed on that must not be.

use std::collections::BTreeMap;
use std::time::Duration;

use leasehold::protocol::{Record, SessionId};

use super::server::AT_ONCE;

/// Where nothing goes wrong, who waits has what was released after so long.
const PROMPT: Duration = Duration::from_secs(1);

/// No clock is slower than that, and what was decided takes so long to be seen.
const SLOWEST: f64 = 1.01;
const SLACK: Duration = Duration::from_millis(50);

/// One tenancy of a lock, and its guards.
#[derive(Clone, Debug)]
struct Tenancy {
    id: String,
    token: u64,
    /// When whoever had it first asked for it, and got it.
    asked: Duration,
    since: Duration,
    /// Since when it is passed on.
    lent_since: Option<Duration>,
    /// The last guard was released, and not dropped or lost.
    done: bool,
    /// Somebody has taken it away by hand.
    broken: bool,
}

/// What was last held of each lock, and by whom.
#[derive(Debug, Default)]
pub(super) struct Tenancies {
    last: BTreeMap<usize, Tenancy>,
    /// Others have come after those that were taken away by hand, and their processes may not know it yet.
    taken: BTreeMap<(usize, String), Tenancy>,
    /// Since when it has been there to be had.
    freed: BTreeMap<usize, Duration>,
}

/// What was handed to a task.
pub(super) struct Handed<'a> {
    pub(super) lock: usize,
    pub(super) id: &'a str,
    pub(super) token: u64,
    pub(super) asked: Duration,
    pub(super) now: Duration,
    /// Nothing goes wrong in this run.
    pub(super) calm: bool,
    /// It is watched while it is kept back.
    pub(super) watched: bool,
    /// For how long it may be passed on unheard, if that can be told.
    pub(super) bound: Option<Duration>,
    /// When somebody broke it last, by hand.
    pub(super) broken: Option<Duration>,
    /// Who of others has waited for it for longest, and since when.
    pub(super) waiter: Option<(String, Duration)>,
}

impl Tenancies {
    /// A guard was handed out. When its tenancy was asked for, if another task of the process had it before.
    pub(super) fn handed(&mut self, handed: &Handed<'_>) -> Result<Option<Duration>, String> {
        let Handed { lock, id, token, asked, now, .. } = *handed;
        let freed = self.freed.remove(&lock);
        if let Some(tenancy) = self.known(lock, id) {
            let before = tenancy.clone();
            (tenancy.done, tenancy.lent_since) = (false, before.lent_since.or(Some(now)));
            before.judge(handed)?;
            return Ok(Some(before.asked));
        }
        // It may have been taken away on its way to its guard.
        let broken = handed.broken.is_some_and(|broken| broken >= asked);
        let tenancy = Tenancy { id: id.to_owned(), token, asked, since: now, lent_since: None, done: false, broken };
        let before = self.last.insert(lock, tenancy).filter(|before| before.broken);
        let unheard = self.forget_taken(lock, id);
        if let Some(before) = before.filter(|before| session_of(&before.id) != session_of(id)) {
            self.taken.insert((lock, before.id.clone()), before);
        }
        match freed.map(|freed| now.saturating_sub(freed.max(asked))) {
            Some(waited) if handed.calm && waited > PROMPT && !unheard => {
                Err(format!("what had been released was waited for, for {waited:?}"))
            }
            _ => Ok(None),
        }
    }

    /// A process that has a lock anew knows of what was taken from it before. Whether there was anything: who waited for it
    /// may have waited for another task of the process, which did not know it yet.
    fn forget_taken(&mut self, lock: usize, id: &str) -> bool {
        let before = self.taken.len();
        self.taken.retain(|(of, taken), _| *of != lock || session_of(taken) != session_of(id));
        self.taken.len() < before
    }

    /// Somebody by hand has to do with it: when it is to be had nobody can tell.
    pub(super) fn broken(&mut self, lock: usize) {
        self.freed.remove(&lock);
        self.last.entry(lock).and_modify(|tenancy| tenancy.broken = true);
    }

    /// Its guard is being released.
    pub(super) fn done(&mut self, lock: usize, id: &str, now: Duration) {
        let Some(tenancy) = self.known(lock, id) else { return };
        tenancy.done = true;
        if !tenancy.broken {
            self.freed.insert(lock, now);
        }
    }

    /// The last tenancy, or one that was taken away.
    fn known(&mut self, lock: usize, id: &str) -> Option<&mut Tenancy> {
        let last = self.last.get_mut(&lock).filter(|tenancy| tenancy.id == id);
        last.or_else(|| self.taken.get_mut(&(lock, id.to_owned())))
    }
}

impl Tenancy {
    /// Whether this could be handed to another task of its process.
    fn judge(&self, handed: &Handed<'_>) -> Result<(), String> {
        let Handed { token, now, calm, watched, bound, .. } = *handed;
        if token != self.token {
            return Err(format!("token {token} is of the tenancy that had {}", self.token));
        }
        if !self.done {
            return Err("it was passed on, and its guard had not been released".to_owned());
        }
        // For how long that could have been known, if it is for too long.
        let overdue = |then: Duration| {
            let passed = now.saturating_sub(then);
            let seen = now.saturating_sub(then.max(self.lent_since.unwrap_or(now)));
            let late = bound.is_some_and(|bound| passed > bound.mul_f64(SLOWEST) + SLACK);
            (late || (calm && watched && seen > AT_ONCE)).then_some(passed)
        };
        let broken = handed.broken.filter(|broken| calm && *broken > self.since);
        if let Some(passed) = broken.and_then(overdue) {
            return Err(format!("it was passed on {passed:?} after somebody had broken it"));
        }
        let waiter = handed.waiter.as_ref();
        if let Some((waiter, passed)) = waiter.and_then(|(waiter, joined)| Some((waiter, overdue(*joined)?))) {
            return Err(format!("it was passed on while {waiter} had waited for {passed:?}"));
        }
        Ok(())
    }
}

/// Of whose holds this is the id of one.
fn session_of(id: &str) -> &str {
    id.rsplit_once('.').map_or(id, |(session, _)| session)
}

/// Since when who waits has waited, as the API server knows it.
#[derive(Debug, Default)]
pub(super) struct Joins(BTreeMap<(String, String), (SessionId, Duration)>);

impl Joins {
    /// A lock's Lease is like this now, or is not there any more.
    pub(super) fn saw(&mut self, name: &str, record: Option<&Record>, now: Duration) {
        let waiters = record.map(|record| record.waiters.as_slice()).unwrap_or_default();
        self.0.retain(|(lock, id), _| lock != name || waiters.iter().any(|waiter| waiter.id.to_string() == *id));
        for waiter in waiters {
            let place = (name.to_owned(), waiter.id.to_string());
            self.0.entry(place).or_insert((waiter.id.session.clone(), now));
        }
    }

    /// Who has waited for longest, of those that are not of the process that has this id.
    pub(super) fn longest(&self, name: &str, id: &str) -> Option<(String, Duration)> {
        let others =
            self.0.iter().filter(|((lock, _), (session, _))| lock == name && session.as_str() != session_of(id));
        let (place, (_, since)) = others.min_by_key(|(_, (_, since))| *since)?;
        Some((place.1.clone(), *since))
    }
}
