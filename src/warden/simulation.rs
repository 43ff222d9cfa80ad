//! The warden against clients that live and die at random, on a clock of the test's own.
//!
//! Watch events come late, requests are carried out late, and answers get lost. Whatever happens, nobody who renews in
//! time is ended or taken off a lock; and when all is over nobody who is dead stands in anybody's way.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::policy::{self, LOCK_DELAY, MAX_HOLD, RECLAIM};
use leasehold::protocol::record::{ENDED_BY, ENDED_FOR, EVIDENCE, Pod, SessionRecord};
use leasehold::protocol::write::shared::{self, Round};
use leasehold::protocol::write::{self, Term};
use leasehold::protocol::{
    HolderId, Kind, LONGEST_SESSION, Liveness, Mode, Moment, Now, Record, SessionId, Version, Want, Write, grant,
};
use leasehold::testing::ApiServer;
use leasehold::{Failure, MemoryStore, Store as _};
use proptest::prelude::*;

use super::state::{Done, Task, What};
use super::{DeedKind, Place, Warden, Why};

const D: Duration = Duration::from_secs(10);
const CLIENTS: usize = 4;
/// Two locks, a semaphore, and two locks with policies.
const LOCKS: [&str; 5] = ["a", "b", SEMAPHORE, DELAYED, NEVER];
const SEMAPHORE: &str = "s";
/// What a holder had that fell silent is given to nobody for a while, and nobody holds it for long.
const DELAYED: &str = "delayed";
const DELAY: Duration = Duration::from_secs(4);
const LONGEST: Duration = Duration::from_secs(5);
/// What a dead holder had is given to nobody.
const NEVER: &str = "never";
const PERMITS: u32 = 3;
const NAMESPACE: &str = "ns";

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Renew(usize),
    Die(usize),
    /// With all that its Pod has run. Whoever comes back to that Pod then should not be there, and lives all the same.
    Terminate(usize),
    /// The watch of Pods shows this many of those that have terminated.
    ShowPods(usize),
    /// Somebody deletes the Lease of a session that is dead anyway.
    Vanish(usize),
    /// Somebody who knows that it is dead ends its session.
    Witness(usize),
    Join(usize, usize),
    Leave(usize, usize),
    /// The watch shows what has changed of this many Leases.
    Show(usize),
    /// The watch begins anew and lists everything.
    Relist,
    Poll,
    /// The oldest request but so many is carried out, and answered.
    Answer(usize),
    /// The same, but the answer is lost, and perhaps the request too.
    Lose(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    let lock = 0..LOCKS.len();
    prop_oneof![
        3 => (50..4000_u64).prop_map(Step::Pass),
        4 => client.clone().prop_map(Step::Renew),
        1 => client.clone().prop_map(Step::Die),
        1 => client.clone().prop_map(Step::Vanish),
        2 => client.clone().prop_map(Step::Terminate),
        2 => (1..3_usize).prop_map(Step::ShowPods),
        1 => client.clone().prop_map(Step::Witness),
        1 => Just(Step::Relist),
        4 => (client.clone(), lock.clone()).prop_map(|(client, lock)| Step::Join(client, lock)),
        2 => (client, lock).prop_map(|(client, lock)| Step::Leave(client, lock)),
        4 => (1..6_usize).prop_map(Step::Show),
        6 => Just(Step::Poll),
        6 => (0..3_usize).prop_map(Step::Answer),
        1 => (0..3_usize, any::<bool>()).prop_map(|(which, carried)| Step::Lose(which, carried)),
    ]
}

struct Client {
    /// It is made anew in the same Pod.
    pod: Pod,
    session: SessionRecord,
    /// When its last renewal was carried out. It believes in its session until shortly before a duration later.
    renewed: Moment,
    alive: bool,
    next: u32,
}

