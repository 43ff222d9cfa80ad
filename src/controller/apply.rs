//! Carrying out what was decided.

use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use leasehold::clock;
use leasehold::protocol::{Record, Write};
use serde_json::json;

use super::decide::{Action, Blocked};
use super::observe::Observed;
use super::resource::LeaseBacked;
use super::{Context, Error, limited};
use crate::crd::FINALIZER;
use crate::leases::Failure;

/// How things stand after everything that was decided has been done. Only [`apply`] makes one, and status is made of
/// nothing else.
#[derive(Debug)]
pub(super) struct Applied<R> {
    pub(super) cr: Arc<R>,
    outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// The Lease stands there as it is wanted.
    Stands(Arc<Record>),
    /// The Lease is somebody else's.
    Blocked(Blocked),
    /// The API server does not let the operator read or write the Lease, for this reason. How it was seen last.
    Refused { why: String, record: Option<Arc<Record>> },
    /// The resource is being deleted, and waits for those who use the Lease.
    Waits(Arc<Record>),
    /// The resource goes. Whether its Lease was handed over to its users.
    Gone { handed_over: bool },
}

impl<R> Applied<R> {
    pub(super) fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Nothing was done, since the Lease may not be read.
    pub(super) fn unread(cr: Arc<R>, why: String) -> Self {
        Self { cr, outcome: Outcome::Refused { why, record: None } }
    }

    #[cfg(test)]
    pub(super) fn for_test(cr: R, outcome: Outcome) -> Self {
        Self { cr: Arc::new(cr), outcome }
    }
}

/// Does what was decided, one after the other, and stops at the first that fails.
pub(super) async fn apply<R: LeaseBacked>(
    seen: Observed<R>,
    actions: Vec<Action>,
    context: &Context<R>,
) -> Result<Applied<R>, Error> {
    let mut cr = Arc::clone(&seen.cr);
    let mut record = seen.record.clone();
    let mut blocked = None;
    let mut handed_over = false;
    for action in actions {
        match action {
            Action::AddFinalizer => cr = set_finalizer(&*cr, true, context).await?,
            Action::RemoveFinalizer => cr = set_finalizer(&*cr, false, context).await?,
            Action::Create(ref write)
            | Action::Align(ref write)
            | Action::Delete(ref write)
            | Action::HandOver(ref write) => {
                record = match write_lease(&seen, write, context).await {
                    Err(Error::Lease(Failure::Forbidden(why) | Failure::Invalid(why))) => {
                        tracing::warn!(place = %seen.place, why, "the Lease of a {} may not be written", R::NOUN);
                        return Ok(Applied { cr, outcome: Outcome::Refused { why, record } });
                    }
                    written => written?,
                };
                handed_over |= matches!(action, Action::HandOver(_));
            }
            Action::Block(why) => blocked = Some(why),
            Action::Wait => {
                let record = record.ok_or(Error::Changed)?;
                return Ok(Applied { cr, outcome: Outcome::Waits(record) });
            }
        }
    }
    let outcome = match (blocked, record) {
        _ if cr.meta().deletion_timestamp.is_some() => Outcome::Gone { handed_over },
        (Some(why), _) => Outcome::Blocked(why),
        (None, Some(record)) => Outcome::Stands(record),
        (None, None) => return Err(Error::Changed),
    };
    Ok(Applied { cr, outcome })
}

async fn write_lease<R: LeaseBacked>(
    seen: &Observed<R>,
    write: &Write,
    context: &Context<R>,
) -> Result<Option<Arc<Record>>, Error> {
    let place = &seen.place;
    let answer = context.leases.write(place, write).await;
    let now = clock::now().moment;
    match answer {
        Ok(Some(lease)) => {
            let record = Record::parse(lease.clone()).map_err(|error| Failure::Invalid(error.to_string()))?;
            context.post.with(|warden| warden.told(place, None, Some(lease), now));
            Ok(Some(Arc::new(record)))
        }
        Ok(None) => Ok(None),
        Err(Failure::Refused | Failure::Absent) => {
            context.post.with(|warden| warden.doubt(place, now));
            Err(Error::Changed)
        }
        // Nothing was written, and it would be no different if it were known better.
        Err(failure @ (Failure::Forbidden(_) | Failure::Invalid(_))) => Err(failure.into()),
        Err(failure) => {
            context.post.with(|warden| warden.doubt(place, now));
            Err(failure.into())
        }
    }
}

/// Adds or removes the finalizer. Condition: the resource as it was seen.
async fn set_finalizer<R: LeaseBacked>(cr: &R, wanted: bool, context: &Context<R>) -> Result<Arc<R>, Error> {
    let mut finalizers = cr.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    if wanted {
        finalizers.push(FINALIZER.to_owned());
    }
    let patch = json!({ "metadata": { "resourceVersion": cr.resource_version(), "finalizers": finalizers } });
    let api: Api<R> = Api::namespaced(context.client.clone(), &cr.namespace().unwrap_or_default());
    let patched = limited(api.patch(&cr.name_any(), &PatchParams::default(), &Patch::Merge(patch))).await;
    match patched {
        Ok(cr) => Ok(Arc::new(cr)),
        // Gone is what it should be.
        Err(Error::Api(kube::Error::Api(status))) if status.code == 404 && !wanted => Ok(Arc::new(cr.clone())),
        Err(error) => Err(error),
    }
}
