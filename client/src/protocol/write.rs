//! The guarded commands: each is one request that the API server carries out whole or not at all.
//!
//! A PUT or DELETE has the whole object as its condition (uid and resourceVersion). A JSON Patch has only what its
//! `test`s name, so that waiters may join beside it. A refused PUT answers 409, a failed `test` 422.

pub mod breaking;
pub mod kept;
mod session;
pub mod shared;
mod waiting;

pub use waiting::{give_up, report};

use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, CopyOperation, Patch, PatchOperation, RemoveOperation, TestOperation};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, MicroTime, ObjectMeta};
use serde_json::{Value, json};

use super::record::{
    ENDED_BY, EPHEMERAL, FORMAT, FORMAT_1, HOLDER, Holder, ID, JOIN, KEPT, KIND, KIND_LOCK, KIND_SESSION, LIVENESS,
    OWN, PAYLOAD, REQUEST, Record, SessionRecord, UNNAMED_DURATION, WANT, Waiter,
};
use super::{HolderId, Kind, ReleaseRequest, SessionId, Version, Want};

pub use session::{end_by_evidence, open_session_in};

/// One write to one Lease, with its condition.
#[derive(Clone, Debug)]
pub enum Write {
    /// POST. Condition: no such Lease.
    Create(Box<Lease>),
    /// PUT. Condition: uid and resourceVersion, both in the object.
    Replace(Box<Lease>),
    /// JSON Patch. Condition: its `test`s.
    Patch(Patch),
    /// DELETE. Condition: uid and resourceVersion.
    Delete {
        /// `metadata.uid`.
        uid: String,
        /// `metadata.resourceVersion`.
        version: Version,
    },
}

impl Write {
    /// The same, and it says for which resource id the Lease is, where that is not its name. Only of what writes the
    /// whole Lease.
    #[must_use]
    pub fn with_id(mut self, id: Option<&str>) -> Self {
        if let (Self::Create(lease) | Self::Replace(lease), Some(id)) = (&mut self, id) {
            lease.metadata.annotations.get_or_insert_default().insert(ID.to_owned(), id.to_owned());
        }
        self
    }
}

/// By what a new holder is to live, and what it says of its duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// The session's duration, or the lock's own.
    pub duration: Duration,
    /// The holder lives by the lock's own renewTime, not by its session.
    pub own: bool,
}

impl Term {
    /// In whole seconds, rounded up.
    fn seconds(self) -> i32 {
        let seconds = self.duration.as_secs() + u64::from(self.duration.subsec_nanos() > 0);
        i32::try_from(seconds).unwrap_or(i32::MAX).max(1)
    }
}

/// The number of the next tenancy: one more, and after the largest comes 0.
#[must_use]
pub fn next_transition(transitions: i32) -> i32 {
    transitions.checked_add(1).unwrap_or(0)
}

/// Create and acquire: a Lease made on the spot, which goes when the lock is free.
#[must_use]
pub fn create(name: &str, id: &HolderId, term: Term, stamp: Timestamp) -> Write {
    let mut annotations = vec![(EPHEMERAL.to_owned(), "true".to_owned()), (FORMAT.to_owned(), FORMAT_1.to_owned())];
    if term.own {
        annotations.push((LIVENESS.to_owned(), OWN.to_owned()));
    }
    // No version stands before this tenancy. Its token is the version that the POST answers, so the label has none.
    let labels = [(KIND.to_owned(), KIND_LOCK.to_owned()), (format!("{HOLDER}{}", id.session), String::new())];
    Write::Create(Box::new(Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.into()),
            annotations: Some(annotations.into_iter().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(id.to_string()),
            lease_duration_seconds: Some(term.seconds()),
            lease_transitions: Some(0),
            acquire_time: Some(MicroTime(stamp)),
            renew_time: Some(MicroTime(stamp)),
            ..LeaseSpec::default()
        }),
    }))
}

