//! A client: one namespace's locks, by one session.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use crate::deadlocks::Lookout;
use crate::driver::{Driver, Names, Recollections, Shared};
use crate::election::ElectionBuilder;
use crate::error::{BuildError, OptionsError};
use crate::lock::LockBuilder;
use crate::observers::Observers;
use crate::options::{ClientBuilder, Defaults};
use crate::rwlock::ReadWriteLock;
use crate::semaphore::SemaphoreBuilder;
use crate::session::{SessionOptions, Sessions};
use crate::slot::{Command, Slot};
use crate::store::Store;

/// How many locks are released at a time when a client shuts down.
const AT_ONCE: usize = 64;

/// Locks in one namespace of a cluster, taken by one process.
///
/// A client keeps one *session*: a heartbeat in the API server by which everything lives that it holds or waits for.
/// The session is opened with the first acquisition and closed when nothing has been held for a while. Clones share
/// it, so one client for a process is enough, however many locks it takes.
///
/// A client lives on the tokio runtime on which it is used. Its tasks must get to run: on a runtime that is blocked for
/// longer than the session lasts, locks are lost (which guards and their checks notice). With
/// [`dedicated_runtime`](ClientBuilder::dedicated_runtime) it lives on a thread of the crate's own, whatever goes on
/// elsewhere.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = leasehold::Client::try_default().await?;
/// let guard = client.lock("nightly-report").build()?.acquire().await?;
/// // … nobody else is here …
/// guard.release().await?;
/// client.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
    /// Drivers have the first as well. Of this there is one for all clones, and for handles and guards made of them.
    _in_use: Arc<InUse>,
}

/// Somebody can still ask for something.
#[derive(Debug)]
struct InUse(Arc<Inner>);

impl Drop for InUse {
    /// What lingers lingers for nobody any more.
    fn drop(&mut self) {
        for (_, slot) in self.0.all_slots() {
            let _ = slot.commands.send(Command::EndRests);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) namespace: String,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) contact_timeout: Duration,
    pub(crate) defaults: Defaults,
    pub(crate) lookout: Lookout,
    /// By which people recognise this process.
    pub(crate) host: String,
    /// The cluster, where one was given.
    pub(crate) config: Option<kube::Config>,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    shut_down: bool,
    by_name: BTreeMap<String, Arc<Slot>>,
}

impl Client {
    /// A client for the cluster that the usual rules find: `KUBECONFIG`, `~/.kube/config`, or the Pod it runs in, with the
    /// options that the environment names ([`ClientBuilder::from_env`]).
    ///
    /// # Errors
    /// [`BuildError`] where no cluster is found, or its configuration cannot be used, or a variable's value. No request is
    /// sent.
    pub async fn try_default() -> Result<Self, BuildError> {
        let options = ClientBuilder::from_env()?;
        options.kube_config(kube::Config::infer().await?).build()
    }

