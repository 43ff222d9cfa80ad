//! Acquiring something, whatever it is.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tracing::{Instrument, warn};

use crate::ahead::Ahead;
use crate::client::Client;
use crate::clock;
use crate::error::{AcquireError, ApiError, OptionsError, ReadError, RequestReleaseError, TryAcquireError};
use crate::hold::Hold;
use crate::protocol::contender::{Denial, Refusal, Wish};
use crate::protocol::deadlock::Deadlock;
use crate::protocol::lending::Terms;
use crate::protocol::name::lease_name;
use crate::protocol::record::{FULL_BYTES, LONGEST_REASON};
use crate::protocol::{Holder, Kind, Mode, Record, ReleaseRequest, Write, write};
use crate::session::SessionUse;
use crate::slot::{Command, Grant, GuardId, InLine, Order, Slot, Stay};
use crate::store::{Failure, within};
use crate::telemetry::{self, Attempt, Course, Labels};

/// The longest time within which a holder can be asked to let go.
const LONGEST_REQUEST: Duration = Duration::from_hours(24);

/// The longest time for which something can be made to stay: any longer is a mistake.
const LONGEST_STAY: Duration = Duration::from_hours(10 * 366 * 24);

/// The greatest difference of wall clocks that can be reckoned with.
const LONGEST_SKEW: Duration = Duration::from_hours(24);

/// The way to one lock, semaphore or read-write lock.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) client: Client,
    /// The resource id.
    pub(crate) name: Arc<str>,
    /// The name of its Lease.
    pub(crate) lease: Arc<str>,
    /// A task that holds it already waits for itself, rather than being told.
    pub(crate) same_task_waits: bool,
    pub(crate) stay: Stay,
    /// Whether this process keeps it to itself for a while.
    pub(crate) terms: Arc<Terms>,
    /// How long it is waited for at most where nothing is said.
    pub(crate) wait_limit: Option<Duration>,
}

/// An answer that is awaited.
struct Asked {
    session: SessionUse,
    kind: Kind,
    mode: Mode,
    outcome: oneshot::Receiver<Result<Grant, Refusal>>,
}

/// How a wait is going.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The holder's identity, as far as known; the first of them where there are several. Empty where nobody holds it, or
    /// nothing is known yet.
    pub holder: String,
    /// How many wait ahead.
    pub ahead: usize,
}

impl Access {
    pub(crate) fn new(client: Client, name: &str) -> Result<Self, OptionsError> {
        let name = client.inner().defaults.key_prefix.clone() + name;
        let lease = lease_name(&name).map_err(|error| OptionsError::new("name", error.to_string()))?.into();
        let wait_limit = client.inner().defaults.wait_limit;
        let (stay, terms) = (Stay::default(), Arc::default());
        Ok(Self { client, name: name.into(), lease, same_task_waits: false, stay, terms, wait_limit })
    }

    pub(crate) async fn try_acquire(&self, wish: &Wish) -> Result<Hold, TryAcquireError> {
        let mut outcome = self.try_part(wish).await;
        outcome.iter_mut().for_each(Hold::stay);
        outcome
    }

    /// As [`try_acquire`](Self::try_acquire), but it is not to stay yet ([`Hold::stay`]).
    pub(crate) async fn try_part(&self, wish: &Wish) -> Result<Hold, TryAcquireError> {
        let mut attempt = self.attempt(wish);
        let outcome = self.try_to_take(wish).instrument(attempt.span()).await;
        attempt.tell(&outcome);
        outcome
    }

    pub(crate) async fn acquire(
        &self,
        wish: &Wish,
        limit: Option<Duration>,
        progress: impl FnMut(Progress),
    ) -> Result<Hold, AcquireError> {
        let mut outcome = self.acquire_part(wish, limit, progress).await;
        outcome.iter_mut().for_each(Hold::stay);
        outcome
    }

    /// As [`acquire`](Self::acquire), but it is not to stay yet ([`Hold::stay`]).
    pub(crate) async fn acquire_part(
        &self,
        wish: &Wish,
        limit: Option<Duration>,
        progress: impl FnMut(Progress),
    ) -> Result<Hold, AcquireError> {
        let mut attempt = self.attempt(wish);
        let outcome = self.wait(wish, limit, progress).instrument(attempt.span()).await;
        attempt.tell(&outcome);
        outcome
    }

    fn attempt(&self, wish: &Wish) -> Attempt {
        Attempt::new(self.labels(wish.kind), self.client.namespace(), &self.name)
    }

