//! Tasks and chance: the real ones, or those of a simulated process.

use std::cell::Cell;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::runtime::background;

/// Where a client's tasks run, and with them its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tasks {
    /// On the runtime of whoever needs one, or on the crate's own where there is none.
    WithTheCaller,
    /// On the crate's own runtime, so that nothing a caller does keeps them from running.
    Apart,
}

/// Whether whoever calls this is a simulated process.
pub(crate) fn is_simulated() -> bool {
    #[cfg(feature = "testing")]
    return crate::testing::Process::current().is_some();
    #[cfg(not(feature = "testing"))]
    false
}

impl Tasks {
    /// Starts a task beside the present one, in the same process.
    pub(crate) fn spawn<F>(self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        #[cfg(feature = "testing")]
        if let Some(process) = crate::testing::Process::current() {
            return process.spawn(future);
        }
        match (self, Handle::try_current()) {
            (Self::WithTheCaller, Ok(runtime)) => runtime.spawn(future),
            (Self::WithTheCaller, Err(_)) | (Self::Apart, _) => background().spawn(future),
        }
    }

    /// Does something where the tasks run, and waits for it: a connection lives where it is first used. It is given up
    /// when nobody waits any more.
    pub(crate) async fn run<F>(self, future: F) -> F::Output
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        if self == Self::WithTheCaller {
            return future.await;
        }
        let mut task = GivenUp(self.spawn(future));
        match (&mut task.0).await {
            Ok(output) => output,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Nobody else ends it, and the runtime stays.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

struct GivenUp<T>(JoinHandle<T>);

impl<T> Drop for GivenUp<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

thread_local! {
    /// For whom this thread acts, if not for itself.
    static PRINCIPAL: Cell<Option<Waiting>> = const { Cell::new(None) };
}

/// Who waits: a task, or a thread where no task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Waiting {
    Task(tokio::task::Id),
    Thread(std::thread::ThreadId),
}

impl Waiting {
    /// Whoever calls this.
    pub(crate) fn current() -> Self {
        let here = || tokio::task::try_id().map_or_else(|| Self::Thread(std::thread::current().id()), Self::Task);
        PRINCIPAL.get().unwrap_or_else(here)
    }

    /// From now on this thread acts for somebody else.
    #[cfg(feature = "blocking")]
    pub(crate) fn act_for(self) {
        PRINCIPAL.set(Some(self));
    }
}

/// A number that nobody can foresee.
pub(crate) fn random() -> u64 {
    #[cfg(feature = "testing")]
    if let Some(process) = crate::testing::Process::current() {
        return process.random();
    }
    rand::random()
}
