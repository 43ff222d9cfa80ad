//! One client process: a session, one lock's contender, observers. It does what the client's drivers do, one step at a
//! time: the deciding is done by the protocol.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use leasehold::protocol::contender::{Answer, Contender, Denial, Next, Notice, Refusal, Wish};
use leasehold::protocol::lending::Terms;
use leasehold::protocol::{HolderId, Kind, Mode, Moment, Now, SessionId, Version};

use super::eyes::{Call, Eyes};
use super::heart::Heart;
use super::lent::Lent;
use super::scenario::Scenario;
use super::watch::{Sight, Watch};
use super::wire::{LOCK, Place, Reply, Server, What, rank};

/// What a scenario's clients are like.
#[derive(Clone, Debug)]
pub(super) struct Habits {
    /// The session's duration.
    pub(super) duration: Duration,
    /// The lock's own duration, where holds are to live by the lock's own record.
    pub(super) own: Option<Duration>,
    /// Guards are asked for `lost()`.
    pub(super) watch_losses: bool,
    /// For how long clients keep the lock to themselves.
    pub(super) terms: Terms,
    /// They create a lock of which they know nothing without a look.
    pub(super) suppose_absent: bool,
}

/// How long a caller waits for a session, and for a first answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where and when a step is made.
pub(super) struct At<'a> {
    /// By the clock of whoever steps.
    pub(super) now: Now,
    /// By the world's time.
    pub(super) real: Duration,
    pub(super) server: &'a Server,
    pub(super) habits: &'a Habits,
}

/// Which of a client's requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Slot {
    Lock,
    Heart(SessionId),
    Eye(SessionId),
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Client {
    pub(super) name: String,
    pub(super) crashed: bool,
    /// What its user asks for.
    pub(super) wish: Wish,
    /// Of its sessions.
    pub(super) duration: Duration,
    pub(super) contender: Contender,
    pub(super) call: Option<Call>,
    pub(super) hearts: Vec<Heart>,
    opened: u32,
    lost: BTreeSet<SessionId>,
    pub(super) engaged: Option<Engaged>,
    pub(super) want: Want,
    /// How many acquisitions its user has begun.
    pub(super) begun: u8,
    pub(super) guard: Option<Guard>,
    pub(super) lent: Lent,
    pub(super) eyes: Eyes,
    pub(super) watch: Option<Watch>,
    pub(super) watch_anew: bool,
    pub(super) recheck_at: Option<Moment>,
    pub(super) watch_retry_at: Moment,
    pub(super) watch_hold_at: Moment,
    /// The highest version of the lock that it has seen.
    pub(super) seen: Version,
    /// When a step is due, by its own clock.
    pub(super) wake: Option<Moment>,
}

