//! What a person does to Leases by hand.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use leasehold::protocol::Kind;
use leasehold::protocol::record::{EPHEMERAL, HOLDER, JOIN, PERMITS, Record, SESSION_PREFIX, UPGRADE, WANT};
use serde_json::{Value, json};
use tokio::time::timeout;

/// For how long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(4);
/// How often it is tried again where somebody else was faster, or there was nothing to be had just then.
const TRIES: usize = 60;

/// Deletes a Lease. Who held anything by it is noted before: no answer need come.
pub(super) async fn delete_lock(leases: &Api<Lease>, lock: &str, broke: &mut Vec<String>) -> Result<()> {
    again(async || {
        let record = read(leases, lock).await?;
        let holders = record.holders().map(|holder| holder.identity.clone()).collect();
        let only = Preconditions { uid: Some(record.uid.clone()), resource_version: Some(record.version.to_string()) };
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        breaking(holders, broke, async { answered(leases.delete(lock, &params)).await.map(drop) }).await
    })
    .await
}

/// Removes the holder, or one of several, and nothing else. Who that was is noted before: no answer need come.
pub(super) async fn break_lock(leases: &Api<Lease>, lock: &str, broke: &mut Vec<String>) -> Result<()> {
    again(async || {
        let record = read(leases, lock).await?;
        // Of several the one who came last: others are more likely to go soon in any case.
        let holder = record.holders().last().with_context(|| format!("nobody holds {lock}"))?.identity.clone();
        let patch = if record.kind == Kind::Lock {
            json!([
                { "op": "test", "path": "/spec/holderIdentity", "value": holder },
                { "op": "replace", "path": "/spec/holderIdentity", "value": "" },
            ])
        } else {
            without(&record, &[HOLDER, WANT, UPGRADE], &holder)
        };
        breaking(vec![holder], broke, send(leases, lock, patch)).await
    })
    .await
}

/// Takes permits from a semaphore. Meanwhile its Lease does not go with the last holder: the next one would be made with
/// as many permits as clients say.
pub(super) async fn take_permits(leases: &Api<Lease>, semaphore: &str, permits: u32) -> Result<()> {
    again(async || set_permits(leases, semaphore, permits, true).await).await
}

/// Gives a semaphore its permits back. Its Lease is one made on the spot again.
pub(super) async fn give_permits(leases: &Api<Lease>, semaphore: &str, permits: u32) -> Result<()> {
    match again(async || set_permits(leases, semaphore, permits, false).await).await {
        // It is not there, and who makes another one says how many there are.
        Err(error) if is(&error, &[404]) => Ok(()),
        given => given,
    }
}

async fn set_permits(leases: &Api<Lease>, semaphore: &str, permits: u32, stays: bool) -> Result<()> {
    // Condition: the Lease as seen. What no answer told of cannot come true after what is written next.
    let version = read(leases, semaphore).await?.version.to_string();
    let ephemeral = if stays { Value::Null } else { json!("true") };
    let annotations = json!({ PERMITS: permits.to_string(), EPHEMERAL: ephemeral });
    let patch = json!({ "metadata": { "resourceVersion": version, "annotations": annotations } });
    answered(leases.patch(semaphore, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
}

/// Adds what means nothing, or removes it again.
pub(super) async fn garble(leases: &Api<Lease>, lock: &str, add: bool) -> Result<()> {
    let or_nothing = |text: &str| if add { json!(text) } else { json!(null) };
    let patch = json!({ "metadata": {
        "annotations": {
            format!("{JOIN}nobody"): or_nothing("soon"),
            format!("{WANT}nobody"): or_nothing("-3"),
            format!("{HOLDER}nobody"): or_nothing("1"),
            format!("{UPGRADE}nobody"): or_nothing("now"),
            "leasehold.dev/hello": or_nothing("world"),
            "example.com/note": or_nothing("please do not touch"),
        },
        "labels": { format!("{HOLDER}nobody"): or_nothing("x") },
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
        let id = record.waiters.last().with_context(|| format!("nobody waits for {lock}"))?.id.to_string();
        let prefixes: &[&str] = if record.kind == Kind::Lock { &[JOIN] } else { &[JOIN, WANT] };
        send(leases, lock, without(&record, prefixes, &id)).await
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

/// A patch that removes what annotations of these prefixes say of an acquisition, as long as they say the same.
fn without(record: &Record, prefixes: &[&str], id: &str) -> Value {
    let annotations = record.lease.metadata.annotations.iter().flatten();
    let named = annotations.filter(|(key, _)| prefixes.iter().any(|prefix| key.strip_prefix(prefix) == Some(id)));
    let ops = named.flat_map(|(key, value)| {
        let path = format!("/metadata/annotations/{}", key.replace('/', "~1"));
        [json!({ "op": "test", "path": path, "value": value }), json!({ "op": "remove", "path": path })]
    });
    ops.collect()
}

/// Notes who is broken by a request, unless that is refused.
async fn breaking(
    holders: Vec<String>,
    broke: &mut Vec<String>,
    request: impl Future<Output = Result<()>>,
) -> Result<()> {
    let before = broke.len();
    broke.extend(holders);
    let answered = request.await;
    if answered.as_ref().is_err_and(|error| is(error, &[404, 409, 422])) {
        broke.truncate(before);
    }
    answered
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
    for _ in 1..TRIES {
        match attempt().await {
            Err(error) if error.downcast_ref::<kube::Error>().is_none() || is(&error, &[404, 409, 422]) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            done => return done,
        }
    }
    attempt().await.with_context(|| format!("others were faster, {TRIES} times"))
}

fn is(error: &anyhow::Error, codes: &[u16]) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if codes.contains(&status.code))
}
