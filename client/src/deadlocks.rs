//! Looking for deadlocks, while something is waited for and something else is held.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::{debug, warn};

use crate::access::Access;
use crate::client::Inner;
use crate::clock;
use crate::error::OptionsError;
use crate::options::ClientBuilder;
use crate::protocol::deadlock::{Deadlock, Place, Waits, deadlocks};
use crate::protocol::record::MOST_HOLDS;
use crate::protocol::{HolderId, Record};
use crate::slot::{Command, Slot};
use crate::store::{Failure, within};
use crate::task::Waiting;

/// What is done about tasks that wait for each other in a circle, and so for ever.
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
    FailYoungest,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadlockOptions {
    pub(crate) on: OnDeadlock,
    pub(crate) after: Duration,
}

impl Default for DeadlockOptions {
    fn default() -> Self {
        Self { on: OnDeadlock::default(), after: Duration::from_secs(30) }
    }
}

impl DeadlockOptions {
    pub(crate) fn checked(self) -> Result<Self, OptionsError> {
        if self.after < Duration::from_secs(1) {
            let problem = format!("{:?} will not do: at least 1 s is needed", self.after);
            return Err(OptionsError::new("deadlock_after", problem));
        }
        Ok(self)
    }
}

impl ClientBuilder {
    /// What is done about tasks that wait for each other in a circle. Default: [`OnDeadlock::Report`].
    ///
    /// Whoever waits for long looks for one, if its task (outside of tasks: its thread) holds something else of this client. It
    /// then says on the Lease what it holds (one write), and lists the Leases of the namespace from time to time (the
    /// permission to `list` is needed for that; without it nothing is found). All clients of a namespace should look, since
    /// a circle is found only if all in it say what they hold. Not seen are circles through several namespaces, through
    /// holds of which [another task](crate::Hold::adopt) has the guard, and through two processes in each of which one task waits for another.
    ///
    /// Better than to find deadlocks is to have none: acquire what is needed together as one [`MultiLock`](crate::MultiLock), or with
    /// a wait limit after which all is released.
    pub fn on_deadlock(mut self, what: OnDeadlock) -> Self {
        self.deadlocks.on = what;
        self
    }

    /// After how long a wait a deadlock is looked for, and how often from then on. Default: 30 s; at least 1 s.
    pub fn deadlock_after(mut self, wait: Duration) -> Self {
        self.deadlocks.after = wait;
        self
    }
}

impl Access {
    /// Resolves when whoever calls this waits for what can never be had, and is the one that is to give way.
    pub(crate) async fn deadlocked(&self) -> Deadlock {
        let inner = self.client.inner();
        let by = Waiting::current();
        let mut told = None;
        if inner.defaults.deadlocks.on == OnDeadlock::Ignore {
            std::future::pending::<()>().await;
        }
        loop {
            clock::sleep(inner.defaults.deadlocks.after).await;
            let Some(slot) = inner.slot(&self.lease) else { continue };
            if inner.held_by(by).is_empty() {
                continue;
            }
            inner.report(&slot);
            let found = match self.look(by).await {
                Ok(found) => found,
                Err(failure) => {
                    debug!(name = %self.name, %failure, "no deadlock can be looked for");
                    continue;
                }
            };
            let Some((me, deadlock)) = found else { continue };
            if told.as_ref() != Some(&deadlock) {
                warn!(name = %self.name, %deadlock, "a deadlock: these wait for each other for ever");
                told = Some(deadlock.clone());
            }
            if inner.defaults.deadlocks.on == OnDeadlock::FailYoungest && deadlock.is_youngest(&me) {
                return deadlock;
            }
        }
    }

    /// The deadlock that this task is in by waiting for this, if there is one, and by what name it is in it.
    async fn look(&self, by: Waiting) -> Result<Option<(String, Deadlock)>, Failure> {
        let inner = self.client.inner();
        let leases = within(inner.shared.request_timeout, inner.shared.store.list()).await?;
        let records =
            leases.into_iter().filter_map(|lease| Some((lease.metadata.name.clone()?, Record::parse(lease).ok()?)));
        let mut places: BTreeMap<String, Place> = records
            .map(|(lease, record)| (lease.clone(), Place::of(record.resource_id.as_deref().unwrap_or(&lease), &record)))
            .collect();
        let mut me = None;
        for (lease, slot) in inner.all_slots() {
            let Some(place) = places.get_mut(&lease) else { continue };
            for (other, waiter) in slot.waiting() {
                let holds: BTreeSet<String> = inner.held_by(other).iter().map(ToString::to_string).collect();
                let mut who = waiter.id.as_ref().map(ToString::to_string).unwrap_or_default();
                if !place.holds_elsewhere(&who, holds.iter().cloned()) {
                    who = format!("another task of {} ({})", inner.host, waiter.n);
                    place.also(Waits { who: who.clone(), ticket: None, mode: waiter.mode, holds });
                }
                if other == by && lease == *self.lease {
                    me = Some(who);
                }
            }
        }
        let places: Vec<Place> = places.into_values().collect();
        let found = me.and_then(|me| {
            let mine = deadlocks(&places).into_iter().find(|deadlock| deadlock.includes(&me));
            mine.map(|deadlock| (me, deadlock))
        });
        Ok(found)
    }
}

impl Inner {
    /// What this task or thread holds.
    fn held_by(&self, by: Waiting) -> Vec<HolderId> {
        self.all_slots().iter().flat_map(|(_, slot)| slot.held_by(by)).collect()
    }

    /// Says on a Lease what those hold elsewhere who wait for it by this process's place in the queue.
    fn report(&self, slot: &Slot) {
        let waiting = slot.waiting();
        let Some(id) = waiting.iter().find_map(|(_, waiter)| waiter.id.clone()) else { return };
        let holds: BTreeSet<HolderId> = waiting.iter().flat_map(|(by, _)| self.held_by(*by)).collect();
        let holds = holds.into_iter().take(MOST_HOLDS).collect();
        let _ = slot.commands.send(Command::Report(id, holds));
    }
}
