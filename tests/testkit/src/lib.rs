//! A real Kubernetes control plane, identities and processes for the tests, the
//! demo and the benchmark of Leasehold.
//!
//! - [`Cluster`]: the control plane, shared by the process or one's own.
//! - [`Namespace`]: a namespace per test, and [`Account`]s in it with real tokens.
//! - [`Program`], [`Process`], [`bin`]: programs under test as child processes.
//! - [`eventually`]: waiting for something to become true.
//! - [`DumpOnFailure`]: what there is to see where a test failed.
//!
//! A cluster comes from, in this order:
//!
//! 1. the kubeconfig that `LEASEHOLD_TEST_KUBECONFIG` names; never the user's
//!    current context,
//! 2. the binaries in the folder that `KUBEBUILDER_ASSETS` names,
//! 3. the binaries that `tests/controlplane/build.sh` builds once with Go.
//!
//! Linux only: nothing that was started may outlive the process that started
//! it, and that is the kernel's doing.

mod account;
mod assets;
mod certs;
mod cluster;
mod dump;
mod local;
mod namespace;
mod process;
mod spawn;
mod token;
mod wait;

pub use account::Account;
pub use assets::build_control_plane;
pub use cluster::{Cluster, DISPOSABLE_VARIABLE, KUBECONFIG_VARIABLE};
pub use dump::DumpOnFailure;
pub use namespace::Namespace;
pub use process::{Process, Program, bin};
pub use rustix::process::Signal;
pub use wait::eventually;
