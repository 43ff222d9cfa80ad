//! Distributed locks that live in the Kubernetes API server.
//!
//! A lock is a `Lease` object. It is taken, handed on and given back by single requests that the API server carries out
//! whole or not at all; who waits for it watches for its grant. No other service is needed, and no custom resource: a
//! lock exists by being named. Semaphores and read-write locks are Leases that several hold; [leader election](election) is
//! a lock in the form that client-go reads and writes.
//!
//! This page is a tour: it shows what there is, in the order in which one needs it. The
//! [guide](https://github.com/leasehold/leasehold/blob/main/docs/guide.md) says how to use it well.
//!
//! - The calls: [acquire and release](#acquire-and-release), [know that you hold it](#know-that-you-hold-it), [be safe
//!   even when you do not](#be-safe-even-when-you-do-not), [waiting](#waiting), [more than one](#more-than-one), [fixed
//!   terms](#fixed-terms), [leaders](#leaders), [people](#people), [without async](#without-async)
//! - Around them: [options](#options), [testing without a cluster](#testing-without-a-cluster), [features](#features),
//!   [permissions](#permissions), [which Kubernetes](#which-kubernetes)
//! - What it is worth: [what is guaranteed](#what-is-guaranteed), [costs](#costs)
//!
//! # Acquire and release
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = leasehold::Client::try_default().await?;
//! let guard = client.lock("nightly-report").build()?.acquire().await?;
//! // Nobody else is here. Write with guard.token(), and stop when guard.check() fails or guard.lost() fires.
//! guard.release().await?;
//! client.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! One [`Client`] for a process and namespace is enough. It keeps one *session*, a heartbeat in the API server by which
//! everything lives that it holds or waits for. Names are any text (`order:payment:4711`). A guard that is dropped is
//! released in the background; [`release`](LockGuard::release) does it now and says how it went, and
//! [`shutdown`](Client::shutdown) gives back all that is left.
//!
//! # Know that you hold it
//!
//! A lock can be lost: the API server may be out of reach for too long, this process may be paused, somebody may break
//! it. A guard knows, by this machine's clock alone and without a request:
//!
//! ```
//! use leasehold::{LockGuard, Lost};
//!
//! async fn steps(guard: &LockGuard, step: impl AsyncFn(u32)) -> Result<(), Lost> {
//!     let lost = guard.lost(); // a CancellationToken
//!     for n in 0..10 {
//!         guard.check()?; // never `Ok` after the time from which somebody else could hold it
//!         tokio::select! {
//!             () = step(n) => {}
//!             () = lost.cancelled() => return guard.check(),
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! [`check`](Hold::check) and [`remaining`](Hold::remaining) read the clock; [`lost`](Hold::lost) fires. Lost is for
//! good, also if a late renewal then succeeds. [`Lock::with_lock`] runs work under a lock and drops it when the lock is
//! lost. [`extend`](Hold::extend) renews now. All of these are methods of [`Hold`], which every guard is.
//!
//! # Be safe even when you do not
//!
//! A process can be paused between `check()` and the write that it was to make safe. Then only the place where the
//! write arrives can refuse it. [`Hold::token`] is a number that is larger for each later holder: send it along, and
//! let what is written to refuse a smaller one than it has seen. [`Hold::fence`] does so for objects of Kubernetes,
//! with a policy that the API server applies. `docs/fencing.md` has both, and databases.
//!
//! # Waiting
//!
//! | | |
//! | --- | --- |
//! | [`try_acquire`](Lock::try_acquire) | not at all |
//! | [`acquire_timeout`](Lock::acquire_timeout) | for so long |
//! | [`acquire`](Lock::acquire) | as long as it takes, through outages of the API server |
//! | [`acquire_with_progress`](Lock::acquire_with_progress) | and hear who holds it and how many are ahead |
//! | [`wait_until_free`](Lock::wait_until_free) | until nobody has it, without taking it |
//!
//! Waiters are served in the order in which the API server took their joins, each by a hand-off straight from the
//! holder before. Nobody polls. A future that is dropped leaves the queue. Nothing is reentrant: a task that acquires
//! what it holds is told so ([`AcquireError::HeldByThisTask`]). Every operation has an error of its own, with
//! [`is_retryable`](AcquireError::is_retryable).
//!
//! # More than one
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use leasehold::{Client, MultiLock};
//!
//! let client = Client::in_memory(); // in production: Client::try_default().await?
//! let connections = client.semaphore("db-connections").with_permits(5).build()?;
//! let permits = connections.acquire(2).await?; // two of five, for all processes together
//!
//! let catalogue = client.read_write_lock("catalogue")?;
//! let reader = catalogue.upgradeable_read().await?; // beside other readers
//! let writer = reader.upgrade().await?; // alone, without a gap in which somebody else could write
//! let reader = writer.downgrade().await?;
//! # drop((permits, reader));
//!
//! // All or nothing, without deadlock whatever the order in which they are named.
//! let (from, to) = (client.lock("account-1").build()?, client.lock("account-2").build()?);
//! let both = MultiLock::new().lock(&from).lock(&to).permits(&connections, 1).build()?;
//! both.acquire_timeout(Duration::from_secs(5)).await?.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Semaphore`]: weighted permits, resizable while they are used; they can be given back in part. [`ReadWriteLock`]:
//! readers, one upgradeable reader beside them, one writer. [`MultiLock`]: any of these at once. Whoever holds one
//! thing and waits for another can be in a deadlock: after half a minute such circles are found, and named in a warning
//! ([`on_deadlock`](ClientBuilder::on_deadlock)).
//!
//! # Fixed terms
//!
//! | | by |
//! | --- | --- |
//! | a hold that lives by its own Lease, for longer than a session | [`lease_duration`](LockBuilder::lease_duration) |
//! | that ends by itself unless it is extended | [`renewal(false)`](LockBuilder::renewal) |
//! | that nobody else has for a while, though it is given back (a job once a day) | [`hold_at_least`](LockBuilder::hold_at_least) |
//! | the same, said when the work has succeeded (a duplicate is to be dropped) | [`LockGuard::keep`] |
//! | that outlives this process, and that another renews or releases | [`LockGuard::into_handle`], [`Client::renew_handle`], [`Client::release_handle`] |
//! | that ends however often it is renewed (work that may hang) | [`max_hold`](LockBuilder::max_hold) |
//! | so many in a time (a rate) | permits with a [`lease_duration`](SemaphoreBuilder::lease_duration), without [`renewal`](SemaphoreBuilder::renewal), that are not given back before |
//!
//! Nobody's clock is believed for this, so somebody must have watched for the whole term.
//! [`max_clock_skew`](LockBuilder::max_clock_skew) trades that for an assumption.
//!
//! # Leaders
//!
//! An [`election`] is a lock for one of several replicas, on a Lease that client-go's leader election can contend for:
//!
//! ```no_run
//! # async fn example(stop: leasehold::CancellationToken) -> Result<(), Box<dyn std::error::Error>> {
//! # let client = leasehold::Client::try_default().await?;
//! let election = client.election("reports").build()?;
//! election
//!     .run_whenever_leading(stop, async |leading| {
//!         while !leading.ending().is_cancelled() {
//!             // … a piece of work, with leading.token() for what is written …
//! #           tokio::task::yield_now().await;
//!         }
//!     })
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! It campaigns, works while it leads, campaigns again when the leadership was lost, and steps down when it is told to
//! stop. [`Election::observe`] tells who leads; a label on the leader's Pod lets a Service follow it.
//!
//! # People
//!
//! [`status`](Lock::status) says who holds it, since when, and who waits. [`publish`](Hold::publish) shows a text
//! beside a hold. [`request_release`](Lock::request_release) asks a holder to let go, and
//! [`release_requested`](Hold::release_requested) hears of it. `kubectl leasehold` does the same from a shell, and
//! custom resources show it to `kubectl get`.
//!
//! # Without async
//!
//! With the feature `blocking` calls have a twin without `await`: `Client::blocking_try_default`,
//! `Lock::blocking_acquire`, `LockGuard::blocking_release` and so on (not those that tell of progress, nor streams). That client lives on a thread of this crate's own, so the
//! caller's may block as it likes. A client of async code lives on the runtime on which it is used: where all threads
//! of that are blocked for longer than a session lasts, locks are lost.
//! [`dedicated_runtime`](ClientBuilder::dedicated_runtime) is the way out, where `spawn_blocking` is none.
//!
//! # Options
//!
//! Those of a client are methods of [`ClientBuilder`], those of one lock of [`LockBuilder`] and [`SemaphoreBuilder`];
//! [`ClientBuilder::from_env`], and so [`Client::try_default`], reads them from the environment as well
//! (`LEASEHOLD_SESSION_DURATION=20s`). `docs/options.md` has a table of all. Defaults: sessions of 30 s, renewed every
//! 10 s, so that what a killed process held passes on after 40 s at most to whoever waits near the head of the queue;
//! no grace; requests of 5 s. How to choose is in the guide.
//!
//! # Testing without a cluster
//!
//! With the feature `memory`, `Client::in_memory()` is a client whose Leases are in this process's memory: the same
//! code, and so the same order, expiry, losses and tokens. Several clients of one `MemoryStore`
//! ([`ClientBuilder::store`]) contend as several processes do. Where the implementation is to be chosen later, keep an
//! `Arc<dyn `[`provider::Provider`]`>`.
//!
//! # Features
//!
//! None is on by default.
//!
//! | feature | what it brings |
//! | --- | --- |
//! | `blocking` | calls for code without async: `Lock::blocking_acquire` and so on |
//! | `controller` | `Leading::run_controller`: controllers of kube's that run only while they lead |
//! | `metrics` | counters, gauges and histograms by the `metrics` facade: see [`telemetry`] |
//! | `memory` | `Client::in_memory()`, `MemoryStore` and the `memory::ApiServer` behind it, which answers as kube-apiserver does |
//! | `testing` | for tests: `memory`, simulated processes that can be paused and killed, and `testing::conformance` for implementations of your own |
//!
//! # Permissions
//!
//! `get`, `list`, `watch`, `create`, `update`, `patch` and `delete` on `leases.coordination.k8s.io` in the namespace.
//! `list` is for finding deadlocks only. Whoever may write Leases in a namespace can also break the locks in it.
//!
//! # Which Kubernetes
//!
//! This crate chooses no version for `k8s-openapi`; the program that uses it does, by a feature such as `latest`.
//!
//! # What is guaranteed
//!
//! - **Mutual exclusion**: never do two guards of one lock pass their [`check`](Hold::check) at the same time, as long
//!   as the rates of any two machines' clocks differ by less than 1 %. Their values may differ by anything, unless
//!   [`max_clock_skew`](LockBuilder::max_clock_skew) relies on them.
//! - **A guard knows when to stop**: no check succeeds after the time from which somebody else could hold the lock,
//!   also not after this process was paused. Lost is for good.
//! - **Fencing**: [`Hold::token`] grows with every tenancy, also if the Lease is deleted and made anew. By
//!   [`Hold::fence`] and the policy of `config/fencing` the API server refuses what a former holder still writes.
//! - **Fairness**: waiters are served in the order in which the API server took their joins.
//! - **Nothing is left behind**: a process that dies frees what it held after its session's duration, or at once where an operator
//!   sees that its Pod has terminated ([`ClientBuilder::pod`]); a dropped guard, or a dropped `acquire` future, is given
//!   back in the background.
//!
//! Not guaranteed: that a holder which looks at neither `check()` nor `lost()` does no harm after a pause. What must be
//! safe even then compares tokens where the harm would be done.
//!
//! # Costs
//!
//! | | requests |
//! | --- | --- |
//! | a lock nobody else wants | 2 writes a cycle |
//! | a lock many wait for | 2 writes a cycle, however many they are |
//! | a semaphore or read-write lock many wait for | 2 writes a cycle and a share of a third, and 1 watch |
//! | holding, per client | 1 write every third of the session's duration, for all its locks together |
//! | waiting for long, per client | a quarter of that, and 1 watch for each lock; the first in a queue reads as often as holders renew |
//! | a lock that [lingers](LockBuilder::linger) | 1 watch, and 1 read in that time |
//!
//! What one name carries is measured in `docs/limits.md`.

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod access;
mod ahead;
#[cfg(feature = "blocking")]
mod blocking;
mod breaking;
mod client;
pub mod clock;
mod deadlocks;
mod driver;
pub mod election;
mod error;
mod fence;
mod handle;
mod hold;
mod in_pod;
mod loan;
mod lock;
#[cfg(feature = "memory")]
pub mod memory;
mod multi;
mod observers;
mod options;
pub mod protocol;
pub mod provider;
mod runtime;
mod rwlock;
mod semaphore;
mod session;
mod slot;
mod status;
mod store;
mod task;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod validity;

