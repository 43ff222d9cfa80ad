//! `acquire`, `renew` and `release`.

use anyhow::{Context as _, Result, ensure};
use leasehold_testkit::eventually;
use serde_json::Value;

use crate::support::{RUN, SOON, Scene, end, outcome};

/// Standard output alone, as a script has it.
async fn stdout(scene: &Scene, args: &[&str]) -> Result<String> {
    let mut process = scene.cli(args)?.start()?;
    let line = process.next_line().await.context("a line")?;
    end(&mut process).await?.is(0, &[]);
    Ok(line)
}

#[tokio::test]
async fn a_script_acquires_renews_and_releases() -> Result<()> {
    let scene = Scene::new().await?;
    let handle = stdout(&scene, &["acquire", "order:4711", "--for", "10m"]).await?;
    ensure!(!handle.contains([' ', '$', '"', '\'']), "{handle}");
    let busy = ["run", "order:4711", "--no-wait", "--", "true"];
    scene.outcome(&busy).await?.is(75, &["held by worker, which has left it held for a fixed time"]);
    let renewed = stdout(&scene, &["renew", &handle, "--for", "20m"]).await?;
    scene.outcome(&["status", "order:4711"]).await?.is(0, &["left here for 1200s"]);
    scene.outcome(&["release", &renewed, "-v"]).await?.is(0, &["released order-4711--"]);
    scene.outcome(&["run", "order:4711", "--no-wait", "--", "true"]).await?.is(0, &[]);
    for over in [&["release", &renewed][..], &["renew", &renewed, "--for", "1m"], &["release", &handle]] {
        scene.outcome(over).await?.is(79, &["is over", "acquire it anew"]);
    }
    Ok(())
}

#[tokio::test]
async fn it_says_how_long_it_has() -> Result<()> {
    let scene = Scene::new().await?;
    let told = scene.outcome(&["acquire", "a", "--for", "10m", "-o", "json"]).await?;
    let told: Value = serde_json::from_str(&told.output)?;
    let left = told["expiresInSeconds"].as_u64().context("a number")?;
    // It counts from the sending, and is over before anybody else can have it.
    ensure!((560..600).contains(&left), "{left}");
    ensure!(told["token"].as_u64().is_some() && told["leaseName"] == "a", "{told}");
    scene.outcome(&["acquire", "b", "--for", "10m"]).await?.is(0, &["it is over in 59", "unless it is renewed"]);
    let env = scene.outcome(&["acquire", "c", "--for", "10m", "-o", "env"]).await?;
    env.is(0, &["LEASEHOLD_HANDLE=v1/", "LEASEHOLD_EXPIRES_IN=59", "LEASEHOLD_TOKEN="]);
    Ok(())
}

