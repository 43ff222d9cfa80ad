//! `elect`: a command that runs in one of several replicas, and answers for a container beside.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use leasehold_testkit::{Process, Signal, eventually};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{SOON, Scene, UNTIL_EOF, end, line_after, outcome, wait_dead};

const ELECT: [&str; 4] = ["elect", "boss", "--lease-duration", "3s"];

fn replica(scene: &Scene, name: &str, options: &[&str], script: &str) -> Result<leasehold_testkit::Program> {
    let program = scene.cli(ELECT)?.args(options).args(["--", "/bin/sh", "-c", script]);
    Ok(program.env("POD_NAME", name).named(name.to_owned()))
}

/// One that has no command, and where it answers.
async fn sidecar(scene: &Scene, name: &str, options: &[&str]) -> Result<(Process, String)> {
    let serve = ["--serve", "127.0.0.1:0"];
    let mut process = scene.cli(ELECT)?.args(serve).args(options).env("POD_NAME", name).start()?;
    let address = eventually(SOON, "an address", async || {
        let output = process.output();
        let (_, rest) = output.split_once("answering at http://").context("not yet")?;
        Ok(rest.split_once('/').context("not all of it")?.0.to_owned())
    })
    .await?;
    assert!(process.try_wait()?.is_none());
    Ok((process, address))
}

/// The status and the body of an answer.
async fn ask(address: &str, path: &str) -> Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    timeout(SOON, async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_string(&mut answer).await
    })
    .await??;
    let status = answer.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, answer.split_once("\r\n\r\n").context("a body")?.1.to_owned()))
}

#[tokio::test]
async fn one_of_them_works_and_another_goes_on() -> Result<()> {
    let scene = Scene::new().await?;
    let mut one = replica(&scene, "one", &[], UNTIL_EOF)?.piped_stdin().start()?;
    one.wait_for_line(SOON, |line| line == "ready").await?;
    let mut two = replica(&scene, "two", &[], "echo token=$LEASEHOLD_TOKEN; exec cat")?.piped_stdin().start()?;
    scene.wait_joins("boss", 1).await?;
    scene.outcome(&["status", "boss"]).await?.is(0, &["one (one_", "1. two (two_"]);
    // One that ends hands on at once.
    drop(one.stdin());
    end(&mut one).await?.is(0, &["leads boss with token "]);
    line_after(&mut two, "token=").await?;
    // And one that is killed is followed when its lease is over.
    let mut three = replica(&scene, "three", &[], "echo three; exit 7")?.start()?;
    scene.wait_joins("boss", 1).await?;
    two.signal(Signal::KILL)?;
    end(&mut three).await?.is(7, &["three"]);
    Ok(())
}

#[tokio::test]
async fn a_loss_restarts_the_command_or_ends_it() -> Result<()> {
    let scene = Scene::new().await?;
    let script = "echo pid=$$; exec sleep 1000";
    let delete = async || -> Result<()> {
        scene.namespace.api::<Lease>().delete("boss", &DeleteParams::default()).await?;
        Ok(())
    };
    let mut process = replica(&scene, "one", &["--on-loss", "restart"], script)?.start()?;
    let first: u32 = line_after(&mut process, "pid=").await?.parse()?;
    delete().await?;
    let second: u32 = line_after(&mut process, "pid=").await?.parse()?;
    wait_dead(first).await?;
    assert_ne!(first, second);
    process.signal(Signal::TERM)?;
    end(&mut process).await?.is(143, &["standing for election again"]);
    wait_dead(second).await?;

    let mut process = replica(&scene, "one", &["--on-loss", "exit"], script)?.start()?;
    let pid: u32 = line_after(&mut process, "pid=").await?.parse()?;
    delete().await?;
    end(&mut process).await?.is(76, &["lost"]);
    wait_dead(pid).await?;
    Ok(())
}

#[tokio::test]
async fn a_candidate_that_has_led_before_can_be_stopped_and_continued() -> Result<()> {
    let scene = Scene::new().await?;
    let mut one = replica(&scene, "one", &["--on-loss", "restart"], "echo works; exec sleep 1000")?.start()?;
    one.wait_for_line(SOON, |line| line == "works").await?;
    let mut two = replica(&scene, "two", &[], UNTIL_EOF)?.piped_stdin().start()?;
    scene.wait_joins("boss", 1).await?;
    scene.outcome(&["break", "boss", "--reason", "it hangs", "--yes"]).await?.is(0, &["broke what"]);
    two.wait_for_line(SOON, |line| line == "ready").await?;
    scene.wait_joins("boss", 1).await?;
    for _ in 0..2 {
        one.signal(Signal::CONT)?;
        one.signal(Signal::TSTP)?;
        eventually(SOON, "a stopped candidate", async || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", one.id()))?;
            ensure!(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')), "{stat}");
            Ok(())
        })
        .await?;
        one.signal(Signal::CONT)?;
    }
    drop(two.stdin());
    end(&mut two).await?.is(0, &[]);
    one.wait_for_line(SOON, |line| line == "works").await?;
    one.signal(Signal::TERM)?;
    end(&mut one).await?.is(143, &["standing for election again"]);
    Ok(())
}

