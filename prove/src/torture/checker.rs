//! Reads what the workers wrote down, and says what cannot be.
//!
//! A pure function: histories in, verdict out. What may be claimed of a hold, and what not:
//!
//! - A successful check says that the guard was valid at some moment between its beginning and its end, and what is
//!   valid then has been valid since the grant. So a hold is claimed from the *start* of its first successful check to
//!   the *start* of its last one.
//! - A write that comes right after a check belongs to the hold as long as the client's slack lasts: a deadline is that
//!   much before anyone else can acquire. If the process was stopped between the check and the write, no check could
//!   have told; such writes are counted, and are what tokens are for.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{FaultLine, History, Hold, Nanos, Outcome, Share, Span, Wait};

mod shared;
#[cfg(test)]
mod tests;

/// All that is known of a run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What the workers wrote down.
    pub histories: Vec<History>,
    /// What befell them.
    pub faults: Vec<FaultLine>,
    /// What is stored in the end, by lock, where tokens are compared.
    pub stored: BTreeMap<String, Stored>,
    /// How long after the start of a successful check a write still belongs to the hold.
    pub slack: Nanos,
    /// How many permits a semaphore has, where nobody has changed that.
    pub permits: u32,
    /// Times in which everybody must be served, one after the other.
    pub quiet: Vec<Quiet>,
}

/// What is stored where tokens are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// How many writes there have been.
    pub counter: u64,
    /// The token of the last one.
    pub token: u64,
}

/// A time in which everybody must be served.
#[derive(Clone, Debug, Default)]
pub struct Quiet {
    /// Which one.
    pub when: &'static str,
    /// When it began.
    pub from: Nanos,
    /// When it was over.
    pub to: Nanos,
    /// By when everybody must have got a lock.
    pub limit: Nanos,
    /// The processes that are there to the end.
    pub live: Vec<String>,
    /// How many others may get the lock between somebody's asking and getting.
    pub turns: usize,
}

/// What the checker found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// What cannot be.
    pub violations: Vec<Violation>,
    /// Acquisitions.
    pub holds: usize,
    /// How many of these, and of changes of what was held, were of which sort.
    pub by_sort: BTreeMap<&'static str, usize>,
    /// The most permits that were held at the same time.
    pub most_permits: u32,
    /// The most readers at the same time.
    pub most_readers: usize,
    /// How many were surely let in while there were fewer permits.
    pub let_in_while_shrunk: usize,
    /// Successful checks.
    pub checks: usize,
    /// Unfenced writes that followed a check.
    pub appends: usize,
    /// Unfenced writes that overlapped somebody else's hold, by holders that did not look.
    pub overlaps: usize,
    /// Unfenced writes that came too long after their check, because the process was stopped in between.
    pub late: usize,
    /// Fenced writes that were acknowledged, under locks.
    pub fenced: usize,
    /// And those of who had a read-write lock to write.
    pub fenced_by_writers: usize,
    /// Fenced writes that were refused for a token too small.
    pub refused: usize,
    /// Fenced writes of which no answer told.
    pub unclear: usize,
    /// Overlaps that a person made, by breaking a lock.
    pub excused: usize,
    /// The longest wait of all that ended with the lock.
    pub longest: Nanos,
    /// The longest time that anybody was without a lock, and the most others that got one while somebody waited for it;
    /// for each [`Quiet`].
    pub served: Vec<(Nanos, usize)>,
}

/// Something that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What.
    pub told: String,
    /// When about.
    pub at: Span,
}

