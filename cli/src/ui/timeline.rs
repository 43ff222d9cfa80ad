//! Who held and who waited when, as far as this process has seen it. In memory, and bounded.
//!
//! Times are those at which it was seen, by this machine's clock: no other machine's is compared with it.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde::Serialize;

use super::state::Key;

/// How many stays that have ended are remembered of one lock. The oldest are forgotten first.
pub(super) const MOST_OF_ONE: usize = 200;
/// How many of all locks together.
pub(super) const MOST_OF_ALL: usize = 50_000;
/// How many marks are remembered of one lock.
const MOST_MARKS: usize = 20;
/// How many of those who are at one lock now a page is told of. It is told how many more there are.
pub(super) const MOST_PRESENT: usize = 200;
/// How many times are remembered in which nothing could be seen.
const MOST_GAPS: usize = 100;

/// What somebody does at a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    Holds,
    Waits,
}

/// Somebody at a lock at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stay {
    pub(super) identity: String,
    pub(super) role: Role,
    /// What it holds or wants of what several can have.
    pub(super) share: Option<String>,
}

/// How something came to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// As it happened.
    Live,
    /// By looking, some time after it happened: at the start, or after a gap.
    Later,
}

/// From when to when somebody held or waited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Span {
    who: String,
    role: Role,
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<String>,
    from: Timestamp,
    /// Absent: it still does.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Timestamp>,
    /// It began before, nobody saw when.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    began_before: bool,
    /// It ended before, nobody saw when.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ended_before: bool,
}

/// Something that befell the lock itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Mark {
    pub(super) at: Timestamp,
    pub(super) what: String,
}

/// A time in which nothing could be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Gap {
    from: Timestamp,
    /// Absent: until now.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Timestamp>,
}

/// What a page is told of one lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct History {
    /// When this process began to look.
    since: Timestamp,
    /// Those that have ended, in the order of their ends, and then the others.
    spans: Vec<Span>,
    /// How many are at it now that are left out here: those who came last, waiters before holders.
    more: usize,
    /// How many were forgotten.
    forgotten: u64,
    marks: Vec<Mark>,
    gaps: Vec<Gap>,
}

#[derive(Debug, Default)]
struct Timeline {
    /// Of its Lease. `None`: it has none now.
    uid: Option<String>,
    present: BTreeMap<(Role, String), Span>,
    /// In the order of their ends, each with its number in that order over all locks.
    ended: VecDeque<(u64, Span)>,
    forgotten: u64,
    marks: VecDeque<Mark>,
}

/// Of all locks. One that has no Lease any more is forgotten with the last of its stays.
#[derive(Debug)]
pub(super) struct Timelines {
    since: Timestamp,
    of: BTreeMap<Key, Timeline>,
    /// Whose the stays are that have ended, in that order.
    ended: BTreeMap<u64, Key>,
    next: u64,
    gaps: VecDeque<Gap>,
    most_of_one: usize,
    most_of_all: usize,
}

impl Timelines {
    pub(super) fn new(since: Timestamp) -> Self {
        Self::bounded(since, MOST_OF_ONE, MOST_OF_ALL)
    }

    fn bounded(since: Timestamp, most_of_one: usize, most_of_all: usize) -> Self {
        let (of, ended, gaps) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        Self { since, of, ended, next: 0, gaps, most_of_one, most_of_all }
    }

    /// These are at the lock now, and nobody else.
    pub(super) fn see(&mut self, key: &Key, uid: &str, stays: Vec<Stay>, now: Timestamp, seen: Seen) {
        let timeline = self.of.entry(key.clone()).or_default();
        let mut over = Vec::new();
        // A hold ends with its Lease, also where another one was made at once.
        if timeline.uid.as_ref().is_some_and(|known| known != uid) {
            over.extend(std::mem::take(&mut timeline.present).into_values());
            timeline.mark(now, "its Lease was deleted and made again");
        }
        timeline.uid = Some(uid.to_owned());
        let mut before = std::mem::take(&mut timeline.present);
        for Stay { identity, role, share } in stays {
            let span = before.remove(&(role, identity.clone())).unwrap_or_else(|| Span {
                who: identity.clone(),
                role,
                share: None,
                from: now,
                to: None,
                began_before: seen == Seen::Later,
                ended_before: false,
            });
            timeline.present.insert((role, identity), Span { share, ..span });
        }
        over.extend(before.into_values());
        self.end(key, over, now, seen);
    }

