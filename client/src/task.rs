//! Tasks and chance: the real ones, or those of a simulated process.

use tokio::task::JoinHandle;

/// Starts a task beside the present one, in the same process.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    #[cfg(feature = "testing")]
    if let Some(process) = crate::testing::Process::current() {
        return process.spawn(future);
    }
    tokio::spawn(future)
}

/// Who waits: a task, or a thread where no task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Task(tokio::task::Id),
    Thread(std::thread::ThreadId),
}

impl Waiting {
    /// Whoever calls this.
    pub(crate) fn current() -> Self {
        tokio::task::try_id().map_or_else(|| Self::Thread(std::thread::current().id()), Self::Task)
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
