//! What a page is told of the one lock that it shows. Pure.

use std::time::Duration;

use leasehold::protocol::Record;
use leasehold::protocol::policy::Reclaim;
use serde::Serialize;

use super::state::{Board, Key};
use super::timeline::History;
use crate::view::LockView;

/// How many holders and how many waiters a page is told of. It is told how many more there are.
const MOST: usize = 200;

/// One lock.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Detail {
    key: String,
    /// Absent: it has no Lease now, so it is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    lock: Option<LockView>,
    more_holders: usize,
    more_waiters: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The kind and the name of its custom resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<[String; 2]>,
    /// What is wanted of everybody who uses it, each with a name.
    policy: Vec<[String; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<History>,
}

impl Detail {
    pub(super) fn of(board: &Board, key: &Key) -> Self {
        let seat = board.locks.get(key);
        let mut lock = seat.map(|seat| seat.view.clone());
        let (mut more_holders, mut more_waiters) = (0, 0);
        if let Some(lock) = &mut lock {
            more_holders = lock.holders.len().saturating_sub(MOST);
            more_waiters = lock.waiters.len().saturating_sub(MOST);
            lock.holders.truncate(MOST);
            lock.waiters.truncate(MOST);
        }
        Self {
            key: key.to_string(),
            lock,
            more_holders,
            more_waiters,
            problem: seat.and_then(|seat| seat.problem.clone()),
            resource: seat.and_then(|seat| seat.resource.clone()).map(|(kind, name)| [kind, name]),
            policy: seat.and_then(|seat| seat.record.as_deref()).map(policy).unwrap_or_default(),
            timeline: board.timelines.of(key),
        }
    }
}

fn policy(record: &Record) -> Vec<[String; 2]> {
    let policy = &record.policy;
    let seconds = |time: Option<Duration>| time.map(|time| format!("{time:?}"));
    let lines = [
        ("lease duration if none is asked for", seconds(record.default_duration)),
        ("lease duration at least", seconds(policy.min_duration)),
        ("lease duration at most", seconds(policy.max_duration)),
        ("held at most", seconds(policy.max_hold)),
        ("lock delay", seconds(Some(policy.lock_delay).filter(|delay| !delay.is_zero()))),
        ("waiters at most", policy.max_waiters.map(|most| most.to_string())),
        (
            "a dead holder is evicted",
            match policy.reclaim {
                Reclaim::Evidence => None,
                Reclaim::Expiry => Some("once its time has passed".to_owned()),
                Reclaim::Never => Some("by nobody but a person".to_owned()),
            },
        ),
        ("in a deadlock", policy.breaks_deadlocks.then(|| "who came last gives up".to_owned())),
        ("a holder that is asked and does not let go", record.evicts_on_request.then(|| "is evicted".to_owned())),
        ("when it is free", record.ephemeral.then(|| "its Lease is removed".to_owned())),
    ];
    lines.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?])).collect()
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::{at, key, lock};
    use super::super::timeline::MOST_PRESENT;
    use super::*;

    #[test]
    fn a_long_queue_is_cut_and_counted() {
        let mut board = Board::new(at(0));
        // Of whom `w-499` comes first, and the others come later.
        let waiters: Vec<_> = (0..5000).rev().map(|n| format!("w-{n}_aaaaaaaaaa.1")).collect();
        let waiters: Vec<_> = waiters.iter().map(|waiter| &**waiter).collect();
        board.changed(lock("job", "1", 1, "z_zzzzzzzzzz.1", &waiters[4500..4501]), at(1));
        board.changed(lock("job", "1", 2, "z_zzzzzzzzzz.1", &waiters), at(2));
        let detail = Detail::of(&board, &key("job"));
        let told = serde_json::to_value(&detail).unwrap();
        assert_eq!((detail.lock.unwrap().waiters.len(), detail.more_waiters, detail.more_holders), (MOST, 4800, 0));
        let spans = told["timeline"]["spans"].as_array().unwrap();
        assert_eq!((spans.len(), &told["timeline"]["more"]), (MOST_PRESENT, &4801.into()));
        assert_eq!((&spans[0]["who"], &spans[1]["who"]), (&"z_zzzzzzzzzz.1".into(), &"w-499_aaaaaaaaaa.1".into()));
        assert!(told.to_string().len() < 100_000, "{} bytes for each change", told.to_string().len());
    }

    #[test]
    fn what_has_no_lease_any_more_still_has_a_past() {
        let mut board = Board::new(at(0));
        board.changed(lock("job", "1", 1, "x_x.1", &[]), at(1));
        board.deleted(&lock("job", "1", 2, "", &[]), at(2));
        let detail = Detail::of(&board, &key("job"));
        assert!(detail.lock.is_none() && detail.timeline.is_some());
        assert!(Detail::of(&board, &key("other")).timeline.is_none());
    }

    #[test]
    fn only_what_a_policy_says_is_told() {
        let mut lease = lock("job", "1", 1, "", &[]);
        let annotations = [("leasehold.dev/max-hold-seconds", "90"), ("leasehold.dev/reclaim", "never")];
        lease.metadata.annotations =
            Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect());
        let record = Record::parse(lease).unwrap();
        let told: Vec<_> = policy(&record).iter().map(|line| line.join(": ")).collect();
        assert_eq!(told, ["held at most: 90s", "a dead holder is evicted: by nobody but a person"]);
    }
}
