//! Many, one a line.

use comfy_table::{Table, TableStyle};
use jiff::Timestamp;

use super::{HolderView, LockView, NOTHING, State, ago, printable};

/// Which columns a table has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Columns {
    pub(crate) namespace: bool,
    pub(crate) wide: bool,
}

/// How a text looks on a terminal, and only there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Style {
    #[default]
    Plain,
    Coloured,
}

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const RESET: &str = "\x1b[0m";

impl Style {
    /// Colours for a terminal whose user has not said that there are to be none (<https://no-color.org>).
    pub(crate) fn of_stdout() -> Self {
        use std::io::IsTerminal as _;
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if std::io::stdout().is_terminal() && !unwanted { Self::Coloured } else { Self::Plain }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap(BOLD, text)
    }

    pub(crate) fn alarm(self, text: &str) -> String {
        self.wrap(RED, text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("{code}{text}{RESET}"),
        }
    }
}

/// A table in the manner of kubectl.
pub(crate) fn table(locks: &[LockView], columns: Columns, style: Style, header: bool, now: Timestamp) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    let mut names = vec!["NAME", "KIND", "STATE", "SHARE", "HOLDER", "SINCE", "WAITERS", "AGE"];
    if columns.namespace {
        names.insert(0, "NAMESPACE");
    }
    if columns.wide {
        names.extend(["LEASE", "TOKEN", "LIVENESS", "PAYLOAD"]);
    }
    table.set_header(names);
    for lock in locks {
        table.add_row(row(lock, columns, now));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.trim_fmt();
    let (head, rows) = text.split_once('\n').unwrap_or((&text, ""));
    let mut lines = Vec::from_iter(header.then(|| style.bold(head)));
    // A payload, a name or an identity has no line of its own: what does not print is written as it is in Rust.
    lines.extend(rows.lines().zip(locks).map(|(line, lock)| match lock.state {
        State::Free => style.wrap(DIM, line),
        State::Held if !lock.waiters.is_empty() => style.wrap(YELLOW, line),
        State::Held => line.to_owned(),
    }));
    lines.join("\n") + "\n"
}

fn row(lock: &LockView, columns: Columns, now: Timestamp) -> Vec<String> {
    let first = lock.holders.first();
    let more = match lock.holders.len() {
        0 | 1 => String::new(),
        n => format!(" +{}", n - 1),
    };
    let mut row = vec![
        printable(&lock.name),
        lock.kind.to_owned(),
        format!("{:?}", lock.state),
        lock.share(),
        printable(first.map_or(NOTHING, HolderView::short)) + &more,
        ago(first.and_then(|holder| holder.since), now),
        lock.waiters.len().to_string(),
        ago(lock.created, now),
    ];
    if columns.namespace {
        row.insert(0, lock.namespace.clone());
    }
    if columns.wide {
        let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
        row.extend([
            lock.lease_name.clone(),
            or_nothing(first.and_then(|holder| Some(holder.token?.to_string()))),
            or_nothing(first.map(liveness)),
            or_nothing(first.and_then(|holder| Some(holder.payload.as_ref()?.escape_debug().to_string()))),
        ]);
    }
    row
}

fn liveness(holder: &HolderView) -> String {
    match (holder.lease_duration_seconds, holder.kept) {
        (Some(seconds), true) => format!("kept {seconds}s"),
        (Some(seconds), false) => format!("own {seconds}s"),
        (None, _) => "session".to_owned(),
    }
}
