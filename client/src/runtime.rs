//! The crate's own runtime: one thread that no caller of its can block.

use std::sync::LazyLock;

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};

/// For as long as the program runs. It is started when it is first needed.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("leasehold").enable_all().build();
    runtime.expect("a thread and its timer can be made")
});

pub(crate) fn background() -> &'static Handle {
    RUNTIME.handle()
}

/// Connections are made in a runtime's context. Code without one borrows this one.
pub(crate) fn context() -> Option<EnterGuard<'static>> {
    Handle::try_current().is_err().then(|| RUNTIME.enter())
}
