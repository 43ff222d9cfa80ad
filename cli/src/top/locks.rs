//! What this process has seen of locks, and when: pure, times come in as arguments.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::SignedDuration;
use leasehold::protocol::{Moment, Now};

use crate::view::{LockView, State, elapsed};

/// Hand-overs are counted over so long.
const WINDOW: Duration = Duration::from_secs(60);
/// Until so much was watched a rate says little: it counts as that long.
const SHORTEST_WINDOW: Duration = Duration::from_secs(5);

/// Namespace and Lease.
pub(super) type Key = (String, String);

/// How long something is like this, as far as this process can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// It was seen to begin.
    Seen(Duration),
    /// It was there when this process began to look, and that is the least.
    AtLeast(Duration),
    /// It says itself since when, by the clock of whoever wrote that.
    Written(Duration),
}

impl Age {
    pub(super) fn duration(self) -> Duration {
        match self {
            Self::Seen(time) | Self::AtLeast(time) | Self::Written(time) => time,
        }
    }
}

impl std::fmt::Display for Age {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = match self {
            Self::Seen(_) => "",
            Self::AtLeast(_) => ">",
            Self::Written(_) => "~",
        };
        let time = elapsed(SignedDuration::try_from(self.duration()).unwrap_or(SignedDuration::MAX));
        f.pad(&format!("{sign}{time}"))
    }
}

/// When somebody was first seen to hold or to wait.
#[derive(Clone, Copy, Debug)]
struct First {
    at: Moment,
    /// It was there already when this process looked for the first time, or again.
    before: bool,
}

/// One lock, semaphore or read-write lock.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) view: LockView,
    holders: BTreeMap<String, First>,
    waiters: BTreeMap<String, First>,
    grants: Grants,
    /// Since when it has no Lease.
    gone: Option<Moment>,
}

/// How many came to hold something, by the second.
#[derive(Clone, Debug, Default)]
struct Grants(VecDeque<(u64, u64)>);

impl Grants {
    fn add(&mut self, count: usize, now: Moment) {
        let (second, count) = (now.since_start().as_secs(), count as u64);
        match self.0.back_mut() {
            _ if count == 0 => {}
            Some((last, sum)) if *last == second => *sum += count,
            _ => self.0.push_back((second, count)),
        }
        while self.0.front().is_some_and(|(at, _)| at + WINDOW.as_secs() <= second) {
            self.0.pop_front();
        }
    }

    fn per_minute(&self, started: Moment, now: Moment) -> u64 {
        let oldest = now.since_start().as_secs().saturating_sub(WINDOW.as_secs());
        let seen: u64 = self.0.iter().filter(|(at, _)| *at > oldest).map(|(_, count)| count).sum();
        let window = now.since(started).clamp(SHORTEST_WINDOW, WINDOW).as_secs();
        seen * WINDOW.as_secs() / window
    }
}

impl Entry {
    fn new(view: LockView) -> Self {
        Self { view, holders: BTreeMap::new(), waiters: BTreeMap::new(), grants: Grants::default(), gone: None }
    }

    fn saw(&mut self, view: LockView, first: First) {
        let new = |known: &BTreeMap<String, First>, identity: &String| {
            (identity.clone(), known.get(identity).copied().unwrap_or(first))
        };
        let holders: BTreeMap<_, _> = view.holders.iter().map(|holder| new(&self.holders, &holder.identity)).collect();
        let waiters = view.waiters.iter().map(|waiter| new(&self.waiters, &waiter.identity)).collect();
        let came = holders.keys().filter(|identity| !self.holders.contains_key(*identity)).count();
        self.grants.add(came, first.at);
        (self.holders, self.waiters, self.view, self.gone) = (holders, waiters, view, None);
    }

    /// How long this one holds it.
    pub(super) fn held_by(&self, identity: &str, now: Now) -> Option<Age> {
        let holder = self.view.holders.iter().find(|holder| holder.identity == identity)?;
        let first = self.holders.get(identity)?;
        let seen = now.moment.since(first.at);
        Some(match holder.since {
            _ if !first.before => Age::Seen(seen),
            Some(since) => Age::Written(now.stamp.duration_since(since).try_into().unwrap_or_default()),
            None => Age::AtLeast(seen),
        })
    }

    /// How long this one waits.
    pub(super) fn waited_by(&self, identity: &str, now: Now) -> Option<Age> {
        let first = self.waiters.get(identity)?;
        let seen = now.moment.since(first.at);
        Some(if first.before { Age::AtLeast(seen) } else { Age::Seen(seen) })
    }

    /// How long the one that holds it longest does.
    pub(super) fn held(&self, now: Now) -> Option<Age> {
        let ages = self.view.holders.iter().filter_map(|holder| self.held_by(&holder.identity, now));
        ages.max_by_key(|age| age.duration())
    }

