//! What the process does by itself: how it begins and ends, whom it answers, and what it says when it hears nothing.

use anyhow::{Context as _, Result, ensure};
use leasehold_testkit::{Cluster, Process, Signal};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{SOON, Scene, Ui};

async fn request(ui: &Ui, text: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(ui.authority()?).await?;
    stream.write_all(text.replace('\n', "\r\n").as_bytes()).await?;
    Ok(stream)
}

async fn answer(ui: &Ui, text: &str) -> Result<String> {
    let mut answer = String::new();
    timeout(SOON, request(ui, text).await?.read_to_string(&mut answer)).await??;
    Ok(answer)
}

/// The data of the next event of this name.
async fn event(lines: &mut Lines<BufReader<TcpStream>>, name: &str) -> Result<serde_json::Value> {
    timeout(SOON, async {
        let wanted = format!("event: {name}");
        loop {
            let line = lines.next_line().await?.context("the stream has ended")?;
            if line == wanted {
                let data = lines.next_line().await?.context("the stream has ended")?;
                return Ok(serde_json::from_str(data.strip_prefix("data: ").context("no data")?)?);
            }
        }
    })
    .await?
}

async fn ends_with(process: &mut Process, code: i32, texts: &[&str]) -> Result<()> {
    let status = process.wait_exit(SOON).await?;
    let output = process.output();
    ensure!(status.code() == Some(code), "{status}: {output}");
    for text in texts {
        ensure!(output.contains(text), "no {text:?} in: {output}");
    }
    Ok(())
}

#[tokio::test]
async fn it_answers_this_machine_and_ends_when_it_is_told_to() -> Result<()> {
    let scene = Scene::new().await?;
    let _holder = scene.holder("first", "job", &[]).await?;
    for signal in [Signal::INT, Signal::TERM] {
        let mut ui = scene.ui(&[]).await?;
        let list = answer(&ui, "GET /api/locks HTTP/1.1\nHost: localhost\nConnection: close\n\n").await?;
        ensure!(list.starts_with("HTTP/1.1 200") && list.contains("\"holder\":\"first\""), "{list}");
        let rebound = answer(&ui, "GET /api/locks HTTP/1.1\nHost: evil.example\nConnection: close\n\n").await?;
        ensure!(rebound.starts_with("HTTP/1.1 403") && !rebound.contains("first"), "{rebound}");
        let post = answer(&ui, "POST / HTTP/1.1\nHost: localhost\nContent-Length: 0\nConnection: close\n\n").await?;
        ensure!(post.starts_with("HTTP/1.1 405"), "{post}");
        // Also while somebody looks.
        let mut lines = BufReader::new(request(&ui, "GET /api/stream HTTP/1.1\nHost: localhost\n\n").await?).lines();
        event(&mut lines, "list").await?;
        ui.process.signal(signal)?;
        ends_with(&mut ui.process, 0, &["showing what is held in namespace"]).await?;
        let stdout = ui.process.drain_lines();
        ensure!(stdout.is_empty(), "the address stands alone: {stdout:?}");
    }
    Ok(())
}

#[tokio::test]
async fn errors_say_what_to_do() -> Result<()> {
    let scene = Scene::new().await?;
    let ui = scene.ui(&[]).await?;
    let port = ui.authority()?.rsplit_once(':').context("no port")?.1;
    let mut second = scene.cli("viewer", &["ui", "--port", port])?.start()?;
    ends_with(&mut second, 64, &["cannot serve at 127.0.0.1:", "--port 0"]).await?;
    let mut elsewhere = scene.cli("viewer", &["ui", "--port", "0", "--address", "192.0.2.1"])?.start()?;
    ends_with(&mut elsewhere, 64, &["This machine has no such address"]).await?;
    let mut all = scene.cli("viewer", &["ui", "--port", "0", "-A"])?.start()?;
    ends_with(&mut all, 77, &["may not list leases", "in the whole cluster", "\"watch\""]).await?;
    let listing = Scene::with(Cluster::shared().await?, &["list"]).await?;
    let mut blind = listing.cli("viewer", &["ui", "--port", "0"])?.start()?;
    ends_with(&mut blind, 77, &["may not watch leases", "It takes \"list\" and \"watch\""]).await?;
    let mut everywhere = scene.cli("viewer", &["ui", "--port", "0", "--address", "0.0.0.0"])?.start()?;
    everywhere.wait_for_line(SOON, |line| line.starts_with("http://127.0.0.1:")).await?;
    everywhere.signal(Signal::TERM)?;
    ends_with(&mut everywhere, 0, &["WARNING: anybody who reaches 0.0.0.0:"]).await?;
    let browserless = scene.cli("viewer", &["ui", "--port", "0", "--open"])?.env("PATH", "/nowhere");
    let mut browserless = browserless.start()?;
    browserless.wait_for_line(SOON, |line| line.starts_with("http://")).await?;
    browserless.signal(Signal::TERM)?;
    ends_with(&mut browserless, 0, &["no browser can be opened", "yourself"]).await
}

#[tokio::test]
async fn an_api_server_that_is_gone_is_told_of_and_found_again() -> Result<()> {
    let cluster = Cluster::start().await?;
    let scene = Scene::in_cluster(&cluster).await?;
    let mut holder = scene.holder("first", "job", &[]).await?;
    let ui = scene.ui(&[]).await?;
    let text = format!("GET /api/stream?lock={}/job HTTP/1.1\nHost: localhost\n\n", scene.namespace.name());
    let mut lines = BufReader::new(request(&ui, &text).await?).lines();
    ensure!(event(&mut lines, "server").await?["heard"] == true);
    cluster.kill_apiserver().await?;
    let silent = event(&mut lines, "server").await?;
    ensure!(silent["heard"] == false && silent["since"].is_string() && silent["why"].is_string(), "{silent}");
    cluster.start_apiserver().await?;
    // Why it is not heard of may change before.
    while event(&mut lines, "server").await?["heard"] == false {}
    // What happens from then on is seen, and that there was a time in which nothing was.
    drop(holder.stdin());
    holder.wait_exit(SOON).await?;
    loop {
        let lock = event(&mut lines, "lock").await?;
        if lock.get("lock").is_none() {
            let gaps = lock["timeline"]["gaps"].as_array().context("no gaps")?;
            ensure!(gaps.len() == 1 && gaps[0]["to"].is_string(), "{gaps:?}");
            return Ok(());
        }
    }
}
