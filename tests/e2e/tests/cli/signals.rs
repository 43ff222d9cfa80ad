//! Signals to `run` itself, while its command runs and while it waits.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use leasehold_testkit::{Program, Signal, bin, eventually};

use crate::support::{SOON, Scene, UNTIL_EOF, end, line_after, outcome, runs};

/// The signals that end a process, and the exit codes that shells have for that.
const ENDING: [(Signal, i32); 6] = [
    (Signal::TERM, 143),
    (Signal::INT, 130),
    (Signal::HUP, 129),
    (Signal::QUIT, 131),
    (Signal::USR1, 138),
    (Signal::USR2, 140),
];

pub(crate) async fn is_stopped(pid: u32) -> Result<()> {
    eventually(SOON, "a stopped process", async || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        ensure!(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')), "{stat}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_signal_that_ends_the_command_frees_the_lock() -> Result<()> {
    let scene = Scene::new().await?;
    for (signal, code) in ENDING {
        let mut process = scene.script(&["job"], "ulimit -c 0; echo pid=$$; exec sleep 1000")?.start()?;
        let pid = line_after(&mut process, "pid=").await?.parse()?;
        process.signal(signal)?;
        end(&mut process).await?.is(code, &[]);
        assert!(!runs(pid), "{signal:?}");
        assert!(scene.lease("job").await?.is_none(), "{signal:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_signal_ends_the_wait_and_leaves_the_queue() -> Result<()> {
    let scene = Scene::new().await?;
    let mut holder = scene.holder("job", &[]).await?;
    for (signal, code) in ENDING {
        let mut waiter = scene.script(&["job"], "echo never")?.start()?;
        scene.wait_joins("job", 1).await?;
        waiter.signal(signal)?;
        let ended = end(&mut waiter).await?;
        ended.is(code, &[]);
        assert!(!ended.output.contains("never"), "{}", ended.output);
        // It has left before it ended: nobody need pass over it.
        assert_eq!(scene.joins("job").await?, [] as [String; 0]);
    }
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn signals_go_to_the_command_and_what_it_started() -> Result<()> {
    let scene = Scene::new().await?;
    // Not in the background: there, shells have SIGINT and SIGQUIT ignored.
    let script = r#"
        trap 'echo outer; exit 5' TERM INT HUP QUIT USR1 USR2
        /bin/sh -c '
            trap "echo inner; exit" TERM INT HUP QUIT USR1 USR2
            echo ready
            while :; do sleep 0.05; done
        '
    "#;
    for (signal, _) in ENDING {
        let mut process = scene.script(&["job"], script)?.start()?;
        process.wait_for_line(SOON, |line| line == "ready").await?;
        process.signal(signal)?;
        end(&mut process).await?.is(5, &["outer", "inner"]);
    }
    Ok(())
}

#[tokio::test]
async fn without_a_terminal_the_command_is_stopped_and_its_lock_is_kept() -> Result<()> {
    let scene = Scene::new().await?;
    let options = ["job", "--lease-duration", "2s"];
    let mut process = scene.script(&options, "echo pid=$$; exec cat")?.piped_stdin().start()?;
    let pid = line_after(&mut process, "pid=").await?.parse()?;
    for _ in 0..2 {
        process.signal(Signal::TSTP)?;
        is_stopped(pid).await?;
        process.signal(Signal::CONT)?;
    }
    process.signal(Signal::TSTP)?;
    is_stopped(pid).await?;
    // Past its lease: who waits finds it renewed.
    let waiting = ["run", "job", "--lease-duration", "2s", "--wait", "4s", "--", "true"];
    scene.outcome(&waiting).await?.is(75, &["held by worker"]);
    process.signal(Signal::CONT)?;
    drop(process.stdin());
    end(&mut process).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn a_waiter_that_is_stopped_is_passed_over_and_waits_anew() -> Result<()> {
    let scene = Scene::new().await?;
    let mut holder = scene.holder("job", &[]).await?;
    let mut stopped = scene.script(&["job", "--lease-duration", "1s"], "echo late")?.start()?;
    scene.wait_joins("job", 1).await?;
    stopped.signal(Signal::TSTP)?;
    is_stopped(stopped.id()).await?;
    let mut next = scene.script(&["job"], UNTIL_EOF)?.piped_stdin().start()?;
    scene.wait_joins("job", 2).await?;
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    next.wait_for_line(SOON, |line| line == "ready").await?;
    stopped.signal(Signal::CONT)?;
    scene.wait_joins("job", 1).await?;
    assert!(!stopped.output().contains("late"), "{}", stopped.output());
    drop(next.stdin());
    end(&mut next).await?.is(0, &[]);
    end(&mut stopped).await?.is(0, &["late"]);
    Ok(())
}

#[tokio::test]
async fn what_was_ignored_stays_ignored() -> Result<()> {
    let scene = Scene::new().await?;
    let program = bin("kubectl-leasehold")?.display().to_string();
    let script = "read word; kill -HUP $$; echo still here; exit 4";
    let nohup = format!("trap '' HUP; exec {program} run job -- /bin/sh -c 'echo ready; {script}'");
    let nohup = Program::new("/bin/sh").args(["-c", &nohup]).env("KUBECONFIG", scene.kubeconfig()).piped_stdin();
    let mut process = nohup.start()?;
    process.wait_for_line(SOON, |line| line == "ready").await?;
    process.signal(Signal::HUP)?;
    scene.outcome(&["run", "job", "--no-wait", "--", "true"]).await?.is(75, &[]);
    process.stdin().context("it is piped")?.write_all(b"on\n")?;
    end(&mut process).await?.is(4, &["still here"]);
    Ok(())
}

#[tokio::test]
async fn a_command_whose_reader_has_gone_ends_as_in_any_pipeline() -> Result<()> {
    let scene = Scene::new().await?;
    let program = bin("kubectl-leasehold")?.display().to_string();
    let pipeline = format!("{{ {program} run job -- yes; echo code=$? >&2; }} | head -n 1");
    let pipeline = Program::new("/bin/sh").args(["-c", &pipeline]).env("KUBECONFIG", scene.kubeconfig());
    outcome(pipeline).await?.is(0, &["y\n", "code=141"]);
    assert!(scene.lease("job").await?.is_none());
    Ok(())
}
