//! All Leases, and whatever becomes of them: by a watch.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{WatchEvent, WatchParams};
use leasehold::protocol::Record;
use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout};

use super::TopArgs;
use super::locks::{Key, Seen};
use crate::exit::{self, Failure};
use crate::follow::{LONGEST_PAUSE, WATCH_SECONDS};
use crate::read::{Leases, of_selector, others_than_sessions, refused};
use crate::view::LockView;

/// The API server says once a minute that there is nothing to say. After so long without that a watch has silently died.
const SILENCE: Duration = Duration::from_secs(120);

/// Tells what there is and what changes, until nobody listens. Outages are ridden out, but for the first time.
pub(super) async fn follow(leases: &Leases, args: &TopArgs, seen: &Sender<Seen>) -> Result<(), Failure> {
    let selector = args.selector.as_deref();
    let (mut version, mut first, mut watches, mut pause) = (None, true, 0_u64, Duration::ZERO);
    loop {
        let from: String = match version.take() {
            Some(version) => version,
            None => match leases.all(args.all_namespaces, selector).await {
                Ok((all, version)) => {
                    first = false;
                    let (all, unreadable) = sorted(all);
                    for told in [Seen::All(all), Seen::Unreadable(unreadable)] {
                        if seen.send(told).await.is_err() {
                            return Ok(());
                        }
                    }
                    version
                }
                // One that has just come back knows nobody's rights for a moment.
                Err(failure) if !first => {
                    if seen.send(lost(&failure)).await.is_err() {
                        return Ok(());
                    }
                    rest(&mut pause).await;
                    continue;
                }
                Err(failure) => return Err(of_selector(failure, selector)),
            },
        };
        let params = WatchParams::default().labels(&others_than_sessions(selector)).timeout(WATCH_SECONDS);
        watches += 1;
        let (api, mut at) = (leases.of(args.all_namespaces), from.clone());
        let events = futures::stream::once(async move { api.watch(&params, &from).await }).try_flatten();
        let mut events = std::pin::pin!(events);
        loop {
            let told = match timeout(SILENCE, events.next()).await {
                Ok(Some(Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease)))) => {
                    at = version_of(&lease, at);
                    view(lease).map_or_else(|key| Seen::Unreadable(vec![key]), |view| Seen::One(Box::new(view)))
                }
                Ok(Some(Ok(WatchEvent::Deleted(lease)))) => {
                    at = version_of(&lease, at);
                    Seen::Gone(place(&lease))
                }
                Ok(Some(Ok(WatchEvent::Bookmark(bookmark)))) => {
                    at = bookmark.metadata.resource_version;
                    Seen::Alive
                }
                // The API server ends a watch after a while: it goes on from there.
                Ok(None) => {
                    version = Some(at);
                    break;
                }
                // What has happened since is seen by listing again.
                Ok(Some(Ok(WatchEvent::Error(_)))) | Err(_) => break,
                Ok(Some(Err(error))) => match refused(&error, "watch") {
                    failure if failure.code != exit::UNREACHABLE && watches == 1 => return Err(failure),
                    failure => {
                        if seen.send(lost(&failure)).await.is_err() {
                            return Ok(());
                        }
                        break;
                    }
                },
            };
            pause = Duration::ZERO;
            if seen.send(told).await.is_err() {
                return Ok(());
            }
        }
        rest(&mut pause).await;
    }
}

/// What to do about it stands on further lines.
fn lost(failure: &Failure) -> Seen {
    Seen::Lost(failure.message.lines().next().unwrap_or_default().to_owned())
}

async fn rest(pause: &mut Duration) {
    sleep(*pause).await;
    *pause = (*pause * 2).clamp(Duration::from_millis(100), LONGEST_PAUSE);
}

/// Of what cannot be read, where it is.
fn view(lease: Lease) -> Result<LockView, Key> {
    let key = place(&lease);
    Record::parse(lease).as_ref().map(LockView::of).map_err(|_| key)
}

/// What can be read, and where what cannot is.
fn sorted(all: Vec<Lease>) -> (Vec<LockView>, Vec<Key>) {
    let (mut views, mut unreadable) = (Vec::new(), Vec::new());
    for lease in all {
        match view(lease) {
            Ok(view) => views.push(view),
            Err(key) => unreadable.push(key),
        }
    }
    (views, unreadable)
}

fn version_of(lease: &Lease, before: String) -> String {
    lease.metadata.resource_version.clone().unwrap_or(before)
}

fn place(lease: &Lease) -> Key {
    (lease.metadata.namespace.clone().unwrap_or_default(), lease.metadata.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_told_by_where_it_is() {
        let lease = |name: &str, format: &str| {
            serde_json::from_value(json!({
                "metadata": {
                    "name": name, "namespace": "shop", "uid": name, "resourceVersion": "1",
                    "labels": { "leasehold.dev/kind": "lock" }, "annotations": { "leasehold.dev/format": format },
                },
                "spec": {},
            }))
            .unwrap()
        };
        let (views, unreadable) = sorted(vec![lease("a", "1"), lease("b", "99")]);
        assert_eq!((views.len(), &*views[0].lease_name), (1, "a"));
        assert_eq!(unreadable, [("shop".to_owned(), "b".to_owned())]);
    }
}
