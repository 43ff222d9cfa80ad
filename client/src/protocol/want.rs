//! What is shared, and how much of it somebody wants or holds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

use super::BadId;
use super::record::KIND_LOCK;

/// What a Lease is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One holds it.
    #[default]
    Lock,
    /// As many hold it as there are permits.
    Semaphore,
    /// Many readers hold it, or one writer.
    ReadWriteLock,
}

/// The permits of a read-write lock: more readers than can be.
pub const ALL: u32 = i32::MAX.cast_unsigned();

impl Kind {
    const EVERY: [Self; 3] = [Self::Lock, Self::Semaphore, Self::ReadWriteLock];

    /// As the label [`KIND`](super::record::KIND) has it. Where several share a Lease this also stands for its holder.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lock => KIND_LOCK,
            Self::Semaphore => "semaphore",
            Self::ReadWriteLock => "rwlock",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::EVERY.into_iter().find(|kind| kind.name() == name)
    }
}

/// How much of a lock somebody holds or wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// So many permits. A lock has one.
    Permits(u32),
    /// Beside other readers.
    Read,
    /// Beside other readers, but only one of these, which can become the writer.
    Upgradeable,
    /// Alone.
    Write,
}

impl Default for Mode {
    fn default() -> Self {
        Self::Permits(1)
    }
}

impl Mode {
    /// How many permits that is, of so many.
    #[must_use]
    pub fn permits(self, capacity: u32) -> u32 {
        match self {
            Self::Permits(permits) => permits,
            Self::Read | Self::Upgradeable => 1,
            Self::Write => capacity,
        }
    }
}

/// What somebody wants of a lock, as it stands in an annotation: `3`, `read`, `write own=60`, `1 own=60 kept`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Want {
    /// How much.
    pub mode: Mode,
    /// It is to live for so long by itself, and not by its session.
    pub own: Option<Duration>,
    /// Since when it holds it, by the clock of whoever wrote it. For people.
    pub since: Option<Timestamp>,
    /// Its process has left it there until its time has passed.
    pub kept: bool,
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            Mode::Permits(permits) => write!(f, "{permits}")?,
            Mode::Read => f.write_str("read")?,
            Mode::Upgradeable => f.write_str("upgradeable")?,
            Mode::Write => f.write_str("write")?,
        }
        if let Some(own) = self.own {
            write!(f, " own={}", own.as_secs())?;
        }
        if let Some(since) = self.since {
            write!(f, " since={since:.0}")?;
        }
        if self.kept {
            f.write_str(" kept")?;
        }
        Ok(())
    }
}

impl FromStr for Want {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let mut words = text.split(' ');
        let mode = match words.next().unwrap_or_default() {
            "read" => Mode::Read,
            "upgradeable" => Mode::Upgradeable,
            "write" => Mode::Write,
            permits => Mode::Permits(permits.parse().map_err(|_| BadId)?),
        };
        let mut want = Self { mode, ..Self::default() };
        for word in words {
            match word.split_once('=') {
                None if word == "kept" => want.kept = true,
                Some(("own", seconds)) => {
                    want.own = Some(Duration::from_secs(seconds.parse::<u32>().map_err(|_| BadId)?.into()));
                }
                Some(("since", since)) => want.since = since.parse().ok(),
                _ => {}
            }
        }
        Ok(want)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let stamp = "2026-01-01T00:00:00Z".parse().ok();
        for mode in [Mode::Permits(1), Mode::Permits(70), Mode::Read, Mode::Upgradeable, Mode::Write] {
            for own in [None, Some(Duration::from_secs(60))] {
                for (since, kept) in [(None, false), (stamp, false), (None, true), (stamp, true)] {
                    let want = Want { mode, own, since, kept };
                    assert_eq!(want.to_string().parse(), Ok(want));
                }
            }
        }
        for bad in ["", "-1", "reader", "1.5", " 1", "2 own=x"] {
            assert_eq!(bad.parse::<Want>(), Err(BadId), "{bad:?}");
        }
    }
}