/// Checks a run.
#[must_use]
pub fn check(run: &Run) -> Verdict {
    let mut verdict = Verdict::default();
    let (mut holds, mut waits) = (Vec::new(), Vec::new());
    for history in &run.histories {
        let (more, others) = history.told();
        holds.extend(more);
        waits.extend(others);
    }
    count(&holds, &waits, run, &mut verdict);
    let mut by_lock: BTreeMap<&str, Vec<&Hold>> = BTreeMap::new();
    for hold in &holds {
        by_lock.entry(&hold.lock).or_default().push(hold);
    }
    for (lock, holds) in by_lock {
        if holds.iter().any(|hold| hold.share.is_shared()) {
            shared::check(lock, &holds, run, &mut verdict);
        } else {
            exclusion(&holds, run, &mut verdict);
            tokens(&holds, run, &mut verdict);
        }
        updates(lock, &holds, run, &mut verdict);
        losses(&holds, run, &mut verdict);
    }
    for quiet in &run.quiet {
        service(&holds, &waits, quiet, &mut verdict);
    }
    ends_of_waits(&waits, &run.quiet, &mut verdict);
    verdict
}

impl Verdict {
    fn violation(&mut self, at: Span, told: String) {
        self.violations.push(Violation { told, at });
    }
}

fn count(holds: &[Hold], waits: &[Wait], run: &Run, verdict: &mut Verdict) {
    verdict.holds = holds.iter().filter(|hold| !hold.changed).count();
    for hold in holds {
        *verdict.by_sort.entry(sort(hold)).or_default() += 1;
    }
    verdict.checks = holds.iter().map(|hold| hold.checks.len()).sum();
    let appends = || holds.iter().flat_map(|hold| &hold.appends);
    let late = |checked: Nanos, to: Nanos| to.saturating_sub(checked) > run.slack;
    verdict.appends = appends().filter(|append| append.checked.is_some()).count();
    verdict.longest = waits.iter().filter_map(|wait| Some(wait.got? - wait.from)).max().unwrap_or(0);
    for hold in holds {
        let last = hold.checks.last().map_or(0, |check| check.from);
        let is_late = |to, checked: Option<Nanos>| checked.is_some_and(|checked| late(checked, to) && last < to);
        verdict.late += hold.appends.iter().filter(|append| is_late(append.span.to, append.checked)).count();
        for fence in &hold.fences {
            match &fence.outcome {
                Some(Outcome::Written { .. }) if hold.share.is_shared() => verdict.fenced_by_writers += 1,
                Some(Outcome::Written { .. }) => verdict.fenced += 1,
                Some(Outcome::Refused { .. }) => verdict.refused += 1,
                Some(Outcome::Failed { .. }) => {}
                Some(Outcome::Unclear { .. }) | None => verdict.unclear += 1,
            }
        }
    }
}

/// What an acquisition, or a change of what was held, is counted as.
fn sort(hold: &Hold) -> &'static str {
    match (hold.share, hold.changed) {
        (Share::Lock, _) => "of locks",
        (Share::Permits(_), false) => "of permits",
        (Share::Read, false) => "to read",
        (Share::Upgradeable, false) => "to read, upgradeable",
        (Share::Write, false) => "to write",
        (Share::Write, true) => "upgraded",
        (Share::Upgradeable | Share::Read, true) => "downgraded",
        (Share::Permits(_), true) => "permits given back in part",
    }
}

/// For how long a hold was surely valid. `None` where no check has told.
fn claim(hold: &Hold, slack: Nanos) -> Option<Span> {
    let from = hold.checks.first()?.from;
    let last = hold.checks.last()?.from;
    let writes = hold.appends.iter().filter_map(|append| {
        let in_time = append.span.to.saturating_sub(append.checked?) <= slack;
        in_time.then_some(append.span.to)
    });
    Some(Span { from, to: writes.chain([last]).max()? })
}

/// Whether a person took this hold away while it lasted.
fn broken(hold: &Hold, end: Nanos, faults: &[FaultLine]) -> bool {
    faults.iter().any(|fault| fault.span.from <= end && fault.broke.contains(&hold.id))
}

