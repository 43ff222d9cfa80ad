//! The operator, as a process with exactly the rights that are shipped, against a real API server.

mod clients;
mod deadlocks;
mod deaths;
mod evidence;
mod kept;
mod lifecycle;
mod process;
mod requests;
mod rwlocks;
mod semaphores;
mod support;
