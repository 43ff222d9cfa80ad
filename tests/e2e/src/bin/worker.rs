//! A process that takes a lock, for tests that pause and kill it.
//!
//! It says on standard output what happens to it, a word and its values on a line.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use leasehold::{Client, FENCE, Lock, LockGuard, clock};
use serde_json::json;
use tokio::io::AsyncBufReadExt as _;

#[derive(Debug, Parser)]
struct Options {
    /// The lock's name.
    #[arg(long)]
    name: String,
    /// The session's duration, in seconds.
    #[arg(long, default_value_t = 3)]
    session: u64,
    /// Let the hold live by the lock's own Lease, for so many seconds.
    #[arg(long)]
    own: Option<u64>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Add one to the number in a file, so many times: read it, and write it back later.
    Count { file: PathBuf, times: u32 },
    /// Hold the lock and add a line to a file every few milliseconds, as long as the lock is held.
    Hold { file: PathBuf },
    /// Leave the lock on its Lease for so many seconds.
    Keep { seconds: u64 },
    /// Lead, and add a line to a file every few milliseconds while doing so; again and again.
    Lead { file: PathBuf },
    /// Try once.
    Try,
    /// Write an object under the lock; at a line on standard input write it again in every form, held or not.
    Fence { config_map: String },
}

// One thread: what the process does first after a pause is then the work, and not the client's own tasks.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let client = Client::builder()
        .kube_config(kube::Config::infer().await?)
        .session_duration(Duration::from_secs(options.session))
        .build()?;
    if let What::Lead { file } = &options.what {
        return lead(&client, &options, file).await;
    }
    let mut lock = client.lock(&options.name);
    if let Some(own) = options.own {
        lock = lock.lease_duration(Duration::from_secs(own));
    }
    let lock = lock.build()?;
    match options.what {
        What::Count { file, times } => count(&lock, &file, times).await?,
        What::Hold { file } => hold(&lock, &file).await?,
        What::Keep { seconds } => {
            acquire(&lock).await?.keep(Duration::from_secs(seconds)).await?;
            say("kept");
            std::future::pending::<()>().await;
        }
        What::Fence { config_map } => fence(&lock, &config_map).await?,
        What::Lead { .. } => {}
        What::Try => match lock.try_acquire().await {
            Ok(guard) => {
                say(&format!("acquired {}", guard.token()));
                guard.release().await?;
            }
            Err(error) => say(&format!("refused {error}")),
        },
    }
    client.shutdown().await;
    Ok(())
}

fn say(line: &str) {
    println!("{line}");
    let _ = std::io::stdout().flush();
}

async fn acquire(lock: &Lock) -> Result<LockGuard> {
    say("waiting");
    let guard = lock.acquire().await?;
    say(&format!("acquired {} {}", guard.token(), guard.holder_identity()));
    Ok(guard)
}

async fn count(lock: &Lock, file: &PathBuf, times: u32) -> Result<()> {
    for _ in 0..times {
        let guard = acquire(lock).await?;
        let number: u64 = std::fs::read_to_string(file)?.trim().parse().context("a number")?;
        tokio::time::sleep(Duration::from_millis(2)).await;
        guard.check()?;
        std::fs::write(file, (number + 1).to_string())?;
        guard.release().await?;
    }
    Ok(())
}

/// Works whenever it leads. Only the runner stands between the work and its next line.
async fn lead(client: &Client, options: &Options, file: &PathBuf) -> Result<()> {
    let mut election = client.election(&options.name);
    if let Some(own) = options.own {
        election = election.lease_duration(Duration::from_secs(own));
    }
    let election = election.build()?;
    loop {
        say("waiting");
        let outcome = election
            .run_while_leading(async |leading| {
                say(&format!("leading {} {}", leading.token(), leading.holder_identity()));
                let mut file = std::fs::File::options().append(true).create(true).open(file)?;
                while !leading.ending().is_cancelled() {
                    // Work that blocks. Between it and the line the work is polled anew.
                    std::thread::sleep(Duration::from_millis(8));
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    writeln!(file, "{} {}", leading.token(), clock::moment().since_start().as_nanos())?;
                }
                anyhow::Ok(())
            })
            .await;
        say(&format!("ended {outcome:?}"));
    }
}