    pub(super) fn longest_wait(&self, now: Now) -> Option<Age> {
        let ages = self.waiters.keys().filter_map(|identity| self.waited_by(identity, now));
        ages.max_by_key(|age| age.duration())
    }
}

/// All that were seen.
#[derive(Clone, Debug)]
pub(super) struct Locks {
    entries: BTreeMap<Key, Entry>,
    started: Moment,
    /// When the API server said something last.
    pub(super) heard: Moment,
    /// Why it is not heard now.
    pub(super) lost: Option<String>,
    /// It has told all that there is, once.
    pub(super) complete: bool,
    /// Those whose Leases cannot be read.
    unreadable: BTreeSet<Key>,
}

/// What was seen, as whoever watches tells it.
#[derive(Debug)]
pub(super) enum Seen {
    /// All that there is.
    All(Vec<LockView>),
    One(Box<LockView>),
    /// These are there and cannot be read. After all that there is: no others.
    Unreadable(Vec<Key>),
    Gone(Key),
    /// The API server is there, and there is nothing to tell.
    Alive,
    /// It does not answer: why.
    Lost(String),
}

pub(super) fn key(view: &LockView) -> Key {
    (view.namespace.clone(), view.lease_name.clone())
}

impl Locks {
    pub(super) fn new(now: Moment) -> Self {
        let (entries, unreadable) = (BTreeMap::new(), BTreeSet::new());
        Self { entries, started: now, heard: now, lost: None, complete: false, unreadable }
    }

    pub(super) fn saw(&mut self, seen: Seen, now: Moment) {
        match seen {
            Seen::Lost(why) => {
                self.lost = Some(why);
                return;
            }
            Seen::Alive => {}
            Seen::One(view) => self.one(*view, First { at: now, before: false }),
            Seen::Gone(key) => self.gone(&key, now),
            Seen::Unreadable(keys) => {
                for key in keys {
                    // What was known of it is true no more.
                    self.entries.remove(&key);
                    self.unreadable.insert(key);
                }
            }
            Seen::All(views) => {
                self.unreadable.clear();
                let mut left: Vec<Key> = self.entries.keys().cloned().collect();
                let there: BTreeSet<Key> = views.iter().map(key).collect();
                left.retain(|key| !there.contains(key));
                for view in views {
                    let before = First { at: now, before: true };
                    // Nothing comes to hold anything by being seen for the first time.
                    if self.complete {
                        self.one(view, before);
                    } else {
                        let mut entry = Entry::new(view.clone());
                        entry.saw(view, before);
                        entry.grants = Grants::default();
                        self.entries.insert(key(&entry.view), entry);
                    }
                }
                for key in &left {
                    self.gone(key, now);
                }
                if !self.complete {
                    (self.complete, self.started) = (true, now);
                }
            }
        }
        (self.heard, self.lost) = (now, None);
    }

    fn one(&mut self, view: LockView, first: First) {
        self.unreadable.remove(&key(&view));
        let entry = self.entries.entry(key(&view)).or_insert_with(|| Entry::new(view.clone()));
        entry.saw(view, first);
    }

