//! What stands on each Lease: whether it can be read, means something, and has room.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::name::{lease_name, looks_mapped};
use leasehold::protocol::policy::{LOCK_DELAY, MAX_DURATION, MAX_HOLD, MAX_WAITERS, MIN_DURATION};
use leasehold::protocol::record::queue::{QUEUE, entry};
use leasehold::protocol::record::{
    CROWDED_BYTES, DEADLOCK, DEFAULT_DURATION, HOLDER, HOLDS, ID, JOIN, KIND, KIND_SESSION, PAYLOAD, PERMITS, REQUEST,
    UPGRADE, WANT,
};
use leasehold::protocol::{HolderId, Kind, Record, Version, Want};

use super::census::{Census, Unreadable, place_of};
use super::report::{Finding, Object, Verdict};
use super::site::Site;
use crate::view::name_to_type;

pub(super) const CHECK: &str = "leases";

/// Of so many keys one is told of by name.
const NAMED: usize = 5;

/// All of them; and that they can be read, if nothing is wrong with any.
pub(super) fn judge(site: &Site, census: &Census) -> Vec<Finding> {
    let mut found: Vec<_> = census.unreadable.iter().map(|one| of_unreadable(site, one)).collect();
    for session in census.sessions.values() {
        if label(&session.lease) != KIND_SESSION {
            let says = format!("it has the name of a session's Lease, and its label {KIND} does not say so");
            let of = Of::new(site, &session.lease);
            found.push(of.label(of.finding(Verdict::Warning, says), &format!("{KIND}={KIND_SESSION}")));
        }
    }
    found.extend(census.locks.iter().flat_map(|record| of_lock(site, record)));
    if found.is_empty() {
        let (locks, sessions) = (census.locks.len(), census.sessions.len());
        let says =
            format!("{locks} of locks, semaphores and read-write locks, {sessions} of sessions: all can be read");
        found.push(Finding::ok(CHECK, whole(site), says));
    }
    found
}

/// What a finding is about that is about all of them.
pub(super) fn whole(site: &Site) -> Object {
    Object::of_site("Leases", site, "")
}

/// Findings about one Lease.
struct Of<'a> {
    site: &'a Site,
    lease: &'a Lease,
    namespace: String,
    name: String,
}

impl<'a> Of<'a> {
    fn new(site: &'a Site, lease: &'a Lease) -> Self {
        let (namespace, name) = place_of(lease);
        Self { site, lease, namespace, name }
    }

    fn finding(&self, verdict: Verdict, says: impl Into<String>) -> Finding {
        Finding::new(CHECK, verdict, Object::lease(&self.namespace, &self.name), says)
    }

    fn kubectl(&self, words: &[&str]) -> String {
        self.site.kubectl(Some(&self.namespace), words)
    }

    fn label(&self, finding: Finding, label: &str) -> Finding {
        finding.fix("set the label right").command(self.kubectl(&["label", "lease", &self.name, label, "--overwrite"]))
    }

    fn annotations(&self) -> &'a BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.lease.metadata.annotations.as_ref().unwrap_or(&NONE)
    }

    /// These keys, taken off.
    fn without(&self, keys: &[String]) -> String {
        let gone: Vec<String> = keys.iter().map(|key| format!("{key}-")).collect();
        let mut words = vec!["annotate", "lease", &self.name];
        words.extend(gone.iter().map(String::as_str));
        self.kubectl(&words)
    }
}

fn of_unreadable(site: &Site, Unreadable { lease, why }: &Unreadable) -> Finding {
    let of = Of::new(site, lease);
    let finding = of.finding(Verdict::Failed, format!("it cannot be read: {why}"));
    if why.contains("format") {
        return finding.fix("upgrade this program, and every client and operator that says the same");
    }
    finding
        .fix("nobody uses it as a session: take off the label, or delete it if it is nobody's")
        .command(of.kubectl(&["label", "lease", &of.name, &format!("{KIND}-")]))
}

fn of_lock(site: &Site, record: &Record) -> Vec<Finding> {
    let of = Of::new(site, &record.lease);
    let mut found = Vec::new();
    found.extend(of_annotations(&of, record));
    found.extend(of_holder_field(&of, record));
    found.extend(of_keys(&of, record));
    found.extend(of_name(&of, record));
    found.extend(of_room(&of, record));
    found.extend(of_others(&of));
    if !is_labelled(record) {
        // It is read as something else than it is. What would be right for that would take away what it is.
        for one in &mut found {
            one.command = None;
        }
        found.insert(0, of_label(&of));
    }
    found
}

/// Whether its label says of which kind it is.
pub(super) fn is_labelled(record: &Record) -> bool {
    Kind::named(label(&record.lease)).is_some()
}

fn label(lease: &Lease) -> &str {
    lease.metadata.labels.as_ref().and_then(|labels| labels.get(KIND)).map_or("", String::as_str)
}

