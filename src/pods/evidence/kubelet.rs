//! A node, an API server that hears of it late, and whoever else writes to its Pod: whenever what the API server shows is
//! evidence, nothing of the Pod runs, and nothing of it will ever run again.
//!
//! The kubelet here does what Kubernetes 1.36's does: one worker for a Pod, which looks at the containers, hands a status
//! to be written some time later (only the last one is), and then starts what is to run. Once the Pod is over for it,
//! nothing is started; that it has forgotten after a restart, unless the API server shows the Pod deleted or over.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::Pod;
use super::evidence;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Running,
    Exited(i32),
    /// It runs, and the runtime has lost sight of it.
    Lost,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Exit(usize, i32),
    Lose(usize),
    /// The worker goes round once.
    Sync,
    /// The last status reaches the API server.
    Write,
    /// The kubelet hears what the API server shows.
    Hear,
    /// The node is short of something, or goes down: the kubelet ends the Pod.
    Evict,
    /// It begins anew, and remembers nothing.
    Restart,
    Delete,
    /// The garbage collection of Pods takes the node for gone.
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..2_usize;
    prop_oneof![
        4 => (which.clone(), 0..2_i32).prop_map(|(which, code)| Step::Exit(which, code)),
        1 => which.prop_map(Step::Lose),
        6 => Just(Step::Sync),
        5 => Just(Step::Write),
        3 => Just(Step::Hear),
        1 => Just(Step::Evict),
        1 => Just(Step::Restart),
        1 => Just(Step::Delete),
        1 => Just(Step::Collect),
    ]
}

/// What the kubelet has heard.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    deleted: bool,
    over: bool,
}

#[derive(Debug)]
struct Node {
    policy: &'static str,
    containers: Vec<Container>,
    heard: Heard,
    /// For the worker the Pod is over.
    over: bool,
    unwritten: Option<Value>,
    api: Value,
    proven: bool,
}

impl Node {
    fn new(policy: &'static str, containers: usize) -> Self {
        let named: Vec<Value> = (0..containers).map(|n| json!({ "name": format!("c{n}") })).collect();
        let api = json!({ "metadata": { "name": "a", "namespace": "ns", "uid": "u", "generation": 1 },
            "spec": { "restartPolicy": policy, "containers": named }, "status": { "phase": "Pending" } });
        let (containers, heard) = (vec![Container::Running; containers], Heard::default());
        Self { policy, containers, heard, over: false, unwritten: None, api, proven: false }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Exit(which, code) => {
                if let Some(container @ (Container::Running | Container::Lost)) = self.containers.get_mut(which) {
                    // Of one that is out of sight nobody sees the end.
                    *container = if *container == Container::Lost { Container::Lost } else { Container::Exited(code) };
                }
            }
            Step::Lose(which) => {
                if let Some(container @ Container::Running) = self.containers.get_mut(which) {
                    *container = Container::Lost;
                }
            }
            Step::Sync => self.sync(),
            Step::Write => self.write(),
            Step::Hear => self.heard = Heard { deleted: self.is_deleted(), over: self.is_over() },
            Step::Evict => {
                self.heard.over = true;
                self.sync();
            }
            Step::Restart => {
                (self.over, self.unwritten) = (false, None);
                self.heard = Heard { deleted: self.is_deleted(), over: self.is_over() };
            }
            Step::Delete => {
                if !self.is_deleted() {
                    self.api["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                    self.api["metadata"]["generation"] = json!(2);
                }
            }
            Step::Collect => {
                if !self.is_over() {
                    self.api["status"]["phase"] = json!("Failed");
                    self.api["status"]["observedGeneration"] = self.api["metadata"]["generation"].clone();
                }
            }
        }
        self.check();
    }

    fn is_deleted(&self) -> bool {
        self.api["metadata"]["deletionTimestamp"].is_string()
    }

