use std::ops::{Add, Sub};
use std::time::Duration;

use jiff::Timestamp;

/// A point on this machine's own clock, which counts through suspend. It means nothing to another machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The moment this long after the clock's start.
    #[must_use]
    pub const fn from_start(since: Duration) -> Self {
        Self(since)
    }

    /// How long after the clock's start this is.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// The time from `earlier` until this, zero if there is none.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(rhs))
    }
}

/// What time it is: for decisions, and for people.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Now {
    /// This machine's own clock. All decisions are made with this one.
    pub moment: Moment,
    /// Wall-clock time. It is written for people and other clients to read, and no decision looks at it,
    /// unless a bound on the skew of clocks is given.
    pub stamp: Timestamp,
}
