//! Leases in this process's memory.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;

use super::{Failure, Sight, Store, others_than_sessions, still_stands};
use crate::memory::{ApiServer, Event};
use crate::protocol::{Version, Write};

/// So many writes are remembered for whoever begins to watch from an earlier version: those of the time between its
/// read and its watch.
const REMEMBERED: usize = 4096;

/// The Leases of one namespace of an [`ApiServer`] in this process's memory. Feature `memory`.
///
/// Clones share the Leases. Nothing is kept when the last handle of the server goes. What has happened is forgotten after
/// some thousand writes, so it can run for as long as it likes.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    server: ApiServer,
    namespace: Arc<str>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        let server = ApiServer::new();
        server.remember(REMEMBERED);
        server.store("default")
    }
}

impl MemoryStore {
    /// The namespace `default` of a server of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn of(server: ApiServer, namespace: &str) -> Self {
        Self { server, namespace: namespace.into() }
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &ApiServer {
        &self.server
    }
}

impl Store for MemoryStore {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        async move {
            let lease = self.server.read(&self.namespace, name).map_err(|status| Failure::of(&status))?;
            Ok(Arc::unwrap_or_clone(lease))
        }
        .boxed()
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        async move {
            let lease = self.server.write(&self.namespace, name, write).map_err(|status| Failure::of(&status))?;
            let removal = matches!(write, Write::Delete { .. });
            Ok(lease.filter(|lease| !removal || still_stands(name, lease)).map(Arc::unwrap_or_clone))
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Lease>, Failure>> {
        async move {
            let (leases, _) = self.server.list(Some(&self.namespace), &others_than_sessions())?;
            Ok(leases.into_iter().map(Arc::unwrap_or_clone).collect())
        }
        .boxed()
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        let watch = self.server.watch_one(&self.namespace, name, label.unwrap_or_default(), from);
        match watch {
            Ok(watch) => watch.map(sight).boxed(),
            Err(status) => futures::stream::iter([Err(Failure::of(&status))]).boxed(),
        }
    }
}

fn sight(event: Event) -> Result<Sight, Failure> {
    match event {
        Event::Added(lease) | Event::Modified(lease) => Ok(Sight::Shows(Box::new(Arc::unwrap_or_clone(lease)))),
        Event::Deleted(lease) => {
            let version = lease.metadata.resource_version.as_deref();
            Ok(Sight::Hides(version.and_then(|version| version.parse().ok()).unwrap_or_default()))
        }
        Event::Bookmark { version, .. } => Ok(Sight::Reached(Version(version))),
        Event::Error(status) => Err(Failure::of(&status)),
    }
}
