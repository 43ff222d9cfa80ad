//! The lock's driver: one task per lock that this client has to do with. It brings together the store, the clock and
//! the protocol, and decides nothing.

mod ends;
mod engaged;
mod lending;
mod names;
mod obeying;
mod recollections;
mod watching;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tracing::{debug, warn};

use crate::clock;
use crate::error::LossReason;
use crate::observers::Word;
use crate::protocol::contender::{Answer, Contender, Denial, Loss, Next, Notice};
use crate::protocol::observer::{End, Verdict};
use crate::protocol::{HolderId, Mode, Moment, Record, SessionId, renew_interval};
use crate::session::SessionUse;
use crate::slot::Command;
use crate::store::{Failure, Store, within};
use crate::task::Tasks;
use crate::telemetry;
use ends::Ends;
use engaged::Engaged;
use lending::{Later, caller_gone};
pub(crate) use names::Names;
pub(crate) use recollections::Recollections;
use watching::{Watch, next_sight};

/// What every lock's driver of a client shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tasks: Tasks,
    pub(crate) observers: Arc<crate::observers::Observers>,
    pub(crate) session_duration: Duration,
    pub(crate) grace: Duration,
    pub(crate) request_timeout: Duration,
    /// From so many waiters on a lock's queue is folded.
    pub(crate) fold_from: usize,
    /// What drivers that have ended had seen.
    pub(crate) recollections: Recollections,
    pub(crate) names: Names,
    /// When the next check of a lock that is merely held may be made.
    pub(crate) next_check: AtomicU64,
    /// How many more locks that are merely held may be watched.
    pub(crate) hold_watches: Arc<Semaphore>,
}

/// So many locks that are merely held a client watches. The others it reads now and then.
pub(crate) const HOLD_WATCHES: usize = 8;

/// So often at least everything is looked at, while a lock is passed on from task to task.
const PASSING_ON: Duration = Duration::from_millis(10);

/// How long a watch is kept for the next time, and how long a driver stays that has nothing to do.
const LINGER: Duration = Duration::from_secs(10);

pub(crate) struct Driver {
    name: String,
    shared: Arc<Shared>,
    contender: Contender,
    engaged: Vec<Engaged>,
    next: Option<Later>,
    /// What was last done changes nothing but who of this process has the lock.
    passed_on: bool,
    in_flight: Option<BoxFuture<'static, Answer>>,
    /// When the request in flight was sent, and the last whose answer showed the Lease.
    sent: Moment,
    heard: Moment,
    watch: Option<Watch>,
    /// The version from which a watch was last begun is too old by now: begin with what there is.
    watch_anew: bool,
    /// The last watch has ended in good order.
    watch_left: Option<watching::Left>,
    /// What is held is watched instead of looked at now and then. A client does that with a few.
    watches_hold: Option<OwnedSemaphorePermit>,
    /// What was out of a new watch's sight before it began is read when it has.
    recheck_at: Option<Moment>,
    watch_retry_at: Moment,
    /// Not before this time where nothing is to be watched for but the loss of what is held.
    watch_hold_at: Moment,
    watch_failures: u32,
    verdicts: BTreeMap<SessionId, watch::Receiver<Word>>,
    /// Whoever waits to hear of something that was asked of a hold.
    releases: Vec<(HolderId, oneshot::Sender<bool>)>,
    renewals: Vec<(HolderId, oneshot::Sender<()>)>,
    changes: Vec<(HolderId, Mode, oneshot::Sender<u64>)>,
    publications: Vec<(HolderId, oneshot::Sender<Result<(), String>>)>,
    busy_until: Moment,
    /// Told to those who wait in this process.
    nobody_waits: Arc<AtomicBool>,
    is_shut_down: bool,
    /// Where what rests is given back if the runtime ends. A simulated process does not survive that.
    leaves_to: Option<Tasks>,
    /// Whoever waits for that to be done.
    shut_down: Vec<oneshot::Sender<()>>,
}

