//! Requests and answers, and the sequential store that carries them out.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use json_patch::{Patch, PatchOperation};
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::record::{HOLDER, JOIN, SessionRecord, UPGRADE, WANT};
use leasehold::protocol::{Holder, Kind, Mode, Record, SessionId, Version, Write};
use serde_json::Value;

/// The one lock of a world.
pub(super) const LOCK: &str = "a";

/// Which Lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    Lock,
    Session(SessionId),
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Read,
    Write(Write),
}

/// One request. Two that say the same are the same.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) place: Place,
    pub(super) what: What,
    print: u64,
}

impl Request {
    pub(super) fn new(place: Place, what: What) -> Arc<Self> {
        let mut hasher = DefaultHasher::new();
        place.hash(&mut hasher);
        match &what {
            What::Read => 0_u8.hash(&mut hasher),
            What::Write(Write::Create(lease)) => (1_u8, json(lease)).hash(&mut hasher),
            What::Write(Write::Replace(lease)) => (2_u8, json(lease)).hash(&mut hasher),
            What::Write(Write::Patch(patch)) => (3_u8, json(patch)).hash(&mut hasher),
            What::Write(Write::Delete { uid, version }) => (4_u8, uid, version).hash(&mut hasher),
        }
        Arc::new(Self { place, what, print: hasher.finish() })
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self.what, What::Read)
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("what is sent can be written down")
}

impl Hash for Request {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.print.hash(state);
    }
}

/// A Lease at one version, parsed.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) lease: Lease,
    pub(super) version: Version,
    pub(super) parsed: Parsed,
    print: u64,
}

#[derive(Debug)]
pub(super) enum Parsed {
    Lock(Box<Record>),
    Session(SessionRecord),
}

impl Stored {
    fn new(place: &Place, lease: Lease) -> Result<Self, String> {
        let parsed = match place {
            Place::Lock => Parsed::Lock(Box::new(Record::parse(lease.clone()).map_err(|error| error.to_string())?)),
            Place::Session(_) => {
                Parsed::Session(SessionRecord::parse(lease.clone()).map_err(|error| error.to_string())?)
            }
        };
        let version = match &parsed {
            Parsed::Lock(record) => record.version,
            Parsed::Session(record) => record.version,
        };
        let print = print_of(&lease);
        Ok(Self { lease, version, parsed, print })
    }

    pub(super) fn lock(&self) -> Option<&Record> {
        match &self.parsed {
            Parsed::Lock(record) => Some(record),
            Parsed::Session(_) => None,
        }
    }

    pub(super) fn session(&self) -> Option<&SessionRecord> {
        match &self.parsed {
            Parsed::Session(record) => Some(record),
            Parsed::Lock(_) => None,
        }
    }

    pub(super) fn has_label(&self, label: &str) -> bool {
        self.lease.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
    }
}

/// All of a Lease, not only what is parsed of it.
fn print_of(lease: &Lease) -> u64 {
    let mut hasher = DefaultHasher::new();
    let (meta, spec) = (&lease.metadata, lease.spec.as_ref());
    (&meta.uid, &meta.resource_version, &meta.labels, &meta.annotations).hash(&mut hasher);
    spec.map(|spec| {
        let times = [&spec.acquire_time, &spec.renew_time].map(|time| time.as_ref().map(|time| time.0));
        (&spec.holder_identity, spec.lease_duration_seconds, spec.lease_transitions, times)
    })
    .hash(&mut hasher);
    hasher.finish()
}

impl Hash for Stored {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.print.hash(state);
    }
}

/// How a request went, as its sender will hear if it hears anything.
#[derive(Clone, Debug, Hash)]
pub(super) enum Reply {
    Is(Arc<Stored>),
    Removed,
    Absent,
    Refused,
    /// The API server finds it malformed. Nothing here should ever be.
    Invalid(String),
}

/// A change of the lock's Lease.
#[derive(Clone, Debug, Hash)]
pub(super) struct Change {
    pub(super) version: Version,
    pub(super) before: Option<Arc<Stored>>,
    pub(super) after: Option<Arc<Stored>>,
}

impl Change {
    /// The lock as it was, and as it is.
    pub(super) fn records(&self) -> (Option<&Record>, Option<&Record>) {
        let [before, after] =
            [&self.before, &self.after].map(|stored| stored.as_ref().and_then(|stored| stored.lock()));
        (before, after)
    }

