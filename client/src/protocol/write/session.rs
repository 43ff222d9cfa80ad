//! The commands on a session's Lease that have to do with its Pod.

use std::time::Duration;

use jiff::Timestamp;

use super::super::SessionId;
use super::super::record::{ENDED_FOR, EVIDENCE, POD, POD_UID, Pod, SessionRecord};
use super::{Write, end_session, open_session};

/// Open a session of a process that runs in this Pod, where that is known for certain.
#[must_use]
pub fn open_session_in(pod: Option<&Pod>, id: &SessionId, duration: Duration, stamp: Timestamp) -> Write {
    let open = open_session(id, duration, stamp);
    match pod {
        Some(Pod { name, uid }) => annotated(open, [(POD, name), (POD_UID, uid)]),
        None => open,
    }
}

/// End a session whose process is known to have ended. Condition: the Lease as seen; it fails if a renewal came.
#[must_use]
pub fn end_by_evidence(record: &SessionRecord, by: &str) -> Write {
    annotated(end_session(record, by), [(ENDED_FOR, EVIDENCE)])
}

fn annotated<const N: usize>(mut write: Write, pairs: [(&str, &str); N]) -> Write {
    if let Write::Create(lease) | Write::Replace(lease) = &mut write {
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.extend(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
    write
}
