//! What stands on a Lease: parsed once, then typed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::coordination::v1::Lease;

use super::policy::Policy;
use super::want::{ALL, Kind, Mode, Want};
use super::{HolderId, ReleaseRequest, SessionId, Ticket, Version};

mod broken;
pub mod queue;
mod session;

use queue::QUEUE;

pub use broken::{BREAK_REASON, BROKEN_AT, BROKEN_BY, BROKEN_HOLDER, Broken};
pub use session::{Pod, SessionRecord};

/// Names of sessions' Leases begin with this, and names of locks may not.
pub const SESSION_PREFIX: &str = "session-";
/// Annotation of a waiter: `join.leasehold.dev/<id>`, its value is the [`Ticket`]. Of a lock, many are [folded](queue).
pub const JOIN: &str = "join.leasehold.dev/";
/// Annotation of whoever wants or has anything but one exclusive hold: `want.leasehold.dev/<id>`, its value is a [`Want`].
pub const WANT: &str = "want.leasehold.dev/";
/// Label of a session that is to be told of what happens here: `holder.leasehold.dev/<session>`. Of an exclusive holder
/// its value is the version before the grant.
///
/// As an annotation, `holder.leasehold.dev/<id>`: a shared holder, its value is the version before the grant.
pub const HOLDER: &str = "holder.leasehold.dev/";
/// Annotation of a shared holder that wants to become the only one: `upgrade.leasehold.dev/<id>`.
pub const UPGRADE: &str = "upgrade.leasehold.dev/";
/// Annotation of a waiter: `holds.leasehold.dev/<id>`, its value names the acquisitions that its task holds elsewhere, and
/// gives back only when it is let in. It stands there once it has waited for long.
pub const HOLDS: &str = "holds.leasehold.dev/";
/// Of how many of them it tells at most.
pub const MOST_HOLDS: usize = 16;
/// Annotation of a holder: `payload.leasehold.dev/<id>`, its value is what the holder publishes of itself.
pub const PAYLOAD: &str = "payload.leasehold.dev/";
/// Annotation of a holder that is asked to let go: `request.leasehold.dev/<id>`, its value is a [`ReleaseRequest`].
pub const REQUEST: &str = "request.leasehold.dev/";
/// Annotation from the custom resource: a holder that does not let go in time when it is asked to is evicted.
pub const EVICT_ON_REQUEST: &str = "leasehold.dev/evict-on-request";
/// Annotation: the resource id that the Lease is for, where it is another than the Lease's name ([`name`](super::name)).
pub const ID: &str = "leasehold.dev/id";
/// Label that tells what a Lease is for: a [`Kind`]'s name, or [`KIND_SESSION`].
pub const KIND: &str = "leasehold.dev/kind";
/// The Lease is a lock's.
pub const KIND_LOCK: &str = "lock";
/// The Lease is a session's heartbeat.
pub const KIND_SESSION: &str = "session";
/// Annotation of a semaphore: how many permits there are.
pub const PERMITS: &str = "leasehold.dev/permits";
/// Annotation: how the holder lives. Absent: by its session. [`OWN`]: by this Lease's own renewTime.
pub const LIVENESS: &str = "leasehold.dev/liveness";
/// Value of [`LIVENESS`]: alive for `leaseDurationSeconds` from the last `renewTime` on this Lease.
pub const OWN: &str = "own";
/// Value of [`LIVENESS`]: as [`OWN`], and whoever took it has left it there. It goes when its time has passed.
pub const KEPT: &str = "kept";
/// Annotation: the Lease was made on the spot by whoever took the lock, and goes when the lock is free.
pub const EPHEMERAL: &str = "leasehold.dev/ephemeral";
/// Annotation from the custom resource: the lease duration, in seconds, of whoever asks for none.
pub const DEFAULT_DURATION: &str = "leasehold.dev/default-duration-seconds";
/// Annotation: the version of this format, on every Lease written by this crate. A Lease of a later one is not read, and
/// so not written to; one without it counts as of the first.
pub const FORMAT: &str = "leasehold.dev/format";
/// The latest format that is known here.
const LATEST_FORMAT: u32 = 1;
/// The present value of [`FORMAT`].
pub const FORMAT_1: &str = "1";
/// Annotation of a session: the name of the Pod in which its process runs, where that is known for certain.
pub const POD: &str = "leasehold.dev/pod";
/// Annotation of a session: that Pod's uid.
pub const POD_UID: &str = "leasehold.dev/pod-uid";
/// Annotation of a waiter that is in a deadlock and is to give up, where the policy says so: `deadlock.leasehold.dev/<id>`, its value tells people of the circle.
pub const DEADLOCK: &str = "deadlock.leasehold.dev/";
/// Annotation of an ended session, beside [`ENDED_BY`]: why. [`EVIDENCE`], or absent: it fell silent, or was given up.
pub const ENDED_FOR: &str = "leasehold.dev/ended-for";
/// Value of [`ENDED_FOR`]: its process is known to have ended.
pub const EVIDENCE: &str = "evidence";
/// Annotation of an ended session: who ended it, and why.
pub const ENDED_BY: &str = "leasehold.dev/ended-by";

