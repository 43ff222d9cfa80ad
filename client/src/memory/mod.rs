//! A Kubernetes API server in memory, for Leases. Feature `memory`.

mod decode;
mod http;
mod json_patch;
mod lever;
mod merge_patch;
mod selector;
mod state;
mod status;
mod validate;
mod verbs;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::coordination::v1::Lease;

pub use self::http::ResponseBody;
pub use self::lever::{Refusal, Requests};
pub use self::watch::{Event, Watch};

use self::json_patch::Operation;
use self::lever::Verb;
use self::selector::Selector;
use self::state::{Scope, State};
use self::status::Refused;
use self::verbs::{Change, Removal, Removed};
use crate::protocol::{Version, Write};
use crate::store::MemoryStore;
use crate::{Failure, clock};

/// A Kubernetes API server in this process's memory that knows Leases, in any namespace.
///
/// It answers as kube-apiserver does: the same codes and reasons, the same objects, the same events of watches. (The
/// texts of errors are its own.) This is tested against the real one, with the same requests sent to both.
///
/// Clones are handles of one server. It does nothing by itself and reads no clock but [`clock::now`] for
/// `creationTimestamp`, so a test is the same every time. What a test is to see of a bad day it can bring about:
/// [`refuse`](Self::refuse), [`compact`](Self::compact), [`restart`](Self::restart).
///
/// There are three ways in:
///
/// - [`store`](Self::store): for [`ClientBuilder::store`](crate::ClientBuilder::store), without HTTP and JSON;
/// - [`client`](Self::client): a [`kube::Client`], for code that has its own dealings with Leases;
/// - as a [`tower::Service`]: any HTTP request.
///
/// Not simulated, and refused where asked for: server-side apply, `dryRun`, directives of strategic merge patches,
/// deletion of collections, other kinds than Leases, other formats than JSON. Left out of account: `limit` (lists are
/// whole), `fieldValidation` (unknown fields are ignored), permissions. `metadata.managedFields` has one entry until it is
/// reset by `[{}]` or `[]`, and none from then on; nobody's fields are followed. No garbage collector runs: an object that is
/// deleted with `propagationPolicy: Foreground` or `Orphan` stays until its finalizer is removed.
///
/// # Examples
///
/// How much is a lock that nobody else wants? And what does an acquisition do while the API server is overloaded?
///
/// ```
/// use std::sync::Arc;
///
/// use leasehold::Client;
/// use leasehold::memory::{ApiServer, Refusal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = ApiServer::new();
/// let client = Client::builder().store(Arc::new(server.store("shop"))).build()?;
/// let lock = client.lock("till").build()?;
/// lock.acquire().await?.release().await?; // the first use opens the session too
///
/// let before = server.requests().writes();
/// lock.acquire().await?.release().await?;
/// assert_eq!(server.requests().writes() - before, 2);
///
/// server.refuse(2, Refusal::TooManyRequests);
/// lock.acquire().await?.release().await?;
/// # Ok(())
/// # }
/// ```
///
/// The same Leases, seen by a [`kube::Client`]:
///
/// ```
/// use k8s_openapi::api::coordination::v1::Lease;
/// use kube::api::{Api, ListParams};
/// use leasehold::memory::ApiServer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = ApiServer::new();
/// let leases: Api<Lease> = Api::default_namespaced(server.client("shop"));
/// assert!(leases.list(&ListParams::default()).await?.items.is_empty());
/// assert!(leases.get_opt("till").await?.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("version", &self.state().version).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// An API server without any Leases.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A client of this server. Call it on a runtime: the client runs a task of its own.
    #[must_use]
    pub fn client(&self, namespace: &str) -> kube::Client {
        kube::Client::new(self.clone(), namespace)
    }

    /// A namespace of this server as a [`Store`](crate::Store).
    #[must_use]
    pub fn store(&self, namespace: &str) -> MemoryStore {
        MemoryStore::of(self.clone(), namespace)
    }

    /// The Leases that a label selector means, and the version at which they stood so. `None`: of all namespaces.
    ///
    /// # Errors
    /// Where the selector is wrong, or the request was turned away.
    pub fn list(&self, namespace: Option<&str>, labels: &str) -> Result<(Vec<Arc<Lease>>, Version), Failure> {
        let scope = scope(namespace, labels).map_err(|status| Failure::of(&status))?;
        let mut state = self.state();
        let taken = state.faults.take(Verb::List).map_err(|status| Failure::of(&status))?;
        let listed = (state.select(&scope), Version(state.version));
        taken.answer(Ok(listed)).map_err(|status| Failure::of(&status))
    }

    /// What happens after a version to the Leases that a label selector means. `None`: of all namespaces.
    ///
    /// If the version is forgotten, the only event is an [`Event::Error`].
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn watch(&self, namespace: Option<&str>, labels: &str, from: Version) -> Result<Watch, Failure> {
        let scope = scope(namespace, labels).map_err(|status| Failure::of(&status))?;
        self.begin_watch(scope, &From { version: Some(from.0), initial: false, end_mark: false, bookmarks: true })
            .map_err(|status| Failure::of(&status))
    }

    /// The version of the last write.
    #[must_use]
    pub fn version(&self) -> Version {
        Version(self.state().version)
    }

    /// So many objects are written that are no Leases: the next version is that much higher.
    pub fn advance(&self, versions: u64) {
        self.state().version += versions;
    }

    /// Forgets what has happened so far, as a compaction of etcd does: a watch that is begun from an older version is
    /// refused (410). Watches that run go on.
    pub fn compact(&self) {
        let mut state = self.state();
        let now = state.version;
        state.forget(now);
    }

    /// Keeps in mind at most about so many writes, and forgets what is older as [`compact`](Self::compact) does. Default:
    /// all of them.
    pub fn remember(&self, writes: usize) {
        self.state().remembered = writes;
    }

    /// Ends all watches and forgets what has happened so far, as a restart of kube-apiserver does. The Leases stay.
    pub fn restart(&self) {
        self.state().restart();
    }

    /// Sends a bookmark to every watch that takes them. None is sent without this.
    pub fn bookmark(&self) {
        self.state().bookmark();
    }

    /// Turns the next requests away, of whatever kind.
    pub fn refuse(&self, requests: usize, how: Refusal) {
        self.state().faults.refusals.extend(std::iter::repeat_n(how, requests));
    }

    /// How many requests came so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.state().faults.requests
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self, namespace: &str, name: &str) -> Result<Arc<Lease>, Refused> {
        let mut state = self.state();
        let taken = state.faults.take(Verb::Get)?;
        taken.answer(state.get(namespace, name))
    }

    /// Carries out a write. `None` after a removal.
    pub(crate) fn write(&self, namespace: &str, name: &str, write: &Write) -> Result<Option<Arc<Lease>>, Refused> {
        let now = clock::now().stamp;
        let mut state = self.state();
        match write {
            Write::Create(lease) => {
                let taken = state.faults.take(Verb::Create)?;
                taken.answer(state.create(namespace, (**lease).clone(), now).map(Some))
            }
            Write::Replace(lease) => {
                let taken = state.faults.take(Verb::Replace)?;
                taken.answer(state.replace(namespace, name, (**lease).clone(), now).map(|(lease, _)| Some(lease)))
            }
            Write::Patch(patch) => {
                let taken = state.faults.take(Verb::Patch)?;
                let operations: Vec<Operation<'_>> = patch.0.iter().map(Operation::from).collect();
                taken.answer(state.patch(namespace, name, Change::Json(&operations)).map(Some))
            }
            Write::Delete { uid, version } => {
                let taken = state.faults.take(Verb::Delete)?;
                let removal =
                    Removal { uid: Some(uid.clone()), version: Some(version.to_string()), ..Removal::default() };
                taken.answer(state.delete(namespace, name, &removal, now).map(|removed| match removed {
                    Removed::Now(_) => None,
                    Removed::Later(lease) => Some(lease),
                }))
            }
        }
    }

    /// Watches one Lease. Without a version it begins with what there is.
    pub(crate) fn watch_one(
        &self,
        namespace: &str,
        name: &str,
        labels: &str,
        from: Option<Version>,
    ) -> Result<Watch, Refused> {
        let selector = Selector::named(name, labels).map_err(status::bad_request)?;
        let version = from.map(|from| from.0).filter(|version| *version != 0);
        let from = From { version, initial: version.is_none(), end_mark: false, bookmarks: true };
        self.begin_watch(Scope { namespace: Some(namespace.into()), selector }, &from)
    }

    fn begin_watch(&self, scope: Scope, from: &From) -> Result<Watch, Refused> {
        let mut state = self.state();
        state.faults.take(Verb::Watch)?.answer(Ok(()))?;
        let version = from.version.unwrap_or(state.version);
        let mut first = std::collections::VecDeque::new();
        let start = if from.initial {
            first.extend(state.select(&scope).into_iter().map(Event::Added));
            state.version
        } else {
            version
        };
        if version > state.version && from.initial {
            let status = status::too_new(version, state.version);
            return Ok(Watch::new(self.clone(), state.life, [Event::Error(status)].into(), None));
        }
        if from.end_mark {
            first.push_back(Event::Bookmark { version: state.version, initial: true });
        }
        Ok(match state.watch(scope, start, from.bookmarks) {
            Ok(id) => Watch::new(self.clone(), state.life, first, Some(id)),
            Err(status) => Watch::new(self.clone(), state.life, [Event::Error(status)].into(), None),
        })
    }
}

/// With what a watch begins.
#[derive(Debug)]
struct From {
    /// `None`: as it stands now.
    version: Option<u64>,
    /// What is there is told first.
    initial: bool,
    /// Then a bookmark says that all of it was told.
    end_mark: bool,
    bookmarks: bool,
}

fn scope(namespace: Option<&str>, labels: &str) -> Result<Scope, Refused> {
    let selector = Selector::parse(labels, "").map_err(status::bad_request)?;
    Ok(Scope { namespace: namespace.map(Into::into), selector })
}
