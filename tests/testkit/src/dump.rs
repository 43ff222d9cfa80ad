//! What there is to see where a test failed.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Client, Config};

use crate::namespace::Namespace;

/// A dump must not keep a failing test waiting.
const LIMIT: Duration = Duration::from_secs(15);
/// How much of the end of a log file is shown.
const LOG_BYTES: usize = 20_000;

/// Group, version, kind and plural of what is shown, in this order.
const SHOWN: [(&str, &str, &str, &str); 6] = [
    ("coordination.k8s.io", "v1", "Lease", "leases"),
    ("leasehold.dev", "v1alpha1", "DistributedLock", "distributedlocks"),
    ("leasehold.dev", "v1alpha1", "Semaphore", "semaphores"),
    ("leasehold.dev", "v1alpha1", "ReadWriteLock", "readwritelocks"),
    ("", "v1", "Pod", "pods"),
    ("", "v1", "Event", "events"),
];

pub(crate) async fn namespace(client: Client, namespace: &str) -> String {
    let mut out = format!("# namespace {namespace}\n");
    for (group, version, kind, plural) in SHOWN {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
        let listed = tokio::time::timeout(LIMIT, api.list(&ListParams::default())).await;
        let _ = match listed {
            Ok(Ok(list)) => writeln!(out, "# {plural}: {}", list.items.len()).map(|()| {
                for object in list.items {
                    out.push_str("---\n");
                    out.push_str(&yaml(object));
                }
            }),
            // Without its definition there can be none of a kind.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                writeln!(out, "# {plural}: no such resource in this cluster")
            }
            Ok(Err(error)) => writeln!(out, "# {plural}: cannot be listed: {error}"),
            Err(_) => writeln!(out, "# {plural}: no answer in {LIMIT:?}"),
        };
    }
    out
}

fn yaml(mut object: DynamicObject) -> String {
    object.metadata.managed_fields = None;
    object.metadata.namespace = None;
    serde_yaml_ng::to_string(&object).unwrap_or_else(|error| format!("# {error}\n"))
}

/// Prints [`Namespace::dump`] and log files when it is dropped: create one at the start of a test.
///
/// The test harness keeps what a test prints to itself unless the test fails, by a panic or by an error. So there is
/// nothing to be seen of this where all is well; `--nocapture` shows it always.
#[derive(Debug)]
#[must_use = "the dump is printed when the guard is dropped"]
pub struct DumpOnFailure {
    config: Config,
    namespace: String,
    logs: Vec<PathBuf>,
}

impl DumpOnFailure {
    /// A guard for this namespace, which may be dropped before it.
    pub fn new(namespace: &Namespace) -> Self {
        Self { config: namespace.config(), namespace: namespace.name().to_owned(), logs: Vec::new() }
    }

    /// Prints the end of this file too, for instance of a [`Program::log`].
    ///
    /// [`Program::log`]: crate::Program::log
    pub fn log_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.logs.push(path.into());
        self
    }

    /// Prints the end of these files too.
    pub fn log_files(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        self.logs.extend(paths);
        self
    }

    /// Prints everything now. Blocks for at most some seconds.
    pub fn print(&self) {
        let config = self.config.clone();
        let name = self.namespace.clone();
        // A runtime of its own: the test's is in the middle of going down.
        let dump = thread::spawn(move || -> Result<String> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let dump = namespace(Client::try_from(config)?, &name);
                tokio::time::timeout(LIMIT, dump).await.context("no answer from the API server")
            })
        })
        .join();
        match dump {
            Ok(Ok(text)) => eprintln!("{text}"),
            other => eprintln!("# namespace {}: {other:?}", self.namespace),
        }
        for log in &self.logs {
            let bytes = fs::read(log).unwrap_or_default();
            let end = &bytes[bytes.len().saturating_sub(LOG_BYTES)..];
            eprintln!("# the end of {}\n{}", log.display(), String::from_utf8_lossy(end));
        }
    }
}

impl Drop for DumpOnFailure {
    fn drop(&mut self) {
        self.print();
    }
}
