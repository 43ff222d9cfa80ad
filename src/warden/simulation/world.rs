//! Clients, an API server in memory, and what is on its way between them.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::policy::{self, LOCK_DELAY, MAX_HOLD, RECLAIM};
use leasehold::protocol::record::{ENDED_FOR, EVIDENCE, Pod, SessionRecord};
use leasehold::protocol::write::shared::{self, Round};
use leasehold::protocol::write::{self, Term};
use leasehold::protocol::{
    HolderId, Kind, LONGEST_SESSION, Liveness, Mode, Moment, Now, Record, SessionId, Version, Want, Write, grant,
};
use leasehold::testing::ApiServer;
use leasehold::{Failure, MemoryStore, Store as _};

use super::super::state::{Task, What};
use super::super::{DeedKind, Place, Warden, Why};
use super::{CLIENTS, D, DELAY, DELAYED, LOCKS, LONGEST, NAMESPACE, NEVER, PERMITS, SEMAPHORE, Step};

pub(super) struct Client {
    /// It is made anew in the same Pod.
    pub(super) pod: Pod,
    pub(super) session: SessionRecord,
    /// When its last renewal was carried out. It believes in its session until shortly before a duration later.
    pub(super) renewed: Moment,
    pub(super) alive: bool,
    pub(super) next: u32,
}

pub(super) struct World {
    pub(super) store: MemoryStore,
    pub(super) warden: Warden,
    pub(super) now: Now,
    pub(super) clients: Vec<Client>,
    pub(super) unseen: BTreeSet<String>,
    /// Pods that have terminated, and at which version that was written.
    pub(super) terminated: VecDeque<(Pod, Version)>,
    pub(super) requests: Vec<Task>,
    pub(super) opened: u32,
    /// When sessions were ended by the warden, since they had fallen silent.
    pub(super) ended: HashMap<String, Moment>,
    /// When who came to hold something.
    pub(super) held: HashMap<String, Moment>,
}

impl World {
    pub(super) fn new() -> Self {
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

    pub(super) fn open(&mut self, pod: Pod) -> Client {
        self.opened += 1;
        let id = SessionId::new("pod", &format!("x{}", self.opened));
        let open = write::open_session_in(Some(&pod), &id, D, self.now.stamp);
        let session = SessionRecord::parse(self.write(&id.lease_name(), &open).unwrap().unwrap()).unwrap();
        Client { pod, session, renewed: self.now.moment, alive: true, next: 0 }
    }

    pub(super) fn terminate(&mut self, client: usize) {
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

    pub(super) fn show_pods(&mut self, count: usize) {
        for (pod, version) in self.terminated.drain(..count.min(self.terminated.len())) {
            self.warden.pod_ended(NAMESPACE, pod, version, self.now.moment);
        }
    }

    pub(super) fn read(&self, name: &str) -> Option<Lease> {
        self.store.read(name).now_or_never().unwrap().ok()
    }

    pub(super) fn record(&self, lock: &str) -> Option<Record> {
        self.read(lock).map(|lease| Record::parse(lease).unwrap())
    }

    pub(super) fn write(&mut self, name: &str, write: &Write) -> Result<Option<Lease>, Failure> {
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

    pub(super) fn take(&mut self, step: &Step) {
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

    pub(super) fn pass(&mut self, time: Duration) {
        self.now.moment = self.now.moment + time;
        for client in &mut self.clients {
            // Its own deadline comes before anybody else's.
            if self.now.moment.since(client.renewed) >= D * 98 / 100 {
                client.alive = false;
            }
        }
    }

    pub(super) fn renew(&mut self, client: usize) {
        if !self.clients[client].alive {
            return;
        }
        let session = self.clients[client].session.clone();
        let renewed =
            self.write(&session.id.lease_name(), &write::renew_session(&session, session.duration, self.now.stamp));
        let lease = renewed.expect("a session that is renewed in time is nobody else's to write").unwrap();
        self.clients[client].session = SessionRecord::parse(lease).unwrap();
        self.clients[client].renewed = self.now.moment;
    }

    pub(super) fn vanish(&mut self, client: usize) {
        let name = self.clients[client].session.id.lease_name();
        if let (false, Some(lease)) = (self.clients[client].alive, self.read(&name)) {
            let session = SessionRecord::parse(lease).unwrap();
            self.write(&name, &write::remove_session(&session)).unwrap();
        }
    }

    pub(super) fn witness(&mut self, client: usize) {
        let name = self.clients[client].session.id.lease_name();
        let session = self.read(&name).map(|lease| SessionRecord::parse(lease).unwrap());
        if let (false, Some(session)) = (self.clients[client].alive, session.filter(|session| !session.ended)) {
            let Write::Replace(mut lease) = write::end_session(&session, "a witness") else { panic!() };
            let annotations = lease.metadata.annotations.get_or_insert_default();
            annotations.insert(ENDED_FOR.to_owned(), EVIDENCE.to_owned());
            self.write(&name, &Write::Replace(lease)).unwrap();
        }
    }

    pub(super) fn relist(&mut self) {
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
    pub(super) fn join(&mut self, client: usize, lock: &str) {
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
    pub(super) fn leave(&mut self, client: usize, lock: &str) {
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

    pub(super) fn show(&mut self, count: usize) {
        for _ in 0..count {
            let Some(name) = self.unseen.pop_first() else { return };
            match self.read(&name) {
                Some(lease) => self.warden.saw(lease, self.now.moment),
                None => self.warden.out_of_sight(&Place::new(NAMESPACE, &name), self.now.moment),
            }
        }
    }

    pub(super) fn answer(&mut self, which: usize, lost: Option<bool>) {
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
    pub(super) fn carry_out(&mut self, task: &Task) -> Result<Option<Lease>, Failure> {
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
    pub(super) fn settle(&mut self) {
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

    pub(super) fn check_all_is_well(&self) {
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
