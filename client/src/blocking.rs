//! The same for code without an async runtime.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::client::Client;
use crate::error::{AcquireError, BuildError, ReadError, ReleaseError, TryAcquireError};
use crate::lock::{Lock, LockGuard};
use crate::status::LockStatus;

/// One thread of its own, on which sessions are renewed and locks are watched whatever the callers' threads do.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("leasehold").enable_all().build();
    runtime.expect("a thread and its timer can be made")
});

/// Connections are made in a runtime's context. Code without one borrows this one.
pub(crate) fn context() -> Option<tokio::runtime::EnterGuard<'static>> {
    tokio::runtime::Handle::try_current().is_err().then(|| RUNTIME.enter())
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.block_on(work)
}

impl Client {
    /// [`try_default`](Self::try_default) for code without an async runtime.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// When it is called from async code.
    pub fn blocking_try_default() -> Result<Self, BuildError> {
        wait(Self::try_default())
    }

    /// [`shutdown`](Self::shutdown) for code without an async runtime.
    ///
    /// # Panics
    /// When it is called from async code.
    pub fn blocking_shutdown(&self) {
        wait(self.shutdown());
    }
}

impl Lock {
    /// [`try_acquire`](Self::try_acquire) for code without an async runtime.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// When it is called from async code.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use leasehold::{Client, MemoryStore};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // In production: Client::blocking_try_default()?
    /// let client = Client::builder().store(Arc::new(MemoryStore::new())).build()?;
    /// let guard = client.lock("invoice-run").build()?.blocking_try_acquire()?;
    /// guard.blocking_release()?;
    /// client.blocking_shutdown();
    /// # Ok(())
    /// # }
    /// ```
    pub fn blocking_try_acquire(&self) -> Result<LockGuard, TryAcquireError> {
        wait(self.try_acquire())
    }

    /// [`acquire`](Self::acquire), or [`acquire_timeout`](Self::acquire_timeout) if there is a limit, for code without an
    /// async runtime. Renewals run on a thread of the crate's own, so this thread may block as it likes.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// When it is called from async code.
    pub fn blocking_acquire(&self, limit: Option<Duration>) -> Result<LockGuard, AcquireError> {
        wait(self.acquire_with_progress(limit, |_| {}))
    }

    /// [`status`](Self::status) for code without an async runtime.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// When it is called from async code.
    pub fn blocking_status(&self) -> Result<LockStatus, ReadError> {
        wait(self.status())
    }
}

impl LockGuard {
    /// [`release`](Self::release) for code without an async runtime.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// When it is called from async code.
    pub fn blocking_release(self) -> Result<(), ReleaseError> {
        wait(self.release())
    }
}