impl Driver {
    pub(crate) fn new(name: String, shared: Arc<Shared>, nobody_waits: Arc<AtomicBool>) -> Self {
        let mut contender = Contender::new(name.clone(), shared.session_duration, shared.grace, crate::task::random())
            .fold_from(shared.fold_from);
        shared.recollections.take(&name).into_iter().for_each(|seen| contender.recall(seen));
        Self {
            name,
            shared,
            contender,
            engaged: Vec::new(),
            next: None,
            passed_on: false,
            in_flight: None,
            sent: Moment::default(),
            heard: Moment::default(),
            watch: None,
            watch_anew: false,
            watch_left: None,
            watches_hold: None,
            recheck_at: None,
            watch_retry_at: Moment::default(),
            watch_hold_at: Moment::default(),
            watch_failures: 0,
            verdicts: BTreeMap::new(),
            releases: Vec::new(),
            renewals: Vec::new(),
            changes: Vec::new(),
            publications: Vec::new(),
            busy_until: clock::moment() + LINGER,
            nobody_waits,
            is_shut_down: false,
            leaves_to: (!crate::task::is_simulated()).then_some(Tasks::Apart),
            shut_down: Vec::new(),
        }
    }

    /// Runs until there has been nothing to do for a while and `may_end` says that nobody can ask for more.
    pub(crate) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>, may_end: impl Fn() -> bool) {
        let mut stepped = Moment::default();
        // It is kept from one time to the next, and may ring too early: setting a timer can wake a thread. One that ought
        // to have rung by now has slept with the machine.
        let (mut alarm, mut rings_at) = (None, Moment::default());
        let mut ends = Ends::default();
        loop {
            self.take_back();
            let now = clock::moment();
            let wake = if std::mem::take(&mut self.passed_on) && now < stepped + PASSING_ON {
                self.end_what_is_over().into_iter().chain([stepped + PASSING_ON]).min()
            } else {
                stepped = now;
                self.step()
            };
            if self.begin_next() {
                continue;
            }
            if !self.contender.is_idle() || !self.engaged.is_empty() {
                self.busy_until = now + LINGER;
            } else if now >= self.busy_until {
                if commands.is_empty() && may_end() {
                    // Somebody may try again, and nobody else here has seen it.
                    self.shared.recollections.keep(&self.name, self.contender.recollect(), now);
                    return;
                }
                self.busy_until = now + LINGER;
            }
            let wake = wake.unwrap_or(self.busy_until).min(self.busy_until).max(now + Duration::from_millis(1));
            if alarm.is_none() || wake < rings_at || rings_at <= now {
                (alarm, rings_at) = (Some(clock::sleep_until(wake).boxed()), wake);
            }
            ends.look(&self.engaged);
            let deadline = ends::deadline(&self.engaged);
            self.lend_out();
            tokio::select! {
                biased;
                answer = wait_for(&mut self.in_flight) => {
                    self.in_flight = None;
                    self.take_back();
                    if matches!(answer, Answer::Is(_)) {
                        self.heard = self.sent;
                    }
                    if let Some(created) = self.contender.looks_first() {
                        self.shared.names.learn(&answer, created);
                    }
                    self.contender.answer(answer, clock::moment());
                }
                sight = next_sight(&mut self.watch) => self.saw(sight),
                // What is known of others comes before what this process wants.
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                (session, end) = next_verdict(&mut self.verdicts) => self.contender.verdict(session, end),
                () = caller_gone(&mut self.engaged, &mut self.next) => self.caller_gone(),
                session = ends.session_lost() => self.session_lost(&session),
                () = ends::passed(deadline) => self.deadline_passed(),
                () = wait_for(&mut alarm) => alarm = None,
            }
        }
    }

    /// Lets the protocol decide, and does what it says. Returns when to come back if nothing happens.
    fn step(&mut self) -> Option<Moment> {
        let over = self.end_what_is_over();
        let mut wake = None;
        // Also while an answer is awaited: what a watch has shown need not wait for it.
        match self.contender.poll(clock::now()) {
            Next::Wait(at) => wake = at,
            Next::Read => self.in_flight = Some(self.send(None)),
            Next::Check if self.watches_hold.is_none() && self.watch_hold() => wake = Some(clock::moment()),
            Next::Check if self.may_check() => self.in_flight = Some(self.send(None)),
            Next::Check => {
                self.contender.answer(Answer::Skipped, clock::moment());
                wake = Some(clock::moment());
            }
            Next::Write(write) => self.in_flight = Some(self.send(Some(write))),
        }
        while let Some(notice) = self.contender.next_notice() {
            self.tell(notice);
        }
        if self.contender.is_unclear() {
            self.engaged.iter().filter_map(|engaged| engaged.session.as_ref()).for_each(SessionUse::set_unclear);
        }
        let contender = &self.contender;
        self.engaged.retain(|engaged| contender.has(&engaged.id));
        // Whatever was not told a clean end by now has ended all the same.
        answer(&mut self.releases, |id| !contender.has(id), false);
        self.renewals.retain(|(id, _)| contender.has(id));
        self.changes.retain(|(id, ..)| contender.has(id));
        self.publications.retain(|(id, _)| contender.has(id));
        if !self.contender.is_engaged() {
            for done in self.shut_down.drain(..) {
                let _ = done.send(());
            }
        }
        self.nobody_waits.store(self.contender.lets_nobody_wait(), Ordering::Release);
        self.observe();
        let watch_wake = self.keep_watch();
        if let Some(engaged) = self.engaged.iter().find(|engaged| engaged.reply.is_some()) {
            engaged.ahead.tell(self.contender.ahead());
        }
        // What has just been handed out may be bounded.
        let too_long = self.end_what_is_held_too_long();
        wake.into_iter().chain(watch_wake).chain(over).chain(too_long).min()
    }

    /// Of what is held, what rests and what is asked for. Returns when there is more of it.
    fn end_what_is_over(&mut self) -> Option<Moment> {
        let too_long = self.end_what_is_held_too_long();
        too_long.into_iter().chain(self.end_rests()).chain(self.end_patience()).min()
    }

    fn tell(&mut self, notice: Notice) {
        let name = &self.name;
        let (Notice::Acquired { id, .. }
        | Notice::Refused { id, .. }
        | Notice::Renewed { id, .. }
        | Notice::Changed { id, .. }
        | Notice::Published { id, .. }
        | Notice::Requested { id, .. }
        | Notice::Lost { id, .. }
        | Notice::Abandoned { id }
        | Notice::Left { id, .. }) = &notice;
        let Some(engaged) = self.engaged.iter_mut().find(|engaged| engaged.id == *id) else { return };
        match notice {
            Notice::Acquired { id, token, deadline, allowed_until } => {
                debug!(name, %id, token, "acquired");
                if deadline.is_some() {
                    engaged.session = None; // it lives by its own record from now on
                }
                (engaged.token, engaged.deadline, engaged.allowed_until) = (token, deadline, allowed_until);
                engaged.hand_out();
            }
            Notice::Refused { id, why } => {
                debug!(name, %id, ?why, "not acquired");
                engaged.reply.take().map(|reply| reply.send(Err(why)));
            }
            Notice::Renewed { id, deadline } => {
                engaged.deadline.replace(deadline).inspect(|before| telemetry::renewed("own", *before));
                if engaged.validity.as_ref().is_some_and(|validity| validity.extend_to(deadline).is_ok()) {
                    answer(&mut self.renewals, |asked| *asked == id, ());
                }
            }
            Notice::Changed { id, mode, token } => {
                debug!(name, %id, ?mode, token, "changed");
                for (_, _, done) in self.changes.extract_if(.., |(asked, wanted, _)| *asked == id && *wanted == mode) {
                    let _ = done.send(token);
                }
            }
            Notice::Published { id, outcome } => {
                for (_, done) in self.publications.extract_if(.., |(asked, _)| *asked == id) {
                    let _ = done.send(outcome.clone());
                }
            }
            Notice::Requested { id, request } => {
                debug!(name, %id, ?request, "asked to let go");
                engaged.request.send_replace(request);
            }
            Notice::Lost { id, loss } => {
                if engaged.lending.rests() {
                    debug!(name, %id, ?loss, "what rested was lost");
                } else {
                    warn!(name, %id, ?loss, "a lock was lost");
                }
                let reason = match loss {
                    Loss::Expired => LossReason::Expired,
                    Loss::Broken => LossReason::Broken,
                };
                engaged.validity.as_ref().inspect(|validity| validity.lose(reason));
                // The session may have been ended before.
                let reason = engaged.validity.as_ref().and_then(|validity| validity.check().err()).unwrap_or(reason);
                engaged.course.lost(reason);
                self.renewals.retain(|(asked, _)| *asked != id);
                self.changes.retain(|(asked, ..)| *asked != id);
                self.publications.retain(|(asked, _)| *asked != id);
            }
            Notice::Abandoned { id } => {
                warn!(name, %id, "left where it is, on a Lease that cannot be read: its session is given up");
                engaged.session.iter().for_each(SessionUse::give_up);
                // Whoever waits for the release hears that it is not known.
                self.releases.retain(|(asked, _)| *asked != id);
            }
            Notice::Left { id, clean } => {
                debug!(name, %id, clean, "left");
                engaged.course.left();
                answer(&mut self.releases, |asked| *asked == id, clean);
            }
        }
    }

    /// Whoever asked for the lock does not want it any more.
    fn caller_gone(&mut self) {
        self.end_patience();
        for engaged in &mut self.engaged {
            if engaged.reply.take().is_some() {
                self.contender.leave(&engaged.id);
            }
        }
    }

    fn session_lost(&mut self, session: &SessionId) {
        for engaged in self.engaged.iter_mut().filter(|engaged| engaged.id.session == *session) {
            engaged.session_over = true;
        }
        self.contender.session_lost(session);
    }

    fn deadline_passed(&mut self) {
        for validity in self.engaged.iter().filter_map(|engaged| engaged.validity.as_ref()) {
            let _ = validity.check();
        }
    }

    fn send(&mut self, write: Option<crate::protocol::Write>) -> BoxFuture<'static, Answer> {
        // A request must not outlive what it is for; what is over already has nothing left to lose.
        let sessions = self.engaged.iter().filter_map(|engaged| engaged.session.as_ref());
        let left = sessions.map(|session| session.validity().remaining()).filter(|left| !left.is_zero());
        let limit = left.fold(self.shared.request_timeout, Duration::min);
        self.sent = clock::moment();
        let limit = self.contender.time_limit(self.sent, limit);
        let (store, name) = (self.shared.store.clone(), self.name.clone());
        async move {
            let answer = match &write {
                None => within(limit, store.read(&name)).await.map(Some),
                Some(write) => within(limit, store.write(&name, write)).await,
            };
            match answer {
                Ok(Some(lease)) => match Record::parse(lease) {
                    Ok(record) => Answer::Is(Box::new(record)),
                    // It was carried out, and what came of it cannot be told.
                    Err(malformed) if write.is_some() => Answer::Unclear(malformed.to_string()),
                    Err(malformed) => Answer::Denied(Denial::Invalid, malformed.to_string()),
                },
                Ok(None) => Answer::Removed,
                Err(Failure::Absent) if matches!(write, Some(crate::protocol::Write::Create(_))) => {
                    Answer::Denied(Denial::Invalid, "the namespace does not exist".to_owned())
                }
                Err(Failure::Absent) => Answer::Absent,
                Err(Failure::Refused) => Answer::Refused,
                Err(Failure::Throttled(why)) => Answer::Throttled(why),
                Err(Failure::Forbidden(why)) => Answer::Denied(Denial::Forbidden, why),
                Err(Failure::Invalid(why)) => Answer::Denied(Denial::Invalid, why),
                Err(Failure::Unclear(why)) => Answer::Unclear(why),
            }
        }
        .boxed()
    }

    /// Locks that are merely held are read now and then, all of a client's together at a bounded rate.
    fn may_check(&self) -> bool {
        let now = u64::try_from(clock::moment().since_start().as_millis()).unwrap_or(u64::MAX);
        let pause = u64::try_from(renew_interval(self.shared.session_duration).as_millis()).unwrap_or(u64::MAX);
        let grant = |next: u64| (now >= next).then_some(now.saturating_add(pause));
        self.shared.next_check.fetch_update(Ordering::AcqRel, Ordering::Acquire, grant).is_ok()
    }

    /// What has been held for a while is watched from now on, if it is one of few.
    fn watch_hold(&mut self) -> bool {
        if self.engaged.iter().any(|engaged| engaged.shared) {
            return false;
        }
        // What lingers is watched as it is, and read now and then besides.
        let is_watched = self.lingers() && self.watch.is_some();
        if !is_watched {
            self.watches_hold = self.shared.hold_watches.clone().try_acquire_owned().ok();
        }
        let watches = is_watched || self.watches_hold.is_some();
        if watches {
            self.keep_watch();
            self.contender.answer(Answer::Skipped, clock::moment());
        }
        watches
    }

    fn observe(&mut self) {
        let Some(mut wanted) = self.contender.sessions_to_observe(clock::moment()) else { return };
        // Whoever is known to have ended need not have held this for long.
        wanted.extend(self.shared.observers.ended(self.contender.sessions_of_holders()));
        // An observer ends with the runtime on which it was begun, and is followed by another.
        self.verdicts.retain(|session, verdict| wanted.contains(session) && verdict.has_changed().is_ok());
        for session in wanted {
            if let std::collections::btree_map::Entry::Vacant(entry) = self.verdicts.entry(session) {
                let mut verdict = self.shared.observers.observe(entry.key());
                verdict.mark_changed();
                entry.insert(verdict);
            }
        }
    }
}

