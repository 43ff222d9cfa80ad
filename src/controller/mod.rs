//! The controller of the custom resources, one and the same for each kind: observe → decide → apply → publish.
//!
//! | step | what it may do |
//! | --- | --- |
//! | [`observe`] | read |
//! | [`decide`] | nothing: it is pure |
//! | [`apply`] | write to the Lease and to the finalizers; it alone makes an [`Applied`](apply::Applied) |
//! | [`publish`] | write status and Events, made of an `Applied` by [`status`] |
//!
//! What tells one kind from another is in [`kinds`].
//!
//! It never evicts, grants or passes over: that is the [`warden`](crate::warden)'s.

mod apply;
mod decide;
mod kinds;
mod observe;
mod owner;
mod publish;
mod resource;
mod status;
mod write;

pub(crate) use owner::is_owned;
pub(crate) use resource::LeaseBacked;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kube::runtime::controller::{Action, Config, Controller, Error as ControllerError};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use leasehold::clock;
use leasehold::election::Leading;
use tokio_util::sync::CancellationToken;

use crate::announce::Announcer;
use crate::hearing::{self, ROUND};
use crate::leases::{Failure, Leases};
use crate::metrics::Metrics;
use crate::scope::Scope;
use crate::spans;
use crate::warden::{Place, Post};

/// How many locks are worked on at once.
const AT_ONCE: u16 = 16;
/// No request takes longer than this.
const LIMIT: Duration = Duration::from_secs(10);
/// When to try again after something has changed meanwhile for the first time.
const AGAIN: Duration = Duration::from_millis(50);
/// When to try again after a first failure.
const PAUSE: Duration = Duration::from_millis(500);
/// When to try again at the latest: each further time it is twice as long.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How often a lock is looked at whose Lease is somebody else's, or may not be written. No watch tells when that changes.
const BLOCKED: Duration = Duration::from_secs(30);
/// What `kubectl apply` leaves on an object: all of it, as it was applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How often each lock is looked at though nothing was heard of it.
const NOW_AND_THEN: Duration = Duration::from_mins(5);

/// What all controllers work with.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) client: Client,
    pub(crate) leases: Arc<Leases>,
    pub(crate) post: Arc<Post>,
    pub(crate) announcer: Announcer,
    pub(crate) metrics: Arc<Metrics>,
}

/// What the controller of one kind works with.
pub(crate) struct Context<R: LeaseBacked> {
    client: Client,
    leases: Arc<Leases>,
    post: Arc<Post>,
    announcer: Announcer,
    metrics: Arc<Metrics>,
    published: publish::Published<R::Status>,
    /// How often in a row each lock could not be reconciled.
    failures: Mutex<HashMap<Place, u32>>,
}

