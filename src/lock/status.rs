//! What a lock's resource says of it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use leasehold::protocol::{Holder, Liveness, Record};

use super::apply::{Applied, Outcome};
use crate::crd::{DistributedLockStatus, HolderStatus, State};

/// The status that follows from what was applied. `None`: the resource goes, and needs none.
///
/// A condition that has not changed keeps the time of its last transition.
pub(super) fn status_of(
    applied: &Applied,
    before: Option<&DistributedLockStatus>,
    stamp: Timestamp,
) -> Option<DistributedLockStatus> {
    let generation = applied.cr.metadata.generation;
    let condition = |type_: &str, status: bool, reason: &str, message: String| {
        let status = if status { "True" } else { "False" };
        let known = before.and_then(|before| before.conditions.iter().find(|known| known.type_ == type_));
        let since = known.filter(|known| known.status == status).map(|known| known.last_transition_time.clone());
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: generation,
            last_transition_time: since.unwrap_or_else(|| seconds(stamp)),
        }
    };
    let (state, conditions, record) = match applied.outcome() {
        Outcome::Gone { .. } => return None,
        Outcome::Blocked(blocked) => {
            let message = format!(
                "the Lease of this name belongs to {}: remove that Lease, or give this lock another name",
                blocked.owner
            );
            let ready = condition("Ready", false, "LeaseOwnedByOther", message.clone());
            (State::Blocked, vec![ready, condition("Held", false, "LeaseOwnedByOther", message)], None)
        }
        Outcome::Stands(record) => {
            let ready = condition("Ready", true, "LeaseReady", "the lock can be acquired through its Lease".to_owned());
            let held = match &record.holder {
                Some(holder) => condition("Held", true, "Held", format!("{} holds the lock", holder.identity)),
                None => condition("Held", false, "Free", "nobody holds the lock".to_owned()),
            };
            let state = if record.holder.is_some() { State::Held } else { State::Free };
            (state, vec![ready, held], Some(record))
        }
    };
    Some(DistributedLockStatus {
        observed_generation: generation,
        conditions,
        state: Some(state),
        holder: record.and_then(|record| record.holder.as_ref()).map(holder_status),
        waiters: record.map_or(0, |record| i32::try_from(record.waiters.len()).unwrap_or(i32::MAX)),
        lease_name: record.and_then(|record| lease_name(record)),
        lease_uid: record.map(|record| record.uid.clone()),
    })
}

/// Whether another has come to hold the lock, and who.
pub(super) fn new_holder<'a>(
    before: Option<&DistributedLockStatus>,
    after: &'a DistributedLockStatus,
) -> Option<&'a HolderStatus> {
    let key = |holder: &HolderStatus| (holder.id.clone(), holder.since.clone());
    let before = before.and_then(|before| before.holder.as_ref()).map(key);
    after.holder.as_ref().filter(|now| before != Some(key(now)))
}

fn holder_status(holder: &Holder) -> HolderStatus {
    HolderStatus {
        id: holder.identity.clone(),
        pod: holder.id.as_ref().map(|id| id.session.host().to_owned()),
        session: match &holder.liveness {
            Liveness::Session(session) => Some(session.to_string()),
            Liveness::Own(_) => None,
        },
        since: holder.acquired.map(seconds),
        token: holder.token.and_then(|token| token.try_into().ok()),
    }
}

fn lease_name(record: &Record) -> Option<String> {
    record.lease.metadata.name.clone()
}

/// Times of resources have whole seconds: a fraction would differ from what is read back.
fn seconds(stamp: Timestamp) -> Time {
    Time(Timestamp::from_second(stamp.as_second()).unwrap_or(stamp))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::decide::Blocked;
    use super::super::decide::tests::{lock, record};
    use super::*;

    fn stamp(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn status(record: Record, before: Option<&DistributedLockStatus>, at: &str) -> DistributedLockStatus {
        let applied = Applied::for_test(lock(None), Outcome::Stands(Arc::new(record)));
        status_of(&applied, before, stamp(at)).unwrap()
    }

    fn held(identity: &str) -> Record {
        record(json!({
            "metadata": { "labels": { "leasehold.dev/kind": "lock", "holder.leasehold.dev/pod-1_abc": "41" },
                "annotations": { "join.leasehold.dev/pod_x.1": "7" } },
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
        assert_eq!(new_holder(Some(&first), &second).map(|holder| holder.id.as_str()), Some("pod-1_abc.4"));
        assert!(new_holder(Some(&second), &second).is_none() && new_holder(Some(&second), &third).is_none());
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
        let blocked = Outcome::Blocked(Blocked { owner: "Deployment web".to_owned() });
        let status = status_of(&Applied::for_test(lock(None), blocked), None, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((status.state, &*status.conditions[0].status), (Some(State::Blocked), "False"));
        assert!(status.conditions[0].message.contains("Deployment web: remove that Lease"));
    }
}
