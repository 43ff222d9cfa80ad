//! A lock that somebody else made, within one process. On demand it is broken.

#![expect(clippy::disallowed_methods, reason = "its clock is the runtime's, which tests set")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use leasehold::provider::{AnyGuard, AnyLock, HoldOptions, LockProvider};
use leasehold::{AcquireError, ExtendError, LossReason, Lost, OptionsError, Progress, ReleaseError, TryAcquireError};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    TriesTakeWhatIsHeld,
    LetsInAnybodyNowAndThen,
    TokensStandStill,
    LastComeFirstServed,
    LostGuardsCheck,
    ReleasesSayOk,
    LimitsAreIgnored,
    CancelledWaitersStay,
}

#[derive(Clone, Debug)]
pub(crate) struct Homemade {
    fault: Option<Fault>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the last acquisition, and the last token.
    acquisitions: u64,
    token: u64,
    locks: BTreeMap<String, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    held: Option<Held>,
    queue: VecDeque<(u64, oneshot::Sender<Held>)>,
}

#[derive(Clone, Debug)]
struct Held {
    number: u64,
    token: u64,
    lost: CancellationToken,
}

impl Homemade {
    pub(crate) fn new(fault: Option<Fault>) -> Self {
        Self { fault, state: Arc::default() }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn hold(&self, state: &mut State, name: &str, number: u64) -> Held {
        state.token += u64::from(!self.is(Fault::TokensStandStill) || state.token == 0);
        let held = Held { number, token: state.token, lost: CancellationToken::new() };
        state.locks.entry(name.to_owned()).or_default().held = Some(held.clone());
        held
    }

    fn is_held(&self, name: &str, number: u64) -> bool {
        let state = self.state();
        // Whoever was let in beside another believes in it.
        self.is(Fault::LetsInAnybodyNowAndThen)
            || state.locks[name].held.as_ref().is_some_and(|held| held.number == number)
    }

    /// Ends a hold or a wait: the next one has it.
    fn end(&self, name: &str, number: u64) {
        let mut state = self.state();
        let entry = state.locks.entry(name.to_owned()).or_default();
        if !self.is(Fault::CancelledWaitersStay) {
            entry.queue.retain(|(waiter, _)| *waiter != number);
        }
        let Some(held) = entry.held.take_if(|held| held.number == number) else { return };
        held.lost.cancel();
        let last = self.is(Fault::LastComeFirstServed);
        let next = if last { entry.queue.pop_back() } else { entry.queue.pop_front() };
        if let Some((number, told)) = next {
            let held = self.hold(&mut state, name, number);
            drop(state);
            let _ = told.send(held);
        }
    }
}

impl LockProvider for Homemade {
    fn lock_with(&self, name: &str, options: &HoldOptions) -> Result<Arc<dyn AnyLock>, OptionsError> {
        let term = options.get_lease_duration().filter(|_| options.get_renewal() == Some(false));
        if term.is_some_and(|term| term.is_zero()) {
            return Err(OptionsError::new("lease_duration", "it must be more than nothing"));
        }
        Ok(Arc::new(HomemadeLock { of: self.clone(), name: name.to_owned(), term }))
    }
}

#[derive(Debug)]
struct HomemadeLock {
    of: Homemade,
    name: String,
    term: Option<Duration>,
}

impl HomemadeLock {
    fn guard(&self, held: Held) -> Box<dyn AnyGuard> {
        let (of, name, number) = (self.of.clone(), self.name.clone(), held.number);
        let until = self.term.map(|term| Instant::now() + term);
        if let Some(until) = until {
            let (of, name) = (of.clone(), name.clone());
            tokio::spawn(async move {
                tokio::time::sleep_until(until).await;
                of.end(&name, number);
            });
        }
        Box::new(HomemadeGuard { of, name, held, until })
    }
}

/// An acquisition that is going on. Dropped, it is over.
struct Going<'a>(&'a HomemadeLock, Option<u64>);

