//! Options of a client: by code, and by the environment.
//!
//! What is said for one lock comes before what is said for its client; what code says before what the environment says;
//! that before what the custom resource says, which stands on the Lease; and that before what is built in. A table of all
//! of them is in `docs/options.md`: a new option has a row there, a field and a method here, and a line in
//! `ClientBuilder::of` if it is to have a variable.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use crate::client::Client;
use crate::deadlocks::{DeadlockOptions, OnDeadlock};
use crate::error::{BuildError, OptionsError};
use crate::in_pod::InPod;
use crate::protocol::contender::FOLD_FROM;
use crate::protocol::name::lease_name;
use crate::protocol::record::Pod;
use crate::protocol::{LONGEST_SESSION, leaves_time_to_renew, renew_interval};
use crate::runtime;
use crate::session::SessionOptions;
use crate::store::{KubeStore, Store};
use crate::task::Tasks;

/// A value, and by what it was given: the method's name, or the variable's. Errors name that.
#[derive(Clone, Debug)]
pub(crate) struct Given<T> {
    pub(crate) value: T,
    pub(crate) by: &'static str,
}

impl<T> Given<T> {
    fn new(by: &'static str, value: T) -> Self {
        Self { value, by }
    }

    fn error(&self, problem: impl Into<String>) -> OptionsError {
        OptionsError::new(self.by, problem)
    }
}

/// `session_duration, 30s`
impl fmt::Display for Given<Duration> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {:?}", self.by, self.value)
    }
}

/// What a client's locks do where nothing else is said of them.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    /// Put before every name.
    pub(crate) key_prefix: String,
    pub(crate) lease_duration: Option<Duration>,
    pub(crate) renewal: bool,
    pub(crate) wait_limit: Option<Duration>,
    /// Whether measurements are told apart by the locks' names.
    pub(crate) metrics_by_name: bool,
    pub(crate) deadlocks: DeadlockOptions,
}

/// Options of a [`Client`].
///
/// [`Client::builder`] begins with what is built in, [`from_env`](Self::from_env) with what the environment says. What is
/// called afterwards comes before either.
#[derive(Debug, Default)]
#[must_use]
pub struct ClientBuilder {
    config: Option<kube::Config>,
    store: Option<Arc<dyn Store>>,
    namespace: Option<Given<String>>,
    host: Option<Given<String>>,
    session_duration: Option<Given<Duration>>,
    grace: Option<Given<Duration>>,
    request_timeout: Option<Given<Duration>>,
    contact_timeout: Option<Given<Duration>>,
    key_prefix: Option<Given<String>>,
    lease_duration: Option<Given<Duration>>,
    renewal: Option<Given<bool>>,
    wait_limit: Option<Given<Duration>>,
    metrics_by_name: bool,
    pub(crate) deadlocks: DeadlockOptions,
    dedicated_runtime: bool,
    pub(crate) fold_from: Option<usize>,
    pod: InPod,
}

