//! The guarded commands of what several can hold: semaphores and read-write locks.
//!
//! There are two sorts. What lets somebody in has the state of all as its condition: the tenancy's number, which every
//! such command bumps, and the number of permits. What lets somebody out has only its own key as condition, and so never
//! stands in the way of anything else. Between two commands that let somebody in the sum of what is held can only fall.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use serde_json::{Value, json};

use super::super::record::{
    EPHEMERAL, FORMAT, FORMAT_1, HOLDER, Holder, KIND, PAYLOAD, PERMITS, REQUEST, Record, UPGRADE, WANT, Waiter,
};
use super::super::{HolderId, Kind, Liveness, Mode, SessionId, Want};
use super::{JOIN, Ops, Term, Write, is_beside, next_transition, untracked, waiting};

/// Who is let in, and who is removed with it.
#[derive(Clone, Debug, Default)]
pub struct Round<'a> {
    /// From the head of the queue, as many as fit.
    pub served: Vec<&'a Waiter>,
    /// Waiters whose sessions have ended.
    pub passed_over: Vec<&'a Waiter>,
    /// Holders whose sessions have ended, or whose term has.
    pub dead: Vec<&'a Holder>,
    /// Who is first in the queue afterwards.
    pub next: Option<&'a Waiter>,
    /// Permits that are free afterwards.
    pub free: u32,
}

impl Round<'_> {
    /// The acquisitions of which nothing stays.
    fn gone(&self) -> Vec<&HolderId> {
        let dead = self.dead.iter().filter_map(|holder| holder.id.as_ref());
        dead.chain(self.passed_over.iter().map(|waiter| &waiter.id)).collect()
    }
}

/// Create and take: a Lease made on the spot, which goes when nobody holds it or waits for it.
#[must_use]
pub fn create(name: &str, kind: Kind, permits: Option<u32>, id: &HolderId, want: Want, stamp: Timestamp) -> Write {
    // No version stands before this tenancy. Its token is the version that the POST answers.
    let mut annotations = vec![
        (EPHEMERAL.to_owned(), "true".to_owned()),
        (FORMAT.to_owned(), FORMAT_1.to_owned()),
        (format!("{HOLDER}{id}"), String::new()),
        (format!("{WANT}{id}"), Want { since: Some(stamp), ..want }.to_string()),
    ];
    annotations.extend(permits.map(|permits| (PERMITS.to_owned(), permits.to_string())));
    let labels = [(KIND.to_owned(), kind.name().to_owned()), (format!("{HOLDER}{}", id.session), String::new())];
    Write::Create(Box::new(Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.into()),
            annotations: Some(annotations.into_iter().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(kind.name().to_owned()),
            lease_transitions: Some(0),
            acquire_time: Some(MicroTime(stamp)),
            ..LeaseSpec::default()
        }),
    }))
}

/// Take what is free, for which nobody waits but those in the round, whose sessions have ended. Condition: the Lease as
/// seen, so that nobody who has joined since is overtaken.
#[must_use]
pub fn acquire(record: &Record, id: &HolderId, want: Want, round: &Round<'_>, stamp: Timestamp) -> Write {
    let mut lease = (*record.lease).clone();
    let meta = &mut lease.metadata;
    let gone = round.gone();
    let labels = meta.labels.get_or_insert_default();
    labels.retain(|label, _| !is_of_none_but(record, label, &gone));
    labels.insert(KIND.to_owned(), record.kind.name().to_owned());
    labels.insert(format!("{HOLDER}{}", id.session), String::new());
    let annotations = meta.annotations.get_or_insert_default();
    for gone in gone {
        for prefix in [JOIN, WANT, HOLDER, UPGRADE, PAYLOAD, REQUEST] {
            annotations.remove(&format!("{prefix}{gone}"));
        }
    }
    // What was said of a hold just when it ended.
    annotations.retain(|key, _| {
        !is_beside(key) || record.shared.iter().any(|holder| key.ends_with(&format!("/{}", holder.identity)))
    });
    waiting::without(record, annotations, &round.passed_over);
    annotations.insert(format!("{HOLDER}{id}"), record.version.to_string());
    annotations.insert(format!("{WANT}{id}"), Want { since: Some(stamp), ..want }.to_string());
    untracked(meta);
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(record.kind.name().to_owned());
    spec.lease_transitions = Some(next_transition(record.transitions));
    spec.acquire_time = Some(MicroTime(stamp));
    Write::Replace(Box::new(lease))
}

