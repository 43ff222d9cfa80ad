//! `ReadWriteLock`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use leasehold::protocol::{Kind, Mode};

use super::super::resource::{LeaseBacked, Told, count};
use super::super::status::holder_status;
use crate::crd::{
    HOLDERS_TOLD, HolderStatus, Policy, ReadWriteHolder, ReadWriteLock, ReadWriteLockStatus, ReadWriteState,
};

impl LeaseBacked for ReadWriteLock {
    type Status = ReadWriteLockStatus;

    const KIND: Kind = Kind::ReadWriteLock;
    const NOUN: &'static str = "read-write lock";

    fn default_duration(&self) -> Option<i32> {
        None
    }

    fn permits(&self) -> Option<i32> {
        None
    }

    fn policy(&self) -> &Policy {
        &self.spec.policy
    }

    fn status(&self) -> Option<&Self::Status> {
        self.status.as_ref()
    }

    fn conditions(status: &Self::Status) -> &[Condition] {
        &status.conditions
    }

    fn tell(&self, told: Told<'_>) -> Self::Status {
        let shared = told.record.map_or(&[][..], |record| &record.shared);
        let holders = shared
            .iter()
            .take(HOLDERS_TOLD)
            .map(|holder| ReadWriteHolder { holder: holder_status(holder), mode: mode(holder.mode).to_owned() });
        let writer = shared.iter().find(|holder| holder.mode == Mode::Write);
        let readers = shared.iter().filter(|holder| holder.mode != Mode::Write).count();
        ReadWriteLockStatus {
            observed_generation: told.generation,
            state: Some(match (told.record, writer) {
                (None, _) => ReadWriteState::Blocked,
                (_, Some(_)) => ReadWriteState::Written,
                (_, None) if readers > 0 => ReadWriteState::Read,
                (_, None) => ReadWriteState::Free,
            }),
            holders: holders.collect(),
            writer: writer.map(holder_status),
            readers: count(readers),
            waiters: told.waiters(),
            resource_id: told.resource_id(),
            lease_name: told.lease_name(),
            lease_uid: told.lease_uid(),
            conditions: told.conditions,
        }
    }

    /// Readers may be too many for Events.
    fn acquired<'a>(before: Option<&Self::Status>, after: &'a Self::Status) -> Option<&'a HolderStatus> {
        let key = |holder: &HolderStatus| (holder.id.clone(), holder.since.clone());
        let before = before.and_then(|before| before.writer.as_ref()).map(key);
        after.writer.as_ref().filter(|now| before != Some(key(now)))
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Write => "write",
        Mode::Upgradeable => "upgradeable",
        // Whoever says nothing of the kind takes one permit, as a reader does.
        Mode::Read | Mode::Permits(_) => "read",
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::super::super::decide::tests::record;
    use super::super::super::status::tests::stands;
    use super::*;
    use crate::crd::ReadWriteLockSpec;

    fn status(holders: &[(&str, &str)], before: Option<&ReadWriteLockStatus>) -> ReadWriteLockStatus {
        let mut lease = json!({ "metadata": { "labels": { "leasehold.dev/kind": "rwlock" }, "annotations": {} } });
        for (id, mode) in holders {
            lease["metadata"]["annotations"][format!("holder.leasehold.dev/{id}")] = json!("41");
            lease["metadata"]["annotations"][format!("want.leasehold.dev/{id}")] = json!(mode);
        }
        stands(ReadWriteLock::new("build", ReadWriteLockSpec::default()), record(lease), before, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn it_tells_readers_from_the_writer() {
        let free = status(&[], None);
        assert_eq!((free.state, free.readers, free.writer.is_some()), (Some(ReadWriteState::Free), 0, false));
        let read = status(&[("a_x.1", "read"), ("b_x.1", "upgradeable")], Some(&free));
        assert_eq!((read.state, read.readers, read.writer.is_some()), (Some(ReadWriteState::Read), 2, false));
        let modes: Vec<_> = read.holders.iter().map(|one| &*one.mode).collect();
        assert_eq!(modes, ["read", "upgradeable"]);
        assert_eq!(ReadWriteLock::acquired(Some(&free), &read), None);
        let written = status(&[("a_x.2", "write")], Some(&read));
        assert_eq!((written.state, written.readers), (Some(ReadWriteState::Written), 0));
        let writer = ReadWriteLock::acquired(Some(&read), &written).unwrap();
        assert_eq!((&*writer.id, writer.token), ("a_x.2", Some(42)));
        assert_eq!(ReadWriteLock::acquired(Some(&written), &written), None);
        let json = serde_json::to_value(&written).unwrap();
        assert_eq!(serde_json::from_value::<ReadWriteLockStatus>(json).unwrap(), written);
    }
}