    fn is_over(&self) -> bool {
        matches!(self.api["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))
    }

    fn sync(&mut self) {
        if self.over || self.heard.deleted || self.heard.over {
            self.unwritten = Some(self.status(false));
            self.over = true;
            for container in self.containers.iter_mut().filter(|container| **container == Container::Running) {
                *container = Container::Exited(137);
            }
            self.unwritten = Some(self.status(true));
            return;
        }
        let status = self.status(false);
        self.over = matches!(status["phase"].as_str(), Some("Failed" | "Succeeded"));
        self.unwritten = Some(status);
        if self.over {
            return;
        }
        for container in &mut self.containers {
            let starts = match container {
                Container::Running => false,
                // What the runtime does not know of was never started.
                Container::Lost => true,
                Container::Exited(code) => self.policy == "Always" || self.policy == "OnFailure" && *code != 0,
            };
            if starts {
                *container = Container::Running;
            }
        }
    }

    fn status(&self, terminal: bool) -> Value {
        let phase = self.phase(terminal);
        let state = |container: &Container, name: &str| match container {
            Container::Running => json!({ "running": {} }),
            Container::Exited(code) => {
                json!({ "terminated": { "exitCode": code, "containerID": format!("x://{name}") } })
            }
            Container::Lost => json!({ "terminated": { "exitCode": 137, "reason": "ContainerStatusUnknown" } }),
        };
        let statuses: Vec<Value> = self
            .containers
            .iter()
            .enumerate()
            .map(|(n, container)| json!({ "name": format!("c{n}"), "state": state(container, &format!("c{n}")) }))
            .collect();
        let reason = match phase {
            "Failed" => "PodFailed",
            "Succeeded" => "PodCompleted",
            _ => "ContainersNotReady",
        };
        json!({ "phase": phase, "containerStatuses": statuses, "observedGeneration": 1 + u8::from(self.heard.deleted),
            "conditions": [{ "type": "ContainersReady", "status": "False", "reason": reason }] })
    }

    fn phase(&self, terminal: bool) -> &'static str {
        // What the API server shows as over stays so.
        if self.heard.over {
            return "Failed";
        }
        let stopped = self.containers.iter().all(|container| *container != Container::Running);
        let succeeded = self.containers.iter().all(|container| *container == Container::Exited(0));
        match (stopped, succeeded) {
            (true, true) if terminal || self.policy != "Always" => "Succeeded",
            (true, false) if terminal || self.policy == "Never" => "Failed",
            _ => "Running",
        }
    }

    fn write(&mut self) {
        let Some(mut status) = self.unwritten.take() else { return };
        // The kubelet calls nothing over that could run still, and what is over stays so.
        if self.is_over() {
            status["phase"] = self.api["status"]["phase"].clone();
        }
        self.api["status"] = status;
    }

    fn check(&mut self) {
        let pod: Pod = serde_json::from_value(self.api.clone()).unwrap();
        self.proven |= evidence(&pod).is_ok();
        let runs = self.containers.iter().any(|container| !matches!(container, Container::Exited(_)));
        assert!(!(self.proven && runs), "{self:#?}");
    }
}

#[test]
fn most_of_those_that_have_ended_are_evidence() {
    for (policy, steps) in [
        ("Always", vec![Step::Sync, Step::Write, Step::Delete, Step::Hear, Step::Sync, Step::Write]),
        ("Always", vec![Step::Sync, Step::Evict, Step::Write]),
        ("OnFailure", vec![Step::Exit(0, 0), Step::Exit(1, 0), Step::Sync, Step::Write]),
        ("Never", vec![Step::Exit(0, 1), Step::Exit(1, 0), Step::Sync, Step::Write]),
    ] {
        let mut node = Node::new(policy, 2);
        for step in &steps {
            node.take(*step);
        }
        assert!(node.proven, "{steps:?}: {node:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn where_there_is_evidence_nothing_runs_or_ever_will(
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        containers in 1..3_usize,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut node = Node::new(policy, containers);
        for step in steps {
            node.take(step);
        }
    }
}
