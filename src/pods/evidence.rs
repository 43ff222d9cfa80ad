//! Whether a Pod proves that every process in it has ended, and that none will begin there again: pure.
//!
//! A status may be older than a restart: the kubelet writes it, restarts the container, and is cut off before it writes
//! again. So that all containers have terminated is half of it. The other half is that after this very status none was
//! restarted, and that is so
//!
//! - where no policy and no rule restarts any of them, or
//! - where the kubelet says with it that the Pod is over. It restarts nothing then, for good.
//!
//! The phase alone does not say so: the garbage collection of Pods sets it as well, and `observedGeneration` with it,
//! of Pods on nodes it hears nothing of. A deletion does not either: the status may be older than it. The reason on
//! `ContainersReady` is given by the kubelet alone, when it has found the Pod to be over.

use super::pod::{Container, ContainerStatus, Pod, Terminated, all};

/// Marks the image of a Pod that the kubelet runs by a file of its own, whatever becomes of the image.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Reasons of those who did not find a container, and did not see it end either: the kubelet, containerd, and the kubelet
/// once more, of one that it removes to make it anew.
const UNSEEN: [&str; 3] = ["ContainerStatusUnknown", "Unknown", "RestartingAllContainers"];

/// Why a Pod proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// A node's own Pod: what becomes of its image in the API server is nothing to it.
    #[error("it is a static Pod's image")]
    Static,
    /// What a container started may outlive it.
    #[error("its processes share a process namespace")]
    Shared,
    /// It names no container.
    #[error("it has no containers")]
    Empty,
    /// Of this container it is not said, by somebody who saw it, that it has ended.
    #[error("container {0} was not seen to have ended")]
    Unended(String),
    /// A container may have been restarted since.
    #[error("its containers may have been restarted")]
    MayRestart,
}

/// Whether every process of this Pod has ended, for good.
///
/// # Errors
/// What is left to doubt.
pub fn evidence(pod: &Pod) -> Result<(), Doubt> {
    let spec = &pod.spec;
    if pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR)) {
        return Err(Doubt::Static);
    }
    if spec.host_pid == Some(true) || spec.share_process_namespace == Some(true) {
        return Err(Doubt::Shared);
    }
    let ended = ended(pod)?;
    if is_over(pod) || nothing_restarts(pod, &ended) { Ok(()) } else { Err(Doubt::MayRestart) }
}

/// How each container that ever ran has ended.
fn ended(pod: &Pod) -> Result<Vec<&Terminated>, Doubt> {
    let (spec, status) = (&pod.spec, &pod.status);
    let (init, main) = (all(spec.init_containers.as_ref()), all(spec.containers.as_ref()));
    if main.is_empty() {
        return Err(Doubt::Empty);
    }
    let ephemeral = all(spec.ephemeral_containers.as_ref());
    let init_statuses = all(status.init_container_statuses.as_ref());
    let main_statuses = all(status.container_statuses.as_ref());
    let ephemeral_statuses = all(status.ephemeral_container_statuses.as_ref());
    let (mut all_ended, mut initialized) = (Vec::new(), true);
    for container in init {
        let end = end_of(container, init_statuses, initialized)?;
        // What comes after it waits until it has succeeded. A sidecar is waited for only until it runs.
        initialized &= is_sidecar(container) || end.is_some_and(|end| end.exit_code == 0);
        all_ended.extend(end);
    }
    for container in main {
        all_ended.extend(end_of(container, main_statuses, initialized)?);
    }
    for container in ephemeral {
        all_ended.extend(end_of(container, ephemeral_statuses, true)?);
    }
    Ok(all_ended)
}

/// How this container has ended. None if it never began, since what it had to wait for has failed.
fn end_of<'a>(
    container: &Container,
    statuses: &'a [ContainerStatus],
    could_begin: bool,
) -> Result<Option<&'a Terminated>, Doubt> {
    let doubt = || Doubt::Unended(container.name.clone());
    let status = statuses.iter().find(|status| status.name == container.name).ok_or_else(doubt)?;
    let (waiting, running) = (status.state.waiting.is_some(), status.state.running.is_some());
    match &status.state.terminated {
        Some(end) if !waiting && !running && was_seen(end) => Ok(Some(end)),
        None if waiting && !running && !could_begin && never_ran(status) => Ok(None),
        _ => Err(doubt()),
    }
}

/// The runtime knew this container, and saw its end.
fn was_seen(end: &Terminated) -> bool {
    let known = end.container_id.as_ref().is_some_and(|id| !id.is_empty());
    known && !UNSEEN.contains(&end.reason.as_deref().unwrap_or_default())
}

fn never_ran(status: &ContainerStatus) -> bool {
    let unknown = status.container_id.as_ref().is_none_or(String::is_empty);
    unknown && status.restart_count == 0 && status.last_state.is_empty()
}

/// The kubelet has found the Pod to be over.
fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.phase.as_deref();
    let said = all(pod.status.conditions.as_ref()).iter().any(|condition| {
        let reason = condition.reason.as_deref();
        condition.type_ == "ContainersReady"
            && condition.status == "False"
            && matches!(reason, Some("PodFailed" | "PodCompleted"))
    });
    said && matches!(phase, Some("Failed" | "Succeeded"))
}

/// There is no policy and no rule by which one that has ended so is restarted.
fn nothing_restarts(pod: &Pod, ended: &[&Terminated]) -> bool {
    let spec = &pod.spec;
    let mut containers = all(spec.containers.as_ref()).iter().chain(all(spec.init_containers.as_ref()));
    let by_the_pod = containers.all(|one| one.restart_policy.is_none() && one.restart_policy_rules.is_none());
    by_the_pod
        && match spec.restart_policy.as_deref() {
            Some("Never") => true,
            Some("OnFailure") => ended.iter().all(|end| end.exit_code == 0),
            _ => false,
        }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

#[cfg(test)]
mod kubelet;
#[cfg(test)]
mod tests;