/// What the user waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Want {
    Nothing,
    /// A session, and the end of what was before, for an acquisition.
    Entering {
        since: Moment,
    },
    /// The lock.
    Acquiring,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Engaged {
    pub(super) session: SessionId,
    uses_session: bool,
    session_over: bool,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Guard {
    pub(super) id: HolderId,
    pub(super) token: u64,
    /// How much of it its user believes to hold.
    pub(super) mode: Mode,
    /// It is to become this.
    pub(super) change: Option<Mode>,
    pub(super) deadline: Option<Moment>,
    pub(super) over: bool,
}

impl Guard {
    /// What its user can make of it now.
    pub(super) fn changes(&self) -> Vec<Mode> {
        match (self.mode, self.change) {
            (Mode::Permits(permits), None) if permits > 1 => vec![Mode::Permits(permits - 1)],
            (Mode::Upgradeable, None) => vec![Mode::Write, Mode::Read],
            // It gives up to wait for that.
            (Mode::Upgradeable, Some(Mode::Write)) => vec![Mode::Upgradeable],
            (Mode::Write, None) => vec![Mode::Upgradeable, Mode::Read],
            _ => Vec::new(),
        }
    }
}

impl Client {
    pub(super) fn new(number: usize, scenario: &Scenario) -> Self {
        let habits = &scenario.habits;
        let wish = Wish {
            kind: scenario.kind,
            mode: scenario.wants.get(number).copied().unwrap_or_default(),
            // Where it does not stand there yet, whoever makes it must know.
            permits: (scenario.kind == Kind::Semaphore && !scenario.standing).then_some(scenario.permits),
            own_duration: habits.own,
            patience: PATIENCE,
            ..Wish::default()
        };
        Self {
            name: format!("p{number}"),
            crashed: false,
            wish,
            // Some fold the queue when anybody waits, and some as ever.
            contender: Contender::new(LOCK.to_owned(), habits.duration, Duration::ZERO, 0)
                .fold_from(if number.is_multiple_of(2) { 1 } else { 8 }),
            duration: habits.duration,
            call: None,
            hearts: Vec::new(),
            opened: 0,
            lost: BTreeSet::new(),
            engaged: None,
            want: Want::Nothing,
            begun: 0,
            guard: None,
            lent: Lent::new(habits.terms),
            eyes: Eyes::default(),
            watch: None,
            watch_anew: false,
            recheck_at: None,
            watch_retry_at: Moment::default(),
            watch_hold_at: Moment::default(),
            seen: Version::default(),
            wake: None,
        }
    }

    // ------------------------------------------------------------------------------------------------ from its user

    pub(super) fn start(&mut self, now: Moment) {
        self.begun += 1;
        self.want = Want::Entering { since: now };
        self.wake = Some(now);
    }

    pub(super) fn release(&mut self, now: Moment) {
        let guard = self.guard.take();
        if !guard.is_some_and(|guard| self.rests(&guard, now)) {
            self.contender.leave_all();
        }
        self.wake = Some(now);
    }

    pub(super) fn cancel(&mut self, now: Moment) {
        if self.want == Want::Acquiring {
            self.contender.leave_all();
        }
        self.want = Want::Nothing;
        self.wake = Some(now);
    }

    /// Its user makes more or less of what it holds. Less it is from now on, more when it has been told so.
    pub(super) fn change(&mut self, mode: Mode, now: Moment) {
        if let Some(guard) = &mut self.guard {
            guard.change = Some(mode);
            if rank(mode) < rank(guard.mode) {
                guard.mode = mode;
            }
            self.contender.change(&guard.id, mode);
        }
        self.wake = Some(now);
    }

    /// Nothing of it runs any more. What it has sent may still arrive: it is handed to the caller.
    pub(super) fn crash(&mut self, scenario: &Scenario) -> Vec<Call> {
        let hearts = std::mem::take(&mut self.hearts).into_iter().filter_map(|heart| heart.call);
        let eyes = std::mem::take(&mut self.eyes).open.into_values().filter_map(|eye| eye.call);
        let calls = self.call.take().into_iter().chain(hearts).chain(eyes).filter(|call| call.reply.is_none());
        let calls = calls.collect();
        let number = self.name[1..].parse().unwrap_or_default();
        *self = Self { crashed: true, begun: u8::MAX, ..Self::new(number, scenario) };
        calls
    }

    // ------------------------------------------------------------------------------------------------ what it is at

    /// Whether its guard passes a check now, by its own clock.
    pub(super) fn is_live(&self, guard: &Guard, now: Moment) -> bool {
        let session = || self.hearts.iter().find(|heart| *heart.id() == guard.id.session);
        !guard.over
            && match guard.deadline {
                Some(deadline) => now < deadline,
                None => session().is_some_and(|heart| heart.is_valid(now)),
            }
    }

    /// What it was told that it has.
    pub(super) fn has(&self) -> Option<(HolderId, u64)> {
        self.guard.as_ref().map(|guard| (guard.id.clone(), guard.token))
    }

    /// Whether its user waits for anything.
    pub(super) fn waits(&self) -> bool {
        self.want != Want::Nothing || self.guard.as_ref().is_some_and(|guard| guard.change.is_some() && !guard.over)
    }

    /// Whether its user still waits for, or holds, this acquisition.
    pub(super) fn wants(&self, id: &HolderId) -> bool {
        let current = self.contender.current() == Some(id);
        current && (self.want == Want::Acquiring || self.guard.is_some())
    }

    /// Whether this acquisition's session was lost, rather than given up.
    pub(super) fn has_lost(&self, session: &SessionId) -> bool {
        self.lost.contains(session)
    }

    /// Whether it neither crashed nor lost a session.
    pub(super) fn has_always_lived(&self) -> bool {
        !self.crashed && self.lost.is_empty()
    }

    /// The oldest version of the lock from which it may still begin a watch.
    pub(super) fn may_watch_from(&self, server: &Server) -> Version {
        let now = server.version(&Place::Lock);
        if self.crashed {
            return now;
        }
        let answered = self.call.as_ref().and_then(|call| match &call.reply {
            Some(Reply::Is(stored)) => Some(stored.version),
            _ => None,
        });
        if self.engaged.is_some() { self.seen } else { self.seen.max(answered.unwrap_or(now)) }
    }

    pub(super) fn call(&self, slot: &Slot) -> Option<&Call> {
        match slot {
            Slot::Lock => self.call.as_ref(),
            Slot::Heart(id) => self.hearts.iter().find(|heart| heart.id() == id)?.call.as_ref(),
            Slot::Eye(session) => self.eyes.open.get(session)?.call.as_ref(),
        }
    }

    pub(super) fn call_mut(&mut self, slot: &Slot) -> Option<&mut Call> {
        match slot {
            Slot::Lock => self.call.as_mut(),
            Slot::Heart(id) => self.hearts.iter_mut().find(|heart| heart.id() == id)?.call.as_mut(),
            Slot::Eye(session) => self.eyes.open.get_mut(session)?.call.as_mut(),
        }
    }

    pub(super) fn calls(&self) -> impl Iterator<Item = (Slot, &Call)> {
        let hearts = self.hearts.iter().map(|heart| (Slot::Heart(heart.id().clone()), heart.call.as_ref()));
        let eyes = self.eyes.open.iter().map(|(session, eye)| (Slot::Eye(session.clone()), eye.call.as_ref()));
        let all = std::iter::once((Slot::Lock, self.call.as_ref())).chain(hearts).chain(eyes);
        all.filter_map(|(slot, call)| Some((slot, call?)))
    }

    // --------------------------------------------------------------------------------------------- from the network

    /// An answer has come; `None` says that it is not known what became of the request.
    pub(super) fn answer(&mut self, slot: &Slot, reply: Option<&Reply>, now: Moment) {
        self.wake = Some(now);
        match slot {
            Slot::Heart(id) => {
                if let Some(heart) = self.hearts.iter_mut().find(|heart| heart.id() == id) {
                    heart.answer(reply, now);
                }
            }
            Slot::Eye(session) => self.eyes.answer(session, reply, now),
            Slot::Lock => {
                self.call = None;
                let answer = match reply {
                    Some(Reply::Is(stored)) => {
                        self.lent.hears();
                        self.seen = self.seen.max(stored.version);
                        match stored.lock() {
                            Some(record) => Answer::Is(Box::new(record.clone())),
                            None => Answer::Denied(Denial::Invalid, "not a lock".to_owned()),
                        }
                    }
                    Some(Reply::Removed) => Answer::Removed,
                    Some(Reply::Absent) => Answer::Absent,
                    Some(Reply::Refused) => Answer::Refused,
                    Some(Reply::Invalid(why)) => Answer::Denied(Denial::Invalid, why.clone()),
                    None => Answer::Unclear("no answer".to_owned()),
                };
                self.contender.answer(answer, now);
            }
        }
    }

    /// The lock's watch shows its next event.
    pub(super) fn show(&mut self, now: Moment) {
        self.wake = Some(now);
        self.watch.iter_mut().for_each(|watch| watch.shown = true);
        match self.watch.as_mut().and_then(|watch| watch.sights.pop_front()) {
            Some(Sight::Shows(stored)) => {
                self.watch_anew = false;
                self.seen = self.seen.max(stored.version);
                if let Some(record) = stored.lock() {
                    self.contender.saw(record.clone(), now);
                }
            }
            Some(Sight::Hides(version)) => {
                self.seen = self.seen.max(version);
                self.contender.went_out_of_sight(version);
            }
            None => {}
        }
    }

    // ------------------------------------------------------------------------------------------------------- a step

    /// Does all that is due now.
    pub(super) fn step(&mut self, at: &At<'_>) {
        for _ in 0..100 {
            if let ControlFlow::Break(wake) = self.round(at) {
                self.wake = wake;
                return;
            }
        }
        panic!("{} does not come to rest: {self:#?}", self.name);
    }

    /// Goes on while there may be more to do at once. In the end it says when there will be.
    fn round(&mut self, at: &At<'_>) -> ControlFlow<Option<Moment>> {
        let now = at.now;
        self.beat(at);
        let mut wake = self.end_rest(now.moment);
        self.enter(at);
        match self.contender.poll(now) {
            Next::Wait(then) => wake = wake.into_iter().chain(then).min(),
            Next::Read | Next::Check => self.send(What::Read, at),
            Next::Write(write) => self.send(What::Write(write), at),
        }
        let mut settled = true;
        while let Some(notice) = self.contender.next_notice() {
            self.tell(notice, now.moment);
            settled = false;
        }
        if let (true, Some(engaged)) = (self.contender.is_unclear(), &self.engaged) {
            let session = engaged.session.clone();
            self.hearts.iter_mut().filter(|heart| *heart.id() == session).for_each(|heart| heart.unclear = true);
        }
        if !self.contender.is_engaged() && self.engaged.take().is_some() {
            settled = false;
        }
        if let Some(wanted) = self.contender.sessions_to_observe(now.moment) {
            self.eyes.observe(&wanted);
        }
        for (session, end) in self.eyes.look(now.moment, at.real, &self.name) {
            self.contender.verdict(session, end);
            settled = false;
        }
        let (watch_wake, doubted) = self.keep_watch(at);
        let hearts = self.hearts.iter().filter_map(Heart::wake_at);
        let wakes = wake.into_iter().chain(watch_wake).chain(self.eyes.wake_at()).chain(hearts);
        if settled && !doubted { ControlFlow::Break(wakes.min()) } else { ControlFlow::Continue(()) }
    }

    fn send(&mut self, what: What, at: &At<'_>) {
        self.lent.sends(at.now.moment);
        self.call = Some(Call::new(Place::Lock, what, at.real));
    }

    fn uses(&self, session: &SessionId) -> bool {
        self.engaged.as_ref().is_some_and(|engaged| engaged.uses_session && engaged.session == *session)
            || self.guard.as_ref().is_some_and(|guard| guard.id.session == *session)
    }

    fn beat(&mut self, at: &At<'_>) {
        let holds = |id: &SessionId| self.guard.as_ref().is_some_and(|guard| guard.id.session == *id);
        let used: Vec<_> = self.hearts.iter().map(|heart| (self.uses(heart.id()), holds(heart.id()))).collect();
        for (heart, (used, holds)) in self.hearts.iter_mut().zip(used) {
            heart.step(at.now, at.real, used, holds);
        }
        if let Some(engaged) = self.engaged.as_mut().filter(|engaged| engaged.uses_session && !engaged.session_over) {
            let heart = self.hearts.iter().find(|heart| *heart.id() == engaged.session);
            if heart.is_none_or(|heart| heart.over) {
                engaged.session_over = true;
                self.contender.session_lost(&engaged.session);
            }
        }
        let lost = self.hearts.iter().filter(|heart| heart.lost).map(|heart| heart.id().clone());
        self.lost.extend(lost);
        self.hearts.retain(|heart| !heart.is_done());
    }

    /// Begins the acquisition that its user asked for, by a session that is opened if there is none.
    fn enter(&mut self, at: &At<'_>) {
        self.borrow(at.now.moment);
        let (Want::Entering { since }, None) = (self.want, &self.engaged) else { return };
        let now = at.now.moment;
        if let Some(heart) = self.hearts.iter_mut().find(|heart| heart.is_valid(now)) {
            let id = HolderId { session: heart.id().clone(), n: heart.next_acquisition() };
            self.engaged = Some(Engaged { session: id.session.clone(), uses_session: true, session_over: false });
            self.contender.start(id, self.wish.clone(), now);
            if at.habits.suppose_absent {
                self.contender.suppose_absent();
            }
            self.want = Want::Acquiring;
            self.beat(at); // It is in use from now on.
        } else if !self.hearts.iter().any(Heart::is_opening) {
            if now.since(since) >= PATIENCE {
                self.want = Want::Nothing; // it fails: the API server was not reached
                return;
            }
            self.opened += 1;
            let id = SessionId::new(&self.name, &format!("s{}", self.opened));
            self.hearts.push(Heart::new(id, at.habits.duration));
            self.beat(at);
        }
    }

    fn tell(&mut self, notice: Notice, now: Moment) {
        match notice {
            Notice::Acquired { id, token, deadline, .. } => {
                let guard = Guard { id, token, mode: self.wish.mode, change: None, deadline, over: false };
                if let (true, Some(engaged)) = (deadline.is_some(), &mut self.engaged) {
                    engaged.uses_session = false;
                }
                if self.want != Want::Acquiring {
                    self.contender.leave_all();
                } else if self.is_live(&guard, now) {
                    self.lent.begin(guard.id.clone(), guard.token);
                    self.guard = Some(guard);
                    self.want = Want::Nothing;
                } else {
                    // What took too long to arrive is not handed out: it is given back, and asked for again.
                    self.contender.leave_all();
                    self.want = Want::Entering { since: now };
                }
            }
            Notice::Refused { why, .. } if self.want == Want::Acquiring => {
                self.want = match why {
                    Refusal::SessionLost => Want::Entering { since: now },
                    _ => Want::Nothing,
                };
            }
            Notice::Renewed { deadline: until, .. } => {
                if let Some(guard) = &mut self.guard {
                    guard.deadline = guard.deadline.map(|before| if now < before { before.max(until) } else { before });
                }
            }
            Notice::Lost { .. } => {
                if let Some(guard) = &mut self.guard {
                    guard.over = true;
                }
            }
            Notice::Changed { mode, token, .. } => {
                if let Some(guard) = self.guard.as_mut().filter(|guard| guard.change == Some(mode)) {
                    (guard.mode, guard.token, guard.change) = (mode, token, None);
                }
            }
            // Nothing is said beside a hold here.
            Notice::Refused { .. }
            | Notice::Left { .. }
            | Notice::Abandoned { .. }
            | Notice::Published { .. }
            | Notice::Requested { .. } => {}
        }
    }
}