pub use access::Progress;
pub use client::Client;
pub use deadlocks::OnDeadlock;
pub use election::{Election, ElectionBuilder, Leadership};
pub use error::{
    AcquireError, ApiError, BreakError, BuildError, ExtendError, LossReason, Lost, OptionsError, PublishError,
    ReadError, ReleaseError, RequestReleaseError, TryAcquireError, UpgradeError, WithLockError,
};
pub use fence::{FENCE, FENCED};
pub use handle::{BadHandle, Handle, HandleError};
pub use hold::Hold;
pub use lock::{Lock, LockBuilder, LockGuard, OnLost};
pub use multi::{MultiGuard, MultiLock, MultiLockBuilder};
pub use options::ClientBuilder;
pub use protocol::ReleaseRequest;
pub use protocol::deadlock::Deadlock;
pub use rwlock::{ReadGuard, ReadWriteLock, UpgradeableGuard, WriteGuard};
pub use semaphore::{Permits, Semaphore, SemaphoreBuilder};
pub use status::{
    HolderStatus, LockStatus, ReadWriteLockStatus, ReleaseRequestStatus, SemaphoreStatus, ShareStatus, WaiterStatus,
};
#[cfg(feature = "memory")]
pub use store::MemoryStore;
pub use store::{Failure, KubeStore, Sight, Store};
pub use tokio_util::sync::CancellationToken;

/// What stands in the README and in `docs/` is compiled with the crate's own examples.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/election.md")]
    struct Election;
    #[doc = include_str!("../../docs/fencing.md")]
    struct Fencing;
    #[doc = include_str!("../../docs/guide.md")]
    struct Guide;
    #[doc = include_str!("../../docs/telemetry.md")]
    struct Telemetry;
}
