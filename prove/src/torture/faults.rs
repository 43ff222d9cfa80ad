//! What befalls a run: what there is to choose from, and how each is inflicted and healed.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, PostParams};
use leasehold_testkit::{Signal, eventually};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng, RngExt as _};

use super::hands;
use super::history::{Nanos, now};
use super::proxy::Mode;
use super::sharing::{Sort, tide};
use super::stage::{LOCKS, NAMES, PERMITS, POOL, Stage};

/// How long healing may take, on a busy machine too.
const SOON: Duration = Duration::from_secs(90);
/// For how long a token lives that is to expire. The API server remembers for ten seconds more that it was good.
const SHORT: Duration = Duration::from_secs(5);
/// When whoever reads its token from a file has read it again, at the latest.
const READ_AGAIN: Duration = Duration::from_secs(65);

/// Fewer kinds than these may all have to wait for their time.
const WAITING: usize = 3;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A worker is killed, and another takes its place.
    WorkerKilled,
    /// A worker is stopped for longer than its session lasts.
    WorkerStopped,
    /// The operator is killed, and started again later.
    OperatorKilled,
    /// The operator is stopped for a while.
    OperatorStopped,
    /// The API server is killed, and started again.
    ApiserverKilled,
    /// The API server is stopped for a while: it takes connections and answers nothing.
    ApiserverStopped,
    /// etcd is killed, and started again.
    EtcdKilled,
    /// All connections are reset.
    ConnectionsCut,
    /// Connections are taken, and nothing ever answers on them.
    HalfOpen,
    /// Everything waits, and then trickles.
    Slow,
    /// Requests pass and answers do not; then everything is cut.
    AnswersDropped,
    /// Watches fall silent.
    WatchesStalled,
    /// One worker is cut off from the API server.
    WorkerPartitioned,
    /// A person deletes a lock's Lease, or that of what several share.
    LockDeleted,
    /// A person removes the holder from a Lease, or one of several.
    LockBroken,
    /// A person adds nonsense to a Lease.
    LockGarbled,
    /// A person removes a waiter from a Lease.
    JoinRemoved,
    /// A person takes permits from the semaphore, and gives them back.
    PermitsChanged,
    /// A person deletes a session's Lease.
    SessionDeleted,
    /// Half of the workers may do nothing any more, for a while.
    AccessRevoked,
    /// A worker's token expires, and the file with it is rewritten too late.
    TokenExpired,
    /// A worker's wall clock jumps, and jumps back.
    ClockStepped,
}

/// What must not befall two at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Domain {
    Worker(usize),
    Operator,
    Servers,
    Network,
    Access,
    Hands,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::WorkerKilled,
        Self::WorkerStopped,
        Self::OperatorKilled,
        Self::OperatorStopped,
        Self::ApiserverKilled,
        Self::ApiserverStopped,
        Self::EtcdKilled,
        Self::ConnectionsCut,
        Self::HalfOpen,
        Self::Slow,
        Self::AnswersDropped,
        Self::WatchesStalled,
        Self::WorkerPartitioned,
        Self::LockDeleted,
        Self::LockBroken,
        Self::LockGarbled,
        Self::JoinRemoved,
        Self::PermitsChanged,
        Self::SessionDeleted,
        Self::AccessRevoked,
        Self::TokenExpired,
        Self::ClockStepped,
    ];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WorkerKilled => "worker killed",
            Self::WorkerStopped => "worker stopped",
            Self::OperatorKilled => "operator killed",
            Self::OperatorStopped => "operator stopped",
            Self::ApiserverKilled => "API server killed",
            Self::ApiserverStopped => "API server stopped",
            Self::EtcdKilled => "etcd killed",
            Self::ConnectionsCut => "connections cut",
            Self::HalfOpen => "connections half open",
            Self::Slow => "connections slow",
            Self::AnswersDropped => "answers dropped",
            Self::WatchesStalled => "watches stalled",
            Self::WorkerPartitioned => "worker cut off",
            Self::LockDeleted => "lock deleted by hand",
            Self::LockBroken => "lock broken by hand",
            Self::LockGarbled => "lock garbled by hand",
            Self::JoinRemoved => "waiter removed by hand",
            Self::PermitsChanged => "permits changed by hand",
            Self::SessionDeleted => "session deleted by hand",
            Self::AccessRevoked => "access revoked",
            Self::TokenExpired => "token expired",
            Self::ClockStepped => "wall clock stepped",
        }
    }

    fn domain(self, whom: usize) -> Domain {
        match self {
            Self::WorkerKilled | Self::WorkerStopped | Self::TokenExpired | Self::ClockStepped => Domain::Worker(whom),
            Self::OperatorKilled | Self::OperatorStopped => Domain::Operator,
            Self::ApiserverKilled | Self::ApiserverStopped | Self::EtcdKilled => Domain::Servers,
            Self::ConnectionsCut
            | Self::HalfOpen
            | Self::Slow
            | Self::AnswersDropped
            | Self::WatchesStalled
            | Self::WorkerPartitioned => Domain::Network,
            Self::AccessRevoked => Domain::Access,
            Self::LockDeleted
            | Self::LockBroken
            | Self::LockGarbled
            | Self::JoinRemoved
            | Self::PermitsChanged
            | Self::SessionDeleted => Domain::Hands,
        }
    }

    /// Inflicting or healing it asks the API server for something.
    pub(super) fn needs_server(self) -> bool {
        matches!(self.domain(0), Domain::Hands | Domain::Access) || self == Self::TokenExpired
    }

    /// For how long it lasts, in milliseconds, where a session lasts so long.
    fn lasts(self, session: u64) -> (u64, u64) {
        match self {
            Self::WorkerStopped | Self::WorkerPartitioned => (session + 300, session * 2),
            Self::WorkerKilled => (0, 2000),
            Self::OperatorKilled | Self::OperatorStopped => (500, 6000),
            Self::ApiserverKilled | Self::EtcdKilled => (100, 3000),
            Self::ApiserverStopped | Self::HalfOpen | Self::AnswersDropped => (500, session * 3 / 2),
            Self::Slow | Self::WatchesStalled => (2000, 8000),
            Self::LockGarbled | Self::PermitsChanged | Self::ClockStepped => (2000, 6000),
            Self::AccessRevoked => (1000, 6000),
            Self::TokenExpired => (17_000, 20_000),
            Self::ConnectionsCut | Self::LockDeleted | Self::LockBroken | Self::JoinRemoved | Self::SessionDeleted => {
                (0, 0)
            }
        }
    }
}