impl Drop for Going<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.1 {
            self.0.of.end(&self.0.name, number);
        }
    }
}

impl AnyLock for HomemadeLock {
    fn name(&self) -> &str {
        &self.name
    }

    fn try_acquire(&self) -> BoxFuture<'_, Result<Box<dyn AnyGuard>, TryAcquireError>> {
        async move {
            let held = {
                let mut state = self.of.state();
                state.acquisitions += 1;
                let number = state.acquisitions;
                let entry = state.locks.entry(self.name.clone()).or_default();
                if let Some(held) = entry.held.as_ref().filter(|_| !self.of.is(Fault::TriesTakeWhatIsHeld)) {
                    return Err(TryAcquireError::Held { name: self.name.clone(), holder: held.number.to_string() });
                }
                self.of.hold(&mut state, &self.name, number)
            };
            Ok(self.guard(held))
        }
        .boxed()
    }

    fn acquire_with_progress<'a>(
        &'a self,
        limit: Option<Duration>,
        progress: &'a mut (dyn FnMut(Progress) + Send),
    ) -> BoxFuture<'a, Result<Box<dyn AnyGuard>, AcquireError>> {
        async move {
            let (told, granted) = oneshot::channel();
            let mut going = Going(self, None);
            {
                let mut state = self.of.state();
                state.acquisitions += 1;
                let number = state.acquisitions;
                going.1 = Some(number);
                let entry = state.locks.entry(self.name.clone()).or_default();
                let let_in = self.of.is(Fault::LetsInAnybodyNowAndThen) && number.is_multiple_of(5);
                if let Some(held) = entry.held.as_ref().filter(|_| !let_in) {
                    progress(Progress { holder: held.number.to_string(), ahead: entry.queue.len() });
                    entry.queue.push_back((number, told));
                } else {
                    let _ = told.send(self.of.hold(&mut state, &self.name, number));
                }
            }
            let held = match limit.filter(|_| !self.of.is(Fault::LimitsAreIgnored)) {
                None => granted.await.ok(),
                Some(limit) => tokio::time::timeout(limit, granted).await.ok().and_then(Result::ok),
            };
            let Some(held) = held else {
                let (name, waited) = (self.name.clone(), limit.unwrap_or_default());
                return Err(AcquireError::TimedOut { name, holder: String::new(), waited });
            };
            going.1 = None;
            Ok(self.guard(held))
        }
        .boxed()
    }
}

#[derive(Debug)]
struct HomemadeGuard {
    of: Homemade,
    name: String,
    held: Held,
    until: Option<Instant>,
}

impl Drop for HomemadeGuard {
    fn drop(&mut self) {
        self.of.end(&self.name, self.held.number);
    }
}

impl AnyGuard for HomemadeGuard {
    fn token(&self) -> u64 {
        self.held.token
    }

    fn holder_identity(&self) -> String {
        self.held.number.to_string()
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self) -> Result<(), Lost> {
        let held = self.of.is_held(&self.name, self.held.number) || self.of.is(Fault::LostGuardsCheck);
        if held { Ok(()) } else { Err(Lost::new(&self.name, LossReason::Expired)) }
    }

    fn remaining(&self) -> Duration {
        match (self.check(), self.until) {
            (Err(_), _) => Duration::ZERO,
            (Ok(()), Some(until)) => until.saturating_duration_since(Instant::now()),
            (Ok(()), None) => Duration::MAX,
        }
    }

    fn lost(&self) -> CancellationToken {
        self.held.lost.clone()
    }

    fn extend(&self) -> BoxFuture<'_, Result<Duration, ExtendError>> {
        async move {
            self.check()?;
            Ok(self.remaining())
        }
        .boxed()
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, Result<(), ReleaseError>> {
        async move {
            self.check().or_else(|lost| if self.of.is(Fault::ReleasesSayOk) { Ok(()) } else { Err(lost) })?;
            Ok(())
        }
        .boxed()
    }
}