    /// Its Lease is gone, and all holds with it.
    pub(super) fn gone(&mut self, key: &Key, now: Timestamp, seen: Seen) {
        let Some(timeline) = self.of.get_mut(key) else { return };
        timeline.uid = None;
        let over: Vec<_> = std::mem::take(&mut timeline.present).into_values().collect();
        // A client removes a Lease with its own hold. Whoever waits is removed by nobody.
        if over.iter().any(|span| span.role == Role::Waits) {
            timeline.mark(now, "its Lease was deleted while somebody waited");
        }
        self.end(key, over, now, seen);
        self.forget_if_empty(key);
    }

    pub(super) fn mark(&mut self, key: &Key, now: Timestamp, what: &str) {
        if let Some(timeline) = self.of.get_mut(key) {
            timeline.mark(now, what);
        }
    }

    /// Nothing can be seen from now on.
    pub(super) fn blind(&mut self, since: Timestamp) {
        if self.gaps.back().is_none_or(|gap| gap.to.is_some()) {
            self.gaps.push_back(Gap { from: since, to: None });
        }
        if self.gaps.len() > MOST_GAPS {
            self.gaps.pop_front();
        }
    }

    /// Everything that there is was seen again.
    pub(super) fn sighted(&mut self, now: Timestamp) {
        if let Some(gap) = self.gaps.back_mut()
            && gap.to.is_none()
        {
            gap.to = Some(now);
        }
    }

    /// `None`: nothing was ever seen of it, or all of that is forgotten.
    pub(super) fn of(&self, key: &Key) -> Option<History> {
        let timeline = self.of.get(key)?;
        let ended = timeline.ended.iter().map(|(_, span)| span);
        let mut present: Vec<_> = timeline.present.values().collect();
        let more = present.len().saturating_sub(MOST_PRESENT);
        if more > 0 {
            present.sort_by_key(|span| (span.role, span.from));
            present.truncate(MOST_PRESENT);
        }
        Some(History {
            since: self.since,
            spans: ended.chain(present).cloned().collect(),
            more,
            forgotten: timeline.forgotten,
            marks: timeline.marks.iter().cloned().collect(),
            gaps: self.gaps.iter().copied().collect(),
        })
    }

    fn end(&mut self, key: &Key, over: Vec<Span>, now: Timestamp, seen: Seen) {
        for span in over {
            let Some(timeline) = self.of.get_mut(key) else { return };
            let number = self.next;
            self.next += 1;
            // The wall clock may have been set back meanwhile.
            let to = Some(now.max(span.from));
            timeline.ended.push_back((number, Span { to, ended_before: seen == Seen::Later, ..span }));
            self.ended.insert(number, key.clone());
            if timeline.ended.len() > self.most_of_one {
                self.forget_oldest_of(&key.clone());
            }
            if self.ended.len() > self.most_of_all
                && let Some((_, oldest)) = self.ended.first_key_value()
            {
                self.forget_oldest_of(&oldest.clone());
            }
        }
    }

    fn forget_oldest_of(&mut self, key: &Key) {
        let Some(timeline) = self.of.get_mut(key) else { return };
        if let Some((number, _)) = timeline.ended.pop_front() {
            timeline.forgotten += 1;
            self.ended.remove(&number);
        }
        self.forget_if_empty(key);
    }

    fn forget_if_empty(&mut self, key: &Key) {
        if self.of.get(key).is_some_and(|timeline| timeline.uid.is_none() && timeline.ended.is_empty()) {
            self.of.remove(key);
        }
    }
}