    pub(crate) fn labels(&self, kind: Kind) -> Labels {
        Labels::new(kind, &self.name, self.client.inner().defaults.metrics_by_name)
    }

    async fn try_to_take(&self, wish: &Wish) -> Result<Hold, TryAcquireError> {
        let taken = |holder| TryAcquireError::Held { name: self.name.to_string(), holder };
        let slot = self.client.inner().slot(&self.lease).ok_or(TryAcquireError::ShutDown)?;
        let Ok(turn) = slot.turn.clone().try_lock_owned() else {
            return Err(taken("another task of this process".to_owned()));
        };
        let wish = Wish { queue: false, ..wish.clone() };
        match self.take(&slot, turn, wish, &Ahead::default(), None).await {
            Ok(hold) => Ok(hold),
            Err(Refusal::Held { holder }) => Err(taken(holder)),
            Err(_) if self.client.inner().is_shut_down() => Err(TryAcquireError::ShutDown),
            Err(Refusal::Full { holders, waiters, .. }) => {
                Err(TryAcquireError::Full { name: self.name.to_string(), holders, waiters })
            }
            Err(refusal) => Err(TryAcquireError::Api { name: self.name.to_string(), source: api_error(refusal) }),
        }
    }

    async fn wait(
        &self,
        wish: &Wish,
        limit: Option<Duration>,
        mut progress: impl FnMut(Progress),
    ) -> Result<Hold, AcquireError> {
        // Whoever says for how long to wait is told in the end.
        let endless = limit.is_none();
        let limit = limit.or(self.wait_limit);
        let (ahead, mut told) = (Ahead::default(), (String::new(), 0));
        let begun = clock::moment();
        let acquiring = async {
            let mut pause = Duration::ZERO;
            loop {
                let slot = self.client.inner().slot(&self.lease).ok_or(AcquireError::ShutDown)?;
                if endless && !self.same_task_waits && slot.is_in_its_own_way(wish) {
                    return Err(AcquireError::HeldByThisTask { name: self.name.to_string() });
                }
                let in_line = slot.waits(wish.mode);
                let outcome = match slot.turn.clone().try_lock_owned() {
                    Ok(turn) => self.take(&slot, turn, wish.clone(), &ahead, Some(&in_line)).await,
                    // Another task of this process holds it.
                    Err(_) if wish.kind == Kind::Lock && slot.lets_nobody_wait() => {
                        return Err(self.full(1, 0, Some(0)));
                    }
                    Err(_) => self.queue_up(&slot, wish, &ahead, &in_line).await,
                };
                match outcome {
                    Ok(hold) => return Ok(hold),
                    Err(_) if self.client.inner().is_shut_down() => return Err(AcquireError::ShutDown),
                    // It queues up again, by a new session.
                    Err(Refusal::SessionLost) => {
                        clock::sleep(pause).await;
                        pause = (pause * 2).clamp(Duration::from_millis(20), Duration::from_secs(1));
                    }
                    Err(Refusal::Full { holders, waiters, limit }) => return Err(self.full(holders, waiters, limit)),
                    Err(Refusal::Deadlock(circle)) => {
                        let deadlock = Deadlock::told(circle);
                        warn!(name = %self.name, %deadlock, "a deadlock: these wait for each other");
                        telemetry::deadlock(&self.labels(wish.kind));
                        return Err(AcquireError::Deadlock { name: self.name.to_string(), deadlock });
                    }
                    Err(refusal) => {
                        return Err(AcquireError::Api { name: self.name.to_string(), source: api_error(refusal) });
                    }
                }
            }
        };
        let too_late = async {
            match limit {
                Some(limit) => clock::sleep_until_deadline(begun + limit).await,
                None => std::future::pending().await,
            }
        };
        let deadlocked = self.deadlocked(wish.kind);
        tokio::pin!(acquiring, too_late, deadlocked);
        loop {
            tokio::select! {
                biased;
                outcome = &mut acquiring => return outcome,
                () = &mut too_late => break,
                deadlock = &mut deadlocked => {
                    return Err(AcquireError::Deadlock { name: self.name.to_string(), deadlock });
                }
                known = ahead.changed() => if known != told {
                    told.clone_from(&known);
                    let (holder, ahead) = known;
                    progress(Progress { holder, ahead });
                }
            }
        }
        let (holder, _) = ahead.known();
        Err(AcquireError::TimedOut { name: self.name.to_string(), holder, waited: clock::moment().since(begun) })
    }

    fn full(&self, holders: usize, waiters: usize, limit: Option<u32>) -> AcquireError {
        AcquireError::Full { name: self.name.to_string(), holders, waiters, limit }
    }