struct World {
    store: MemoryStore,
    warden: Warden,
    now: Now,
    clients: Vec<Client>,
    unseen: BTreeSet<String>,
    /// Pods that have terminated, and at which version that was written.
    terminated: VecDeque<(Pod, Version)>,
    requests: Vec<Task>,
    opened: u32,
    /// When sessions were ended by the warden, since they had fallen silent.
    ended: HashMap<String, Moment>,
    /// When who came to hold something.
    held: HashMap<String, Moment>,
}

impl World {
    fn new() -> Self {
        let now = Now { moment: Moment::from_start(Duration::from_hours(1)), stamp: Timestamp::UNIX_EPOCH };
        let mut world = Self {
            store: ApiServer::new().store(NAMESPACE),
            warden: Warden::new("operator test"),
            now,
            clients: Vec::new(),
            unseen: BTreeSet::new(),
            terminated: VecDeque::new(),
            requests: Vec::new(),
            opened: 0,
            ended: HashMap::new(),
            held: HashMap::new(),
        };
        for number in 0..CLIENTS {
            let client = world.open(Pod { name: format!("pod-{number}"), uid: format!("uid-{number}") });
            world.clients.push(client);
        }
        world
    }

    fn open(&mut self, pod: Pod) -> Client {
        self.opened += 1;
        let id = SessionId::new("pod", &format!("x{}", self.opened));
        let open = write::open_session_in(Some(&pod), &id, D, self.now.stamp);
        let session = SessionRecord::parse(self.write(&id.lease_name(), &open).unwrap().unwrap()).unwrap();
        Client { pod, session, renewed: self.now.moment, alive: true, next: 0 }
    }

    fn terminate(&mut self, client: usize) {
        self.clients[client].alive = false;
        // A Pod has a version of the same store: that of a Lease that is made for it, and is nobody's business.
        let note = SessionId::new("note", &format!("x{}", self.terminated.len()));
        let name = note.lease_name();
        let write = write::open_session(&note, D, self.now.stamp);
        let record = SessionRecord::parse(self.store.write(&name, &write).now_or_never().unwrap().unwrap().unwrap());
        let record = record.unwrap();
        self.store.write(&name, &write::remove_session(&record)).now_or_never().unwrap().unwrap();
        self.terminated.push_back((self.clients[client].pod.clone(), record.version));
    }

    fn show_pods(&mut self, count: usize) {
        for (pod, version) in self.terminated.drain(..count.min(self.terminated.len())) {
            self.warden.pod_ended(NAMESPACE, pod, version, self.now.moment);
        }
    }

    fn read(&self, name: &str) -> Option<Lease> {
        self.store.read(name).now_or_never().unwrap().ok()
    }

    fn record(&self, lock: &str) -> Option<Record> {
        self.read(lock).map(|lease| Record::parse(lease).unwrap())
    }

    fn write(&mut self, name: &str, write: &Write) -> Result<Option<Lease>, Failure> {
        let written = self.store.write(name, write).now_or_never().unwrap()?;
        self.unseen.insert(name.to_owned());
        if LOCKS.contains(&name) {
            let record = written.clone().map(|lease| Record::parse(lease).unwrap());
            for holder in record.iter().flat_map(Record::holders) {
                self.held.entry(holder.identity.clone()).or_insert(self.now.moment);
            }
        }
        Ok(written)
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Pass(ms) => self.pass(Duration::from_millis(*ms)),
            Step::Renew(client) => self.renew(*client),
            Step::Die(client) => self.clients[*client].alive = false,
            Step::Terminate(client) => self.terminate(*client),
            Step::ShowPods(count) => self.show_pods(*count),
            Step::Vanish(client) => self.vanish(*client),
            Step::Witness(client) => self.witness(*client),
            Step::Relist => self.relist(),
            Step::Join(client, lock) => self.join(*client, LOCKS[*lock]),
            Step::Leave(client, lock) => self.leave(*client, LOCKS[*lock]),
            Step::Show(count) => self.show(*count),
            Step::Poll => self.requests.extend(self.warden.poll(self.now)),
            Step::Answer(which) => self.answer(*which, None),
            Step::Lose(which, carried) => self.answer(*which, Some(*carried)),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.moment = self.now.moment + time;
        for client in &mut self.clients {
            // Its own deadline comes before anybody else's.
            if self.now.moment.since(client.renewed) >= D * 98 / 100 {
                client.alive = false;
            }
        }
    }

