//! The world of one run: processes, who believes to hold what, and what went wrong.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use leasehold::protocol::record::{KIND, PERMITS};
use leasehold::protocol::{HolderId, Kind, Mode, Write};
use leasehold::testing::{Process, ProcessOptions};

use super::dice::Dice;
use super::guard::Guard;
use super::lent::{Handed, Tenancies};
use super::log::Log;
use super::network::Link;
use super::plan::{Plan, What};
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
    /// Whoever holds something holds on to it.
    pub(super) clings: AtomicBool,
    pub(super) client: Option<leasehold::Client>,
}

/// What is counted in a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) acquired: u64,
    pub(super) released: u64,
    pub(super) lost: u64,
    pub(super) changed: u64,
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
    /// The tokens of each lock that were handed out, and when somebody broke it last.
    tokens: BTreeMap<usize, Vec<(Duration, u64)>>,
    broken: BTreeMap<usize, Duration>,
    /// What was last held of each lock.
    tenancies: Tenancies,
    /// How many permits somebody made of a semaphore, and when.
    permits: BTreeMap<usize, Vec<(Duration, u32)>>,
    /// Sessions that somebody ended by hand, and single holds that somebody broke. What is acquired by one of them later is excused as well.
    ended: Vec<String>,
    next: u64,
}

#[derive(Debug)]
struct Held {
    key: u64,
    lock: usize,
    member: Arc<Member>,
    guard: Arc<Guard>,
    asked: Duration,
    /// Somebody broke this hold by hand. Its holder may not know yet.
    excused: bool,
}

impl World {
    pub(super) fn new(plan: Plan, told: bool) -> Arc<Self> {
        let log = Arc::new(Log::new(told));
        let world = Arc::new(Self {
            server: Server::new(log.clone(), plan.calm),
            plan,
            log,
            stopping: AtomicBool::new(false),
            members: Mutex::default(),
            beliefs: Mutex::default(),
            counts: Mutex::default(),
        });
        (0..world.plan.locks.len()).for_each(|lock| world.make_standing(lock));
        world
    }