impl ClientBuilder {
    /// Options as the environment says. What is called on them afterwards comes first.
    ///
    /// | variable | option |
    /// | --- | --- |
    /// | `LEASEHOLD_NAMESPACE` | [`namespace`](Self::namespace) |
    /// | `LEASEHOLD_HOST` | [`host`](Self::host) |
    /// | `LEASEHOLD_SESSION_DURATION` | [`session_duration`](Self::session_duration) |
    /// | `LEASEHOLD_GRACE` | [`grace`](Self::grace) |
    /// | `LEASEHOLD_REQUEST_TIMEOUT` | [`request_timeout`](Self::request_timeout) |
    /// | `LEASEHOLD_CONTACT_TIMEOUT` | [`contact_timeout`](Self::contact_timeout) |
    /// | `LEASEHOLD_KEY_PREFIX` | [`key_prefix`](Self::key_prefix) |
    /// | `LEASEHOLD_LEASE_DURATION` | [`lease_duration`](Self::lease_duration) |
    /// | `LEASEHOLD_RENEWAL` | [`renewal`](Self::renewal): `true` or `false` |
    /// | `LEASEHOLD_WAIT_LIMIT` | [`wait_limit`](Self::wait_limit) |
    /// | `LEASEHOLD_ON_DEADLOCK` | [`on_deadlock`](Self::on_deadlock): `ignore`, `report` or `fail-youngest` |
    /// | `LEASEHOLD_DEADLOCK_AFTER` | [`deadlock_after`](Self::deadlock_after) |
    /// | `LEASEHOLD_METRICS_BY_NAME` | `metrics_by_name`: `true` or `false` (feature `metrics`) |
    ///
    /// Durations are written `30s`, `500ms`, `1m 30s` or `1h30m`. An empty variable is as good as none. The cluster is not
    /// among these: `KUBECONFIG` is for whoever looks for it, as [`Client::try_default`] does.
    ///
    /// # Errors
    /// [`OptionsError`] where a value cannot be read; it names the variable. What does not go together is told by
    /// [`build`](Self::build).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use leasehold::ClientBuilder;
    ///
    /// let options = ClientBuilder::from_env()?.key_prefix("billing/");
    /// let client = options.kube_config(kube::Config::infer().await?).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_env() -> Result<Self, OptionsError> {
        Self::of(std::env::var_os)
    }

    /// Options as these variables say.
    fn of(variable: impl Fn(&'static str) -> Option<OsString>) -> Result<Self, OptionsError> {
        let text = |name| text(name, variable(name));
        let duration = |name| read(text(name)?, duration, "30s, 500ms or 1m 30s");
        let flag = |name| read(text(name)?, |text| bool::from_str(text).ok(), "true or false");
        Ok(Self {
            config: None,
            store: None,
            namespace: text("LEASEHOLD_NAMESPACE")?,
            host: text("LEASEHOLD_HOST")?,
            session_duration: duration("LEASEHOLD_SESSION_DURATION")?,
            grace: duration("LEASEHOLD_GRACE")?,
            request_timeout: duration("LEASEHOLD_REQUEST_TIMEOUT")?,
            contact_timeout: duration("LEASEHOLD_CONTACT_TIMEOUT")?,
            key_prefix: text("LEASEHOLD_KEY_PREFIX")?,
            lease_duration: duration("LEASEHOLD_LEASE_DURATION")?,
            renewal: flag("LEASEHOLD_RENEWAL")?,
            wait_limit: duration("LEASEHOLD_WAIT_LIMIT")?,
            metrics_by_name: flag("LEASEHOLD_METRICS_BY_NAME")?.is_some_and(|by_name| by_name.value),
            deadlocks: DeadlockOptions::of(
                read(text("LEASEHOLD_ON_DEADLOCK")?, OnDeadlock::named, "ignore, report or fail-youngest")?,
                duration("LEASEHOLD_DEADLOCK_AFTER")?,
            ),
            dedicated_runtime: false,
            fold_from: None,
            pod: InPod::default(),
        })
    }

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
        self.namespace = Some(Given::new("namespace", namespace.into()));
        self
    }

    /// The name by which people recognise this process in a holder's identity.
    /// Default: the Pod that the client's token is bound to, or else the environment's `POD_NAME`, or else `HOSTNAME`, or
    /// else the host's name. Where strict mode is on (`config/strict`) a Pod goes by its own name: leave it as it is there.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(Given::new("host", host.into()));
        self
    }

    /// How long the session lives after a renewal: whole seconds from 1 to 60. Default: 30.
    ///
    /// It is renewed every third of it. After this time at the latest the locks of a process that was killed pass on,
    /// and for about so long a holder survives without the API server.
    pub fn session_duration(mut self, duration: Duration) -> Self {
        self.session_duration = Some(Given::new("session_duration", duration));
        self
    }

    /// How long before the session can expire a guard is lost. Default: none (but for what clock drift takes).
    ///
    /// Give as much as it takes to stop what runs under the lock after [`lost`](crate::Hold::lost) has fired.
    /// It must be less than two thirds of the session's duration.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(Given::new("grace", grace));
        self
    }

    /// After how long a request is given up: at most a third of the session's duration, and at most the contact timeout.
    /// Default: 5 s, or a third of the session's duration if less. A session's renewal may take half of the time left, if more.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = Some(Given::new("request_timeout", timeout));
        self
    }

    /// For how long an acquisition tries to get a first answer of the API server. Default: 10 s.
    ///
    /// A waiter that has once been answered rides out any outage up to its own wait limit.
    pub fn contact_timeout(mut self, timeout: Duration) -> Self {
        self.contact_timeout = Some(Given::new("contact_timeout", timeout));
        self
    }

    /// Put before the name of every lock, semaphore and read-write lock of this client, `team-a/` for example. Default:
    /// nothing.
    ///
    /// It is part of the name from then on: `lock("db")` is [named](crate::Lock::name) `team-a/db`, and whoever has no
    /// prefix names it so. It is no barrier: whoever may write the Leases of a namespace may write all of them.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = Some(Given::new("key_prefix", prefix.into()));
        self
    }

    /// What [`LockBuilder::lease_duration`](crate::LockBuilder::lease_duration) and
    /// [`SemaphoreBuilder::lease_duration`](crate::SemaphoreBuilder::lease_duration) are where they are not called: whole
    /// seconds, at least 1, and more than the grace. Default: what the custom resource says, or else the session.
    pub fn lease_duration(mut self, duration: Duration) -> Self {
        self.lease_duration = Some(Given::new("lease_duration", duration));
        self
    }

    /// What [`LockBuilder::renewal`](crate::LockBuilder::renewal) and
    /// [`SemaphoreBuilder::renewal`](crate::SemaphoreBuilder::renewal) are where they are not called. Default: yes.
    pub fn renewal(mut self, renewal: bool) -> Self {
        self.renewal = Some(Given::new("renewal", renewal));
        self
    }

    /// For how long `acquire()`, `read()`, `write()` and whatever else names no limit of its own waits at most, where the
    /// lock was not built with another `wait_limit`. Default: without a limit.
    pub fn wait_limit(mut self, limit: Duration) -> Self {
        self.wait_limit = Some(Given::new("wait_limit", limit));
        self
    }

    /// Whether metrics are told apart by the names of locks, semaphores and read-write locks. Default: no. Feature
    /// `metrics`.
    ///
    /// Every name makes as many more time series as there are metrics: say yes where names are few and known beforehand.
    #[cfg(feature = "metrics")]
    pub fn metrics_by_name(mut self, by_name: bool) -> Self {
        self.metrics_by_name = by_name;
        self
    }

    /// Lets the client live on a thread of the crate's own: its session, its connections, and all that it does for locks.
    /// Default: on the runtime on which it is used.
    ///
    /// With it no lock is lost because code that should not have blocked a runtime's thread did, and [`check`] answers as
    /// ever. The thread is one for all such clients of the program; it is started with the first and stays. Work done under
    /// a lock stays where it is. Every request crosses to that thread and back, which takes some microseconds.
    ///
    /// [`check`]: crate::Hold::check
    pub fn dedicated_runtime(mut self) -> Self {
        self.dedicated_runtime = true;
        self
    }

    /// The Pod in which this process runs, by name and uid. It is in the namespace of the locks. Default: what is known for
    /// certain, and otherwise none.
    ///
    /// With it an operator that sees every container of that Pod terminated for good passes on at once what this process
    /// held, before its session's duration is over ([operator.md], "Evidence"). Known for certain is the Pod to which the
    /// token is bound that the client logs in with, as every Pod's own token is; or that of `POD_NAME` and `POD_UID` in the
    /// environment (the downward API's `metadata.name` and `metadata.uid`), if nothing speaks against it.
    ///
    /// Name no Pod but the one whose containers this process dies with: while it ran on elsewhere, somebody else
    /// would get its locks.
    ///
    /// [operator.md]: https://github.com/leasehold/leasehold/blob/main/docs/operator.md
    pub fn pod(mut self, name: impl Into<String>, uid: impl Into<String>) -> Self {
        self.pod = InPod::Said(Pod { name: name.into(), uid: uid.into() });
        self
    }

    /// Tells nobody of the Pod in which this process runs, whatever is known of it: nothing is passed on before the
    /// session's duration is over.
    ///
    /// For a process that may outlive the containers of the Pod whose token or environment it has: one on a developer's
    /// machine that stands in for a Pod, one in a virtual machine that moves from Pod to Pod, one that was started by a
    /// container but outside of it.
    pub fn without_pod(mut self) -> Self {
        self.pod = InPod::Nowhere;
        self
    }

    /// Makes the client. No request is sent yet.
    ///
    /// # Errors
    /// [`BuildError`] where options do not go together or the configuration cannot be used.
    pub fn build(self) -> Result<Client, BuildError> {
        let (mut session, defaults) = self.resolve()?;
        let (in_pod, unnamed) = (self.pod, self.host.is_none());
        let namespace = self.namespace.map(|namespace| namespace.value);
        let cluster = self.config.clone();
        let (store, namespace) = match (self.store, self.config) {
            (Some(store), _) => (store, namespace.unwrap_or_else(|| "default".to_owned())),
            (None, Some(config)) => {
                let _context = match session.tasks {
                    Tasks::Apart => Some(runtime::background().enter()),
                    Tasks::WithTheCaller => runtime::context(),
                };
                let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
                (Arc::new(KubeStore::new(config, &namespace)?) as Arc<dyn Store>, namespace)
            }
            (None, None) => {
                let problem = "none was given; Client::try_default() looks for one by the usual rules";
                return Err(OptionsError::new("kube_config", problem).into());
            }
        };
        session.pod = in_pod.find(cluster.as_ref(), &namespace);
        if let Some(pod) = session.pod.as_ref().filter(|_| unnamed) {
            session.host.clone_from(&pod.name);
        }
        Ok(Client::new(store, namespace, cluster, session, defaults))
    }

    /// All that was not said has its default, and everything goes together.
    fn resolve(&self) -> Result<(SessionOptions, Defaults), OptionsError> {
        let default = |given: &Option<Given<Duration>>, by, value| given.clone().unwrap_or(Given::new(by, value));
        let session = default(&self.session_duration, "session_duration", Duration::from_secs(30));
        let grace = default(&self.grace, "grace", Duration::ZERO);
        let contact = default(&self.contact_timeout, "contact_timeout", Duration::from_secs(10));
        if let Some(namespace) = self.namespace.as_ref().filter(|namespace| !is_namespace(&namespace.value)) {
            let problem =
                "up to 63 lower-case letters, digits and `-` are possible, beginning and ending with a letter or digit";
            return Err(namespace.error(format!("{:?} will not do: {problem}", namespace.value)));
        }
        if session.value.subsec_nanos() != 0 || session.value.is_zero() || session.value > LONGEST_SESSION {
            return Err(
                session.error(format!("{:?} will not do: whole seconds from 1 to 60 are possible", session.value))
            );
        }
        if !leaves_time_to_renew(session.value, grace.value) {
            let problem =
                format!("{:?} leaves no time to renew: less than two thirds of {session} are possible", grace.value);
            return Err(grace.error(problem));
        }
        if contact.value.is_zero() {
            return Err(contact.error("it must be more than nothing"));
        }
        let third = renew_interval(session.value);
        let request_timeout = match &self.request_timeout {
            None => third.min(Duration::from_secs(5)),
            Some(timeout) if timeout.value.is_zero() => return Err(timeout.error("it must be more than nothing")),
            Some(timeout) if timeout.value > third => {
                let problem = "leaves no time to try again before the session expires: at most a third of";
                return Err(timeout.error(format!("{:?} {problem} {session} is possible", timeout.value)));
            }
            Some(timeout) if timeout.value > contact.value => {
                let problem = "is more than the time in which the first answer is to come:";
                return Err(timeout.error(format!("{:?} {problem} {contact}", timeout.value)));
            }
            Some(timeout) => timeout.value,
        };
        self.pod.check()?;
        if let Some(duration) = &self.lease_duration {
            check_lease_duration(duration, &grace)?;
        }
        if let Some(limit) = self.wait_limit.as_ref().filter(|limit| limit.value.is_zero()) {
            return Err(limit.error(NO_LIMIT));
        }
        let key_prefix = self.key_prefix.clone().map(|prefix| {
            // With the shortest name there is.
            let named = lease_name(&format!("{}a", prefix.value)).map(drop);
            named.map_err(|error| prefix.error(format!("with it {error}"))).map(|()| prefix.value)
        });
        let session = SessionOptions {
            tasks: if self.dedicated_runtime { Tasks::Apart } else { Tasks::WithTheCaller },
            host: self.host.clone().map_or_else(host_name, |host| host.value),
            duration: session.value,
            grace: grace.value,
            request_timeout,
            contact_timeout: contact.value,
            fold_from: self.fold_from.unwrap_or(FOLD_FROM),
            pod: None,
        };
        let defaults = Defaults {
            key_prefix: key_prefix.transpose()?.unwrap_or_default(),
            lease_duration: self.lease_duration.as_ref().map(|duration| duration.value),
            renewal: self.renewal.as_ref().is_none_or(|renewal| renewal.value),
            wait_limit: self.wait_limit.as_ref().map(|limit| limit.value),
            metrics_by_name: self.metrics_by_name,
            deadlocks: self.deadlocks.checked()?,
        };
        Ok((session, defaults))
    }
}