    fn renew(&mut self, client: usize) {
        if !self.clients[client].alive {
            return;
        }
        let session = self.clients[client].session.clone();
        let renewed = self.write(&session.id.lease_name(), &write::renew_session(&session, self.now.stamp));
        let lease = renewed.expect("a session that is renewed in time is nobody else's to write").unwrap();
        self.clients[client].session = SessionRecord::parse(lease).unwrap();
        self.clients[client].renewed = self.now.moment;
    }

    fn vanish(&mut self, client: usize) {
        let name = self.clients[client].session.id.lease_name();
        if let (false, Some(lease)) = (self.clients[client].alive, self.read(&name)) {
            let session = SessionRecord::parse(lease).unwrap();
            self.write(&name, &write::remove_session(&session)).unwrap();
        }
    }

    fn witness(&mut self, client: usize) {
        let name = self.clients[client].session.id.lease_name();
        let session = self.read(&name).map(|lease| SessionRecord::parse(lease).unwrap());
        if let (false, Some(session)) = (self.clients[client].alive, session.filter(|session| !session.ended)) {
            let Write::Replace(mut lease) = write::end_session(&session, "a witness") else { panic!() };
            let annotations = lease.metadata.annotations.get_or_insert_default();
            annotations.insert(ENDED_FOR.to_owned(), EVIDENCE.to_owned());
            self.write(&name, &Write::Replace(lease)).unwrap();
        }
    }

    fn relist(&mut self) {
        let sessions = (1..=self.opened).map(|number| SessionId::new("pod", &format!("x{number}")).lease_name());
        let names = LOCKS.iter().map(|lock| (*lock).to_owned()).chain(sessions);
        let mut there = HashSet::new();
        for name in names {
            if let Some(lease) = self.read(&name) {
                self.warden.saw(lease, self.now.moment);
                there.insert(Place::new(NAMESPACE, &name));
            }
        }
        self.warden.relisted(None, &there, self.now.moment);
    }

    /// A client that wants a lock makes it, takes it or queues up. One that is dead comes back under a new name.
    fn join(&mut self, client: usize, lock: &str) {
        if !self.clients[client].alive {
            self.clients[client] = self.open(self.clients[client].pod.clone());
        }
        self.clients[client].next += 1;
        let id = HolderId { session: self.clients[client].session.id.clone(), n: self.clients[client].next };
        if lock == SEMAPHORE {
            return self.join_semaphore(&id);
        }
        let term = Term { duration: D, own: false };
        let write = match self.record(lock) {
            None => with_policy(lock, write::create(lock, &id, term, self.now.stamp)),
            Some(record) if record.holder.is_none() && record.waiters.is_empty() => {
                write::acquire(&record, &id, &[], term, self.now.stamp)
            }
            Some(record) => write::join(&record, &id, &Want::default()),
        };
        self.write(lock, &write).unwrap();
    }

    /// It wants one permit or two.
    fn join_semaphore(&mut self, id: &HolderId) {
        let permits = 1 + id.n % 2;
        let want = Want { mode: Mode::Permits(permits), ..Want::default() };
        let write = match self.record(SEMAPHORE) {
            None => shared::create(SEMAPHORE, Kind::Semaphore, Some(PERMITS), id, want, self.now.stamp),
            Some(record) if record.waiters.is_empty() && record.available_permits() >= permits => {
                shared::acquire(&record, id, want, &Round::default(), self.now.stamp)
            }
            Some(record) => write::join(&record, id, &want),
        };
        self.write(SEMAPHORE, &write).unwrap();
    }

