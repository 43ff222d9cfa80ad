//! Evidence that a client's process has ended: its Pod.
//!
//! | module | what it does |
//! | --- | --- |
//! | `pod` | what is looked at of a Pod; nothing else of it is even parsed |
//! | `evidence` | whether it proves that every process in it has ended; pure |
//! | `watch` | the watch of Pods, which tells the warden of each proof |
//!
//! Of Pods nothing is kept but the proofs, for a few minutes. Public like the warden, so that it can be tested.

mod evidence;
mod pod;
mod watch;

pub use evidence::{Doubt, evidence};
pub use pod::Pod;
pub(crate) use watch::{Tools, run};
