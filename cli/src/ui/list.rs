//! The window of the list that one page shows, and what has changed in it. Pure.

use std::cmp::Ordering;
use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;

use super::state::{Board, Key, Seat};
use crate::view::State;

/// How many rows a page shows if it does not say.
const ROWS: usize = 200;
/// How many it may show.
const MOST_ROWS: usize = 1000;
/// How long what is searched for may be, in bytes.
const LONGEST_SEARCH: usize = 200;

/// Which of them to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Filter {
    #[default]
    All,
    Held,
    Free,
    /// Somebody waits.
    Contended,
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Name,
    Namespace,
    Kind,
    State,
    Holder,
    /// Whoever holds it longest.
    Since,
    Waiters,
}

/// What a page wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// In lower case.
    search: String,
    filter: Filter,
    sort: Sort,
    descending: bool,
    rows: usize,
}

impl Default for Query {
    fn default() -> Self {
        let (filter, sort) = (Filter::default(), Sort::default());
        Self { search: String::new(), filter, sort, descending: false, rows: ROWS }
    }
}

impl Query {
    /// Takes what it knows, and says what is wrong with it.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match (name, value) {
            ("search", _) if value.len() > LONGEST_SEARCH => {
                return Err(format!("search: longer than {LONGEST_SEARCH} bytes"));
            }
            ("search", _) => self.search = value.to_lowercase(),
            ("filter", "all") => self.filter = Filter::All,
            ("filter", "held") => self.filter = Filter::Held,
            ("filter", "free") => self.filter = Filter::Free,
            ("filter", "contended") => self.filter = Filter::Contended,
            ("sort", "name") => self.sort = Sort::Name,
            ("sort", "namespace") => self.sort = Sort::Namespace,
            ("sort", "kind") => self.sort = Sort::Kind,
            ("sort", "state") => self.sort = Sort::State,
            ("sort", "holder") => self.sort = Sort::Holder,
            ("sort", "since") => self.sort = Sort::Since,
            ("sort", "waiters") => self.sort = Sort::Waiters,
            ("order", "asc") => self.descending = false,
            ("order", "desc") => self.descending = true,
            ("rows", _) => {
                let rows = value.parse().ok().filter(|rows| (1..=MOST_ROWS).contains(rows));
                self.rows = rows.ok_or_else(|| format!("rows: not between 1 and {MOST_ROWS}"))?;
            }
            _ => return Err(format!("{name}={value:?} is not known")),
        }
        Ok(())
    }

    fn takes(&self, seat: &Seat) -> bool {
        let view = &seat.view;
        let kept = match self.filter {
            Filter::All => true,
            Filter::Held => view.state == State::Held,
            Filter::Free => view.state == State::Free && seat.problem.is_none(),
            Filter::Contended => waiting(seat) > 0,
        };
        let found = |text: &str| text.to_lowercase().contains(&self.search);
        kept && (self.search.is_empty()
            || [&view.name, &view.namespace, &view.lease_name].into_iter().any(|text| found(text))
            || view.holders.iter().any(|holder| found(&holder.identity))
            || view.waiters.iter().any(|waiter| found(&waiter.identity)))
    }

    fn compare(&self, (a_key, a): (&Key, &Seat), (b_key, b): (&Key, &Seat)) -> Ordering {
        let holder = |seat: &Seat| seat.view.holders.first().map(|holder| holder.short().to_owned());
        let since = |seat: &Seat| seat.view.holders.first().and_then(|holder| holder.since);
        let ordering = match self.sort {
            Sort::Name => a.view.name.cmp(&b.view.name),
            Sort::Namespace => a_key.cmp(b_key),
            Sort::Kind => a.view.kind.cmp(b.view.kind),
            Sort::State => (a.view.state == State::Free).cmp(&(b.view.state == State::Free)),
            // What there is comes before what there is not, in either direction.
            Sort::Holder => return self.present_first(holder(a), holder(b), (a_key, b_key)),
            Sort::Since => return self.present_first(since(a), since(b), (a_key, b_key)),
            Sort::Waiters => waiting(a).cmp(&waiting(b)),
        };
        self.directed(ordering).then_with(|| a_key.cmp(b_key))
    }

    fn present_first<T: Ord>(&self, a: Option<T>, b: Option<T>, keys: (&Key, &Key)) -> Ordering {
        let ordering = match (a, b) {
            (Some(a), Some(b)) => self.directed(a.cmp(&b)),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        ordering.then_with(|| keys.0.cmp(keys.1))
    }

    fn directed(&self, ordering: Ordering) -> Ordering {
        if self.descending { ordering.reverse() } else { ordering }
    }
}