/// A label that is no kind, and what it should be, as far as the rest tells.
fn of_label(of: &Of<'_>) -> Finding {
    let says = format!("its label {KIND} says {:?}, which is no kind: clients take it for a lock", label(of.lease));
    let finding = of.finding(Verdict::Warning, says);
    let identity = of.lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let kind = match [Kind::Semaphore, Kind::ReadWriteLock].into_iter().find(|kind| kind.name() == identity) {
        None if of.annotations().contains_key(PERMITS) => Kind::Semaphore,
        None if shared(of).next().is_some() => {
            return finding.fix(
                "set the label right: it is of a semaphore or a read-write lock (its clients know); touch nothing else before",
            );
        }
        None => Kind::Lock,
        Some(kind) => kind,
    };
    of.label(finding, &format!("{KIND}={}", kind.name()))
}

/// Acquisitions that hold a share of it, as keys say.
fn shared<'a>(of: &Of<'a>) -> impl Iterator<Item = &'a str> {
    let ids = of.annotations().keys().filter_map(|key| key.strip_prefix(HOLDER));
    ids.filter(|id| id.parse::<HolderId>().is_ok())
}

fn of_annotations(of: &Of<'_>, record: &Record) -> Vec<Finding> {
    let mut found = Vec::new();
    if record.kind == Kind::Semaphore && of.annotations().get(PERMITS).is_none_or(|text| text.parse::<u32>().is_err()) {
        let says = format!("nobody can tell how many permits it has (annotation {PERMITS}): nobody is let in");
        found.push(
            of.finding(Verdict::Warning, says)
                .fix("say how many there are; where a Semaphore stands for it, see why the operator does not")
                .command(of.kubectl(&["annotate", "lease", &of.name, &format!("{PERMITS}=N"), "--overwrite"])),
        );
    }
    for key in [MIN_DURATION, MAX_DURATION, MAX_HOLD, LOCK_DELAY, MAX_WAITERS, DEFAULT_DURATION] {
        if let Some(text) = of.annotations().get(key).filter(|text| text.parse::<u32>().is_err()) {
            let says = format!("its annotation {key} is {text:?}, which cannot be read: it counts as absent");
            found.push(
                of.finding(Verdict::Warning, says)
                    .fix("take it off; where a resource stands for it, the operator writes it as the resource says")
                    .command(of.without(&[key.to_owned()])),
            );
        }
    }
    found
}

fn of_holder_field(of: &Of<'_>, record: &Record) -> Option<Finding> {
    let identity = of.lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let wrong = match record.kind {
        Kind::Lock => [Kind::Semaphore, Kind::ReadWriteLock].iter().any(|kind| identity == kind.name()),
        kind => !identity.is_empty() && identity != kind.name(),
    };
    let noun = record.kind.name();
    wrong.then(|| {
        of.finding(
            Verdict::Warning,
            format!(
                "holderIdentity is {identity:?}, which no client of a {noun} writes: another program uses this Lease"
            ),
        )
        .fix("give one of the two another name")
        .command(of.kubectl(&["get", "lease", &of.name, "-o", "yaml"]))
    })
}

/// Keys that mean nothing: of no acquisition, or of one that neither holds nor waits.
fn of_keys(of: &Of<'_>, record: &Record) -> Vec<Finding> {
    let (mut bad, mut left, mut of_shares) = (Vec::new(), Vec::new(), Vec::new());
    let mut identities: BTreeSet<String> = record.holders().map(|holder| holder.identity.clone()).collect();
    identities.extend(record.waiters.iter().map(|waiter| waiter.id.to_string()));
    identities.extend(shared(of).map(str::to_owned));
    let there = |identity: &str| identities.contains(identity);
    for (key, value) in of.annotations() {
        let after = |prefix: &str| key.strip_prefix(prefix);
        if let Some(id) = after(JOIN) {
            if id.parse::<HolderId>().is_err() || value.parse::<Version>().is_err() {
                bad.push(key.clone());
            }
        } else if after(QUEUE).is_some() {
            if value.split(' ').any(|waiter| entry(waiter).is_none()) {
                bad.push(key.clone());
            }
        } else if let Some(id) = after(HOLDER) {
            match id.parse::<HolderId>() {
                Ok(_) if record.kind == Kind::Lock => of_shares.push(key.clone()),
                Ok(_) => {}
                Err(_) => bad.push(key.clone()),
            }
        } else if let Some(id) = after(WANT) {
            if !there(id) {
                left.push(key.clone());
            } else if value.parse::<Want>().is_err() {
                bad.push(key.clone());
            }
        } else if let Some(id) = [HOLDS, UPGRADE, PAYLOAD, REQUEST, DEADLOCK].iter().find_map(|prefix| after(prefix))
            && !there(id)
        {
            left.push(key.clone());
        }
    }
    let mut found = Vec::new();
    if !bad.is_empty() {
        let says = format!("{} cannot be read, and clients pass over it: nobody is let in by it", some(&bad));
        found.push(
            of.finding(Verdict::Warning, says)
                .fix("take it off, and see who wrote it: no client does")
                .command(of.without(&bad))
                .for_the_operator(of.site),
        );
    }
    if !of_shares.is_empty() {
        let says = format!("{} is of a semaphore or a read-write lock, and it is read as a lock", some(&of_shares));
        found.push(
            of.finding(Verdict::Warning, says)
                .fix("see what it is: take nothing off before, they may hold it")
                .command(of.kubectl(&["get", "lease", &of.name, "-o", "yaml"])),
        );
    }
    if !left.is_empty() {
        let says = format!("{} is of nobody who holds it or waits for it", some(&left));
        found.push(
            of.finding(Verdict::Note, says)
                .fix("most go by themselves when it changes hands; or take them off")
                .command(of.without(&left))
                .for_the_operator(of.site),
        );
    }
    found
}

