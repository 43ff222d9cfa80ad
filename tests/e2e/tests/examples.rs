//! Every example runs to its end on a real API server, in a namespace of its own, and says that it found what it claims.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::config::Kubeconfig;
use leasehold_testkit::{Cluster, DumpOnFailure, Program, bin};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Each takes some seconds on a quiet machine.
const LONG: std::time::Duration = std::time::Duration::from_secs(120);

/// Runs it, and returns what it printed. Every example takes its locks back down, and what else it made.
async fn run(name: &str) -> Result<String> {
    let namespace = Cluster::shared().await?.namespace(name).await?;
    let _dump = DumpOnFailure::new(&namespace);
    let folder = tempfile::tempdir()?;
    // As an administrator, since one of them applies a policy.
    let mut kubeconfig = Kubeconfig::read_from(namespace.cluster().kubeconfig_path())?;
    let context = kubeconfig.contexts.first_mut().and_then(|context| context.context.as_mut());
    context.context("no context")?.namespace = Some(namespace.name().to_owned());
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, serde_yaml_ng::to_string(&kubeconfig)?)?;
    let mut process = Program::new(bin(name)?).env("KUBECONFIG", &path).start()?;
    process.wait_success(LONG).await?;
    let left = namespace.api::<Lease>().list(&ListParams::default()).await?.items;
    // What is kept on purpose stays for its time.
    let left: Vec<_> =
        left.into_iter().filter_map(|lease| lease.metadata.name).filter(|left| left != "daily-job").collect();
    ensure!(left.is_empty(), "{name} has left {left:?}");
    let maps = namespace.api::<ConfigMap>().list(&ListParams::default()).await?.items;
    // The cluster makes one of its own in each namespace.
    let left: Vec<_> =
        maps.into_iter().filter_map(|map| map.metadata.name).filter(|left| left != "kube-root-ca.crt").collect();
    ensure!(left.is_empty(), "{name} has left the ConfigMaps {left:?}");
    Ok(process.output())
}

/// What the last line must be.
macro_rules! examples {
    ($($test:ident: $name:literal => $says:literal,)*) => {
        const NAMES: &[&str] = &[$($name),*];

        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() -> Result<()> {
                let output = run($name).await?;
                let last = output.lines().last().unwrap_or_default();
                ensure!(last.starts_with($says), "it said:\n{output}");
                Ok(())
            }
        )*
    };
}

examples! {
    basic_lock: "basic-lock" => "ok",
    with_lock: "with-lock" => "ok: 10 additions, none lost",
    rate_limit: "rate-limit" => "ok: 9 calls took",
    job_queue: "job-queue" => "ok: 12 jobs, each done once",
    duplicate_suppression: "duplicate-suppression" => "ok: each was handled once",
    daily_job: "daily-job" => "ok: done once a day, 2 times in 2 days",
    cache_stampede: "cache-stampede" => "ok: 20 requests, computed once",
    singleton_task: "singleton-task" => "ok: 15 steps by 3 replicas, one at a time",
    leader_elected_controller: "leader-elected-controller" => "ok: two leaders, and no reconcile under both at a time",
    funds_transfer: "funds-transfer" => "ok: 18 transfers, and the sum is kept",
    fenced_configmap: "fenced-configmap" => "ok: the former holder's write was refused",
    sqlite_fencing: "sqlite-fencing" => "ok: 65 are left, the former holder took nothing",
    mock_in_tests: "mock-in-tests" => "ok: Sent(2)",
}

/// None is forgotten, neither here nor in their list, and each says what it shows and how to run it.
#[test]
fn every_example_is_run_here_and_described() -> Result<()> {
    let folder = Path::new(ROOT).join("examples");
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.file_stem().context("a name")?.to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path)?;
            ensure!(text.starts_with("//! "), "{name} does not say what it shows");
            ensure!(
                text.contains(&format!("//! Run it: make example NAME={name}")),
                "{name} does not say how to run it"
            );
            ensure!(text.contains("//! Look for: "), "{name} does not say what to look for");
            ensure!(text.lines().count() <= 110, "{name} is too long to be read at a glance");
            found.insert(name);
        }
    }
    ensure!(found == NAMES.iter().map(ToString::to_string).collect(), "run here: {NAMES:?}, there: {found:?}");
    let list = std::fs::read_to_string(folder.join("README.md"))?;
    for name in found {
        ensure!(list.contains(&format!("[{name}]({name}.rs)")), "README.md does not list {name}");
    }
    Ok(())
}
