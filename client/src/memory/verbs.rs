//! The verbs, as an API server carries them out on Leases.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp, TimestampRound, Unit};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, Time};
use serde_json::Value;

use super::json_patch::Operation;
use super::state::State;
use super::status::Refused;
use super::{decode, json_patch, merge_patch, status, validate};

const STALE: &str = "the object has been modified; please apply your changes to the latest version and try again";
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a PATCH asks for.
#[derive(Debug)]
pub(super) enum Change<'a> {
    Json(&'a [Operation<'a>]),
    Merge(Value),
    Strategic(Value),
}

/// What a DELETE says beside the name.
#[derive(Debug, Default)]
pub(super) struct Removal {
    pub(super) uid: Option<String>,
    pub(super) version: Option<String>,
    pub(super) propagation: Option<Propagation>,
    /// The deprecated field `orphanDependents` is there, and false.
    pub(super) not_orphaned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl State {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Result<Arc<Lease>, Refused> {
        self.lease(namespace, name).cloned().ok_or_else(|| status::not_found(name))
    }

    /// POST.
    pub(super) fn create(&mut self, namespace: &str, mut lease: Lease, now: Timestamp) -> Result<Arc<Lease>, Refused> {
        settle(&mut lease);
        let meta = &mut lease.metadata;
        meta.deletion_timestamp = None;
        meta.deletion_grace_period_seconds = None;
        let given = meta.name.is_some();
        in_namespace(meta, namespace)?;
        let (meta, mut attempts) = (lease.metadata.clone(), 8);
        loop {
            lease.metadata = meta.clone();
            if let (false, Some(prefix)) = (given, &meta.generate_name) {
                lease.metadata.name = Some(generated(prefix, self.generate()));
            }
            attempts -= 1;
            let taken = lease.metadata.name.as_ref().is_some_and(|name| self.lease(namespace, name).is_some());
            if !taken || given || attempts == 0 {
                return self.create_named(namespace, lease, now);
            }
        }
    }

    fn create_named(&mut self, namespace: &str, mut lease: Lease, now: Timestamp) -> Result<Arc<Lease>, Refused> {
        begin(&mut lease, self.version, now);
        validate::new(&lease)?;
        let name = lease.metadata.name.clone().unwrap_or_default();
        if parsed(&lease.metadata).is_ok_and(|version| version != 0) {
            return Err(status::error("resourceVersion should not be set on objects to be created"));
        }
        if self.lease(namespace, &name).is_some() {
            return Err(status::already_exists(&name));
        }
        self.commit(namespace, &name, Some(lease)).ok_or_else(|| status::not_found(&name))
    }

    /// PUT. Whether it made a Lease that was not there comes with the answer.
    pub(super) fn replace(
        &mut self,
        namespace: &str,
        name: &str,
        mut lease: Lease,
        now: Timestamp,
    ) -> Result<(Arc<Lease>, bool), Refused> {
        settle(&mut lease);
        in_namespace(&mut lease.metadata, namespace)?;
        has_name(&lease.metadata, name)?;
        let existing = self.lease(namespace, name).cloned();
        let uid = existing.as_ref().and_then(|existing| existing.metadata.uid.as_ref());
        if lease.metadata.uid.is_some() && lease.metadata.uid.as_ref() != uid {
            return Err(status::conflict(name, "Precondition failed: the uid is another one"));
        }
        if let Some(existing) = existing {
            return Ok((self.update(namespace, name, &existing, lease)?, false));
        }
        parsed(&lease.metadata)?;
        begin(&mut lease, self.version, now);
        validate::new(&lease)?;
        let stored = self.commit(namespace, name, Some(lease)).ok_or_else(|| status::not_found(name))?;
        Ok((stored, true))
    }

    /// PATCH.
    pub(super) fn patch(&mut self, namespace: &str, name: &str, change: Change<'_>) -> Result<Arc<Lease>, Refused> {
        let existing = self.get(namespace, name)?;
        let mut value = serde_json::to_value(&*existing).map_err(|error| status::error(&error.to_string()))?;
        match change {
            Change::Json(operations) => {
                json_patch::apply(&mut value, operations).map_err(status::not_applicable)?;
            }
            Change::Merge(patch) => merge_patch::merge(&mut value, patch),
            Change::Strategic(patch) => merge_patch::merge_strategic(&mut value, patch)
                .ok_or_else(|| status::not_implemented("a directive of strategic merge patches"))?,
        }
        let wrong = |wrong| status::invalid("", vec![status::cause("patch", wrong)]);
        let mut lease = decode::patched(value).map_err(wrong)?;
        settle(&mut lease);
        in_namespace(&mut lease.metadata, namespace)?;
        has_name(&lease.metadata, name)?;
        self.update(namespace, name, &existing, lease)
    }

    /// The common part of PUT and PATCH.
    fn update(
        &mut self,
        namespace: &str,
        name: &str,
        existing: &Arc<Lease>,
        mut lease: Lease,
    ) -> Result<Arc<Lease>, Refused> {
        let (meta, old) = (&mut lease.metadata, &existing.metadata);
        let version = parsed(meta)?;
        if version == 0 {
            let cause = status::cause("metadata.resourceVersion", "must be specified for an update");
            return Err(status::invalid(name, vec![cause]));
        }
        if version != parsed(old)? {
            return Err(status::conflict(name, STALE));
        }
        meta.resource_version.clone_from(&old.resource_version);
        meta.generation = old.generation;
        if meta.uid.is_none() {
            meta.uid.clone_from(&old.uid);
        }
        meta.creation_timestamp.clone_from(&old.creation_timestamp);
        if old.deletion_timestamp.is_some() {
            meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
        }
        if meta.deletion_grace_period_seconds.is_none() {
            meta.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
        }
        let untracked = match meta.managed_fields.as_deref() {
            Some([]) => true,
            Some([entry]) => *entry == ManagedFieldsEntry::default(),
            _ => false,
        };
        meta.managed_fields.clone_from(&old.managed_fields);
        if untracked || !has_fields(&lease) {
            lease.metadata.managed_fields = None;
        }
        validate::update(&lease, existing)?;
        if old.deletion_timestamp.is_some() && lease.metadata.finalizers.is_none() {
            // The last finalizer is gone, and with it the object. What is answered is the object of the request.
            self.commit(namespace, name, None);
            return Ok(Arc::new(lease));
        }
        if lease == **existing {
            return Ok(Arc::clone(existing)); // a write that changes nothing makes no version
        }
        self.commit(namespace, name, Some(lease)).ok_or_else(|| status::not_found(name))
    }

    /// DELETE. What stays until its finalizers are gone comes back, else what was removed.
    pub(super) fn delete(
        &mut self,
        namespace: &str,
        name: &str,
        removal: &Removal,
        now: Timestamp,
    ) -> Result<Removed, Refused> {
        let existing = self.get(namespace, name)?;
        let old = &existing.metadata;
        if removal.uid.is_some() && removal.uid != old.uid {
            return Err(status::conflict(name, "the UID in the precondition does not match"));
        }
        if removal.version.is_some() && removal.version != old.resource_version {
            return Err(status::conflict(name, "the ResourceVersion in the precondition does not match"));
        }
        let finalizers = finalizers(old, removal.propagation);
        if finalizers.is_none() {
            self.commit(namespace, name, None);
            return Ok(Removed::Now(existing));
        }
        let mut lease = (*existing).clone();
        let meta = &mut lease.metadata;
        meta.finalizers = finalizers;
        if meta.deletion_timestamp.is_none() {
            meta.generation = meta.generation.map(|generation| generation + i64::from(generation > 0));
            meta.deletion_timestamp = Some(Time(seconds(now)));
        }
        meta.deletion_grace_period_seconds = Some(0);
        if lease == *existing {
            return Ok(Removed::Later(existing));
        }
        self.commit(namespace, name, Some(lease)).map(Removed::Later).ok_or_else(|| status::not_found(name))
    }
}

/// What became of a DELETE.
#[derive(Debug)]
pub(super) enum Removed {
    Now(Arc<Lease>),
    Later(Arc<Lease>),
}

/// The finalizers with which a removal leaves an object: the garbage collector has two of its own.
fn finalizers(old: &ObjectMeta, propagation: Option<Propagation>) -> Option<Vec<String>> {
    let there = old.finalizers.as_deref().unwrap_or_default();
    let first = there.iter().find(|finalizer| [ORPHAN, FOREGROUND].contains(&finalizer.as_str()));
    let collector = match propagation {
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Background) => None,
        None => first.map(String::as_str),
    };
    let others = there.iter().filter(|finalizer| ![ORPHAN, FOREGROUND].contains(&finalizer.as_str())).cloned();
    let finalizers: Vec<String> = others.chain(collector.map(str::to_owned)).collect();
    Some(finalizers).filter(|finalizers| !finalizers.is_empty())
}

