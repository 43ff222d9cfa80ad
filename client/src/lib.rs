//! Distributed locks that live in the Kubernetes API server.
#![doc = "\n"]
pub mod clock;
mod client;
mod driver;
mod error;
mod lock;
mod observers;
pub mod protocol;
mod session;
mod status;
mod store;
mod validity;

pub use client::{Client, ClientBuilder};
pub use error::{
    AcquireError, ApiError, BuildError, ExtendError, LossReason, Lost, OptionsError, ReadError, ReleaseError,
    TryAcquireError, WithLockError,
};
pub use lock::{Lock, LockBuilder, LockGuard, OnLost, Progress};
pub use status::{LockStatus, WaiterStatus, HolderStatus};
pub use store::{Failure, KubeStore, MemoryStore, Sight, Store};