    /// A client that holds a lock hands it on or releases it. Permits it only gives back: nobody goes ahead by himself
    /// here.
    fn leave(&mut self, client: usize, lock: &str) {
        let (client, Some(record)) = (&self.clients[client], self.record(lock)) else { return };
        let mine = |id: &HolderId| client.alive && id.session == client.session.id;
        let Some(holder) = record.holders().find(|holder| holder.id.as_ref().is_some_and(mine)) else { return };
        let write = match record.waiters.first() {
            _ if lock == SEMAPHORE => shared::release(&record, holder, false),
            Some(first) => write::grant(&record, &first.id, &[], self.now.stamp),
            None => write::release(&record, &[], false),
        };
        self.write(lock, &write).unwrap();
    }

    fn show(&mut self, count: usize) {
        for _ in 0..count {
            let Some(name) = self.unseen.pop_first() else { return };
            match self.read(&name) {
                Some(lease) => self.warden.saw(lease, self.now.moment),
                None => self.warden.out_of_sight(&Place::new(NAMESPACE, &name), self.now.moment),
            }
        }
    }

    fn answer(&mut self, which: usize, lost: Option<bool>) {
        if self.requests.is_empty() {
            return;
        }
        let task = self.requests.remove(which.min(self.requests.len() - 1));
        let mut answer = if lost == Some(false) { Err(Failure::Unclear(String::new())) } else { self.carry_out(&task) };
        if lost.is_some() {
            answer = Err(Failure::Unclear("lost".to_owned()));
        }
        self.warden.answer(&task, answer, self.now.moment);
    }

    /// The API server's side of a request, with an eye on what may not happen.
    fn carry_out(&mut self, task: &Task) -> Result<Option<Lease>, Failure> {
        let name = &task.place.name;
        match &task.what {
            What::Read => self.read(name).map(Some).ok_or(Failure::Absent),
            What::End(write) | What::EndByEvidence(write) => {
                let ended = self.write(name, write)?;
                if let What::End(_) = task.what {
                    self.ended.insert(name.clone(), self.now.moment);
                }
                let owner = self.clients.iter().find(|client| client.session.id.lease_name() == *name);
                assert!(owner.is_none_or(|client| !client.alive), "{name} was ended while it was renewed in time");
                Ok(ended)
            }
            What::Sweep(write) => {
                let named =
                    LOCKS.iter().filter_map(|lock| self.record(lock)).any(|record| sessions(&record).contains(name));
                let swept = self.write(name, write)?;
                assert!(!named, "the tombstone {name} was swept while a lock named it");
                Ok(swept)
            }
            What::Do(deed) => {
                let before = self.record(name).map(|record| sessions(&record)).unwrap_or_default();
                let written = self.write(name, &deed.write)?;
                let too_long = self.check_policy(name, &deed.kind);
                let after = self.record(name);
                let held = after.as_ref().map_or(0, Record::held_permits);
                assert!(held <= PERMITS, "{held} permits of {name} are held: {:?}", deed.kind);
                let after = after.map(|record| sessions(&record)).unwrap_or_default();
                for gone in before.difference(&after) {
                    let alive =
                        self.clients.iter().any(|client| client.alive && client.session.id.lease_name() == *gone);
                    assert!(
                        !alive || too_long.contains(gone),
                        "{gone} was taken off {name} while it was renewed in time: {:?}",
                        deed.kind
                    );
                }
                Ok(written)
            }
        }
    }

    /// Whoever is evicted is evicted as the lock wants it. The sessions of those who have held it for too long.
    fn check_policy(&self, lock: &str, deed: &DeedKind) -> BTreeSet<String> {
        let mut too_long = BTreeSet::new();
        let DeedKind::Evict { holders, .. } = deed else { return too_long };
        for one in holders {
            assert!(lock != NEVER, "{} was evicted", one.identity);
            let session = one.identity.parse::<HolderId>().unwrap().session.lease_name();
            match one.why {
                Why::Ended if lock == DELAYED => {
                    let early = self.ended.get(&session).filter(|ended| self.now.moment < **ended + DELAY);
                    assert!(early.is_none(), "{} was evicted before the delay was over", one.identity);
                }
                Why::Ended => {}
                Why::HeldTooLong(_) => {
                    let allowed = self.held[&one.identity] + LONGEST * 102 / 100 + LONGEST_SESSION;
                    assert!(lock == DELAYED && self.now.moment >= allowed, "{one:?}");
                    let early = self.ended.get(&session).filter(|ended| self.now.moment < **ended + DELAY);
                    assert!(early.is_none(), "{} was evicted before the delay was over", one.identity);
                    too_long.insert(session);
                }
                Why::Asked(_) => panic!("{one:?}"),
            }
        }
        too_long
    }

