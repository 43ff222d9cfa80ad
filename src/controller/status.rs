//! What a resource says of its Lease.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;
use leasehold::protocol::{Holder, Liveness, Record};

use super::apply::{Applied, Outcome};
use super::decide::Blocked;
use super::resource::{LeaseBacked, Told, count};
use crate::announce::Announcement;
use crate::crd::{HolderStatus, ReleaseRequestStatus};
use crate::warden::Troubles;

/// Some who wait for it, and others, wait for each other.
const DEADLOCKED: &str = "Deadlocked";
/// Its holder is dead, and only a person may take it from it.
const ABANDONED: &str = "Abandoned";
/// It is being deleted, and waits.
const TERMINATING: &str = "Terminating";
/// How many a message names.
const NAMED: usize = 3;
/// Of how many characters a message is at most. A condition may have 32768.
const LONGEST_MESSAGE: usize = 2000;

/// The status that follows from what was applied. `None`: the resource goes, and needs none.
///
/// A condition that has not changed keeps the time of its last transition.
pub(super) fn status_of<R: LeaseBacked>(
    applied: &Applied<R>,
    before: Option<&R::Status>,
    troubles: &Troubles,
    stamp: Timestamp,
) -> Option<R::Status> {
    let generation = applied.cr.meta().generation;
    let before = before.map_or(&[][..], R::conditions);
    let condition = |type_: &str, status: bool, reason: &str, message: String| {
        let status = if status { "True" } else { "False" };
        let known = before.iter().find(|known| known.type_ == type_ && known.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: generation,
            last_transition_time: known.map_or_else(|| seconds(stamp), |known| known.last_transition_time.clone()),
        }
    };
    let noun = R::NOUN;
    let (ready, record) = match applied.outcome() {
        Outcome::Gone { .. } => return None,
        Outcome::Blocked(blocked) => (Err(obstacle(blocked, noun)), None),
        Outcome::Refused { why, record } => (Err(("LeaseForbidden", refused(why))), record.as_deref()),
        Outcome::Stands(record) | Outcome::Waits(record) => (Ok(()), Some(&**record)),
    };
    let held = match (record, &ready) {
        (Some(record), _) => match (&record.holder, record.shared.len()) {
            (Some(holder), _) => condition("Held", true, "Held", format!("{} holds the {noun}", holder.identity)),
            (None, 0) => condition("Held", false, "Free", format!("nobody holds the {noun}")),
            (None, count) => condition("Held", true, "Held", format!("{count} hold the {noun}")),
        },
        (None, Err((reason, message))) => condition("Held", false, reason, message.clone()),
        (None, Ok(())) => return None,
    };
    let ready = match ready {
        Ok(()) => condition("Ready", true, "LeaseReady", format!("the {noun} can be acquired through its Lease")),
        Err((reason, message)) => condition("Ready", false, reason, message),
    };
    let waits = matches!(applied.outcome(), Outcome::Waits(_)).then_some(()).and(record);
    let mut conditions = vec![ready, held];
    for (type_, reason, now) in [
        (DEADLOCKED, "Circle", troubles.deadlock.as_ref().map(|circle| format!("these wait for each other: {circle}"))),
        (ABANDONED, "NeverReclaimed", abandoned(&troubles.abandoned, &applied.cr.name_any())),
        (TERMINATING, "InUse", waits.map(|record| in_use(record, noun))),
    ] {
        // What has never been so is not told.
        match now {
            Some(message) => conditions.push(condition(type_, true, reason, cut(&message))),
            None if before.iter().any(|known| known.type_ == type_) => {
                conditions.push(condition(type_, false, "Over", "it is so no longer".to_owned()));
            }
            None => {}
        }
    }
    Some(applied.cr.tell(Told { generation, conditions, record }))
}

