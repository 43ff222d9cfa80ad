//! The client crate as this program uses it: one client, one session, and all that is acquired by one command line.

use std::time::Duration;

use kube::Config;
use leasehold::{
    AcquireError, ApiError, BuildError, Client, MultiGuard, MultiLock, MultiLockBuilder, OptionsError, Progress,
    ReadWriteLock, TryAcquireError,
};

use crate::args::{Wanted, What};
use crate::config;
use crate::exit::{self, Failure, chain};
use crate::forbidden;

/// All that `run` does to Leases.
pub(crate) const VERBS: [&str; 6] = ["get", "watch", "create", "update", "patch", "delete"];
/// How long the last requests may take before this process ends all the same.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(5);
/// The same when the lock is lost: whoever waits for this process to end is in a hurry.
const HURRIED: Duration = Duration::from_millis(200);

/// What is to be acquired.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) wanted: &'a [Wanted],
    pub(crate) max_clock_skew: Option<Duration>,
    pub(crate) hold_at_least: Option<Duration>,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) lease_duration: Duration,
    pub(crate) grace: Duration,
}

/// What is acquired together, and the client that it belongs to.
#[derive(Debug)]
pub(crate) struct Backend {
    client: Client,
    all: MultiLock,
}

/// Why there is no guard.
#[derive(Debug)]
pub(crate) enum NotAcquired {
    /// Somebody else has it; this is the identity, where it is known.
    Busy {
        name: String,
        identity: String,
    },
    Failed(Failure),
}

/// A client that asks, renews and releases, and has no use for a session.
pub(crate) fn asking(config: Config, host: Option<&str>) -> Result<Client, Failure> {
    let builder = Client::builder().namespace(config.default_namespace.clone()).kube_config(config);
    let builder = match host {
        Some(host) => builder.host(host),
        None => builder,
    };
    builder.build().map_err(|error| not_built(&error))
}

/// Whatever stands there under this name, for whoever only asks: what can be shared has a word for each holder.
pub(crate) fn anything(config: Config, name: &str, host: &str) -> Result<ReadWriteLock, Failure> {
    asking(config, Some(host))?.read_write_lock(name).map_err(|error| bad_option(&error))
}

/// The session lives as long as a lease: this process has no other use for it.
pub(crate) fn client(config: Config, lease_duration: Duration, grace: Duration) -> Result<Client, Failure> {
    let namespace = config.default_namespace.clone();
    let builder = Client::builder().kube_config(config).namespace(namespace);
    let client = builder.session_duration(lease_duration).grace(grace).build();
    client.map_err(|error| not_built(&error))
}

impl Backend {
    pub(crate) fn new(config: Config, order: &Order<'_>) -> Result<Self, Failure> {
        let client = client(config, order.lease_duration, order.grace)?;
        let all = order.wanted.iter().try_fold(MultiLock::new(), |all, wanted| order.add(&client, all, wanted));
        let all = all.and_then(MultiLockBuilder::build).map_err(|error| bad_option(&error))?;
        Ok(Self { client, all })
    }

    /// Acquires all; waits without a limit, for this long, or for zero not at all.
    pub(crate) async fn acquire(
        &self,
        limit: Option<Duration>,
        progress: impl FnMut(&str, Progress),
    ) -> Result<MultiGuard, NotAcquired> {
        if limit == Some(Duration::ZERO) {
            return self.all.try_acquire().await.map_err(not_tried);
        }
        let acquired = self.all.acquire_with_progress(limit, progress).await;
        acquired.map_err(|error| match error {
            AcquireError::TimedOut { name, holder, .. } => NotAcquired::Busy { name, identity: holder },
            AcquireError::Api { source, .. } => NotAcquired::Failed(refused(&source, &VERBS)),
            error @ AcquireError::Full { .. } => NotAcquired::Failed(Failure::new(exit::NOT_ACQUIRED, chain(&error))),
            error => NotAcquired::Failed(Failure::internal(&error)),
        })
    }

    /// Ends the session, so that nobody has to wait for its expiry. To be called when nothing is done under the lock
    /// any more.
    pub(crate) async fn leave(self, lost: bool) {
        leave(self.client, lost).await;
    }
}

/// Ends a client's session.
pub(crate) async fn leave(client: Client, lost: bool) {
    let limit = if lost { HURRIED } else { LAST_WORDS };
    let _ = tokio::time::timeout(limit, client.shutdown()).await;
}

impl Order<'_> {
    fn add(&self, client: &Client, all: MultiLockBuilder, wanted: &Wanted) -> Result<MultiLockBuilder, OptionsError> {
        let Self { max_clock_skew, hold_at_least, max_hold, .. } = self;
        let name = wanted.name.as_str();
        if matches!(wanted.what, What::Read | What::Write) {
            let mut lock = client.read_write_lock(name)?;
            if let Some(time) = *max_hold {
                lock = lock.max_hold(time)?;
            }
            if let Some(time) = *hold_at_least {
                lock = lock.hold_at_least(time)?;
            }
            return Ok(if wanted.what == What::Read { all.read(&lock) } else { all.write(&lock) });
        }
        // The builders have the same methods and nothing else in common.
        macro_rules! with_options {
            ($builder:expr) => {{
                let mut builder = $builder;
                if let Some(time) = *hold_at_least {
                    builder = builder.hold_at_least(time);
                }
                if let Some(time) = *max_hold {
                    builder = builder.max_hold(time);
                }
                if let Some(skew) = *max_clock_skew {
                    builder = builder.max_clock_skew(skew);
                }
                builder
            }};
        }
        if let What::Semaphore { permits, size } = wanted.what {
            let builder = with_options!(client.semaphore(name));
            let builder = match size {
                Some(size) => builder.with_permits(size),
                None => builder,
            };
            return Ok(all.permits(&builder.build()?, permits));
        }
        Ok(all.lock(&with_options!(client.lock(name)).build()?))
    }
}

fn not_tried(error: TryAcquireError) -> NotAcquired {
    match error {
        TryAcquireError::Held { name, holder } => NotAcquired::Busy { name, identity: holder },
        TryAcquireError::Api { source, .. } => NotAcquired::Failed(refused(&source, &VERBS)),
        error @ TryAcquireError::Full { .. } => NotAcquired::Failed(Failure::new(exit::NOT_ACQUIRED, chain(&error))),
        error => NotAcquired::Failed(Failure::internal(&error)),
    }
}

pub(crate) fn refused(error: &ApiError, verbs: &[&str]) -> Failure {
    match error {
        ApiError::Unavailable { message } => Failure::new(exit::UNREACHABLE, config::unreachable(message)),
        ApiError::Forbidden { message } => Failure::new(exit::FORBIDDEN, forbidden::explain(message, verbs)),
        error => Failure::usage(chain(error)),
    }
}

fn not_built(error: &BuildError) -> Failure {
    Failure::usage(chain(error))
}

/// An option of the crate, by the name that it has here.
pub(crate) fn bad_option(error: &OptionsError) -> Failure {
    Failure::usage(chain(error))
}