    /// Time goes on, those who live renew, and nothing gets lost any more.
    fn settle(&mut self) {
        for _ in 0..400 {
            self.pass(Duration::from_millis(500));
            for client in 0..self.clients.len() {
                self.renew(client);
            }
            self.show(usize::MAX);
            for _ in 0..100 {
                self.requests.extend(self.warden.poll(self.now));
                if self.requests.is_empty() {
                    break;
                }
                self.answer(0, None);
                self.show(usize::MAX);
            }
        }
    }

    fn check_all_is_well(&self) {
        let alive: BTreeSet<String> =
            self.clients.iter().filter(|client| client.alive).map(|client| client.session.id.lease_name()).collect();
        let abandoned: BTreeSet<String> = self.record(NEVER).iter().flat_map(holding).collect();
        let abandoned: BTreeSet<String> = abandoned.difference(&alive).cloned().collect();
        let told = self.warden.troubles(&Place::new(NAMESPACE, NEVER)).abandoned;
        assert_eq!(told.len(), abandoned.len(), "{told:?} are told to be dead, and {abandoned:?} are");
        let stay: BTreeSet<String> = alive.union(&abandoned).cloned().collect();
        for lock in LOCKS {
            let Some(record) = self.record(lock) else { continue };
            let may = if lock == NEVER { &stay } else { &alive };
            assert!(sessions(&record).is_subset(may), "somebody dead stands on {lock}: {:#?}", record.lease);
            let fits = record.kind != Kind::Lock && !grant::round(&record, |_| false, |_| false).served.is_empty();
            assert!(
                record.is_held() && !fits,
                "{lock} is free and still there, or somebody waits in vain: {:#?}",
                record.lease
            );
        }
        for number in 1..=self.opened {
            let name = SessionId::new("pod", &format!("x{number}")).lease_name();
            assert!(stay.contains(&name) || self.read(&name).is_none(), "{name} is dead and not swept");
        }
        let census = self.warden.census();
        assert_eq!(census.sessions, stay.len(), "the warden remembers what is gone");
    }
}

/// The names of the Leases of those by whose life a lock's holder and waiters live.
fn sessions(record: &Record) -> BTreeSet<String> {
    record.waiters.iter().map(|waiter| waiter.id.session.lease_name()).chain(holding(record)).collect()
}

fn holding(record: &Record) -> Vec<String> {
    let holders = record.holders().filter_map(|holder| match &holder.liveness {
        Liveness::Session(session) => Some(session.lease_name()),
        Liveness::Own(_) => None,
    });
    holders.collect()
}

/// What the lock's resource would say of it.
fn with_policy(lock: &str, write: Write) -> Write {
    let Write::Create(mut lease) = write else { panic!() };
    let said = match lock {
        DELAYED => vec![(LOCK_DELAY, DELAY.as_secs().to_string()), (MAX_HOLD, LONGEST.as_secs().to_string())],
        NEVER => vec![(RECLAIM, policy::NEVER.to_owned())],
        _ => Vec::new(),
    };
    let said = said.into_iter().map(|(key, value)| (key.to_owned(), value));
    lease.metadata.annotations.get_or_insert_default().extend(said);
    Write::Create(lease)
}

fn run(steps: &[Step]) {
    let mut world = World::new();
    for step in steps {
        world.take(step);
    }
    world.settle();
    world.check_all_is_well();
}

