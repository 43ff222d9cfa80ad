//! What workers and the fault injector write down, and how it is read again.
//!
//! A history is a file of JSON lines. Each is written by one system call when what it tells has happened, so a killed
//! process leaves all it did behind, but for what it was just doing.

use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use leasehold::clock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A time of this machine: nanoseconds of `CLOCK_BOOTTIME`. All processes of a run read the same clock.
pub type Nanos = u64;

/// What time it is.
#[must_use]
pub fn now() -> Nanos {
    u64::try_from(clock::moment().since_start().as_nanos()).unwrap_or(Nanos::MAX)
}

/// From before something was begun until after it was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Read before it was begun.
    pub from: Nanos,
    /// Read after it was done.
    pub to: Nanos,
}

/// How much of a name somebody wants or holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Share {
    /// A lock.
    #[default]
    Lock,
    /// So many permits of a semaphore.
    Permits(u32),
    /// A read-write lock, to read.
    Read,
    /// A read-write lock, to read, as the one reader that can become the writer.
    Upgradeable,
    /// A read-write lock, to write.
    Write,
}

impl Share {
    /// Others can hold the same name.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self != Self::Lock
    }

    /// What is held for sure while one of these becomes the other.
    #[must_use]
    pub fn weaker(self, other: Self) -> Self {
        match (self, other) {
            (Self::Permits(one), Self::Permits(two)) => Self::Permits(one.min(two)),
            (Self::Read, _) | (_, Self::Read) => Self::Read,
            (Self::Upgradeable, _) | (_, Self::Upgradeable) => Self::Upgradeable,
            _ => self,
        }
    }
}

/// One line of a worker's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When.
    #[serde(flatten)]
    pub span: Span,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What a worker did, or what happened to it. It does one thing at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum What {
    /// It asks for something.
    Waiting {
        /// Its name.
        lock: String,
        /// How much of it.
        #[serde(default)]
        share: Share,
    },
    /// It was given what it asked for; the time is that of the whole wait.
    Acquired {
        /// The fencing token.
        token: u64,
        /// The acquisition's identity.
        id: String,
    },
    /// It has more or less of the same than before; the time is that of the whole change.
    Changed {
        /// How much.
        share: Share,
        /// The fencing token from now on.
        token: u64,
    },
    /// A check of the guard succeeded.
    Checked,
    /// It did not look at the guard for longer than that can have been valid, and goes on all the same.
    Stalled,
    /// It wrote where nothing compares tokens.
    Appended {
        /// A check has come just before.
        polite: bool,
    },
    /// It is about to write where tokens are compared.
    Fencing {
        /// The number it is about to store.
        counter: u64,
    },
    /// It has been told what came of that, or was refused before.
    Fenced {
        /// What came of it.
        outcome: Outcome,
    },
    /// A check of the guard failed.
    Lost {
        /// The guard's words.
        why: String,
        /// It is said to have been taken away, though the session by which it lives was not over.
        #[serde(default)]
        taken: bool,
    },
    /// It has given back what it held.
    Released {
        /// The client said that it was still held.
        clean: bool,
    },
    /// It has given up waiting.
    GaveUp {
        /// How that came.
        why: String,
    },
    /// It has shut its client down and ends.
    Ended,
}

/// What came of a fenced write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It was carried out.
    Written {
        /// The number stored.
        counter: u64,
    },
    /// A larger token has been there.
    Refused {
        /// That token.
        stored: u64,
    },
    /// It was not carried out, for a reason that has nothing to do with tokens.
    Failed {
        /// The reason.
        why: String,
    },
    /// No answer has told.
    Unclear {
        /// What there was instead.
        why: String,
    },
}

/// One line of the history of faults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultLine {
    /// From before it was inflicted until after it was.
    #[serde(flatten)]
    pub span: Span,
    /// Which kind.
    pub kind: String,
    /// Whom or what it befell.
    pub whom: String,
    /// The line tells of its end.
    #[serde(default)]
    pub healed: bool,
    /// The identities of the holders whose holds a person broke by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broke: Vec<String>,
    /// How many permits a person made of a semaphore by it, where that is certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
}

/// A file that lines are added to.
#[derive(Debug)]
pub struct Journal(File);

impl Journal {
    /// Begins a file.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Self(file.with_context(|| format!("cannot write {}", path.display()))?))
    }

    /// Adds a line.
    pub fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        Ok(self.0.write_all(text.as_bytes())?)
    }
}

/// The lines of a history. The last may be cut off: its writer was killed.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display())))
        .collect()
}

/// What one worker's process did.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The process.
    pub worker: String,
    /// What it wrote down, in order.
    pub lines: Vec<Line>,
}

