use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A `resourceVersion`, which grows with every write to the API server (KEP-5504 makes it comparable).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A waiter's place in the queue: the version of the Lease just before the waiter joined. Smaller is earlier.
pub type Ticket = Version;

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Version {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        // One spelling per number: "+7" or "07" is not what an API server writes.
        let number: u64 = text.parse().map_err(|_| BadId)?;
        if number.to_string() == text { Ok(Self(number)) } else { Err(BadId) }
    }
}

/// A text that is not the identity it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid identity")]
pub struct BadId;

/// One client process's heartbeat: `<pod or host name, cut>_<random>`. A name is never used twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Arc<str>);

/// The longest session name: with `.` and ten digits behind it, it still fits into a label's or annotation's name.
const SESSION_MAX: usize = 52;

impl SessionId {
    /// Makes a session's name of the pod's or host's name and a random part (lower-case letters and digits).
    ///
    /// What the host's name has that an object's name may not have is replaced, and its end is cut off where it is
    /// too long: the random part alone makes the name unique.
    #[must_use]
    pub fn new(host: &str, random: &str) -> Self {
        let room = SESSION_MAX - 1 - random.len();
        let mut cut: String = host
            .chars()
            .map(|c| match c.to_ascii_lowercase() {
                c @ ('a'..='z' | '0'..='9' | '.') => c,
                _ => '-',
            })
            .take(room)
            .collect();
        cut = cut.trim_matches(['-', '.']).replace("..", "-").replace(".-", "-").replace("-.", "-");
        if cut.is_empty() {
            cut.push_str("host");
        }
        Self(format!("{cut}_{random}").into())
    }

    /// Makes the name of a session of a Pod: what would be its random part begins with eight digits of the Pod's uid. So
    /// whoever sees the name can tell whether it is that Pod's, and admission does (`config/strict`).
    #[must_use]
    pub fn of_pod(name: &str, uid: &str, random: &str) -> Self {
        let digits: String = uid.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        Self::new(name, &format!("{}{random}", digits.to_ascii_lowercase()))
    }

    /// The name as it stands in labels and in holder identities.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The pod's or host's name, possibly cut.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.rsplit_once('_').map_or("", |(host, _)| host)
    }

    /// The name of the session's Lease.
    ///
    /// An object's name may not contain `_`, so the random part stands behind a dot there. The last dot is the
    /// separator, so no two sessions share a Lease.
    #[must_use]
    pub fn lease_name(&self) -> String {
        let (host, random) = self.0.rsplit_once('_').unwrap_or(("", &self.0));
        format!("{}{host}.{random}", super::record::SESSION_PREFIX)
    }

    /// The session whose Lease has this name.
    ///
    /// # Errors
    /// [`BadId`] when the name is not a session's.
    pub fn from_lease_name(name: &str) -> Result<Self, BadId> {
        let rest = name.strip_prefix(super::record::SESSION_PREFIX).ok_or(BadId)?;
        let (host, random) = rest.rsplit_once('.').ok_or(BadId)?;
        format!("{host}_{random}").parse()
    }
}

impl FromStr for SessionId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let (host, random) = text.rsplit_once('_').ok_or(BadId)?;
        let host_ok = host.starts_with(|c: char| c.is_ascii_alphanumeric())
            && host.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.'));
        let random_ok = !random.is_empty() && random.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9'));
        if host_ok && random_ok && text.len() <= SESSION_MAX { Ok(Self(text.into())) } else { Err(BadId) }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One acquisition: `<session>.<n>`, where `n` is never used twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HolderId {
    /// The session by which the acquisition lives.
    pub session: SessionId,
    /// The acquisition's number within its session.
    pub n: u32,
}

impl FromStr for HolderId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let (session, n) = text.rsplit_once('.').ok_or(BadId)?;
        let number: u32 = n.parse().map_err(|_| BadId)?;
        if number.to_string() != n {
            return Err(BadId);
        }
        Ok(Self { session: session.parse()?, n: number })
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.session, self.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pods_session_tells_the_pods_uid_whatever_the_length_of_its_name() {
        let of = |name: &str| SessionId::of_pod(name, "1A2b3c4d-5e6f-7081", "k3j9x2m1").as_str().to_owned();
        assert_eq!(of("web-0"), "web-0_1a2b3c4dk3j9x2m1");
        // As config/strict cuts it: 35 letters, and what no name ends with.
        assert_eq!(of(&"x".repeat(60)), format!("{}_1a2b3c4dk3j9x2m1", "x".repeat(35)));
        assert_eq!(of(&format!("{}-.abc", "x".repeat(33))), format!("{}_1a2b3c4dk3j9x2m1", "x".repeat(33)));
    }

    #[test]
    fn a_pod_named_like_a_session_does_not_confuse_the_parser() {
        let id: HolderId = "web.0_a1.7".parse().unwrap();
        assert_eq!((id.session.as_str(), id.session.host(), id.n), ("web.0_a1", "web.0", 7));
        for bad in
            ["", "web", "web_", "_x.1", "web_x", "web_x.", "web_x.01", "web_x.-1", "Web_x.1", "we b_x.1", "a_b_c.1"]
        {
            assert!(bad.parse::<HolderId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_host_name_makes_a_session_that_parses_and_has_a_lease_of_its_own(host in ".{0,80}", random in "[a-z0-9]{10}") {
            let session = SessionId::new(&host, &random);
            prop_assert_eq!(session.as_str().parse::<SessionId>(), Ok(session.clone()));
            prop_assert_eq!(SessionId::from_lease_name(&session.lease_name()), Ok(session.clone()));
            let id = HolderId { session, n: u32::MAX };
            prop_assert!(id.to_string().len() <= 63);
            prop_assert_eq!(id.to_string().parse::<HolderId>(), Ok(id));
        }
    }
}
