//! Looking for deadlocks, while something is waited for and something else is held.
//!
//! One task looks for a whole client, while anybody waits for long: it says on the Leases what those hold who wait, lists
//! all Leases, and tells whoever waits what it has found.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};

use crate::access::Access;
use crate::client::Inner;
use crate::clock;
use crate::error::OptionsError;
use crate::options::{ClientBuilder, Given};
use crate::protocol::deadlock::{Deadlock, Place, Waits, deadlocks};
use crate::protocol::record::MOST_HOLDS;
use crate::protocol::{HolderId, Kind, Record};
use crate::store::{Failure, within};
use crate::task::Waiting;
use crate::telemetry;

/// What is done about tasks that wait for each other in a circle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDeadlock {
    /// Nobody looks.
    Ignore,
    /// A warning names all who are in it.
    #[default]
    Report,
    /// A warning as well, and the acquisition that came last fails with
    /// [`AcquireError::Deadlock`](crate::AcquireError::Deadlock).
    ///
    /// What a task has acquired counts as held by it until it gives it back. Where that is not so, some fail that would
    /// have got what they waited for: where guards are given to other tasks that do not [adopt](crate::Hold::adopt) them, and
    /// where several futures of one task acquire and release on their own (`join!`, `buffer_unordered`; give each a task).
    /// A wait limit, or a fixed term, does not count as a way out.
    FailYoungest,
}

impl OnDeadlock {
    /// As the environment says it.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "ignore" => Some(Self::Ignore),
            "report" => Some(Self::Report),
            "fail-youngest" => Some(Self::FailYoungest),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadlockOptions {
    pub(crate) on: OnDeadlock,
    pub(crate) after: Duration,
    /// By what that was said.
    after_by: &'static str,
}

impl Default for DeadlockOptions {
    fn default() -> Self {
        Self { on: OnDeadlock::default(), after: Duration::from_secs(30), after_by: "deadlock_after" }
    }
}

impl DeadlockOptions {
    pub(crate) fn of(on: Option<Given<OnDeadlock>>, after: Option<Given<Duration>>) -> Self {
        let default = Self::default();
        let (after, after_by) = after.map_or((default.after, default.after_by), |after| (after.value, after.by));
        Self { on: on.map_or(default.on, |on| on.value), after, after_by }
    }

    pub(crate) fn checked(self) -> Result<Self, OptionsError> {
        if self.after < Duration::from_secs(1) {
            let problem = format!("{:?} will not do: at least 1 s is needed", self.after);
            return Err(OptionsError::new(self.after_by, problem));
        }
        Ok(self)
    }
}

impl ClientBuilder {
    /// What is done about tasks that wait for each other in a circle. Default: [`OnDeadlock::Report`].
    ///
    /// Whoever waits for long looks for one, if its task (outside of tasks: its thread) holds something else of this client. It
    /// then says on the Lease what it holds (one write), and its client lists the Leases of the namespace from time to time,
    /// once for all its tasks (the permission to `list` is needed for that; without it nothing is found). All clients of
    /// a namespace should look, since a circle is found only if all in it say what they hold, each at most 16 names.
    ///
    /// Permits of a semaphore, and what was acquired with [`same_task_waits`](crate::LockBuilder::same_task_waits), count as
    /// nobody's until somebody [adopts](crate::Hold::adopt) them. Not seen are circles through several clients or namespaces of
    /// one task, through a reader that waits to become the writer, and through two processes in each of which one task waits
    /// for another.
    ///
    /// Where the custom resource says `deadlocks: BreakYoungest`, an acquisition that came last fails as if
    /// [`OnDeadlock::FailYoungest`] was asked for; with [`OnDeadlock::Ignore`] only if the operator finds the deadlock.
    ///
    /// Better than to find deadlocks is to have none: acquire what is needed together as one [`MultiLock`](crate::MultiLock), or with
    /// a wait limit after which all is released.
    pub fn on_deadlock(mut self, what: OnDeadlock) -> Self {
        self.deadlocks.on = what;
        self
    }

