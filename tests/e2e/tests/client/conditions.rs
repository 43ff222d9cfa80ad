//! Every write has a condition, and the API server refuses it where that does not hold.

use anyhow::{Result, ensure};
use leasehold::protocol::write::{self, Term};
use leasehold::protocol::{HolderId, Record, SessionId, Want, Write};
use leasehold::{Failure, KubeStore, Store as _, clock};
use std::time::Duration;

use crate::support::namespace;

/// If one of them were carried out, a late request would take a lock away from whoever holds it by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_condition_does_not_hold_changes_nothing() -> Result<()> {
    let (namespace, _dump) = namespace("conditions").await?;
    let store = KubeStore::new(namespace.config(), namespace.name())?;
    let session = SessionId::new("somebody", "abcdefghij");
    let id = |n| HolderId { session: session.clone(), n };
    let term = Term { duration: Duration::from_secs(30), own: false };
    let stamp = clock::now().stamp;
    let lease = store.write("a", &write::create("a", &id(1), term, stamp)).await?.expect("it was made");
    let old = Record::parse(lease)?;
    // By now it is another tenancy, made on the spot like the first.
    let lease = store.write("a", &write::acquire(&old, &id(2), &[], term, stamp)).await?.expect("it was taken");
    let now = Record::parse(lease)?;
    let other = "00000000-0000-4000-8000-000000000000".to_owned();
    for (what, write) in [
        ("a removal of what was seen", write::release(&old, &[], false)),
        ("a removal of another of this name", Write::Delete { uid: other, version: now.version }),
        ("a release of what was seen", write::release(&old, &[], true)),
        ("taking what was seen", write::acquire(&old, &id(3), &[], term, stamp)),
        ("handing on what was seen", write::grant(&old, &id(3), &[], stamp)),
        ("renewing what was seen", write::renew(&old, term, stamp)),
        ("making it", write::create("a", &id(3), term, stamp)),
    ] {
        let refused = store.write("a", &write).await;
        ensure!(refused == Err(Failure::Refused), "{what}: {refused:?}");
    }
    let lease = store.read("a").await?;
    ensure!(lease.metadata.resource_version == Some(now.version.to_string()), "something was written");
    // Where there is none, nothing brings it back.
    store.write("a", &write::release(&now, &[], false)).await?;
    for write in [
        write::release(&now, &[], true),
        write::grant(&now, &id(3), &[], stamp),
        write::join(&now, &id(3), &Want::default()),
    ] {
        let absent = store.write("a", &write).await;
        ensure!(matches!(absent, Err(Failure::Absent | Failure::Refused)), "{write:?}: {absent:?}");
    }
    ensure!(store.read("a").await == Err(Failure::Absent));
    Ok(())
}