fn waiting(seat: &Seat) -> usize {
    seat.view.waiters.len() + usize::from(seat.view.upgrading.is_some())
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    key: String,
    name: String,
    namespace: String,
    kind: &'static str,
    state: State,
    /// How much of it is held.
    share: String,
    /// The first.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    holders: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    waiters: usize,
    /// Why the Lease cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Row {
    fn of(key: &Key, seat: &Seat) -> Self {
        let view = &seat.view;
        let first = view.holders.first();
        Self {
            key: key.to_string(),
            name: view.name.clone(),
            namespace: view.namespace.clone(),
            kind: view.kind,
            state: view.state,
            share: view.share(),
            holder: first.map(|holder| holder.short().to_owned()),
            holders: view.holders.len(),
            since: first.and_then(|holder| holder.since),
            waiters: waiting(seat),
            problem: seat.problem.clone(),
        }
    }
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    total: usize,
    held: usize,
    contended: usize,
    /// How many are looked for, of which a window is shown.
    matching: usize,
}

/// What has changed since a page was told last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    counts: Counts,
    /// Those that the page does not have like this.
    rows: Vec<Row>,
    /// The keys of all in the window, where they or their order have changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<Vec<String>>,
}

/// What a page has been told.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) query: Query,
    told: Option<(Counts, Vec<String>)>,
    rows: HashMap<String, Row>,
}

impl Window {
    pub(super) fn new(query: Query) -> Self {
        Self { query, ..Self::default() }
    }

    /// `None`: nothing in the window has changed.
    pub(super) fn look(&mut self, board: &Board) -> Option<Change> {
        let (counts, rows) = self.now(board);
        let order: Vec<_> = rows.iter().map(|row| row.key.clone()).collect();
        let changed: Vec<_> = rows.iter().filter(|row| self.rows.get(&row.key) != Some(row)).cloned().collect();
        let new_order = self.told.as_ref().is_none_or(|(_, told)| *told != order);
        let new_counts = self.told.as_ref().is_none_or(|(told, _)| *told != counts);
        if !new_order && !new_counts && changed.is_empty() {
            return None;
        }
        self.rows = rows.into_iter().map(|row| (row.key.clone(), row)).collect();
        self.told = Some((counts, order.clone()));
        Some(Change { counts, rows: changed, order: new_order.then_some(order) })
    }

