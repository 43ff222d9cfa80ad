//! `top`: the busiest and the longest-held locks, as they change.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use leasehold::clock::now;
use leasehold::protocol::Moment;
use ratatui::crossterm::event::Event;
use rustix::process::Signal;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::{sleep, timeout};

use crate::args::duration;
use crate::config;
use crate::exit::{Failure, say};
use crate::output::print;
use crate::read::Leases;
use crate::signals::{Signals, stop_self};

mod columns;
mod draw;
mod keys;
mod locks;
mod screen;
mod state;
#[cfg(test)]
mod tests;
mod watch;

use keys::Next;
use locks::Seen;
use screen::Screen;
use state::{Sort, State};

pub(crate) const ABOUT: &str = "\
Watch the busiest and the longest-held locks

A table that follows what happens: who holds what and how long, how many wait and how long, how often it is handed over. \
At a terminal it stays until q is pressed; ? shows the keys. Elsewhere, and with --once, it watches for a while and prints \
one table.

Ages are what this program saw itself: `12s` was seen to begin, `>12s` was there before, `~12s` is by the clock of whoever \
wrote it.";

pub(crate) const EXAMPLES: &str = "\
Examples:
  kubectl leasehold top -A

  # What was handed over most often within a minute
  kubectl leasehold top --once --for 1m | head";

/// How many changes may wait to be shown.
const UNSEEN: usize = 1024;
/// No faster than that is it drawn because something has changed.
const FRAME: Duration = Duration::from_millis(100);
/// Ages grow.
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only those whose Leases have such labels (key=value, key!=value, key in (a,b), …)
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// What stands first
    #[arg(long, value_enum, value_name = "ORDER", default_value = "busiest")]
    sort: Sort,
    /// Print one table after watching for a while, and end
    #[arg(long)]
    once: bool,
    /// How long to watch before the one table
    #[arg(long = "for", value_name = "DUR", value_parser = duration, default_value = "5s")]
    watched: Duration,
}

pub(crate) async fn top(leases: Leases, args: TopArgs) -> Result<u8, Failure> {
    let mut signals = Signals::ending().map_err(|error| Failure::internal(&error))?;
    let (tell, seen) = mpsc::channel(UNSEEN);
    let state = State::new(now().moment, args.sort);
    let place = if args.all_namespaces { format!("in all namespaces{}", config::of_context()) } else { leases.place() };
    let is_live = !args.once && io::stdout().is_terminal() && io::stdin().is_terminal();
    let following = watch::follow(&leases, &args, &tell);
    let showing = async {
        if is_live {
            live(state, seen, &mut signals, &place, &args).await
        } else {
            once(state, seen, &mut signals, &args).await
        }
    };
    tokio::select! {
        outcome = showing => outcome,
        outcome = following => outcome.map(|()| 0),
    }
}

/// Watches for a while, and prints one table.
async fn once(
    mut state: State,
    mut seen: Receiver<Seen>,
    signals: &mut Signals,
    args: &TopArgs,
) -> Result<u8, Failure> {
    if !args.once {
        say(format_args!("this is no terminal: one table after watching for {:?} (--for)", args.watched));
    }
    let mut end = None;
    loop {
        // It is watched from when it is known what there is.
        let left = end.map_or(Duration::MAX, |end: Moment| end.since(now().moment));
        tokio::select! {
            biased;
            signal = signals.next_ending() => return Err(Failure::signal(signal.as_raw())),
            told = timeout(left, seen.recv()) => match told {
                Ok(Some(told)) => state.saw(told, now().moment),
                Ok(None) | Err(_) => break,
            },
        }
        if state.live().complete && end.is_none() {
            end = Some(now().moment + args.watched);
        }
    }
    let at = now();
    if let Some(why) = &state.live().lost {
        say(format_args!("last heard {}s ago: {why}", at.moment.since(state.live().heard).as_secs()));
    }
    if let Some(unreadable) = state.live().unreadable() {
        say(unreadable);
    }
    state.refresh(at);
    print(&columns::plain(&state, args.all_namespaces, at))?;
    Ok(0)
}

/// Shows it until somebody quits.
async fn live(
    mut state: State,
    mut seen: Receiver<Seen>,
    signals: &mut Signals,
    place: &str,
    args: &TopArgs,
) -> Result<u8, Failure> {
    signals.with_job_control().map_err(|error| Failure::internal(&error))?;
    let mut screen = Screen::open()?;
    let mut events = screen::events();
    let (mut drawn, mut changed, mut frame) = (Moment::default(), true, FRAME);
    loop {
        let at = now();
        let since = at.moment.since(drawn);
        if since >= TICK || changed && since >= frame {
            state.refresh(at);
            screen.draw(|frame| draw::draw(frame, &mut state, place, args.all_namespaces, at))?;
            (drawn, changed) = (at.moment, false);
            // Of one processor no more than a tenth is spent on it, however much there is to sort.
            frame = FRAME.max(now().moment.since(at.moment) * 9);
        }
        let pause = if changed { frame } else { TICK };
        tokio::select! {
            biased;
            signal = signals.next() => match signal {
                Signal::TSTP => suspend(&mut screen)?,
                // Whoever stopped it did not say so before, and a shell has had the terminal since.
                Signal::CONT => {
                    screen.retake()?;
                    (drawn, changed) = (Moment::default(), true);
                }
                signal => return Err(Failure::signal(signal.as_raw())),
            },
            event = events.recv() => match event {
                Some(Ok(Event::Key(key))) => {
                    match keys::press(&mut state, key, now()) {
                        Next::GoOn => {}
                        Next::Quit => return Ok(0),
                        Next::Suspend => suspend(&mut screen)?,
                    }
                    // Whoever presses a key sees it at once.
                    (drawn, changed) = (Moment::default(), true);
                }
                Some(Ok(_)) => (drawn, changed) = (Moment::default(), true),
                Some(Err(error)) => return Err(Failure::internal(&error)),
                None => return Ok(0),
            },
            told = seen.recv() => {
                let Some(told) = told else { return Ok(0) };
                state.saw(told, now().moment);
                changed = true;
            }
            () = sleep(pause.saturating_sub(now().moment.since(drawn))) => {}
        }
    }
}

/// Gives the terminal back, and stops until somebody continues it.
fn suspend(screen: &mut Screen) -> Result<(), Failure> {
    screen::give_back();
    let stopped = stop_self();
    screen.retake()?;
    stopped.map_err(|error| Failure::internal(&error))
}