/// Of how many bytes at most a payload is.
pub const LONGEST_PAYLOAD: usize = 1024;
/// Of how many bytes at most the reason of a request is.
pub const LONGEST_REASON: usize = 256;
/// How many bytes the annotations of one object may have together. More the API server refuses.
pub const MOST_BYTES: usize = 256 * 1024;
/// From how many on nobody joins any more, counted as if everybody who waits had been let in.
pub const CROWDED_BYTES: usize = 240 * 1024;
/// Up to how many something may be said beside a hold, counted likewise.
pub const FULL_BYTES: usize = 250 * 1024;

/// The duration of a record that names none. Such a record was not written by this crate.
pub const UNNAMED_DURATION: Duration = Duration::from_secs(30);

/// A Lease that cannot be used as what it is looked at for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Lease {name:?} cannot be read: {why}")]
pub struct Malformed {
    /// The Lease's name.
    pub name: String,
    /// What is wrong with it.
    pub why: Cow<'static, str>,
}

/// What a lock's Lease says. (A semaphore or a read-write lock is a lock that several can hold.)
#[derive(Clone, Debug)]
pub struct Record {
    /// What it is for.
    pub kind: Kind,
    /// How many permits there are in all. A lock has one.
    pub capacity: u32,
    /// The resource id that it is for, where the Lease says that it is another than its name.
    pub resource_id: Option<String>,
    /// `metadata.uid`: with [`transitions`](Self::transitions) it names one tenancy.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: Version,
    /// `spec.leaseTransitions`, bumped whenever holders change. It wraps; compare it by equality only.
    pub transitions: i32,
    /// The exclusive holder, if there is one. Only a lock has it.
    pub holder: Option<Holder>,
    /// Who shares it, first come first. Not of a lock.
    pub shared: Vec<Holder>,
    /// Who of these wants to become the only one, if anybody does. Until it has, nobody else is let in.
    pub upgrading: Option<HolderId>,
    /// The queue, first come first.
    pub waiters: Vec<Waiter>,
    /// The Lease goes when the lock is free.
    pub ephemeral: bool,
    /// The lease duration of whoever asks for none, from the custom resource.
    pub default_duration: Option<Duration>,
    /// A holder that does not let go in time when it is asked to is evicted by the operator.
    pub evicts_on_request: bool,
    /// What its custom resource wants of everybody who uses it.
    pub policy: Policy,
    /// The Lease as it was read: the base of the next write.
    pub lease: Arc<Lease>,
}

