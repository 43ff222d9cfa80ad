//! `run` with semaphores, read-write locks and several names, and what is left when the command has ended.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::DeleteParams;
use leasehold_testkit::{Cluster, eventually};
use serde_json::Value;

use crate::support::{LIST, RUN, SOON, Scene, end, leases, outcome};

async fn status(scene: &Scene, name: &str) -> Result<Value> {
    let status = scene.outcome(&["status", name, "-o", "json"]).await?;
    status.is(0, &[]);
    Ok(serde_json::from_str(&status.output)?)
}

#[tokio::test]
async fn permits_are_weighed() -> Result<()> {
    let scene = Scene::new().await?;
    let five = ["--semaphore", "--size", "5"];
    let two = [&five[..], &["--permits", "2"]].concat();
    let mut one = scene.holder("db", &two).await?;
    let mut other = scene.holder("db", &two).await?;
    let run = |more: &[&'static str]| [&["run", "db", "--no-wait"], &five[..], more, &["--", "true"]].concat();
    scene.outcome(&run(&["--permits", "2"])).await?.is(75, &["semaphore db", "held by worker and 1 more since"]);
    scene.outcome(&run(&[])).await?.is(0, &[]);
    let shown = status(&scene, "db").await?;
    assert_eq!(shown["kind"], "semaphore");
    assert_eq!(shown["permits"], serde_json::json!({"total": 5, "held": 4, "available": 1}));
    assert_eq!(shown["holders"][0]["share"], "2");
    scene.outcome(&["list"]).await?.is(0, &["semaphore", "4/5", "worker +1"]);
    // All have to say the same, and nobody gets more than there is.
    let other_size = ["run", "db", "--no-wait", "--semaphore", "--size", "4", "--", "true"];
    scene.outcome(&other_size).await?.is(64, &["5", "4"]);
    scene.outcome(&run(&["--permits", "6"])).await?.is(64, &["6"]);
    for holder in [&mut one, &mut other] {
        drop(holder.stdin());
        end(holder).await?.is(0, &[]);
    }
    // Nobody says how many there are.
    scene.outcome(&["run", "db", "--semaphore", "--", "true"]).await?.is(64, &["permits"]);
    Ok(())
}

#[tokio::test]
async fn readers_read_together_and_a_writer_is_alone() -> Result<()> {
    let scene = Scene::new().await?;
    let mut one = scene.holder("catalog", &["--read"]).await?;
    let mut other = scene.holder("catalog", &["--read"]).await?;
    scene
        .outcome(&["run", "catalog", "--write", "--no-wait", "--", "true"])
        .await?
        .is(75, &["read-write lock catalog", "worker and 1 more"]);
    scene.outcome(&["list"]).await?.is(0, &["rwlock", "2 read"]);
    let mut writer = scene.script(&["catalog", "--write"], "echo wrote")?.start()?;
    scene.wait_joins("catalog", 1).await?;
    // Readers that come later wait for the writer.
    scene.outcome(&["run", "catalog", "--read", "--no-wait", "--", "true"]).await?.is(75, &[]);
    for holder in [&mut one, &mut other] {
        drop(holder.stdin());
        end(holder).await?.is(0, &[]);
    }
    end(&mut writer).await?.is(0, &["wrote"]);
    // It is one kind of thing.
    let mut holder = scene.holder("catalog", &["--read"]).await?;
    scene.outcome(&["run", "catalog", "--no-wait", "--", "true"]).await?.is(64, &["rwlock"]);
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn several_are_held_all_or_none() -> Result<()> {
    let scene = Scene::new().await?;
    let mut holder = scene.holder("b", &[]).await?;
    scene.outcome(&["run", "a", "b", "c", "--no-wait", "--", "true"]).await?.is(75, &["lock b in namespace"]);
    let late = scene.outcome(&["run", "c", "b", "a", "--wait", "300ms", "--", "true"]).await?;
    late.is(75, &["lock b", "within 300ms"]);
    for free in ["a", "c"] {
        assert!(scene.lease(free).await?.is_none(), "{free}");
    }
    let script = "printf %s \"$LEASEHOLD_NAME\" | tr '\\n' , ; echo; \
                  test \"$(printf %s \"$LEASEHOLD_TOKEN\" | wc -l)\" = 2 && exec cat";
    let mut waiter = scene.script(&["c", "b", "a"], script)?.piped_stdin().start()?;
    scene.wait_joins("b", 1).await?;
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    // In the order in which they were named.
    waiter.wait_for_line(SOON, |line| line == "c,b,a").await?;
    scene.outcome(&["run", "a", "--no-wait", "--", "true"]).await?.is(75, &[]);
    // Where one of them is lost, all is over.
    scene.namespace.api::<k8s_openapi::api::coordination::v1::Lease>().delete("b", &DeleteParams::default()).await?;
    end(&mut waiter).await?.is(76, &["lock \"b\" is lost"]);
    scene.outcome(&["run", "a", "b", "c", "--wait", "20s", "--", "true"]).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn what_has_succeeded_is_not_done_again_and_what_has_failed_is() -> Result<()> {
    let scene = Scene::new().await?;
    let keep = ["job", "--no-wait", "--keep", "1h"];
    outcome(scene.script(&keep, "exit 3")?).await?.is(3, &[]);
    outcome(scene.script(&keep, "echo once")?).await?.is(0, &["once"]);
    outcome(scene.script(&keep, "echo twice")?).await?.is(75, &["which has left it held for a fixed time"]);
    let shown = status(&scene, "job").await?;
    assert_eq!(shown["holders"][0]["kept"], true);
    assert_eq!(shown["holders"][0]["leaseDurationSeconds"], 3600);
    scene.outcome(&["status", "job"]).await?.is(0, &["left here for 3600s by its process"]);
    scene.outcome(&["list", "-o", "wide"]).await?.is(0, &["LIVENESS", "kept 3600s"]);
    Ok(())
}

#[tokio::test]
async fn what_was_kept_can_be_had_when_its_time_is_over_and_clocks_may_be_believed() -> Result<()> {
    let scene = Scene::new().await?;
    let keep = ["job", "--keep", "1s", "--max-clock-skew", "1s"];
    for _ in 0..2 {
        eventually(SOON, "the end of what is kept", async || {
            let tried = outcome(scene.script(&[&keep[..], &["--no-wait"]].concat(), "exit 0")?).await?;
            ensure!(tried.code == Some(0), "{}", tried.output);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn it_is_held_for_a_time_at_least_and_at_most() -> Result<()> {
    let scene = Scene::new().await?;
    // However the command ends.
    outcome(scene.script(&["least", "--hold-at-least", "1h"], "exit 3")?).await?.is(3, &[]);
    outcome(scene.script(&["least", "--no-wait"], "exit 0")?).await?.is(75, &[]);
    let mut process = scene
        .script(&["most", "--max-hold", "1s"], "trap 'echo terminated; exit 0' TERM; sleep 1000 & wait")?
        .start()?;
    end(&mut process).await?.is(76, &["terminated", "as long as it may be"]);
    scene.outcome(&["run", "most", "--wait", "20s", "--", "true"]).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn a_text_for_a_shell_and_one_for_people() -> Result<()> {
    let scene = Scene::new().await?;
    let shell = ["run", "job", "--shell", "--", "echo \"$1\" | tr a-z A-Z; exit 4", "loud"];
    scene.outcome(&shell).await?.is(4, &["LOUD"]);
    let mut holder = scene.holder("job", &["--payload", "step 3\u{7} of 7"]).await?;
    scene.outcome(&["status", "job"]).await?.is(0, &["Payload:   step 3\\u{7} of 7"]);
    scene.outcome(&["list", "-o", "wide"]).await?.is(0, &["step 3\\u{7} of 7"]);
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    let long = "x".repeat(1025);
    scene.outcome(&["run", "job", "--payload", &long, "--", "true"]).await?.is(64, &["1025 bytes are too long"]);
    assert!(scene.lease("job").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn it_says_as_much_as_it_is_told_to() -> Result<()> {
    let scene = Scene::new().await?;
    let loud = scene.outcome(&["run", "job", "-v", "--", "true"]).await?;
    loud.is(0, &["acquired lock job with token ", "released lock job"]);
    assert_eq!(scene.outcome(&["run", "job", "-q", "--", "true"]).await?.output, "");
    let holder = scene.holder("job", &[]).await?;
    let quiet = scene.outcome(&["run", "job", "-q", "--wait", "3s", "--", "true"]).await?;
    quiet.is(75, &["was not acquired within 3s"]);
    assert!(!quiet.output.contains("waiting for"), "{}", quiet.output);
    drop(holder);
    Ok(())
}

#[tokio::test]
async fn the_pod_has_a_label_while_it_holds() -> Result<()> {
    let scene = Scene::with(Cluster::shared().await?, &[&RUN[..], &[LIST]].concat()).await?;
    scene.namespace.pod("worker", None).await?;
    let mut rules = leases(&RUN);
    rules.push(PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["pods".into()]),
        verbs: vec!["patch".into()],
        ..PolicyRule::default()
    });
    scene.namespace.service_account("labeller", rules).await?.write_kubeconfig(&scene.kubeconfig())?;
    let label = async |key: &str| -> Result<Option<String>> {
        let pod = scene.namespace.api::<Pod>().get("worker").await?;
        Ok(pod.metadata.labels.unwrap_or_default().get(key).cloned())
    };
    for (option, key) in [("--label-pod", "held.leasehold.dev/job"), ("--label-pod=example.com/x", "example.com/x")] {
        let mut holder = scene.holder("job", &[option]).await?;
        eventually(SOON, "a label", async || label(key).await?.context("none")).await?;
        drop(holder.stdin());
        end(&mut holder).await?.is(0, &[]);
        // It does not stay.
        assert_eq!(label(key).await?, None);
    }
    let nameless = scene.script(&["job", "--label-pod"], "exit 0")?.env_remove("POD_NAME");
    outcome(nameless).await?.is(64, &["set POD_NAME"]);
    Ok(())
}