    pub(crate) async fn read(&self) -> Result<Option<Record>, ReadError> {
        let (shared, lease) = (self.client.inner().shared.clone(), self.lease.clone());
        let request = async move { within(shared.request_timeout, shared.store.read(&lease)).await };
        match self.client.inner().shared.tasks.run(request).await {
            Ok(lease) => {
                let record = Record::parse(lease)?;
                match record.is_of_another(&self.name) {
                    Some(message) => Err(self.unread(Failure::Invalid(message))),
                    None => Ok(Some(record)),
                }
            }
            Err(Failure::Absent) => Ok(None),
            Err(failure) => Err(self.unread(failure)),
        }
    }

    /// Asks holders to let go: all of them, or the one of this identity. The identities of those who were asked.
    pub(crate) async fn request_release(
        &self,
        of: Option<&str>,
        within_time: Duration,
        reason: &str,
    ) -> Result<Vec<String>, RequestReleaseError> {
        let inner = self.client.inner();
        if within_time < Duration::from_secs(1) || within_time > LONGEST_REQUEST {
            let problem = format!("{within_time:?} will not do: 1 s to a day are possible");
            return Err(OptionsError::new("within", problem).into());
        }
        if reason.len() > LONGEST_REASON {
            let problem = format!("{} bytes are too long: at most {LONGEST_REASON} are possible", reason.len());
            return Err(OptionsError::new("reason", problem).into());
        }
        let request = ReleaseRequest::new(&inner.host, within_time, reason);
        let Some(mut record) = self.read().await? else { return Ok(Vec::new()) };
        // Whoever does not live by this protocol hears nothing, and whoever comes later is not meant.
        let concerned = |holder: &&Holder| holder.id.is_some() && of.is_none_or(|of| of == holder.identity);
        let all: Vec<String> = record.holders().filter(concerned).map(|holder| holder.identity.clone()).collect();
        let mut asked = Vec::new();
        for identity in all {
            let mut pause = Duration::from_millis(10);
            loop {
                let holder = record.holders().find(|holder| holder.identity == identity);
                let Some(write) = holder.map(|holder| write::request(&record, holder, &request)) else { break };
                if record.bytes_to_come() + reason.len() > FULL_BYTES {
                    let message = "there is no room for it beside all who hold this or wait for it".to_owned();
                    return Err(self.unread(Failure::Invalid(message)).into());
                }
                match self.write(write).await {
                    Ok(lease) => {
                        asked.push(identity);
                        record = lease.map(Record::parse).transpose().map_err(ReadError::from)?.unwrap_or(record);
                        break;
                    }
                    Err(Failure::Refused | Failure::Absent) => {
                        clock::sleep(pause).await;
                        pause = (pause * 2).min(Duration::from_secs(1));
                        match self.read().await? {
                            Some(now) => record = now,
                            None => return Ok(asked),
                        }
                    }
                    Err(failure) => return Err(self.unread(failure).into()),
                }
            }
        }
        Ok(asked)
    }

    /// Writes without a driver.
    pub(crate) async fn write(&self, write: Write) -> Result<Option<Lease>, Failure> {
        let (shared, lease) = (self.client.inner().shared.clone(), self.lease.clone());
        let request = async move { within(shared.request_timeout, shared.store.write(&lease, &write)).await };
        self.client.inner().shared.tasks.run(request).await
    }

    pub(crate) fn unread(&self, failure: Failure) -> ReadError {
        let source = match failure {
            Failure::Forbidden(message) => ApiError::Forbidden { message },
            Failure::Invalid(message) => ApiError::Invalid { message },
            failure => ApiError::Unavailable { message: failure.to_string() },
        };
        ReadError::Api { name: self.name.to_string(), source }
    }

    /// What is acquired by this way is held for so long.
    pub(crate) fn stays(&mut self, stay: Stay) -> Result<(), OptionsError> {
        let Stay { at_least, at_most } = stay;
        for (option, time) in [("hold_at_least", at_least), ("max_hold", at_most)] {
            if let Some(time) = time.filter(|time| time.is_zero() || *time > LONGEST_STAY) {
                let problem = format!("{time:?} will not do: more than nothing, and at most 10 years");
                return Err(OptionsError::new(option, problem));
            }
        }
        if let (Some(least), Some(most)) = (at_least, at_most)
            && least > most
        {
            let problem = format!("{least:?} is more than max_hold, {most:?}");
            return Err(OptionsError::new("hold_at_least", problem));
        }
        self.stay = stay;
        Ok(())
    }

