//! What `run` and `wait` do while the API server is out of reach, and where the namespace goes.

use std::fs;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::DeleteParams;
use leasehold_testkit::{Program, Signal, eventually};

use crate::proxy::Proxy;
use crate::support::{SOON, Scene, UNTIL_EOF, end, line_after, wait_dead};

/// `run` behind the proxy.
fn behind(scene: &Scene, proxy: &Proxy, options: &[&str], script: &str) -> Result<Program> {
    Ok(scene.script(options, script)?.env("KUBECONFIG", proxy.kubeconfig()).env("POD_NAME", "cut-off").named("cut-off"))
}

#[tokio::test]
async fn a_command_that_ignores_sigterm_is_dead_before_another_has_the_lock() -> Result<()> {
    let scene = Scene::new().await?;
    let proxy = Proxy::of(&scene).await?;
    let file = scene.folder.path().join("file").display().to_string();
    let lease = ["job", "--lease-duration", "3s", "--grace", "1s"];
    let stubborn = format!("trap '' TERM; echo ready; while :; do echo one >> {file}; sleep 0.01; done");
    let mut process = behind(&scene, &proxy, &lease, &stubborn)?.start()?;
    process.wait_for_line(SOON, |line| line == "ready").await?;
    let next = format!("echo two >> {file}; sleep 1; echo three >> {file}");
    let mut next = scene.script(&lease, &next)?.start()?;
    scene.wait_joins("job", 1).await?;
    proxy.cut();
    end(&mut next).await?.is(0, &[]);
    end(&mut process).await?.is(76, &["not renewed in time", "SIGKILL in"]);
    let text = fs::read_to_string(&file)?;
    let (one, rest) = text.split_once("two\n").unwrap_or_default();
    ensure!(one.starts_with("one\n") && rest == "three\n", "{text}");
    Ok(())
}

#[tokio::test]
async fn a_waiter_rides_out_an_outage_and_gets_what_it_was_granted_meanwhile() -> Result<()> {
    let scene = Scene::new().await?;
    let proxy = Proxy::of(&scene).await?;
    for away in [Proxy::cut, Proxy::close] {
        let mut holder = scene.holder("job", &[]).await?;
        let mut waiter = behind(&scene, &proxy, &["job"], "echo mine")?.start()?;
        scene.wait_joins("job", 1).await?;
        away(&proxy);
        drop(holder.stdin());
        end(&mut holder).await?.is(0, &[]);
        scene.outcome(&["status", "job"]).await?.is(0, &["Held", "cut-off"]);
        proxy.join();
        end(&mut waiter).await?.is(0, &["mine"]);
        assert!(scene.lease("job").await?.is_none());
    }
    Ok(())
}

#[tokio::test]
async fn a_waiter_that_is_cut_off_past_its_session_is_passed_over_and_waits_anew() -> Result<()> {
    let scene = Scene::new().await?;
    let proxy = Proxy::of(&scene).await?;
    let mut holder = scene.holder("job", &[]).await?;
    let mut waiter = behind(&scene, &proxy, &["job", "--lease-duration", "1s"], "echo late")?.start()?;
    scene.wait_joins("job", 1).await?;
    proxy.cut();
    let mut next = scene.script(&["job"], UNTIL_EOF)?.piped_stdin().start()?;
    scene.wait_joins("job", 2).await?;
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    next.wait_for_line(SOON, |line| line == "ready").await?;
    proxy.join();
    scene.wait_joins("job", 1).await?;
    drop(next.stdin());
    end(&mut next).await?.is(0, &[]);
    end(&mut waiter).await?.is(0, &["late"]);
    Ok(())
}

