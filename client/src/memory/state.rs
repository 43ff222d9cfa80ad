//! What an API server keeps: the Leases as they stand, and what has happened to each of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use k8s_openapi::api::coordination::v1::Lease;

use super::lever::Faults;
use super::selector::Selector;
use super::status::{self, Refused};
use super::watch::Event;

/// Everything, under one lock.
#[derive(Debug)]
pub(super) struct State {
    /// The version of the last write.
    pub(super) version: u64,
    /// What happened up to this version is forgotten: a watch may begin with it, but not before it.
    pub(super) forgotten: u64,
    /// At most about so many changes are remembered.
    pub(super) remembered: usize,
    /// Grows with every restart.
    pub(super) life: u64,
    pub(super) faults: Faults,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    /// Every change that is remembered, in their order. The first has the number `first`.
    history: VecDeque<Change>,
    first: u64,
    watchers: BTreeMap<u64, Watcher>,
    /// The watchers of more than one Lease.
    broad: Vec<u64>,
    next_watcher: u64,
    generated: u64,
}

#[derive(Debug, Default)]
struct Namespace {
    leases: BTreeMap<Arc<str>, Arc<Lease>>,
    traces: BTreeMap<Arc<str>, Trace>,
}

/// What one name has seen.
#[derive(Debug, Default)]
struct Trace {
    /// The numbers of its changes.
    changes: VecDeque<u64>,
    watchers: Vec<u64>,
}

#[derive(Debug)]
struct Change {
    version: u64,
    namespace: Arc<str>,
    name: Arc<str>,
    before: Option<Arc<Lease>>,
    after: Option<Arc<Lease>>,
}

/// Somebody who is told of changes.
#[derive(Debug)]
struct Watcher {
    scope: Scope,
    /// It is told what happens after this version.
    from: u64,
    /// The number of the first change that has not been looked at.
    next: u64,
    /// The version of the bookmark that is to be sent when all up to it has been told.
    bookmark: Option<u64>,
    bookmarks: bool,
    waker: Option<Waker>,
}

/// Whose Leases are meant.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) namespace: Option<Arc<str>>,
    pub(super) selector: Selector,
}

impl Scope {
    /// The one Lease that it can mean.
    fn single(&self) -> Option<(&str, &str)> {
        Some((self.namespace.as_deref()?, self.selector.name()?))
    }

    fn means(&self, lease: Option<&Arc<Lease>>) -> bool {
        lease.is_some_and(|lease| self.selector.means(lease))
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            // 0 has a meaning of its own.
            version: 1,
            forgotten: 0,
            remembered: usize::MAX,
            life: 0,
            faults: Faults::default(),
            namespaces: BTreeMap::new(),
            history: VecDeque::new(),
            first: 0,
            watchers: BTreeMap::new(),
            broad: Vec::new(),
            next_watcher: 0,
            generated: 0,
        }
    }
}

impl State {
    pub(super) fn lease(&self, namespace: &str, name: &str) -> Option<&Arc<Lease>> {
        self.namespaces.get(namespace)?.leases.get(name)
    }

    /// The next number of those that are used up for names.
    pub(super) fn generate(&mut self) -> u64 {
        self.generated += 1;
        self.generated
    }

    /// Writes a Lease, or removes it. What is stored comes back.
    pub(super) fn commit(&mut self, namespace: &str, name: &str, after: Option<Lease>) -> Option<Arc<Lease>> {
        self.version += 1;
        let version = self.version;
        let after = after.map(|mut lease| {
            lease.metadata.resource_version = Some(version.to_string());
            Arc::new(lease)
        });
        let namespace: Arc<str> = match self.namespaces.get_key_value(namespace) {
            Some((there, _)) => Arc::clone(there),
            None => namespace.into(),
        };
        let space = self.namespaces.entry(Arc::clone(&namespace)).or_default();
        let name: Arc<str> = match space.traces.get_key_value(name) {
            Some((there, _)) => Arc::clone(there),
            None => name.into(),
        };
        let before = match &after {
            Some(after) => space.leases.insert(Arc::clone(&name), Arc::clone(after)),
            None => space.leases.remove(&name),
        };
        let trace = space.traces.entry(Arc::clone(&name)).or_default();
        trace.changes.push_back(self.first + self.history.len() as u64);
        for id in trace.watchers.iter().chain(&self.broad) {
            if let Some(waker) = self.watchers.get_mut(id).and_then(|watcher| watcher.waker.take()) {
                waker.wake();
            }
        }
        self.history.push_back(Change { version, namespace, name, before, after: after.clone() });
        // Half of it at a time, so that a write costs little.
        let remembered = self.remembered as u64;
        if self.version - self.forgotten > remembered {
            self.forget(self.version - remembered / 2);
        }
        after
    }