impl Timeline {
    fn mark(&mut self, at: Timestamp, what: &str) {
        self.marks.push_back(Mark { at, what: what.to_owned() });
        if self.marks.len() > MOST_MARKS {
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(name: &str) -> Key {
        Key { namespace: "ops".to_owned(), lease: name.to_owned() }
    }

    fn stays(who: &[(&str, Role)]) -> Vec<Stay> {
        who.iter().map(|(identity, role)| Stay { identity: (*identity).to_owned(), role: *role, share: None }).collect()
    }

    /// `who role from-to`, with `?` where nobody saw it.
    fn told(timelines: &Timelines, name: &str) -> Vec<String> {
        let history = timelines.of(&key(name)).map(|history| history.spans).unwrap_or_default();
        let span = |span: Span| {
            let (before, ended) = (if span.began_before { "?" } else { "" }, if span.ended_before { "?" } else { "" });
            let to = span.to.map_or(String::new(), |to| to.as_second().to_string());
            format!("{} {:?} {before}{}-{ended}{to}", span.who, span.role, span.from.as_second())
        };
        history.into_iter().map(span).collect()
    }

    use Role::{Holds, Waits};
    use Seen::{Later, Live};

    #[test]
    fn a_hand_over_is_the_end_of_one_and_the_beginning_of_the_next() {
        let mut timelines = Timelines::new(at(0));
        let job = key("job");
        timelines.see(&job, "u", stays(&[("a", Holds)]), at(1), Later);
        timelines.see(&job, "u", stays(&[("a", Holds), ("b", Waits)]), at(2), Live);
        timelines.see(&job, "u", stays(&[("b", Holds)]), at(5), Live);
        assert_eq!(told(&timelines, "job"), ["a Holds ?1-5", "b Waits 2-5", "b Holds 5-"]);
        timelines.see(&job, "u", Vec::new(), at(9), Live);
        assert_eq!(told(&timelines, "job"), ["a Holds ?1-5", "b Waits 2-5", "b Holds 5-9"]);
    }

    #[test]
    fn what_nobody_saw_is_told_to_be_unknown() {
        let mut timelines = Timelines::new(at(0));
        let job = key("job");
        timelines.see(&job, "u", stays(&[("a", Holds)]), at(1), Live);
        timelines.blind(at(2));
        timelines.blind(at(3));
        timelines.see(&job, "u", stays(&[("b", Holds)]), at(9), Later);
        timelines.sighted(at(9));
        assert_eq!(told(&timelines, "job"), ["a Holds 1-?9", "b Holds ?9-"]);
        let gap = Gap { from: at(2), to: Some(at(9)) };
        assert_eq!(timelines.of(&job).unwrap().gaps, [gap]);
    }

    #[test]
    fn a_lease_that_was_deleted_ends_its_holds_and_the_next_begins_anew() {
        let mut timelines = Timelines::new(at(0));
        let job = key("job");
        timelines.see(&job, "u", stays(&[("a", Holds), ("b", Waits)]), at(1), Live);
        timelines.gone(&job, at(3), Live);
        timelines.see(&job, "v", stays(&[("a", Holds)]), at(4), Live);
        assert_eq!(told(&timelines, "job"), ["a Holds 1-3", "b Waits 1-3", "a Holds 4-"]);
        let marks = |timelines: &Timelines| timelines.of(&job).unwrap().marks.len();
        assert_eq!(marks(&timelines), 1);
        // The end of the one before was not seen.
        timelines.see(&job, "w", stays(&[("a", Holds)]), at(8), Later);
        assert_eq!(told(&timelines, "job")[2..], ["a Holds 4-?8", "a Holds ?8-"]);
        assert_eq!(marks(&timelines), 2);
        // A release that removes the Lease is nothing to tell.
        timelines.gone(&job, at(9), Live);
        assert_eq!(marks(&timelines), 2);
    }

    #[test]
    fn only_so_many_are_remembered_of_one_and_of_all() {
        let mut timelines = Timelines::bounded(at(0), 3, 5);
        for second in 0..10 {
            timelines.see(&key("x"), "u", stays(&[(&format!("x{second}"), Holds)]), at(second), Live);
        }
        assert_eq!(told(&timelines, "x"), ["x6 Holds 6-7", "x7 Holds 7-8", "x8 Holds 8-9", "x9 Holds 9-"]);
        assert_eq!(timelines.of(&key("x")).unwrap().forgotten, 6);
        for (second, name) in [(10, "a"), (11, "b"), (12, "c")] {
            timelines.see(&key(name), "u", stays(&[(name, Holds)]), at(second), Live);
            timelines.gone(&key(name), at(second), Live);
        }
        // The oldest of all went, whose it was.
        assert_eq!(told(&timelines, "x"), ["x7 Holds 7-8", "x8 Holds 8-9", "x9 Holds 9-"]);
        assert_eq!((timelines.ended.len(), timelines.of.len()), (5, 4));
        for second in 20..25 {
            timelines.see(&key("d"), "u", stays(&[(&format!("d{second}"), Holds)]), at(second), Live);
        }
        // What has no Lease and nothing to tell is gone altogether; what has one stays.
        assert!(timelines.of(&key("a")).is_none());
        assert_eq!(told(&timelines, "x"), ["x9 Holds 9-"]);
        assert_eq!(timelines.ended.len(), 5);
    }

    #[test]
    fn marks_and_gaps_are_bounded_and_a_clock_that_goes_back_turns_nothing_round() {
        let mut timelines = Timelines::new(at(0));
        timelines.see(&key("x"), "u", stays(&[("a", Holds)]), at(9), Live);
        for n in 0..1000 {
            timelines.mark(&key("x"), at(n), "broken");
            timelines.blind(at(n));
            timelines.sighted(at(n));
        }
        let history = timelines.of(&key("x")).unwrap();
        assert_eq!((history.marks.len(), history.gaps.len()), (MOST_MARKS, MOST_GAPS));
        timelines.see(&key("x"), "u", Vec::new(), at(2), Live);
        assert_eq!(told(&timelines, "x"), ["a Holds 9-9"]);
    }
}