/// Until its session has been read nothing is granted to a waiter. That it lives has to be news, too.
#[test]
fn a_waiter_that_turns_out_to_live_gets_the_lock_of_the_dead() {
    use Step::{Answer, Join, Pass, Poll, Show};
    let dead = [Show(2), Show(2), Pass(3449), Join(2, 0), Pass(6551), Poll, Poll, Pass(1108)];
    let new = [Join(0, 1), Poll, Answer(0), Answer(0), Answer(0), Join(0, 0), Join(0, 0), Show(4)];
    run(&[&dead[..], &new[..], &[Poll, Poll, Show(1), Poll]].concat());
}

fn terminated(world: &mut World) -> Vec<Task> {
    world.take(&Step::Join(0, 0));
    world.show(usize::MAX);
    while let Some(task) = world.warden.poll(world.now) {
        let answer = world.carry_out(&task);
        world.warden.answer(&task, answer, world.now.moment);
    }
    world.take(&Step::Terminate(0));
    world.show_pods(1);
    world.warden.poll(world.now).into_iter().collect()
}

#[test]
fn whose_pod_has_terminated_is_ended_and_evicted_without_any_time_passing() {
    let mut world = World::new();
    let task = terminated(&mut world).pop().expect("there is evidence");
    assert!(matches!(task.what, What::EndByEvidence(_)), "{task:?}");
    let ended = world.carry_out(&task);
    let record = SessionRecord::parse(ended.clone().unwrap().unwrap()).unwrap();
    let by = record.lease.metadata.annotations.as_ref().unwrap()[ENDED_BY].clone();
    assert_eq!(by, "operator test: every container of Pod pod-0 has terminated");
    assert!(record.ended && record.by_evidence);
    let done = world.warden.answer(&task, ended, world.now.moment);
    assert_eq!(done, Some(Done::SessionEnded { by_evidence: true }));
    let task = world.warden.poll(world.now).expect("it is to be evicted");
    assert!(matches!(task.what, What::Do(_)), "{task:?}");
    world.requests.push(task);
    world.settle();
    world.check_all_is_well();
}

/// A process that was started in that Pod though it was over has nothing to fear, and neither has one that renews.
#[test]
fn whoever_is_heard_of_after_the_evidence_lives() {
    let mut world = World::new();
    world.show(usize::MAX);
    world.take(&Step::Terminate(0));
    world.clients[0].alive = true;
    world.renew(0);
    world.show_pods(1);
    let mut answers = 0;
    while let Some(task) = world.warden.poll(world.now) {
        let answer = world.carry_out(&task);
        world.warden.answer(&task, answer, world.now.moment);
        answers += 1;
        assert!(answers < 10, "it tries again and again: {task:?}");
    }
    world.show(usize::MAX);
    assert!(world.warden.poll(world.now).is_none());
}

#[test]
fn who_only_keeps_watch_leaves_it_to_others_and_acts_when_it_is_his_turn() {
    let mut world = World::new();
    world.warden.set_acts(false, world.now.moment);
    assert!(terminated(&mut world).is_empty(), "it wrote");
    world.warden.set_acts(true, world.now.moment);
    let task = world.warden.poll(world.now).expect("it knows");
    assert!(matches!(task.what, What::EndByEvidence(_)), "{task:?}");
}

#[test]
fn evidence_may_come_before_its_session_is_seen_and_is_forgotten_in_the_end() {
    let mut world = World::new();
    world.take(&Step::Terminate(0));
    world.show_pods(1);
    assert!(world.warden.poll(world.now).is_none());
    world.show(usize::MAX);
    let task = world.warden.poll(world.now).expect("it was kept");
    assert!(matches!(task.what, What::EndByEvidence(_)), "{task:?}");
    assert_eq!(world.warden.known_to_have_ended(), 1);
    world.pass(Duration::from_mins(6));
    world.take(&Step::Terminate(1));
    world.show_pods(1);
    assert_eq!(world.warden.known_to_have_ended(), 1, "the old one is forgotten");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn only_the_dead_are_taken_off_and_all_of_them_in_the_end(steps in prop::collection::vec(step(), 1..150)) {
        run(&steps);
    }
}