#[tokio::test]
async fn a_wait_ends_when_its_time_is_over_also_during_an_outage() -> Result<()> {
    let scene = Scene::new().await?;
    let proxy = Proxy::of(&scene).await?;
    let mut holder = scene.holder("job", &[]).await?;
    let mut waiter = behind(&scene, &proxy, &["job", "--wait", "3s"], "echo never")?.start()?;
    scene.wait_joins("job", 1).await?;
    proxy.cut();
    end(&mut waiter).await?.is(75, &["was not acquired within 3s", "held by worker_"]);
    proxy.join();
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn a_signal_ends_it_also_during_an_outage() -> Result<()> {
    let scene = Scene::new().await?;
    let proxy = Proxy::of(&scene).await?;
    // While it waits, and what it leaves behind is in nobody's way for long.
    let mut holder = scene.holder("job", &[]).await?;
    let mut waiter = behind(&scene, &proxy, &["job", "--lease-duration", "2s"], "echo never")?.start()?;
    scene.wait_joins("job", 1).await?;
    proxy.cut();
    waiter.signal(Signal::TERM)?;
    let ended = end(&mut waiter).await?;
    ended.is(143, &[]);
    assert!(!ended.output.contains("never"), "{}", ended.output);
    proxy.join();
    let mut next = scene.script(&["job"], "echo mine")?.start()?;
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    end(&mut next).await?.is(0, &["mine"]);

    // While its command runs.
    let script = "echo pid=$$; exec sleep 1000";
    let mut process = behind(&scene, &proxy, &["job", "--lease-duration", "20s"], script)?.start()?;
    let pid = line_after(&mut process, "pid=").await?.parse()?;
    proxy.cut();
    process.signal(Signal::TERM)?;
    wait_dead(pid).await?;
    end(&mut process).await?.is(143, &["did not confirm the release", "at the latest the lock passes on in 20s"]);
    proxy.join();
    scene.outcome(&["run", "job", "--wait", "25s", "--", "true"]).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn who_only_looks_rides_out_an_outage() -> Result<()> {
    let scene = Scene::new().await?;
    let proxy = Proxy::of(&scene).await?;
    let mut holder = scene.holder("job", &[]).await?;
    let behind = |args: &[&str]| anyhow::Ok(scene.cli(args)?.env("KUBECONFIG", proxy.kubeconfig()));
    let mut status = behind(&["status", "job", "-w"])?.start()?;
    status.wait_for_line(SOON, |line| line.contains("Held")).await?;
    let mut wait = behind(&["wait", "job", "--for", "free"])?.env("LEASEHOLD_LOG", "kube=debug").start()?;
    // It has had an answer when it watches.
    eventually(SOON, "a watch", async || {
        ensure!(wait.output().contains("&watch=true"), "{}", wait.output());
        Ok(())
    })
    .await?;
    proxy.close();
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    // Each of the two has tried again, more than once.
    eventually(SOON, "attempts in vain", async || {
        ensure!(proxy.refused() >= 6, "{}", proxy.refused());
        Ok(())
    })
    .await?;
    assert!(wait.try_wait()?.is_none(), "{}", wait.output());
    proxy.join();
    end(&mut wait).await?.is(0, &[]);
    status.wait_for_line(SOON, |line| line.contains("Free")).await?;
    Ok(())
}

#[tokio::test]
async fn a_namespace_that_is_deleted_ends_who_holds_and_who_waits() -> Result<()> {
    let scene = Scene::new().await?;
    let admin = scene.namespace.cluster().kubeconfig_path().display().to_string();
    let as_admin = ["job", "--lease-duration", "2s", "--kubeconfig", &admin, "-n", scene.namespace.name()];
    let mut holder = scene.script(&as_admin, "echo pid=$$; exec sleep 1000")?.start()?;
    let pid = line_after(&mut holder, "pid=").await?.parse()?;
    let mut waiter = scene.script(&as_admin, "echo never")?.start()?;
    scene.wait_joins("job", 1).await?;
    let namespaces: Api<Namespace> = Api::all(scene.namespace.client());
    namespaces.delete(scene.namespace.name(), &DeleteParams::default()).await?;
    end(&mut holder).await?.is(76, &["lost"]);
    wait_dead(pid).await?;
    // As long as it is being deleted it is said so, and afterwards that it does not exist.
    let ended = end(&mut waiter).await?;
    let told = [(77, "it is being terminated"), (64, "the namespace does not exist")];
    ensure!(told.iter().any(|(code, text)| ended.code == Some(*code) && ended.output.contains(text)), "{ended:?}");
    assert!(!ended.output.contains("never"), "{}", ended.output);
    Ok(())
}
