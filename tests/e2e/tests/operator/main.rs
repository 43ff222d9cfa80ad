//! The operator, as a process with exactly the rights that are shipped, against a real API server.

mod clients;
mod deadlocks;
mod deaths;
mod kept;
mod lifecycle;
mod process;
mod requests;
mod rights;
mod rwlocks;
mod semaphores;
mod support;