#[tokio::test]
async fn nobody_elses_hold_is_ended_or_renewed() -> Result<()> {
    let scene = Scene::new().await?;
    let handle = stdout(&scene, &["acquire", "job", "--for", "1s"]).await?;
    // Whoever waits gets it when its time is over.
    let mut holder = scene.holder("job", &[]).await?;
    for over in [&["release", &handle][..], &["renew", &handle, "--for", "1m"]] {
        scene.outcome(over).await?.is(79, &["is over"]);
    }
    scene.outcome(&["run", "job", "--no-wait", "--", "true"]).await?.is(75, &["held by worker since"]);
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn a_release_goes_to_who_waits() -> Result<()> {
    let scene = Scene::new().await?;
    let handle = stdout(&scene, &["acquire", "job", "--for", "1h", "--payload", "by hand"]).await?;
    scene.outcome(&["status", "job"]).await?.is(0, &["by hand"]);
    let mut waiter = scene.script(&["job"], "echo mine")?.start()?;
    scene.wait_joins("job", 1).await?;
    scene.outcome(&["release", &handle]).await?.is(0, &[]);
    end(&mut waiter).await?.is(0, &["mine"]);
    Ok(())
}

#[tokio::test]
async fn permits_and_writers_have_handles() -> Result<()> {
    let scene = Scene::new().await?;
    let two = ["acquire", "db", "--for", "1h", "--semaphore", "--permits", "2", "--size", "3"];
    let permits = stdout(&scene, &two).await?;
    let writer = stdout(&scene, &["acquire", "catalog", "--for", "1h", "--write"]).await?;
    let try_two =
        [&["run", "db", "--no-wait", "--semaphore", "--permits", "2", "--size", "3", "--"][..], &["true"]].concat();
    let read = ["run", "catalog", "--no-wait", "--read", "--", "true"];
    scene.outcome(&try_two).await?.is(75, &[]);
    scene.outcome(&read).await?.is(75, &[]);
    for handle in [&permits, &writer] {
        let renewed = stdout(&scene, &["renew", handle, "--for", "2h"]).await?;
        scene.outcome(&["release", &renewed]).await?.is(0, &[]);
    }
    scene.outcome(&try_two).await?.is(0, &[]);
    scene.outcome(&read).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn what_is_no_handle_is_wrong_usage() -> Result<()> {
    let scene = Scene::new().await?;
    let handle = stdout(&scene, &["acquire", "job", "--for", "1h"]).await?;
    scene.outcome(&["release", "job"]).await?.is(64, &["not a handle"]);
    scene.outcome(&["acquire", "job", "--for", "0s"]).await?.is(64, &["between 1s and 10 years"]);
    scene.outcome(&["release", &handle, "-n", "elsewhere"]).await?.is(64, &["not of elsewhere"]);
    scene.outcome(&["acquire", "job", "--for", "1h", "--no-wait", "-E", "9"]).await?.is(9, &["held by worker"]);
    // Somebody else's cluster, or a Lease that was made anew.
    scene.namespace.kubectl(&["delete", "lease", "job"]).await?;
    scene.outcome(&["release", &handle]).await?.is(79, &["the Lease was removed"]);
    let mut holder = scene.holder("job", &[]).await?;
    scene.outcome(&["release", &handle]).await?.is(79, &["made anew since"]);
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn without_the_right_to_remove_a_lease_it_is_freed() -> Result<()> {
    let verbs: Vec<_> = RUN.into_iter().filter(|verb| *verb != "delete").collect();
    let scene = Scene::with(leasehold_testkit::Cluster::shared().await?, &verbs).await?;
    let handle = stdout(&scene, &["acquire", "job", "--for", "1h"]).await?;
    scene.outcome(&["release", &handle]).await?.is(0, &[]);
    scene.outcome(&["status", "job"]).await?.is(0, &["Free"]);
    assert!(scene.lease("job").await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_handle_that_nobody_reads_is_released() -> Result<()> {
    let scene = Scene::new().await?;
    let program = leasehold_testkit::bin("kubectl-leasehold")?.display().to_string();
    let unread = format!("{{ {program} acquire job --for 1h; echo code=$? >&2; }} | true");
    let unread = leasehold_testkit::Program::new("/bin/sh").args(["-c", &unread]).env("KUBECONFIG", scene.kubeconfig());
    let mut unread = unread.start()?;
    eventually(SOON, "a release", async || {
        ensure!(unread.output().contains("code=70"), "{}", unread.output());
        Ok(())
    })
    .await?;
    end(&mut unread).await?.is(0, &["nobody reads the handle"]);
    assert!(scene.lease("job").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn wait_tells_when_it_is_so() -> Result<()> {
    let scene = Scene::new().await?;
    scene.outcome(&["wait", "job", "--for", "free"]).await?.is(0, &[]);
    let late = ["wait", "job", "--for", "held", "--timeout", "200ms"];
    scene.outcome(&late).await?.is(75, &["job in namespace", "was not held within 200ms: held by nobody"]);
    // One that begins before there is a Lease.
    let mut held = scene.cli(["wait", "job", "--for", "holder=worker", "--timeout", "30s"])?.start()?;
    let mut holder = scene.holder("job", &[]).await?;
    end(&mut held).await?.is(0, &[]);
    let other = ["wait", "job", "--for", "holder=other", "--timeout", "200ms"];
    scene.outcome(&other).await?.is(75, &["was not held by other", "held by worker"]);
    let mut free = scene.cli(["wait", "job", "--for", "free"])?.start()?;
    scene.outcome(&["wait", "job", "--for", "free", "--timeout", "200ms"]).await?.is(75, &["held by worker"]);
    assert!(free.try_wait()?.is_none());
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    end(&mut free).await?.is(0, &[]);
    // Permits.
    let size = ["--semaphore", "--size", "2"];
    let mut one = scene.holder("db", &size).await?;
    scene.outcome(&["wait", "db", "--for", "free"]).await?.is(0, &[]);
    scene.outcome(&["wait", "db", "--for", "held"]).await?.is(0, &[]);
    let mut other = scene.holder("db", &size).await?;
    scene.outcome(&["wait", "db", "--for", "free", "--timeout", "200ms"]).await?.is(75, &["worker and 1 more"]);
    for holder in [&mut one, &mut other] {
        drop(holder.stdin());
        end(holder).await?.is(0, &[]);
    }
    scene.outcome(&["wait", "job", "--for", "gone"]).await?.is(64, &["free, held, holder=ID"]);
    Ok(())
}

#[tokio::test]
async fn what_changes_is_shown() -> Result<()> {
    let scene = Scene::new().await?;
    let mut list = scene.cli(["list", "-w"])?.start()?;
    let mut one = scene.cli(["status", "job", "-w", "-o", "json"])?.start()?;
    one.wait_for_line(SOON, |line| line.contains("\"state\": \"Free\"")).await?;
    let mut holder = scene.holder("job", &[]).await?;
    list.wait_for_line(SOON, |line| line.starts_with("NAME")).await?;
    list.wait_for_line(SOON, |line| line.starts_with("job") && line.contains("Held")).await?;
    one.wait_for_line(SOON, |line| line.contains("\"state\": \"Held\"")).await?;
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    list.wait_for_line(SOON, |line| line.starts_with("job") && line.contains("Free")).await?;
    one.wait_for_line(SOON, |line| line.contains("\"state\": \"Free\"")).await?;
    assert_eq!(list.output().matches("NAME").count(), 1, "{}", list.output());
    Ok(())
}

#[tokio::test]
async fn leases_are_chosen_by_their_labels() -> Result<()> {
    let scene = Scene::new().await?;
    let (mut a, mut b) = (scene.holder("a", &[]).await?, scene.holder("b", &["--semaphore", "--size", "1"]).await?);
    let named = async |selector: &str| {
        Ok::<_, anyhow::Error>(scene.outcome(&["list", "-o", "name", "-l", selector]).await?.output)
    };
    assert_eq!(named("leasehold.dev/kind=semaphore").await?, "lease.coordination.k8s.io/b\n");
    assert_eq!(named("leasehold.dev/kind=lock").await?, "lease.coordination.k8s.io/a\n");
    scene.outcome(&["list", "-l", "a in ("]).await?.is(64, &["-l \"a in (\"", "unable to parse"]);
    for holder in [&mut a, &mut b] {
        drop(holder.stdin());
        end(holder).await?.is(0, &[]);
    }
    Ok(())
}

#[tokio::test]
async fn names_are_completed_from_the_cluster() -> Result<()> {
    let scene = Scene::new().await?;
    let mut holder = scene.holder("nightly:report", &[]).await?;
    let complete = |words: &[&str]| -> Result<_> {
        Ok(leasehold_testkit::Program::new(leasehold_testkit::bin("kubectl_complete-leasehold")?)
            .env("KUBECONFIG", scene.kubeconfig())
            .args(words))
    };
    eventually(SOON, "a name", async || {
        let output = outcome(complete(&["status", "nigh"])?).await?;
        output.is(0, &[]);
        ensure!(output.output == "nightly:report\tlock held\n:4\n", "{}", output.output);
        Ok(())
    })
    .await?;
    outcome(complete(&["st"])?).await?.is(0, &["status\tShow one", ":4\n"]);
    outcome(complete(&["run", "--max-"])?).await?.is(0, &["--max-hold\t", "--max-clock-skew\t"]);
    // Another namespace, which the worker may not look at.
    outcome(complete(&["-n", "elsewhere", "status", ""])?).await?.is(0, &[":4\n"]);
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    Ok(())
}