/// The first of them, and how many more there are.
fn some(keys: &[String]) -> String {
    let more = keys.len().saturating_sub(NAMED);
    let first = keys[..keys.len() - more].join(", ");
    let noun = if keys.len() == 1 { "annotation" } else { "annotations" };
    if more == 0 { format!("{noun} {first}") } else { format!("{noun} {first} and {more} more") }
}

fn of_name(of: &Of<'_>, record: &Record) -> Option<Finding> {
    match &record.resource_id {
        None if looks_mapped(&of.name) => {
            let says = format!("its name is made of a text, and the annotation {ID} that says of which is not there");
            Some(
                of.finding(Verdict::Warning, says)
                    .fix("write it there, if you know it (kubectl leasehold name TEXT prints the name that is made of TEXT)")
                    .command(of.kubectl(&["annotate", "lease", &of.name, &format!("{ID}=TEXT")])),
            )
        }
        Some(id) if lease_name(id).map_or(true, |name| name != of.name) => {
            let says =
                format!("it says that it is that of {id:?} (annotation {ID}), which has a Lease of another name");
            Some(
                of.finding(Verdict::Warning, says)
                    .fix("take it off: clients of neither name can use this Lease")
                    .command(of.without(&[ID.to_owned()])),
            )
        }
        _ => None,
    }
}

fn of_room(of: &Of<'_>, record: &Record) -> Option<Finding> {
    let bytes = record.bytes_to_come();
    let (waiters, holders) = (record.waiters.len(), record.holders().count());
    let full = format!("{holders} hold it and {waiters} wait, {} KB of {} KB", bytes / 1024, CROWDED_BYTES / 1024);
    let (verdict, says) = if bytes >= CROWDED_BYTES {
        (Verdict::Warning, format!("it is full, and nobody can join its queue any more: {full}"))
    } else if bytes >= CROWDED_BYTES / 5 * 4 {
        (Verdict::Note, format!("it is nearly full: {full}"))
    } else {
        return None;
    };
    Some(
        of.finding(verdict, says)
            .fix("spread what is wanted over several names (docs/limits.md#beyond)")
            .command(name_to_type(record).map(|name| of.kubectl(&["leasehold", "status", name]))),
    )
}

/// What others have written there.
fn of_others(of: &Of<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let meta = &of.lease.metadata;
    let applied = meta.managed_fields.iter().flatten().filter(|entry| entry.operation.as_deref() == Some("Apply"));
    let mut managers: Vec<&str> = applied.filter_map(|entry| entry.manager.as_deref()).collect();
    managers.dedup();
    if !managers.is_empty() {
        let says = format!(
            "{} applies it (managedFields): from then on the API server keeps account of every field, and writes cost more",
            managers.join(", ")
        );
        found.push(
            of.finding(Verdict::Note, says).fix("take the Lease out of what is applied: locks are made by being named"),
        );
    }
    if let Some(owner) = meta.owner_references.iter().flatten().next() {
        let says = format!(
            "it has an owner ({} {}): garbage collection deletes it with that one, under its holder",
            owner.kind, owner.name
        );
        let patch = r#"{"metadata":{"ownerReferences":null}}"#;
        found.push(of.finding(Verdict::Warning, says).fix("take the owner off").command(of.kubectl(&[
            "patch",
            "lease",
            &of.name,
            "--type=merge",
            "-p",
            patch,
        ])));
    }
    if meta.deletion_timestamp.is_some() {
        let finalizers = meta.finalizers.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(", ");
        let says = format!("it is deleted, and stays for its finalizers ({finalizers}): it can be used until it goes");
        found.push(of.finding(Verdict::Note, says).fix("see to whoever put the finalizers there"));
    }
    found
}

#[cfg(test)]
mod tests;