/// What is to be told as an Event of the conditions that have become true, or are so of somebody else now.
pub(super) fn news<R: LeaseBacked>(before: Option<&R::Status>, after: &R::Status) -> Vec<Announcement> {
    let before = before.map_or(&[][..], R::conditions);
    let is_new = |now: &&Condition| {
        let known = before.iter().find(|known| known.type_ == now.type_ && known.status == "True");
        now.status == "True" && known.is_none_or(|known| now.type_ == ABANDONED && known.message != now.message)
    };
    let tell = |now: &Condition| match &*now.type_ {
        ABANDONED => Some(Announcement::Abandoned(now.message.clone())),
        TERMINATING => Some(Announcement::Waits(now.message.clone())),
        _ => None,
    };
    R::conditions(after).iter().filter(is_new).filter_map(tell).collect()
}

fn refused(why: &str) -> String {
    cut(&format!(
        "the API server does not let the operator write the Lease: {why}. It is tried again twice a minute; what RBAC or \
         an admission policy refuses, these have to allow"
    ))
}

fn abandoned(holders: &[String], name: &str) -> Option<String> {
    let dead = match holders {
        [] => return None,
        [one] => format!("{one} is dead and"),
        many => format!("{} are dead and", some(many.iter().map(String::as_str))),
    };
    Some(format!("{dead} stays, since reclaim is Never: only a break ends that (kubectl leasehold break {name})"))
}

fn in_use(record: &Record, noun: &str) -> String {
    let holders = match record.holders().count() {
        0 => String::new(),
        1 => format!("{} holds it", some(record.holders().map(|holder| &*holder.identity))),
        _ => format!("{} hold it", some(record.holders().map(|holder| &*holder.identity))),
    };
    let waiters = match record.waiters.len() {
        0 => String::new(),
        1 => "1 waits for it".to_owned(),
        count => format!("{count} wait for it"),
    };
    let and = if holders.is_empty() || waiters.is_empty() { "" } else { ", " };
    format!("it goes when nobody uses the {noun} any more: {holders}{and}{waiters}")
}

/// The first of them, and how many more there are.
fn some<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let more = names.len().saturating_sub(NAMED);
    let first = names[..names.len() - more].join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

fn cut(message: &str) -> String {
    message.chars().take(LONGEST_MESSAGE).collect()
}

/// Why it is blocked, and what to do about it.
fn obstacle(blocked: &Blocked, noun: &str) -> (&'static str, String) {
    let way_out = format!("remove that Lease, or give this {noun} another name");
    match blocked {
        Blocked::OwnedByOther(owner) => {
            ("LeaseOwnedByOther", format!("the Lease of this name belongs to {owner}: {way_out}"))
        }
        Blocked::UsedAs(kind) => {
            let used_as = kind.name();
            ("LeaseOfOtherKind", format!("the Lease of this name is in use as a {used_as}: {way_out}"))
        }
        Blocked::Unreadable(why) => ("LeaseUnreadable", cut(why)),
    }
}

pub(super) fn holder_status(holder: &Holder) -> HolderStatus {
    HolderStatus {
        id: holder.identity.clone(),
        pod: holder.id.as_ref().map(|id| id.session.host().to_owned()),
        session: match &holder.liveness {
            Liveness::Session(session) => Some(session.to_string()),
            Liveness::Own(_) => None,
        },
        since: holder.acquired.map(seconds),
        token: holder.token.and_then(|token| token.try_into().ok()),
        kept: holder.kept,
        payload: holder.payload.clone(),
        release_request: holder.request.as_ref().map(|request| ReleaseRequestStatus {
            by: request.by.clone(),
            reason: request.reason.clone(),
            within_seconds: count(request.within.as_secs()),
        }),
    }
}

