//! What happens to the command when the lock is lost or `run` itself ends.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use leasehold::clock::moment;
use leasehold_testkit::{Cluster, Process, Signal, eventually};

use crate::support::{RUN, SOON, Scene, end, line_after, runs, wait_dead};

/// Tells its process id and that of a child of its own, and of a SIGTERM, after which it ends.
const GENTLE: &str = r"
    trap 'echo terminated; exit 0' TERM
    sleep 1000 & echo pids=$$ $!
    wait
    wait
";
/// The same, but SIGTERM does not end it.
const STUBBORN: &str = r"
    trap 'echo terminated' TERM
    sleep 1000 & echo pids=$$ $!
    while :; do wait; sleep 0.05; done
";

/// The command's process id, and that of what it started.
async fn pids(process: &mut Process) -> Result<[u32; 2]> {
    let line = line_after(process, "pids=").await?;
    let (one, two) = line.split_once(' ').context("two numbers")?;
    Ok([one.parse()?, two.parse()?])
}

async fn delete(scene: &Scene, lease: &str) -> Result<()> {
    scene.namespace.api::<Lease>().delete(lease, &DeleteParams::default()).await?;
    Ok(())
}

#[tokio::test]
async fn a_command_whose_lock_is_lost_gets_sigterm() -> Result<()> {
    let scene = Scene::new().await?;
    let mut process = scene.script(&["job"], GENTLE)?.start()?;
    let pids = pids(&mut process).await?;
    delete(&scene, "job").await?;
    let ended = end(&mut process).await?;
    // Also though the command has ended well.
    ended.is(76, &["terminated", "lost", "SIGTERM"]);
    assert!(!pids.into_iter().any(runs));
    Ok(())
}

