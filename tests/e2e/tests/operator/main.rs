//! The operator, as a process with exactly the rights that are shipped, against a real API server.

mod clients;
mod deadlocks;
mod deaths;
mod enforcement;
mod evidence;
mod kept;
mod lifecycle;
mod policy;
mod process;
mod requests;
mod rwlocks;
mod semaphores;
mod strict;
mod support;