    /// After how long a wait a deadlock is looked for, and how often from then on. Default: 30 s; at least 1 s.
    pub fn deadlock_after(mut self, wait: Duration) -> Self {
        (self.deadlocks.after, self.deadlocks.after_by) = (wait, "deadlock_after");
        self
    }
}

/// Where a client's tasks are told of deadlocks.
#[derive(Debug, Default)]
pub(crate) struct Lookout {
    state: Mutex<State>,
    found: watch::Sender<Arc<Findings>>,
}

#[derive(Debug, Default)]
struct State {
    interested: usize,
    is_looking: bool,
}

/// What was found at one time.
#[derive(Debug, Default)]
struct Findings {
    deadlocks: Vec<Deadlock>,
    /// Who of this client waits, for which Lease, and by what name it is known there.
    waiting: Vec<(Waiting, String, String)>,
    /// The Leases at which whoever comes last into a circle gives up, whatever it wants itself.
    breaking: BTreeSet<String>,
}

impl Findings {
    /// The deadlock that this one is in by waiting for this, and by what name.
    fn of(&self, by: Waiting, lease: &str) -> Option<(&str, &Deadlock)> {
        let mine = self.waiting.iter().filter(|(who, place, _)| *who == by && place == lease);
        mine.flat_map(|(.., me)| self.deadlocks.iter().map(move |deadlock| (me.as_str(), deadlock)))
            .find(|(me, deadlock)| deadlock.includes(me))
    }
}

impl Lookout {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody wants to be told of deadlocks as long as this is there.
struct Interest<'a>(&'a Lookout);

impl<'a> Interest<'a> {
    fn new(inner: &'a Arc<Inner>) -> Self {
        inner.lookout.state().interested += 1;
        let interest = Self(&inner.lookout);
        see_that_somebody_looks(inner);
        interest
    }
}

impl Drop for Interest<'_> {
    fn drop(&mut self) {
        self.0.state().interested -= 1;
    }
}

impl Access {
    /// Resolves when whoever calls this waits for what can never be had, and is the one that is to give way.
    pub(crate) async fn deadlocked(&self, kind: Kind) -> Deadlock {
        let inner = self.client.inner();
        let DeadlockOptions { on, after, .. } = inner.defaults.deadlocks;
        if on == OnDeadlock::Ignore {
            std::future::pending::<()>().await;
        }
        let by = Waiting::current();
        // Whoever holds nothing is in nobody's way.
        clock::sleep(after).await;
        while inner.held_by(by).is_empty() {
            clock::sleep(after).await;
        }
        let mut found = inner.lookout.found.subscribe();
        let _interest = Interest::new(inner);
        let mut told = None;
        loop {
            tokio::select! {
                biased;
                changed = found.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
                // Whoever looked may have ended with its runtime.
                () = clock::sleep(after * 3) => {
                    see_that_somebody_looks(inner);
                    continue;
                }
            }
            let findings = found.borrow_and_update().clone();
            let Some((me, deadlock)) = findings.of(by, &self.lease) else { continue };
            if told.as_ref() != Some(deadlock) {
                warn!(name = %self.name, %deadlock, "a deadlock: these wait for each other");
                telemetry::deadlock(&self.labels(kind));
                told = Some(deadlock.clone());
            }
            let gives_way = on == OnDeadlock::FailYoungest || findings.breaking.contains(&*self.lease);
            if gives_way && deadlock.is_youngest(me) {
                return deadlock.clone();
            }
        }
    }
}

fn see_that_somebody_looks(inner: &Arc<Inner>) {
    let begin = !std::mem::replace(&mut inner.lookout.state().is_looking, true);
    if begin {
        inner.shared.tasks.spawn(look_out(inner.clone()));
    }
}