    /// Makes the Lease of a semaphore that is to stand there, or of what asks something of all who use it, as somebody by
    /// hand.
    pub(super) fn make_standing(&self, lock: usize) {
        let mut annotations: BTreeMap<_, _> = self.plan.policies[lock].annotations().into_iter().collect();
        let kind = match self.plan.locks[lock] {
            What::Semaphore { permits, standing: true } => {
                self.permits_changed(lock, permits);
                annotations.insert(PERMITS.to_owned(), permits.to_string());
                Kind::Semaphore
            }
            _ if annotations.is_empty() => return,
            What::Semaphore { .. } => Kind::Semaphore,
            What::Lock => Kind::Lock,
            What::ReadWriteLock => Kind::ReadWriteLock,
        };
        let name = self.plan.name(lock);
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some([(KIND.to_owned(), kind.name().to_owned())].into()),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec::default()),
        };
        if let Err(failure) = self.server.write(&Author::Person, &name, &Write::Create(Box::new(lease))) {
            self.log.violation(format!("{name} could not be made: {failure}"));
        }
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
        let member = Arc::new(Member {
            who,
            host,
            process,
            link,
            busy: AtomicUsize::new(0),
            clings: AtomicBool::new(false),
            client,
        });
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

    /// A guard was handed to a task of `member`, which asked for it at `asked`. Now is the time to look at all others. By what
    /// key it is known, and when its tenancy was asked for.
    pub(super) fn acquired(&self, member: &Arc<Member>, lock: usize, guard: Guard, asked: Duration) -> (u64, Duration) {
        let (token, id) = (guard.token(), guard.holder_identity());
        self.log.tell(|| {
            let (name, mode) = (self.plan.name(lock), guard.mode());
            format!("{} acquired {name} as {id}, {mode:?}, token {token}", member.host)
        });
        self.log.trace(token);
        self.count(|counts| counts.acquired += 1);
        let now = self.log.time();
        let waiter = self.server.longest_wait(&self.plan.name(lock), &id);
        let mut beliefs = self.beliefs();
        let passed_on = match self.plan.locks[lock] {
            What::Lock => {
                let terms = self.plan.terms[lock];
                let watched = !terms.linger.is_zero();
                let bound = (!self.plan.pauses(member.who)).then(|| terms.bound(&self.plan.clients[member.who]));
                let (calm, broken) = (self.plan.calm, beliefs.broken.get(&lock).copied());
                let handed = Handed { lock, id: &id, token, asked, now, calm, watched, bound, broken, waiter };
                beliefs.tenancies.handed(&handed).unwrap_or_else(|told| {
                    self.log.violation(format!("{told}: {id} of {}", self.plan.name(lock)));
                    None
                })
            }
            _ => None,
        };
        // What was broken before others of its process had it was theirs when it was.
        let asked = passed_on.unwrap_or(asked);
        if passed_on.is_none()
            && !beliefs.is_excused(lock, &id, asked)
            && let Err(told) = beliefs.judge_token(&self.plan, lock, token, asked)
        {
            self.log.violation(format!("{told}: {id} of {}", self.plan.name(lock)));
        }
        beliefs.tokens.entry(lock).or_default().push((now, token));
        let held = Held { key: 0, lock, member: member.clone(), guard: guard.into(), asked, excused: false };
        (self.believe(&mut beliefs, held), asked)
    }

    /// A guard has become more or less than it was.
    pub(super) fn changed(&self, member: &Arc<Member>, lock: usize, guard: Guard, asked: Duration) -> u64 {
        self.log.tell(|| {
            let (id, mode, token) = (guard.holder_identity(), guard.mode(), guard.token());
            format!("{} changed {id} to {mode:?}, token {token}", member.host)
        });
        self.count(|counts| counts.changed += 1);
        let mut beliefs = self.beliefs();
        self.believe(
            &mut beliefs,
            Held { key: 0, lock, member: member.clone(), guard: guard.into(), asked, excused: false },
        )
    }

    /// Looks whether all that is held of a lock can be held together.
    fn believe(&self, beliefs: &mut Beliefs, held: Held) -> u64 {
        let (lock, id) = (held.lock, held.guard.holder_identity());
        // What was asked for before somebody broke the lock may be what was broken.
        let excused = beliefs.is_excused(lock, &id, held.asked);
        beliefs.next += 1;
        let key = beliefs.next;
        beliefs.held.push(Held { key, excused, ..held });
        if !excused && let Err(told) = beliefs.judge(&self.plan, key) {
            self.log.violation(format!("{} with {id}: {told}", self.plan.name(lock)));
        }
        key
    }

    /// Whether nobody can have taken away this hold: its session is alive, and no person has to do with it.
    pub(super) fn is_lost_for_nothing(&self, lock: usize, id: &str, asked: Duration) -> bool {
        let Ok(HolderId { session, .. }) = id.parse() else { return false };
        self.server.is_alive(&session) && !self.beliefs().is_excused(lock, id, asked)
    }

    /// The guard, to be looked at.
    pub(super) fn look(&self, key: u64) -> Option<Arc<Guard>> {
        self.beliefs().held.iter().find(|held| held.key == key).map(|held| held.guard.clone())
    }

    /// The guard, for its holder to give back or to change. It is believed in no more.
    pub(super) fn give_back(&self, key: u64) -> Option<Guard> {
        let mut beliefs = self.beliefs();
        let place = beliefs.held.iter().position(|held| held.key == key)?;
        Arc::into_inner(beliefs.held.remove(place).guard)
    }

    /// This guard is being released by its holder, who has it still.
    pub(super) fn is_done(&self, lock: usize, guard: &Guard) {
        self.beliefs().tenancies.done(lock, &guard.holder_identity(), self.log.time());
    }

    /// Somebody broke one of several holds by hand.
    pub(super) fn hold_broken(&self, identity: &str) {
        let mut beliefs = self.beliefs();
        beliefs.ended.push(identity.to_owned());
        let broken = |held: &&mut Held| held.guard.holder_identity() == identity;
        beliefs.held.iter_mut().filter(broken).for_each(|held| held.excused = true);
    }

    /// Somebody changed how many permits there are.
    pub(super) fn permits_changed(&self, lock: usize, permits: u32) {
        let now = self.log.time();
        self.beliefs().permits.entry(lock).or_default().push((now, permits));
    }

    /// Somebody broke the lock by hand: who holds it is excused until it knows.
    pub(super) fn broken(&self, lock: usize) {
        let now = self.log.time();
        let mut beliefs = self.beliefs();
        beliefs.broken.insert(lock, now);
        beliefs.tenancies.broken(lock);
        beliefs.held.iter_mut().filter(|held| held.lock == lock).for_each(|held| held.excused = true);
    }

    /// Somebody ended a session by hand, and so broke all that is held by it.
    pub(super) fn session_broken(&self, session: &str) {
        let now = self.log.time();
        let mut beliefs = self.beliefs();
        for lock in 0..self.plan.locks.len() {
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

impl Beliefs {
    /// Whether somebody has broken this hold, or may have, by hand.
    fn is_excused(&self, lock: usize, id: &str, asked: Duration) -> bool {
        let ended = self.ended.iter().any(|ended| id.starts_with(ended));
        ended || self.broken.get(&lock).is_some_and(|broken| *broken >= asked)
    }

    /// Whether a token is larger than those of all who were let in before.
    fn judge_token(&self, plan: &Plan, lock: usize, token: u64, asked: Duration) -> Result<(), String> {
        // Where several hold, one who was let in before may hear of that later.
        let alone = plan.locks[lock] == What::Lock;
        let known = self.tokens.get(&lock).into_iter().flatten();
        let before = known.filter(|(handed, _)| alone || *handed < asked).map(|(_, token)| *token).max();
        match before {
            Some(last) if token <= last => Err(format!("token {token} came after token {last}")),
            _ => Ok(()),
        }
    }

    /// Whether what was just handed out can be held beside all else that is.
    fn judge(&self, plan: &Plan, key: u64) -> Result<(), String> {
        let Some(new) = self.held.iter().find(|held| held.key == key) else { return Ok(()) };
        let is_live = |held: &&Held| held.member.process.enter(|| held.guard.check().is_ok());
        let others = self.held.iter().filter(|held| held.lock == new.lock && !held.excused && held.key != key);
        let live: Vec<&Held> = others.chain([new]).filter(is_live).collect();
        if !live.iter().any(|held| held.key == key) {
            return Ok(()); // It was lost on its way.
        }
        let last = live.iter().max_by_key(|held| held.guard.token()).map_or(Duration::ZERO, |held| held.asked);
        let capacity = self.capacity_since(plan, new.lock, last);
        let modes = || live.iter().map(|held| held.guard.mode());
        let permits = modes().map(|mode| mode.permits(capacity)).fold(0, u32::saturating_add);
        let upgradeable = modes().filter(|mode| *mode == Mode::Upgradeable).count();
        if permits > capacity || upgradeable > 1 {
            let held: Vec<_> = live.iter().map(|held| (held.guard.holder_identity(), held.guard.mode())).collect();
            return Err(format!("more is held than can be: {held:?}"));
        }
        let largest = self.tokens.get(&new.lock).into_iter().flatten().map(|(_, token)| *token).max();
        if new.guard.mode() == Mode::Write && largest.is_some_and(|largest| new.guard.token() < largest) {
            return Err(format!("the writer's token is {}, and {largest:?} was handed out", new.guard.token()));
        }
        Ok(())
    }

    /// The most permits that there were since then.
    fn capacity_since(&self, plan: &Plan, lock: usize, then: Duration) -> u32 {
        let changes = self.permits.get(&lock).map(Vec::as_slice).unwrap_or_default();
        let before = changes
            .iter()
            .rev()
            .find(|(at, _)| *at <= then)
            .map_or(plan.locks[lock].permits(), |(_, permits)| *permits);
        changes.iter().filter(|(at, _)| *at > then).map(|(_, permits)| *permits).fold(before, u32::max)
    }
}