/// One acquisition, with all that was done under it. What is made more or less of goes on as another one of the same
/// identity.
#[derive(Clone, Debug, Default)]
pub struct Hold {
    /// The process.
    pub worker: String,
    /// The lock's name.
    pub lock: String,
    /// How much of it.
    pub share: Share,
    /// The same had more or less of it before.
    pub changed: bool,
    /// The fencing token.
    pub token: u64,
    /// The acquisition's identity.
    pub id: String,
    /// From asking for it until the guard was there.
    pub acquired: Span,
    /// Successful checks.
    pub checks: Vec<Span>,
    /// Unfenced writes.
    pub appends: Vec<Append>,
    /// Fenced writes.
    pub fences: Vec<Fence>,
    /// When it was told that it had been taken away, though the session by which it lived was not over.
    pub taken: Option<Span>,
}

/// An unfenced write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append {
    /// When.
    pub span: Span,
    /// When the check before it was begun; none if its writer did not care.
    pub checked: Option<Nanos>,
}

/// A fenced write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// When.
    pub span: Span,
    /// The number to be stored, where it got so far.
    pub counter: Option<u64>,
    /// What came of it; none where its writer was killed.
    pub outcome: Option<Outcome>,
}

/// A wait for a lock, or for a part of what several share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The process.
    pub worker: String,
    /// The lock's name.
    pub lock: String,
    /// How much of it is wanted.
    pub share: Share,
    /// Since when.
    pub from: Nanos,
    /// When it got the lock; none if it gave up, or was killed.
    pub got: Option<Nanos>,
    /// When it was over, one way or another; none if it was killed.
    pub over: Option<Nanos>,
}

impl History {
    /// The holds and waits that the lines tell of.
    #[must_use]
    pub fn told(&self) -> (Vec<Hold>, Vec<Wait>) {
        let (mut holds, mut waits) = (Vec::<Hold>::new(), Vec::<Wait>::new());
        for line in &self.lines {
            let span = line.span;
            let wait = waits.last_mut();
            let hold = holds.last_mut();
            match (&line.what, wait, hold) {
                (What::Waiting { lock, share }, _, _) => {
                    let (worker, lock, share) = (self.worker.clone(), lock.clone(), *share);
                    waits.push(Wait { worker, lock, share, from: span.from, got: None, over: None });
                }
                (What::Acquired { token, id }, Some(wait), _) => {
                    (wait.got, wait.over) = (Some(span.to), Some(span.to));
                    let (worker, lock, share) = (self.worker.clone(), wait.lock.clone(), wait.share);
                    let (token, id, acquired) = (*token, id.clone(), span);
                    holds.push(Hold { worker, lock, share, token, id, acquired, ..Hold::default() });
                }
                (What::GaveUp { .. }, Some(wait), _) if wait.over.is_none() => wait.over = Some(span.to),
                (What::Changed { share, token }, _, Some(hold)) => {
                    let (worker, lock, id) = (hold.worker.clone(), hold.lock.clone(), hold.id.clone());
                    let (share, token, acquired) = (*share, *token, span);
                    holds.push(Hold { worker, lock, share, changed: true, token, id, acquired, ..Hold::default() });
                }
                (What::Checked, _, Some(hold)) => hold.checks.push(span),
                (What::Lost { taken: true, .. }, _, Some(hold)) => hold.taken = Some(span),
                (What::Appended { polite }, _, Some(hold)) => {
                    let checked = hold.checks.last().map(|check| check.from).filter(|_| *polite);
                    hold.appends.push(Append { span, checked });
                }
                (What::Fencing { counter }, _, Some(hold)) => {
                    hold.fences.push(Fence { span, counter: Some(*counter), outcome: None });
                }
                (What::Fenced { outcome }, _, Some(hold)) => match hold.fences.last_mut() {
                    Some(fence) if fence.outcome.is_none() => {
                        fence.outcome = Some(outcome.clone());
                        fence.span.to = span.to;
                    }
                    _ => hold.fences.push(Fence { span, counter: None, outcome: Some(outcome.clone()) }),
                },
                _ => {}
            }
        }
        (holds, waits)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.span, serde_json::to_string(&self.what).unwrap_or_default())
    }
}

impl fmt::Display for FaultLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = if self.healed { "healed" } else { "inflicted" };
        write!(f, "{} {done} {}: {}", self.span, self.kind, self.whom)?;
        self.permits.iter().try_for_each(|permits| write!(f, ", {permits} permits"))?;
        self.broke.iter().try_for_each(|id| write!(f, ", broke the hold of {id}"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |nanos: Nanos| format!("{}.{:06}", nanos / 1_000_000_000, nanos / 1_000 % 1_000_000);
        write!(f, "{}..{}", seconds(self.from), seconds(self.to))
    }
}
