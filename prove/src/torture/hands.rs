//! What a person does to Leases by hand.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use leasehold::protocol::record::{JOIN, Record, SESSION_PREFIX};
use serde_json::json;
use tokio::time::timeout;

/// For how long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(4);
/// How often it is tried again where somebody else was faster.
const TRIES: usize = 20;

/// Deletes a lock's Lease. Who held the lock by it is noted before: no answer need come.
pub(super) async fn delete_lock(leases: &Api<Lease>, lock: &str, broke: &mut Option<String>) -> Result<()> {
    again(async || {
        let record = read(leases, lock).await?;
        *broke = record.holder.map(|holder| holder.identity);
        let only = Preconditions { uid: Some(record.uid.clone()), resource_version: Some(record.version.to_string()) };
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        answered(leases.delete(lock, &params)).await.map(drop)
    })
    .await
}

/// Removes the holder, and nothing else. Who that was is noted before: no answer need come.
pub(super) async fn break_lock(leases: &Api<Lease>, lock: &str, broke: &mut Option<String>) -> Result<()> {
    again(async || {
        let record = read(leases, lock).await?;
        let holder = record.holder.with_context(|| format!("nobody holds {lock}"))?.identity;
        let patch = json!([
            { "op": "test", "path": "/spec/holderIdentity", "value": holder },
            { "op": "replace", "path": "/spec/holderIdentity", "value": "" },
        ]);
        *broke = Some(holder);
        send(leases, lock, patch).await
    })
    .await
}

/// Adds what means nothing, or removes it again.
pub(super) async fn garble(leases: &Api<Lease>, lock: &str, add: bool) -> Result<()> {
    let or_nothing = |text: &str| if add { json!(text) } else { json!(null) };
    let patch = json!({ "metadata": {
        "annotations": {
            format!("{JOIN}nobody"): or_nothing("soon"),
            "want.leasehold.dev/nobody": or_nothing("-3"),
            "leasehold.dev/hello": or_nothing("world"),
            "example.com/note": or_nothing("please do not touch"),
        },
        "labels": { "holder.leasehold.dev/nobody": or_nothing("x") },
    }});
    match answered(leases.patch(lock, &PatchParams::default(), &Patch::Merge(patch))).await {
        // It went meanwhile, and the nonsense with it.
        Err(error) if !add && is(&error, &[404]) => Ok(()),
        patched => patched.map(drop),
    }
}

/// Removes one waiter, chosen by its name.
pub(super) async fn remove_waiter(leases: &Api<Lease>, lock: &str) -> Result<()> {
    again(async || {
        let record = read(leases, lock).await?;
        let id = &record.waiters.last().with_context(|| format!("nobody waits for {lock}"))?.id;
        let path = format!("/metadata/annotations/{}{id}", JOIN.replace('/', "~1"));
        send(leases, lock, json!([{ "op": "remove", "path": path }])).await
    })
    .await
}

/// Deletes the Lease of a session of this host.
pub(super) async fn delete_session(leases: &Api<Lease>, host: &str) -> Result<()> {
    let prefix = format!("{SESSION_PREFIX}{host}.");
    let list = answered(leases.list(&ListParams::default())).await?;
    let names = list.items.into_iter().filter_map(|lease| lease.metadata.name);
    // The newest by name is as good as any.
    let name =
        names.filter(|name| name.starts_with(&prefix)).max().with_context(|| format!("{host} has no session"))?;
    answered(leases.delete(&name, &DeleteParams::default())).await.map(drop)
}

async fn read(leases: &Api<Lease>, lock: &str) -> Result<Record> {
    Ok(Record::parse(answered(leases.get(lock)).await?)?)
}

async fn send(leases: &Api<Lease>, lock: &str, patch: serde_json::Value) -> Result<()> {
    let patch = Patch::Json::<()>(serde_json::from_value(patch)?);
    answered(leases.patch(lock, &PatchParams::default(), &patch)).await.map(drop)
}

async fn answered<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T> {
    Ok(timeout(ANSWER, request).await.context("no answer")??)
}

/// Again where somebody else was faster, or there was nothing just then.
async fn again<T>(mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    for _ in 0..TRIES {
        match attempt().await {
            Err(error) if error.downcast_ref::<kube::Error>().is_none() || is(&error, &[404, 409, 422]) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            done => return done,
        }
    }
    bail!("others were faster, {TRIES} times")
}

fn is(error: &anyhow::Error, codes: &[u16]) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if codes.contains(&status.code))
}