/// Brings what was sent into the form that is stored.
fn settle(lease: &mut Lease) {
    let meta = &mut lease.metadata;
    meta.self_link = None;
    for text in
        [&mut meta.name, &mut meta.namespace, &mut meta.generate_name, &mut meta.uid, &mut meta.resource_version]
    {
        text.take_if(|text| text.is_empty());
    }
    meta.generation.take_if(|generation| *generation == 0);
    meta.annotations.take_if(|map| map.is_empty());
    meta.labels.take_if(|map| map.is_empty());
    meta.finalizers.take_if(|list| list.is_empty());
    if let Some(owners) = &mut meta.owner_references {
        let mut seen = Vec::with_capacity(owners.len());
        owners.retain(|owner| {
            let new = !seen.contains(owner);
            seen.push(owner.clone());
            new
        });
    }
    meta.owner_references.take_if(|list| list.is_empty());
    let spec = lease.spec.get_or_insert_default();
    for time in [&mut spec.acquire_time, &mut spec.renew_time].into_iter().flatten() {
        time.0 = rounded(time.0, Unit::Microsecond);
    }
}

/// What the API server itself gives to a new object.
fn begin(lease: &mut Lease, version: u64, now: Timestamp) {
    let has_fields = has_fields(lease);
    let meta = &mut lease.metadata;
    meta.uid = Some(format!("1ea5e401-d000-4000-8000-{:012x}", version + 1));
    meta.creation_timestamp = Some(Time(seconds(now)));
    // Who owns which field is not followed. That something follows it is, until it is told to stop. Where there is no
    // field to be owned, nothing ever does.
    meta.managed_fields = has_fields.then(|| {
        vec![ManagedFieldsEntry {
            api_version: Some("coordination.k8s.io/v1".to_owned()),
            manager: Some("unknown".to_owned()),
            operation: Some("Update".to_owned()),
            ..ManagedFieldsEntry::default()
        }]
    });
}

