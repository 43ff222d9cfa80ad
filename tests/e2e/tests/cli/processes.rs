//! What becomes of processes: orphans, those that leave the command's group, zombies, and what a terminal takes with it.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use leasehold_testkit::{Cluster, Process, Program, Signal, bin, eventually};

use crate::support::{RUN, SOON, Scene, end, line_after, outcome, runs, wait_dead};

/// Processes whose parent is this one, and the states that the kernel shows of them.
fn children_of(parent: u32) -> Vec<(u32, char)> {
    let stats = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut words = stat.rsplit_once(") ")?.1.split(' ');
        let state = words.next()?.chars().next()?;
        Some((pid, state, words.next()?.parse::<u32>().ok()?))
    });
    stats.filter(|(_, _, of)| *of == parent).map(|(pid, state, _)| (pid, state)).collect()
}

async fn lose(scene: &Scene) -> Result<()> {
    scene.namespace.api::<Lease>().delete("job", &DeleteParams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn what_leaves_the_group_ends_too_when_the_lock_is_lost() -> Result<()> {
    let scene = Scene::new().await?;
    // One with a session of its own, and one whose parents have ended besides, which ignores SIGTERM.
    let script = r#"
        setsid /bin/sh -c 'echo session=$$; exec sleep 1000' &
        (setsid /bin/sh -c 'trap "" TERM; echo daemon=$$; while :; do sleep 0.05; done' &)
        exec sleep 1000
    "#;
    let mut process = scene.script(&["job", "--grace", "500ms"], script)?.start()?;
    // They come in any order.
    let mut pids = Vec::new();
    while pids.len() < 2 {
        let line = process.wait_for_line(SOON, |line| line.contains('=')).await?;
        pids.push(line.split_once('=').context("a number")?.1.parse::<u32>()?);
    }
    assert!(pids.iter().all(|pid| runs(*pid)));
    lose(&scene).await?;
    end(&mut process).await?.is(76, &["lost"]);
    for pid in pids {
        wait_dead(pid).await?;
    }
    Ok(())
}

#[tokio::test]
async fn orphans_are_reaped_while_the_command_runs() -> Result<()> {
    let scene = Scene::new().await?;
    // Each orphan tells who has become its parent, and ends.
    let script = r"
        for n in 1 2 3 4 5; do
            (/bin/sh -c 'sleep 0.2; read -r stat < /proc/$$/stat; set -- ${stat##*) }; echo parent=$2' &)
        done
        echo started
        exec cat
    ";
    let mut process = scene.script(&["job"], script)?.piped_stdin().start()?;
    process.wait_for_line(SOON, |line| line == "started").await?;
    for _ in 0..5 {
        assert_eq!(line_after(&mut process, "parent=").await?.parse::<u32>()?, process.id());
    }
    eventually(SOON, "an end of zombies", async || {
        let children = children_of(process.id());
        ensure!(children.len() == 1 && children.iter().all(|(_, state)| *state != 'Z'), "{children:?}");
        Ok(())
    })
    .await?;
    drop(process.stdin());
    end(&mut process).await?.is(0, &[]);
    Ok(())
}

const UNSHARE: [&str; 6] = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// Whether this machine lets somebody make a PID namespace. Where it does not, that is said.
async fn has_namespaces() -> Result<bool> {
    let possible = match Program::new("unshare").args(UNSHARE).arg("true").start() {
        Ok(mut process) => end(&mut process).await?.code == Some(0),
        Err(_) => false,
    };
    if !possible {
        eprintln!("skipped: this machine lets nobody make a PID namespace (unshare --user --pid)");
    }
    Ok(possible)
}

/// `run job` as the first process of a container, and its number outside of that.
async fn first_process(scene: &Scene, script: &str) -> Result<(Process, u32)> {
    let program = Program::new("unshare").args(UNSHARE).arg(bin("kubectl-leasehold")?).args(["run", "job", "--"]);
    let program = program.args(["/bin/sh", "-c", script]).env("KUBECONFIG", scene.kubeconfig()).piped_stdin();
    let process = program.start()?;
    let first = eventually(SOON, "the first process", async || {
        let (pid, _) = *children_of(process.id()).first().context("none")?;
        Ok(pid)
    })
    .await?;
    Ok((process, first))
}

/// The same as the first process of a container.
#[tokio::test]
async fn as_the_first_process_of_a_container_it_leaves_no_zombies() -> Result<()> {
    if !has_namespaces().await? {
        return Ok(());
    }
    let scene = Scene::new().await?;
    let script = r"
        for n in 1 2 3; do (/bin/sh -c 'sleep 0.1; echo gone' &); done
        read -r stat < /proc/self/stat; set -- ${stat##*) }; echo parent=$2
        read word
        for stat in /proc/[0-9]*/stat; do read -r line < $stat; set -- ${line##*) }; echo state=$1; done
        exit 5
    ";
    let (mut process, first) = first_process(&scene, script).await?;
    for _ in 0..3 {
        process.wait_for_line(SOON, |line| line == "gone").await?;
    }
    assert!(process.output().contains("parent=1"), "{}", process.output());
    // Whether they have been reaped is seen from outside, until it is so.
    eventually(SOON, "an end of zombies", async || {
        let children = children_of(first);
        ensure!(children.len() == 1, "{children:?}");
        Ok(())
    })
    .await?;
    drop(process.stdin());
    let ended = end(&mut process).await?;
    ended.is(5, &["state=S"]);
    assert!(!ended.output.contains("state=Z"), "{}", ended.output);
    Ok(())
}

/// The kernel lets a signal do nothing by itself to the first process.
#[tokio::test]
async fn as_the_first_process_of_a_container_it_hands_signals_on() -> Result<()> {
    if !has_namespaces().await? {
        return Ok(());
    }
    let scene = Scene::new().await?;
    let (mut process, first) = first_process(&scene, "trap 'echo told; exit 7' TERM; echo ready; read word").await?;
    process.wait_for_line(SOON, |line| line == "ready").await?;
    let first = rustix::process::Pid::from_raw(i32::try_from(first)?).context("a pid")?;
    rustix::process::kill_process(first, Signal::TERM)?;
    end(&mut process).await?.is(7, &["told"]);
    assert!(scene.lease("job").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn what_is_left_behind_goes_on_when_the_command_ends_by_itself() -> Result<()> {
    let scene = Scene::new().await?;
    let script = "sleep 1000 >/dev/null 2>&1 & echo pid=$!";
    let mut process = scene.script(&["job"], script)?.start()?;
    let pid: u32 = line_after(&mut process, "pid=").await?.parse()?;
    end(&mut process).await?.is(0, &[]);
    assert!(runs(pid));
    rustix::process::kill_process(rustix::process::Pid::from_raw(i32::try_from(pid)?).context("a pid")?, Signal::KILL)?;
    Ok(())
}

#[tokio::test]
async fn a_command_may_ignore_a_signal_and_a_closed_stdin_is_no_reason_to_end() -> Result<()> {
    let scene = Scene::new().await?;
    let stubborn = r"trap 'echo told' TERM; echo ready; while :; do read word && exit 4; done";
    let mut process = scene.script(&["job"], stubborn)?.piped_stdin().start()?;
    process.wait_for_line(SOON, |line| line == "ready").await?;
    process.signal(Signal::TERM)?;
    // It goes on, and so does its lock.
    scene.outcome(&["run", "job", "--no-wait", "--", "true"]).await?.is(75, &[]);
    process.stdin().context("it is piped")?.write_all(b"end\n")?;
    end(&mut process).await?.is(4, &["told"]);
    let program = bin("kubectl-leasehold")?.display().to_string();
    let closed = format!("exec {program} run job -- /bin/sh -c 'cat; echo over; exit 3' <&-");
    let closed = Program::new("/bin/sh").args(["-c", &closed]).env("KUBECONFIG", scene.kubeconfig());
    outcome(closed).await?.is(3, &["over"]);
    Ok(())
}

#[tokio::test]
async fn closed_streams_and_full_disks_are_no_reason_to_end() -> Result<()> {
    let scene = Scene::new().await?;
    let program = bin("kubectl-leasehold")?.display().to_string();
    let file = scene.folder.path().join("over").display().to_string();
    for (streams, code) in
        [(">&- 2>&-", 6), ("<&- >&- 2>&-", 7), (">/dev/full 2>/dev/full", 8), ("</dev/null >&- 2>/dev/full", 9)]
    {
        // What is behind 0, 1 and 2 for the command is nothing of what `run` has opened itself.
        let script = format!("readlink /proc/$$/fd/* > {file}; exit {code}");
        let unread = format!("{program} run job -v -- /bin/sh -c '{script}' {streams}");
        let unread = Program::new("/bin/sh").args(["-c", &unread]).env("KUBECONFIG", scene.kubeconfig());
        outcome(unread).await?.is(code, &[]);
        let open = fs::read_to_string(&file)?;
        ensure!(!open.contains("socket:") && !open.contains("eventpoll"), "{streams}: {open}");
        assert!(scene.lease("job").await?.is_none(), "{streams}");
    }
    Ok(())
}

/// When its last renewal was written, as far as anybody can see.
async fn renewed(scene: &Scene, session: &str) -> Result<String> {
    let lease = scene.lease(session).await?.context("a session")?;
    Ok(format!("{:?}", lease.spec.context("a spec")?.renew_time))
}

async fn session_of(scene: &Scene) -> Result<String> {
    let leases = scene.namespace.kubectl(&["get", "leases", "-o", "name"]).await?;
    let name = leases.lines().find_map(|line| line.strip_prefix("lease.coordination.k8s.io/session-"));
    Ok(format!("session-{}", name.context("a session")?))
}

#[tokio::test]
async fn an_api_server_that_is_lost_and_comes_back_in_time_is_nothing_to_the_command() -> Result<()> {
    let cluster = Cluster::start().await?;
    let scene = Scene::with(&cluster, &RUN).await?;
    let options = ["job", "--lease-duration", "30s"];
    let program = scene.script(&options, "echo ready; exec cat")?.piped_stdin();
    let mut process: Process = program.env("LEASEHOLD_LOG", "leasehold=debug").start()?;
    process.wait_for_line(SOON, |line| line == "ready").await?;
    let session = session_of(&scene).await?;
    let before = renewed(&scene, &session).await?;
    cluster.signal_apiserver(Signal::STOP).await?;
    eventually(SOON, "a renewal that fails", async || {
        ensure!(process.output().contains("renewal did not succeed"), "{}", process.output());
        Ok(())
    })
    .await?;
    cluster.signal_apiserver(Signal::CONT).await?;
    eventually(SOON, "a renewal that succeeds", async || {
        ensure!(renewed(&scene, &session).await? != before);
        Ok(())
    })
    .await?;
    drop(process.stdin());
    end(&mut process).await?.is(0, &[]);
    assert!(scene.lease("job").await?.is_none());
    Ok(())
}
