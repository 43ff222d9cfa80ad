//! `break`.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use leasehold::protocol::record::Broken;
use leasehold_testkit::bin;

use crate::support::{SOON, Scene, end};
use crate::terminal::Terminal;

fn identity(scene: &leasehold::protocol::Record) -> String {
    scene.holder.as_ref().map(|holder| holder.identity.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_lock_is_broken_and_its_holder_told() -> Result<()> {
    let scene = Scene::new().await?;
    let why = ["--reason", "it hangs"];
    let broken = async |more: &[&str]| scene.outcome(&[&["break", "job"], more].concat()).await;
    broken(&why).await?.is(0, &["nobody holds job"]);
    let mut holder = scene.holder("job", &[]).await?;
    let record = leasehold::protocol::Record::parse(scene.lease("job").await?.context("the Lease")?)?;
    let held = identity(&record);

    broken(&[]).await?.is(64, &["--reason"]);
    broken(&["--reason", " ", "--yes"]).await?.is(64, &["say what for"]);
    // Nobody is at a terminal.
    broken(&why).await?.is(64, &["say --yes"]);
    broken(&[&why[..], &["--yes", "--holder", "another_x.1"]].concat())
        .await?
        .is(0, &["another_x.1 does not hold job"]);
    ensure!(identity(&leasehold::protocol::Record::parse(scene.lease("job").await?.context("the Lease")?)?) == held);

    broken(&[&why[..], &["--yes", "--holder", &held]].concat())
        .await?
        .is(0, &["broke what", &held, "until it notices"]);
    let said = Broken::of(&scene.lease("job").await?.context("its Lease has gone")?).context("no trace")?;
    ensure!((said.reason.as_str(), &said.holder) == ("it hangs", &held), "{said:?}");
    ensure!(said.by.starts_with("system:serviceaccount:"), "{said:?}");
    end(&mut holder).await?.is(76, &["somebody took it away"]);
    Ok(())
}

#[tokio::test]
async fn at_a_terminal_it_asks() -> Result<()> {
    let scene = Scene::new().await?;
    let mut holder = scene.holder("job", &[]).await?;
    for (answer, code, told) in [("n\n", 75, "nothing was broken"), ("y\n", 0, "broke what")] {
        let mut command = Command::new(bin("kubectl-leasehold")?);
        command.env("KUBECONFIG", scene.kubeconfig()).args(["break", "job", "--reason", "it hangs"]);
        let mut terminal = Terminal::start(command)?;
        terminal.shows("nobody waits, so it is free then", 1).await?;
        terminal.shows("break it? [y/N]", 1).await?;
        terminal.press(answer)?;
        terminal.shows(told, 1).await?;
        assert_eq!(terminal.exit_code().await?, Some(code));
    }
    tokio::time::timeout(SOON, end(&mut holder)).await??.is(76, &[]);
    Ok(())
}
