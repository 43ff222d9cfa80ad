//! Whose requests are in the flow that config/flowcontrol makes.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use kube::api::Api;
use kube::client::Body;
use kube::{Client, ResourceExt as _};
use leasehold_testkit::eventually;

use crate::apply::installed;
use crate::support::SOON;

const LOCKS: &str = "leasehold-locks";

/// The flow schema that a request of this user is under. Whether the request is allowed does not matter for that.
async fn flow_of(client: &Client, user: &str, groups: &[&str], method: &str, path: &str) -> Result<String> {
    let mut request = http::Request::builder().method(method).uri(path).header("Impersonate-User", user);
    for group in groups.iter().chain(&["system:authenticated"]) {
        request = request.header("Impersonate-Group", *group);
    }
    let body = if method == "GET" { Vec::new() } else { b"{}".to_vec() };
    let request = request.header("Content-Type", "application/json").body(Body::from(body))?;
    let answer = client.send(request).await?;
    let uid = answer.headers().get("x-kubernetes-pf-flowschema-uid").context("it was in no flow")?.to_str()?.to_owned();
    let all = Api::<FlowSchema>::all(client.clone()).list(&kube::api::ListParams::default()).await?;
    let found = all.into_iter().find(|schema| schema.uid().as_ref() == Some(&uid));
    Ok(found.context("a flow schema of that uid")?.name_any())
}

#[tokio::test]
async fn lock_traffic_has_a_place_of_its_own_and_takes_nobody_elses() -> Result<()> {
    let cluster = installed().await?;
    let client = cluster.client()?;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/team/leases";
    let one = format!("{leases}/build");
    let pods = ["system:serviceaccounts", "system:serviceaccounts:team"];
    let worker = "system:serviceaccount:team:worker";
    eventually(SOON, "the API server to take up the flow schema", async || {
        let flow = flow_of(&client, worker, &pods, "GET", &one).await?;
        ensure!(flow == LOCKS, "{flow}");
        Ok(())
    })
    .await?;
    for (method, path) in [("GET", leases), ("POST", leases), ("PUT", &one), ("DELETE", &one)] {
        assert_eq!(flow_of(&client, worker, &pods, method, path).await?, LOCKS, "{method} {path}");
    }
    let operator = "system:serviceaccount:leasehold-system:leasehold-operator";
    assert_eq!(flow_of(&client, operator, &["system:serviceaccounts"], "PUT", &one).await?, LOCKS);

    // What is not about Leases stays where it was.
    let maps = "/api/v1/namespaces/team/configmaps";
    assert_eq!(flow_of(&client, worker, &pods, "GET", maps).await?, "service-accounts");
    // Nodes, and leader elections of the cluster itself.
    let beat = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
    assert_eq!(flow_of(&client, "system:node:n1", &["system:nodes"], "PUT", beat).await?, "system-node-high");
    let elected = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/elected";
    let manager = "system:kube-controller-manager";
    assert_eq!(flow_of(&client, manager, &[], "PUT", elected).await?, "system-leader-election");
    let addon =
        ("system:serviceaccount:kube-system:addon", ["system:serviceaccounts", "system:serviceaccounts:kube-system"]);
    assert_eq!(flow_of(&client, addon.0, &addon.1, "PUT", elected).await?, "system-leader-election");
    assert_eq!(flow_of(&client, addon.0, &addon.1, "DELETE", elected).await?, "kube-system-service-accounts");
    // People are nobody's business here.
    assert_eq!(flow_of(&client, "jane", &[], "GET", &one).await?, "global-default");
    Ok(())
}