/// What has been parsed tells one record from another, and how waiters stand there; the rest of the Lease is looked at by
/// nobody.
impl Hash for Record {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            kind,
            capacity,
            resource_id,
            uid,
            version,
            transitions,
            holder,
            shared,
            upgrading,
            waiters,
            ephemeral,
            default_duration,
            evicts_on_request,
            policy,
            lease,
        } = self;
        (kind, capacity, resource_id, uid, version, transitions, holder, shared, upgrading).hash(state);
        (waiters, ephemeral, default_duration, evicts_on_request, policy).hash(state);
        let annotations = lease.metadata.annotations.iter().flatten();
        annotations
            .filter(|(key, _)| key.starts_with(JOIN) || key.starts_with(QUEUE))
            .for_each(|kept| kept.hash(state));
    }
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// `spec.holderIdentity`.
    pub identity: String,
    /// The identity, where it is one of this crate's.
    pub id: Option<HolderId>,
    /// How much of it it holds.
    pub mode: Mode,
    /// The version before the grant, of a shared holder. It names its tenancy.
    pub granted: Option<Version>,
    /// By what the holder lives.
    pub liveness: Liveness,
    /// The fencing token, where the Lease tells it.
    ///
    /// It does not for the holder that made the Lease on the spot: that holder alone was told.
    pub token: Option<u64>,
    /// Its process has left it there until its time has passed: it is nobody's to renew, or to give back.
    pub kept: bool,
    /// What it publishes of itself.
    pub payload: Option<String>,
    /// Somebody asks it to let go.
    pub request: Option<ReleaseRequest>,
    /// `spec.acquireTime`, by the clock of whoever wrote it. For people.
    pub acquired: Option<Timestamp>,
    /// `spec.renewTime`, by the clock of whoever wrote it. Compare it by equality only.
    pub renewed: Option<Timestamp>,
}

impl Holder {
    /// Whether this text stands beside the hold; an empty one if none does.
    #[must_use]
    pub fn shows(&self, text: &str) -> bool {
        self.payload.as_deref().unwrap_or_default() == text
    }
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
    /// What it wants.
    pub want: Want,
    /// What its task holds elsewhere, if it has said so.
    pub holds: Vec<HolderId>,
    /// It waits in a circle, shown here to people, and is to give up.
    pub told_to_give_up: Option<String>,
}

impl Waiter {
    /// By how many bytes it makes the annotations more at most when it is let in: a version, a time, its name once more.
    #[must_use]
    pub fn growth(&self) -> usize {
        self.id.session.as_str().len() + 100
    }
}