/// Something that goes on.
#[derive(Debug)]
pub struct Fault {
    /// Which kind.
    pub kind: Kind,
    /// Which worker, lock or account.
    whom: usize,
    /// When it is to be healed.
    pub until: Nanos,
    /// From when on nobody suffers from it any more.
    pub settled: Nanos,
    /// The holders whose holds a person breaks by it.
    pub broke: Vec<String>,
    /// How many permits a person has made of the semaphore, while that is certain.
    pub permits: Option<u32>,
    /// A choice that belongs to it.
    coin: bool,
    /// What is to be given back.
    taken: Option<Box<RoleBinding>>,
}

/// What is chosen from, such that every kind has its turn.
#[derive(Debug)]
pub struct Deck {
    cards: Vec<Kind>,
    chance: StdRng,
}

impl Deck {
    /// A deck that is shuffled by this.
    #[must_use]
    pub fn new(chance: StdRng) -> Self {
        Self { cards: Vec::new(), chance }
    }

    /// The next fault that can befall the run now. None where all must wait.
    pub fn draw(&mut self, stage: &Stage, active: &[Fault], left: Duration) -> Option<Fault> {
        if self.cards.len() < WAITING {
            // What still waits for its time stays on top.
            let mut cards: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| !self.cards.contains(kind)).collect();
            cards.shuffle(&mut self.chance);
            cards.append(&mut self.cards);
            self.cards = cards;
        }
        let session = u64::try_from(stage.session.as_millis()).unwrap_or(u64::MAX);
        for place in (0..self.cards.len()).rev() {
            let kind = self.cards[place];
            let Some(whom) = whom(kind, stage, &mut self.chance) else {
                // It cannot be had in this run.
                self.cards.remove(place);
                continue;
            };
            let servers_down = active.iter().any(|fault| fault.kind.domain(fault.whom) == Domain::Servers);
            let domain = kind.domain(whom);
            let taken = active.iter().any(|fault| fault.kind.domain(fault.whom) == domain);
            let too_late = kind == Kind::TokenExpired && left < READ_AGAIN;
            // The semaphore is there only while it is used.
            let too_early = kind == Kind::PermitsChanged && tide(now()) != Sort::Semaphore;
            if taken || (kind.needs_server() && servers_down) || too_late || too_early {
                continue;
            }
            self.cards.remove(place);
            let (least, most) = kind.lasts(session);
            let lasts = Duration::from_millis(self.chance.random_range(least..=most));
            let until = now() + nanos(lasts);
            let settled = if kind == Kind::TokenExpired { now() + nanos(READ_AGAIN) } else { until };
            let coin = self.chance.random();
            return Some(Fault { kind, whom, until, settled, broke: Vec::new(), permits: None, coin, taken: None });
        }
        None
    }
}

