//! The operator of Leasehold.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`crd`] | the custom resources |
//! | `controller` | the controller of the custom resources |
//! | [`warden`] | ends dead sessions, evicts dead holders, clears away leftovers |
//! | [`pods`] | evidence that a client's process has ended |
//! | `lead` | of several replicas one acts, the others keep watch |
//! | `hearing` | whether a watch hears anything of the API server |
//! | `leases` | the connection for Leases, which nothing else uses |
//! | `announce`, `metrics`, `serve` | Events, metrics, probes |
//! | `spans`, `otlp` | what is told of each request and reconcile, and its export; the latter with the feature `otlp` |
//!
//! The operator is never on the path of an acquire or a release: without it every lock works, only slower to recover
//! from clients that die.

mod announce;
pub mod args;
mod controller;
pub mod crd;
mod hearing;
mod lead;
mod leases;
mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod pods;
mod run;
mod scope;
mod serve;
mod spans;
pub mod warden;

pub use run::{FLUSH, run};
