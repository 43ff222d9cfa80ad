//! `run` with several kinds of things at once.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::support::{SOON, Scene, UNTIL_EOF, end, outcome};

const SIZE: [&str; 2] = ["--size", "3"];

#[tokio::test]
async fn kinds_are_held_all_or_none() -> Result<()> {
    let scene = Scene::new().await?;
    let mut writer = scene.holder("table", &["--write"]).await?;
    let all = ["--read", "table", "--lock", "a", "--semaphore", "pool", "--permits", "2", SIZE[0], SIZE[1]];
    let tried = outcome(scene.script(&[&all[..], &["--no-wait"]].concat(), "echo never")?).await?;
    tried.is(75, &["read-write lock table in namespace", "held by worker since"]);
    let late = outcome(scene.script(&[&all[..], &["--wait", "300ms"]].concat(), "echo never")?).await?;
    late.is(75, &["read-write lock table", "within 300ms"]);
    for free in ["a", "pool"] {
        assert!(scene.lease(free).await?.is_none(), "{free}");
    }
    let script = format!("printf %s \"$LEASEHOLD_NAME\" | tr '\\n' ,; echo; {UNTIL_EOF}");
    let mut holder = scene.script(&[&all[..], &["-v"]].concat(), &script)?.piped_stdin().start()?;
    scene.wait_joins("table", 1).await?;
    drop(writer.stdin());
    end(&mut writer).await?.is(0, &[]);
    // In the order of the command line.
    holder.wait_for_line(SOON, |line| line == "table,a,pool").await?;
    let run = async |words: &[&str]| scene.outcome(&[&["run"], words, &["--no-wait", "--", "true"]].concat()).await;
    run(&["a"]).await?.is(75, &["lock a"]);
    run(&["table", "--read"]).await?.is(0, &[]);
    run(&["--write", "table"]).await?.is(75, &["read-write lock table"]);
    run(&["--semaphore", "pool", "--permits", "2", SIZE[0], SIZE[1]]).await?.is(75, &["semaphore pool"]);
    run(&["--semaphore", "pool", SIZE[0], SIZE[1]]).await?.is(0, &[]);
    let pool: Value = serde_json::from_str(&scene.outcome(&["status", "pool", "-o", "json"]).await?.output)?;
    assert_eq!(pool["permits"], serde_json::json!({"total": 3, "held": 2, "available": 1}));
    drop(holder.stdin());
    end(&mut holder)
        .await?
        .is(0, &["acquired semaphore pool with token ", "released lock a, semaphore pool, read-write lock table"]);

    // Where one of them is lost, all is over.
    let mut holder = scene.script(&all, UNTIL_EOF)?.piped_stdin().start()?;
    holder.wait_for_line(SOON, |line| line == "ready").await?;
    scene.outcome(&["break", "pool", "--reason", "to see", "--yes"]).await?.is(0, &["broke what"]);
    end(&mut holder).await?.is(76, &["pool"]);
    run(&["a"]).await?.is(0, &[]);
    run(&["--write", "table"]).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn whatever_the_order_nobody_waits_in_a_circle() -> Result<()> {
    let scene = Scene::new().await?;
    let file = scene.folder.path().join("log").display().to_string();
    let mut first = scene.holder("a", &[]).await?;
    let mut last = scene.holder("z", &["--semaphore", "--size", "1"]).await?;
    let work = format!("echo in >> {file}; sleep 0.2; echo out >> {file}");
    let (lock, permit, writes) = (["--lock", "a"], ["--semaphore", "z", "--size", "1"], ["--write", "m"]);
    let one = [&lock[..], &writes, &permit].concat();
    let other = [&permit[..], &writes, &lock].concat();
    let mut one = scene.script(&one, &work)?.start()?;
    let mut other = scene.script(&other, &work)?.start()?;
    // Both begin with what has the least name, and have nothing until they have that.
    scene.wait_joins("a", 2).await?;
    assert_eq!(scene.joins("z").await?, [] as [String; 0]);
    drop(first.stdin());
    end(&mut first).await?.is(0, &[]);
    scene.wait_joins("z", 1).await?;
    assert_eq!(scene.joins("a").await?.len(), 1);
    drop(last.stdin());
    end(&mut last).await?.is(0, &[]);
    for process in [&mut one, &mut other] {
        end(process).await?.is(0, &[]);
    }
    assert_eq!(fs::read_to_string(&file)?, "in\nout\n".repeat(2));
    for free in ["a", "m", "z"] {
        assert!(scene.lease(free).await?.is_none(), "{free}");
    }
    Ok(())
}

#[tokio::test]
async fn what_contradicts_itself_is_64() -> Result<()> {
    let scene = Scene::new().await?;
    for (words, text) in [
        (&["--read", "a", "b"][..], "of what kind b is has to be said"),
        (&["--lock", "a", "--permits", "2"], "--permits is of a semaphore"),
        (&["--lock", "a", "--read", "a"], "\"a\" was named as a lock and as a rwlock"),
        (&["--lock", ""], "an empty name will not do"),
        (&["--lock", "a", "--read"], "nothing is named: --read NAME"),
        (&[], "nothing is named"),
    ] {
        scene.outcome(&[&["run"], words, &["--", "true"]].concat()).await?.is(64, &[text]);
    }
    let leases = scene.namespace.kubectl(&["get", "leases", "-o", "name"]).await?;
    ensure!(leases.is_empty(), "{leases}");
    Ok(())
}
