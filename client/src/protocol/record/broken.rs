//! Who broke a hold, as it stands on the Lease.

use std::collections::BTreeMap;

use super::Lease;

/// Annotation of a Lease of which a hold was broken: by whom.
pub const BROKEN_BY: &str = "leasehold.dev/broken-by";
/// When, by the clock of whoever broke it.
pub const BROKEN_AT: &str = "leasehold.dev/broken-at";
/// What for.
pub const BREAK_REASON: &str = "leasehold.dev/break-reason";
/// The identity of the holder that lost it.
pub const BROKEN_HOLDER: &str = "leasehold.dev/broken-holder";

/// The last break of a hold.
///
/// In strict mode (`config/strict`) the API server vouches for `by`. Elsewhere it is what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// By whom: a username, as the API server knows it.
    pub by: String,
    /// When, by the clock of whoever broke it. For people.
    pub at: String,
    /// What for.
    pub reason: String,
    /// The identity of the holder that lost it.
    pub holder: String,
}

impl Broken {
    /// What a Lease says of it, if it says anything.
    #[must_use]
    pub fn of(lease: &Lease) -> Option<Self> {
        let annotations = lease.metadata.annotations.as_ref()?;
        let text = |key| annotations.get(key).cloned();
        Some(Self {
            by: text(BROKEN_BY)?,
            at: text(BROKEN_AT)?,
            reason: text(BREAK_REASON).unwrap_or_default(),
            holder: text(BROKEN_HOLDER)?,
        })
    }

    /// As annotations.
    #[must_use]
    pub fn annotations(&self) -> BTreeMap<&'static str, &str> {
        let Self { by, at, reason, holder } = self;
        [(BROKEN_BY, &**by), (BROKEN_AT, at), (BREAK_REASON, reason), (BROKEN_HOLDER, holder)].into()
    }
}
