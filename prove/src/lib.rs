//! Proof that the guarantees hold, in three layers.
//!
//! | layer | what it runs | against what |
//! | --- | --- | --- |
//! | [`model`] | the pure protocol | every order of events, within bounds |
//! | [`simulation`] | the client and the operator's warden as they are | a seeded network, simulated clocks, an API server in memory |
//! | [`torture`] | real processes | a real API server, and real faults |
//!
//! [`interop`] runs client-go's leader election beside ours. What each found is told in a [`report::Report`].

pub mod interop;
pub mod simulation;
pub mod torture;

pub use leasehold_model as model;
pub use leasehold_model::report;