/// Times of resources have whole seconds: a fraction would differ from what is read back.
fn seconds(stamp: Timestamp) -> Time {
    Time(Timestamp::from_second(stamp.as_second()).unwrap_or(stamp))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::decide::tests::{lock, record};
    use super::*;
    use crate::crd::{DistributedLock, DistributedLockStatus, State};

    fn stamp(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn status(record: Record, before: Option<&DistributedLockStatus>, at: &str) -> DistributedLockStatus {
        stands(lock(None), record, before, stamp(at))
    }

    pub(in super::super) fn stands<R: LeaseBacked>(
        cr: R,
        record: Record,
        before: Option<&R::Status>,
        stamp: Timestamp,
    ) -> R::Status {
        let applied = Applied::for_test(cr, Outcome::Stands(Arc::new(record)));
        status_of(&applied, before, &Troubles::default(), stamp).unwrap()
    }

    fn held(identity: &str) -> Record {
        record(json!({
            "metadata": { "labels": { "leasehold.dev/kind": "lock", "holder.leasehold.dev/pod-1_abc": "41" },
                "annotations": { "join.leasehold.dev/pod_x.1": "7", "payload.leasehold.dev/pod-1_abc.3": "at work",
                    "request.leasehold.dev/pod-1_abc.3": "30 me so there" } },
            "spec": { "holderIdentity": identity, "acquireTime": "2026-01-01T00:00:00.250000Z" } }))
    }

    #[test]
    fn a_session_s_hold_is_told_with_pod_token_and_waiters() {
        let status = status(held("pod-1_abc.3"), None, "2026-01-01T00:00:01Z");
        assert_eq!((status.state, status.waiters), (Some(State::Held), 1));
        assert_eq!(
            status.holder.unwrap(),
            HolderStatus {
                id: "pod-1_abc.3".to_owned(),
                pod: Some("pod-1".to_owned()),
                session: Some("pod-1_abc".to_owned()),
                since: Some(Time(stamp("2026-01-01T00:00:00Z"))),
                token: Some(42),
                kept: false,
                payload: Some("at work".to_owned()),
                release_request: Some(ReleaseRequestStatus {
                    by: "me".to_owned(),
                    reason: "so there".to_owned(),
                    within_seconds: 30,
                }),
            }
        );
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_changes() {
        let first = status(held("pod-1_abc.3"), None, "2026-01-01T00:00:01Z");
        let second = status(held("pod-1_abc.4"), Some(&first), "2026-01-01T00:00:05Z");
        let third = status(record(json!({ "spec": {} })), Some(&second), "2026-01-01T00:00:09Z");
        let times = |status: &DistributedLockStatus| -> Vec<i64> {
            status.conditions.iter().map(|condition| condition.last_transition_time.0.as_second() % 60).collect()
        };
        assert_eq!((times(&first), times(&second), times(&third)), (vec![1, 1], vec![1, 1], vec![1, 9]));
        assert_eq!(
            DistributedLock::acquired(Some(&first), &second).map(|holder| holder.id.as_str()),
            Some("pod-1_abc.4")
        );
        assert!(
            DistributedLock::acquired(Some(&second), &second).is_none()
                && DistributedLock::acquired(Some(&second), &third).is_none()
        );
    }

    #[test]
    fn a_status_reads_back_as_it_was_written() {
        for status in [
            status(held("somebody"), None, "2026-01-01T00:00:01.123Z"),
            status(record(json!({ "spec": {} })), None, "2026-01-01T00:00:01Z"),
        ] {
            let json = serde_json::to_value(&status).unwrap();
            assert_eq!(serde_json::from_value::<DistributedLockStatus>(json).unwrap(), status);
        }
    }

    #[test]
    fn a_blocked_lock_tells_what_to_do() {
        let blocked = Outcome::Blocked(Blocked::OwnedByOther("Deployment web".to_owned()));
        let status =
            status_of(&Applied::for_test(lock(None), blocked), None, &Troubles::default(), Timestamp::UNIX_EPOCH)
                .unwrap();
        assert_eq!((status.state, &*status.conditions[0].status), (Some(State::Blocked), "False"));
        assert!(status.conditions[0].message.contains("Deployment web: remove that Lease"));
    }
}
