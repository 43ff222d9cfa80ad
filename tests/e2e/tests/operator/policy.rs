//! What a resource may say of a policy, and how it comes to the Lease.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use leasehold::protocol::policy::{ALLOWED, Policy, Reclaim};
use leasehold_operator::crd::{DistributedLock, State};
use leasehold_testkit::eventually;

use crate::support::{ROOT, SOON, Scene, holder, lock_yaml};

/// Status and message of a condition, empty where there is none.
pub(crate) fn condition<'a>(conditions: &'a [Condition], type_: &str) -> (&'a str, &'a str) {
    let found = conditions.iter().find(|condition| condition.type_ == type_);
    found.map_or(("", ""), |condition| (&condition.status, &condition.message))
}

fn yaml(kind: &str, name: &str, spec: &str) -> String {
    format!("{{apiVersion: leasehold.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}}}, spec: {{{spec}}}}}")
}

#[tokio::test]
async fn explain_tells_fields_values_and_defaults_of_every_kind() -> Result<()> {
    let scene = Scene::new().await?;
    for (kind, spec) in [("DistributedLock", ""), ("Semaphore", "permits: 1"), ("ReadWriteLock", "")] {
        let fields = scene.namespace.kubectl(&["explain", &format!("{kind}.spec"), "--recursive"]).await?;
        let help = scene.namespace.kubectl(&["explain", &format!("{kind}.spec")]).await?;
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (fields, help) = (words(&fields), words(&help));
        for field in [
            "minLeaseDurationSeconds <integer>",
            "maxLeaseDurationSeconds <integer>",
            "maxHoldSeconds <integer>",
            "lockDelaySeconds <integer>",
            "maxWaiters <integer>",
            "reclaim <string> enum: Evidence, Expiry, Never",
            "deadlocks <string> enum: Report, BreakYoungest",
            "releaseRequests <string> enum: Advise, Evict",
            "allowedSubjects <[]Object> kind <string> -required- enum: ServiceAccount, User, Group name <string> -required-",
            "deletionPolicy <string> enum: HandOver, Wait",
        ] {
            ensure!(fields.contains(field), "{kind}: {field}: {fields}");
        }
        for text in [
            "counted from when that was certain. Default: 0.",
            "Default: `Evidence`.",
            "Default: `Report`.",
            "Default: `Advise`.",
            "Default: `HandOver`.",
            "in seconds, 1 to 3600. Unset: no bound.",
            "Only the admission policies of Leasehold enforce it",
        ] {
            ensure!(help.contains(text), "{kind}: {text}: {help}");
        }
        // They are real ones: whoever reads the object sees them.
        scene.apply(&yaml(kind, "plain", spec)).await?;
        let args = [
            "get",
            kind,
            "plain",
            "-o",
            "jsonpath={.spec.reclaim} {.spec.deadlocks} {.spec.releaseRequests} \
                    {.spec.deletionPolicy} {.spec.lockDelaySeconds}",
        ];
        let said = scene.namespace.kubectl(&args).await?;
        assert_eq!(words(&said), "Evidence Report Advise HandOver 0", "{kind}");
    }
    Ok(())
}

