//! For tests: simulated processes, and an API server in memory. Feature `testing`.

mod process;

pub use process::{Process, ProcessOptions};