/// Holds that are live do not overlap.
fn exclusion(holds: &[&Hold], run: &Run, verdict: &mut Verdict) {
    let mut claims: Vec<(Span, &Hold)> =
        holds.iter().filter_map(|hold| Some((claim(hold, run.slack)?, *hold))).collect();
    claims.sort_by_key(|(span, _)| span.from);
    // Those that may still go on.
    let mut open: Vec<(Span, &Hold)> = Vec::new();
    for &(span, hold) in &claims {
        open.retain(|(other, _)| other.to > span.from);
        for &(other, before) in &open {
            let ((old, older), (new, newer)) = if before.token <= hold.token {
                ((other, before), (span, hold))
            } else {
                ((span, hold), (other, before))
            };
            if older.token != newer.token && broken(older, old.to, &run.faults) {
                verdict.excused += 1;
                continue;
            }
            let told = format!(
                "two guards of {} were valid at the same time: {} (token {}, {}) at {old}, and {} (token {}, {}) at {new}",
                hold.lock, older.id, older.token, older.worker, newer.id, newer.token, newer.worker,
            );
            verdict.violation(Span { from: span.from, to: other.to.min(span.to) }, told);
        }
        open.push((span, hold));
    }
    let careless = holds.iter().flat_map(|hold| {
        hold.appends.iter().filter(|append| append.checked.is_none()).map(|append| (append.span, hold.token))
    });
    verdict.overlaps += careless
        .filter(|(write, token)| {
            claims.iter().any(|(span, hold)| hold.token != *token && span.from < write.to && write.from < span.to)
        })
        .count();
}

/// Tokens grow with the order of holds, and no two are the same.
fn tokens(holds: &[&Hold], run: &Run, verdict: &mut Verdict) {
    let mut seen: BTreeMap<u64, &Hold> = BTreeMap::new();
    for hold in holds {
        if let Some(other) = seen.insert(hold.token, hold) {
            let told =
                format!("the token {} of {} was given to {} and to {}", hold.token, hold.lock, other.id, hold.id);
            verdict.violation(hold.acquired, told);
        }
    }
    let mut claims: Vec<(Span, &Hold)> =
        holds.iter().filter_map(|hold| Some((claim(hold, run.slack)?, *hold))).collect();
    claims.sort_by_key(|(span, _)| span.from);
    let mut largest: Option<(Span, &Hold)> = None;
    for (span, hold) in claims {
        match largest {
            Some((_, before)) if before.token > hold.token => {
                if broken(hold, span.to, &run.faults) {
                    verdict.excused += 1;
                    continue;
                }
                let told = format!(
                    "a token of {} is smaller than one before: {} has {} at {span}, and {} had {}",
                    hold.lock, hold.id, hold.token, before.id, before.token
                );
                verdict.violation(span, told);
            }
            _ => largest = Some((span, hold)),
        }
    }
}

/// No fenced write was lost, and none came after one with a larger token.
fn updates(lock: &str, holds: &[&Hold], run: &Run, verdict: &mut Verdict) {
    let mut written: BTreeMap<u64, &Hold> = BTreeMap::new();
    let mut possible: BTreeSet<u64> = BTreeSet::new();
    for hold in holds {
        for fence in &hold.fences {
            match (&fence.outcome, fence.counter) {
                (Some(Outcome::Written { counter }), _) => {
                    if let Some(other) = written.insert(*counter, hold) {
                        let told = format!(
                            "an update of {lock} is lost: both {} and {} were told that they wrote number {counter}",
                            other.id, hold.id
                        );
                        verdict.violation(fence.span, told);
                    }
                }
                (Some(Outcome::Unclear { .. }) | None, Some(counter)) => {
                    possible.insert(counter);
                }
                (Some(Outcome::Refused { stored }), _) => {
                    // Valid before and after: then nobody can have been there with a larger token, but by a person's doing.
                    let valid = claim(hold, 0).is_some_and(|span| span.to > fence.span.to);
                    if valid && !broken(hold, fence.span.to, &run.faults) {
                        let told = format!(
                            "a fenced write of {} was refused while it held {lock}: its token is {}, stored was {stored}",
                            hold.id, hold.token
                        );
                        verdict.violation(fence.span, told);
                    }
                }
                _ => {}
            }
        }
    }
    let mut before: Option<(&u64, &&Hold)> = None;
    for entry in &written {
        if let Some((number, earlier)) = before
            && earlier.token > entry.1.token
        {
            let told = format!(
                "number {number} of {lock} was written with token {}, and number {} after it with token {}",
                earlier.token, entry.0, entry.1.token
            );
            verdict.violation(entry.1.acquired, told);
        }
        before = Some(entry);
    }
    let last = written.keys().next_back().copied().unwrap_or(0);
    let stored = run.stored.get(lock).copied().unwrap_or_default();
    let end = holds.iter().map(|hold| hold.acquired.to).max().unwrap_or(0);
    let at = Span { from: end, to: end };
    if stored.counter < last {
        verdict.violation(at, format!("updates of {lock} are lost: {} are stored, {last} were told", stored.counter));
    }
    let unknown: Vec<u64> =
        (1..=stored.counter).filter(|number| !written.contains_key(number) && !possible.contains(number)).collect();
    if !unknown.is_empty() {
        verdict.violation(at, format!("nobody wrote these numbers of {lock}: {unknown:?}"));
    }
    let largest = written.values().map(|hold| hold.token).max().unwrap_or(0);
    if stored.token < largest {
        verdict.violation(at, format!("the token stored for {lock} is {}, and {largest} was written", stored.token));
    }
}

