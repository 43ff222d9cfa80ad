//! The terminal, taken and given back.

use std::io;
use std::thread;

use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{LeaveAlternateScreen, disable_raw_mode};
use ratatui::{DefaultTerminal, Frame};
use tokio::sync::mpsc::{self, Receiver};

use crate::exit::Failure;

/// The screen of a terminal. It is as it was when this is dropped, and when this program panics.
#[derive(Debug)]
pub(super) struct Screen(DefaultTerminal);

impl Screen {
    pub(super) fn open() -> Result<Self, Failure> {
        // It also sets a hook, so that what a panic says can be read.
        ratatui::try_init().map(Self).map_err(|error| {
            give_back();
            Failure::usage(format!("this terminal cannot be used ({error}): see --once"))
        })
    }

    pub(super) fn draw(&mut self, what: impl FnOnce(&mut Frame<'_>)) -> Result<(), Failure> {
        self.0.draw(what).map(drop).map_err(|error| Failure::internal(&error))
    }

    /// After it was [given back](give_back).
    pub(super) fn reopen(&mut self) -> Result<(), Failure> {
        self.0 = ratatui::try_init().map_err(|error| Failure::internal(&error))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Where it cannot be given back there is no terminal any more.
pub(super) fn give_back() {
    let _ = disable_raw_mode();
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
}

/// Keys, and changes of size. A thread reads them, and ends with this program.
pub(super) fn events() -> Receiver<io::Result<Event>> {
    let (tell, events) = mpsc::channel(16);
    thread::spawn(move || {
        loop {
            let event = event::read();
            let is_over = event.is_err();
            if tell.blocking_send(event).is_err() || is_over {
                return;
            }
        }
    });
    events
}