    /// The Leases that are meant, by namespace and name.
    pub(super) fn select(&self, scope: &Scope) -> Vec<Arc<Lease>> {
        if let Some((namespace, name)) = scope.single() {
            return self.lease(namespace, name).filter(|lease| scope.means(Some(lease))).cloned().into_iter().collect();
        }
        let spaces: Vec<&Namespace> = match &scope.namespace {
            Some(namespace) => self.namespaces.get(namespace).into_iter().collect(),
            None => self.namespaces.values().collect(),
        };
        spaces
            .into_iter()
            .flat_map(|space| space.leases.values())
            .filter(|lease| scope.means(Some(lease)))
            .cloned()
            .collect()
    }

    /// The same, as they stood at a version in the past.
    pub(super) fn select_at(&self, scope: &Scope, version: u64) -> Result<Vec<Arc<Lease>>, Refused> {
        if version < self.forgotten {
            return Err(status::expired(version, self.forgotten));
        }
        let mut then: BTreeMap<(&str, &str), Option<&Arc<Lease>>> = BTreeMap::new();
        for change in self.history.iter().rev().take_while(|change| change.version > version) {
            then.insert((&change.namespace, &change.name), change.before.as_ref());
        }
        let everything = Scope { namespace: scope.namespace.clone(), selector: Selector::default() };
        let now = self.select(&everything);
        let key = |lease: &Arc<Lease>| {
            let meta = &lease.metadata;
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
        };
        let mut leases: BTreeMap<_, _> = now.into_iter().map(|lease| (key(&lease), lease)).collect();
        for ((namespace, name), before) in then {
            if scope.namespace.as_deref().is_some_and(|only| only != namespace) {
                continue;
            }
            let key = (namespace.to_owned(), name.to_owned());
            match before {
                Some(before) => drop(leases.insert(key, Arc::clone(before))),
                None => drop(leases.remove(&key)),
            }
        }
        Ok(leases.into_values().filter(|lease| scope.means(Some(lease))).collect())
    }

    /// Somebody begins to watch: all that happens after `from`.
    pub(super) fn watch(&mut self, scope: Scope, from: u64, bookmarks: bool) -> Result<u64, Refused> {
        if from < self.forgotten {
            return Err(status::expired(from, self.forgotten));
        }
        let next = self.first + self.history.partition_point(|change| change.version <= from) as u64;
        let id = self.next_watcher;
        self.next_watcher += 1;
        match scope.single() {
            Some((namespace, name)) => {
                let space = self.namespaces.entry(namespace.into()).or_default();
                space.traces.entry(name.into()).or_default().watchers.push(id);
            }
            None => self.broad.push(id),
        }
        let watcher = Watcher { scope, from, next, bookmark: None, bookmarks, waker: None };
        self.watchers.insert(id, watcher);
        Ok(id)
    }

    pub(super) fn unwatch(&mut self, id: u64) {
        let Some(watcher) = self.watchers.remove(&id) else { return };
        if let Some((namespace, name)) = watcher.scope.single() {
            let trace = self.namespaces.get_mut(namespace).and_then(|space| space.traces.get_mut(name));
            if let Some(trace) = trace {
                trace.watchers.retain(|watcher| *watcher != id);
            }
        } else {
            self.broad.retain(|watcher| *watcher != id);
        }
    }

