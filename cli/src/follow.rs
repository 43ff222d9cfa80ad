//! One Lease, and whatever becomes of it: by a watch, and not by asking again and again.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{WatchEvent, WatchParams};
use leasehold::protocol::name::lease_name;
use tokio::time::{sleep, timeout};

use crate::exit::{self, Failure, chain};
use crate::read::{Leases, view_of};
use crate::view::LockView;

/// A watch is begun anew after so many seconds.
pub(crate) const WATCH_SECONDS: u32 = 240;
/// After so long without its end one has silently died.
const SILENCE: Duration = Duration::from_secs(300);
/// The longest pause before what has failed is tried again.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Follows what stands under one name.
pub(crate) struct Follower<'a> {
    leases: &'a Leases,
    name: &'a str,
    /// Nothing was told yet.
    first: bool,
    events: Option<BoxStream<'a, kube::Result<WatchEvent<Lease>>>>,
    /// The watch begins with a version that was read: what it shows is newer.
    is_newer: bool,
    pause: Duration,
}

impl<'a> Follower<'a> {
    pub(crate) fn new(leases: &'a Leases, name: &'a str) -> Self {
        Self { leases, name, first: true, events: None, is_newer: false, pause: Duration::ZERO }
    }

    /// What it looks like: at once the first time, and then when it may have changed. Outages are ridden out, but for the
    /// first time.
    pub(crate) async fn next(&mut self) -> Result<LockView, Failure> {
        loop {
            let Some(events) = &mut self.events else {
                match self.leases.look(self.name).await {
                    Ok((view, version)) => {
                        (self.first, self.is_newer) = (false, version.is_some());
                        self.watch(version.unwrap_or_default())?;
                        return Ok(view);
                    }
                    Err(failure) if self.first || failure.code != exit::UNREACHABLE => return Err(failure),
                    Err(_) => {
                        self.rest().await;
                        continue;
                    }
                }
            };
            match timeout(SILENCE, events.next()).await {
                Ok(Some(Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease)))) if self.is_newer => {
                    self.pause = Duration::ZERO;
                    return view_of(self.name, lease);
                }
                Ok(Some(Ok(WatchEvent::Bookmark(_)))) => {}
                // Something has happened: what it is like now is read.
                Ok(Some(Ok(WatchEvent::Added(_) | WatchEvent::Modified(_) | WatchEvent::Deleted(_)))) => {
                    (self.events, self.pause) = (None, Duration::ZERO);
                }
                Ok(Some(Err(kube::Error::Api(status)))) if matches!(status.code, 401 | 403) => {
                    return Err(crate::read::refused(&kube::Error::Api(status), "watch"));
                }
                // The API server ends a watch after a while.
                Ok(None) => {
                    (self.events, self.pause) = (None, Duration::from_millis(100));
                    self.rest().await;
                }
                Ok(Some(Ok(WatchEvent::Error(_)) | Err(_))) | Err(_) => {
                    self.events = None;
                    self.rest().await;
                }
            }
        }
    }

    fn watch(&mut self, version: String) -> Result<(), Failure> {
        let lease = lease_name(self.name).map_err(|error| Failure::usage(chain(&error)))?;
        let params = WatchParams::default().fields(&format!("metadata.name={lease}")).timeout(WATCH_SECONDS);
        let api = self.leases.namespaced();
        let events = futures::stream::once(async move { api.watch(&params, &version).await }).try_flatten();
        self.events = Some(events.boxed());
        Ok(())
    }

    async fn rest(&mut self) {
        sleep(self.pause).await;
        self.pause = (self.pause * 2).clamp(Duration::from_millis(100), LONGEST_PAUSE);
    }
}