const NO_LIMIT: &str = "with no time at all nothing is ever acquired by waiting: try_acquire() does not wait";

/// Of one lock: how long what is held lives by itself.
pub(crate) fn lease_duration(
    client: &Client,
    duration: Option<Duration>,
    renewal: bool,
) -> Result<Option<Duration>, OptionsError> {
    let grace = Given::new("grace", client.inner().shared.grace);
    if let Some(duration) = duration {
        check_lease_duration(&Given::new("lease_duration", duration), &grace)?;
    }
    let duration = duration.or(client.inner().defaults.lease_duration);
    if let Some(own) = duration.filter(|own| renewal && !leaves_time_to_renew(*own, grace.value)) {
        let problem = format!("{own:?} leaves no time to renew: more than one and a half times {grace} is needed");
        return Err(OptionsError::new("lease_duration", problem));
    }
    Ok(duration)
}

/// What was said of one lock's waiting, if anything was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum WaitLimit {
    #[default]
    Unsaid,
    Said(Option<Duration>),
}

impl WaitLimit {
    /// How long `acquire()` waits at most.
    pub(crate) fn resolve(self, client: &Client) -> Result<Option<Duration>, OptionsError> {
        match self {
            Self::Said(Some(Duration::ZERO)) => Err(OptionsError::new("wait_limit", NO_LIMIT)),
            Self::Said(limit) => Ok(limit),
            Self::Unsaid => Ok(client.inner().defaults.wait_limit),
        }
    }
}

