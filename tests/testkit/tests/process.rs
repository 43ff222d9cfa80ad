//! What the testkit promises of child processes, and of what is left of them.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use leasehold_testkit::{Cluster, Program, Signal, bin, eventually};

const SOON: Duration = Duration::from_secs(30);
/// Starting a cluster on a busy machine.
const START: Duration = Duration::from_mins(2);

#[tokio::test]
async fn lines_status_and_output_of_a_child() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    let mut child = Program::new("sh")
        .args(["-c", "echo one; echo two >&2; echo $WORD; exit 3"])
        .env("WORD", "three")
        .log(&log)
        .start()?;
    assert_eq!(child.next_line().await.as_deref(), Some("one"));
    child.wait_for_line(SOON, |line| line == "three").await?;
    assert_eq!(child.next_line().await, None);
    assert_eq!(child.wait_exit(SOON).await?.code(), Some(3));
    assert!(child.wait_success(SOON).await.is_err());
    assert!(child.signal(Signal::TERM).is_err());
    let text = fs::read_to_string(&log)?;
    assert_eq!(child.output(), text);
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "three", "two"]);
    Ok(())
}

#[tokio::test]
async fn signals_stop_continue_and_end_a_child() -> Result<()> {
    let mut child = Program::new("sh")
        .args(["-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done"])
        .start()?;
    child.wait_for_line(SOON, |line| line == "up").await?;
    child.signal(Signal::STOP)?;
    let stat = PathBuf::from(format!("/proc/{}/stat", child.id()));
    eventually(SOON, "the child to stop", async || {
        let stat = fs::read_to_string(&stat)?;
        ensure!(stat.contains(") T "), "{stat}");
        Ok(())
    })
    .await?;
    child.signal(Signal::TERM)?;
    assert!(child.wait_exit(Duration::from_millis(100)).await.is_err(), "it is stopped");
    child.signal(Signal::CONT)?;
    child.wait_success(SOON).await?;
    assert_eq!(child.drain_lines(), ["bye"]);
    Ok(())
}

#[tokio::test]
async fn a_dropped_child_is_killed_with_its_own_children() -> Result<()> {
    let mut child = Program::new("sh").args(["-c", "sleep 1000 & echo $!; wait"]).start()?;
    let grandchild = child.next_line().await.context("its process id")?;
    let id = child.id();
    drop(child);
    wait_gone(&[id.to_string(), grandchild]).await
}

#[tokio::test]
async fn a_killed_child_says_so() -> Result<()> {
    let mut child = Program::new("sleep").arg("1000").start()?;
    child.signal(Signal::KILL)?;
    assert_eq!(child.wait_exit(SOON).await?.signal(), Some(Signal::KILL.as_raw()));
    Ok(())
}

#[test]
fn a_missing_program_names_the_command_that_builds_it() {
    let error = bin("no-such-program").expect_err("none such").to_string();
    assert!(error.contains("cargo build"), "{error}");
}

/// Run by the tests below in a process of its own, which they kill.
#[tokio::test]
#[ignore = "a part of other tests"]
async fn start_a_cluster_and_wait_to_be_killed() -> Result<()> {
    let cluster = Cluster::start().await?;
    let folder = cluster.kubeconfig_path().parent().context("no folder")?;
    println!("\nfolder {}", folder.display());
    std::future::pending().await
}

/// As above, and panics.
#[tokio::test]
#[ignore = "a part of other tests"]
async fn start_a_cluster_and_panic() {
    let cluster = Cluster::start().await.expect("a cluster");
    let folder = cluster.kubeconfig_path().parent().expect("a folder");
    println!("\nfolder {}", folder.display());
    panic!("as it should");
}

fn this_test(name: &str) -> Result<Program> {
    Ok(Program::new(env::current_exe()?).args(["--ignored", "--exact", "--nocapture", name]))
}

