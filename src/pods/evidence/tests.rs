use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn terminated(name: &str, exit_code: i32) -> Value {
    let id = format!("containerd://{name}");
    let reason = if exit_code == 0 { "Completed" } else { "Error" };
    let end =
        json!({ "exitCode": exit_code, "reason": reason, "containerID": id, "finishedAt": "2026-01-01T00:00:00Z" });
    json!({ "name": name, "image": "i", "imageID": "i", "ready": false, "restartCount": 0, "containerID": id,
        "state": { "terminated": end }, "lastState": {} })
}

fn running(name: &str) -> Value {
    json!({ "name": name, "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
        "containerID": format!("containerd://{name}"), "state": { "running": {} } })
}

fn waiting(name: &str) -> Value {
    json!({ "name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": "PodInitializing" } }, "lastState": {} })
}

fn ready(reason: &str) -> Value {
    json!([{ "type": "PodScheduled", "status": "True" },
        { "type": "ContainersReady", "status": "False", "reason": reason }])
}

/// A Pod of a Deployment that was deleted, as the kubelet leaves it.
fn over() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "a", "namespace": "ns", "uid": "u", "resourceVersion": "7", "generation": 2,
            "deletionTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "restartPolicy": "Always", "containers": [{ "name": "main", "image": "i" }] },
        "status": { "phase": "Failed", "observedGeneration": 2, "conditions": ready("PodFailed"),
            "containerStatuses": [terminated("main", 137)] },
    })
}

/// A Pod with this change, as RFC 7396 has it.
fn with(mut pod: Value, change: &Value) -> Value {
    json_patch::merge(&mut pod, change);
    pod
}

fn judge(pod: &Value) -> Result<(), Doubt> {
    evidence(&serde_json::from_value(pod.clone()).unwrap_or_else(|error| panic!("{error}: {pod:#}")))
}

fn unended(name: &str) -> Result<(), Doubt> {
    Err(Doubt::Unended(name.to_owned()))
}

#[test]
fn a_pod_that_the_kubelet_calls_over_is_evidence_if_all_its_containers_were_seen_to_end() {
    let two = json!([{ "name": "main" }, { "name": "side" }]);
    let end = |change: &Value| {
        let mut status = terminated("main", 137);
        json_patch::merge(&mut status["state"]["terminated"], change);
        json!({ "status": { "containerStatuses": [status] } })
    };
    let ephemeral = |statuses: Value| {
        json!({
            "spec": { "ephemeralContainers": [{ "name": "debug" }] },
            "status": { "ephemeralContainerStatuses": statuses },
        })
    };
    for (what, change, wanted) in [
        ("as it is", json!({}), Ok(())),
        ("succeeded", json!({ "status": { "phase": "Succeeded", "conditions": ready("PodCompleted") } }), Ok(())),
        // What the kubelet evicted, or stopped since its node goes down, was not deleted.
        ("not deleted", json!({ "metadata": { "deletionTimestamp": null } }), Ok(())),
        // The phase alone, with all that the garbage collection of Pods sets with it.
        ("the phase alone", json!({ "status": { "containerStatuses": [running("main")] } }), unended("main")),
        (
            "a phase by somebody else",
            json!({ "status": { "conditions": ready("ContainersNotReady") } }),
            Err(Doubt::MayRestart),
        ),
        ("a phase without conditions", json!({ "status": { "conditions": null } }), Err(Doubt::MayRestart)),
        ("no phase yet", json!({ "status": { "phase": "Running" } }), Err(Doubt::MayRestart)),
        (
            "ready all the same",
            json!({ "status": { "conditions":
            [{ "type": "ContainersReady", "status": "True", "reason": "PodFailed" }] } }),
            Err(Doubt::MayRestart),
        ),
        (
            "said of something else",
            json!({ "status": { "conditions":
            [{ "type": "Ready", "status": "False", "reason": "PodFailed" }] } }),
            Err(Doubt::MayRestart),
        ),
        // What the kubelet did not see.
        ("not found", end(&json!({ "reason": "ContainerStatusUnknown", "containerID": null })), unended("main")),
        ("not found, with an id", end(&json!({ "reason": "ContainerStatusUnknown" })), unended("main")),
        ("lost by containerd", end(&json!({ "reason": "Unknown", "exitCode": 255 })), unended("main")),
        ("removed to be made anew", end(&json!({ "reason": "RestartingAllContainers" })), unended("main")),
        ("of no container", end(&json!({ "containerID": "" })), unended("main")),
        ("no reason given", end(&json!({ "reason": null })), Ok(())),
        // Every container, each by its own status.
        ("no status at all", json!({ "status": null }), unended("main")),
        ("no container's status", json!({ "status": { "containerStatuses": [] } }), unended("main")),
        ("no containers", json!({ "spec": { "containers": [] } }), Err(Doubt::Empty)),
        ("one of two", json!({ "spec": { "containers": two } }), unended("side")),
        (
            "one of two runs",
            json!({ "spec": { "containers": two }, "status": { "containerStatuses":
            [terminated("main", 1), running("side")] } }),
            unended("side"),
        ),
        (
            "one of two waits",
            json!({ "spec": { "containers": two }, "status": { "containerStatuses":
            [terminated("main", 1), waiting("side")] } }),
            unended("side"),
        ),
        (
            "both",
            json!({ "spec": { "containers": two }, "status": { "containerStatuses":
            [terminated("side", 0), terminated("main", 1)] } }),
            Ok(()),
        ),
        ("debugged", ephemeral(json!([running("debug")])), unended("debug")),
        ("debugged, not begun", ephemeral(json!([waiting("debug")])), unended("debug")),
        ("debugged, not told", ephemeral(json!(null)), unended("debug")),
        ("debugged, ended", ephemeral(json!([terminated("debug", 0)])), Ok(())),
        // Where a container's end is not that of its processes.
        (
            "static",
            json!({ "metadata": { "annotations": { "kubernetes.io/config.mirror": "x" } } }),
            Err(Doubt::Static),
        ),
        ("the node's processes", json!({ "spec": { "hostPID": true } }), Err(Doubt::Shared)),
        ("one process namespace", json!({ "spec": { "shareProcessNamespace": true } }), Err(Doubt::Shared)),
        ("neither", json!({ "spec": { "hostPID": false, "shareProcessNamespace": false } }), Ok(())),
    ] {
        assert_eq!(judge(&with(over(), &change)), wanted, "{what}");
    }
}

