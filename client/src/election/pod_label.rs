//! A label on the leader's own Pod, so that a Service can select it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::client::Client;
use crate::clock;
use crate::error::OptionsError;
use crate::hold::Hold;
use crate::protocol::{LATEST_COMMIT, Moment};
use crate::store::kube::{causes, connect};
use crate::task::Tasks;
use crate::validity::Validity;

/// What the label says. A Service selects by it.
const VALUE: &str = "true";
/// The prefix of labels' keys, where none is said.
pub(super) const PREFIX: &str = "leader.leasehold.dev/";
/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(3);
/// How long whoever steps down waits for the label to go.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the label is put back, in case somebody has removed it.
const REPEAT: Duration = Duration::from_secs(60);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How often it is attempted when nobody is there any more to campaign.
const LAST_ATTEMPTS: u32 = 5;

/// Which Pod is labelled while it leads, and how.
///
/// By default it is the Pod that the environment's `POD_NAME` names (the downward API's `metadata.name`), in the namespace
/// `POD_NAMESPACE` or else that of the client's configuration; and the label is `leader.leasehold.dev/<election>: "true"`, one
/// key for each election, so that one Pod can lead in several. An annotation of the same key has the
/// [fencing token](crate::Hold::token).
///
/// The label is set once this process leads, and removed when it does not any more; one that a crash left over is removed
/// when the next process in the same Pod begins to campaign. It needs the verb `patch` on `pods`. Where it cannot be set or removed that is told in
/// the log and by [`label_state`](super::Election::label_state), and tried again; the leadership does not depend on it.
///
/// # What a Service sees
/// A label is not a lock. Between two leaders there is a short time in which no Pod has the label; when one steps down, the
/// label goes before the leadership does. But a Pod whose process was paused, or whose node was cut off, keeps it until its process
/// runs again or Kubernetes finds the Pod not ready (some 40 s where the node is gone). Until then the Service
/// sends requests to both. So a leader that serves requests checks that it leads
/// ([`is_leader`](super::Election::is_leader)) before it answers, and sends its token along with what it writes: of two
/// labelled Pods the one with the larger token leads.
#[derive(Clone, Debug, Default)]
pub struct PodLabel {
    key: Option<String>,
    pod: Option<String>,
    namespace: Option<String>,
}

impl PodLabel {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The label's key. It must differ between the elections that a Pod takes part in.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The Pod's name.
    #[must_use]
    pub fn pod(mut self, name: impl Into<String>) -> Self {
        self.pod = Some(name.into());
        self
    }

    /// The Pod's namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }
}

/// How the Pod's label stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LabelState {
    /// Nobody has looked after it yet.
    Unknown,
    /// The Pod has it.
    Set,
    /// The Pod does not have it.
    Removed,
    /// It could not be set or removed, and is tried again.
    Failing {
        /// What the API server, or the way to it, had against it.
        message: String,
    },
}

/// Keeps the label as it should be, by a task of its own.
#[derive(Debug)]
pub(super) struct Labeller {
    target: Target,
    tasks: Tasks,
    wanted: watch::Sender<Option<Term>>,
    state: watch::Sender<LabelState>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Debug)]
struct Target {
    config: kube::Config,
    namespace: String,
    pod: String,
    key: String,
}

/// A stay in office.
#[derive(Clone, Debug)]
struct Term {
    validity: Arc<Validity>,
    token: u64,
}

impl Labeller {
    pub(super) fn new(label: PodLabel, client: &Client, prefix: &str, name: &str) -> Result<Self, OptionsError> {
        let bad = |problem: String| OptionsError::new("label_pod", problem);
        let config = client.inner().config.clone();
        let config = config.ok_or_else(|| bad("this client knows no cluster: give it a kube_config()".to_owned()))?;
        let named = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let pod = label.pod.or_else(|| named("POD_NAME")).ok_or_else(|| {
            bad("which Pod this is is not known: set POD_NAME by the downward API (metadata.name), or name it"
                .to_owned())
        })?;
        let namespace = label.namespace.or_else(|| named("POD_NAMESPACE"));
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let key = label.key.unwrap_or_else(|| format!("{prefix}{name}"));
        if !is_key(&key) {
            return Err(bad(format!(
                "{key:?} cannot be a label's key: after the prefix up to 63 letters, digits, `-`, `_` and `.` are possible, \
                 beginning and ending with a letter or digit; say another key"
            )));
        }
        let target = Target { config, namespace, pod, key };
        let (wanted, state) = (watch::Sender::new(None), watch::Sender::new(LabelState::Unknown));
        Ok(Self { target, tasks: client.inner().shared.tasks, wanted, state, task: Mutex::default() })
    }

    /// Begins to look after the label: what was left over is removed.
    pub(super) fn begin(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has ended with its runtime is followed by another.
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            let keeper = Keeper {
                target: self.target.clone(),
                wanted: self.wanted.subscribe(),
                state: self.state.clone(),
                client: None,
                stands: Stands::Unknown,
                failures: 0,
                unclear: false,
                again_at: None,
            };
            *task = Some(self.tasks.spawn(keeper.run()));
        }
    }

    pub(super) fn lead(&self, hold: &Hold) {
        self.wanted.send_replace(Some(Term { validity: hold.validity().clone(), token: hold.token() }));
    }

    pub(super) fn withdraw(&self, hold: &Hold) {
        self.wanted
            .send_if_modified(|wanted| wanted.take_if(|term| Arc::ptr_eq(&term.validity, hold.validity())).is_some());
    }

    pub(super) fn withdraw_all(&self) {
        self.wanted.send_if_modified(|wanted| wanted.take().is_some());
    }

    /// Waits until the label has gone, but not for long.
    pub(super) async fn withdrawn(&self) {
        let mut state = self.state.subscribe();
        // Where that fails there is nothing to be waited for.
        let gone = state.wait_for(|state| matches!(state, LabelState::Removed | LabelState::Failing { .. }));
        if tokio::time::timeout(PATIENCE, gone).await.is_err() {
            debug!("the label on the leader's Pod has not gone yet");
        }
    }

    pub(super) fn state(&self) -> LabelState {
        self.state.borrow().clone()
    }
}

