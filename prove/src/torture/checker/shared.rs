//! Semaphores and read-write locks: what several hold must go together at every moment.
//!
//! A hold is claimed as that of a lock is. While it becomes more or less than it was, the weaker of both is claimed.

use std::collections::BTreeMap;

use super::super::history::{FaultLine, Hold, Nanos, Share, Span};
use super::{Run, Verdict, broken, claim};

/// How much of it was surely held, and for how long.
struct Part<'a> {
    span: Span,
    share: Share,
    hold: &'a Hold,
    /// With this the hold began, or became the writer's: it had been let in between its asking and the beginning of this.
    admitted: bool,
}

/// A time in which there were fewer permits.
struct Shrink {
    span: Span,
    permits: u32,
}

/// Checks all holds of one name.
pub(super) fn check(name: &str, holds: &[&Hold], run: &Run, verdict: &mut Verdict) {
    let parts = parts(holds, run.slack);
    together(&parts, run, verdict);
    for shrink in shrinks(name, &run.faults) {
        shrunk(&parts, &shrink, run, verdict);
    }
    tokens(name, holds, run, verdict);
    tokens_of_those_who_exclude_each_other(&parts, run, verdict);
}

/// By their beginnings.
fn parts<'a>(holds: &[&'a Hold], slack: Nanos) -> Vec<Part<'a>> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    // What is known of the hold before: until when, and the least that it can have been since.
    let mut before: Option<(&Hold, Nanos, Share)> = None;
    for &hold in holds {
        let of_before = before.take().filter(|(had, ..)| had.id == hold.id && hold.changed);
        let span = claim(hold, slack);
        if let Some((_, until, share)) = of_before {
            let share = share.weaker(hold.share);
            match span {
                Some(span) => {
                    let between = Span { from: until, to: span.from };
                    parts.push(Part { span: between, share, hold, admitted: false });
                }
                None => before = Some((hold, until, share)),
            }
        }
        if let Some(span) = span {
            let admitted = !hold.changed || hold.share == Share::Write;
            parts.push(Part { span, share: hold.share, hold, admitted });
            before = Some((hold, span.to, hold.share));
        }
    }
    parts.sort_by_key(|part| part.span.from);
    parts
}

fn permits(share: Share) -> u32 {
    match share {
        Share::Permits(permits) => permits,
        _ => 0,
    }
}

/// Why these cannot be held at the same time, where so many permits are all there are.
fn too_much(shares: &[Share], all: u32) -> Option<&'static str> {
    let count = |wanted| shares.iter().filter(|share| **share == wanted).count();
    if shares.iter().copied().map(permits).sum::<u32>() > all {
        Some("more permits were held than there are")
    } else if count(Share::Write) > 0 && shares.len() > 1 {
        Some("a writer was not alone")
    } else if count(Share::Upgradeable) > 1 {
        Some("two readers could become the writer")
    } else {
        None
    }
}