/// Why a reconcile did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the Lease could not be read or written: {0}")]
    Lease(#[from] Failure),
    #[error("the resource could not be written: {0}")]
    Api(#[from] kube::Error),
    #[error("no answer within {} s", LIMIT.as_secs())]
    TimedOut,
    /// What comes next is a new look.
    #[error("it has changed meanwhile")]
    Changed,
}

impl<R: LeaseBacked> Context<R> {
    pub(crate) fn new(tools: Tools) -> Self {
        let Tools { client, leases, post, announcer, metrics } = tools;
        let (published, failures) = (publish::Published::default(), Mutex::default());
        Self { client, leases, post, announcer, metrics, published, failures }
    }
}

/// Runs the controller for one scope until told to stop, or until `leading` ends. `ready` is cancelled once it has seen all resources.
pub(crate) async fn run<R: LeaseBacked>(
    scope: Scope,
    changed: impl Stream<Item = Place> + Send + 'static,
    context: Arc<Context<R>>,
    ready: CancellationToken,
    stop: CancellationToken,
    leading: Option<Leading>,
) {
    let changed = changed.map(|place| ObjectRef::new(&place.name).within(&place.namespace));
    let (store, writer) = reflector::store();
    let watch = watcher(scope.api::<R>(context.client.clone()), watcher::Config::default().timeout(ROUND));
    let watch = watch.modify(trim).reflect(writer).applied_objects();
    let controller = Controller::for_stream(watch, store.clone())
        .with_config(Config::default().concurrency(AT_ONCE))
        .trigger_backoff(hearing::pauses())
        .reconcile_on(changed);
    let wait_ready = async {
        if store.wait_until_ready().await.is_ok() {
            tracing::info!(%scope, count = store.len(), "watching {}", R::plural(&()));
            ready.cancel();
        }
    };
    let results = if let Some(leading) = leading {
        leading.run_controller(controller, reconcile, try_again, Arc::clone(&context)).boxed()
    } else {
        let controller = controller.graceful_shutdown_on(stop.cancelled_owned());
        controller.run(reconcile, try_again, Arc::clone(&context)).boxed()
    };
    let reconciles = results.for_each(|result| {
        match result {
            Ok(_) | Err(ControllerError::ReconcilerFailed(..)) => {}
            Err(ControllerError::ObjectNotFound(gone)) => context.forget(&gone),
            Err(error) => {
                let plural = R::plural(&());
                context.metrics.watch_failed(&plural);
                tracing::warn!(%scope, %error, "watching {plural} failed and is begun anew; are the CRDs installed?");
            }
        }
        std::future::ready(())
    });
    tokio::join!(reconciles, wait_ready);
}

/// What nobody here looks at need not be kept: it is more than all the rest.
fn trim(cr: &mut impl LeaseBacked) {
    cr.meta_mut().managed_fields = None;
    if let Some(annotations) = &mut cr.meta_mut().annotations {
        annotations.remove(LAST_APPLIED);
    }
}

impl<R: LeaseBacked> Context<R> {
    fn forget(&self, gone: &ObjectRef<kube::api::DynamicObject>) {
        let place = Place::new(gone.namespace.as_deref().unwrap_or_default(), &gone.name);
        self.post.with(|warden| warden.unfollow(&place, R::KIND));
        self.published.forget(&place);
        self.succeeded(&place);
    }

    fn succeeded(&self, place: &Place) {
        self.failures().remove(place);
    }

    /// How long to wait after one more failure, where it is this long after the first.
    fn failed(&self, place: &Place, first: Duration) -> Duration {
        let mut failures = self.failures();
        let count = failures.entry(place.clone()).or_default();
        *count += 1;
        (first * 2_u32.pow((*count - 1).min(16))).min(LONGEST_PAUSE)
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<Place, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn reconcile<R: LeaseBacked>(cr: Arc<R>, context: Arc<Context<R>>) -> Result<Action, Error> {
    let begin = clock::now().moment;
    let place = Place::new(&cr.namespace().unwrap_or_default(), &cr.name_any());
    let outcome = |result: &Result<_, _>| match result {
        Ok(_) => "ok",
        Err(Error::Changed) => "changed",
        Err(_) => "error",
    };
    let result = spans::reconcile(&place, R::KIND, steps(cr, &context), outcome).await;
    let changed = matches!(result, Err(Error::Changed));
    context.metrics.reconciled(result.is_ok() || changed, clock::now().moment.since(begin));
    let pause = result?;
    Ok(Action::requeue(pause.unwrap_or(NOW_AND_THEN)))
}

async fn steps<R: LeaseBacked>(cr: Arc<R>, context: &Context<R>) -> Result<Option<Duration>, Error> {
    let seen = match observe::observe(Arc::clone(&cr), context).await {
        Err(Failure::Forbidden(why)) => {
            let place = Place::new(&cr.namespace().unwrap_or_default(), &cr.name_any());
            let applied = apply::Applied::unread(cr, why);
            return finish(&place, &applied, context).await;
        }
        seen => seen?,
    };
    let place = seen.place.clone();
    let actions = decide::decide(&seen);
    if !actions.is_empty() {
        tracing::debug!(%place, count = actions.len(), "there is something to do");
    }
    // What was seen of the resource may be old: no Lease is given to an owner that has gone, since nobody would remove it.
    let gives = |action: &decide::Action| matches!(action, decide::Action::Create(_) | decide::Action::Align(_));
    if actions.iter().any(gives) && !stays(&*seen.cr, context).await? {
        return Ok(None);
    }
    let applied = apply::apply(seen, actions, context).await?;
    finish(&place, &applied, context).await
}

async fn finish<R: LeaseBacked>(
    place: &Place,
    applied: &apply::Applied<R>,
    context: &Context<R>,
) -> Result<Option<Duration>, Error> {
    let pause = publish::publish(place, applied, context).await?;
    context.succeeded(place);
    let blocked = matches!(applied.outcome(), apply::Outcome::Blocked(_) | apply::Outcome::Refused { .. });
    Ok(pause.or(blocked.then_some(BLOCKED)))
}

/// Whether the resource is still there, and is not being deleted. If not, its own events tell what comes next.
async fn stays<R: LeaseBacked>(cr: &R, context: &Context<R>) -> Result<bool, Error> {
    let api = kube::Api::<R>::namespaced(context.client.clone(), &cr.namespace().unwrap_or_default());
    let now = limited(api.get_opt(&cr.name_any())).await?;
    Ok(now.is_some_and(|now| now.uid() == cr.uid() && now.meta().deletion_timestamp.is_none()))
}

#[expect(clippy::needless_pass_by_value, reason = "the controller wants it so")]
fn try_again<R: LeaseBacked>(cr: Arc<R>, error: &Error, context: Arc<Context<R>>) -> Action {
    let place = Place::new(&cr.namespace().unwrap_or_default(), &cr.name_any());
    if let Error::Changed = error {
        return Action::requeue(context.failed(&place, AGAIN));
    }
    tracing::warn!(%place, %error, "a {} could not be reconciled and is tried again", R::NOUN);
    Action::requeue(context.failed(&place, PAUSE))
}

/// The answer to a request, or an error if none comes in time.
async fn limited<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    Ok(tokio::time::timeout(LIMIT, request).await.map_err(|_| Error::TimedOut)??)
}