    /// Whom it let in: who holds something and did not before, or less of it.
    pub(super) fn admitted(&self) -> impl Iterator<Item = &Holder> {
        let (before, after) = self.records();
        let before = before.filter(|before| after.is_some_and(|after| after.uid == before.uid));
        let stays = move |after: &Record, holder: &Holder| {
            let had = before.and_then(|before| before.holders().find(|had| had.identity == holder.identity));
            had.is_some_and(|had| match after.kind {
                Kind::Lock => before.is_some_and(|before| before.tenancy() == after.tenancy()),
                Kind::Semaphore | Kind::ReadWriteLock => rank(had.mode) >= rank(holder.mode),
            })
        };
        after.into_iter().flat_map(move |after| after.holders().filter(move |holder| !stays(after, holder)))
    }
}

/// More is larger.
pub(super) fn rank(mode: Mode) -> u32 {
    match mode {
        Mode::Permits(permits) => permits,
        Mode::Read => 1,
        Mode::Upgradeable => 2,
        Mode::Write => 3,
    }
}

/// The API server's store. Every Lease counts its own versions: nobody compares those of different Leases, and so it
/// makes no difference in which order different Leases were written.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Server {
    leases: BTreeMap<Place, Arc<Stored>>,
    versions: BTreeMap<Place, u64>,
    /// What has happened to the lock, as far back as somebody could still ask for it.
    pub(super) history: Vec<Change>,
}

impl Server {
    pub(super) fn get(&self, place: &Place) -> Option<&Arc<Stored>> {
        self.leases.get(place)
    }

    pub(super) fn lock(&self) -> Option<&Record> {
        self.get(&Place::Lock).and_then(|stored| stored.lock())
    }

    /// All sessions whose Leases are there.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &SessionId> {
        self.leases.keys().filter_map(|place| match place {
            Place::Session(session) => Some(session),
            Place::Lock => None,
        })
    }

    /// Whether a session's Lease is there and not ended.
    pub(super) fn lives(&self, session: &SessionId) -> bool {
        let stored = self.get(&Place::Session(session.clone()));
        stored.and_then(|stored| stored.session()).is_some_and(|record| !record.ended)
    }

    pub(super) fn version(&self, place: &Place) -> Version {
        Version(self.versions.get(place).copied().unwrap_or_default())
    }

    /// Carries out a request, whole or not at all.
    pub(super) fn carry_out(&mut self, request: &Request) -> Reply {
        let before = self.get(&request.place).cloned();
        let outcome = match &request.what {
            What::Read => return before.map_or(Reply::Absent, Reply::Is),
            What::Write(write) => self.outcome(write, before.as_deref(), &request.place),
        };
        match outcome {
            Ok(after) => self.store(&request.place, before, after),
            Err(reply) => reply,
        }
    }

    fn outcome(&self, write: &Write, before: Option<&Stored>, place: &Place) -> Result<Option<Lease>, Reply> {
        match (write, before) {
            (Write::Create(lease), None) => {
                let mut lease = (**lease).clone();
                lease.metadata.uid = Some(format!("u{}", self.version(place).0));
                Ok(Some(lease))
            }
            (Write::Create(_), Some(_)) => Err(Reply::Refused),
            (Write::Replace(_) | Write::Patch(_) | Write::Delete { .. }, None) => Err(Reply::Absent),
            (Write::Replace(lease), Some(before)) => {
                let (is, seen) = (&before.lease.metadata, &lease.metadata);
                let holds = is.uid == seen.uid && is.resource_version == seen.resource_version;
                if holds { Ok(Some((**lease).clone())) } else { Err(Reply::Refused) }
            }
            (Write::Delete { uid, version }, Some(before)) => {
                let holds = before.lease.metadata.uid.as_ref() == Some(uid) && before.version == *version;
                if holds { Ok(None) } else { Err(Reply::Refused) }
            }
            (Write::Patch(patch), Some(before)) => patched(&before.lease, patch).map(Some),
        }
    }

    /// Stores it under the next version. Other objects are written too, so versions have gaps.
    pub(super) fn store(&mut self, place: &Place, before: Option<Arc<Stored>>, after: Option<Lease>) -> Reply {
        if let (Some(before), Some(after)) = (&before, &after)
            && before.lease == *after
        {
            return Reply::Is(before.clone()); // a write that changes nothing makes no version
        }
        let version = self.versions.entry(place.clone()).or_default();
        *version += 2;
        let version = Version(*version);
        let after = match after {
            None => None,
            Some(mut lease) => {
                lease.metadata.resource_version = Some(version.to_string());
                match Stored::new(place, lease) {
                    Ok(stored) => Some(Arc::new(stored)),
                    Err(why) => return Reply::Invalid(why),
                }
            }
        };
        match &after {
            Some(after) => drop(self.leases.insert(place.clone(), after.clone())),
            None => drop(self.leases.remove(place)),
        }
        if *place == Place::Lock {
            self.history.push(Change { version, before, after: after.clone() });
        }
        after.map_or(Reply::Removed, Reply::Is)
    }

    /// Whether nothing can come of this request any more, however late it is carried out: its condition names a state
    /// that has gone for good.
    pub(super) fn is_inert(&self, request: &Request) -> bool {
        let is = self.get(&request.place).map(|stored| &stored.lease.metadata);
        match &request.what {
            What::Read => true,
            What::Write(Write::Create(_)) => false,
            What::Write(Write::Replace(lease)) => is.is_none_or(|is| {
                is.uid != lease.metadata.uid || is.resource_version != lease.metadata.resource_version
            }),
            What::Write(Write::Delete { uid, version }) => is.is_none_or(|is| {
                is.uid.as_ref() != Some(uid) || is.resource_version.as_ref() != Some(&version.to_string())
            }),
            What::Write(Write::Patch(patch)) => patch.0.iter().any(|operation| match operation {
                PatchOperation::Test(test) if test.path.as_str() == "/metadata/uid" => {
                    test.value.as_str() != is.and_then(|is| is.uid.as_deref())
                }
                _ => false,
            }),
        }
    }
}

