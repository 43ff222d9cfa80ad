//! As much as finds room on a Lease.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams, PostParams};
use leasehold::protocol::record::CROWDED_BYTES;
use leasehold::protocol::write::shared::{Round, grant, remove_dead};
use leasehold::protocol::{Record, grant::round};
use leasehold::{KubeStore, Store as _, clock};
use leasehold_testkit::Cluster;
use serde_json::{Value, json};

use super::{Side, annotate, dated, holder, join, lease, lock, passes, spec, unannotate, want};
use crate::strict::bind;

/// The most that can stand on one Lease: what admission may spend on one request is limited.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_lease_is_judged_as_well() -> Result<()> {
    let strict = Cluster::shared().await?.namespace("crowded").await?;
    bind(&strict).await?;
    let side = Side::new(&strict).await?;
    let bytes = |lease: &Value| -> usize {
        let all = lease["metadata"]["annotations"].as_object().into_iter().flatten();
        all.map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
    };
    let id = |n: usize| format!("some-web-application-{n:05}_0a1b2c3dk3j9x2m1.1");
    let mut queue = lock("", &[]);
    for n in (2..).take_while(|n| n % 100 != 0 || n * 90 < CROWDED_BYTES) {
        queue["metadata"]["annotations"][join(&id(n))] = json!(n.to_string());
    }
    let mut shared = lease(
        "semaphore",
        &[("leasehold.dev/permits", "100000")],
        &json!({ "holderIdentity": "semaphore", "leaseTransitions": 3 }),
    );
    for n in (2..).take_while(|n| n % 100 != 0 || n * 165 < CROWDED_BYTES) {
        shared["metadata"]["annotations"][holder(&id(n))] = json!(n.to_string());
        shared["metadata"]["annotations"][want(&id(n))] = json!("1 since=2030-01-01T00:00:00Z");
    }
    let mine = format!("{}.1", side.me);
    for (name, lease) in [("full", &mut queue), ("shared", &mut shared)] {
        let full = bytes(lease);
        ensure!(full > CROWDED_BYTES * 3 / 4 && full < CROWDED_BYTES, "{name}: {full} bytes");
        lease["metadata"]["name"] = json!(name);
        side.admin.create(&PostParams::default(), &serde_json::from_value(lease.clone())?).await?;
    }
    let send = async |name: &str, ops: Vec<Value>| {
        let patch = serde_json::from_value(Value::Array(ops)).expect("a patch");
        side.attacker.patch(name, &PatchParams::default(), &Patch::<()>::Json(patch)).await
    };
    let refused = |outcome: Result<Lease, kube::Error>, message: &str| match outcome {
        Err(kube::Error::Api(status)) if status.message.contains(message) => Ok(()),
        outcome => bail!("{message}: {:?}", outcome.map(|lease| lease.metadata.name)),
    };
    for name in ["full", "shared"] {
        send(name, vec![dated("annotations", &join(&mine))]).await.context("it joins")?;
        let another = if name == "full" { join(&id(2)) } else { holder(&id(2)) };
        refused(send(name, vec![unannotate(&another)]).await, "in the name of")?;
        send(name, vec![unannotate(&join(&mine))]).await.context("it leaves")?;
    }
    refused(send("full", passes("", &side.me, 1, false)).await, "the first who waits")?;
    // Joined and first: all others have to be later.
    refused(send("full", vec![unannotate(&join(&id(2)))]).await, "in the name of")?;
    let enters = vec![spec("leaseTransitions", 4), dated("annotations", &holder(&mine)), annotate(&want(&mine), "1")];
    send("shared", enters).await.context("there is room")?;
    refused(send("shared", vec![annotate(&want(&mine), "100000")]).await, "more than there are permits")?;
    send("shared", vec![unannotate(&holder(&mine)), unannotate(&want(&mine))]).await.context("it gives back")?;
    Ok(())
}

/// As many as one command lets in, and more: each has a label, and each of these is looked for.
#[tokio::test(flavor = "multi_thread")]
async fn many_readers_are_let_in_after_a_writer_by_whoever_does_it() -> Result<()> {
    let strict = Cluster::shared().await?.namespace("readers").await?;
    bind(&strict).await?;
    let side = Side::new(&strict).await?;
    let mine = format!("{}.1", side.me);
    let mut lease = lease(
        "rwlock",
        &[(&holder(&mine), "1"), (&want(&mine), "write")],
        &json!({ "holderIdentity": "rwlock", "leaseTransitions": 3 }),
    );
    for n in 2..602 {
        let id = format!("some-web-application-{n:05}_0a1b2c3dk3j9x2m{n}.1");
        lease["metadata"]["annotations"][join(&id)] = json!(n.to_string());
        lease["metadata"]["annotations"][want(&id)] = json!("read");
    }
    lease["metadata"]["labels"][holder(&side.me)] = json!("");
    lease["metadata"]["name"] = json!("catalog");
    side.admin.create(&PostParams::default(), &serde_json::from_value(lease)?).await?;
    let store = KubeStore::new(side.account.config(), strict.name())?;
    let record = Record::parse(store.read("catalog").await?)?;
    let release = Round { dead: record.shared.iter().collect(), next: record.waiters.first(), ..Round::default() };
    store.write("catalog", &remove_dead(&record, &release)).await.context("it is given back")?;
    for left in [100, 0] {
        let record = Record::parse(store.read("catalog").await?)?;
        let write = grant(&record, &round(&record, |_| false, |_| false), clock::now().stamp);
        store.write("catalog", &write).await.context("they are let in")?;
        let record = Record::parse(store.read("catalog").await?)?;
        ensure!((record.waiters.len(), record.shared.len()) == (left, 600 - left), "{}", record.waiters.len());
    }
    Ok(())
}
