//! Distributed locks that live in the Kubernetes API server.
//!
//! A lock is a `Lease` object. It is taken, handed on and given back by single requests that the API server carries out
//! whole or not at all; who waits for it watches for its grant. No other service is needed, and no custom resource: a
//! lock exists by being named. Semaphores and read-write locks are Leases that several hold; [leader election](election) is
//! a lock in the form that client-go reads and writes.
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
//! # What is guaranteed
//!
//! - **Mutual exclusion**: never do two guards of one lock pass their [`check`](Hold::check) at the same time, as
//!   long as the rates of any two machines' clocks differ by less than 1 %. Their values may differ by anything.
//! - **A guard knows when to stop**: no check succeeds after the time from which somebody else could hold the lock, also
//!   not after this process was paused. Lost is for good.
//! - **Fencing**: [`Hold::token`] grows with every holder, also if the Lease is deleted and made anew. By
//!   [`Hold::fence`] and the policy of `config/fencing` the API server refuses what a former holder still writes.
//! - **Fairness**: waiters are served in the order in which the API server took their joins.
//! - **Nothing lingers**: a process that dies frees what it held after its session's duration; a dropped guard, or a
//!   dropped `acquire` future, is given back in the background.
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
//! | waiting, per lock | 1 watch, and 1 read in that time (fewer for who is far back) |
//!
//! # Without async
//!
//! The feature `blocking` brings the same calls for code without async: `Client::blocking_try_default()`,
//! `lock.blocking_acquire(limit)`, `guard.blocking_release()` and so on. They can be called from any thread and block it, also
//! one of an async runtime.
//!
//! A client lives on the runtime on which it is used; with [`ClientBuilder::dedicated_runtime`] on a thread of the crate's own,
//! so that code which blocks that runtime loses no lock.
//!
//! # Testing without a cluster
//!
//! With the feature `memory`, `Client::in_memory()` is a client whose Leases are in this process's memory: the same code,
//! and so the same order, expiry, losses and tokens. Several clients of one `MemoryStore` ([`ClientBuilder::store`]) contend
//! as several processes do. Where the implementation is to be chosen later, keep an `Arc<dyn `[`provider::Provider`]`>`.
//!
//! # Features
//!
//! None is on by default.
//!
//! | feature | what it brings |
//! | --- | --- |
//! | `metrics` | counters, gauges and histograms by the `metrics` facade: see [`telemetry`] |
//! | `memory` | `Client::in_memory()`, `MemoryStore` and the `memory::ApiServer` behind it, which answers as kube-apiserver does |
//! | `testing` | for tests: `memory`, simulated processes that can be paused and killed, and `testing::conformance` for implementations of your own |
//!
//! # Permissions
//!
//! `get`, `watch`, `create`, `update`, `patch` and `delete` on `leases.coordination.k8s.io` in the namespace.
//!
//! # Which Kubernetes
//!
//! This crate chooses no version for `k8s-openapi`; the program that uses it does, by a feature such as `latest`.

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod access;
#[cfg(feature = "blocking")]
mod blocking;
mod client;
pub mod clock;
mod deadlocks;
mod driver;
pub mod election;
mod error;
mod fence;
mod hold;
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
    AcquireError, ApiError, BuildError, ExtendError, LossReason, Lost, OptionsError, PublishError, ReadError,
    ReleaseError, RequestReleaseError, TryAcquireError, UpgradeError, WithLockError,
};
pub use fence::{FENCE, FENCED};
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

/// The README's examples are compiled with the crate's own.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../docs/election.md")]
struct ElectionGuide;
