//! What a lock's custom resource wants of everybody who uses it. It stands on the Lease, so that it counts whether the
//! operator runs or not.
//!
//! | annotation | value | absent |
//! | --- | --- | --- |
//! | [`MIN_DURATION`], [`MAX_DURATION`] | seconds | no bound |
//! | [`MAX_HOLD`] | seconds | no bound |
//! | [`LOCK_DELAY`] | seconds | none |
//! | [`MAX_WAITERS`] | a number | no bound |
//! | [`RECLAIM`] | [`EXPIRY`] or [`NEVER`] | by evidence, or else by expiry |
//! | [`ON_DEADLOCK`] | [`BREAK_YOUNGEST`] | it is only told |
//! | [`ALLOWED`] | one subject a line: `user:<name>`, `group:<name>` | whoever may write the Lease |
//!
//! A value that cannot be read counts as absent.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Moment;
use super::observer::End;

/// The shortest lease duration that a holder may have, in seconds.
pub const MIN_DURATION: &str = "leasehold.dev/min-duration-seconds";
/// The longest lease duration that a holder may have, in seconds.
pub const MAX_DURATION: &str = "leasehold.dev/max-duration-seconds";
/// For how many seconds somebody may hold it at most, however often it renews.
pub const MAX_HOLD: &str = "leasehold.dev/max-hold-seconds";
/// For how many seconds nobody gets what a holder had that fell silent.
pub const LOCK_DELAY: &str = "leasehold.dev/lock-delay-seconds";
/// How many may wait at once.
pub const MAX_WAITERS: &str = "leasehold.dev/max-waiters";
/// When a dead holder is evicted: [`EXPIRY`], [`NEVER`].
pub const RECLAIM: &str = "leasehold.dev/reclaim";
/// Value of [`RECLAIM`]: once its time has passed, whatever is known of its Pod.
pub const EXPIRY: &str = "expiry";
/// Value of [`RECLAIM`]: not before a person breaks the lock.
pub const NEVER: &str = "never";
/// What becomes of those who wait for each other in a circle: [`BREAK_YOUNGEST`].
pub const ON_DEADLOCK: &str = "leasehold.dev/on-deadlock";
/// Value of [`ON_DEADLOCK`]: the one who came last gives up.
pub const BREAK_YOUNGEST: &str = "break-youngest";
/// Who may acquire it, one a line: `user:<name>`, `group:<name>`. Only admission can see to that.
pub const ALLOWED: &str = "leasehold.dev/allowed-subjects";

/// What a lock's custom resource wants of everybody who uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// The shortest lease duration that a holder may have.
    pub min_duration: Option<Duration>,
    /// The longest lease duration that a holder may have.
    pub max_duration: Option<Duration>,
    /// For how long somebody may hold it at most, however often it renews.
    pub max_hold: Option<Duration>,
    /// For how long nobody gets what a holder had that fell silent, counted from when that was certain.
    pub lock_delay: Duration,
    /// How many may wait at once.
    pub max_waiters: Option<u32>,
    /// When a dead holder is evicted.
    pub reclaim: Reclaim,
    /// Of those who wait for each other in a circle, the one who came last gives up.
    pub breaks_deadlocks: bool,
}

/// When a dead holder is evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reclaim {
    /// As soon as there is evidence that its process has ended, or else once its time has passed.
    #[default]
    Evidence,
    /// Once its time has passed, whatever is known of its process.
    Expiry,
    /// Not before a person breaks the lock.
    Never,
}

impl Policy {
    /// The duration next to this one that a hold may live by.
    #[must_use]
    pub fn nearest(&self, duration: Duration) -> Duration {
        let at_least = duration.max(self.min_duration.unwrap_or_default());
        self.max_duration.map_or(at_least, |most| at_least.min(most))
    }

    /// The durations that a hold may live by, for people: `5s to 60s`.
    #[must_use]
    pub fn durations(&self) -> String {
        match (self.min_duration, self.max_duration) {
            (Some(min), Some(max)) => format!("{min:?} to {max:?}"),
            (Some(min), None) => format!("at least {min:?}"),
            (None, Some(max)) => format!("at most {max:?}"),
            (None, None) => "any".to_owned(),
        }
    }

    /// From when on a holder may be evicted that lived by its session, which has ended like this. `None`: never.
    ///
    /// Who waits, and whose session has ended, is passed over at once, whatever the policy.
    #[must_use]
    pub fn evicts_ended(&self, end: End) -> Option<Moment> {
        match self.reclaim {
            Reclaim::Never => None,
            Reclaim::Evidence if end.by_evidence => Some(end.since),
            // As long as it would have lived, had nobody seen its process end.
            Reclaim::Expiry if end.by_evidence => Some(end.since + end.duration + self.lock_delay),
            Reclaim::Evidence | Reclaim::Expiry => Some(end.since + self.lock_delay),
        }
    }

    /// From when on a holder may be evicted that lived by its own record, whose time had passed then. `None`: never.
    ///
    /// What was left there for so long on purpose is meant to go then: it has not fallen silent.
    #[must_use]
    pub fn evicts_expired(&self, expired: Moment, kept: bool) -> Option<Moment> {
        match self.reclaim {
            _ if kept => Some(expired),
            Reclaim::Never => None,
            Reclaim::Evidence | Reclaim::Expiry => Some(expired + self.lock_delay),
        }
    }

    /// What stands in these annotations.
    pub(super) fn parse(annotations: &BTreeMap<String, String>) -> Self {
        let number = |key| annotations.get(key).and_then(|text| text.parse::<u32>().ok());
        let seconds = |key| number(key).filter(|&seconds| seconds > 0).map(|s| Duration::from_secs(s.into()));
        let text = |key| annotations.get(key).map(String::as_str);
        Self {
            min_duration: seconds(MIN_DURATION),
            max_duration: seconds(MAX_DURATION),
            max_hold: seconds(MAX_HOLD),
            lock_delay: seconds(LOCK_DELAY).unwrap_or_default(),
            max_waiters: number(MAX_WAITERS),
            reclaim: match text(RECLAIM) {
                Some(EXPIRY) => Reclaim::Expiry,
                Some(NEVER) => Reclaim::Never,
                _ => Reclaim::Evidence,
            },
            breaks_deadlocks: text(ON_DEADLOCK) == Some(BREAK_YOUNGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_counts_as_absent() {
        let of = |pairs: &[(&str, &str)]| {
            Policy::parse(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(of(&[]), Policy::default());
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let all = Policy {
            min_duration: seconds(5),
            max_duration: seconds(60),
            max_hold: seconds(600),
            lock_delay: Duration::from_secs(15),
            max_waiters: Some(0),
            reclaim: Reclaim::Never,
            breaks_deadlocks: true,
        };
        let told = [
            (MIN_DURATION, "5"),
            (MAX_DURATION, "60"),
            (MAX_HOLD, "600"),
            (LOCK_DELAY, "15"),
            (MAX_WAITERS, "0"),
            (RECLAIM, NEVER),
            (ON_DEADLOCK, BREAK_YOUNGEST),
        ];
        assert_eq!(of(&told), all);
        for (key, _) in told {
            for bad in ["", "-1", "five", "1.5", "99999999999", "Never"] {
                assert_eq!(of(&[(key, bad)]), Policy::default(), "{key}={bad}");
            }
        }
        for key in [MIN_DURATION, MAX_DURATION, MAX_HOLD, LOCK_DELAY] {
            assert_eq!(of(&[(key, "0")]), Policy::default(), "{key}=0");
        }
    }
}
