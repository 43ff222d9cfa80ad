//! What keys do.

use leasehold::protocol::Now;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::{Shown, State, Step};

/// What is to happen besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    Quit,
    /// Stop this process, as Ctrl-Z does elsewhere.
    Suspend,
}

pub(super) fn press(state: &mut State, key: KeyEvent, now: Now) -> Next {
    if key.kind == KeyEventKind::Release {
        return Next::GoOn;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Next::Quit,
            KeyCode::Char('z') => Next::Suspend,
            _ => Next::GoOn,
        };
    }
    match &mut state.shown {
        Shown::Filter => filter(state, key.code),
        Shown::Help => state.shown = Shown::Table,
        Shown::Queue { scroll, .. } => match (key.code, step(key.code)) {
            (_, Some(step)) => {
                *scroll = match step {
                    Step::Up => scroll.saturating_sub(1),
                    Step::PageUp => scroll.saturating_sub(10),
                    Step::Down => *scroll + 1,
                    Step::PageDown => *scroll + 10,
                    Step::Home => 0,
                    // It is no further than there is something to see.
                    Step::End => usize::MAX,
                }
            }
            (KeyCode::Char('q'), _) => return Next::Quit,
            (KeyCode::Char('p'), _) => state.pause(now),
            (KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace, _) => state.shown = Shown::Table,
            _ => {}
        },
        Shown::Table => match (key.code, step(key.code)) {
            (_, Some(step)) => state.go(step),
            (KeyCode::Char('q') | KeyCode::Esc, _) => return Next::Quit,
            (KeyCode::Char('s'), _) => state.next_sort(),
            (KeyCode::Char('p'), _) => state.pause(now),
            (KeyCode::Char('/'), _) => state.shown = Shown::Filter,
            (KeyCode::Char('?'), _) => state.shown = Shown::Help,
            (KeyCode::Enter, _) => state.open(),
            _ => {}
        },
    }
    Next::GoOn
}

fn filter(state: &mut State, code: KeyCode) {
    match code {
        KeyCode::Char(c) => state.filter.push(c),
        KeyCode::Backspace => drop(state.filter.pop()),
        KeyCode::Enter => state.shown = Shown::Table,
        KeyCode::Esc => {
            state.filter.clear();
            state.shown = Shown::Table;
        }
        _ => {}
    }
}

fn step(code: KeyCode) -> Option<Step> {
    Some(match code {
        KeyCode::Up => Step::Up,
        KeyCode::Down => Step::Down,
        KeyCode::PageUp => Step::PageUp,
        KeyCode::PageDown => Step::PageDown,
        KeyCode::Home => Step::Home,
        KeyCode::End => Step::End,
        _ => return None,
    })
}