/// Looks from time to time, as long as anybody is interested.
async fn look_out(inner: Arc<Inner>) {
    let mut looking = Looking(Some(inner.clone()));
    loop {
        let held = inner.held();
        inner.report(&held);
        match inner.look(&held).await {
            Ok(found) => drop(inner.lookout.found.send_replace(Arc::new(found))),
            Err(failure) => debug!(%failure, "no deadlock can be looked for"),
        }
        // Not all clients at the same time.
        let jitter = f64::from(u8::try_from(crate::task::random() % 64).unwrap_or_default()) / 128.0;
        clock::sleep(inner.defaults.deadlocks.after.mul_f64(0.75 + jitter)).await;
        let mut state = inner.lookout.state();
        if state.interested == 0 {
            inner.report(&HashMap::new());
            state.is_looking = false;
            looking.0 = None;
            return;
        }
    }
}

/// Somebody looks as long as this is there, unless it has ended as it should.
struct Looking(Option<Arc<Inner>>);

impl Drop for Looking {
    /// It has ended with its runtime: another can begin.
    fn drop(&mut self) {
        if let Some(inner) = &self.0 {
            inner.lookout.state().is_looking = false;
        }
    }
}

/// Who of this client holds what.
type Held = HashMap<Waiting, BTreeSet<HolderId>>;

impl Inner {
    /// What this task or thread holds.
    fn held_by(&self, by: Waiting) -> Vec<HolderId> {
        self.all_slots()
            .iter()
            .flat_map(|(_, slot)| slot.held())
            .filter(|(who, _)| *who == by)
            .map(|(_, id)| id)
            .collect()
    }

    fn held(&self) -> Held {
        let mut held = Held::new();
        for (who, id) in self.all_slots().iter().flat_map(|(_, slot)| slot.held()) {
            held.entry(who).or_default().insert(id);
        }
        held
    }

    /// Says on each Lease what those hold elsewhere who wait for it by this client's place in the queue.
    fn report(&self, held: &Held) {
        for (_, slot) in self.all_slots() {
            let waiting = slot.waiting();
            let holds: BTreeSet<_> = waiting.iter().filter_map(|(by, _)| held.get(by)).flatten().cloned().collect();
            slot.report(holds.into_iter().take(MOST_HOLDS).collect());
        }
    }

    /// The deadlocks that there are at this time.
    async fn look(&self, held: &Held) -> Result<Findings, Failure> {
        let leases = within(self.shared.request_timeout, self.shared.store.list()).await?;
        // A hold that was passed on within the process meanwhile is on the list as before, and another task has it.
        let still = self.held();
        let mut places: BTreeMap<String, Place> = BTreeMap::new();
        let mut breaking = BTreeSet::new();
        for record in leases.into_iter().filter_map(|lease| Record::parse(lease).ok()) {
            let lease = record.lease_name().to_owned();
            if record.policy.breaks_deadlocks {
                breaking.insert(lease.clone());
            }
            let place = Place::of(record.resource_id.as_deref().unwrap_or(&lease), &record);
            places.insert(lease, place);
        }
        let mut waiting = Vec::new();
        for (lease, slot) in self.all_slots() {
            let Some(place) = places.get_mut(&lease) else { continue };
            for (by, waiter) in slot.waiting() {
                let has = |id: &&HolderId| still.get(&by).is_some_and(|still| still.contains(*id));
                let holds = held.get(&by).into_iter().flatten().filter(has);
                let holds: BTreeSet<String> = holds.map(ToString::to_string).collect();
                let mut who = waiter.id.as_ref().map(ToString::to_string).unwrap_or_default();
                if !place.holds_elsewhere(&who, holds.iter().cloned()) {
                    who = format!("another task of {} ({})", self.host, waiter.n);
                    place.also(Waits { who: who.clone(), ticket: None, mode: waiter.mode, holds });
                }
                waiting.push((by, lease.clone(), who));
            }
        }
        let places: Vec<Place> = places.into_values().collect();
        Ok(Findings { deadlocks: deadlocks(&places), waiting, breaking })
    }
}
