//! What stands on a Lease: parsed once, then typed.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;

use super::{HolderId, LONGEST_SESSION, SessionId, Ticket, Version};

/// Names of sessions' Leases begin with this, and names of locks may not.
pub const SESSION_PREFIX: &str = "session-";
/// Annotation of a waiter: `join.leasehold.dev/<id>`, its value is the [`Ticket`].
pub const JOIN: &str = "join.leasehold.dev/";
/// Annotation of a waiter that wants more than one permit: `want.leasehold.dev/<id>`.
pub const WANT: &str = "want.leasehold.dev/";
/// Label of a holder's session: `holder.leasehold.dev/<session>`, its value is the version before the grant.
pub const HOLDER: &str = "holder.leasehold.dev/";
/// Label that tells what a Lease is for: [`KIND_LOCK`] or [`KIND_SESSION`].
pub const KIND: &str = "leasehold.dev/kind";
/// The Lease is a lock's.
pub const KIND_LOCK: &str = "lock";
/// The Lease is a session's heartbeat.
pub const KIND_SESSION: &str = "session";
/// Annotation: how the holder lives. Absent: by its session. [`OWN`]: by this Lease's own renewTime.
pub const LIVENESS: &str = "leasehold.dev/liveness";
/// Value of [`LIVENESS`]: alive for `leaseDurationSeconds` from the last `renewTime` on this Lease.
pub const OWN: &str = "own";
/// Annotation: the Lease was made on the spot by whoever took the lock, and goes when the lock is free.
pub const EPHEMERAL: &str = "leasehold.dev/ephemeral";
/// Annotation from the custom resource: the lease duration, in seconds, of whoever asks for none.
pub const DEFAULT_DURATION: &str = "leasehold.dev/default-duration-seconds";
/// Annotation: the version of this format, on every Lease written by this crate.
pub const FORMAT: &str = "leasehold.dev/format";
/// The present value of [`FORMAT`].
pub const FORMAT_1: &str = "1";
/// Annotation of an ended session: who ended it, and why.
pub const ENDED_BY: &str = "leasehold.dev/ended-by";

/// The duration of a record that names none. Such a record was not written by this crate.
pub const UNNAMED_DURATION: Duration = Duration::from_secs(30);

/// A Lease that cannot be used as what it is looked at for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Lease {name:?} cannot be read: {why}")]
pub struct Malformed {
    /// The Lease's name.
    pub name: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// What a lock's Lease says.
#[derive(Clone, Debug)]
pub struct Record {
    /// `metadata.uid`: with [`transitions`](Self::transitions) it names one tenancy.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: Version,
    /// `spec.leaseTransitions`, bumped whenever holders change. It wraps; compare it by equality only.
    pub transitions: i32,
    /// The exclusive holder, if there is one.
    pub holder: Option<Holder>,
    /// The queue, first come first.
    pub waiters: Vec<Waiter>,
    /// The Lease goes when the lock is free.
    pub ephemeral: bool,
    /// The lease duration of whoever asks for none, from the custom resource.
    pub default_duration: Option<Duration>,
    /// The Lease as it was read: the base of the next write.
    pub lease: Arc<Lease>,
}

/// What has been parsed tells one record from another; the rest of the Lease is looked at by nobody.
impl Hash for Record {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { uid, version, transitions, holder, waiters, ephemeral, default_duration, lease: _ } = self;
        (uid, version, transitions, holder, waiters, ephemeral, default_duration).hash(state);
    }
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// `spec.holderIdentity`.
    pub identity: String,
    /// The identity, where it is one of this crate's.
    pub id: Option<HolderId>,
    /// By what the holder lives.
    pub liveness: Liveness,
    /// The fencing token, where the Lease tells it.
    ///
    /// It does not for the holder that made the Lease on the spot: that holder alone was told.
    pub token: Option<u64>,
    /// `spec.acquireTime`, by the clock of whoever wrote it. For people.
    pub acquired: Option<Timestamp>,
    /// `spec.renewTime`, by the clock of whoever wrote it. Compare it by equality only.
    pub renewed: Option<Timestamp>,
}

/// By what a holder lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// It is alive while its session is.
    Session(SessionId),
    /// It is alive for this long after the last change of its own record, on the observer's clock.
    Own(Duration),
}

/// Who waits for a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Waiter {
    /// The acquisition that waits.
    pub id: HolderId,
    /// Its place in the queue.
    pub ticket: Ticket,
    /// How many permits it wants. A mutex has one.
    pub permits: u32,
}