/// The name of one tenancy: one holder's stay.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenancy {
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.leaseTransitions`.
    pub transitions: i32,
    /// Of a shared holder, instead.
    pub granted: Option<Version>,
}

impl Record {
    /// Reads a lock's Lease.
    ///
    /// Fields that a foreign client left out have their defaults, and annotations that are no waiter's are passed over.
    ///
    /// # Errors
    /// [`Malformed`] where the object lacks what the API server always gives it, or is of a later [`FORMAT`].
    pub fn parse(lease: Lease) -> Result<Self, Malformed> {
        let meta = &lease.metadata;
        let (uid, version) = identity(&lease)?;
        let empty = BTreeMap::new();
        let annotations = meta.annotations.as_ref().unwrap_or(&empty);
        let labels = meta.labels.as_ref().unwrap_or(&empty);
        let kind = labels.get(KIND).and_then(|kind| Kind::named(kind)).unwrap_or(Kind::Lock);
        let waiters = queue::waiters(kind, annotations);
        let seconds =
            |text: &String| text.parse::<u32>().ok().filter(|&s| s > 0).map(|s| Duration::from_secs(s.into()));
        let spec = lease.spec.as_ref();
        let shared = if kind == Kind::Lock { Vec::new() } else { shared_holders(annotations) };
        let upgrading = annotations
            .range(UPGRADE.to_owned()..)
            .map_while(|(key, _)| key.strip_prefix(UPGRADE))
            .filter_map(|id| id.parse().ok())
            .find(|id| shared.iter().any(|holder| holder.id.as_ref() == Some(id)));
        let holder = spec.filter(|_| kind == Kind::Lock).and_then(|spec| {
            let identity = spec.holder_identity.clone().filter(|identity| !identity.is_empty())?;
            let id: Option<HolderId> = identity.parse().ok();
            // client-go keeps our labels when it takes a Lease over, so a label counts only for its own session.
            let label = id.as_ref().and_then(|id| labels.get(&format!("{HOLDER}{}", id.session)));
            let liveness = annotations.get(LIVENESS).map(String::as_str);
            let kept = liveness == Some(KEPT);
            let own = kept || liveness == Some(OWN);
            let liveness = match &id {
                Some(id) if label.is_some() && !own => Liveness::Session(id.session.clone()),
                _ => Liveness::Own(duration(&lease).unwrap_or(UNNAMED_DURATION)),
            };
            Some(Holder {
                liveness,
                token: label.and_then(|before| before.parse::<Version>().ok()).map(|before| before.0.saturating_add(1)),
                acquired: spec.acquire_time.as_ref().map(|time| time.0),
                renewed: spec.renew_time.as_ref().map(|time| time.0),
                mode: Mode::default(),
                granted: None,
                kept,
                payload: beside(annotations, PAYLOAD, &identity),
                request: beside(annotations, REQUEST, &identity).and_then(|request| request.parse().ok()),
                id,
                identity,
            })
        });
        Ok(Self {
            kind,
            capacity: match kind {
                Kind::Lock => 1,
                Kind::Semaphore => annotations.get(PERMITS).and_then(|permits| permits.parse().ok()).unwrap_or(0),
                Kind::ReadWriteLock => ALL,
            },
            resource_id: annotations.get(ID).cloned(),
            shared,
            upgrading,
            uid,
            version,
            transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or(0),
            holder,
            waiters,
            // One that waits for finalizers cannot be removed once more: what is released falls free.
            ephemeral: annotations.get(EPHEMERAL).is_some_and(|value| value == "true")
                && meta.deletion_timestamp.is_none(),
            default_duration: annotations.get(DEFAULT_DURATION).and_then(seconds),
            evicts_on_request: annotations.get(EVICT_ON_REQUEST).is_some_and(|value| value == "true"),
            policy: Policy::parse(annotations),
            lease: Arc::new(lease),
        })
    }

    /// The Lease's name.
    #[must_use]
    pub fn lease_name(&self) -> &str {
        self.lease.metadata.name.as_deref().unwrap_or_default()
    }

    /// That the Lease is not for this resource id but for another, if it says so.
    ///
    /// Nobody can bring that about but by writing it there by hand, or by finding two ids with one hash.
    #[must_use]
    pub fn is_of_another(&self, id: &str) -> Option<String> {
        let other = self.resource_id.as_deref().filter(|other| *other != id)?;
        Some(format!("Lease {:?} is that of {other:?} (annotation {ID}), not of {id:?}", self.lease_name()))
    }

    /// The name of the present tenancy.
    #[must_use]
    pub fn tenancy(&self) -> Tenancy {
        Tenancy { uid: self.uid.clone(), transitions: self.transitions, granted: None }
    }

    /// The name of this holder's tenancy.
    #[must_use]
    pub fn tenancy_of(&self, holder: &Holder) -> Tenancy {
        match holder.granted {
            Some(_) => Tenancy { uid: self.uid.clone(), transitions: 0, granted: holder.granted },
            None => self.tenancy(),
        }
    }

    /// All holders.
    pub fn holders(&self) -> impl Iterator<Item = &Holder> {
        self.holder.iter().chain(&self.shared)
    }

    /// Whether anybody holds any of it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.holders().next().is_some()
    }

    /// The hold of this acquisition, unless its process has left it there.
    #[must_use]
    pub fn holding(&self, id: &HolderId) -> Option<&Holder> {
        self.holders().find(|holder| holder.id.as_ref() == Some(id) && !holder.kept)
    }

    /// How many permits are held. It can be more than there are, while a semaphore shrinks.
    #[must_use]
    pub fn held_permits(&self) -> u32 {
        let weights = self.holders().map(|holder| holder.mode.permits(self.capacity));
        weights.fold(0, u32::saturating_add)
    }

    /// Permits that nobody holds. A lock has one in all.
    #[must_use]
    pub fn available_permits(&self) -> u32 {
        self.capacity.saturating_sub(self.held_permits())
    }

    /// Whether this acquisition holds the lock.
    #[must_use]
    pub fn is_held_by(&self, id: &HolderId) -> bool {
        self.holding(id).is_some()
    }

    /// The acquisitions that hold it or wait for it, but for what was left there.
    pub fn ids(&self) -> impl Iterator<Item = &HolderId> {
        let holders = self.holders().filter(|holder| !holder.kept).filter_map(|holder| holder.id.as_ref());
        holders.chain(self.waiters.iter().map(|waiter| &waiter.id))
    }

    /// These, and what was left there.
    pub(super) fn all_ids(&self) -> impl Iterator<Item = &HolderId> {
        let holders = self.holders().filter_map(|holder| holder.id.as_ref());
        holders.chain(self.waiters.iter().map(|waiter| &waiter.id))
    }

    /// Whether this session holds the lock or waits for it.
    #[must_use]
    pub fn names(&self, session: &SessionId) -> bool {
        self.ids().any(|id| id.session == *session)
    }

    /// How many bytes all annotations have: that is what the API server limits.
    #[must_use]
    pub fn annotation_bytes(&self) -> usize {
        self.lease.metadata.annotations.iter().flatten().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// How many they would be if everybody who waits were let in, and without what is left of holds that have ended.
    #[must_use]
    pub fn bytes_to_come(&self) -> usize {
        let left = |key: &str| {
            let identity = [PAYLOAD, REQUEST].iter().find_map(|prefix| key.strip_prefix(prefix));
            identity.is_some_and(|identity| !self.holders().any(|holder| holder.identity == identity))
        };
        let annotations = self.lease.metadata.annotations.iter().flatten().filter(|(key, _)| !left(key));
        let stands: usize = annotations.map(|(key, value)| key.len() + value.len()).sum();
        let several = self.kind != Kind::Lock;
        stands + self.waiters.iter().filter(|_| several).map(Waiter::growth).sum::<usize>()
    }

    /// Where this acquisition stands in the queue: 0 is the head.
    #[must_use]
    pub fn position(&self, id: &HolderId) -> Option<usize> {
        self.waiters.iter().position(|waiter| waiter.id == *id)
    }
}

/// What stands there of one holder besides its hold.
fn beside(annotations: &BTreeMap<String, String>, prefix: &str, identity: &str) -> Option<String> {
    annotations.get(&format!("{prefix}{identity}")).cloned()
}

/// Shared holders, by the order of their grants.
fn shared_holders(annotations: &BTreeMap<String, String>) -> Vec<Holder> {
    let keys =
        annotations.range(HOLDER.to_owned()..).map_while(|(key, value)| Some((key.strip_prefix(HOLDER)?, value)));
    let mut holders: Vec<Holder> = keys
        .filter_map(|(identity, granted)| {
            let id: HolderId = identity.parse().ok()?;
            let want: Option<Want> = annotations.get(&format!("{WANT}{id}")).and_then(|want| want.parse().ok());
            let want = want.unwrap_or_default();
            // Who made the Lease on the spot was granted it before there was a version.
            let before = granted.parse::<Version>().ok();
            Some(Holder {
                identity: identity.to_owned(),
                liveness: want.own.map_or_else(|| Liveness::Session(id.session.clone()), Liveness::Own),
                token: before.map(|before| before.0.saturating_add(1)),
                acquired: want.since,
                // It stands there in whole seconds.
                renewed: want.since.filter(|_| want.kept).and_then(|since| since.checked_add(1.second()).ok()),
                mode: want.mode,
                granted: Some(before.unwrap_or_default()),
                kept: want.kept,
                payload: beside(annotations, PAYLOAD, identity),
                request: beside(annotations, REQUEST, identity).and_then(|request| request.parse().ok()),
                id: Some(id),
            })
        })
        .collect();
    holders.sort_by(|a, b| (a.granted, &a.id).cmp(&(b.granted, &b.id)));
    holders
}

fn identity(lease: &Lease) -> Result<(String, Version), Malformed> {
    let meta = &lease.metadata;
    let malformed = |why| Malformed { name: meta.name.clone().unwrap_or_default(), why };
    let lacks = |why: &'static str| malformed(Cow::from(why));
    let uid = meta.uid.clone().ok_or_else(|| lacks("it has no uid"))?;
    let version = meta.resource_version.as_deref().ok_or_else(|| lacks("it has no resourceVersion"))?;
    let version = version.parse().map_err(|_| lacks("its resourceVersion is not a number"))?;
    // Whoever wrote it knows of things that are not seen here.
    let format = meta.annotations.as_ref().and_then(|annotations| annotations.get(FORMAT)?.parse::<u32>().ok());
    if let Some(format) = format.filter(|format| *format > LATEST_FORMAT) {
        let why = format!("it is of format {format}, and this program knows format {FORMAT_1}: upgrade it");
        return Err(malformed(Cow::from(why)));
    }
    Ok((uid, version))
}

fn duration(lease: &Lease) -> Option<Duration> {
    let seconds = lease.spec.as_ref()?.lease_duration_seconds?;
    Some(Duration::from_secs(u64::try_from(seconds).ok()?))
}
