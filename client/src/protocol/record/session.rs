//! What stands on a session's Lease.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;

use super::super::{LONGEST_SESSION, SessionId, Version};
use super::{ENDED_FOR, EVIDENCE, Malformed, POD, POD_UID, duration, identity};

/// What a session's Lease says.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// The session.
    pub id: SessionId,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: Version,
    /// How long it lives after a renewal. At most [`LONGEST_SESSION`].
    pub duration: Duration,
    /// It has been ended, and cannot be renewed.
    pub ended: bool,
    /// It was ended since its process is known to have ended.
    pub by_evidence: bool,
    /// The Pod in which its process runs, where that is known for certain.
    pub pod: Option<Pod>,
    /// The Lease as it was read.
    pub lease: Arc<Lease>,
}

/// A Pod, by name and uid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pod {
    /// Its name, in the session's namespace.
    pub name: String,
    /// Its uid: another Pod of that name is another Pod.
    pub uid: String,
}

impl Hash for SessionRecord {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { id, uid, version, duration, ended, by_evidence, pod, lease: _ } = self;
        (id, uid, version, duration, ended, by_evidence, pod).hash(state);
    }
}

impl SessionRecord {
    /// Reads a session's Lease.
    ///
    /// # Errors
    /// [`Malformed`] where the Lease is not a session's, by its name, or lacks what the API server always gives it, or is
    /// of a later format.
    pub fn parse(lease: Lease) -> Result<Self, Malformed> {
        let name = lease.metadata.name.clone().unwrap_or_default();
        let Ok(id) = SessionId::from_lease_name(&name) else {
            return Err(Malformed { name, why: "its name is not a session's".into() });
        };
        let (uid, version) = identity(&lease)?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        let annotation = |key| Some(lease.metadata.annotations.as_ref()?.get(key)?.clone());
        Ok(Self {
            uid,
            version,
            duration: duration(&lease).unwrap_or(LONGEST_SESSION).min(LONGEST_SESSION),
            ended: holder != Some(id.as_str()),
            by_evidence: annotation(ENDED_FOR).as_deref() == Some(EVIDENCE),
            pod: annotation(POD).zip(annotation(POD_UID)).map(|(name, uid)| Pod { name, uid }),
            id,
            lease: Arc::new(lease),
        })
    }
}
