//! For tests: simulated processes, an API server in memory, and what every implementation of a lock must do. Feature
//! `testing`.

pub mod conformance;
mod process;

pub use crate::memory::{ApiServer, Event, Refusal, Requests, ResponseBody, Watch};
pub use process::{Process, ProcessOptions};
