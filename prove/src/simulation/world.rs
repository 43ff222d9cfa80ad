//! The world of one run: processes, who believes to hold what, and what went wrong.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use leasehold::LockGuard;
use leasehold::testing::{Process, ProcessOptions};

use super::dice::Dice;
use super::log::Log;
use super::network::Link;
use super::plan::Plan;
use super::rules::Author;
use super::server::Server;
use super::{operator, workload};

/// Everything there is in a run.
#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) log: Arc<Log>,
    pub(super) server: Arc<Server>,
    /// Tasks come to an end after what they are doing.
    pub(super) stopping: AtomicBool,
    members: Mutex<Vec<Arc<Member>>>,
    beliefs: Mutex<Beliefs>,
    pub(super) counts: Mutex<Counts>,
}

/// A process of the run: one incarnation of it. The next one after its death is another.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) who: usize,
    pub(super) host: String,
    pub(super) process: Process,
    pub(super) link: Arc<Link>,
    /// Tasks that have not come to their end.
    pub(super) busy: AtomicUsize,
    pub(super) client: Option<leasehold::Client>,
}

/// What is counted in a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) acquired: u64,
    pub(super) released: u64,
    pub(super) lost: u64,
    pub(super) refused: u64,
    pub(super) cancelled: u64,
    pub(super) failed: u64,
    pub(super) faults: BTreeMap<&'static str, u64>,
    /// The longest anybody waited after the last fault was over.
    pub(super) worst_wait: Duration,
}

/// Who believes to hold what.
#[derive(Debug, Default)]
struct Beliefs {
    held: Vec<Held>,
    /// The largest token of each lock, and when somebody broke it last.
    tokens: BTreeMap<usize, u64>,
    broken: BTreeMap<usize, Duration>,
    /// Sessions that somebody ended by hand. What is acquired by one of them later is excused as well.
    ended: Vec<String>,
    next: u64,
}

#[derive(Debug)]
struct Held {
    key: u64,
    lock: usize,
    member: Arc<Member>,
    guard: Arc<LockGuard>,
    /// Somebody broke this hold by hand. Its holder may not know yet.
    excused: bool,
}