/// Works as long as the lock is held, and then says what the guard says.
async fn hold(lock: &Lock, file: &PathBuf) -> Result<()> {
    let guard = acquire(lock).await?;
    let lost = guard.lost();
    let mut file = std::fs::File::options().append(true).create(true).open(file)?;
    while let Ok(()) = guard.check() {
        writeln!(file, "{} {}", guard.token(), clock::moment().since_start().as_nanos())?;
        // Work that blocks: only the check stands between it and the next line.
        tokio::time::sleep(Duration::from_millis(1)).await;
        std::thread::sleep(Duration::from_millis(8));
    }
    let reason = guard.check().expect_err("it failed before");
    say(&format!("check-failed {reason}"));
    tokio::time::timeout(Duration::from_secs(5), lost.cancelled()).await.context("lost() has not fired")?;
    say("lost-fired");
    // Lost is for good: no later check succeeds, whatever the renewals do.
    for _ in 0..50 {
        anyhow::ensure!(guard.check().is_err(), "a check succeeded after the loss");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    say(&format!("released {:?}", guard.release().await.err().map(|error| error.to_string())));
    Ok(())
}

/// What comes after the line is what a program does that looks neither at `check()` nor at `lost()`.
async fn fence(lock: &Lock, name: &str) -> Result<()> {
    let config = kube::Config::infer().await?;
    let api: Api<ConfigMap> = Api::default_namespaced(kube::Client::try_from(config)?);
    let guard = acquire(lock).await?;
    let mut object = api.get(name).await?;
    guard.fence(&mut object)?;
    object.data.get_or_insert_default().insert("by".to_owned(), guard.holder_identity());
    api.replace(name, &PostParams::default(), &object).await?;
    let taken = (0..5).map(|_| guard.next_fence()).collect::<Result<Vec<_>, _>>()?;
    say("wrote");
    tokio::io::BufReader::new(tokio::io::stdin()).read_line(&mut String::new()).await?;

    let data = json!({ "by": "stale" });
    for (n, form) in ["put", "merge", "json", "strategic", "apply"].into_iter().enumerate() {
        // With a fence that was taken before the pause, and with none.
        for fence in [Some(&taken[n]), None] {
            let metadata = match fence {
                Some(fence) => json!({ "name": name, "annotations": { FENCE: fence } }),
                None => json!({ "name": name }),
            };
            let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data });
            let params = PatchParams::default();
            let outcome = match form {
                "put" => {
                    // Of no version: a version alone would be refused as well, as a conflict.
                    object.metadata.resource_version = None;
                    object.metadata.annotations = None;
                    if let Some(fence) = fence {
                        object.metadata.annotations = Some([(FENCE.to_owned(), fence.clone())].into());
                    }
                    object.data = Some([("by".to_owned(), "stale".to_owned())].into());
                    api.replace(name, &PostParams::default(), &object).await
                }
                "merge" => api.patch(name, &params, &Patch::Merge(&body)).await,
                "strategic" => api.patch(name, &params, &Patch::Strategic(&body)).await,
                "apply" => api.patch(name, &PatchParams::apply("worker").force(), &Patch::Apply(&body)).await,
                _ => {
                    let mut steps = vec![json!({ "op": "replace", "path": "/data/by", "value": "stale" })];
                    if let Some(fence) = fence {
                        let path = format!("/metadata/annotations/{}", FENCE.replace('/', "~1"));
                        steps.push(json!({ "op": "replace", "path": path, "value": fence }));
                    }
                    let patch = Patch::<()>::Json(serde_json::from_value(json!(steps))?);
                    api.patch(name, &params, &patch).await
                }
            };
            let with = fence.map_or("bare", |_| "fenced");
            match outcome {
                Ok(_) => say(&format!("sent {form} {with} 200")),
                Err(kube::Error::Api(status)) => say(&format!("sent {form} {with} {} {}", status.code, status.message)),
                Err(error) => return Err(error.into()),
            }
        }
    }
    say(&format!("then {:?}", guard.next_fence().map_err(|lost| lost.reason)));
    drop(guard);
    Ok(())
}
