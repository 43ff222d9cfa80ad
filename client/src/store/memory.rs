//! Leases in this process's memory, for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use json_patch::{Patch, PatchOperation};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;
use tokio::sync::Notify;

use super::{Failure, Sight, Store};
use crate::protocol::{Version, Write};

/// Leases in this process's memory: what the protocol needs of an API server, and no more.
///
/// Clones share the Leases. Nothing is kept when the last one goes.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    leases: BTreeMap<String, Lease>,
    /// Every change since the start: what a Lease was before and after it.
    history: Vec<Change>,
}

#[derive(Clone, Debug)]
struct Change {
    version: u64,
    name: String,
    before: Option<Lease>,
    after: Option<Lease>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, name: &str, write: &Write) -> Result<Option<Lease>, Failure> {
        let after = self.state().apply(name, write)?;
        self.shared.changed.notify_waiters();
        Ok(after)
    }
}

impl State {
    fn apply(&mut self, name: &str, write: &Write) -> Result<Option<Lease>, Failure> {
        let before = self.leases.get(name).cloned();
        let after = match (write, &before) {
            (Write::Create(lease), None) => {
                let mut lease = (**lease).clone();
                lease.metadata.uid = Some(format!("uid-{}", self.version + 1));
                Some(lease)
            }
            (Write::Replace(_) | Write::Patch(_) | Write::Delete { .. }, None) => return Err(Failure::Absent),
            (Write::Replace(lease), Some(before)) if is(before, &lease.metadata) => Some((**lease).clone()),
            (Write::Patch(patch), Some(before)) => Some(patched(before, patch)?),
            (Write::Delete { uid, version }, Some(before)) => {
                let meta = &before.metadata;
                if meta.uid.as_ref() != Some(uid) || meta.resource_version != Some(version.to_string()) {
                    return Err(Failure::Refused);
                }
                None
            }
            (Write::Create(_) | Write::Replace(_), Some(_)) => return Err(Failure::Refused),
        };
        Ok(self.store(name, before, after))
    }

    fn store(&mut self, name: &str, before: Option<Lease>, mut after: Option<Lease>) -> Option<Lease> {
        if let Some(after) = &mut after {
            after.metadata.managed_fields = None;
        }
        if after.is_some() && after == before {
            return after; // a write that changes nothing makes no version
        }
        self.version += 1;
        match &mut after {
            Some(after) => {
                after.metadata.resource_version = Some(self.version.to_string());
                self.leases.insert(name.to_owned(), after.clone());
            }
            None => drop(self.leases.remove(name)),
        }
        self.history.push(Change { version: self.version, name: name.to_owned(), before, after: after.clone() });
        after
    }
}

fn is(lease: &Lease, seen: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> bool {
    lease.metadata.uid == seen.uid && lease.metadata.resource_version == seen.resource_version
}

fn patched(lease: &Lease, patch: &Patch) -> Result<Lease, Failure> {
    let invalid = |error: &dyn std::fmt::Display| Failure::Invalid(error.to_string());
    let mut value = serde_json::to_value(lease).map_err(|error| invalid(&error))?;
    for operation in &patch.0 {
        match operation {
            // An API server takes what is absent for null here; the library does not.
            PatchOperation::Test(test) if test.value == Value::Null => {
                if value.pointer(test.path.as_str()).is_some_and(|there| !there.is_null()) {
                    return Err(Failure::Refused);
                }
            }
            operation => {
                json_patch::patch(&mut value, std::slice::from_ref(operation)).map_err(|_| Failure::Refused)?;
            }
        }
    }
    serde_json::from_value(value).map_err(|error| invalid(&error))
}

impl Store for MemoryStore {
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Lease, Failure>> {
        let lease = self.state().leases.get(name).cloned().ok_or(Failure::Absent);
        std::future::ready(lease).boxed()
    }

    fn write<'a>(&'a self, name: &'a str, write: &'a Write) -> BoxFuture<'a, Result<Option<Lease>, Failure>> {
        async move { self.apply(name, write) }.boxed()
    }

    fn watch(
        &self,
        name: &str,
        label: Option<&str>,
        from: Option<Version>,
    ) -> BoxStream<'static, Result<Sight, Failure>> {
        let (store, name, label) = (self.clone(), name.to_owned(), label.map(str::to_owned));
        let watched = move |lease: &Option<Lease>| {
            lease.as_ref().is_some_and(|lease| {
                let labels = lease.metadata.labels.as_ref();
                label.as_ref().is_none_or(|label| labels.is_some_and(|labels| labels.contains_key(label)))
            })
        };
        let (start, first) = if let Some(from) = from {
            (from.0, None)
        } else {
            let state = self.state();
            (state.version, state.leases.get(&name).cloned().filter(|lease| watched(&Some(lease.clone()))))
        };
        let first = futures::stream::iter(first.map(|lease| Ok(Sight::Shows(Box::new(lease)))));
        let events = futures::stream::unfold((start, store, watched), move |(mut seen, store, watched)| {
            let name = name.clone();
            async move {
                let shared = store.shared.clone();
                loop {
                    let changed = shared.changed.notified();
                    tokio::pin!(changed);
                    changed.as_mut().enable();
                    let next = {
                        let state = store.state();
                        let start = state.history.partition_point(|change| change.version <= seen);
                        state.history[start..].iter().find(|change| change.name == name).cloned()
                    };
                    let Some(change) = next else {
                        changed.await;
                        continue;
                    };
                    seen = change.version;
                    let sight = match (watched(&change.before), watched(&change.after), change.after) {
                        (_, true, Some(after)) => Sight::Shows(Box::new(after)),
                        (true, _, _) => Sight::Hides(Version(change.version)),
                        _ => continue,
                    };
                    return Some((Ok(sight), (seen, store, watched)));
                }
            }
        });
        first.chain(events).boxed()
    }
}
