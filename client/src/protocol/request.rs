//! A request to let go, as it stands in an annotation.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::BadId;

/// Somebody asks a holder to let go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ReleaseRequest {
    /// Who asks: a pod, a host, a person. Nothing vouches for it.
    pub by: String,
    /// Within what time, from when the holder hears of it.
    pub within: Duration,
    /// What for. May be empty.
    pub reason: String,
}

impl ReleaseRequest {
    /// A request as it can be written: whole seconds, and whoever asks in one word.
    #[must_use]
    pub fn new(by: &str, within: Duration, reason: &str) -> Self {
        let words: Vec<&str> = by.split_whitespace().collect();
        let by = if words.is_empty() { "somebody".to_owned() } else { words.join("-") };
        Self { by, within: Duration::from_secs(within.as_secs()), reason: reason.trim().to_owned() }
    }
}

/// `30 backup-7 the nightly backup has to run`.
impl fmt::Display for ReleaseRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by, within, reason } = self;
        write!(f, "{} {by} {reason}", within.as_secs())
    }
}

impl FromStr for ReleaseRequest {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let mut words = text.splitn(3, ' ');
        let mut word = || words.next().filter(|word| !word.is_empty());
        let within = word().and_then(|seconds| seconds.parse::<u32>().ok()).ok_or(BadId)?;
        let by = word().ok_or(BadId)?;
        let reason = words.next().unwrap_or_default();
        Ok(Self::new(by, Duration::from_secs(within.into()), reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for (by, reason) in [("backup-7", "the nightly backup has to run"), ("a b\tc", ""), ("", "  two  blanks ")] {
            let request = ReleaseRequest::new(by, Duration::from_millis(30_900), reason);
            assert_eq!(request.within, Duration::from_secs(30));
            assert_eq!(request.to_string().parse(), Ok(request));
        }
        for bad in ["", "30", "30 ", "soon me because", "-1 me because", " 30 me"] {
            assert_eq!(bad.parse::<ReleaseRequest>(), Err(BadId), "{bad:?}");
        }
    }
}