#[tokio::test]
async fn nothing_is_left_of_a_killed_process_cluster() -> Result<()> {
    let mut child = this_test("start_a_cluster_and_wait_to_be_killed")?.start()?;
    let line = child.wait_for_line(START, |line| line.starts_with("folder ")).await?;
    let folder = PathBuf::from(line.trim_start_matches("folder "));
    let processes = processes_about(&folder);
    assert!(folder.is_dir());
    // etcd, API server, controllers, watchdog.
    assert_eq!(processes.len(), 4, "{processes:?}");

    // Only it: what it started is in other process groups, and gets nothing.
    child.signal(Signal::KILL)?;
    child.wait_exit(SOON).await?;
    wait_gone(&processes).await?;
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_of_a_panicking_process_cluster() -> Result<()> {
    let mut child = this_test("start_a_cluster_and_panic")?.start()?;
    let line = child.wait_for_line(START, |line| line.starts_with("folder ")).await?;
    let folder = PathBuf::from(line.trim_start_matches("folder "));
    assert!(!child.wait_exit(SOON).await?.success());
    assert!(!folder.exists());
    assert_eq!(processes_about(&folder), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_command_runs_with_a_cluster_and_its_exit_code_is_returned() -> Result<()> {
    let program = bin("controlplane")?;
    let script = r#"
        test "$KUBECONFIG" = "$LEASEHOLD_TEST_KUBECONFIG" || exit 1
        echo "folder ${KUBECONFIG%/kubeconfig}"
        exit 42"#;
    let mut child = Program::new(program)
        .args(["run", "--", "sh", "-c", script])
        .env_remove("LEASEHOLD_TEST_KUBECONFIG")
        .start()?;
    let line = child.wait_for_line(START, |line| line.starts_with("folder ")).await?;
    let folder = PathBuf::from(line.trim_start_matches("folder "));
    assert_eq!(child.wait_exit(SOON).await?.code(), Some(42));
    assert!(!folder.exists());
    assert_eq!(processes_about(&folder), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_cluster_in_the_background_stays_until_it_is_taken_down() -> Result<()> {
    let cache = tempfile::tempdir()?;
    // The build has to be found all the same.
    let assets = Program::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../controlplane/build.sh"));
    let mut assets = assets.start()?;
    let assets = match env::var_os("KUBEBUILDER_ASSETS") {
        Some(folder) => folder,
        None => assets.next_line().await.context("the folder of the binaries")?.into(),
    };
    let program = |verb: &str| -> Result<Program> {
        Ok(Program::new(bin("controlplane")?)
            .arg(verb)
            .env("KUBEBUILDER_ASSETS", &assets)
            .env("XDG_CACHE_HOME", cache.path()))
    };
    let kubeconfig = cache.path().join("leasehold/cluster/kubeconfig");
    for _ in 0..2 {
        let mut up = program("up")?.start()?;
        let line = up.next_line().await;
        up.wait_success(START).await?;
        assert_eq!(line, Some(format!("export KUBECONFIG='{}'", kubeconfig.display())));
        Cluster::from_kubeconfig(&kubeconfig).await?;
    }
    program("down")?.start()?.wait_success(SOON).await?;
    assert!(!kubeconfig.exists());
    program("down")?.start()?.wait_success(SOON).await?;
    Ok(())
}

/// The ids of the processes that have this folder in their command line.
fn processes_about(folder: &Path) -> Vec<String> {
    let needle = folder.to_str().expect("a readable path");
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let arguments = fs::read(entry.path().join("cmdline")).ok()?;
            let about = String::from_utf8_lossy(&arguments).contains(needle);
            about.then(|| entry.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

/// Waits until none of these processes is there; one that has ended and that
/// nobody has reaped does not count.
async fn wait_gone(processes: &[impl AsRef<OsStr>]) -> Result<()> {
    eventually(SOON, "the processes to be gone", async || {
        for process in processes {
            let stat = Path::new("/proc").join(process.as_ref()).join("stat");
            let stat = fs::read_to_string(stat).unwrap_or_default();
            ensure!(stat.is_empty() || stat.contains(") Z "), "{stat}");
        }
        Ok(())
    })
    .await
}