/// Whether something can live by itself for so long.
fn check_lease_duration(duration: &Given<Duration>, grace: &Given<Duration>) -> Result<(), OptionsError> {
    let value = duration.value;
    Err(duration.error(match value {
        value if value.is_zero() || value.subsec_nanos() != 0 => {
            format!("{value:?} will not do: a whole number of seconds is needed, at least 1")
        }
        value if value <= grace.value => format!("{value:?} will not do: it must be more than the client's {grace}"),
        value if i32::try_from(value.as_secs()).is_err() => {
            format!("{value:?} is more than a Lease can say (2147483647 s)")
        }
        _ => return Ok(()),
    }))
}

/// What a variable says, if it says anything.
fn text(name: &'static str, value: Option<OsString>) -> Result<Option<Given<String>>, OptionsError> {
    match value.filter(|value| !value.is_empty()).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(Given::new(name, value))),
        Some(Err(value)) => Err(OptionsError::new(name, format!("{} is not UTF-8", value.display()))),
    }
}

fn read<T>(
    text: Option<Given<String>>,
    parse: impl Fn(&str) -> Option<T>,
    example: &str,
) -> Result<Option<Given<T>>, OptionsError> {
    let Some(text) = text else { return Ok(None) };
    match parse(text.value.trim()) {
        Some(value) => Ok(Some(Given::new(text.by, value))),
        None => Err(text.error(format!("{:?} will not do: write {example}, for example", text.value))),
    }
}

fn duration(text: &str) -> Option<Duration> {
    Duration::try_from(text.parse::<SignedDuration>().ok()?).ok()
}

/// Whether a namespace can have this name (a DNS label of RFC 1123).
fn is_namespace(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 63 && name.starts_with(edge) && name.ends_with(edge) && name.chars().all(|c| edge(c) || c == '-')
}

fn host_name() -> String {
    let named = |name| std::env::var(name).ok().filter(|host| !host.is_empty());
    named("POD_NAME")
        .or_else(|| named("HOSTNAME"))
        .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