fn patched(lease: &Lease, patch: &Patch) -> Result<Lease, Reply> {
    let invalid = |error: serde_json::Error| Reply::Invalid(error.to_string());
    let mut value = serde_json::to_value(lease).map_err(invalid)?;
    for operation in &patch.0 {
        match operation {
            // An API server takes what is absent for null here; the library does not.
            PatchOperation::Test(test) if test.value == Value::Null => {
                if value.pointer(test.path.as_str()).is_some_and(|there| !there.is_null()) {
                    return Err(Reply::Refused);
                }
            }
            PatchOperation::Test(test) => {
                if value.pointer(test.path.as_str()) != Some(&test.value) {
                    return Err(Reply::Refused);
                }
            }
            operation => {
                json_patch::patch(&mut value, std::slice::from_ref(operation)).map_err(|_| Reply::Refused)?;
            }
        }
    }
    serde_json::from_value(value).map_err(invalid)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock => f.write_str("the lock"),
            Self::Session(session) => write!(f, "session {session}"),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        match &self.what {
            What::Read => write!(f, "GET {place}"),
            What::Write(Write::Create(lease)) => write!(f, "POST {place}: {}", brief(lease)),
            What::Write(Write::Replace(lease)) => {
                let seen = lease.metadata.resource_version.as_deref().unwrap_or("any");
                write!(f, "PUT {place} if at {seen}: {}", brief(lease))
            }
            What::Write(Write::Delete { version, .. }) => write!(f, "DELETE {place} if at {version}"),
            What::Write(Write::Patch(patch)) => {
                write!(f, "PATCH {place}:")?;
                for operation in &patch.0 {
                    match operation {
                        PatchOperation::Test(test) => write!(f, " if {}={}", last(test.path.as_str()), test.value)?,
                        PatchOperation::Add(add) => write!(f, ", {}:={}", last(add.path.as_str()), add.value)?,
                        PatchOperation::Remove(remove) => write!(f, ", without {}", last(remove.path.as_str()))?,
                        PatchOperation::Copy(copy) => write!(f, ", {}:=its version", last(copy.path.as_str()))?,
                        other => write!(f, ", {other:?}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

/// The last part of a path, which in an annotation's name begins with the kind of it.
fn last(path: &str) -> String {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    name.replace("leasehold.dev~1", "").replace("~1", "/")
}

fn brief(lease: &Lease) -> String {
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or_default();
    let annotations = || lease.metadata.annotations.iter().flatten();
    let keys = |prefix| {
        let named = annotations().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value)));
        named.map(|(id, value)| format!("{id}@{value}")).collect::<Vec<_>>()
    };
    let mut told = format!("holder {holder:?}, transitions {transitions}, waiting {:?}", keys(JOIN));
    for (what, prefix) in
        [("held", HOLDER), ("wanted", WANT), ("to be alone", UPGRADE), ("of", "leasehold.dev/permits")]
    {
        let keys = keys(prefix);
        if !keys.is_empty() {
            let _ = write!(told, ", {what} {keys:?}");
        }
    }
    told
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(stored) => write!(f, "at {}: {}", stored.version, brief(&stored.lease)),
            Self::Removed => f.write_str("removed"),
            Self::Absent => f.write_str("not there"),
            Self::Refused => f.write_str("refused"),
            Self::Invalid(why) => write!(f, "invalid: {why}"),
        }
    }
}