fn tell(parts: &[&Part<'_>]) -> String {
    let one = |part: &&Part<'_>| {
        let Part { span, share, hold, .. } = part;
        format!("{share:?} by {} (token {}, {}) at {span}", hold.id, hold.token, hold.worker)
    };
    parts.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Goes through the beginnings of all parts, with those that are held at each: more is held only where one begins.
fn at_each<'a>(parts: &'a [Part<'a>], mut look: impl FnMut(&'a Part<'a>, &[&'a Part<'a>])) {
    let mut open: Vec<&Part<'_>> = Vec::new();
    for part in parts {
        open.retain(|other| other.span.to > part.span.from);
        open.push(part);
        look(part, &open);
    }
}

/// At no moment is more held than there is, and a writer is alone.
fn together(parts: &[Part<'_>], run: &Run, verdict: &mut Verdict) {
    let too_much = |parts: &[&Part<'_>]| {
        let shares: Vec<Share> = parts.iter().map(|part| part.share).collect();
        too_much(&shares, run.permits)
    };
    at_each(parts, |part, open| {
        let count = |wanted: fn(Share) -> bool| open.iter().filter(|part| wanted(part.share)).count();
        if too_much(open).is_none() {
            let held = open.iter().map(|part| permits(part.share)).sum();
            verdict.most_permits = verdict.most_permits.max(held);
            let readers = count(|share| matches!(share, Share::Read | Share::Upgradeable));
            verdict.most_readers = verdict.most_readers.max(readers);
            return;
        }
        let at = part.span.from;
        let unbroken: Vec<&Part<'_>> =
            open.iter().copied().filter(|part| !broken(part.hold, at, &run.faults)).collect();
        match too_much(&unbroken) {
            None => verdict.excused += 1,
            Some(why) => {
                let told = format!("of {}, {why}: {}", part.hold.lock, tell(&unbroken));
                verdict.violation(Span { from: at, to: at }, told);
            }
        }
    });
}

/// When there were fewer permits: from when the change was certain until it was taken back, at the earliest.
fn shrinks(name: &str, faults: &[FaultLine]) -> Vec<Shrink> {
    let mut shrinks: Vec<Shrink> = Vec::new();
    for fault in faults.iter().filter(|fault| fault.whom == name) {
        match (fault.permits, fault.healed) {
            (Some(permits), false) => {
                shrinks.push(Shrink { span: Span { from: fault.span.to, to: Nanos::MAX }, permits });
            }
            (Some(_), true) => {
                if let Some(shrink) = shrinks.last_mut().filter(|shrink| shrink.span.to == Nanos::MAX) {
                    shrink.span.to = fault.span.from;
                }
            }
            _ => {}
        }
    }
    shrinks
}

/// Where there are fewer permits than before, more may be held. Once somebody has been let in there may not, until there
/// are more again.
///
/// It is lenient in one thing: when a waiter was let in is not known, and only who asked, or cannot have been let in,
/// before the permits were changed counts for this.
fn shrunk(parts: &[Part<'_>], shrink: &Shrink, run: &Run, verdict: &mut Verdict) {
    let (from, to) = (shrink.span.from, shrink.span.to);
    let held = |at: Nanos, but: &Hold| -> u32 {
        let live = |part: &&Part<'_>| {
            part.span.from <= at && at < part.span.to && part.hold.id != but.id && !broken(part.hold, at, &run.faults)
        };
        parts.iter().filter(live).map(|part| permits(part.share)).sum()
    };
    let after = |part: &Part<'_>| {
        let begun = || parts.iter().map(|other| other.span.from).filter(|&at| from < at && at < part.span.from);
        let full = |at| held(at, part.hold) + permits(part.share) > run.permits;
        part.admitted && (part.hold.acquired.from >= from || [from].into_iter().chain(begun()).any(full))
    };
    let mut entered = 0;
    at_each(parts, |part, open| {
        let at = part.span.from;
        if at < from || at >= to {
            return;
        }
        entered += usize::from(after(part));
        let unbroken: Vec<&Part<'_>> =
            open.iter().copied().filter(|part| !broken(part.hold, at, &run.faults)).collect();
        let held: u32 = unbroken.iter().map(|part| permits(part.share)).sum();
        if entered > 0 && held > shrink.permits {
            let told = format!(
                "somebody was let in where {} had {} permits: {}",
                part.hold.lock,
                shrink.permits,
                tell(&unbroken)
            );
            verdict.violation(Span { from: at, to: at }, told);
        }
    });
    verdict.let_in_while_shrunk += entered;
}

/// Whoever asks when somebody has been given its guard is let in later, and gets a larger token. Becoming the writer is
/// being let in as well.
///
/// Who makes a Lease by a request whose answer never came has the version at which it found that as its token, and
/// who is let in meanwhile has a smaller one: that is known, and no exception has to be made of it here. Whoever asks
/// after the maker was given its guard is let in at a later version still. Those whom one write lets in have the same.
fn tokens(name: &str, holds: &[&Hold], run: &Run, verdict: &mut Verdict) {
    let mut given: Vec<&Hold> = holds.to_vec();
    given.sort_by_key(|hold| hold.acquired.to);
    let largest: Vec<&Hold> = given
        .iter()
        .scan(None, |largest: &mut Option<&Hold>, hold| {
            *largest = Some(largest.filter(|largest| largest.token > hold.token).unwrap_or(hold));
            *largest
        })
        .collect();
    for hold in holds.iter().filter(|hold| !hold.changed || hold.share == Share::Write) {
        let earlier = given.partition_point(|other| other.acquired.to < hold.acquired.from);
        let Some(before) = earlier.checked_sub(1).map(|last| largest[last]) else { continue };
        if before.token >= hold.token {
            let told = format!(
                "a token of {name} is not larger than one before: {} was let in with {} when {} had {}",
                hold.id, hold.token, before.id, before.token
            );
            verdict.violation(hold.acquired, told);
        }
    }
    let mut same: BTreeMap<u64, Vec<&Hold>> = BTreeMap::new();
    for &hold in holds {
        let others = same.entry(hold.token).or_default();
        let apart = |other: &&&Hold| other.id != hold.id && too_much(&[other.share, hold.share], run.permits).is_some();
        if let Some(other) = others.iter().find(apart) {
            let told = format!("the token {} of {name} was given to {} and to {}", hold.token, other.id, hold.id);
            verdict.violation(hold.acquired, told);
        }
        others.push(hold);
    }
}

/// Of two that cannot be held at the same time, the later one has the larger token.
fn tokens_of_those_who_exclude_each_other(parts: &[Part<'_>], run: &Run, verdict: &mut Verdict) {
    let own = |part: &&Part<'_>| part.share == part.hold.share;
    for (n, part) in parts.iter().enumerate().filter(|(_, part)| part.admitted) {
        let apart = |other: &&Part<'_>| {
            other.span.to <= part.span.from
                && other.hold.id != part.hold.id
                && too_much(&[other.share, part.share], run.permits).is_some()
        };
        let before = parts[..n].iter().filter(own).filter(apart).max_by_key(|other| other.hold.token);
        let Some(before) = before.filter(|before| before.hold.token >= part.hold.token) else { continue };
        // A person took it away before its holder first looked, and let others in.
        if broken(part.hold, part.span.to, &run.faults) {
            verdict.excused += 1;
            continue;
        }
        let told =
            format!("of {}, whoever came later has the smaller token: {}", part.hold.lock, tell(&[before, part]));
        verdict.violation(part.span, told);
    }
}
