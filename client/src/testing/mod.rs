//! For tests: simulated processes, an API server in memory, and what every implementation of a lock must do. Feature
//! `testing`.

pub mod conformance;
mod process;

pub use crate::memory::{ApiServer, Event, Refusal, Requests, ResponseBody, Watch};
pub use process::{Process, ProcessOptions};

/// A client that folds a lock's queue when so many wait with keys of their own: the usual number is more than a test has
/// clients.
pub fn fold_from(mut builder: crate::ClientBuilder, waiters: usize) -> crate::ClientBuilder {
    builder.fold_from = Some(waiters);
    builder
}
