//! The watch of Pods.
//!
//! It is the warden's, and yet apart from it: where it is forbidden, or fails, nothing is missing but the evidence.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::Client;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use leasehold::clock;
use leasehold::protocol::record;
use tokio_util::sync::CancellationToken;

use super::{Doubt, Pod, evidence};
use crate::metrics::Metrics;
use crate::scope::Scope;
use crate::warden::Post;

/// What the watch works with.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) post: Arc<Post>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Watches until told to stop.
pub(crate) async fn run(tools: Tools, client: Client, scopes: Vec<Scope>, stop: CancellationToken) {
    let expected = scopes.len();
    let watches = scopes.into_iter().map(|scope| {
        let pods = watcher(scope.api::<Pod>(client.clone()), watcher::Config::default());
        pods.default_backoff().map(move |event| (scope.clone(), event)).boxed()
    });
    let mut watches = futures::stream::select_all(watches);
    let mut sights = Sights::default();
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return,
            next = watches.next() => next,
        };
        let Some((scope, event)) = next else { return stop.cancelled().await };
        tools.see(&mut sights, &scope, event);
        tools.metrics.watches_pods(sights.watched.len() == expected);
    }
}

#[derive(Debug, Default)]
struct Sights {
    /// Where all that there is has been shown, and changes will be.
    watched: HashSet<Scope>,
    /// Where people have been told that nothing is shown.
    told: HashSet<Scope>,
}

impl Tools {
    fn see(&self, sights: &mut Sights, scope: &Scope, event: watcher::Result<Event<Pod>>) {
        match event {
            Ok(Event::Init) => {}
            // One that was removed is shown as it was at last: what had ended by then has ended.
            Ok(Event::InitApply(pod) | Event::Apply(pod) | Event::Delete(pod)) => self.look_at(&pod),
            Ok(Event::InitDone) => {
                tracing::info!(%scope, "watching Pods");
                sights.watched.insert(scope.clone());
                sights.told.remove(scope);
            }
            Err(error) => {
                self.metrics.watch_failed("pods");
                // A watch that ends begins anew by itself. One that cannot begin is worth a word.
                let cannot_begin = match &error {
                    watcher::Error::InitialListFailed(_) => true,
                    watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 403,
                    _ => false,
                };
                if cannot_begin {
                    sights.watched.remove(scope);
                }
                if cannot_begin && sights.told.insert(scope.clone()) {
                    tracing::warn!(
                        %scope, %error,
                        "Pods cannot be watched: dead clients are found by their silence alone \
                         (config/rbac/operator_role.yaml has the rights for it)"
                    );
                } else {
                    tracing::debug!(%scope, %error, "the watch of Pods failed and is begun anew");
                }
            }
        }
    }

    fn look_at(&self, pod: &Pod) {
        let meta = &pod.metadata;
        let version = meta.resource_version.as_ref().and_then(|version| version.parse().ok());
        let (Some(namespace), Some(name), Some(uid), Some(version)) = (&meta.namespace, &meta.name, &meta.uid, version)
        else {
            return;
        };
        match evidence(pod) {
            Ok(()) => {
                let ended = record::Pod { name: name.clone(), uid: uid.clone() };
                self.post.with(|warden| warden.pod_ended(namespace, ended, version, clock::now().moment));
            }
            Err(Doubt::Unended(_)) => {}
            Err(doubt) => tracing::debug!(namespace, name, uid, %doubt, "a Pod that proves nothing"),
        }
    }
}
