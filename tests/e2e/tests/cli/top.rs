//! `top`, at a terminal and elsewhere.

use std::process::Command;

use anyhow::{Result, ensure};
use leasehold_testkit::{Cluster, bin, eventually};
use rustix::process::Signal;

use crate::signals::is_stopped;
use crate::support::{LIST, RUN, SOON, Scene, UNTIL_EOF, end};
use crate::terminal::Terminal;

/// What a program writes to leave the screen of its own, and to show the cursor.
const GIVEN_BACK: [&str; 2] = ["\u{1b}[?1049l", "\u{1b}[?25h"];

/// What it writes to take that screen.
const TAKEN: &str = "\u{1b}[?1049h";

fn top(scene: &Scene) -> Result<Terminal> {
    let mut command = Command::new(bin("kubectl-leasehold")?);
    command.env("KUBECONFIG", scene.kubeconfig()).env("TERM", "xterm").arg("top");
    Terminal::start(command)
}

#[tokio::test]
async fn a_lock_and_its_hand_over_are_shown_and_keys_work() -> Result<()> {
    let scene = Scene::new().await?;
    let mut holder = scene.holder("job", &[]).await?;
    let mut terminal = top(&scene)?;
    terminal.shows("job", 1).await?;
    terminal.shows("worker", 1).await?;
    ensure!(!terminal.takes_lines()?, "keys come one by one");
    // Another waits, and then has it.
    let second = scene.script(&["job"], UNTIL_EOF)?.env("POD_NAME", "2nd").piped_stdin();
    let mut second = second.start()?;
    scene.wait_joins("job", 1).await?;
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    terminal.shows("2nd", 1).await?;
    // What has not changed on the screen is not written again, so only parts of texts are looked for.
    terminal.press("\r")?;
    terminal.shows("(2nd_", 1).await?;
    terminal.press("\u{1b}")?;
    terminal.shows("KIND", 2).await?;
    terminal.press("/nothing\r")?;
    terminal.shows("(0", 1).await?;
    // All is drawn again in another size.
    terminal.resize(30, 6)?;
    terminal.shows("NAME", 3).await?;
    terminal.press("?")?;
    terminal.shows("Home", 1).await?;
    terminal.press("x")?;
    terminal.shows("NAME", 4).await?;
    terminal.press("q")?;
    assert_eq!(terminal.exit_code().await?, Some(0));
    is_given_back(&terminal).await?;
    drop(second.stdin());
    end(&mut second).await?.is(0, &[]);
    Ok(())
}

async fn is_given_back(terminal: &Terminal) -> Result<()> {
    ensure!(terminal.takes_lines()?, "the terminal is as it was");
    eventually(SOON, "the end of what was written", async || {
        let text = terminal.text();
        ensure!(GIVEN_BACK.iter().all(|code| text.contains(code)), "{text:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_signal_ends_it_and_the_terminal_is_given_back() -> Result<()> {
    let scene = Scene::new().await?;
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut terminal = top(&scene)?;
        terminal.shows("q quit", 1).await?;
        ensure!(!terminal.takes_lines()?);
        terminal.signal(signal)?;
        assert_eq!(terminal.exit_code().await?, Some(code));
        is_given_back(&terminal).await?;
    }
    let mut terminal = top(&scene)?;
    terminal.shows("q quit", 1).await?;
    terminal.press("\u{3}")?;
    assert_eq!(terminal.exit_code().await?, Some(0));
    is_given_back(&terminal).await
}

#[tokio::test]
async fn whoever_was_stopped_unasked_takes_the_terminal_again() -> Result<()> {
    let scene = Scene::new().await?;
    let mut holder = scene.holder("job", &[]).await?;
    let mut terminal = top(&scene)?;
    terminal.shows("job", 1).await?;
    terminal.shows("q quit", 1).await?;
    terminal.signal(Signal::STOP)?;
    is_stopped(terminal.pid()).await?;
    terminal.take_lines()?;
    let before = |text: &str| terminal.text().matches(text).count();
    let (entered, shown, keys) = (before(TAKEN), before("job"), before("q quit"));
    terminal.signal(Signal::CONT)?;
    // What has not changed is drawn again too.
    terminal.shows(TAKEN, entered + 1).await?;
    terminal.shows("job", shown + 1).await?;
    terminal.shows("q quit", keys + 1).await?;
    ensure!(!terminal.takes_lines()?, "keys come one by one");
    terminal.press("q")?;
    assert_eq!(terminal.exit_code().await?, Some(0));
    is_given_back(&terminal).await?;
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn without_a_terminal_one_table_is_printed() -> Result<()> {
    let scene = Scene::new().await?;
    let mut holder = scene.holder("job", &[]).await?;
    let once = scene.outcome(&["top", "--for", "1s"]).await?;
    once.is(0, &["this is no terminal: one table after watching for 1s (--for)", "NAME", "LONGEST", "job", "worker"]);
    ensure!(!once.output.contains('\u{1b}'), "{}", once.output);
    let once = scene.outcome(&["top", "--once", "--for", "1s", "-l", "leasehold.dev/kind=semaphore"]).await?;
    ensure!(!once.output.contains("job") && !once.output.contains("terminal"), "{}", once.output);
    scene.outcome(&["top", "-A", "--for", "1s"]).await?.is(77, &["list", "This needs a ClusterRole"]);
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn an_outage_is_told_and_ridden_out() -> Result<()> {
    let cluster = Cluster::start().await?;
    let scene = Scene::with(&cluster, &[&RUN[..], &[LIST]].concat()).await?;
    let mut terminal = top(&scene)?;
    terminal.shows("q quit", 1).await?;
    terminal.shows("0, busiest", 1).await?;
    cluster.stop_apiserver().await?;
    terminal.shows("last heard", 1).await?;
    terminal.shows("s ago: ", 1).await?;
    cluster.start_apiserver().await?;
    let mut holder = scene.holder("afterwards", &[]).await?;
    terminal.shows("afterwards", 1).await?;
    terminal.press("q")?;
    assert_eq!(terminal.exit_code().await?, Some(0));
    is_given_back(&terminal).await?;
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    Ok(())
}