/// Acquire a lock that is free, or whose holder is dead, for which nobody waits but those in `passed_over`, whose
/// sessions have ended. Condition: the Lease as seen, so that nobody who has joined since is overtaken.
#[must_use]
pub fn acquire(record: &Record, id: &HolderId, passed_over: &[&Waiter], term: Term, stamp: Timestamp) -> Write {
    let mut lease = emptied(record, passed_over);
    let label = format!("{HOLDER}{}", id.session);
    lease.metadata.labels.get_or_insert_default().insert(label, record.version.to_string());
    if term.own {
        lease.metadata.annotations.get_or_insert_default().insert(LIVENESS.to_owned(), OWN.to_owned());
    }
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(id.to_string());
    spec.lease_duration_seconds = Some(term.seconds());
    spec.acquire_time = Some(MicroTime(stamp));
    spec.renew_time = Some(MicroTime(stamp));
    Write::Replace(Box::new(lease))
}

/// Release a lock for which nobody waits but those in `dropped`, who are removed with it: a holder's own leftovers, and
/// waiters whose sessions have ended. Also the eviction of a dead holder. Condition: the Lease as seen.
///
/// A Lease made on the spot goes with it, unless `keep_lease` says that it cannot be removed.
#[must_use]
pub fn release(record: &Record, dropped: &[&Waiter], keep_lease: bool) -> Write {
    if record.ephemeral && !keep_lease {
        return Write::Delete { uid: record.uid.clone(), version: record.version };
    }
    let mut lease = emptied(record, dropped);
    lease.spec.get_or_insert_default().holder_identity = Some(String::new());
    Write::Replace(Box::new(lease))
}

/// The Lease as it stands after its holder has gone: the next tenancy, nobody's yet.
fn emptied(record: &Record, dropped: &[&Waiter]) -> Lease {
    let mut lease = (*record.lease).clone();
    let meta = &mut lease.metadata;
    let labels = meta.labels.get_or_insert_default();
    labels.retain(|key, _| !key.starts_with(HOLDER));
    labels.insert(KIND.to_owned(), KIND_LOCK.to_owned());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.remove(LIVENESS);
    annotations.retain(|key, _| !is_beside(key));
    annotations.insert(FORMAT.to_owned(), FORMAT_1.to_owned());
    waiting::without(record, annotations, dropped);
    untracked(&mut lease.metadata);
    lease.spec.get_or_insert_default().lease_transitions = Some(next_transition(record.transitions));
    lease
}

/// One empty entry tells the API server to stop tracking who owns which field, which costs a fifth of every write.
fn untracked(meta: &mut ObjectMeta) {
    if meta.managed_fields.as_ref().is_some_and(|fields| !fields.is_empty()) {
        meta.managed_fields = Some(vec![ManagedFieldsEntry::default()]);
    }
}

/// Hand a lock to `to`: a hand-off by its holder, an eviction by somebody else, an acquisition of a free lock by the
/// first waiter.
///
/// Condition: the same tenancy with the same holder, whose record has not been renewed since, and the
/// `join` keys of `to` and of those passed over as they were written. Joins may run beside it.
#[must_use]
pub fn grant(record: &Record, to: &HolderId, passed_over: &[&Waiter], stamp: Timestamp) -> Write {
    grant_and_fold(record, to, passed_over, usize::MAX, stamp)
}

/// The same, and the keys of those who wait on are folded into one if there are at least so many ([`queue`](super::record::queue)).
/// Condition: these wait still, too.
#[must_use]
pub fn grant_and_fold(
    record: &Record,
    to: &HolderId,
    passed_over: &[&Waiter],
    least: usize,
    stamp: Timestamp,
) -> Write {
    let mut ops = Ops::of(record);
    ops.test_tenancy(record);
    // It changes when the holder renews, and also when a holder that lived by its session begins to live by this record.
    if record.holder.is_some() {
        ops.test(["spec", "renewTime"], json!(record.lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref())));
    }
    let gone: Vec<_> =
        record.waiters.iter().filter(|waiter| waiter.id == *to).chain(passed_over.iter().copied()).collect();
    ops.remove_waiters(record, &gone, &waiting::foldable(record, to, passed_over, least));
    for label in record.lease.metadata.labels.iter().flatten().map(|(key, _)| key) {
        if label.starts_with(HOLDER) {
            ops.remove(["metadata", "labels", label]);
        }
    }
    ops.remove_old_reports(record);
    ops.copy_version(["metadata", "labels", &format!("{HOLDER}{}", to.session)]);
    ops.remove_if_there(record, LIVENESS);
    ops.remove_beside(record, |_| true);
    if ops.has_annotation(record, LIVENESS) {
        // That was its own, and may have been long.
        ops.add(["spec", "leaseDurationSeconds"], json!(UNNAMED_DURATION.as_secs()));
    }
    ops.add(["spec", "holderIdentity"], json!(to.to_string()));
    ops.add(["spec", "leaseTransitions"], json!(next_transition(record.transitions)));
    ops.add(["spec", "acquireTime"], json!(MicroTime(stamp)));
    ops.add(["spec", "renewTime"], json!(MicroTime(stamp)));
    ops.write()
}