/// Whether it has a field that somebody can own.
fn has_fields(lease: &Lease) -> bool {
    let meta = &lease.metadata;
    lease.spec != Some(LeaseSpec::default())
        || meta.labels.is_some()
        || meta.annotations.is_some()
        || meta.finalizers.is_some()
        || meta.owner_references.is_some()
        || meta.generate_name.is_some()
        || meta.deletion_grace_period_seconds.is_some()
}

fn in_namespace(meta: &mut ObjectMeta, namespace: &str) -> Result<(), Refused> {
    if meta.namespace.get_or_insert_with(|| namespace.to_owned()) == namespace {
        return Ok(());
    }
    Err(status::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

fn has_name(meta: &ObjectMeta, name: &str) -> Result<(), Refused> {
    if meta.name.as_deref() == Some(name) {
        return Ok(());
    }
    Err(status::bad_request("the name of the object does not match the name on the URL"))
}

/// The resourceVersion as a number, 0 if there is none.
fn parsed(meta: &ObjectMeta) -> Result<u64, Refused> {
    let version = meta.resource_version.as_deref().unwrap_or("0");
    version.parse().map_err(|_| status::error("the resourceVersion is not a number"))
}

/// A name that begins like this. It is unique as long as nobody makes one up.
fn generated(prefix: &str, number: u64) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let base = LETTERS.len() as u64;
    let mut name: String = prefix.chars().take(58).collect();
    // Any multiplier without a factor in common with 27^5 reaches all names before one comes again.
    let mut rest = number.wrapping_mul(7_368_787) % base.pow(5);
    for _ in 0..5 {
        name.push(LETTERS[usize::try_from(rest % base).unwrap_or(0)].into());
        rest /= base;
    }
    name
}

fn seconds(time: Timestamp) -> Timestamp {
    rounded(time, Unit::Second)
}

fn rounded(time: Timestamp, unit: Unit) -> Timestamp {
    let round = TimestampRound::new().smallest(unit).mode(jiff::RoundMode::Floor);
    time.round(round).unwrap_or(time).max(Timestamp::MIN + SignedDuration::ZERO)
}
