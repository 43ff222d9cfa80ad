//! What the operator does for the dead.

use std::time::Duration;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use leasehold::{Client, clock};
use leasehold_testkit::{Namespace, Process, Program, bin, eventually};
use serde_json::json;

use crate::measure::{Bench, millis};

const SOON: Duration = Duration::from_secs(60);
/// Far longer than a round takes: what passes on does so by evidence.
const SESSION: Duration = Duration::from_secs(60);

impl Bench {
    /// From the status in which a Pod's container has terminated to the guard of the next who holds the lock.
    pub(crate) async fn reclaim(&mut self, namespace: &Namespace, rounds: u64, put_to_event: f64) -> Result<()> {
        let _operator = operator(namespace).await?;
        self.lease("reclaimed").await?;
        let pods: Api<Pod> = namespace.api();
        let next = self.member(None)?.lock("reclaimed").build()?;
        let mut took = Histogram::<u64>::new(3)?;
        for round in 0..=rounds {
            let name = format!("reclaimed-{round}");
            let pod = json!({ "metadata": { "name": name }, "spec": { "restartPolicy": "Never",
                "containers": [{ "name": "main", "image": "example.invalid/never-pulled" }] } });
            let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
            let held = self.member(Some(&pod))?.lock("reclaimed").build()?.acquire().await?;
            let waiter = tokio::spawn({
                let next = next.clone();
                async move { next.acquire().await.map(|guard| (guard, clock::moment())) }
            });
            while next.status().await?.waiters.is_empty() {}
            let end = json!({ "exitCode": 137, "reason": "Error", "containerID": "containerd://main" });
            let status = json!({ "name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": end } });
            let over = json!({ "status": { "phase": "Failed", "containerStatuses": [status] } });
            let begun = clock::moment();
            pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(over)).await?;
            let (guard, acquired) = waiter.await??;
            // The first is for connections to be made.
            if round > 0 {
                took.record(u64::try_from(acquired.since(begun).as_nanos())?)?;
            }
            guard.release().await?;
            drop(held);
            pods.delete(&name, &DeleteParams::default().grace_period(0)).await?;
        }
        let p95 = Duration::from_nanos(took.value_at_quantile(0.95)).as_secs_f64() * 1000.0;
        self.report.add("operator_reclaim_ms", millis(&took), "ms", Some(put_to_event), took.len());
        self.report.add("operator_reclaim_p95_ms", p95, "ms", Some(put_to_event), took.len());
        Ok(())
    }

    /// A client as users have it, in a Pod or not.
    fn member(&self, pod: Option<&Pod>) -> Result<Client> {
        let builder = Client::builder().kube_config(self.config.clone()).namespace(&self.namespace);
        let builder = builder.session_duration(SESSION);
        Ok(match pod.map(|pod| (&pod.metadata.name, &pod.metadata.uid)) {
            Some((Some(name), Some(uid))) => builder.pod(name, uid),
            _ => builder.without_pod(),
        }
        .build()?)
    }
}

/// An operator in this namespace, that sees all there is.
async fn operator(namespace: &Namespace) -> Result<Process> {
    let cluster = namespace.cluster();
    cluster.kubectl(&["apply", "-k", concat!(env!("CARGO_MANIFEST_DIR"), "/../crds")]).await?;
    let program = Program::new(bin("leasehold-operator")?)
        .args(["run", "--metrics-addr", "127.0.0.1:0", "--leader-election", "false"])
        .args(["--namespace", namespace.name()])
        .env("KUBECONFIG", cluster.kubeconfig_path());
    let operator = program.start()?;
    eventually(SOON, "the operator to watch", async || {
        let output = operator.output();
        ensure!(["watching Leases", "watching Pods"].iter().all(|seen| output.contains(seen)), "{output}");
        Ok(())
    })
    .await?;
    Ok(operator)
}