/// Join the queue. Condition: the same Lease, and this acquisition neither waits nor shares it yet.
#[must_use]
pub fn join(record: &Record, id: &HolderId, want: &Want) -> Write {
    let mut ops = Ops::of(record);
    ops.test(["metadata", "uid"], json!(record.uid));
    let key = format!("{JOIN}{id}");
    ops.test(["metadata", "annotations", &key], Value::Null);
    // One that is carried out again after its grant would write over what is held.
    if record.kind != Kind::Lock {
        ops.test(["metadata", "annotations", &format!("{HOLDER}{id}")], Value::Null);
    }
    ops.copy_version(["metadata", "annotations", &key]);
    if *want != Want::default() {
        ops.add(["metadata", "annotations", &format!("{WANT}{id}")], json!(want.to_string()));
    }
    ops.write()
}

/// Leave the queue. Condition: the `join` key as it was written.
#[must_use]
pub fn cancel(record: &Record, waiter: &Waiter) -> Write {
    pass_over(record, &[waiter])
}

/// Remove waiters whose sessions have ended, and nothing else. Condition: their `join` keys as they were written.
#[must_use]
pub fn pass_over(record: &Record, waiters: &[&Waiter]) -> Write {
    let mut ops = Ops::of(record);
    ops.test(["metadata", "uid"], json!(record.uid));
    ops.remove_waiters(record, waiters, &[]);
    for waiter in waiters {
        ops.remove_told(record, waiter);
    }
    if record.kind != Kind::Lock {
        let first = |waiter: &&Waiter| !waiters.iter().any(|gone| gone.id == waiter.id);
        ops.tell_next(record.waiters.iter().find(first));
    }
    ops.write()
}

/// Renew a holder that lives by the lock's own record (and make it one). Condition: the same tenancy and holder, living as
/// it did.
///
/// The new renewTime is always of a later second than the one that stands there: an equal one would change nothing, and
/// client-go's leader election sees no less than a second. Where the last one is ahead of this clock, or renewals follow
/// each other quickly, it runs ahead.
#[must_use]
pub fn renew(record: &Record, term: Term, stamp: Timestamp) -> Write {
    let mut ops = renewal(record, term, stamp);
    // Carried out late, it must not take back that the hold is to stay.
    let before = record.lease.metadata.annotations.as_ref().and_then(|annotations| annotations.get(LIVENESS));
    ops.test(["metadata", "annotations", LIVENESS], json!(before));
    ops.add(["metadata", "annotations", LIVENESS], json!(OWN));
    ops.write()
}

fn renewal(record: &Record, term: Term, stamp: Timestamp) -> Ops {
    let mut ops = Ops::of(record);
    ops.test_tenancy(record);
    let last = record.holder.as_ref().and_then(|holder| holder.renewed);
    let next_second = last.and_then(|last| Timestamp::from_second(last.as_second() + 1).ok());
    let stamp = next_second.map_or(stamp, |next| next.max(stamp));
    ops.add(["spec", "renewTime"], json!(MicroTime(stamp)));
    ops.add(["spec", "leaseDurationSeconds"], json!(term.seconds()));
    ops
}

/// Leave a hold there for so long from now on, in whole seconds rounded up, whatever becomes of its process. Condition: the same tenancy and holder.
#[must_use]
pub fn keep(record: &Record, duration: Duration, stamp: Timestamp) -> Write {
    let mut ops = renewal(record, Term { duration, own: true }, stamp);
    ops.add(["metadata", "annotations", LIVENESS], json!(KEPT));
    // Nobody hears any more what is asked of it.
    record.holder.iter().for_each(|holder| ops.remove_if_there(record, &format!("{REQUEST}{}", holder.identity)));
    ops.write()
}

