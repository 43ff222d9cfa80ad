//! The terminal, taken and given back.

use std::io;
use std::thread;

use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use ratatui::prelude::CrosstermBackend;
use ratatui::{DefaultTerminal, Frame, Terminal};
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

    /// Takes it again, whatever has become of it while this process was stopped. All is drawn anew.
    pub(super) fn retake(&mut self) -> Result<(), Failure> {
        let retaken = || {
            // Whoever has changed it meanwhile has told nobody: what is set already would not be set again.
            disable_raw_mode()?;
            enable_raw_mode()?;
            execute!(io::stdout(), EnterAlternateScreen, Clear(ClearType::All))?;
            // It knows nothing of what is on the screen, and asks for nothing: the answer would come among the keys.
            Terminal::new(CrosstermBackend::new(io::stdout()))
        };
        self.0 = retaken().map_err(|error| Failure::internal(&error))?;
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

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Read as _;
    use std::process::Command;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, Termios, tcgetattr};

    use super::*;

    /// Set in the process that panics.
    const PANICS: &str = "LEASEHOLD_TEST_PANICS";

    /// In a process of its own: it is the terminal of that one that is taken.
    #[test]
    fn a_panic_gives_the_terminal_back_and_can_be_read() {
        if std::env::var_os(PANICS).is_some() {
            let _screen = Screen::open().unwrap();
            panic!("on purpose");
        }
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let theirs = OpenOptions::new().read(true).write(true).open(name).unwrap();
        let taken = |modes: &Termios| !modes.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO);
        assert!(!taken(&tcgetattr(&theirs).unwrap()));
        let thread = std::thread::current();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", thread.name().unwrap(), "--nocapture"])
            .env(PANICS, "1")
            .env("TERM", "xterm")
            .env("RUST_BACKTRACE", "0");
        command
            .stdin(theirs.try_clone().unwrap())
            .stdout(theirs.try_clone().unwrap())
            .stderr(theirs.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        drop(command);
        let status = child.wait().unwrap();
        assert!(!taken(&tcgetattr(&theirs).unwrap()), "it takes lines again");
        // What it has written is less than a terminal keeps for whoever reads. With the last of its users it ends.
        drop(theirs);
        let (mut text, mut ours) = (Vec::new(), File::from(ours));
        let _ = ours.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what:?} in {text:?}, {status}"));
        assert!(!status.success());
        assert!(at("\u{1b}[?1049h") < at("\u{1b}[?1049l"), "{text:?}");
        assert!(at("\u{1b}[?1049l") < at("on purpose"), "not on the screen that is gone: {text:?}");
        at("\u{1b}[?25h");
    }
}
