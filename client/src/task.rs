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

/// A number that nobody can foresee.
pub(crate) fn random() -> u64 {
    #[cfg(feature = "testing")]
    if let Some(process) = crate::testing::Process::current() {
        return process.random();
    }
    rand::random()
}