/// Show people a text beside one's hold, or none any more. Condition: the hold is as it was.
#[must_use]
pub fn publish(record: &Record, holder: &Holder, payload: &str) -> Write {
    let (mut ops, key) = beside(record, holder, PAYLOAD);
    if payload.is_empty() {
        ops.remove_if_there(record, &key);
    } else {
        ops.add(["metadata", "annotations", &key], json!(payload));
    }
    ops.write()
}

/// Ask a holder to let go, instead of whoever may have asked before. Condition: the hold is as it was.
#[must_use]
pub fn request(record: &Record, holder: &Holder, request: &ReleaseRequest) -> Write {
    let (mut ops, key) = beside(record, holder, REQUEST);
    ops.add(["metadata", "annotations", &key], json!(request.to_string()));
    ops.write()
}

/// Begins a command that says something of one hold, and changes none; and names its key.
fn beside(record: &Record, holder: &Holder, prefix: &str) -> (Ops, String) {
    let mut ops = Ops::of(record);
    if record.kind == Kind::Lock {
        ops.test_tenancy(record);
    } else {
        ops.test(["metadata", "uid"], json!(record.uid));
        ops.test_holder(record, holder);
    }
    (ops, format!("{prefix}{}", holder.identity))
}

/// Whether this annotation says something of a hold, and goes with it.
fn is_beside(key: &str) -> bool {
    key.starts_with(PAYLOAD) || key.starts_with(REQUEST)
}

