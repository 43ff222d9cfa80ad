//! Whether a hold was broken: taken away by other means than the protocol's.

use leasehold::protocol::record::Broken;
use leasehold::protocol::{Holder, Kind, Liveness, Record, write};

/// How a hold was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Break {
    /// Somebody broke it who says so: who, when, why.
    Told(Broken),
    /// The Lease was deleted.
    LeaseDeleted,
    /// The holder was removed or changed without a new tenancy.
    HolderChanged,
    /// Somebody took the lock who does not know the protocol.
    TakenOver,
}

impl Break {
    /// For people.
    pub fn tell(&self) -> String {
        match self {
            Self::Told(Broken { by, at, reason, .. }) => format!("{by} broke it at {at} ({reason:?})"),
            Self::LeaseDeleted => "its Lease was deleted".to_owned(),
            Self::HolderChanged => "the holder was removed from its Lease by hand".to_owned(),
            Self::TakenOver => "somebody took the Lease without regard to its holder".to_owned(),
        }
    }
}

/// Whether the step from one sight of a Lease to the next one was a break of this hold by somebody who says so.
pub(super) fn told(before: &Record, holder: &Holder, after: &Record) -> Option<Break> {
    let said = Broken::of(&after.lease).filter(|said| Some(said) != Broken::of(&before.lease).as_ref())?;
    let there = after.holders().any(|now| now.identity == holder.identity);
    (said.holder == holder.identity && !there).then_some(Break::Told(said))
}

/// Whether the step from one sight of a Lease to the next one broke this hold. The holder was alive until then.
///
/// Between two sights may lie steps that nobody saw: where they could explain the change, nothing is claimed.
pub(super) fn broken(before: &Record, holder: &Holder, after: Option<&Record>) -> Option<Break> {
    let Some(after) = after.filter(|after| after.uid == before.uid) else {
        // A Lease made on the spot goes with its release.
        return (!before.ephemeral).then_some(Break::LeaseDeleted);
    };
    if before.kind != Kind::Lock {
        return None; // Who shares it leaves no more behind by a release than if he is removed by hand.
    }
    let Liveness::Session(_) = holder.liveness else {
        return None; // Other clients release and take over by rules of their own.
    };
    if after.holder.as_ref().is_some_and(|now| now.identity == holder.identity) {
        return None;
    }
    if after.transitions == before.transitions {
        return Some(Break::HolderChanged);
    }
    // A grant leaves a label of the new holder's session, by which it lives then.
    let foreign = after.holder.as_ref().is_some_and(|now| now.id.is_none());
    (foreign && after.transitions == write::next_transition(before.transitions)).then_some(Break::TakenOver)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::decide::tests::record;
    use super::*;

    #[test]
    fn a_break_that_says_who_did_it_is_told_once_and_of_the_hold_that_it_names() {
        let of = |identity: &str, transitions: i32, broken: &str| {
            let spec = json!({ "holderIdentity": identity, "leaseTransitions": transitions });
            let mut lease = (*record(true, &spec, &[], 9).lease).clone();
            let said = Broken {
                by: "jane".to_owned(),
                at: "2026-01-01T00:00:00Z".to_owned(),
                reason: "it hangs".to_owned(),
                holder: broken.to_owned(),
            };
            let annotations = said.annotations().into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
            lease.metadata.annotations.get_or_insert_default().extend(annotations.filter(|_| !broken.is_empty()));
            Record::parse(lease).unwrap()
        };
        for (what, before, after, wanted) in [
            ("broken", of("pod_x.1", 4, ""), of("", 5, "pod_x.1"), true),
            ("broken, and passed on", of("pod_x.1", 4, ""), of("pod_y.1", 5, "pod_x.1"), true),
            ("broken again", of("pod_x.1", 4, "pod_z.1"), of("", 5, "pod_x.1"), true),
            ("another was", of("pod_x.1", 4, ""), of("", 6, "pod_z.1"), false),
            ("released after another's break", of("pod_x.1", 4, "pod_z.1"), of("", 5, "pod_z.1"), false),
            ("said, and still held", of("pod_x.1", 4, ""), of("pod_x.1", 4, "pod_x.1"), false),
        ] {
            let how = before.holders().find_map(|holder| told(&before, holder, &after));
            assert_eq!(how.is_some(), wanted, "{what}");
        }
        let (before, after) = (of("pod_x.1", 4, ""), of("", 5, "pod_x.1"));
        let how = before.holders().find_map(|holder| told(&before, holder, &after)).unwrap();
        assert_eq!(how.tell(), "jane broke it at 2026-01-01T00:00:00Z (\"it hangs\")");
    }

    #[test]
    fn a_break_is_told_from_a_release() {
        let of =
            |identity: &str, transitions: i32| json!({ "holderIdentity": identity, "leaseTransitions": transitions });
        let held = || record(false, &of("pod_x.1", 4), &["pod_y.1"], 10);
        let other_uid = |mut lease: Record| {
            lease.uid = "another".to_owned();
            lease
        };
        for (what, before, after, wanted) in [
            ("nothing happened", held(), Some(held()), None),
            ("released", held(), Some(record(false, &of("", 5), &[], 11)), None),
            ("handed on", held(), Some(record(false, &of("pod_y.1", 5), &[], 11)), None),
            ("free before", record(false, &of("", 4), &[], 10), None, None),
            ("deleted", held(), None, Some(Break::LeaseDeleted)),
            ("made again", held(), Some(other_uid(held())), Some(Break::LeaseDeleted)),
            ("removed by its release", record(true, &of("pod_x.1", 4), &[], 10), None, None),
            ("removed by hand", held(), Some(record(false, &of("", 4), &[], 11)), Some(Break::HolderChanged)),
            ("changed by hand", held(), Some(record(false, &of("me", 4), &[], 11)), Some(Break::HolderChanged)),
            ("taken", held(), Some(record(false, &of("elected", 5), &[], 11)), Some(Break::TakenOver)),
            ("released unseen, then taken", held(), Some(record(false, &of("elected", 6), &[], 12)), None),
            (
                "another's way to release",
                record(false, &of("elected", 4), &[], 10),
                Some(record(false, &of("", 4), &[], 11)),
                None,
            ),
        ] {
            let how = before.holders().find_map(|holder| broken(&before, holder, after.as_ref()));
            assert_eq!(how, wanted, "{what}");
        }
    }
}
