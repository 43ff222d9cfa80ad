//! Looking at a lock without taking it.

use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use serde::Serialize;

use crate::clock;
use crate::error::ReadError;
use crate::lock::Lock;
use crate::protocol::{Holder, Liveness, Mode, Record, Waiter, Want, renew_interval};
use crate::store::Sight;

/// What a lock looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LockStatus {
    /// The lock's name.
    pub name: String,
    /// Who holds it, if anybody does.
    ///
    /// A holder that has died stands here until somebody takes the lock over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<HolderStatus>,
    /// Who waits for it, first come first.
    pub waiters: Vec<WaiterStatus>,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HolderStatus {
    /// The holder's identity, as it stands on the Lease.
    pub identity: String,
    /// The pod's or host's name, possibly cut, where the holder is a client of this crate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Since when, by the clock of whoever wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The fencing token, where the Lease tells it: not for the first holder of a lock made on the spot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// For how many seconds the hold lives without a renewal, where it lives by the lock's own Lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_duration_seconds: Option<u64>,
    /// Its process has left it there until its time has passed ([`keep`](crate::LockGuard::keep)).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// What the holder [publishes](crate::Hold::publish) of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Who asks it to let go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_request: Option<ReleaseRequestStatus>,
}

/// Who asks a holder to let go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ReleaseRequestStatus {
    /// Who asks. Nothing vouches for it.
    pub by: String,
    /// Within how many seconds, from when the holder heard of it.
    pub within_seconds: u64,
    /// What for.
    pub reason: String,
}

/// Who waits for a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct WaiterStatus {
    /// The waiter's identity.
    pub identity: String,
    /// The pod's or host's name, possibly cut.
    pub host: String,
    /// The place in the queue: smaller is earlier, and gaps mean nothing.
    pub ticket: u64,
    /// What it waits for: a number of permits, of a lock 1, or `read`, `upgradeable`, `write`.
    pub wants: String,
}

/// What a semaphore looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SemaphoreStatus {
    /// The semaphore's name.
    pub name: String,
    /// How many permits there are.
    pub permits: u32,
    /// How many are held. While it shrinks they can be more than there are.
    pub held: u32,
    /// How many are free.
    pub available: u32,
    /// Who holds permits, first come first.
    pub holders: Vec<ShareStatus>,
    /// Who waits for permits, first come first.
    pub waiters: Vec<WaiterStatus>,
}

/// What a read-write lock looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ReadWriteLockStatus {
    /// The lock's name.
    pub name: String,
    /// Who holds it, first come first.
    pub holders: Vec<ShareStatus>,
    /// The upgradeable reader that waits to become the writer, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrading: Option<String>,
    /// Who waits for it, first come first.
    pub waiters: Vec<WaiterStatus>,
}

/// Who has a share in what several can hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ShareStatus {
    /// What it holds: a number of permits, or `read`, `upgradeable`, `write`.
    pub share: String,
    /// Who it is.
    #[serde(flatten)]
    pub holder: HolderStatus,
}

impl HolderStatus {
    fn of(holder: &Holder) -> Self {
        Self {
            identity: holder.identity.clone(),
            host: holder.id.as_ref().map(|id| id.session.host().to_owned()),
            since: holder.acquired,
            token: holder.token,
            lease_duration_seconds: match holder.liveness {
                Liveness::Own(duration) => Some(duration.as_secs()),
                Liveness::Session(_) => None,
            },
            kept: holder.kept,
            payload: holder.payload.clone(),
            release_request: holder.request.as_ref().map(|request| ReleaseRequestStatus {
                by: request.by.clone(),
                within_seconds: request.within.as_secs(),
                reason: request.reason.clone(),
            }),
        }
    }
}

impl ShareStatus {
    fn of(holder: &Holder) -> Self {
        Self { share: share(holder.mode), holder: HolderStatus::of(holder) }
    }
}

impl WaiterStatus {
    fn of(waiter: &Waiter) -> Self {
        Self {
            identity: waiter.id.to_string(),
            host: waiter.id.session.host().to_owned(),
            ticket: waiter.ticket.0,
            wants: share(waiter.want.mode),
        }
    }
}

fn share(mode: Mode) -> String {
    Want { mode, ..Want::default() }.to_string()
}

fn shares(record: Option<&Record>) -> Vec<ShareStatus> {
    record.into_iter().flat_map(|record| &record.shared).map(ShareStatus::of).collect()
}

