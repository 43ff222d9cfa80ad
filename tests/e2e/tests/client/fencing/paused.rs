//! A holder that is stopped, loses the lock, and writes when it is continued.

use std::io::Write as _;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use leasehold::FENCE;
use leasehold_testkit::{Namespace, Signal};

use super::{fenced_namespace, object, rules};
use crate::support::{SOON, Workers, client, namespace};

/// What came of the ten writes that the awakened holder sent, each `<form> <fenced or bare> <code> <message>`.
async fn stop_and_continue(namespace: &Namespace) -> Result<Vec<String>> {
    let objects = namespace.api::<ConfigMap>();
    objects.create(&PostParams::default(), &object("settings", None)).await?;
    let workers = Workers::with_rules(namespace, rules()).await?;
    let program = workers.program("stopped", &["--name", "a", "fence", "settings"])?;
    let mut stopped = program.piped_stdin().start()?;
    stopped.wait_for_line(SOON, |line| line == "wrote").await?;
    stopped.signal(Signal::STOP)?;

    let next = client(namespace, 3)?.lock("a").build()?;
    let guard = tokio::time::timeout(SOON, next.acquire()).await.context("the lock does not pass on")??;
    let write = async |by: &str| {
        let mut object = objects.get("settings").await?;
        guard.fence(&mut object)?;
        object.data.get_or_insert_default().insert("by".to_owned(), by.to_owned());
        anyhow::Ok(objects.replace("settings", &PostParams::default(), &object).await?)
    };
    write("next").await?;
    writeln!(stopped.stdin().context("its standard input")?, "go on")?;
    stopped.signal(Signal::CONT)?;
    let last = stopped.wait_for_line(SOON, |line| line.starts_with("then ")).await?;
    ensure!(last.starts_with("then Err("), "it got another fence though it has lost the lock: {last}");
    let output = stopped.output();
    // Whoever holds it now is not disturbed.
    let seen = objects.get("settings").await?.data.unwrap_or_default()["by"].clone();
    let written = write("next, again").await?;
    let fence = written.metadata.annotations.unwrap_or_default()[FENCE].clone();
    ensure!(fence == format!("{}.2", guard.token()), "{fence}");
    guard.release().await?;
    let mut sent: Vec<String> =
        output.lines().filter_map(|line| line.strip_prefix("sent ")).map(str::to_owned).collect();
    sent.push(format!("found {seen}"));
    Ok(sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_holder_cannot_write_when_it_is_continued() -> Result<()> {
    let (fenced, _dump) = fenced_namespace("paused").await?;
    let (open, _other_dump) = namespace("paused-open").await?;
    let (with, without) = tokio::try_join!(stop_and_continue(&fenced), stop_and_continue(&open))?;
    let forms = ["put", "merge", "json", "strategic", "apply"];
    let sent: Vec<String> = forms.iter().flat_map(|form| [format!("{form} fenced"), format!("{form} bare")]).collect();
    // Without the policy all the same writes do their harm.
    let passed: Vec<String> = sent.iter().map(|sent| format!("{sent} 200")).collect();
    ensure!(without[..10] == passed && without[10] == "found stale", "{without:#?}");
    for (outcome, sent) in with.iter().zip(&sent) {
        let message = if sent.ends_with("fenced") {
            "was written already: whoever sends it held the lock before"
        } else if sent.starts_with("put") {
            "the write takes its fence away or brings none"
        } else {
            "the write leaves its fence"
        };
        ensure!(outcome.starts_with(&format!("{sent} 403 ")) && outcome.contains(message), "{outcome}");
    }
    ensure!(with.len() == 11 && with[10] == "found next", "{with:#?}");
    Ok(())
}