impl Drop for Driver {
    /// A driver that ends in the middle of something, with its runtime for example, takes with it what it drove: nobody
    /// else would release it, and the next driver of this lock would take it for a leftover.
    fn drop(&mut self) {
        self.take_back();
        if self.leave_behind() {
            return;
        }
        for engaged in &self.engaged {
            engaged.validity.as_ref().inspect(|validity| validity.lose(LossReason::Expired));
            engaged.session.as_ref().inspect(|session| session.validity().lose(LossReason::Expired));
        }
    }
}

/// Answers whoever asked for these.
fn answer<T: Copy>(askers: &mut Vec<(HolderId, oneshot::Sender<T>)>, of: impl Fn(&HolderId) -> bool, answer: T) {
    for (_, asker) in askers.extract_if(.., |(id, _)| of(id)) {
        let _ = asker.send(answer);
    }
}

async fn wait_for<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// The next word on any of the sessions that are observed.
async fn next_verdict(verdicts: &mut BTreeMap<SessionId, watch::Receiver<Word>>) -> (SessionId, Option<End>) {
    if verdicts.is_empty() {
        return std::future::pending().await;
    }
    let mut changes: FuturesUnordered<_> = verdicts
        .iter_mut()
        .map(|(session, verdict)| async move {
            loop {
                // The observer stays as long as this receiver does, and its runtime.
                if verdict.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                let (told, end) = *verdict.borrow_and_update();
                if told != Verdict::Unknown {
                    return (session.clone(), end);
                }
            }
        })
        .collect();
    match changes.next().await {
        Some(told) => told,
        None => std::future::pending().await,
    }
}
