//! Where the binaries of the control plane come from.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};

/// Names a folder with `etcd`, `kube-apiserver` and perhaps the others.
const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

const BUILD_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../controlplane/build.sh");

/// The binaries of a control plane.
#[derive(Debug, Clone)]
pub(crate) struct Assets {
    pub(crate) etcd: PathBuf,
    pub(crate) apiserver: PathBuf,
    /// Without it nothing is garbage collected and no namespace ever goes.
    pub(crate) controller_manager: Option<PathBuf>,
}

/// `None` where the variable is not set.
fn named_folder() -> Option<PathBuf> {
    env::var_os(ASSETS_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)
}

impl Assets {
    /// Those in `KUBEBUILDER_ASSETS`, else those that `tests/controlplane`
    /// builds. Blocks, for minutes where they are not built yet.
    pub(crate) fn find() -> Result<Self> {
        let (folder, origin) = match named_folder() {
            Some(folder) => (folder, ASSETS_VARIABLE),
            None => (built_folder()?, BUILD_SCRIPT),
        };
        let required = |name: &str| {
            existing(&folder, name)
                .with_context(|| format!("there is no {name} in {} (from {origin})", folder.display()))
        };
        Ok(Self {
            etcd: required("etcd")?,
            apiserver: required("kube-apiserver")?,
            controller_manager: existing(&folder, "kube-controller-manager"),
        })
    }
}

/// Builds the control plane's binaries if that has to be done, which takes
/// minutes, with progress on standard error. [`Cluster::start`] does so too.
/// Blocks.
///
/// [`Cluster::start`]: crate::Cluster::start
pub fn build_control_plane() -> Result<()> {
    Assets::find().map(drop)
}

/// A kubectl: in `KUBEBUILDER_ASSETS`, else the one on the path where that
/// variable is set, else the one that `tests/controlplane` builds. Blocks.
pub(crate) fn find_kubectl() -> Result<PathBuf> {
    if let Some(folder) = named_folder() {
        let path = env::var_os("PATH").unwrap_or_default();
        return existing(&folder, "kubectl")
            .or_else(|| env::split_paths(&path).find_map(|folder| existing(&folder, "kubectl")))
            .with_context(|| format!("there is no kubectl in {} nor on the path", folder.display()));
    }
    existing(&built_folder()?, "kubectl").context("the control plane was built without kubectl")
}

fn existing(folder: &Path, name: &str) -> Option<PathBuf> {
    let path = folder.join(name);
    path.is_file().then_some(path)
}

/// Runs the build script, which does nothing where its work is done. Its
/// progress goes to this process' standard error.
fn built_folder() -> Result<PathBuf> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = FOLDER.get() {
        return Ok(folder.clone());
    }
    let output = Command::new(BUILD_SCRIPT)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {BUILD_SCRIPT}"))?;
    if !output.status.success() {
        bail!("the control plane of the tests could not be built ({BUILD_SCRIPT}: {})", output.status);
    }
    let folder = PathBuf::from(String::from_utf8(output.stdout)?.trim_end());
    Ok(FOLDER.get_or_init(|| folder).clone())
}