/// The name of one tenancy: one holder's stay.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenancy {
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.leaseTransitions`.
    pub transitions: i32,
}

impl Record {
    /// Reads a lock's Lease.
    ///
    /// Fields that a foreign client left out have their defaults, and annotations that are no waiter's are passed over.
    ///
    /// # Errors
    /// [`Malformed`] where the object lacks what the API server always gives it.
    pub fn parse(lease: Lease) -> Result<Self, Malformed> {
        let meta = &lease.metadata;
        let (uid, version) = identity(&lease)?;
        let empty = BTreeMap::new();
        let annotations = meta.annotations.as_ref().unwrap_or(&empty);
        let labels = meta.labels.as_ref().unwrap_or(&empty);
        let mut waiters: Vec<Waiter> = annotations
            .range(JOIN.to_owned()..)
            .map_while(|(key, value)| Some((key.strip_prefix(JOIN)?, value)))
            .filter_map(|(id, ticket)| {
                let permits = annotations.get(&format!("{WANT}{id}")).and_then(|want| want.parse().ok()).unwrap_or(1);
                Some(Waiter { id: id.parse().ok()?, ticket: ticket.parse().ok()?, permits })
            })
            .collect();
        waiters.sort_by(|a, b| (a.ticket, &a.id).cmp(&(b.ticket, &b.id)));
        let seconds =
            |text: &String| text.parse::<u32>().ok().filter(|&s| s > 0).map(|s| Duration::from_secs(s.into()));
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| {
            let identity = spec.holder_identity.clone().filter(|identity| !identity.is_empty())?;
            let id: Option<HolderId> = identity.parse().ok();
            // client-go keeps our labels when it takes a Lease over, so a label counts only for its own session.
            let label = id.as_ref().and_then(|id| labels.get(&format!("{HOLDER}{}", id.session)));
            let own = annotations.get(LIVENESS).is_some_and(|liveness| liveness == OWN);
            let liveness = match &id {
                Some(id) if label.is_some() && !own => Liveness::Session(id.session.clone()),
                _ => Liveness::Own(duration(&lease).unwrap_or(UNNAMED_DURATION)),
            };
            Some(Holder {
                identity,
                liveness,
                token: label.and_then(|before| before.parse::<Version>().ok()).map(|before| before.0 + 1),
                acquired: spec.acquire_time.as_ref().map(|time| time.0),
                renewed: spec.renew_time.as_ref().map(|time| time.0),
                id,
            })
        });
        Ok(Self {
            uid,
            version,
            transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or(0),
            holder,
            waiters,
            ephemeral: annotations.get(EPHEMERAL).is_some_and(|value| value == "true"),
            default_duration: annotations.get(DEFAULT_DURATION).and_then(seconds),
            lease: Arc::new(lease),
        })
    }

    /// The name of the present tenancy.
    #[must_use]
    pub fn tenancy(&self) -> Tenancy {
        Tenancy { uid: self.uid.clone(), transitions: self.transitions }
    }

    /// Permits nobody holds. A mutex has one in all.
    #[must_use]
    pub fn available_permits(&self) -> u32 {
        u32::from(self.holder.is_none())
    }

    /// Whether this acquisition holds the lock.
    #[must_use]
    pub fn is_held_by(&self, id: &HolderId) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.id.as_ref() == Some(id))
    }

    /// Whether this session holds the lock or waits for it.
    #[must_use]
    pub fn names(&self, session: &SessionId) -> bool {
        let holder = self.holder.as_ref().and_then(|holder| holder.id.as_ref());
        holder.into_iter().chain(self.waiters.iter().map(|waiter| &waiter.id)).any(|id| id.session == *session)
    }

    /// Where this acquisition stands in the queue: 0 is the head.
    #[must_use]
    pub fn position(&self, id: &HolderId) -> Option<usize> {
        self.waiters.iter().position(|waiter| waiter.id == *id)
    }
}

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
    /// The Lease as it was read.
    pub lease: Arc<Lease>,
}

impl Hash for SessionRecord {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { id, uid, version, duration, ended, lease: _ } = self;
        (id, uid, version, duration, ended).hash(state);
    }
}

impl SessionRecord {
    /// Reads a session's Lease.
    ///
    /// # Errors
    /// [`Malformed`] where the Lease is not a session's, by its name, or lacks what the API server always gives it.
    pub fn parse(lease: Lease) -> Result<Self, Malformed> {
        let name = lease.metadata.name.clone().unwrap_or_default();
        let Ok(id) = SessionId::from_lease_name(&name) else {
            return Err(Malformed { name, why: "its name is not a session's" });
        };
        let (uid, version) = identity(&lease)?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        Ok(Self {
            uid,
            version,
            duration: duration(&lease).unwrap_or(LONGEST_SESSION).min(LONGEST_SESSION),
            ended: holder != Some(id.as_str()),
            id,
            lease: Arc::new(lease),
        })
    }
}

fn identity(lease: &Lease) -> Result<(String, Version), Malformed> {
    let meta = &lease.metadata;
    let malformed = |why| Malformed { name: meta.name.clone().unwrap_or_default(), why };
    let uid = meta.uid.clone().ok_or_else(|| malformed("it has no uid"))?;
    let version = meta.resource_version.as_deref().ok_or_else(|| malformed("it has no resourceVersion"))?;
    let version = version.parse().map_err(|_| malformed("its resourceVersion is not a number"))?;
    Ok((uid, version))
}

fn duration(lease: &Lease) -> Option<Duration> {
    let seconds = lease.spec.as_ref()?.lease_duration_seconds?;
    Some(Duration::from_secs(u64::try_from(seconds).ok()?))
}