    /// It has no Lease any more. What is made and removed again and again is shown between.
    fn gone(&mut self, key: &Key, now: Moment) {
        self.unreadable.remove(key);
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.gone.is_none()) {
            let view = entry.view.clone();
            let free = LockView {
                permits: None,
                state: State::Free,
                holders: Vec::new(),
                waiters: Vec::new(),
                upgrading: None,
                ..view
            };
            entry.saw(free, First { at: now, before: false });
            entry.gone = Some(now);
        }
    }

    /// How many are left out, in a line.
    pub(super) fn unreadable(&self) -> Option<String> {
        match self.unreadable.len() {
            0 => None,
            1 => Some("1 Lease cannot be read and is left out: see kubectl leasehold doctor".to_owned()),
            count => Some(format!("{count} Leases cannot be read and are left out: see kubectl leasehold doctor")),
        }
    }

    /// Lets go of what is long gone.
    pub(super) fn forget(&mut self, now: Moment) {
        self.entries.retain(|_, entry| entry.gone.is_none_or(|at| now.since(at) < WINDOW));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn per_minute(&self, entry: &Entry, now: Moment) -> u64 {
        entry.grants.per_minute(self.started, now)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, held, lock};
    use super::*;

    #[test]
    fn ages_are_what_was_seen_and_else_what_is_written() {
        let mut locks = Locks::new(at(0).moment);
        locks.saw(Seen::All(vec![lock("a", &["x_x.1"], &["y_y.1"])]), at(0).moment);
        let age = |locks: &Locks, seconds| {
            let entry = locks.get(&("shop".into(), "a".into())).unwrap();
            let shown = |age: Option<Age>| age.map(|age| age.to_string()).unwrap_or_default();
            (shown(entry.held(at(seconds))), shown(entry.longest_wait(at(seconds))))
        };
        assert_eq!(
            age(&locks, 5),
            ("~65s".into(), ">5s".into()),
            "it says itself that it was acquired a minute before"
        );
        locks.saw(Seen::One(Box::new(lock("a", &["y_y.1"], &["z_z.1"]))), at(7).moment);
        assert_eq!(age(&locks, 10), ("3s".into(), "3s".into()));
        // What comes with a new list may have begun at any time.
        locks.saw(Seen::All(vec![lock("a", &["z_z.1"], &["w_w.1"])]), at(20).moment);
        assert_eq!(age(&locks, 21), ("~81s".into(), ">1s".into()));
    }

    #[test]
    fn hand_overs_are_counted_from_the_start_and_over_a_minute() {
        let mut locks = Locks::new(at(0).moment);
        locks.saw(Seen::All(vec![held("a", "x_x.0")]), at(0).moment);
        let rate = |locks: &Locks, seconds| {
            let entry = locks.get(&("shop".into(), "a".into()))?;
            Some(locks.per_minute(entry, at(seconds).moment))
        };
        assert_eq!(rate(&locks, 10), Some(0), "nobody came");
        for n in 1..=30 {
            // Held, free, held: one hand-over. A renewal is none.
            locks.saw(Seen::One(Box::new(held("a", &format!("x_x.{n}")))), at(n).moment);
            locks.saw(Seen::One(Box::new(held("a", &format!("x_x.{n}")))), at(n).moment);
            locks.saw(Seen::One(Box::new(lock("a", &[], &[]))), at(n).moment);
        }
        assert_eq!(rate(&locks, 30), Some(60));
        assert_eq!(rate(&locks, 60), Some(30));
        assert_eq!(rate(&locks, 80), Some(10), "only those of the last minute");
        assert_eq!(rate(&locks, 200), Some(0));
        // Its Lease goes and comes, and is forgotten in the end.
        locks.saw(Seen::Gone(("shop".into(), "a".into())), at(200).moment);
        locks.saw(Seen::One(Box::new(held("a", "x_x.31"))), at(201).moment);
        assert_eq!(rate(&locks, 202), Some(1));
        locks.saw(Seen::Gone(("shop".into(), "a".into())), at(203).moment);
        locks.forget(at(210).moment);
        assert_eq!(rate(&locks, 210), Some(1));
        locks.forget(at(264).moment);
        assert_eq!(rate(&locks, 264), None);
    }

    #[test]
    fn what_cannot_be_read_is_counted_until_it_can_or_is_gone() {
        let key = |name: &str| ("shop".to_owned(), name.to_owned());
        let mut locks = Locks::new(at(0).moment);
        locks.saw(Seen::All(vec![held("a", "x_x.0")]), at(0).moment);
        assert_eq!(locks.unreadable(), None);
        locks.saw(Seen::Unreadable(vec![key("b"), key("c")]), at(0).moment);
        locks.saw(Seen::Unreadable(vec![key("a")]), at(1).moment);
        assert!(locks.get(&key("a")).is_none(), "what was known of it is not shown");
        let left_out = |locks: &Locks| locks.unreadable.iter().map(|key| key.1.clone()).collect::<Vec<_>>();
        assert_eq!(left_out(&locks), ["a", "b", "c"]);
        assert!(locks.unreadable().unwrap().starts_with("3 Leases cannot be read"));
        locks.saw(Seen::One(Box::new(held("a", "x_x.0"))), at(2).moment);
        locks.saw(Seen::Gone(key("b")), at(2).moment);
        assert!(locks.unreadable().unwrap().starts_with("1 Lease cannot be read"));
        locks.saw(Seen::All(vec![held("a", "x_x.0")]), at(3).moment);
        assert_eq!(locks.unreadable(), None);
    }

    #[test]
    fn what_a_list_does_not_show_is_gone() {
        let mut locks = Locks::new(at(0).moment);
        locks.saw(Seen::All(vec![held("a", "x_x.0"), held("b", "x_x.1")]), at(0).moment);
        locks.saw(Seen::Lost("refused".into()), at(5).moment);
        assert_eq!((locks.heard, locks.lost.as_deref()), (at(0).moment, Some("refused")));
        locks.saw(Seen::All(vec![held("b", "x_x.1")]), at(9).moment);
        assert_eq!((locks.heard, &locks.lost), (at(9).moment, &None));
        let entry = locks.get(&("shop".into(), "a".into())).unwrap();
        assert!(entry.held(at(9)).is_none() && entry.view.state == State::Free);
    }
}