/// Open a session.
#[must_use]
pub fn open_session(id: &SessionId, duration: Duration, stamp: Timestamp) -> Write {
    Write::Create(Box::new(Lease {
        metadata: ObjectMeta {
            name: Some(id.lease_name()),
            labels: Some([(KIND.to_owned(), KIND_SESSION.to_owned())].into()),
            annotations: Some([(FORMAT.to_owned(), FORMAT_1.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(id.to_string()),
            lease_duration_seconds: Some(Term { duration, own: true }.seconds()),
            acquire_time: Some(MicroTime(stamp)),
            renew_time: Some(MicroTime(stamp)),
            ..LeaseSpec::default()
        }),
    }))
}

/// Renew a session, which is to live for so long from then on. Condition: the Lease as seen.
#[must_use]
pub fn renew_session(record: &SessionRecord, duration: Duration, stamp: Timestamp) -> Write {
    let mut lease = (*record.lease).clone();
    untracked(&mut lease.metadata);
    let spec = lease.spec.get_or_insert_default();
    spec.lease_duration_seconds = Some(Term { duration, own: true }.seconds());
    let last = spec.renew_time.as_ref().and_then(|last| last.0.checked_add(1.microsecond()).ok());
    spec.renew_time = Some(MicroTime(last.map_or(stamp, |last| last.max(stamp))));
    Write::Replace(Box::new(lease))
}

/// End a session, so that it cannot be renewed any more. Condition: the Lease as seen; it fails if a renewal came.
#[must_use]
pub fn end_session(record: &SessionRecord, by: &str) -> Write {
    let mut lease = (*record.lease).clone();
    untracked(&mut lease.metadata);
    lease.spec.get_or_insert_default().holder_identity = Some(String::new());
    lease.metadata.annotations.get_or_insert_default().insert(ENDED_BY.to_owned(), by.to_owned());
    Write::Replace(Box::new(lease))
}

/// Remove a session's Lease. Condition: the Lease as seen.
#[must_use]
pub fn remove_session(record: &SessionRecord) -> Write {
    Write::Delete { uid: record.uid.clone(), version: record.version }
}

/// Whether the `test` of a JSON Patch can tell that a field is this text.
///
/// The API server compares texts as they are written in JSON, and writes some characters otherwise than whoever sends a
/// patch: a text with one of these is never equal.
#[must_use]
pub fn can_be_tested(text: &str) -> bool {
    !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}'])
}

/// A JSON Patch in the making, on a Lease of this version.
struct Ops(Vec<PatchOperation>, Version);

impl Ops {
    /// Begins a patch. A Lease of foreign make may lack the maps that the rest needs: they are made first, each with
    /// one entry that stays, if they are lacking still.
    fn of(record: &Record) -> Self {
        let mut ops = Self(Vec::with_capacity(12), record.version);
        let meta = &record.lease.metadata;
        let kind = record.kind.name();
        for (field, map, key, value) in
            [("annotations", &meta.annotations, FORMAT, FORMAT_1), ("labels", &meta.labels, KIND, kind)]
        {
            let map = map.as_ref().filter(|map| !map.is_empty());
            if map.is_none() {
                ops.test(["metadata", field], Value::Null);
                ops.add(["metadata", field], json!({}));
            }
            match map.and_then(|map| map.get(key)) {
                // A Lease that has become one of a later format is not written to.
                Some(format) if key == FORMAT => ops.test(["metadata", field, key], json!(format)),
                Some(_) => {}
                None => ops.add(["metadata", field, key], json!(value)),
            }
        }
        if meta.managed_fields.as_ref().is_some_and(|fields| !fields.is_empty()) {
            ops.add(["metadata", "managedFields"], json!([{}]));
        }
        ops
    }

    fn test_tenancy(&mut self, record: &Record) {
        let spec = record.lease.spec.as_ref();
        self.test(["metadata", "uid"], json!(record.uid));
        self.test(["spec", "leaseTransitions"], json!(spec.and_then(|spec| spec.lease_transitions)));
        self.test(["spec", "holderIdentity"], json!(spec.and_then(|spec| spec.holder_identity.as_ref())));
    }

    #[expect(clippy::unused_self, reason = "reads as the others do")]
    fn has_annotation(&self, record: &Record, key: &str) -> bool {
        record.lease.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(key))
    }

    fn remove_if_there(&mut self, record: &Record, key: &str) {
        if self.has_annotation(record, key) {
            self.remove(["metadata", "annotations", key]);
        }
    }

    /// Removes what stands beside these holds, as it is: somebody may just be asked for something else.
    fn remove_beside(&mut self, record: &Record, of: impl Fn(&str) -> bool) {
        for (key, value) in record.lease.metadata.annotations.iter().flatten() {
            let identity = [PAYLOAD, REQUEST].iter().find_map(|prefix| key.strip_prefix(prefix));
            if identity.is_some_and(&of) {
                self.test(["metadata", "annotations", key], json!(value));
                self.remove(["metadata", "annotations", key]);
            }
        }
    }

    /// Tests that a shared holder's key is as it was written, and names it.
    fn test_holder(&mut self, record: &Record, holder: &Holder) -> String {
        let key = format!("{HOLDER}{}", holder.identity);
        let value = record.lease.metadata.annotations.as_ref().and_then(|annotations| annotations.get(&key));
        self.test(["metadata", "annotations", &key], json!(value));
        key
    }

    /// Lets whoever is first in the queue see all that happens from now on: it is for it to go ahead. Condition: it waits
    /// still, so that no label is left of one who has gone.
    fn tell_next(&mut self, first: Option<&Waiter>) {
        if let Some(first) = first {
            self.test(["metadata", "annotations", &format!("{JOIN}{}", first.id)], json!(first.ticket.to_string()));
            self.tell(first);
        }
    }

    fn tell(&mut self, who: &Waiter) {
        self.add(["metadata", "labels", &format!("{HOLDER}{}", who.id.session)], json!(""));
    }

    /// Where the value itself cannot be tested the condition is the Lease as seen, and that is more.
    fn test<const N: usize>(&mut self, path: [&str; N], value: Value) {
        if !value.as_str().is_none_or(can_be_tested) {
            return self.test(["metadata", "resourceVersion"], json!(self.1.to_string()));
        }
        self.0.push(PatchOperation::Test(TestOperation { path: PointerBuf::from_tokens(path), value }));
    }

    fn add<const N: usize>(&mut self, path: [&str; N], value: Value) {
        self.0.push(PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path), value }));
    }

    fn remove<const N: usize>(&mut self, path: [&str; N]) {
        self.0.push(PatchOperation::Remove(RemoveOperation { path: PointerBuf::from_tokens(path) }));
    }

    /// Sets a field to the resourceVersion that the Lease had just before this patch: the API server's own counter.
    fn copy_version<const N: usize>(&mut self, path: [&str; N]) {
        let from = PointerBuf::from_tokens(["metadata", "resourceVersion"]);
        self.0.push(PatchOperation::Copy(CopyOperation { from, path: PointerBuf::from_tokens(path) }));
    }

    fn write(self) -> Write {
        Write::Patch(Patch(self.0))
    }
}