    /// Waits for its turn in this process, and then takes it; or is handed what another task of this process has.
    async fn queue_up(&self, slot: &Arc<Slot>, wish: &Wish, ahead: &Ahead, in_line: &InLine) -> Result<Hold, Refusal> {
        let turn = slot.turn.clone().lock_owned();
        if *self.terms == Terms::default() {
            return self.take(slot, turn.await, wish.clone(), ahead, Some(in_line)).await;
        }
        let (order, asked) = self.order(slot, None, wish.clone(), ahead, Some(in_line)).await?;
        in_line.park(order);
        let turn = tokio::select! {
            biased;
            hold = self.receive(asked) => return hold,
            turn = turn => turn,
        };
        self.take(slot, turn, wish.clone(), ahead, Some(in_line)).await
    }

    /// Takes it, now that it is its turn in this process.
    async fn take(
        &self,
        slot: &Arc<Slot>,
        turn: OwnedMutexGuard<()>,
        wish: Wish,
        ahead: &Ahead,
        in_line: Option<&InLine>,
    ) -> Result<Hold, Refusal> {
        let (order, asked) = self.order(slot, Some(turn), wish, ahead, in_line).await?;
        let _ = slot.commands.send(Command::Acquire(order));
        self.receive(asked).await
    }

    async fn order(
        &self,
        slot: &Arc<Slot>,
        turn: Option<OwnedMutexGuard<()>>,
        wish: Wish,
        ahead: &Ahead,
        in_line: Option<&InLine>,
    ) -> Result<(Box<Order>, Asked), Refusal> {
        let session = self.client.inner().sessions.enter().await.map_err(refusal)?;
        let (reply, outcome) = oneshot::channel();
        let resource_id = (self.name != self.lease).then(|| self.name.clone());
        let wish = Wish { patience: self.client.inner().contact_timeout, resource_id, ..wish };
        let asked = Asked { session: session.clone(), kind: wish.kind, mode: wish.mode, outcome };
        let order = Order {
            guard: GuardId::next(),
            slot: slot.clone(),
            session,
            wish,
            stay: self.stay,
            terms: *self.terms,
            in_line: in_line.map(|in_line| in_line.n),
            reply,
            turn,
            ahead: ahead.clone(),
            course: Course::new(self.labels(asked.kind)),
        };
        Ok((Box::new(order), asked))
    }

    async fn receive(&self, asked: Asked) -> Result<Hold, Refusal> {
        let Asked { session, kind, mode, outcome } = asked;
        let grant = outcome.await.unwrap_or(Err(Refusal::SessionLost))?;
        // Permits are passed around, and so is what several futures of one task contend for: who acquired it tells little.
        grant.slot.is_acquired(&grant, mode, kind != Kind::Semaphore && !self.same_task_waits);
        let hold = Hold::new(self.clone(), session, grant);
        // What took too long to arrive is not handed out. Dropping the hold gives it back.
        hold.check().map_err(|_| Refusal::SessionLost)?;
        Ok(hold)
    }
}

/// A bound on the difference of wall clocks that something may be made to rely on.
pub(crate) fn checked_skew(skew: Option<Duration>) -> Result<Option<Duration>, OptionsError> {
    match skew {
        Some(skew) if skew < Duration::from_secs(1) || skew > LONGEST_SKEW => {
            let problem = format!("{skew:?} will not do: 1 s to a day are possible");
            Err(OptionsError::new("max_clock_skew", problem))
        }
        skew => Ok(skew),
    }
}

fn refusal(error: ApiError) -> Refusal {
    match error {
        ApiError::Unavailable { message } => Refusal::Unavailable(message),
        ApiError::Forbidden { message } => Refusal::Denied(Denial::Forbidden, message),
        ApiError::Invalid { message } => Refusal::Denied(Denial::Invalid, message),
    }
}

fn api_error(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Unavailable(message) => ApiError::Unavailable { message },
        Refusal::Denied(Denial::Forbidden, message) => ApiError::Forbidden { message },
        Refusal::Denied(Denial::Invalid, message) => ApiError::Invalid { message },
        Refusal::Held { holder } => ApiError::Unavailable { message: format!("it is held by {holder}") },
        Refusal::Full { holders, waiters, .. } => {
            ApiError::Unavailable { message: format!("it is full: {holders} hold it and {waiters} wait") }
        }
        Refusal::Deadlock(circle) => ApiError::Unavailable { message: circle },
        Refusal::SessionLost => {
            ApiError::Unavailable { message: "this process's session was lost meanwhile".to_owned() }
        }
    }
}