/// Let in who is served, and remove who is dead. Anybody may send it. Condition: nobody has been let in since, as many
/// permits as seen, and the keys of all concerned as they were written.
#[must_use]
pub fn grant(record: &Record, round: &Round<'_>, stamp: Timestamp) -> Write {
    let mut ops = admission(record);
    ops.remove_gone(record, round);
    // What was said of a hold just when it ended.
    ops.remove_beside(record, |identity| !record.shared.iter().any(|holder| holder.identity == identity));
    ops.remove_old_reports(record);
    for waiter in &round.served {
        let (id, join) = (&waiter.id, format!("{JOIN}{}", waiter.id));
        ops.test(["metadata", "annotations", &join], json!(waiter.ticket.to_string()));
        ops.remove(["metadata", "annotations", &join]);
        ops.remove_beside_waiter(record, id);
        ops.copy_version(["metadata", "annotations", &format!("{HOLDER}{id}")]);
        let want = Want { since: Some(stamp), ..waiter.want };
        ops.add(["metadata", "annotations", &format!("{WANT}{id}")], json!(want.to_string()));
        ops.tell(waiter);
    }
    ops.tell_next(round.next);
    ops.add(["spec", "acquireTime"], json!(MicroTime(stamp)));
    ops.write()
}

/// Remove who is dead, where nobody can be let in for it. Condition: their keys as they were written.
#[must_use]
pub fn remove_dead(record: &Record, round: &Round<'_>) -> Write {
    let mut ops = Ops::of(record);
    ops.test(["metadata", "uid"], json!(record.uid));
    ops.remove_gone(record, round);
    ops.tell_next(round.next);
    ops.write()
}

/// Give back what one acquisition holds. Condition: its key as it was written.
///
/// Nobody is let in with it: the first in the queue is told of it, and does that. A Lease made on the spot goes with its
/// last holder, if nobody waits; then the condition is the Lease as seen.
#[must_use]
pub fn release(record: &Record, holder: &Holder, keep_lease: bool) -> Write {
    if record.ephemeral && !keep_lease && record.shared.len() == 1 && record.waiters.is_empty() {
        return remove(record);
    }
    remove_dead(record, &Round { dead: vec![holder], ..Round::default() })
}

/// Remove a Lease made on the spot that nobody has to do with any more. Condition: the Lease as seen.
#[must_use]
pub fn remove(record: &Record) -> Write {
    Write::Delete { uid: record.uid.clone(), version: record.version }
}

/// Renew a holder that lives by its own record. Condition: its key as it was written.
#[must_use]
pub fn renew(record: &Record, holder: &Holder) -> Write {
    let (mut ops, key) = of_holder(record, holder);
    ops.copy_version(["metadata", "annotations", &key]);
    ops.write()
}

/// Leave what one holds there for so long from now on, whatever becomes of its process. Condition: its key as it was
/// written.
#[must_use]
pub fn keep(record: &Record, holder: &Holder, duration: Duration, stamp: Timestamp) -> Write {
    let (mut ops, key) = of_holder(record, holder);
    ops.copy_version(["metadata", "annotations", &key]);
    let own = Duration::from_secs(Term { duration, own: true }.seconds().unsigned_abs().into());
    ops.want(record, holder, Want { mode: holder.mode, own: Some(own), since: Some(stamp), kept: true });
    // Nobody hears any more what is asked of it.
    ops.remove_if_there(record, &format!("{REQUEST}{}", holder.identity));
    ops.write()
}

/// Let the first in the queue see what happens: it has come to the head unnoticed. Condition: it still waits.
#[must_use]
pub fn tell(record: &Record, first: &Waiter) -> Write {
    let mut ops = Ops::of(record);
    ops.test(["metadata", "uid"], json!(record.uid));
    ops.tell_next(Some(first));
    ops.write()
}

/// Ask to become the only holder: nobody is let in any more. Condition: the holder's key as it was written.
#[must_use]
pub fn ask_upgrade(record: &Record, holder: &Holder) -> Write {
    let (mut ops, _) = of_holder(record, holder);
    let key = format!("{UPGRADE}{}", holder.identity);
    ops.test(["metadata", "annotations", &key], Value::Null);
    ops.copy_version(["metadata", "annotations", &key]);
    ops.write()
}

