//! `run`: acquire the lock, look after the command, release the lock.

use std::time::Duration;

use leasehold::clock::now;
use leasehold::{Hold, MultiGuard};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::args::{ClusterArgs, RunArgs, VoiceArgs, Wanted};
use crate::backend::{Backend, NotAcquired, Order};
use crate::config;
use crate::exit::{self, Failure, say};
use crate::held::{Held, Released};
use crate::read::Leases;
use crate::signals::Signals;
use crate::strays::Reaper;
use crate::supervise::{self, Ended, Work};
use crate::terminal::Terminal;
use crate::waiting::{self, Waited};

/// How long to look for the holder whom to name in a message.
const LOOK: Duration = Duration::from_secs(2);

pub(crate) async fn run(cluster: &ClusterArgs, args: &RunArgs) -> Result<u8, Failure> {
    let grace = args.grace().map_err(Failure::usage)?;
    let wanted = args.wanted().map_err(Failure::usage)?;
    let config = config::load(cluster).await?;
    let namespace = config.default_namespace.clone();
    let mut signals = Signals::ending().map_err(|error| Failure::internal(&error))?;
    let reaper = Reaper::begin().map_err(|error| Failure::internal(&error))?;
    let leases = Leases::new(config.clone())?;
    let order = Order {
        wanted: &wanted,
        max_clock_skew: args.kinds.max_clock_skew,
        hold_at_least: args.hold_at_least,
        max_hold: args.max_hold,
        lease_duration: args.lease_duration,
        grace,
    };
    let backend = Backend::new(config, &order)?;
    let wait = Wait {
        leases: &leases,
        wanted: &wanted,
        limit: args.waiting.limit(),
        conflict: args.waiting.conflict_exit_code,
        voice: args.voice,
    };
    let outcome = match acquire(&backend, &wait, &mut signals).await {
        Ok(guard) => {
            let of = Of { args, wanted: &wanted, namespace: &namespace, grace };
            run_under(Held::Locks(guard), &mut signals, &reaper, &of).await
        }
        Err(failure) => Err(failure),
    };
    let lost = matches!(&outcome, Err(failure) if failure.code == exit::LOST);
    backend.leave(lost).await;
    outcome
}

/// How an acquisition waits, and what it says of that.
#[derive(Clone, Copy)]
pub(crate) struct Wait<'a> {
    pub(crate) leases: &'a Leases,
    pub(crate) wanted: &'a [Wanted],
    pub(crate) limit: Option<Duration>,
    pub(crate) conflict: u8,
    pub(crate) voice: VoiceArgs,
}

impl Wait<'_> {
    /// As people call what has this name.
    fn noun(&self, name: &str) -> &'static str {
        self.wanted.iter().find(|wanted| wanted.name == name).map_or("lock", Wanted::noun)
    }
}

pub(crate) async fn acquire(backend: &Backend, wait: &Wait<'_>, signals: &mut Signals) -> Result<MultiGuard, Failure> {
    let &Wait { leases, limit, conflict, voice, .. } = wait;
    let (progress, seen) = watch::channel(None);
    let tell = |name: &str, progress_of: leasehold::Progress| {
        progress.send_replace(Some(Waited { noun: wait.noun(name), name: name.to_owned(), progress: progress_of }));
    };
    let acquired = tokio::select! {
        biased;
        // Dropping the acquisition leaves the queue.
        signal = signals.next() => return Err(Failure::signal(signal.as_raw())),
        acquired = backend.acquire(limit, tell) => acquired,
        never = waiting::report(leases, seen, voice) => match never {},
    };
    match acquired {
        Ok(guard) => {
            if voice.verbose {
                for hold in guard.holds() {
                    let (noun, name) = (wait.noun(hold.name()), hold.name());
                    say(format_args!("acquired {noun} {name} with token {}", hold.token()));
                }
            }
            Ok(guard)
        }
        Err(NotAcquired::Failed(failure)) => Err(failure),
        Err(NotAcquired::Busy { name, identity }) => {
            let held_by = match timeout(LOOK, leases.get(&name)).await {
                Ok(Ok(lock)) if !lock.holders.is_empty() || identity.is_empty() => lock.held_by(now().stamp),
                _ => format!("held by {identity}"),
            };
            let (noun, place) = (wait.noun(&name), leases.place());
            let message = match limit.filter(|limit| !limit.is_zero()) {
                Some(limit) => format!("{noun} {name} {place} was not acquired within {limit:?}: {held_by}"),
                None => format!("{noun} {name} {place} was not acquired: {held_by}"),
            };
            Err(Failure::new(conflict, message))
        }
    }
}

/// What the command runs under, and how.
struct Of<'a> {
    args: &'a RunArgs,
    wanted: &'a [Wanted],
    namespace: &'a str,
    grace: Duration,
}

async fn run_under(held: Held, signals: &mut Signals, reaper: &Reaper, of: &Of<'_>) -> Result<u8, Failure> {
    let &Of { args, wanted, namespace, grace } = of;
    let labels = match prepare(&held, args).await {
        Ok(labels) => labels,
        Err(failure) => {
            held.let_go(None).await;
            return Err(failure);
        }
    };
    let terminal = Terminal::open();
    let work = Work {
        command: &args.program(),
        environment: held.environment(wanted.iter().map(|wanted| wanted.name.as_str()), namespace),
        grace,
        lease_duration: args.lease_duration,
        terminal: terminal.as_ref(),
        reaper,
    };
    let ended = supervise::run(&held, signals, &work).await;
    for label in labels {
        label.remove().await;
    }
    let code = match ended {
        Ok((Ended::ByItself(code), _)) => code,
        Ok((Ended::Stopped(failure), _)) => return Err(failure),
        Err(failure) => {
            held.let_go(None).await;
            return Err(failure);
        }
    };
    let keep = args.keep.filter(|_| code == 0);
    let noun = |hold: &Hold| wanted.iter().find(|wanted| wanted.name == hold.name()).map_or("lock", Wanted::noun);
    let called = |hold: &Hold| format!("{} {}", noun(hold), hold.name());
    let names = held.all().iter().map(called).collect::<Vec<_>>().join(", ");
    match held.let_go(keep).await {
        Released::Cleanly => {
            if args.voice.verbose {
                let done = keep.map_or("released".to_owned(), |time| format!("kept for {time:?}:"));
                say(format_args!("{done} {names}"));
            }
            Ok(code)
        }
        Released::Lost(lost) => {
            let message = format!("the command ended with exit code {code}, perhaps without the lock: {lost}");
            Err(Failure::new(exit::LOST, message))
        }
        Released::Unclear(why) => {
            let lease = args.lease_duration;
            match keep {
                Some(_) => say(format_args!("{why}; it may not be kept, and pass on in {lease:?}")),
                None => say(format_args!("{why}; at the latest the lock passes on in {lease:?}")),
            }
            Ok(code)
        }
    }
}

/// What is to be seen from outside before the command begins.
async fn prepare(held: &Held, args: &RunArgs) -> Result<Vec<leasehold::election::LabelledPod>, Failure> {
    if let Some(text) = &args.payload {
        held.publish(text).await?;
    }
    args.label_pod.as_deref().map_or(Ok(Vec::new()), |key| held.label_pod(key))
}
