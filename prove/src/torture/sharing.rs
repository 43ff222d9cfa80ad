//! What a worker contends for, and what it does with a part of what several can hold.

use std::time::Duration;

use anyhow::Result;
use leasehold::{Client, Lock, Lost, OptionsError, ReadWriteLock, Semaphore, UpgradeError};
use rand::RngExt as _;
use tokio::time::{sleep, timeout};

use super::guard::{Guard, Handle};
use super::history::{Nanos, Share, What, now};
use super::worker::{Options, Worker};

/// What there is to contend for.
#[derive(Debug)]
pub(super) struct Names {
    locks: Vec<Lock>,
    /// The semaphore: by a handle that says how many permits it has, and by one that does not.
    semaphore: Semaphore,
    as_it_is: Semaphore,
    read_write_lock: ReadWriteLock,
}

/// A sort of what there is to contend for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Lock,
    Semaphore,
    ReadWriteLock,
}

/// What most turn to at a time, one after the other, and for how long: so few processes would seldom meet otherwise.
const TIDES: [Sort; 5] = [Sort::Lock, Sort::Semaphore, Sort::Lock, Sort::ReadWriteLock, Sort::Lock];
const TIDE: Nanos = 3_000_000_000;
const WITH_THE_TIDE: f64 = 0.75;
/// How often there is some work between two changes. Where there is none, one request follows close upon the other.
const UNHURRIED: f64 = 0.7;

/// What most turn to at this time.
pub(super) fn tide(at: Nanos) -> Sort {
    TIDES[usize::try_from(at / TIDE).unwrap_or(0) % TIDES.len()]
}

impl Names {
    pub(super) fn new(options: &Options, client: &Client) -> Result<Self, OptionsError> {
        let own = options.own.then(|| Duration::from_secs(options.session));
        let lock = |name: &String| {
            let lock = client.lock(name);
            own.into_iter().fold(lock, leasehold::LockBuilder::lease_duration).build()
        };
        let semaphore = || {
            let semaphore = client.semaphore(&options.semaphore);
            own.into_iter().fold(semaphore, leasehold::SemaphoreBuilder::lease_duration)
        };
        Ok(Self {
            locks: options.locks.iter().map(lock).collect::<Result<_, _>>()?,
            semaphore: semaphore().with_permits(options.permits).build()?,
            as_it_is: semaphore().build()?,
            read_write_lock: client.read_write_lock(&options.read_write_lock)?,
        })
    }
}

impl Worker {
    /// What to ask for next.
    pub(super) fn choose<'a>(&mut self, names: &'a Names) -> Handle<'a> {
        let any = TIDES[self.chance.random_range(0..TIDES.len())];
        let sort = if self.chance.random_bool(WITH_THE_TIDE) { tide(now()) } else { any };
        let (lock, part) = (self.chance.random_range(0..names.locks.len()), self.chance.random_range(0..8));
        match (sort, part) {
            (Sort::Lock, _) => Handle::Lock(&names.locks[lock]),
            (Sort::Semaphore, _) => {
                let semaphore = if self.as_it_is { &names.as_it_is } else { &names.semaphore };
                Handle::Permits(semaphore, if part < 5 { 1 } else { 2 })
            }
            (Sort::ReadWriteLock, 0..4) => Handle::Read(&names.read_write_lock),
            (Sort::ReadWriteLock, 4 | 5) => Handle::Upgradeable(&names.read_write_lock),
            (Sort::ReadWriteLock, _) => Handle::Write(&names.read_write_lock),
        }
    }

    /// Works beside others, makes more or less of what it holds now and then, and gives it back.
    pub(super) async fn share(&mut self, mut guard: Guard) -> Result<()> {
        let (careless, long) = self.manner();
        for _ in 0..self.chance.random_range(1..=4) {
            if !self.part(&guard).await? {
                return Ok(());
            }
            guard = match self.change(guard).await? {
                Some(guard) => guard,
                None => return Ok(()),
            };
        }
        if !self.check(&guard)? || (long && !self.stay(&guard).await?) {
            return Ok(());
        }
        if careless {
            self.doze()?;
            // Nothing has run since that could have told the guard.
            if !self.check(&guard)? {
                return Ok(());
            }
        }
        let from = now();
        let clean = guard.release().await.is_ok();
        self.tell(from, What::Released { clean })
    }

    /// A piece of work. Whether the part is still held after it.
    async fn part(&mut self, guard: &Guard) -> Result<bool> {
        if !self.check(guard)? {
            return Ok(false);
        }
        if self.chance.random_bool(UNHURRIED) {
            sleep(self.millis(0, 15)).await;
            // If the process is stopped in it, only the check stands between it and the next step.
            std::thread::sleep(self.millis(0, 10));
            if !self.check(guard)? {
                return Ok(false);
            }
            // Only who is alone writes where tokens are compared.
            if guard.share() == Share::Write {
                self.fence(guard).await?;
            }
        }
        self.check(guard)
    }

    /// Makes more or less of it, where that can be done, or leaves it as it is. `None`: it is held no more.
    async fn change(&mut self, guard: Guard) -> Result<Option<Guard>> {
        let from = now();
        let patience = self.millis(1, self.options.session * 300);
        let changed = match (guard, self.chance.random_range(0..10)) {
            (Guard::Permits(mut permits), 0..5) if permits.permits() > 1 => {
                permits.release_some(1).await.map(|()| Guard::Permits(permits))
            }
            (Guard::Upgradeable(guard), 0..6) => guard.upgrade().await.map(Guard::Write),
            (Guard::Upgradeable(guard), 6) => match guard.upgrade_timeout(patience).await {
                Ok(guard) => Ok(Guard::Write(guard)),
                Err(UpgradeError::TimedOut { guard, .. }) => Ok(Guard::Upgradeable(guard)),
                Err(UpgradeError::Lost(lost)) => Err(lost),
                Err(error) => return Err(error.into()),
            },
            (Guard::Upgradeable(guard), 7) => {
                let Ok(upgraded) = timeout(patience / 8, guard.upgrade()).await else {
                    self.tell(from, What::GaveUp { why: "cancelled what was to become the writer".to_owned() })?;
                    return Ok(None);
                };
                upgraded.map(Guard::Write)
            }
            (Guard::Upgradeable(guard), _) => guard.downgrade().await.map(Guard::Read),
            (Guard::Write(guard), 0..6) => guard.downgrade_to_upgradeable().await.map(Guard::Upgradeable),
            (Guard::Write(guard), 6 | 7) => guard.downgrade().await.map(Guard::Read),
            (guard, _) => return Ok(Some(guard)),
        };
        match changed {
            Ok(guard) => {
                self.tell(from, What::Changed { share: guard.share(), token: guard.token() })?;
                Ok(Some(guard))
            }
            Err(lost) => {
                self.tell_lost(from, &lost)?;
                Ok(None)
            }
        }
    }

    /// The guard's words on its loss.
    pub(super) fn tell_lost(&mut self, from: Nanos, lost: &Lost) -> Result<()> {
        let by_session = !self.options.own;
        let taken = by_session && lost.reason == leasehold::LossReason::Broken;
        self.tell(from, What::Lost { why: lost.to_string(), taken })
    }
}
