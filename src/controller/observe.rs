//! What there is: the resource and its Lease.

use std::sync::Arc;

use kube::ResourceExt as _;
use leasehold::clock;
use leasehold::protocol::Record;

use super::Context;
use super::resource::LeaseBacked;
use crate::leases::Failure;
use crate::warden::{Place, is_known};

/// One resource and its Lease, as they were seen.
#[derive(Debug)]
pub(super) struct Observed<R> {
    pub(super) cr: Arc<R>,
    pub(super) place: Place,
    pub(super) record: Option<Arc<Record>>,
    /// There is a Lease, and it cannot be read, for this reason.
    pub(super) unreadable: Option<String>,
}

impl<R: LeaseBacked> Observed<R> {
    pub(super) fn new(cr: Arc<R>, record: Option<Arc<Record>>) -> Self {
        let place = Place::new(&cr.namespace().unwrap_or_default(), &cr.name_any());
        Self { cr, place, record, unreadable: None }
    }
}

/// Takes the Lease from the warden's watch, or reads it: the watch shows only Leases that are labelled as ours.
pub(super) async fn observe<R: LeaseBacked>(cr: Arc<R>, context: &Context<R>) -> Result<Observed<R>, Failure> {
    let mut seen = Observed::new(cr, None);
    let place = &seen.place;
    let (known, record) = context.post.with(|warden| {
        warden.follow(place, R::KIND);
        (warden.version(place), warden.record(place))
    });
    // What is being deleted is looked at once more: a Lease that is ours by now, though the watch has not shown it yet,
    // would be left behind.
    if record.is_some() && seen.cr.meta().deletion_timestamp.is_none() {
        seen.record = record;
        return Ok(seen);
    }
    let lease = context.leases.read(place).await?;
    match lease.clone().map(Record::parse).transpose() {
        Ok(record) => seen.record = record.map(Arc::new),
        Err(malformed) => {
            seen.unreadable = Some(malformed.to_string());
            return Ok(seen);
        }
    }
    // What is not labelled so is not for the warden yet: its watch would not tell of changes.
    let labelled = lease.as_ref().is_none_or(is_known);
    if labelled {
        let now = clock::now().moment;
        context.post.with(|warden| warden.told(place, known, lease, now));
    }
    Ok(seen)
}
