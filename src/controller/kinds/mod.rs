//! The custom resources as the controller sees them.

mod lock;
mod rwlock;
mod semaphore;
