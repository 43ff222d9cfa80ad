//! What is shown of what was seen: pure.

use std::cmp::Reverse;

use clap::ValueEnum;
use leasehold::protocol::{Moment, Now};

use super::locks::{Age, Entry, Key, Locks, Seen};

/// What stands first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// Most hand-overs a minute
    Busiest,
    /// Held for the longest time
    Held,
    /// Most waiters
    Waiters,
    Name,
}

impl Sort {
    fn next(self) -> Self {
        match self {
            Self::Busiest => Self::Held,
            Self::Held => Self::Waiters,
            Self::Waiters => Self::Name,
            Self::Name => Self::Busiest,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Busiest => "busiest first",
            Self::Held => "longest held first",
            Self::Waiters => "most waiters first",
            Self::Name => "by name",
        }
    }
}

/// What is on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Table,
    /// The table, while a filter is typed.
    Filter,
    /// One with its queue.
    Queue {
        key: Key,
        scroll: usize,
    },
    Help,
}

/// Where to go in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
}

#[derive(Debug)]
pub(super) struct State {
    live: Locks,
    /// As it was when it was paused, and when that was.
    paused: Option<(Locks, Now)>,
    pub(super) shown: Shown,
    pub(super) sort: Sort,
    pub(super) filter: String,
    /// Of those that the filter lets through, by the order.
    order: Vec<Key>,
    /// Which one is chosen. `None`: the first, whichever that is.
    selected: Option<Key>,
    /// Where it stood, for when it is no longer there.
    selected_at: usize,
    /// The first that is seen.
    offset: usize,
    /// How many are seen at a time.
    page: usize,
}

impl State {
    pub(super) fn new(now: Moment, sort: Sort) -> Self {
        Self {
            live: Locks::new(now),
            paused: None,
            shown: Shown::Table,
            sort,
            filter: String::new(),
            order: Vec::new(),
            selected: None,
            selected_at: 0,
            offset: 0,
            page: 1,
        }
    }

    pub(super) fn saw(&mut self, seen: Seen, now: Moment) {
        self.live.saw(seen, now);
    }

    /// What is shown: as it is, or as it was.
    pub(super) fn locks(&self) -> &Locks {
        self.paused.as_ref().map_or(&self.live, |(locks, _)| locks)
    }

    /// As it is, for what is said of the API server.
    pub(super) fn live(&self) -> &Locks {
        &self.live
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// The time that is shown.
    pub(super) fn time(&self, now: Now) -> Now {
        self.paused.as_ref().map_or(now, |(_, at)| *at)
    }

    pub(super) fn pause(&mut self, now: Now) {
        self.paused = match self.paused {
            None => Some((self.live.clone(), now)),
            Some(_) => None,
        };
    }

    pub(super) fn next_sort(&mut self) {
        self.sort = self.sort.next();
    }

    /// Sorts what the filter lets through, and lets go of what is long gone.
    pub(super) fn refresh(&mut self, now: Now) {
        self.live.forget(now.moment);
        let at = self.time(now);
        let locks = self.locks();
        let wanted = self.filter.to_lowercase();
        let mut rows: Vec<(Rank, &Key)> = locks
            .iter()
            .filter(|(key, entry)| wanted.is_empty() || matches(key, entry, &wanted))
            .map(|(key, entry)| (self.rank(entry, at), key))
            .collect();
        // Those of one rank stay in the order of their names.
        rows.sort_by_key(|(rank, _)| Reverse(*rank));
        self.order = rows.into_iter().map(|(_, key)| key.clone()).collect();
        self.follow_selected();
    }

    fn rank(&self, entry: &Entry, now: Now) -> Rank {
        let waiters = entry.view.waiters.len() as u64;
        let per_minute = self.locks().per_minute(entry, now.moment);
        let held = entry.held(now).map_or(0, |age| u64::try_from(age.duration().as_millis()).unwrap_or(u64::MAX) + 1);
        match self.sort {
            Sort::Busiest => (per_minute, waiters, held.min(1)),
            Sort::Held => (held, waiters, 0),
            Sort::Waiters => {
                (waiters, entry.longest_wait(now).map_or(0, |age: Age| age.duration().as_secs()), per_minute)
            }
            Sort::Name => (0, 0, 0),
        }
    }

    fn follow_selected(&mut self) {
        let Some(selected) = &self.selected else {
            (self.selected_at, self.offset) = (0, 0);
            return;
        };
        self.selected_at = match self.order.iter().position(|key| key == selected) {
            Some(at) => at,
            None => self.selected_at.min(self.order.len().saturating_sub(1)),
        };
        self.selected = self.order.get(self.selected_at).cloned();
        self.scroll();
    }

    fn scroll(&mut self) {
        let lowest = (self.selected_at + 1).saturating_sub(self.page);
        self.offset = self.offset.clamp(lowest, self.selected_at);
        self.offset = self.offset.min(self.order.len().saturating_sub(self.page)).max(lowest);
    }

    /// So many rows can be seen: which ones these are, and which of them is chosen.
    pub(super) fn visible(&mut self, rows: usize) -> (Vec<Key>, usize) {
        self.page = rows.max(1);
        self.scroll();
        let end = self.order.len().min(self.offset + rows);
        let seen = self.order.get(self.offset..end).unwrap_or_default();
        (seen.to_vec(), self.selected_at.saturating_sub(self.offset))
    }

    pub(super) fn go(&mut self, step: Step) {
        let to = stepped(self.selected_at, step, self.page, self.order.len());
        self.selected_at = to;
        // At the top it stays at the top, whatever comes there.
        self.selected = self.order.get(to).filter(|_| to > 0).cloned();
        self.scroll();
    }

    /// Shows the chosen one's queue.
    pub(super) fn open(&mut self) {
        if let Some(key) = self.order.get(self.selected_at) {
            self.shown = Shown::Queue { key: key.clone(), scroll: 0 };
        }
    }

    /// How many there are, and how many the filter lets through.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.locks().iter().count(), self.order.len())
    }

    pub(super) fn order(&self) -> &[Key] {
        &self.order
    }
}

/// By what is sorted, the largest first.
type Rank = (u64, u64, u64);

/// Where one gets from here.
pub(super) fn stepped(at: usize, step: Step, page: usize, count: usize) -> usize {
    let to = match step {
        Step::Up => at.saturating_sub(1),
        Step::Down => at + 1,
        Step::PageUp => at.saturating_sub(page),
        Step::PageDown => at + page,
        Step::Home => 0,
        Step::End => count,
    };
    to.min(count.saturating_sub(1))
}

fn matches(key: &Key, entry: &Entry, wanted: &str) -> bool {
    let has = |text: &str| text.to_lowercase().contains(wanted);
    has(&key.0) || has(&entry.view.name) || entry.view.holders.iter().any(|holder| has(&holder.identity))
}