fn whom(kind: Kind, stage: &Stage, chance: &mut impl Rng) -> Option<usize> {
    let among = match kind {
        // What most turn to just then: it is there, and there is somebody to suffer from it.
        Kind::LockDeleted | Kind::LockBroken | Kind::LockGarbled | Kind::JoinRemoved => match tide(now()) {
            Sort::Lock => LOCKS.len(),
            Sort::Semaphore => return Some(LOCKS.len()),
            Sort::ReadWriteLock => return Some(LOCKS.len() + 1),
        },
        Kind::AccessRevoked => stage.accounts.len(),
        Kind::ClockStepped => {
            let with_clock: Vec<usize> =
                (0..stage.places.len()).filter(|&number| stage.places[number].clock_file.is_some()).collect();
            return (!with_clock.is_empty()).then(|| with_clock[chance.random_range(0..with_clock.len())]);
        }
        _ => stage.places.len(),
    };
    Some(chance.random_range(0..among))
}

pub(super) fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Fault {
    /// Whom it befalls, in words.
    #[must_use]
    pub fn tell(&self) -> String {
        match (self.kind, self.kind.domain(self.whom)) {
            (Kind::WorkerPartitioned, _) | (_, Domain::Worker(_)) => format!("w{}", self.whom),
            (Kind::SessionDeleted, _) => "one of w".to_owned() + &self.whom.to_string(),
            (Kind::PermitsChanged, _) => POOL.to_owned(),
            (_, Domain::Hands) => NAMES[self.whom].to_owned(),
            (_, Domain::Access) => format!("every second worker, from w{}", self.whom),
            _ => "all".to_owned(),
        }
    }

    /// Whether it must wait for others to be healed.
    #[must_use]
    pub fn must_wait(&self, active: &[Self]) -> bool {
        self.kind.needs_server() && active.iter().any(|fault| fault.kind.domain(fault.whom) == Domain::Servers)
    }

    /// Whether it has to be healed though no answer told that it was inflicted: others would suffer from it for ever.
    #[must_use]
    pub fn may_stand(&self) -> bool {
        self.kind == Kind::PermitsChanged
    }

    /// Lets it befall the run.
    ///
    /// # Errors
    /// Where it could not be, or where no answer has told. [`broke`](Self::broke) may be set then too.
    pub async fn inflict(&mut self, stage: &mut Stage) -> Result<()> {
        let name = NAMES[self.whom % NAMES.len()];
        let worker = self.whom % stage.places.len();
        match self.kind {
            Kind::WorkerKilled => stage.places[worker].process = None,
            Kind::WorkerStopped => signal_worker(stage, worker, Signal::STOP)?,
            Kind::OperatorKilled => stage.operator.process = None,
            Kind::OperatorStopped => signal_operator(stage, Signal::STOP)?,
            Kind::ApiserverKilled => stage.cluster.kill_apiserver().await?,
            Kind::ApiserverStopped => stage.cluster.signal_apiserver(Signal::STOP).await?,
            Kind::EtcdKilled => stage.cluster.kill_etcd().await?,
            Kind::ConnectionsCut => stage.proxies().for_each(super::proxy::Proxy::cut),
            Kind::HalfOpen => stage.set_all(Mode::Hole),
            Kind::Slow => stage.set_all(Mode::Slow),
            Kind::AnswersDropped => stage.set_all(Mode::NoAnswers),
            Kind::WatchesStalled => stage.set_all(Mode::NoEvents),
            Kind::WorkerPartitioned => stage.places[worker].proxy.set(Mode::Hole),
            Kind::LockDeleted => hands::delete_lock(&stage.leases(), name, &mut self.broke).await?,
            Kind::LockBroken => hands::break_lock(&stage.leases(), name, &mut self.broke).await?,
            Kind::LockGarbled => hands::garble(&stage.leases(), name, true).await?,
            Kind::JoinRemoved => hands::remove_waiter(&stage.leases(), name).await?,
            Kind::PermitsChanged => {
                let permits = if self.coin { 1 } else { PERMITS - 1 };
                hands::take_permits(&stage.leases(), POOL, permits).await?;
                self.permits = Some(permits);
            }
            Kind::SessionDeleted => hands::delete_session(&stage.leases(), &format!("w{worker}")).await?,
            Kind::AccessRevoked => self.revoke(stage).await?,
            Kind::TokenExpired => {
                let token = stage.accounts[stage.places[worker].account].expiring_token(SHORT).await?;
                stage.places[worker].process = None;
                fs::write(&stage.places[worker].token_file, token)?;
                stage.start_worker(worker)?;
            }
            Kind::ClockStepped => {
                // By an hour or by a hundred days, forward or back.
                let by = if worker.is_multiple_of(2) { 3600 } else { 8_640_000 };
                self.set_clock(stage, worker, &format!("{}{by}", if self.coin { '+' } else { '-' }))?;
            }
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// Where it could not be ended: the run cannot go on.
    pub async fn heal(&mut self, stage: &mut Stage) -> Result<()> {
        let worker = self.whom % stage.places.len();
        match self.kind {
            Kind::WorkerKilled => stage.start_worker(worker)?,
            Kind::WorkerStopped => signal_worker(stage, worker, Signal::CONT)?,
            Kind::OperatorKilled => stage.start_operator()?,
            Kind::OperatorStopped => signal_operator(stage, Signal::CONT)?,
            Kind::ApiserverKilled => stage.cluster.start_apiserver().await?,
            Kind::ApiserverStopped => stage.cluster.signal_apiserver(Signal::CONT).await?,
            Kind::EtcdKilled => stage.cluster.start_etcd().await?,
            Kind::HalfOpen => {
                // What was kept is lost, or comes late.
                if self.coin {
                    stage.proxies().for_each(super::proxy::Proxy::cut);
                }
                stage.set_all(Mode::Open);
            }
            Kind::AnswersDropped => {
                stage.proxies().for_each(super::proxy::Proxy::cut);
                stage.set_all(Mode::Open);
            }
            Kind::Slow | Kind::WatchesStalled => stage.set_all(Mode::Open),
            Kind::WorkerPartitioned => {
                let proxy = &stage.places[worker].proxy;
                if self.coin {
                    proxy.cut();
                }
                proxy.set(Mode::Open);
            }
            Kind::LockGarbled => {
                let leases = stage.leases();
                let name = NAMES[self.whom];
                eventually(SOON, "the nonsense to go", async || hands::garble(&leases, name, false).await).await?;
            }
            Kind::PermitsChanged => {
                let leases = stage.leases();
                eventually(SOON, "permits to be given back", async || {
                    hands::give_permits(&leases, POOL, PERMITS).await
                })
                .await?;
                self.permits = Some(PERMITS);
            }
            Kind::AccessRevoked => self.give_back(stage).await?,
            Kind::TokenExpired => {
                let place = &stage.places[worker];
                fs::write(&place.token_file, stage.accounts[place.account].token())?;
            }
            Kind::ClockStepped => self.set_clock(stage, worker, "+0")?,
            Kind::ConnectionsCut | Kind::LockDeleted | Kind::LockBroken | Kind::JoinRemoved | Kind::SessionDeleted => {}
        }
        Ok(())
    }

    async fn revoke(&mut self, stage: &Stage) -> Result<()> {
        let bindings: Api<RoleBinding> = stage.namespace.api();
        let name = stage.accounts[self.whom].name();
        let mut binding = bindings.get(name).await?;
        bindings.delete(name, &DeleteParams::default()).await?;
        binding.metadata.resource_version = None;
        binding.metadata.uid = None;
        self.taken = Some(Box::new(binding));
        Ok(())
    }

    async fn give_back(&mut self, stage: &Stage) -> Result<()> {
        let binding = self.taken.take().context("nothing was taken")?;
        let bindings: Api<RoleBinding> = stage.namespace.api();
        eventually(SOON, "access to be given back", async || {
            match bindings.create(&PostParams::default(), &binding).await {
                // Carried out, and the answer lost.
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                created => Ok(created.map(drop)?),
            }
        })
        .await
    }

    /// A new file in place of the old one: nobody reads half of it.
    fn set_clock(&self, stage: &Stage, worker: usize, by: &str) -> Result<()> {
        let Some(file) = &stage.places[worker].clock_file else { bail!("{} has no such clock", self.tell()) };
        let new = file.with_extension("new");
        fs::write(&new, by)?;
        Ok(fs::rename(new, file)?)
    }
}

fn signal_worker(stage: &Stage, worker: usize, signal: Signal) -> Result<()> {
    stage.places[worker].process.as_ref().context("there is no such worker")?.signal(signal)
}

fn signal_operator(stage: &Stage, signal: Signal) -> Result<()> {
    stage.operator.process.as_ref().context("there is no operator")?.signal(signal)
}