#[test]
fn where_no_word_of_the_kubelet_is_to_be_had_nothing_may_restart_it() {
    // A container has just terminated, and the kubelet may restart it or may have done so.
    let gap = |policy: &str, exit: i32| {
        let change = json!({ "spec": { "restartPolicy": policy }, "status": { "phase": "Running",
            "conditions": ready("ContainersNotReady"), "containerStatuses": [terminated("main", exit)] } });
        with(over(), &change)
    };
    let alive = json!({ "metadata": { "deletionTimestamp": null } });
    let own = |own: Value| json!({ "spec": { "containers": [with(json!({ "name": "main" }), &own)] } });
    let rules = json!({ "restartPolicyRules": [{ "action": "Restart" }], "restartPolicy": "Never" });
    let sidecar = json!({ "spec": { "initContainers": [{ "name": "proxy", "restartPolicy": "Always" }] },
        "status": { "initContainerStatuses": [terminated("proxy", 0)] } });
    for (what, pod, ended) in [
        ("Always", with(gap("Always", 1), &alive), false),
        // Its status may be older than the deletion, and a restart lie between.
        ("Always, deleted", gap("Always", 1), false),
        (
            "Always, marked by the garbage collection",
            with(gap("Always", 1), &json!({ "status": { "phase": "Failed" } })),
            false,
        ),
        ("Always, exit 0", with(gap("Always", 0), &alive), false),
        ("no policy", with(gap("Never", 0), &json!({ "spec": { "restartPolicy": null } })), false),
        ("OnFailure, exit 1", with(gap("OnFailure", 1), &alive), false),
        ("OnFailure, exit 1, deleted", gap("OnFailure", 1), false),
        ("OnFailure, exit 0", with(gap("OnFailure", 0), &alive), true),
        ("Never, exit 0", with(gap("Never", 0), &alive), true),
        ("Never, exit 1", with(gap("Never", 1), &alive), true),
        ("Never, but for this container", with(gap("Never", 1), &own(json!({ "restartPolicy": "OnFailure" }))), false),
        ("Never, with a rule", with(gap("Never", 1), &own(rules)), false),
        ("Never, with a sidecar", with(gap("Never", 1), &sidecar), false),
    ] {
        assert_eq!(judge(&pod), if ended { Ok(()) } else { Err(Doubt::MayRestart) }, "{what}");
    }
    // With the kubelet's word sidecars and rules restart nothing either.
    assert_eq!(judge(&with(over(), &sidecar)), Ok(()));
    assert_eq!(judge(&with(over(), &own(json!({ "restartPolicyRules": [{}] })))), Ok(()));
}

