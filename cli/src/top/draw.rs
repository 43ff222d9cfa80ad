//! What stands on the screen.

use leasehold::protocol::Now;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Paragraph, Row, Table};

use super::columns::{self, Column};
use super::locks::Entry;
use super::state::{Shown, State};
use crate::view::{HolderView, printable};

/// Longer than an API server is silent that is there.
const SILENT: u64 = 90;

pub(super) const HELP: &str = "\
q, Esc, Ctrl-C   quit
s                sort otherwise: busiest, longest held, most waiters, by name
arrows, PgUp, PgDn, Home, End   move
Enter            show one's holders and queue; Esc goes back
/                show only what has this text in its name, namespace or holder
p                pause, and go on
Ctrl-Z           stop this program, fg continues it

HELD, LONGEST   12s: seen to begin. >12s: at least, it was so before this program looked.
                ~12s: by the clock of whoever wrote it.
/MIN            how many came to hold it, by what was seen in the last minute";

/// Where what is shown stands: `in namespace shop`.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, place: &str, with_namespace: bool, now: Now) {
    let trouble = trouble(state, now);
    let unreadable = state.live().unreadable();
    let lines = [1, u16::from(trouble.is_some()), u16::from(unreadable.is_some()), 0, 1];
    let [head, warning, left_out, body, foot] = Layout::vertical([
        Constraint::Length(lines[0]),
        Constraint::Length(lines[1]),
        Constraint::Length(lines[2]),
        Constraint::Min(lines[3]),
        Constraint::Length(lines[4]),
    ])
    .areas(frame.area());
    frame.render_widget(Line::from(title(state, place)).style(Modifier::BOLD), head);
    if let Some(trouble) = trouble {
        frame.render_widget(Line::from(trouble).style(Style::new().red()), warning);
    }
    if let Some(unreadable) = unreadable {
        frame.render_widget(Line::from(unreadable).style(Style::new().yellow()), left_out);
    }
    match state.shown.clone() {
        Shown::Table | Shown::Filter => table(frame, body, state, with_namespace, state.time(now)),
        Shown::Help => frame.render_widget(Paragraph::new(HELP), body),
        Shown::Queue { key, scroll } => {
            let text = match state.locks().get(&key) {
                Some(entry) => queue(entry, state.time(now)),
                None => vec![format!("{} is not there any more", printable(&key.1))],
            };
            let scroll = scroll.min(text.len().saturating_sub(usize::from(body.height)));
            if let Shown::Queue { scroll: at, .. } = &mut state.shown {
                *at = scroll;
            }
            let lines = text.into_iter().skip(scroll).take(usize::from(body.height)).map(Line::from);
            frame.render_widget(Paragraph::new(lines.collect::<Text<'_>>()), body);
        }
    }
    frame.render_widget(Line::from(keys(state)).style(Modifier::DIM), foot);
}

fn title(state: &State, place: &str) -> String {
    let (all, shown) = state.counts();
    if !state.live().complete {
        return format!("{place}: looking");
    }
    let some = if shown == all { String::new() } else { format!(" ({shown} shown)") };
    let paused = if state.is_paused() { "paused, " } else { "" };
    format!("{place}: {all}{some}, {paused}{}", state.sort.name())
}

/// That the API server is not heard, and since when.
fn trouble(state: &State, now: Now) -> Option<String> {
    let locks = state.live();
    let silent = now.moment.since(locks.heard).as_secs();
    match &locks.lost {
        Some(why) => Some(format!("last heard {silent}s ago: {}", printable(why))),
        None if silent > SILENT => Some(format!("the API server was last heard {silent}s ago")),
        None => None,
    }
}

fn keys(state: &State) -> String {
    match &state.shown {
        Shown::Table if state.filter.is_empty() => "q quit  s sort  Enter queue  / filter  p pause  ? help".to_owned(),
        Shown::Table => {
            format!("/{}   q quit  s sort  Enter queue  / filter  p pause  ? help", printable(&state.filter))
        }
        Shown::Filter => format!("/{}_   Enter keeps it, Esc clears it", printable(&state.filter)),
        Shown::Queue { .. } => "Esc back  q quit  p pause".to_owned(),
        Shown::Help => "any key goes back".to_owned(),
    }
}

fn table(frame: &mut Frame<'_>, area: Rect, state: &mut State, with_namespace: bool, now: Now) {
    // One line is the header's. Only what can be seen is made.
    let (keys, selected) = state.visible(usize::from(area.height.saturating_sub(1)));
    let columns = columns::fitting(area.width, with_namespace);
    let locks = state.locks();
    let rows: Vec<Row<'_>> = keys
        .iter()
        .enumerate()
        .filter_map(|(n, key)| {
            let entry = locks.get(key)?;
            let cells = columns.iter().map(|column| column.cell(locks, entry, now));
            let style = if n == selected {
                Style::new().add_modifier(Modifier::REVERSED)
            } else if entry.view.holders.is_empty() {
                Style::new().add_modifier(Modifier::DIM)
            } else if entry.view.waiters.is_empty() {
                Style::new()
            } else {
                Style::new().yellow()
            };
            Some(Row::new(cells).style(style))
        })
        .collect();
    let widths = columns.iter().map(|column| match column {
        Column::Name => Constraint::Fill(3),
        Column::Holder => Constraint::Fill(2),
        column => Constraint::Length(column.width()),
    });
    let header = Row::new(columns.iter().map(|column| column.title())).style(Modifier::BOLD);
    frame.render_widget(Table::new(rows, widths).header(header).column_spacing(2), area);
}

/// One, with all who hold it and who wait for it.
fn queue(entry: &Entry, now: Now) -> Vec<String> {
    let view = &entry.view;
    let mut lines = vec![format!("{} {}/{}", view.kind, view.namespace, printable(&view.name))];
    if let Some(permits) = view.permits {
        lines.push(format!("{} of {} permits held, {} free", permits.held, permits.total, permits.available));
    }
    lines.push(if view.holders.is_empty() { "held by nobody" } else { "held by" }.to_owned());
    let share = |share: &Option<String>| share.as_ref().map_or(String::new(), |share| format!("  {share}"));
    for holder in &view.holders {
        let held = entry.held_by(&holder.identity, now).map(|age| age.to_string()).unwrap_or_default();
        let written = holder.since.map_or(String::new(), |at| format!("  since {at:.0}, as it says"));
        lines.push(format!("  {held:>6}  {}{}{written}", who(holder), share(&holder.share)));
    }
    if let Some(upgrading) = &view.upgrading {
        lines.push(format!("{} waits to become the writer", printable(upgrading)));
    }
    lines.push(format!("{} waiting", view.waiters.len()));
    for (place, waiter) in view.waiters.iter().enumerate() {
        let age = entry.waited_by(&waiter.identity, now).map(|age| age.to_string()).unwrap_or_default();
        let (n, wants) = (place + 1, share(&waiter.wants));
        lines.push(format!("  {age:>6}  {n}. {} ({}){wants}", waiter.host, waiter.identity));
    }
    lines
}

fn who(holder: &HolderView) -> String {
    match &holder.host {
        Some(host) => format!("{} ({})", printable(host), printable(&holder.identity)),
        None => printable(&holder.identity),
    }
}