#[tokio::test]
async fn told_to_end_while_its_command_is_stopped_after_a_loss_it_does_not_stand_again() -> Result<()> {
    let scene = Scene::new().await?;
    let options = ["elect", "boss", "--on-loss", "restart", "--lease-duration", "40s", "--grace", "20s"];
    let script = r#"trap 'echo asked; trap "echo told; exit 0" TERM' TERM; echo ready; while :; do sleep 0.05; done"#;
    let mut process = scene.cli(options)?.args(["--", "/bin/sh", "-c", script]).start()?;
    process.wait_for_line(SOON, |line| line == "ready").await?;
    scene.namespace.api::<Lease>().delete("boss", &DeleteParams::default()).await?;
    process.wait_for_line(SOON, |line| line == "asked").await?;
    process.signal(Signal::TERM)?;
    let ended = end(&mut process).await?;
    ended.is(76, &["told"]);
    assert!(!ended.output.contains("standing for election again"), "{}", ended.output);
    Ok(())
}

#[tokio::test]
async fn a_container_beside_it_is_told_who_leads() -> Result<()> {
    let scene = Scene::new().await?;
    let (mut one, of_one) = sidecar(&scene, "one", &["--payload", "http://one:80/"]).await?;
    eventually(SOON, "a leader", async || {
        let (status, body) = ask(&of_one, "/readyz").await?;
        ensure!(status == 200 && body == "leads\n", "{status} {body}");
        Ok(())
    })
    .await?;
    let (mut two, of_two) = sidecar(&scene, "two", &[]).await?;
    scene.wait_joins("boss", 1).await?;
    assert_eq!(ask(&of_two, "/readyz").await?, (503, "does not lead\n".to_owned()));
    assert_eq!(ask(&of_two, "/healthz").await?, (200, "ok\n".to_owned()));
    for (address, is_leader) in [(&of_one, true), (&of_two, false)] {
        eventually(SOON, "a word about the leader", async || {
            let (status, body) = ask(address, "/").await?;
            let told: Value = serde_json::from_str(&body)?;
            ensure!(status == 200 && told["isLeader"] == is_leader && told["election"] == "boss", "{body}");
            ensure!(told["leader"]["host"] == "one" && told["leader"]["payload"] == "http://one:80/", "{body}");
            ensure!(told["leader"]["since"].is_string(), "{body}");
            Ok(())
        })
        .await?;
    }
    one.signal(Signal::TERM)?;
    end(&mut one).await?.is(0, &[]);
    eventually(SOON, "the next leader", async || {
        let (status, _) = ask(&of_two, "/readyz").await?;
        ensure!(status == 200, "{status}");
        Ok(())
    })
    .await?;
    two.signal(Signal::INT)?;
    end(&mut two).await?.is(0, &[]);
    assert!(scene.lease("boss").await?.is_none(), "it has stepped down");
    Ok(())
}

#[tokio::test]
async fn a_candidate_that_is_told_to_end_leaves_the_queue() -> Result<()> {
    let scene = Scene::new().await?;
    let mut one = replica(&scene, "one", &[], UNTIL_EOF)?.piped_stdin().start()?;
    one.wait_for_line(SOON, |line| line == "ready").await?;
    let mut two = replica(&scene, "two", &[], "echo never")?.start()?;
    scene.wait_joins("boss", 1).await?;
    two.signal(Signal::TERM)?;
    end(&mut two).await?.is(143, &[]);
    assert_eq!(scene.joins("boss").await?, [] as [String; 0]);
    let (mut three, _) = sidecar(&scene, "three", &[]).await?;
    scene.wait_joins("boss", 1).await?;
    three.signal(Signal::TERM)?;
    end(&mut three).await?.is(0, &[]);
    drop(one.stdin());
    end(&mut one).await?.is(0, &[]);
    scene.outcome(&["elect", "boss"]).await?.is(64, &["CMD"]);
    scene.outcome(&["elect", "boss", "--serve", "localhost", "--", "true"]).await?.is(64, &["--serve"]);
    Ok(())
}

#[tokio::test]
async fn a_paused_leader_does_not_say_that_it_leads() -> Result<()> {
    let scene = Scene::new().await?;
    let (one, of_one) = sidecar(&scene, "one", &[]).await?;
    eventually(SOON, "a leader", async || {
        ensure!(ask(&of_one, "/readyz").await?.0 == 200);
        Ok(())
    })
    .await?;
    one.signal(Signal::STOP)?;
    // Somebody else leads, so its lease is over.
    outcome(replica(&scene, "two", &[], "exit 0")?).await?.is(0, &[]);
    let answer = tokio::spawn({
        let address = of_one.clone();
        async move { ask(&address, "/readyz").await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    one.signal(Signal::CONT)?;
    // It may lead again, by an election that it has won since, but not by the old one: then its log tells.
    let (status, _) = answer.await??;
    assert!(status == 503 || one.output().matches("leads boss").count() == 2, "{status}: {}", one.output());
    Ok(())
}
