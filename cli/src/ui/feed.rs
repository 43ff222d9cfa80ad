//! What is sent to one page: first all that it shows, and then what has changed.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::detail::Detail;
use super::list::{Query, Window};
use super::state::{Board, Key, Server};
use super::wait_for::Drawn;
use crate::output::compact;

/// What a page shows, as it says in its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) list: Query,
    pub(super) lock: Option<Key>,
    pub(super) graph: bool,
}

impl Wanted {
    /// Of the query part of a request's address.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "lock" => wanted.lock = Some(Key::parse(&value).ok_or("lock: NAMESPACE/LEASE is expected")?),
                "graph" => wanted.graph = value == "1",
                _ => wanted.list.set(&name, &value)?,
            }
        }
        Ok(wanted)
    }
}

/// What does not change while this process lives.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct About {
    pub(super) version: &'static str,
    /// Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) context: Option<String>,
    pub(super) server: String,
    /// Since when this process has looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<Timestamp>,
}

/// A message: the name of what it is about, and JSON.
pub(super) type Message = (&'static str, String);

/// One page's.
#[derive(Debug)]
pub(super) struct Feed {
    about: Option<About>,
    window: Window,
    lock: Option<Key>,
    graph: bool,
    server: Option<Server>,
    detail: Option<Detail>,
    drawn: Option<Arc<Drawn>>,
    seen: Option<u64>,
}

impl Feed {
    pub(super) fn new(wanted: Wanted, about: About) -> Self {
        let Wanted { list, lock, graph } = wanted;
        let window = Window::new(list);
        Self { about: Some(about), window, lock, graph, server: None, detail: None, drawn: None, seen: None }
    }

    pub(super) fn shows_graph(&self) -> bool {
        self.graph
    }

    /// What the page does not know yet. Whoever shows the graph is given it, of the same version or an earlier one.
    pub(super) fn tell(&mut self, board: &Board, drawn: Option<Arc<Drawn>>) -> Vec<Message> {
        let mut messages = Vec::new();
        if self.seen != Some(board.version()) {
            self.seen = Some(board.version());
            self.tell_of_board(board, &mut messages);
        }
        if let Some(drawn) = drawn
            && self.drawn.as_ref() != Some(&drawn)
        {
            messages.push(("graph", compact(&*drawn)));
            self.drawn = Some(drawn);
        }
        messages
    }

    fn tell_of_board(&mut self, board: &Board, messages: &mut Vec<Message>) {
        if let Some(about) = self.about.take() {
            messages.push(("about", compact(&about)));
        }
        if self.server.as_ref() != Some(&board.server) {
            messages.push(("server", compact(&board.server)));
            self.server = Some(board.server.clone());
        }
        if let Some(change) = self.window.look(board) {
            messages.push(("list", compact(&change)));
        }
        if let Some(key) = &self.lock {
            let detail = Detail::of(board, key);
            if self.detail.as_ref() != Some(&detail) {
                messages.push(("lock", compact(&detail)));
                self.detail = Some(detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::{at, key, lock};
    use super::*;

    fn names(messages: &[Message]) -> Vec<&str> {
        messages.iter().map(|(name, _)| *name).collect()
    }

    #[test]
    fn a_page_says_what_it_wants() {
        let wanted = Wanted::parse("search=a%20b&filter=held&lock=ops%2Fjob&graph=1").unwrap();
        assert_eq!((wanted.lock, wanted.graph), (Some(key("job")), true));
        assert_eq!(Wanted::parse("").unwrap(), Wanted::default());
        for bad in ["lock=job", "filter=x", "x=1", "rows=many"] {
            assert!(Wanted::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_it_shows_and_only_what_has_changed() {
        let mut board = Board::new(at(0));
        board.changed(lock("job", "1", 1, "x_x.1", &[]), at(1));
        board.changed(lock("other", "2", 2, "", &[]), at(1));
        let mut feed = Feed::new(Wanted::parse("lock=ops/job&search=job").unwrap(), About::default());
        assert_eq!(names(&feed.tell(&board, None)), ["about", "server", "list", "lock"]);
        assert!(feed.tell(&board, None).is_empty());
        board.changed(lock("other", "2", 3, "", &[]), at(2));
        assert!(feed.tell(&board, None).is_empty(), "it is not shown");
        board.changed(lock("job", "1", 4, "y_y.1", &[]), at(3));
        assert_eq!(names(&feed.tell(&board, None)), ["list", "lock"]);
        board.silent("refused");
        // That there is a gap from now on belongs to each timeline.
        assert_eq!(names(&feed.tell(&board, None)), ["server", "lock"]);
    }

    #[test]
    fn a_graph_that_was_late_is_told_when_it_comes() {
        let mut board = Board::new(at(0));
        let drawn = |board: &Board| Some(Arc::new(Drawn::of(&board.in_use())));
        let before = drawn(&board);
        let mut feed = Feed::new(Wanted::parse("graph=1").unwrap(), About::default());
        // It was made, and then something changed.
        board.changed(lock("job", "1", 1, "x_x.1", &["y_y.1"]), at(1));
        assert_eq!(names(&feed.tell(&board, before)), ["about", "server", "list", "graph"]);
        assert_eq!(names(&feed.tell(&board, drawn(&board))), ["graph"]);
        assert!(feed.tell(&board, drawn(&board)).is_empty(), "it is the same");
    }
}
