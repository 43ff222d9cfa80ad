//! `run` where all goes well, and its exit codes.

use std::fs;
use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use leasehold_testkit::{Cluster, Process, eventually};

use crate::support::{RUN, SOON, Scene, UNTIL_EOF, end, line_after, outcome};

/// From now on nobody answers at the address of the API server.
fn cut_off(scene: &Scene) -> Result<()> {
    // Nothing listens on the port of a listener that was closed.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let kubeconfig = fs::read_to_string(scene.kubeconfig())?;
    let server = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server: ")).context("a server")?;
    fs::write(scene.kubeconfig(), kubeconfig.replace(server, &format!("https://127.0.0.1:{port}")))?;
    Ok(())
}

#[tokio::test]
async fn the_exit_code_is_the_commands() -> Result<()> {
    let scene = Scene::new().await?;
    for (script, code) in
        [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
    {
        outcome(scene.script(&["job"], script)?).await?.is(code, &[]);
    }
    scene.outcome(&["run", "job", "--", "/nonexistent/command"]).await?.is(127, &["/nonexistent/command"]);
    scene.outcome(&["run", "job", "--", "/etc"]).await?.is(126, &["/etc"]);
    Ok(())
}

#[tokio::test]
async fn a_lock_that_was_used_leaves_nothing_behind() -> Result<()> {
    let scene = Scene::new().await?;
    scene.outcome(&["run", "job", "--", "true"]).await?.is(0, &[]);
    scene.outcome(&["run", "job", "--", "/nonexistent/command"]).await?.is(127, &[]);
    let leases = scene.namespace.kubectl(&["get", "leases", "-o", "name"]).await?;
    assert_eq!(leases, "");
    Ok(())
}

#[tokio::test]
async fn wrong_usage_is_64_and_sends_nothing() -> Result<()> {
    let scene = Scene::new().await?;
    // Whatever was sent would be answered with 69.
    cut_off(&scene)?;
    let long = "x".repeat(1025);
    for (args, text) in [
        (&["frob"][..], "frob"),
        (&["run", "job"], "CMD"),
        (&["run", "job", "true"], "CMD"),
        (&["run", "job", "--wait", "5", "--", "true"], "not a duration"),
        (&["run", "job", "--wait", "5s", "--no-wait", "--", "true"], "--no-wait"),
        (&["run", "job", "--lease-duration", "61s", "--", "true"], "between 1s and 60s"),
        (&["run", "job", "--lease-duration", "4s", "--grace", "5s", "--", "true"], "--grace"),
        (&["run", "x\ty", "--", "true"], "the character at byte 1 is a control character"),
        (&["status", ""], "an empty name will not do"),
        (&["run", &long, "--", "true"], "a name of 1025 bytes is too long"),
        (&["--context", "nowhere", "list"], "nowhere"),
        (&["--kubeconfig", "/nonexistent/file", "list"], "/nonexistent/file"),
    ] {
        scene.outcome(args).await?.is(64, &[text]);
    }
    scene.outcome(&["--help"]).await?.is(0, &["Examples:"]);
    scene.outcome(&["--version"]).await?.is(0, &["kubectl-leasehold"]);
    Ok(())
}

#[tokio::test]
async fn the_command_has_the_streams() -> Result<()> {
    let scene = Scene::new().await?;
    let script = "cat; echo complaint >&2";
    let mut process = scene.script(&["job"], script)?.piped_stdin().start()?;
    let mut stdin = process.stdin().context("it is piped")?;
    stdin.write_all("one\n\ntwo ümläut\n".as_bytes())?;
    drop(stdin);
    let mut lines = Vec::new();
    while let Some(line) = process.next_line().await {
        lines.push(line);
    }
    // Nothing else is written to standard output.
    assert_eq!(lines, ["one", "", "two ümläut"]);
    end(&mut process).await?.is(0, &["complaint"]);
    Ok(())
}

#[tokio::test]
async fn the_command_finds_the_lock_in_its_environment() -> Result<()> {
    let scene = Scene::new().await?;
    let mut last = 0;
    for _ in 0..3 {
        let script = "echo name=$LEASEHOLD_NAME; echo namespace=$LEASEHOLD_NAMESPACE; \
            echo holder=$LEASEHOLD_HOLDER; echo token=$LEASEHOLD_TOKEN; cat";
        let mut process = scene.script(&["job"], script)?.piped_stdin().start()?;
        assert_eq!(line_after(&mut process, "name=").await?, "job");
        assert_eq!(line_after(&mut process, "namespace=").await?, scene.namespace.name());
        let holder = line_after(&mut process, "holder=").await?;
        let token: u64 = line_after(&mut process, "token=").await?.parse()?;

        let lease = scene.lease("job").await?.context("it is held")?;
        assert_eq!(lease.spec.and_then(|spec| spec.holder_identity), Some(holder));
        ensure!(token > last, "{token} after {last}");
        last = token;
        drop(process.stdin());
        end(&mut process).await?.is(0, &[]);
    }
    Ok(())
}

#[tokio::test]
async fn a_namespace_can_be_named() -> Result<()> {
    let scene = Scene::new().await?;
    let other = scene.namespace.cluster().namespace("cli").await?;
    let admin = scene.namespace.cluster().kubeconfig_path().display().to_string();
    let run = [
        "run",
        "--kubeconfig",
        &admin,
        "-n",
        other.name(),
        "job",
        "--",
        "/bin/sh",
        "-c",
        "echo in=$LEASEHOLD_NAMESPACE",
    ];
    scene.outcome(&run).await?.is(0, &[&format!("in={}", other.name())]);
    // The worker is nobody there.
    scene.outcome(&["run", "-n", other.name(), "job", "--", "true"]).await?.is(77, &[other.name()]);
    Ok(())
}

#[tokio::test]
async fn a_lock_that_is_held_is_75_or_what_was_asked_for() -> Result<()> {
    let scene = Scene::new().await?;
    let holder = scene.holder("job", &[]).await?;
    let held = ["job", "held by worker since 20"];
    scene.outcome(&["run", "job", "--no-wait", "--", "true"]).await?.is(75, &held);
    scene.outcome(&["run", "job", "--wait", "0s", "--", "true"]).await?.is(75, &held);
    scene.outcome(&["run", "job", "--no-wait", "-E", "0", "--", "true"]).await?.is(0, &held);
    scene.outcome(&["run", "job", "--wait", "300ms", "-E", "9", "--", "true"]).await?.is(9, &["within 300ms", held[1]]);
    scene.wait_joins("job", 0).await?;
    drop(holder);
    Ok(())
}

#[tokio::test]
async fn a_long_wait_is_told_once_into_a_log() -> Result<()> {
    let scene = Scene::new().await?;
    let mut holder = scene.holder("job", &[]).await?;
    let second = scene.script(&["job"], UNTIL_EOF)?.env("POD_NAME", "second").piped_stdin();
    let mut second = second.start()?;
    scene.wait_joins("job", 1).await?;
    let mut waiter = scene.script(&["job"], "echo mine")?.start()?;
    scene.wait_joins("job", 2).await?;
    let mut loud = scene.script(&["job", "-v"], "echo mine too")?.start()?;
    let tells = async |process: &Process, text: &str| {
        eventually(SOON, "a word about the wait", async || {
            let output = process.output();
            ensure!(output.contains(text), "no {text:?} in {output}");
            Ok(())
        })
        .await
    };
    for (process, ahead) in [(&waiter, ", 1 ahead"), (&loud, ", 2 ahead")] {
        tells(process, "waiting for lock job, held by worker since 20").await?;
        tells(process, ahead).await?;
    }
    // One that has begun later tells of a change, by -v. So the other would have told of it too.
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    tells(&loud, "waiting for lock job, held by second since 20").await?;
    tells(&loud, ", 1 ahead").await?;
    drop(second.stdin());
    end(&mut second).await?.is(0, &[]);
    let ended = end(&mut waiter).await?;
    ended.is(0, &["mine"]);
    assert_eq!(ended.output.matches("waiting for").count(), 1);
    end(&mut loud).await?.is(0, &["mine too"]);
    Ok(())
}

#[tokio::test]
async fn runs_of_one_lock_do_not_overlap() -> Result<()> {
    let scene = Scene::new().await?;
    let file = scene.folder.path().join("log");
    // The counter is not atomic, and the words of two runs would mix.
    let script = format!(
        "echo in >> {0}; n=$(cat {0}.n 2>/dev/null || echo 0); sleep 0.1; echo $((n + 1)) > {0}.n; echo out >> {0}",
        file.display()
    );
    let mut processes = Vec::new();
    for _ in 0..6 {
        processes.push(scene.script(&["job"], &script)?.start()?);
    }
    for process in &mut processes {
        end(process).await?.is(0, &[]);
    }
    assert_eq!(fs::read_to_string(&file)?, "in\nout\n".repeat(6));
    assert_eq!(fs::read_to_string(file.with_extension("n"))?, "6\n");
    Ok(())
}

#[tokio::test]
async fn whoever_may_not_is_told_which_rule_is_missing() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let scene = Scene::with(cluster, &["get", "watch"]).await?;
    let user = format!("system:serviceaccount:{}:worker", scene.namespace.name());
    let place = format!("in namespace \"{}\"", scene.namespace.name());
    let rule = "resources: [\"leases\"]";
    let verbs = format!("verbs: {RUN:?}");
    scene.outcome(&["run", "job", "--", "true"]).await?.is(77, &[&user, "may not create", &place, rule, &verbs]);
    scene.outcome(&["list"]).await?.is(77, &[&user, "may not list", &place, "a Role with", rule]);
    scene.outcome(&["list", "-A"]).await?.is(77, &[&user, "in the whole cluster", "a ClusterRole with", rule]);
    scene.outcome(&["status", "job"]).await?.is(0, &["Free"]);
    Ok(())
}

#[tokio::test]
async fn the_rule_that_is_told_is_enough() -> Result<()> {
    let scene = Scene::with(Cluster::shared().await?, &RUN).await?;
    let mut holder = scene.holder("job", &[]).await?;
    let mut waiter = scene.script(&["job"], "echo mine")?.start()?;
    scene.wait_joins("job", 1).await?;
    drop(holder.stdin());
    end(&mut waiter).await?.is(0, &["mine"]);
    end(&mut holder).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn an_api_server_that_is_not_there_is_69() -> Result<()> {
    let scene = Scene::new().await?;
    cut_off(&scene)?;
    for args in
        [&["list"][..], &["status", "job"], &["run", "job", "--", "true"], &["run", "--no-wait", "job", "--", "true"]]
    {
        scene.outcome(args).await?.is(69, &["the API server cannot be reached"]);
    }
    Ok(())
}
