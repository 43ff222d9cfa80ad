//! Events on resources, published by a task of their own: nobody waits for them.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt as _};
use std::sync::Arc;
use tokio::sync::mpsc;

use crate::crd::HolderStatus;
use crate::metrics::Metrics;
use crate::warden::{Break, Incident, Why};

/// How many Events may wait to be published. More are dropped, and counted as errors.
const WAITING: usize = 1000;
/// Of how many characters at most the text of an Event is.
const LONGEST_NOTE: usize = 1000;
/// How long publishing one may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Something for an Event.
#[derive(Clone, Debug)]
pub(crate) enum Announcement {
    Acquired(Box<HolderStatus>),
    Incident(Incident),
    HandedOver,
    /// A holder is dead, and stays until a person breaks the lock.
    Abandoned(String),
    /// The resource goes when nobody uses the lock any more.
    Waits(String),
}

/// Takes announcements and publishes them in the background.
#[derive(Clone, Debug)]
pub(crate) struct Announcer {
    queue: mpsc::Sender<(ObjectReference, Event)>,
    metrics: Arc<Metrics>,
}

impl Announcer {
    /// Returns when every announcer of it is gone and everything is published.
    pub(crate) fn start(client: Client, instance: String, metrics: Arc<Metrics>) -> (Self, impl Future<Output = ()>) {
        let (queue, mut waiting) = mpsc::channel::<(ObjectReference, Event)>(WAITING);
        let reporter = Reporter { controller: "leasehold.dev/operator".to_owned(), instance: Some(instance) };
        let recorder = Recorder::new(client, reporter);
        let counted = Arc::clone(&metrics);
        let publish = async move {
            while let Some((about, event)) = waiting.recv().await {
                let published = tokio::time::timeout(LIMIT, recorder.publish(&event, &about)).await;
                counted.published(matches!(published, Ok(Ok(()))));
                if let Ok(Err(error)) = published {
                    tracing::warn!(reason = event.reason, %error, "an Event could not be published");
                }
            }
        };
        (Self { queue, metrics }, publish)
    }

    pub(crate) fn announce(&self, cr: &impl Resource<DynamicType = ()>, announcement: Announcement) {
        if self.queue.try_send((cr.object_ref(&()), event(cr, announcement))).is_err() {
            self.metrics.published(false);
        }
    }
}

/// Events are folded into one by reason and related object, so each names the Lease of the session concerned.
fn event(cr: &impl Resource<DynamicType = ()>, announcement: Announcement) -> Event {
    use EventType::{Normal, Warning};
    let name = cr.name_any();
    let (type_, reason, action, session, note) = match announcement {
        Announcement::Acquired(holder) => {
            let token = holder.token.map(|token| format!(" with token {token}")).unwrap_or_default();
            (Normal, "Acquired", "Acquire", holder.session, format!("{} acquired {name}{token}", holder.id))
        }
        Announcement::Incident(Incident::Evicted { holder, to, why, by_evidence }) => {
            let heir = match &*to {
                [] => "what it held is free".to_owned(),
                [to] => format!("{to} holds it now"),
                [to, others @ ..] => format!("{to} and {} more hold it now", others.len()),
            };
            let session = session_of(&holder);
            let why = match why {
                Why::Ended if by_evidence => "has ended with its Pod".to_owned(),
                Why::Ended => "fell silent".to_owned(),
                Why::Asked(asked) => {
                    let (seconds, reason) = (asked.within.as_secs(), asked.reason);
                    format!("did not let go within {seconds} s as {} asked ({reason:?})", asked.by)
                }
                Why::HeldTooLong(longest) => {
                    format!("has held it for longer than {} s (maxHoldSeconds)", longest.as_secs())
                }
            };
            (Warning, "Evicted", "Evict", session, format!("{holder} {why} and was evicted from {name}: {heir}"))
        }
        Announcement::Incident(Incident::Broken { holder, how }) => {
            let session = session_of(&holder);
            let note = match &how {
                Break::Told(_) => format!("{holder} lost {name}: {}", how.tell()),
                how => format!("{holder} lost {name} while it was alive: {}", how.tell()),
            };
            (Warning, "Broken", "Break", session, note)
        }
        Announcement::Incident(Incident::Deadlock(deadlock)) => {
            (Warning, "Deadlock", "Wait", None, format!("these wait for each other: {deadlock}"))
        }
        Announcement::Incident(Incident::ToldToGiveUp { waiter, circle }) => {
            let session = Some(waiter.session.to_string());
            let note = format!("{waiter} was told to give up, as the one that came last of these: {circle}");
            (Warning, "ToldToGiveUp", "GiveUp", session, note)
        }
        Announcement::Abandoned(note) => (Warning, "Abandoned", "Keep", None, note),
        Announcement::Waits(note) => (Normal, "DeletionWaits", "Wait", None, note),
        Announcement::HandedOver => {
            let note =
                format!("{name} was in use when it was deleted: its Lease stays until the last user releases it");
            (Normal, "HandedOver", "HandOver", None, note)
        }
    };
    let related = session.and_then(|session| session.parse::<leasehold::protocol::SessionId>().ok());
    Event {
        type_,
        reason: reason.to_owned(),
        action: action.to_owned(),
        note: Some(note.chars().take(LONGEST_NOTE).collect()),
        secondary: related.map(|session| ObjectReference {
            api_version: Some("coordination.k8s.io/v1".to_owned()),
            kind: Some("Lease".to_owned()),
            namespace: cr.namespace(),
            name: Some(session.lease_name()),
            ..ObjectReference::default()
        }),
    }
}

fn session_of(identity: &str) -> Option<String> {
    identity.parse::<leasehold::protocol::HolderId>().ok().map(|id| id.session.to_string())
}