/// What lives by a session is taken away by a person alone, as long as the session lasts.
fn losses(holds: &[&Hold], run: &Run, verdict: &mut Verdict) {
    for (hold, at) in holds.iter().filter_map(|hold| Some((hold, hold.taken?))) {
        if !broken(hold, at.to, &run.faults) {
            let told = format!("{} was told that somebody took {} away, and nobody did", hold.id, hold.lock);
            verdict.violation(at, told);
        }
    }
}

/// No wait is still going on in the end that has for as long as anybody may have to wait.
fn ends_of_waits(waits: &[Wait], quiet: &[Quiet], verdict: &mut Verdict) {
    let (Some(first), Some(last)) = (quiet.first(), quiet.last()) else { return };
    let longest = quiet.iter().map(|quiet| quiet.limit.saturating_sub(quiet.from)).max().unwrap_or(0);
    for wait in waits.iter().filter(|wait| last.live.contains(&wait.worker) && wait.over.is_none_or(|at| at > last.to))
    {
        let from = wait.from.max(first.from);
        if last.to.saturating_sub(from) > longest {
            let told = format!("{} still waited for {} ({:?}) in the end", wait.worker, wait.lock, wait.share);
            verdict.violation(Span { from, to: last.to }, told);
        }
    }
}

/// Everybody gets a lock, and in turn.
fn service(holds: &[Hold], waits: &[Wait], quiet: &Quiet, verdict: &mut Verdict) {
    let (mut worst, mut most) = (0, 0);
    for worker in &quiet.live {
        let got = holds.iter().filter(|hold| hold.worker == *worker && !hold.changed).map(|hold| hold.acquired.to);
        let first = got.filter(|&got| got >= quiet.from).min();
        let without = first.unwrap_or(quiet.to).saturating_sub(quiet.from);
        worst = worst.max(without);
        if first.is_none_or(|first| first > quiet.limit) {
            let told = format!("{worker} got no lock for {} ms {}", without / 1_000_000, quiet.when);
            verdict.violation(Span { from: quiet.from, to: quiet.limit }, told);
        }
    }
    for wait in waits.iter().filter(|wait| wait.from >= quiet.from) {
        let Some(got) = wait.got.filter(|&got| got <= quiet.to) else { continue };
        let others = holds.iter().filter(|hold| hold.lock == wait.lock && hold.worker != wait.worker && !hold.changed);
        let turns = others.filter(|hold| wait.from < hold.acquired.to && hold.acquired.to < got).count();
        most = most.max(turns);
        if turns > quiet.turns {
            let told = format!(
                "{} was passed over {}: {turns} others got {} while it waited",
                wait.worker, quiet.when, wait.lock
            );
            verdict.violation(Span { from: wait.from, to: got }, told);
        }
    }
    verdict.served.push((worst, most));
}