/// What stands on the Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Unknown,
    /// The label, with this token beside it, or none.
    Label(Option<u64>),
}

struct Keeper {
    target: Target,
    wanted: watch::Receiver<Option<Term>>,
    state: watch::Sender<LabelState>,
    client: Option<kube::Client>,
    stands: Stands,
    failures: u32,
    /// A request was not answered, and may still be carried out.
    unclear: bool,
    /// When to write what is wanted though that stands there, or again though it failed.
    again_at: Option<Moment>,
}

impl Keeper {
    async fn run(mut self) {
        let mut nobody_left = false;
        loop {
            let term = self.wanted.borrow_and_update().clone().filter(|term| term.validity.check().is_ok());
            let token = term.as_ref().map(|term| term.token);
            let due = self.again_at.is_some_and(|at| clock::moment() >= at);
            // What has failed is tried again when it is due.
            let news = self.stands != Stands::Label(token) && (self.failures == 0 || self.again_at.is_none());
            if due || news {
                self.write(token).await;
                continue;
            }
            let settled = self.stands == Stands::Label(None) && self.again_at.is_none();
            if nobody_left && (settled || self.failures >= LAST_ATTEMPTS) {
                return;
            }
            let over = async {
                match &term {
                    Some(term) => term.validity.lost().cancelled().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.wanted.changed(), if !nobody_left => {
                    nobody_left = changed.is_err();
                    self.again_at.take_if(|_| self.failures > 0 && !nobody_left);
                }
                () = over => self.again_at = None,
                () = sleep(self.again_at) => {}
            }
        }
    }

    async fn write(&mut self, token: Option<u64>) {
        if token.is_some() {
            self.state.send_if_modified(|state| std::mem::replace(state, LabelState::Unknown) != LabelState::Unknown);
        }
        let outcome = match tokio::time::timeout(LIMIT, self.patch(token)).await {
            Ok(outcome) => outcome,
            Err(_) => Err((format!("no answer within {LIMIT:?}"), true)),
        };
        let Target { namespace, pod, key, .. } = &self.target;
        match outcome {
            Ok(()) => {
                debug!(namespace, pod, key, ?token, "the leader's label is as it should be");
                self.stands = Stands::Label(token);
                self.failures = 0;
                self.state.send_replace(if token.is_some() { LabelState::Set } else { LabelState::Removed });
                let again = match token {
                    Some(_) => Some(REPEAT),
                    // What was not answered may still come true.
                    None => std::mem::take(&mut self.unclear).then_some(LATEST_COMMIT),
                };
                self.again_at = again.map(|time| clock::moment() + time);
            }
            Err((message, unclear)) => {
                if self.failures == 0 {
                    warn!(namespace, pod, key, message, "the leader's label could not be changed; it is tried again");
                }
                self.stands = Stands::Unknown;
                self.unclear |= unclear;
                let pause = (Duration::from_millis(250) * (1 << self.failures.min(8))).min(LONGEST_PAUSE);
                self.again_at = Some(clock::moment() + pause);
                self.failures += 1;
                self.state.send_replace(LabelState::Failing { message });
            }
        }
    }

    /// What is wrong, and whether it may be carried out all the same.
    async fn patch(&mut self, token: Option<u64>) -> Result<(), (String, bool)> {
        let Target { namespace, pod, key, .. } = &self.target;
        let client = if let Some(client) = &self.client {
            client.clone()
        } else {
            let mut config = self.target.config.clone();
            config.default_retry = false;
            let client = connect(config).map_err(|error| (causes(&error), false))?;
            self.client.insert(client).clone()
        };
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let patch = json!({ "metadata": {
            "labels": { key: token.map(|_| VALUE) },
            "annotations": { key: token.map(|token| token.to_string()) },
        }});
        match pods.patch(pod, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            // The Pod has gone, and its label with it.
            Err(kube::Error::Api(status)) if status.code == 404 && token.is_none() => Ok(()),
            Err(kube::Error::Api(status)) => Err((status.message.clone(), status.code >= 500)),
            Err(error) => Err((causes(&error), true)),
        }
    }
}

async fn sleep(until: Option<Moment>) {
    match until {
        Some(until) => clock::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Whether this can be the key of a label: a name, perhaps behind the name of a domain.
fn is_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let edge = |c: char| c.is_ascii_alphanumeric();
    let name_ok = (1..=63).contains(&name.len())
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(|c| edge(c) || matches!(c, '-' | '_' | '.'));
    let part_ok = |part: &str| {
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(edge) && part.ends_with(edge) && part.chars().all(|c| edge(c) || c == '-')
    };
    name_ok && prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(part_ok))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_that_the_api_server_takes() {
        for good in ["leader", "a.b/c", "leader.leasehold.dev/reports", "Leader_1.x", &"a".repeat(63)] {
            assert!(is_key(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "a-", "A.b/c", "a..b/c", &format!("a/{}", "a".repeat(64))] {
            assert!(!is_key(bad), "{bad}");
        }
    }
}
