//! Which API server to talk to, as whom, and in which namespace.

use std::env;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::args::ClusterArgs;
use crate::exit::{Failure, chain};

/// For this program's own reads. The client crate has limits of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What messages say of the cluster.
#[derive(Debug)]
struct Cluster {
    context: Option<String>,
    server: String,
}

static CLUSTER: OnceLock<Cluster> = OnceLock::new();

/// ` of context dev`, or nothing where there is no context.
pub(crate) fn of_context() -> String {
    let context = CLUSTER.get().and_then(|cluster| cluster.context.as_ref());
    context.map_or(String::new(), |context| format!(" of context {context}"))
}

/// Its context's name, if it has one.
pub(crate) fn context() -> Option<&'static str> {
    CLUSTER.get().and_then(|cluster| cluster.context.as_deref())
}

/// Its address, for people.
pub(crate) fn server() -> &'static str {
    CLUSTER.get().map_or("", |cluster| &cluster.server)
}

/// That the API server cannot be reached, which one, and what to look at.
pub(crate) fn unreachable(why: &str) -> String {
    let server = CLUSTER.get().map_or(String::new(), |cluster| format!(" at {}", cluster.server));
    let option = CLUSTER.get().and_then(|cluster| cluster.context.as_ref());
    let option = option.map_or(String::new(), |context| format!(" --context {context}"));
    format!(
        "the API server cannot be reached{server}{}: {why}\nSee whether `kubectl{option} get --raw /readyz` answers",
        of_context()
    )
}

/// Finds the cluster as kubectl does: the file that is named, else those of `$KUBECONFIG`, else `~/.kube/config`, else
/// the service account of the pod that this runs in.
///
/// The service account is used only where there is no kubeconfig: whoever has a broken one wants to hear of it.
pub(crate) async fn load(args: &ClusterArgs) -> Result<Config, Failure> {
    let mut context = None;
    let mut config = match kubeconfig(args).map_err(|error| Failure::usage(chain(&error)))? {
        Some(kubeconfig) => {
            context = args.context.clone().or_else(|| kubeconfig.current_context.clone());
            let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            config.map_err(|error| Failure::usage(chain(&error)))?
        }
        None if args.context.is_some() => {
            return Err(Failure::usage("--context was given, but there is no kubeconfig"));
        }
        None => Config::incluster().map_err(|error| {
            let missing = "there is no kubeconfig ($KUBECONFIG, ~/.kube/config) and no service account of a pod";
            Failure::usage(format!("{missing}: {}", chain(&error)))
        })?,
    };
    if let Some(namespace) = &args.namespace {
        config.default_namespace.clone_from(namespace);
    }
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let _ = CLUSTER.set(Cluster { context, server: config.cluster_url.to_string() });
    Ok(config)
}

/// `None` where there is no kubeconfig.
fn kubeconfig(args: &ClusterArgs) -> Result<Option<Kubeconfig>, KubeconfigError> {
    let files = match &args.kubeconfig {
        Some(file) => vec![file.clone()],
        None => usual_files(),
    };
    files.iter().map(Kubeconfig::read_from).try_fold(None, |merged, next| match merged {
        None => next.map(Some),
        Some(merged) => Kubeconfig::merge(merged, next?).map(Some),
    })
}

/// Those of `$KUBECONFIG` that exist, or the one at the usual place if it does. An empty variable is as good as none.
fn usual_files() -> Vec<PathBuf> {
    let mut files = match env::var_os("KUBECONFIG").filter(|files| !files.is_empty()) {
        Some(files) => env::split_paths(&files).filter(|file| !file.as_os_str().is_empty()).collect(),
        None => Vec::from_iter(env::home_dir().map(|home| home.join(".kube/config"))),
    };
    files.retain(|file| file.exists());
    files
}