#[tokio::test]
async fn what_contradicts_itself_is_refused_and_says_why() -> Result<()> {
    let scene = Scene::new().await?;
    let account = "allowedSubjects: [{kind: ServiceAccount, ";
    let long = vec!["{kind: User, name: a}"; 65].join(", ");
    for (spec, message) in [
        ("minLeaseDurationSeconds: 0", "should be greater than or equal to 1"),
        ("maxLeaseDurationSeconds: 3601", "should be less than or equal to 3600"),
        ("maxHoldSeconds: 0", "should be greater than or equal to 1"),
        ("maxHoldSeconds: 2147483648", "should be less than or equal to 2147483647"),
        ("lockDelaySeconds: -1", "should be greater than or equal to 0"),
        ("lockDelaySeconds: 3601", "should be less than or equal to 3600"),
        ("maxWaiters: -1", "should be greater than or equal to 0"),
        ("reclaim: Soon", "supported values: \"Evidence\", \"Expiry\", \"Never\""),
        ("deadlocks: Ignore", "supported values: \"Report\", \"BreakYoungest\""),
        ("deletionPolicy: Orphan", "supported values: \"HandOver\", \"Wait\""),
        ("minLeaseDurationSeconds: 9, maxLeaseDurationSeconds: 8", "no lease duration is left"),
        ("maxHoldSeconds: 8, minLeaseDurationSeconds: 9", "maxHoldSeconds is less than minLeaseDurationSeconds"),
        ("reclaim: Never, lockDelaySeconds: 1", "lockDelaySeconds has no meaning with reclaim Never"),
        ("reclaim: Never, maxHoldSeconds: 60", "maxHoldSeconds contradicts reclaim Never"),
        ("allowedSubjects: []", "should have at least 1 items"),
        (&format!("allowedSubjects: [{long}]"), "must have at most 64 items"),
        (&format!("{account}name: a}}]"), "a ServiceAccount needs a namespace"),
        ("allowedSubjects: [{kind: User, name: a, namespace: b}]", "neither a User nor a Group has one"),
        ("allowedSubjects: [{kind: Group, name: \"a\\nuser:b\"}]", "a name has one line"),
        ("allowedSubjects: [{kind: User, name: \"\"}]", "should be at least 1 chars long"),
        (
            &format!("{account}namespace: a, name: 'b:c'}}]"),
            "the name of a ServiceAccount is told without its namespace",
        ),
        (&format!("{account}namespace: 'a:b', name: c}}]"), "namespace in body should match '^[a-z0-9]"),
    ] {
        for (kind, more) in [("DistributedLock", ""), ("Semaphore", ", permits: 1"), ("ReadWriteLock", "")] {
            let refused = scene.apply(&yaml(kind, "bad", &format!("{spec}{more}"))).await;
            let refused = refused.err().with_context(|| format!("{kind} with {spec} was taken"))?.to_string();
            ensure!(refused.contains(message), "{kind} with {spec}: {refused}");
        }
    }
    for (spec, message) in [
        ("leaseDurationSeconds: 8, minLeaseDurationSeconds: 9", "leaseDurationSeconds is less than minLease"),
        ("leaseDurationSeconds: 9, maxLeaseDurationSeconds: 8", "leaseDurationSeconds is more than maxLease"),
        ("leaseDurationSeconds: 9, maxHoldSeconds: 8", "maxHoldSeconds is less than leaseDurationSeconds"),
    ] {
        for (kind, more) in [("DistributedLock", ""), ("Semaphore", ", permits: 1")] {
            let refused = scene.apply(&yaml(kind, "bad", &format!("{spec}{more}"))).await;
            let refused = refused.err().with_context(|| format!("{kind} with {spec} was taken"))?.to_string();
            ensure!(refused.contains(message), "{kind} with {spec}: {refused}");
        }
    }
    // What is just within the bounds, and what is said to be unset.
    for spec in [
        "leaseDurationSeconds: 8, minLeaseDurationSeconds: 8, maxLeaseDurationSeconds: 8, maxHoldSeconds: 8, \
         lockDelaySeconds: 3600, maxWaiters: 0",
        "reclaim: Never, lockDelaySeconds: 0, deletionPolicy: Wait, deadlocks: BreakYoungest, releaseRequests: Evict",
        "leaseDurationSeconds: null, minLeaseDurationSeconds: 5, maxHoldSeconds: null, reclaim: null",
        "allowedSubjects: [{kind: User, name: 'Jürgen O''Neill:x'}, {kind: Group, name: 'system:masters'}, \
         {kind: ServiceAccount, namespace: a-1, name: b.c}]",
    ] {
        scene.apply(&lock_yaml("good", &format!("{{{spec}}}"))).await.context(spec)?;
        scene.namespace.kubectl(&["delete", "dlock", "good", "--timeout=30s"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_examples_apply_and_become_ready() -> Result<()> {
    let scene = Scene::new().await?;
    for name in ["distributedlock", "semaphore", "readwritelock", "policy"] {
        scene.apply(&std::fs::read_to_string(format!("{ROOT}/examples/{name}.yaml"))?).await.context(name)?;
    }
    let all = [
        "dlock/migration",
        "dlock/ledger",
        "dlock/shared-file",
        "sem/licences",
        "sem/db-connections",
        "rwlock/catalogue",
    ];
    let wait = ["wait", "--for=condition=Ready", "--timeout=45s"];
    scene.namespace.kubectl(&[&wait[..], &all[..]].concat()).await?;
    Ok(())
}

#[tokio::test]
async fn a_policy_comes_to_the_lease_while_it_is_held_and_goes_with_its_field() -> Result<()> {
    const ALL: &str = "{minLeaseDurationSeconds: 5, maxLeaseDurationSeconds: 60, maxHoldSeconds: 600, lockDelaySeconds: 15, \
                       maxWaiters: 7, reclaim: Expiry, deadlocks: BreakYoungest, releaseRequests: Evict, \
                       allowedSubjects: [{kind: ServiceAccount, namespace: shop, name: till}, {kind: User, name: me}, \
                       {kind: Group, name: 'system:masters'}]}";
    let scene = Scene::new().await?;
    scene.lock("build").await?;
    let client = scene.client("pod-a").await?.keep_alive();
    let held = client.acquire("build", 1).await?;
    scene.apply(&lock_yaml("build", ALL)).await?;
    let record = scene.record("build", |record| record.evicts_on_request).await?;
    let seconds = |seconds| Some(std::time::Duration::from_secs(seconds));
    let wanted = Policy {
        min_duration: seconds(5),
        max_duration: seconds(60),
        max_hold: seconds(600),
        lock_delay: std::time::Duration::from_secs(15),
        max_waiters: Some(7),
        reclaim: Reclaim::Expiry,
        breaks_deadlocks: true,
    };
    assert_eq!(record.policy, wanted);
    let allowed = |record: &leasehold::protocol::Record| {
        record.lease.metadata.annotations.as_ref().and_then(|all| all.get(ALLOWED)).cloned()
    };
    let subjects = "user:system:serviceaccount:shop:till\nuser:me\ngroup:system:masters";
    assert_eq!(allowed(&record).as_deref(), Some(subjects));
    assert_eq!((holder(&record), record.transitions), (holder(&held), held.transitions), "nobody is disturbed");

    scene.apply(&lock_yaml("build", "{reclaim: Never}")).await?;
    let record = scene.record("build", |record| record.policy.reclaim == Reclaim::Never).await?;
    assert_eq!(record.policy, Policy { reclaim: Reclaim::Never, ..Policy::default() });
    assert_eq!((allowed(&record), record.evicts_on_request), (None, false));

    // It is the resource's, and goes with it, but for what keeps others from what a dead holder had.
    scene.apply(&lock_yaml("build", ALL)).await?;
    scene.record("build", |record| record.policy == wanted).await?;
    scene.namespace.kubectl(&["delete", "dlock", "build", "--timeout=30s"]).await?;
    let left = scene.record("build", |record| record.ephemeral).await?;
    let stays = Policy { reclaim: wanted.reclaim, lock_delay: wanted.lock_delay, ..Policy::default() };
    assert_eq!((&left.policy, allowed(&left), left.evicts_on_request), (&stays, None, false));
    assert_eq!(holder(&left), holder(&held));
    client.stop().await
}

#[tokio::test]
async fn a_resource_that_is_to_wait_goes_with_its_lease_when_nobody_uses_it_any_more() -> Result<()> {
    let scene = Scene::new().await?;
    scene.apply(&lock_yaml("build", "{deletionPolicy: Wait}")).await?;
    scene.apply(&lock_yaml("unused", "{deletionPolicy: Wait}")).await?;
    scene.apply(&lock_yaml("hurried", "{deletionPolicy: Wait}")).await?;
    for name in ["build", "unused", "hurried"] {
        scene.status(name, |status| status.state == Some(State::Free)).await?;
    }
    let (first, second) = (scene.client("pod-a").await?.keep_alive(), scene.client("pod-b").await?.keep_alive());
    let held = first.acquire("build", 1).await?;
    first.acquire("hurried", 2).await?;
    second.join("build", 1).await?;
    scene.namespace.kubectl(&["delete", "dlock", "build", "unused", "hurried", "--wait=false"]).await?;
    scene.no_lease("unused").await?;

    let terminating = |status: &leasehold_operator::crd::DistributedLockStatus| {
        condition(&status.conditions, "Terminating").0 == "True"
    };
    let status = scene.status("build", terminating).await?;
    let message = condition(&status.conditions, "Terminating").1;
    assert_eq!(
        message,
        format!("it goes when nobody uses the lock any more: {} holds it, 1 waits for it", first.id(1))
    );
    assert_eq!(status.state, Some(State::Held));
    ensure!(scene.event("build", "DeletionWaits").await?.contains("holds it, 1 waits for it"));
    let record = scene.record("build", |record| record.waiters.len() == 1).await?;
    assert!(
        !record.ephemeral
            && record.lease.metadata.annotations.as_ref().is_some_and(|all| all.contains_key("leasehold.dev/owner")),
        "{:#?}",
        record.lease
    );
    // Nobody is disturbed, and the next one is told of.
    let record = first.hand_off("build", &record, &second.id(1)).await?;
    let now = format!("it goes when nobody uses the lock any more: {} holds it", second.id(1));
    scene.status("build", |status| condition(&status.conditions, "Terminating").1 == now).await?;
    assert_eq!(record.uid, held.uid);
    second.release("build", &record).await?;
    scene.no_lease("build").await?;
    let locks: Api<DistributedLock> = scene.namespace.api();
    eventually(SOON, "the resource to go", async || {
        ensure!(locks.get_opt("build").await?.is_none());
        Ok(())
    })
    .await?;

    // Whoever does not want to wait any longer says so.
    scene.status("hurried", terminating).await?;
    let patch = r#"{"spec":{"deletionPolicy":"HandOver"}}"#;
    scene.namespace.kubectl(&["patch", "dlock", "hurried", "--type=merge", "-p", patch]).await?;
    let left = scene.record("hurried", |record| record.ephemeral).await?;
    assert_eq!(holder(&left), first.id(2).to_string());
    first.stop().await?;
    second.stop().await
}

#[tokio::test]
async fn where_the_lease_may_not_be_written_the_resource_says_so_until_it_may() -> Result<()> {
    let scene = Scene::new_that_only_reads_leases().await?;
    scene.apply(&lock_yaml("build", "{}")).await?;
    let status = scene.status("build", |status| status.state == Some(State::Blocked)).await?;
    let (ready, message) = condition(&status.conditions, "Ready");
    assert_eq!(ready, "False");
    ensure!(message.contains("leases.coordination.k8s.io is forbidden") && message.contains("RBAC"), "{message}");
    let reason = status.conditions.iter().find(|condition| condition.type_ == "Ready").map(|ready| &*ready.reason);
    assert_eq!(reason, Some("LeaseForbidden"));
    // A Lease that is there and may not be adopted.
    let lease = "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: foreign, labels: {leasehold.dev/kind: lock}}, \
                 spec: {holderIdentity: somebody, leaseDurationSeconds: 3600}}";
    scene.apply(lease).await?;
    scene.apply(&lock_yaml("foreign", "{}")).await?;
    let status = scene.status("foreign", |status| condition(&status.conditions, "Ready").0 == "False").await?;
    assert_eq!((status.state, condition(&status.conditions, "Held").0), (Some(State::Held), "True"));

    let rule = r#"[{"op":"add","path":"/rules/-","value":{"apiGroups":["coordination.k8s.io"],"resources":["leases"],"verbs":["*"]}}]"#;
    scene.namespace.kubectl(&["patch", "role", "operator", "--type=json", "-p", rule]).await?;
    eventually(SOON, "it to be tried again", async || {
        // Otherwise that would take half a minute.
        scene.namespace.kubectl(&["annotate", "dlock", "--all", "--overwrite", &format!("try={}", rand())]).await?;
        for name in ["build", "foreign"] {
            let status = scene.status(name, |_| true).await?;
            ensure!(condition(&status.conditions, "Ready").0 == "True", "{status:#?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_an_admission_policy_refuses_is_told_with_its_message() -> Result<()> {
    let scene = Scene::new().await?;
    let name = scene.namespace.name();
    let policy = format!(
        r#"{{"apiVersion": "v1", "kind": "List", "items": [
        {{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {{"name": "{name}"}},
          "spec": {{"failurePolicy": "Fail",
            "matchConstraints": {{"resourceRules": [{{"apiGroups": ["coordination.k8s.io"], "apiVersions": ["*"],
              "operations": ["CREATE"], "resources": ["leases"]}}]}},
            "matchConditions": [{{"name": "here", "expression": "request.namespace == '{name}' && object.metadata.name.startsWith('guarded')"}}],
            "validations": [{{"expression": "false", "message": "this name is not for locks"}}]}}}},
        {{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {{"name": "{name}"}},
          "spec": {{"policyName": "{name}", "validationActions": ["Deny"]}}}}]}}"#
    );
    scene.apply(&policy).await?;
    let outcome = async {
        eventually(SOON, "the policy to be in force", async || {
            let lease = "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: guarded-try}}";
            let tried = scene.apply(lease).await;
            let _ = scene.namespace.kubectl(&["delete", "lease", "guarded-try", "--ignore-not-found"]).await;
            ensure!(tried.is_err(), "it was not refused");
            Ok(())
        })
        .await?;
        scene.apply(&lock_yaml("guarded", "{}")).await?;
        let status = scene.status("guarded", |status| status.state == Some(State::Blocked)).await?;
        let (ready, message) = condition(&status.conditions, "Ready");
        ensure!(ready == "False" && message.contains("this name is not for locks"), "{message}");
        anyhow::Ok(())
    };
    let outcome = outcome.await;
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        scene.namespace.cluster().kubectl(&["delete", kind, name]).await?;
    }
    outcome
}

fn rand() -> u128 {
    leasehold::clock::moment().since_start().as_nanos()
}