/// Become the only holder, when all others have gone or are dead. Condition: nobody has been let in since.
#[must_use]
pub fn upgrade(record: &Record, holder: &Holder, round: &Round<'_>, stamp: Timestamp) -> Write {
    let mut ops = admission(record);
    ops.remove_gone(record, round);
    let key = ops.test_holder(record, holder);
    ops.copy_version(["metadata", "annotations", &key]);
    ops.want(record, holder, Want { mode: Mode::Write, own: own(holder), since: Some(stamp), kept: false });
    ops.write()
}

/// Hold less than before, or give up an upgrade that was asked for. Condition: the holder's key as it was written, and
/// what it holds: carried out again after it holds less still, it would hold more.
#[must_use]
pub fn downgrade(record: &Record, holder: &Holder, mode: Mode) -> Write {
    let (mut ops, _) = of_holder(record, holder);
    let key = format!("{WANT}{}", holder.identity);
    let held = record.lease.metadata.annotations.as_ref().and_then(|annotations| annotations.get(&key));
    ops.test(["metadata", "annotations", &key], json!(held));
    ops.want(record, holder, Want { mode, own: own(holder), since: holder.acquired, kept: false });
    ops.write()
}

/// For how long a holder lives by itself, if it does.
fn own(holder: &Holder) -> Option<Duration> {
    match holder.liveness {
        Liveness::Own(duration) => Some(duration),
        Liveness::Session(_) => None,
    }
}

/// Whether a session's label is on the Lease, so that it sees all that happens here.
#[must_use]
pub fn is_told(record: &Record, session: &SessionId) -> bool {
    record.lease.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(&format!("{HOLDER}{session}")))
}

/// Whether this label is of a session of which nothing stays when these have gone.
fn is_of_none_but(record: &Record, label: &str, gone: &[&HolderId]) -> bool {
    let Some(session) = label.strip_prefix(HOLDER) else { return false };
    gone.iter().any(|id| id.session.as_str() == session)
        && !record.all_ids().any(|id| id.session.as_str() == session && !gone.contains(&id))
}

/// Begins a command that lets somebody in.
fn admission(record: &Record) -> Ops {
    let mut ops = Ops::of(record);
    ops.test_tenancy(record);
    let permits = record.lease.metadata.annotations.as_ref().and_then(|annotations| annotations.get(PERMITS));
    ops.test(["metadata", "annotations", PERMITS], json!(permits));
    // Whoever can become the writer has not asked for it since.
    for holder in record.shared.iter().filter(|holder| holder.mode == Mode::Upgradeable) {
        if record.upgrading != holder.id {
            ops.test(["metadata", "annotations", &format!("{UPGRADE}{}", holder.identity)], Value::Null);
        }
    }
    ops.add(["spec", "leaseTransitions"], json!(next_transition(record.transitions)));
    ops.add(["spec", "holderIdentity"], json!(record.kind.name()));
    ops
}

/// Begins a command that concerns one holder alone, and names its key.
fn of_holder(record: &Record, holder: &Holder) -> (Ops, String) {
    let mut ops = Ops::of(record);
    ops.test(["metadata", "uid"], json!(record.uid));
    let key = ops.test_holder(record, holder);
    (ops, key)
}

impl Ops {
    /// Says what a holder has from now on. What it asked for beyond is settled with that.
    fn want(&mut self, record: &Record, holder: &Holder, want: Want) {
        self.add(["metadata", "annotations", &format!("{WANT}{}", holder.identity)], json!(want.to_string()));
        self.remove_if_there(record, &format!("{UPGRADE}{}", holder.identity));
    }

    /// Removes all that stands here of the dead, and of waiters passed over.
    fn remove_gone(&mut self, record: &Record, round: &Round<'_>) {
        for holder in &round.dead {
            let key = self.test_holder(record, holder);
            self.remove(["metadata", "annotations", &key]);
            for prefix in [WANT, UPGRADE] {
                self.remove_if_there(record, &format!("{prefix}{}", holder.identity));
            }
        }
        self.remove_beside(record, |identity| round.dead.iter().any(|holder| holder.identity == identity));
        self.remove_waiters(record, &round.passed_over, &[]);
        let gone = round.gone();
        for label in record.lease.metadata.labels.iter().flatten().map(|(label, _)| label) {
            if is_of_none_but(record, label, &gone) {
                self.remove(["metadata", "labels", label]);
            }
        }
    }
}
