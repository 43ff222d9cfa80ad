//! For tests: simulated processes, and an API server in memory. Feature `testing`.

mod api_server;
mod process;

pub use api_server::{ApiServer, Event, Refusal, Requests, ResponseBody, Watch};
pub use process::{Process, ProcessOptions};
