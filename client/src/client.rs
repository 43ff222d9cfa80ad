//! A client: one namespace's locks, by one session.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use crate::driver::{Driver, Shared};
use crate::election::ElectionBuilder;
use crate::error::{BuildError, OptionsError};
use crate::lock::LockBuilder;
use crate::observers::Observers;
use crate::protocol::{LONGEST_SESSION, renew_interval};
use crate::rwlock::ReadWriteLock;
use crate::semaphore::SemaphoreBuilder;
use crate::session::{SessionOptions, Sessions};
use crate::slot::{Command, Slot};
use crate::store::{KubeStore, Store};

/// How many locks are released at a time when a client shuts down.
const AT_ONCE: usize = 64;

/// Locks in one namespace of a cluster, taken by one process.
///
/// A client keeps one *session*: a heartbeat in the API server by which everything lives that it holds or waits for.
/// The session is opened with the first acquisition and closed when nothing has been held for a while. Clones share
/// it, so one client for a process is enough, however many locks it takes.
///
/// A client needs a tokio runtime to live on. Its tasks must get to run: on a `current_thread` runtime that is blocked
/// for longer than the session lasts, locks are lost (which guards and their checks notice).
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
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) namespace: String,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) contact_timeout: Duration,
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
    /// A client for the cluster that the usual rules find: `KUBECONFIG`, `~/.kube/config`, or the Pod it runs in.
    ///
    /// # Errors
    /// [`BuildError`] where no cluster is found, or its configuration cannot be used. No request is sent.
    pub async fn try_default() -> Result<Self, BuildError> {
        Self::builder().kube_config(kube::Config::infer().await?).build()
    }

    /// A client with options.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A lock by its name. It exists by being named: nothing need be created before.
    pub fn lock(&self, name: impl Into<String>) -> LockBuilder {
        LockBuilder::new(self.clone(), name.into())
    }

    /// A semaphore by its name. How many permits it has is said by its custom resource, or by
    /// [`with_permits`](SemaphoreBuilder::with_permits).
    pub fn semaphore(&self, name: impl Into<String>) -> SemaphoreBuilder {
        SemaphoreBuilder::new(self.clone(), name.into())
    }

    /// A read-write lock by its name. It exists by being named: nothing need be created before.
    ///
    /// # Errors
    /// [`OptionsError`] where the name cannot be a Lease's.
    pub fn read_write_lock(&self, name: impl Into<String>) -> Result<ReadWriteLock, OptionsError> {
        ReadWriteLock::new(self.clone(), name.into())
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
    /// closed some seconds after the last of them, or expires.
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
        let slot = Arc::new(Slot::new(sender));
        slots.by_name.insert(name.to_owned(), slot.clone());
        let driver = Driver::new(name.to_owned(), self.shared.clone());
        let (inner, name) = (self.clone(), name.to_owned());
        crate::task::spawn(driver.run(receiver, move || inner.drop_slot(&name)));
        Some(slot)
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

/// Options of a [`Client`].
#[derive(Debug)]
#[must_use]
pub struct ClientBuilder {
    config: Option<kube::Config>,
    store: Option<Arc<dyn Store>>,
    namespace: Option<String>,
    host: Option<String>,
    session_duration: Duration,
    grace: Duration,
    request_timeout: Option<Duration>,
    contact_timeout: Duration,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            config: None,
            store: None,
            namespace: None,
            host: None,
            session_duration: Duration::from_secs(30),
            grace: Duration::ZERO,
            request_timeout: None,
            contact_timeout: Duration::from_secs(10),
        }
    }
}

impl ClientBuilder {
    /// The cluster. The client makes a connection pool of its own, with retries switched off.
    pub fn kube_config(mut self, config: kube::Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Leases elsewhere than in a cluster: `MemoryStore` in tests, for example.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// The namespace in which the locks are. Default: that of the configuration.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// The name by which people recognise this process in a holder's identity.
    /// Default: the environment's `POD_NAME`, or else `HOSTNAME`, or else the host's name.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// How long the session lives after a renewal: whole seconds from 1 to 60. Default: 30.
    ///
    /// It is renewed every third of it. After this time at the latest the locks of a process that was killed pass on,
    /// and for about so long a holder survives without the API server.
    pub fn session_duration(mut self, duration: Duration) -> Self {
        self.session_duration = duration;
        self
    }

    /// How long before the session can expire a guard is lost. Default: none (but for what clock drift takes).
    ///
    /// Give as much as it takes to stop what runs under the lock after [`lost`](crate::Hold::lost) has fired.
    /// It must be less than two thirds of the session's duration.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// After how long a request is given up. Default: 5 s, or a third of the session's duration if that is less.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = Some(timeout);
        self
    }

    /// For how long an acquisition tries to get a first answer of the API server. Default: 10 s.
    ///
    /// A waiter that has once been answered rides out any outage up to its own wait limit.
    pub fn contact_timeout(mut self, timeout: Duration) -> Self {
        self.contact_timeout = timeout;
        self
    }

    /// Makes the client. No request is sent yet.
    ///
    /// # Errors
    /// [`BuildError`] where options do not go together or the configuration cannot be used.
    pub fn build(self) -> Result<Client, BuildError> {
        let duration = self.session_duration;
        if duration.subsec_nanos() != 0 || duration.is_zero() || duration > LONGEST_SESSION {
            let problem = format!("{duration:?} will not do: whole seconds from 1 to 60 are possible");
            return Err(OptionsError::new("session_duration", problem).into());
        }
        if self.grace >= duration * 2 / 3 {
            let problem =
                format!("{:?} leaves no time to renew: less than two thirds of the session's {duration:?}", self.grace);
            return Err(OptionsError::new("grace", problem).into());
        }
        let request_timeout = self.request_timeout.unwrap_or(Duration::from_secs(5)).min(renew_interval(duration));
        if request_timeout.is_zero() {
            return Err(OptionsError::new("request_timeout", "it must be more than nothing").into());
        }
        let host = self.host.unwrap_or_else(host_name);
        let cluster = self.config.clone();
        let (store, namespace) = match (self.store, self.config) {
            (Some(store), _) => (store, self.namespace.unwrap_or_else(|| "default".to_owned())),
            (None, Some(config)) => {
                let _context = crate::blocking::context();
                let namespace = self.namespace.unwrap_or_else(|| config.default_namespace.clone());
                (Arc::new(KubeStore::new(config, &namespace)?) as Arc<dyn Store>, namespace)
            }
            (None, None) => {
                let problem = "none was given; Client::try_default() looks for one by the usual rules";
                return Err(OptionsError::new("kube_config", problem).into());
            }
        };
        let options = SessionOptions {
            host: host.clone(),
            duration,
            grace: self.grace,
            request_timeout,
            contact_timeout: self.contact_timeout,
        };
        let shared = Shared {
            observers: Observers::new(store.clone(), host.clone(), request_timeout),
            store: store.clone(),
            session_duration: duration,
            grace: self.grace,
            request_timeout,
            next_check: AtomicU64::new(0),
        };
        Ok(Client {
            inner: Arc::new(Inner {
                namespace,
                sessions: Sessions::new(store, options),
                shared: Arc::new(shared),
                contact_timeout: self.contact_timeout,
                host,
                config: cluster,
                slots: Mutex::default(),
            }),
        })
    }
}

fn host_name() -> String {
    let named = |name| std::env::var(name).ok().filter(|host| !host.is_empty());
    named("POD_NAME")
        .or_else(|| named("HOSTNAME"))
        .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}