impl World {
    pub(super) fn new(plan: Plan, told: bool) -> Arc<Self> {
        let log = Arc::new(Log::new(told));
        Arc::new(Self {
            plan,
            server: Server::new(log.clone()),
            log,
            stopping: AtomicBool::new(false),
            members: Mutex::default(),
            beliefs: Mutex::default(),
            counts: Mutex::default(),
        })
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Those that live, paused or not, in their order.
    pub(super) fn members(&self) -> Vec<Arc<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn member(&self, who: usize) -> Option<Arc<Member>> {
        self.members().into_iter().find(|member| member.who == who)
    }

    /// Starts a process: of a client, or of the operator, which comes after the clients.
    pub(super) fn start(self: &Arc<Self>, who: usize, life: usize) {
        let is_operator = who >= self.plan.clients.len();
        if is_operator && !self.plan.operator {
            return;
        }
        let mut dice = Dice::new(self.plan.seed, 1000 * (life as u64 + 1) + who as u64);
        let wall = dice.from(&[0, 1_000_000_000, 1_800_000_000, 2_500_000_000]);
        let process = Process::new(ProcessOptions {
            rate: dice.between(0.9952..1.0048),
            boot: dice.millis(1000..100_000_000),
            wall: Timestamp::from_second(wall).unwrap_or_default(),
            seed: dice.number(),
        });
        let host = format!("p{who}x{life}");
        let author = if is_operator { Author::Operator } else { Author::Process(host.clone()) };
        let link = Link::new(self.server.clone(), author, Dice::new(dice.number(), 1));
        let client = (!is_operator).then(|| workload::client(&self.plan.clients[who], &host, &link));
        let member = Arc::new(Member { who, host, process, link, busy: AtomicUsize::new(0), client });
        self.log.tell(|| format!("{} starts", member.host));
        self.members.lock().unwrap_or_else(PoisonError::into_inner).push(member.clone());
        if is_operator {
            member.process.spawn(operator::run(member.link.clone()));
            return;
        }
        for _ in 0..self.plan.clients[who].tasks {
            member.busy.fetch_add(1, Ordering::SeqCst);
            let (world, owner, dice) = (self.clone(), member.clone(), Dice::new(dice.number(), 2));
            member.process.spawn(async move {
                workload::run(&world, &owner, dice).await;
                owner.busy.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    /// Kills a process, as SIGKILL does. What it believed nobody believes any more.
    pub(super) fn kill(&self, who: usize) -> bool {
        let Some(member) = self.member(who) else { return false };
        member.process.kill();
        self.members.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| other.who != who);
        self.beliefs().held.retain(|held| !Arc::ptr_eq(&held.member, &member));
        true
    }

    /// A guard was handed to a task of `member`, which asked for it at `asked`. Now is the time to look at all others.
    pub(super) fn acquired(&self, member: &Arc<Member>, lock: usize, guard: LockGuard, asked: Duration) -> u64 {
        let guard = Arc::new(guard);
        let (token, id) = (guard.token(), guard.holder_identity());
        self.log.tell(|| format!("{} acquired {} as {id}, token {token}", member.host, name(lock)));
        self.log.trace(token);
        self.count(|counts| counts.acquired += 1);
        let mut beliefs = self.beliefs();
        // What was asked for before somebody broke the lock may be what was broken.
        let ended = beliefs.ended.iter().any(|session| id.starts_with(session));
        let excused = ended || beliefs.broken.get(&lock).is_some_and(|broken| *broken >= asked);
        let live = |held: &Held| held.member.process.enter(|| held.guard.check().is_ok());
        let others = beliefs.held.iter().filter(|held| held.lock == lock);
        if let Some(other) = others.filter(|other| !other.excused && !excused).find(|other| live(other)) {
            let other = other.guard.holder_identity();
            self.log.violation(format!("two guards of {} are live: {other} and {id}", name(lock)));
        }
        let last = beliefs.tokens.entry(lock).or_default();
        if token <= *last && !excused {
            self.log.violation(format!("token {token} of {id} came after token {last}"));
        }
        *last = token.max(*last);
        beliefs.next += 1;
        let key = beliefs.next;
        beliefs.held.push(Held { key, lock, member: member.clone(), guard, excused });
        key
    }

    /// The guard, to be looked at.
    pub(super) fn look(&self, key: u64) -> Option<Arc<LockGuard>> {
        self.beliefs().held.iter().find(|held| held.key == key).map(|held| held.guard.clone())
    }

    /// The guard, for its holder to give back. It is believed in no more.
    pub(super) fn give_back(&self, key: u64) -> Option<LockGuard> {
        let mut beliefs = self.beliefs();
        let place = beliefs.held.iter().position(|held| held.key == key)?;
        Arc::into_inner(beliefs.held.remove(place).guard)
    }

    /// Somebody broke the lock by hand: who holds it is excused until it knows.
    pub(super) fn broken(&self, lock: usize) {
        let now = self.log.time();
        let mut beliefs = self.beliefs();
        beliefs.broken.insert(lock, now);
        beliefs.held.iter_mut().filter(|held| held.lock == lock).for_each(|held| held.excused = true);
    }

    /// Somebody ended a session by hand, and so broke all that is held by it.
    pub(super) fn session_broken(&self, session: &str) {
        let now = self.log.time();
        let mut beliefs = self.beliefs();
        for lock in 0..self.plan.locks {
            beliefs.broken.insert(lock, now);
        }
        beliefs.ended.push(session.to_owned());
        let of_session = |held: &&mut Held| held.guard.holder_identity().starts_with(session);
        beliefs.held.iter_mut().filter(of_session).for_each(|held| held.excused = true);
    }

    fn beliefs(&self) -> MutexGuard<'_, Beliefs> {
        self.beliefs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets nobody believe anything any more, at the end.
    pub(super) fn forget(&self) {
        self.beliefs().held.clear();
        self.members.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The name of a lock.
pub(super) fn name(lock: usize) -> String {
    format!("lock-{lock}")
}