    /// What this watcher is told next. `None`: nothing yet, and it will be woken.
    pub(super) fn next_event(&mut self, id: u64, waker: &Waker) -> Option<Event> {
        let watcher = self.watchers.get_mut(&id)?;
        let end = self.first + self.history.len() as u64;
        let at = |number: u64| usize::try_from(number - self.first).ok().and_then(|index| self.history.get(index));
        let limit = watcher.bookmark.unwrap_or(u64::MAX);
        let single = watcher.scope.single().and_then(|(namespace, name)| {
            let trace = self.namespaces.get(namespace).and_then(|space| space.traces.get(name))?;
            Some((trace, trace.changes.partition_point(|number| *number < watcher.next)))
        });
        let mut found = None;
        match single {
            Some((trace, start)) => {
                for number in trace.changes.range(start..) {
                    let Some(change) = at(*number).filter(|change| change.version <= limit) else { break };
                    found = event(change, watcher);
                    watcher.next = number + 1;
                    if found.is_some() {
                        break;
                    }
                }
            }
            None => {
                while watcher.next < end && found.is_none() {
                    let Some(change) = at(watcher.next).filter(|change| change.version <= limit) else { break };
                    found = event(change, watcher);
                    watcher.next += 1;
                }
            }
        }
        if found.is_none() {
            found = watcher.bookmark.take().map(|version| Event::Bookmark { version, initial: false });
        }
        if found.is_none() {
            watcher.next = end;
            watcher.waker = Some(waker.clone());
        }
        found
    }

    /// Every watcher that takes bookmarks gets one.
    pub(super) fn bookmark(&mut self) {
        for watcher in self.watchers.values_mut().filter(|watcher| watcher.bookmarks) {
            watcher.bookmark = Some(self.version);
            watcher.waker.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Forgets what has happened up to a version, but for what somebody who watches is still to be told.
    pub(super) fn forget(&mut self, version: u64) {
        self.forgotten = self.forgotten.max(version);
        let old = self.first + self.history.partition_point(|change| change.version <= version) as u64;
        let keep = self.watchers.values().filter_map(|watcher| self.untold(watcher)).fold(old, u64::min);
        while self.first < keep {
            self.history.pop_front();
            self.first += 1;
        }
        for space in self.namespaces.values_mut() {
            space.traces.retain(|_, trace| {
                let old = trace.changes.partition_point(|number| *number < keep);
                trace.changes.drain(..old);
                !trace.changes.is_empty() || !trace.watchers.is_empty()
            });
        }
    }

    /// The first change that somebody who watches has not been told, if there is one.
    fn untold(&self, watcher: &Watcher) -> Option<u64> {
        let Some((namespace, name)) = watcher.scope.single() else { return Some(watcher.next) };
        let changes = &self.namespaces.get(namespace)?.traces.get(name)?.changes;
        changes.get(changes.partition_point(|number| *number < watcher.next)).copied()
    }

    /// Ends all watches, and forgets what has happened so far.
    pub(super) fn restart(&mut self) {
        self.life += 1;
        for watcher in std::mem::take(&mut self.watchers).into_values() {
            watcher.waker.into_iter().for_each(Waker::wake);
        }
        self.broad.clear();
        for trace in self.namespaces.values_mut().flat_map(|space| space.traces.values_mut()) {
            trace.watchers.clear();
        }
        self.forget(self.version);
    }
}

/// What a change is to somebody who watches.
fn event(change: &Change, watcher: &Watcher) -> Option<Event> {
    let scope = &watcher.scope;
    if change.version <= watcher.from {
        return None; // it has asked for what is still to come
    }
    if scope.namespace.as_ref().is_some_and(|namespace| *namespace != change.namespace) {
        return None;
    }
    match (scope.means(change.before.as_ref()), scope.means(change.after.as_ref())) {
        (false, true) => change.after.clone().map(Event::Added),
        (true, true) => change.after.clone().map(Event::Modified),
        (true, false) => change.before.as_ref().map(|before| {
            // It is told as it last was when it was seen, with the version of what made it vanish.
            let mut lease = (**before).clone();
            lease.metadata.resource_version = Some(change.version.to_string());
            Event::Deleted(Arc::new(lease))
        }),
        (false, false) => None,
    }
}
