//! Telling people: status and Events, at most once a second for each lock.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use leasehold::clock;
use leasehold::protocol::{Moment, Version};
use serde_json::json;

use super::apply::{Applied, Outcome};
use super::resource::LeaseBacked;
use super::status::{news, status_of};
use super::{Context, Error, limited};
use crate::announce::Announcement;
use crate::warden::Place;

/// The least time between two status writes of one lock.
const PACE: Duration = Duration::from_secs(1);

/// What was published last of each lock.
#[derive(Debug)]
pub(super) struct Published<S>(Mutex<HashMap<Place, Last<S>>>);

#[derive(Clone, Debug)]
struct Last<S> {
    /// Of the resource: another one of the same name begins anew.
    uid: Option<String>,
    at: Moment,
    /// The status as it was written, and the resource's version then.
    written: Option<(Version, S)>,
}

impl<S> Default for Published<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S: Clone> Published<S> {
    pub(super) fn forget(&self, place: &Place) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(place);
    }

    fn last<R: LeaseBacked<Status = S>>(&self, place: &Place, cr: &R) -> Option<Last<S>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(place).filter(|last| last.uid == cr.uid()).cloned()
    }

    /// The watch shows what was written, or something newer: that is known from there now.
    fn shown<R: LeaseBacked<Status = S>>(&self, place: &Place, cr: &R) {
        let seen: Option<Version> = version_of(cr);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = all.get_mut(place) {
            last.written.take_if(|(written, _)| seen.is_some_and(|seen| seen >= *written));
        }
    }

    fn note(&self, place: &Place, last: Last<S>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone(), last);
    }
}

/// Publishes what has changed. `Some`: it has to wait this long.
pub(super) async fn publish<R: LeaseBacked>(
    place: &Place,
    applied: &Applied<R>,
    context: &Context<R>,
) -> Result<Option<Duration>, Error> {
    let cr = &applied.cr;
    if let Outcome::Gone { handed_over } = applied.outcome() {
        if *handed_over {
            context.announcer.announce(&**cr, Announcement::HandedOver);
        }
        context.published.forget(place);
        context.post.with(|warden| warden.unfollow(place, R::KIND));
        return Ok(None);
    }
    let now = clock::now();
    context.published.shown(place, &**cr);
    let last = context.published.last(place, &**cr);
    let (version, before) = newest(&**cr, last.as_ref());
    let troubles = context.post.with(|warden| warden.troubles(place));
    let Some(status) = status_of(applied, before.as_ref(), &troubles, now.stamp) else {
        return Ok(None);
    };
    let differs = before.as_ref() != Some(&status);
    if !differs && !context.post.with(|warden| warden.has_incidents(place, R::KIND)) {
        return Ok(None);
    }
    let pause = last.as_ref().map_or(Duration::ZERO, |last| (last.at + PACE).since(now.moment));
    if !pause.is_zero() {
        return Ok(Some(pause));
    }
    let kept = last.as_ref().and_then(|last| last.written.clone());
    context.published.note(place, Last { uid: cr.uid(), at: now.moment, written: kept });
    for incident in context.post.with(|warden| warden.take_incidents(place, R::KIND)) {
        context.announcer.announce(&**cr, Announcement::Incident(incident));
    }
    if differs {
        let written = write(&**cr, version, &status, context).await?;
        let written = written.resource_version().and_then(|version| version.parse().ok());
        let written = written.map(|version| (version, status.clone()));
        context.published.note(place, Last { uid: cr.uid(), at: now.moment, written });
        for news in news::<R>(before.as_ref(), &status) {
            context.announcer.announce(&**cr, news);
        }
        if let Some(holder) = R::acquired(before.as_ref(), &status) {
            context.announcer.announce(&**cr, Announcement::Acquired(Box::new(holder.clone())));
        }
    }
    Ok(None)
}

fn version_of(cr: &impl LeaseBacked) -> Option<Version> {
    cr.resource_version().and_then(|version| version.parse().ok())
}

/// The newest status known, and its version: the watch may not have shown yet what was written.
fn newest<R: LeaseBacked>(cr: &R, last: Option<&Last<R::Status>>) -> (Option<Version>, Option<R::Status>) {
    let seen = version_of(cr);
    match last.and_then(|last| last.written.clone()) {
        Some((version, status)) if seen.is_none_or(|seen| version > seen) => (Some(version), Some(status)),
        _ => (seen, cr.status().cloned()),
    }
}

/// Condition: nothing newer than `version` stands there.
async fn write<R: LeaseBacked>(
    cr: &R,
    version: Option<Version>,
    status: &R::Status,
    context: &Context<R>,
) -> Result<R, Error> {
    let version = version.map(|version| version.to_string());
    let patch = json!({ "metadata": { "resourceVersion": version }, "status": status });
    let api: Api<R> = Api::namespaced(context.client.clone(), &cr.namespace().unwrap_or_default());
    let answer = limited(api.patch_status(&cr.name_any(), &PatchParams::default(), &Patch::Merge(patch))).await;
    context.metrics.wrote_status(answer.is_ok());
    match answer {
        Err(Error::Api(kube::Error::Api(refused))) if refused.code == 409 => Err(Error::Changed),
        answer => answer,
    }
}
