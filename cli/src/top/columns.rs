//! The columns of the table, on the screen and on paper.

use comfy_table::{Table, TableStyle};
use leasehold::protocol::Now;

use super::locks::{Age, Entry, Locks};
use super::state::State;
use crate::view::printable;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Namespace,
    Name,
    Kind,
    Share,
    Holder,
    Held,
    Waiters,
    Longest,
    PerMinute,
}

/// As they stand there, from the left.
const ALL: [Column; 9] = [
    Column::Namespace,
    Column::Name,
    Column::Kind,
    Column::Share,
    Column::Holder,
    Column::Held,
    Column::Waiters,
    Column::Longest,
    Column::PerMinute,
];

/// Which are left out first where there is little room, the last one first.
const BY_WORTH: [Column; 9] = [
    Column::Name,
    Column::Held,
    Column::Waiters,
    Column::Holder,
    Column::PerMinute,
    Column::Longest,
    Column::Namespace,
    Column::Share,
    Column::Kind,
];

const SPACING: u16 = 2;

/// Those for which there is room.
pub(super) fn fitting(width: u16, with_namespace: bool) -> Vec<Column> {
    let (mut room, mut chosen) = (width, Vec::new());
    for column in BY_WORTH.into_iter().filter(|column| with_namespace || *column != Column::Namespace) {
        let needs = column.width() + if chosen.is_empty() { 0 } else { SPACING };
        if needs > room && !chosen.is_empty() {
            break;
        }
        room = room.saturating_sub(needs);
        chosen.push(column);
    }
    ALL.into_iter().filter(|column| chosen.contains(column)).collect()
}

impl Column {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Namespace => "NAMESPACE",
            Self::Name => "NAME",
            Self::Kind => "KIND",
            Self::Share => "SHARE",
            Self::Holder => "HOLDER",
            Self::Held => "HELD",
            Self::Waiters => "WAITERS",
            Self::Longest => "LONGEST",
            Self::PerMinute => "/MIN",
        }
    }

    /// How wide it is; of names, at least.
    pub(super) fn width(self) -> u16 {
        match self {
            Self::Namespace => 14,
            Self::Name => 12,
            Self::Kind | Self::Share => 9,
            Self::Holder => 10,
            Self::Held | Self::Waiters | Self::Longest => 7,
            Self::PerMinute => 5,
        }
    }

    pub(super) fn cell(self, locks: &Locks, entry: &Entry, now: Now) -> String {
        let view = &entry.view;
        let age = |age: Option<Age>| age.map_or("-".to_owned(), |age| age.to_string());
        match self {
            Self::Namespace => view.namespace.clone(),
            Self::Name => printable(&view.name),
            Self::Kind => view.kind.to_owned(),
            Self::Share => view.share(),
            Self::Holder => match &view.holders[..] {
                [] => "-".to_owned(),
                [one] => printable(one.short()),
                [first, others @ ..] => format!("{} +{}", printable(first.short()), others.len()),
            },
            Self::Held => age(entry.held(now)),
            Self::Waiters => view.waiters.len().to_string(),
            Self::Longest => age(entry.longest_wait(now)),
            Self::PerMinute => locks.per_minute(entry, now.moment).to_string(),
        }
    }
}

/// All, as a text without any escape codes.
pub(super) fn plain(state: &State, with_namespace: bool, now: Now) -> String {
    let columns: Vec<Column> =
        ALL.into_iter().filter(|column| with_namespace || *column != Column::Namespace).collect();
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(columns.iter().map(|column| column.title()));
    let locks = state.locks();
    for entry in state.order().iter().filter_map(|key| locks.get(key)) {
        table.add_row(columns.iter().map(|column| column.cell(locks, entry, now)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}