#[tokio::test]
async fn a_command_that_ignores_sigterm_gets_sigkill_after_the_grace() -> Result<()> {
    let scene = Scene::new().await?;
    let mut process = scene.script(&["job", "--grace", "700ms"], STUBBORN)?.start()?;
    let pids = pids(&mut process).await?;
    delete(&scene, "job").await?;
    process.wait_for_line(SOON, |line| line == "terminated").await?;
    let begun = moment();
    end(&mut process).await?.is(76, &["lost"]);
    let taken = moment().since(begun);
    assert!((Duration::from_millis(300)..Duration::from_secs(4)).contains(&taken), "{taken:?}");
    for pid in pids {
        wait_dead(pid).await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_process_of_the_command_gets_one_sigterm() -> Result<()> {
    let scene = Scene::new().await?;
    // One that comes before the first is seen to would not be noticed. Hence so many.
    let script = r"
        for n in 1 2 3 4 5 6 7 8 9 10 11 12; do
            (trap 'echo asked' TERM; sleep 1000 & echo ready; wait; wait; sleep 0.4; echo ended) &
        done
        trap '' TERM
        wait
    ";
    let mut process = scene.script(&["job", "--grace", "10s"], script)?.start()?;
    for _ in 0..12 {
        process.wait_for_line(SOON, |line| line == "ready").await?;
    }
    delete(&scene, "job").await?;
    let ended = end(&mut process).await?;
    ended.is(76, &["ended"]);
    assert_eq!(ended.output.matches("asked").count(), 12, "{}", ended.output);
    Ok(())
}

#[tokio::test]
async fn a_stopped_command_whose_lock_is_lost_ends_too() -> Result<()> {
    let scene = Scene::new().await?;
    let mut process = scene.script(&["job"], GENTLE)?.start()?;
    let [command, _] = pids(&mut process).await?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(command)?).context("a pid")?;
    rustix::process::kill_process_group(pid, Signal::STOP)?;
    delete(&scene, "job").await?;
    end(&mut process).await?.is(76, &["terminated"]);
    Ok(())
}

#[tokio::test]
async fn a_command_ends_before_the_lock_can_pass_on_when_the_api_server_is_away() -> Result<()> {
    let cluster = Cluster::start().await?;
    let scene = Scene::with(&cluster, &RUN).await?;
    // What the first leaves behind the third waits for, and whoever has waited lives for twice as long until it is renewed.
    // Of a longer lease more is left when the last is killed: this machine may stand still then.
    for (name, script, lease, lasts) in [("job", GENTLE, 4, 4), ("other", STUBBORN, 12, 12), ("job", GENTLE, 4, 8)] {
        let options = [name, "--lease-duration", &format!("{lease}s"), "--grace", "1s"];
        let mut process = scene.script(&options, script)?.start()?;
        let pids = pids(&mut process).await?;
        // It takes connections and answers nothing. The last renewal may have been carried out just before.
        cluster.signal_apiserver(Signal::STOP).await?;
        let begun = moment();
        process.wait_for_line(SOON, |line| line == "terminated").await?;
        for pid in pids {
            wait_dead(pid).await?;
        }
        let taken = moment().since(begun);
        assert!(taken < Duration::from_secs(lasts), "{taken:?}");
        // It does not wait for the API server before it ends.
        end(&mut process).await?.is(76, &["not renewed in time"]);
        cluster.signal_apiserver(Signal::CONT).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_run_that_was_paused_past_its_lease_kills_the_command_at_once() -> Result<()> {
    let scene = Scene::new().await?;
    let options = ["job", "--lease-duration", "2s", "--grace", "1s"];
    let mut process = scene.script(&options, STUBBORN)?.start()?;
    let pids = pids(&mut process).await?;
    process.signal(Signal::STOP)?;
    // Somebody else gets the lock, so the lease has expired.
    scene.outcome(&["run", "job", "--", "true"]).await?.is(0, &[]);
    process.signal(Signal::CONT)?;
    let ended = end(&mut process).await?;
    ended.is(76, &["lost"]);
    // No time is left for a SIGTERM.
    assert!(!ended.output.contains("terminated"), "{}", ended.output);
    for pid in pids {
        wait_dead(pid).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_command_dies_with_run() -> Result<()> {
    let scene = Scene::new().await?;
    let mut process = scene.script(&["job", "--lease-duration", "1s"], "echo pid=$$; exec sleep 1000")?.start()?;
    let pid = line_after(&mut process, "pid=").await?.parse()?;
    assert!(runs(pid));
    process.signal(Signal::KILL)?;
    process.wait_exit(SOON).await?;
    wait_dead(pid).await?;
    // And the lock passes on when the lease has expired.
    scene.outcome(&["run", "job", "--wait", "20s", "--", "true"]).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn a_lock_that_was_lost_unnoticed_is_76_as_well() -> Result<()> {
    let scene = Scene::new().await?;
    // The command deletes the Lease and ends at once.
    let admin = scene.namespace.cluster().kubeconfig_path().display().to_string();
    let kubectl = scene.namespace.cluster().kubectl_path().await?;
    let script = format!(
        "{} --kubeconfig {admin} -n {} delete lease job --wait=false",
        kubectl.display(),
        scene.namespace.name()
    );
    let mut process = scene.script(&["job"], &script)?.start()?;
    end(&mut process).await?.is(76, &["lost"]);
    Ok(())
}

#[tokio::test]
async fn a_killed_holder_of_a_queue_is_passed_over() -> Result<()> {
    let scene = Scene::new().await?;
    let holder = scene.holder("job", &["--lease-duration", "2s"]).await?;
    let mut waiter = scene.script(&["job", "--lease-duration", "2s"], "echo mine")?.start()?;
    scene.wait_joins("job", 1).await?;
    holder.signal(Signal::KILL)?;
    end(&mut waiter).await?.is(0, &["mine"]);
    eventually(SOON, "the end of the lock", async || {
        ensure!(scene.lease("job").await?.is_none());
        Ok(())
    })
    .await
}