    fn now(&self, board: &Board) -> (Counts, Vec<Row>) {
        let mut counts = Counts { total: board.locks.len(), ..Counts::default() };
        let mut matching = Vec::new();
        for (key, seat) in &board.locks {
            counts.held += usize::from(seat.view.state == State::Held);
            counts.contended += usize::from(waiting(seat) > 0);
            if self.query.takes(seat) {
                matching.push((key, seat));
            }
        }
        counts.matching = matching.len();
        // Only those that are shown have to be in order.
        let rows = self.query.rows;
        if matching.len() > rows {
            matching.select_nth_unstable_by(rows, |a, b| self.query.compare(*a, *b));
            matching.truncate(rows);
        }
        matching.sort_unstable_by(|a, b| self.query.compare(*a, *b));
        (counts, matching.into_iter().map(|(key, seat)| Row::of(key, seat)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::{at, lock};
    use super::*;

    fn query(text: &str) -> Query {
        let mut query = Query::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap();
            query.set(name, value).unwrap();
        }
        query
    }

    fn board() -> Board {
        let mut board = Board::new(at(0));
        board.changed(lock("free", "1", 1, "", &[]), at(1));
        board.changed(lock("held", "2", 2, "web-0_aaaaaaaaaa.1", &[]), at(1));
        board.changed(lock("busy", "3", 3, "web-1_bbbbbbbbbb.1", &["web-2_cccccccccc.1", "web-3_dddddddddd.1"]), at(1));
        board
    }

    fn shown(board: &Board, text: &str) -> Vec<String> {
        Window::new(query(text)).look(board).unwrap().rows.into_iter().map(|row| row.name).collect()
    }

    #[test]
    fn search_filter_and_sort() {
        let board = board();
        assert_eq!(shown(&board, ""), ["busy", "free", "held"]);
        assert_eq!(shown(&board, "order=desc"), ["held", "free", "busy"]);
        assert_eq!(shown(&board, "filter=held"), ["busy", "held"]);
        assert_eq!(shown(&board, "filter=free"), ["free"]);
        assert_eq!(shown(&board, "filter=contended"), ["busy"]);
        assert_eq!(shown(&board, "sort=waiters&order=desc"), ["busy", "free", "held"]);
        assert_eq!(shown(&board, "sort=holder"), ["held", "busy", "free"]);
        assert_eq!(shown(&board, "sort=holder&order=desc"), ["busy", "held", "free"], "free ones come last");
        assert_eq!(shown(&board, "search=WEB-3"), ["busy"], "a waiter is found");
        assert_eq!(shown(&board, "search=ops&rows=2"), ["busy", "free"]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let mut query = Query::default();
        for (name, value) in
            [("filter", "x"), ("sort", ""), ("order", "up"), ("rows", "0"), ("rows", "1001"), ("x", "")]
        {
            assert!(query.set(name, value).is_err(), "{name}={value}");
        }
        assert!(query.set("search", &"x".repeat(201)).is_err());
        assert_eq!(query, Query::default());
    }

    #[test]
    fn only_what_has_changed_is_told() {
        let mut board = board();
        let mut window = Window::new(Query::default());
        assert_eq!(window.look(&board).unwrap().rows.len(), 3);
        assert_eq!(window.look(&board), None);
        board.changed(lock("held", "2", 4, "web-9_eeeeeeeeee.1", &[]), at(2));
        let change = window.look(&board).unwrap();
        assert_eq!((change.rows.len(), change.rows[0].holder.as_deref(), change.order), (1, Some("web-9"), None));
        board.deleted(&lock("free", "1", 5, "", &[]), at(3));
        let change = window.look(&board).unwrap();
        assert_eq!((change.rows.len(), change.order.unwrap().len(), change.counts.total), (0, 2, 2));
    }

    #[test]
    fn of_ten_thousand_a_window_is_told() {
        let mut board = Board::new(at(0));
        let name = |n: u64| format!("lock-{n:05}");
        board.relist((0..10_000).map(|n| lock(&name(n), "1", n + 1, "", &[])).collect(), at(1));
        let mut window = Window::new(query("rows=50&order=desc"));
        let first = window.look(&board).unwrap();
        assert_eq!((first.rows.len(), first.counts.matching, &*first.rows[0].name), (50, 10_000, "lock-09999"));
        let order = first.order.clone().unwrap();
        assert!(order.is_sorted_by(|a, b| a > b));
        assert!(serde_json::to_string(&first).unwrap().len() < 20_000);
        // Far below the window nothing is told of but how many are held.
        board.changed(lock(&name(3), "1", 20_000, "x_x.1", &[]), at(2));
        let next = window.look(&board).unwrap();
        assert_eq!((next.rows.len(), next.order, next.counts.held), (0, None, 1));
    }
}