#[test]
fn what_waited_for_something_that_failed_never_ran() {
    let spec = json!({ "restartPolicy": "Never", "initContainers": [{ "name": "one" }, { "name": "two" }] });
    let pod = |init: [Value; 2], main: Value| {
        let status = json!({ "initContainerStatuses": init, "containerStatuses": [main] });
        with(over(), &json!({ "spec": spec, "status": status }))
    };
    let (failed, done) = (terminated("one", 1), terminated("one", 0));
    assert_eq!(judge(&pod([failed.clone(), waiting("two")], waiting("main"))), Ok(()));
    assert_eq!(judge(&pod([done.clone(), terminated("two", 1)], waiting("main"))), Ok(()));
    // It could begin, so that nobody knows whether it did.
    assert_eq!(judge(&pod([done.clone(), waiting("two")], waiting("main"))), unended("two"));
    assert_eq!(judge(&pod([done.clone(), terminated("two", 0)], waiting("main"))), unended("main"));
    assert_eq!(judge(&pod([failed.clone(), waiting("two")], running("main"))), unended("main"));
    for trace in [
        json!({ "restartCount": 1 }),
        json!({ "containerID": "containerd://x" }),
        json!({ "lastState": { "terminated": { "exitCode": 1 } } }),
        json!({ "state": { "waiting": null } }),
    ] {
        let main = with(waiting("main"), &trace);
        assert_eq!(judge(&pod([failed.clone(), waiting("two")], main)), unended("main"), "{trace}");
    }
    // A sidecar's end does not keep anybody waiting, so what comes after it may have begun.
    let sidecar =
        json!({ "spec": { "initContainers": [{ "name": "one", "restartPolicy": "Always" }, { "name": "two" }] } });
    assert_eq!(judge(&with(pod([failed, waiting("two")], waiting("main")), &sidecar)), unended("two"));
}

/// A Pod that is evidence, of so many containers of each sort.
fn any_over() -> impl Strategy<Value = Value> {
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    (1..4_usize, 0..3_usize, 0..3_usize, policy, any::<bool>(), 0..3_i32).prop_map(
        |(main, init, debug, policy, deleted, exit)| {
            let name = |sort: &str, n: usize| format!("{sort}-{n}");
            let named = |sort: &str, count: usize| (0..count).map(|n| json!({ "name": name(sort, n) })).collect::<Vec<_>>();
            let ended = |sort: &str, count: usize, exit: i32| {
                (0..count).map(|n| terminated(&name(sort, n), exit)).collect::<Vec<_>>()
            };
            let change = json!({
                "metadata": { "deletionTimestamp": deleted.then_some("2026-01-01T00:00:00Z") },
                "spec": { "restartPolicy": policy, "containers": named("main", main),
                    "initContainers": named("init", init), "ephemeralContainers": named("debug", debug) },
                "status": { "containerStatuses": ended("main", main, exit), "initContainerStatuses": ended("init", init, 0),
                    "ephemeralContainerStatuses": ended("debug", debug, exit) },
            });
            with(over(), &change)
        },
    )
}

const LISTS: [&str; 3] = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];

proptest! {
    /// Whichever container it is: without its end, seen, there is no evidence.
    #[test]
    fn each_container_counts(pod in any_over(), which in any::<prop::sample::Index>(), how in 0..5) {
        prop_assert_eq!(judge(&pod), Ok(()));
        let all: Vec<(&str, usize)> = LISTS
            .iter()
            .flat_map(|list| (0..pod["status"][list].as_array().map_or(0, Vec::len)).map(move |at| (*list, at)))
            .collect();
        let (list, at) = all[which.index(all.len())];
        let mut spoilt = pod.clone();
        let statuses = spoilt["status"][list].as_array_mut().unwrap();
        let name = statuses[at]["name"].as_str().unwrap().to_owned();
        match how {
            0 => drop(statuses.remove(at)),
            1 => statuses[at] = running(&name),
            2 => statuses[at] = waiting(&name),
            3 => statuses[at]["state"]["terminated"]["reason"] = json!("ContainerStatusUnknown"),
            _ => statuses[at]["state"]["running"] = json!({}),
        }
        prop_assert_eq!(judge(&spoilt), unended(&name));
    }
}
