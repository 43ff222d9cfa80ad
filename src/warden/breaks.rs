//! Whether a hold was broken: taken away by other means than the protocol's.

use leasehold::protocol::{Holder, Kind, Liveness, Record, write};

/// How a hold was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// The Lease was deleted.
    LeaseDeleted,
    /// The holder was removed or changed without a new tenancy.
    HolderChanged,
    /// Somebody took the lock who does not know the protocol.
    TakenOver,
}

impl Break {
    /// For people.
    pub fn tell(self) -> &'static str {
        match self {
            Self::LeaseDeleted => "its Lease was deleted",
            Self::HolderChanged => "the holder was removed from its Lease by hand",
            Self::TakenOver => "somebody took the Lease without regard to its holder",
        }
    }
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