    /// A client with options. The environment is not looked at for these: [`ClientBuilder::from_env`] does that.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) fn new(
        store: Arc<dyn Store>,
        namespace: String,
        config: Option<kube::Config>,
        session: SessionOptions,
        defaults: Defaults,
    ) -> Self {
        let shared = Shared {
            observers: Observers::new(store.clone(), session.host.clone(), session.request_timeout, session.tasks),
            store: store.clone(),
            tasks: session.tasks,
            session_duration: session.duration,
            grace: session.grace,
            request_timeout: session.request_timeout,
            fold_from: session.fold_from,
            recollections: Recollections::default(),
            names: Names::default(),
            next_check: AtomicU64::new(0),
            hold_watches: Arc::new(tokio::sync::Semaphore::new(crate::driver::HOLD_WATCHES)),
        };
        let inner = Inner {
            namespace,
            contact_timeout: session.contact_timeout,
            host: session.host.clone(),
            sessions: Sessions::new(store, session),
            shared: Arc::new(shared),
            defaults,
            config,
            lookout: Lookout::default(),
            slots: Mutex::default(),
        };
        let inner = Arc::new(inner);
        Self { _in_use: Arc::new(InUse(inner.clone())), inner }
    }

    /// A lock by its name. It exists by being named: nothing need be created before.
    ///
    /// The name is any text of 1 to 1024 bytes without control characters, `order:payment:4711` for example. Its Lease has
    /// that name where a Lease can, and otherwise one that is [made of it](crate::protocol::name::lease_name); the name
    /// itself stands there beside.
    pub fn lock(&self, name: impl Into<String>) -> LockBuilder {
        LockBuilder::new(self.clone(), name.into())
    }

    /// A semaphore by its name, of the same form as [a lock's](Self::lock). How many permits it has is said by its custom resource, or by
    /// [`with_permits`](SemaphoreBuilder::with_permits).
    pub fn semaphore(&self, name: impl Into<String>) -> SemaphoreBuilder {
        SemaphoreBuilder::new(self.clone(), name.into())
    }

    /// A read-write lock by its name, of the same form as [a lock's](Self::lock). It exists by being named: nothing need be created before.
    ///
    /// # Errors
    /// [`OptionsError`] where the name is empty, longer than 1024 bytes or has control characters.
    pub fn read_write_lock(&self, name: impl Into<String>) -> Result<ReadWriteLock, OptionsError> {
        ReadWriteLock::new(self.clone(), &name.into())
    }

    /// An election by its name. It exists by being named: nothing need be created before.
    pub fn election(&self, name: impl Into<String>) -> ElectionBuilder {
        ElectionBuilder::new(self.clone(), name.into())
    }

    /// The namespace in which this client's locks are.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// Releases all that is held, leaves all queues, and closes the session.
    ///
    /// Guards that are still held fire [`lost`](crate::Hold::lost). Afterwards acquisitions fail with `ShutDown`.
    /// Up to 64 locks are released at a time. When none could be released for three request timeouts, the rest is given
    /// up: what could not be told to the API server by then expires by itself.
    ///
    /// Dropping a client without this is safe as well: guards and waiters end with their own drops, and the session is
    /// closed at one of the next renewals at which nobody has used it since the last, or expires.
    ///
    /// # Cancel safety
    /// Cancelled, it has done some of it. It can be called again.
    pub async fn shutdown(&self) {
        self.shutdown_with_progress(|_, _| {}).await;
    }

    /// [`shutdown`](Self::shutdown) that tells how far it is, after each lock: how many have been seen to, of how many.
    ///
    /// # Cancel safety
    /// As there.
    pub async fn shutdown_with_progress(&self, mut progress: impl FnMut(usize, usize)) {
        let slots: Vec<mpsc::UnboundedSender<Command>> = {
            let mut slots = self.inner.slots();
            slots.shut_down = true;
            slots.by_name.values().map(|slot| slot.commands.clone()).collect()
        };
        let (mut done, all) = (0, slots.len());
        let mut releases = futures::stream::iter(slots)
            .map(async |commands| {
                // Whatever is going on is given up. A driver whose runtime has ended hears nothing, and holds nothing.
                let (over, told) = oneshot::channel();
                let _ = commands.send(Command::ShutDown(over));
                let _ = told.await;
            })
            .buffer_unordered(AT_ONCE);
        let limit = self.inner.shared.request_timeout * 3;
        let unsettled = loop {
            match tokio::time::timeout(limit, releases.next()).await {
                Ok(Some(())) => {
                    done += 1;
                    progress(done, all);
                }
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if unsettled {
            let left = all - done;
            info!(left, "not all locks could be released in time; what is left expires with the session");
        }
        let closing = self.inner.sessions.close(unsettled);
        if tokio::time::timeout(limit, closing).await.is_err() {
            info!("the session could not be closed in time; it expires");
        }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Inner {
    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock's driver, started if there is none. `None` after the client was shut down.
    pub(crate) fn slot(self: &Arc<Self>, name: &str) -> Option<Arc<Slot>> {
        let mut slots = self.slots();
        if slots.shut_down {
            return None;
        }
        // A driver whose runtime has ended is followed by another.
        if let Some(slot) = slots.by_name.get(name).filter(|slot| !slot.commands.is_closed()) {
            return Some(slot.clone());
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let nobody_waits = Arc::<AtomicBool>::default();
        let slot = Arc::new(Slot::new(sender, nobody_waits.clone()));
        slots.by_name.insert(name.to_owned(), slot.clone());
        let driver = Driver::new(name.to_owned(), self.shared.clone(), nobody_waits);
        let (inner, name) = (self.clone(), name.to_owned());
        self.shared.tasks.spawn(driver.run(receiver, move || inner.drop_slot(&name)));
        Some(slot)
    }

    /// All that this client has to do with, by the names of their Leases.
    pub(crate) fn all_slots(&self) -> Vec<(String, Arc<Slot>)> {
        self.slots().by_name.iter().map(|(name, slot)| (name.clone(), slot.clone())).collect()
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.slots().shut_down
    }

    /// Lets a driver end that has nothing to do, if nobody is about to ask it for something.
    fn drop_slot(&self, name: &str) -> bool {
        let mut slots = self.slots();
        let unused = slots.by_name.get(name).is_none_or(|slot| Arc::strong_count(slot) == 1);
        if unused {
            slots.by_name.remove(name);
        }
        unused
    }
}