fn waiters(record: Option<&Record>) -> Vec<WaiterStatus> {
    record.into_iter().flat_map(|record| &record.waiters).map(WaiterStatus::of).collect()
}

impl SemaphoreStatus {
    /// What a semaphore's record says. `None` where there is no Lease: nobody has to do with it, and there are as many
    /// permits as clients say.
    #[must_use]
    pub fn of(name: &str, permits: Option<u32>, record: Option<&Record>) -> Self {
        let permits = record.map(|record| record.capacity).or(permits).unwrap_or(0);
        Self {
            name: name.to_owned(),
            permits,
            held: record.map_or(0, Record::held_permits),
            available: record.map_or(permits, Record::available_permits),
            holders: shares(record),
            waiters: waiters(record),
        }
    }
}

impl ReadWriteLockStatus {
    /// What a read-write lock's record says. `None` where there is no Lease: nobody has to do with it.
    #[must_use]
    pub fn of(name: &str, record: Option<&Record>) -> Self {
        let upgrading = record.and_then(|record| record.upgrading.as_ref()).map(ToString::to_string);
        Self { name: name.to_owned(), holders: shares(record), upgrading, waiters: waiters(record) }
    }
}

impl LockStatus {
    /// What a lock's record says. `None` where there is no Lease: the lock is free, and nobody has to do with it.
    #[must_use]
    pub fn of(name: &str, record: Option<&Record>) -> Self {
        let holder = record.and_then(|record| record.holder.as_ref()).map(HolderStatus::of);
        Self { name: name.to_owned(), holder, waiters: waiters(record) }
    }

    /// Somebody holds the lock, as far as the Lease tells.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.holder.is_some()
    }
}

impl Lock {
    /// Who holds the lock, since when, and who waits. It costs one read.
    ///
    /// # Cancel safety
    /// It only reads.
    ///
    /// # Errors
    /// [`ReadError`] where the Lease could not be read.
    pub async fn status(&self) -> Result<LockStatus, ReadError> {
        let record = self.access.read().await?;
        Ok(LockStatus::of(&self.access.name, record.as_ref()))
    }

    /// Whether somebody holds the lock. It costs one read, and what it says may be over by the time it is heard.
    ///
    /// # Cancel safety
    /// It only reads.
    ///
    /// # Errors
    /// [`ReadError`] where the Lease could not be read.
    pub async fn is_locked(&self) -> Result<bool, ReadError> {
        Ok(self.status().await?.is_locked())
    }

    /// Waits until nobody holds the lock, without queueing up for it.
    ///
    /// It watches, and reads again now and then. Between two holders a lock is free only if nobody waits for it, since
    /// it is handed on straight to the next.
    ///
    /// # Cancel safety
    /// It only reads.
    ///
    /// # Errors
    /// [`ReadError`] where the Lease could not be read at first. Later outages are ridden out.
    pub async fn wait_until_free(&self) -> Result<(), ReadError> {
        let lock = self.clone();
        // A watch lives where it is begun.
        self.access.client.inner().shared.tasks.run(async move { lock.watch_until_free().await }).await
    }

    async fn watch_until_free(&self) -> Result<(), ReadError> {
        let mut record = self.access.read().await?;
        let mut failures = 0_u32;
        loop {
            let Some(held) = record.filter(|record| record.holder.is_some()) else { return Ok(()) };
            let shared = &self.access.client.inner().shared;
            // After a failure the version may be too old to begin with.
            let mut sights = shared.store.watch(&self.access.lease, None, (failures == 0).then_some(held.version));
            let again = clock::sleep(renew_interval(shared.session_duration));
            tokio::pin!(again);
            record = loop {
                tokio::select! {
                    sight = sights.next() => match sight {
                        Some(Ok(Sight::Shows(lease))) => match Record::parse(*lease) {
                            Ok(record) if record.holder.is_none() => break Some(record),
                            _ => failures = 0,
                        },
                        Some(Ok(Sight::Reached(_))) => {}
                        Some(Ok(Sight::Hides(_))) => break self.access.read().await.unwrap_or(Some(held)),
                        Some(Err(_)) | None => {
                            clock::sleep(Duration::from_millis(100) * (1 << failures.min(6))).await;
                            failures += 1;
                            break self.access.read().await.unwrap_or(Some(held));
                        }
                    },
                    () = &mut again => break self.access.read().await.unwrap_or(Some(held)),
                }
            };
        }
    }
}
