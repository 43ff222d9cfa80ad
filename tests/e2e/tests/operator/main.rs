//! The operator, as a process with exactly the rights that are shipped, against a real API server.

mod clients;
mod deadlocks;
mod deaths;
mod enforcement;
mod evidence;
mod failures;
mod kept;
mod lifecycle;
mod malformed;
mod outage;
mod policy;
mod process;
mod proxy;
mod requests;
mod rights;
mod rwlocks;
mod semaphores;
mod strict;
mod support;
