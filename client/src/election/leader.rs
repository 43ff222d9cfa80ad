//! Who leads, seen from outside.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use serde::Serialize;
use tracing::debug;

use crate::access::Access;
use crate::clock;
use crate::error::ReadError;
use crate::protocol::{Moment, Record, Version};
use crate::store::{Failure, Sight};

/// Who leads, whether by this crate or by another client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Leader {
    /// Its identity, as it stands on the Lease.
    pub identity: String,
    /// The pod's or host's name, possibly cut, where the leader is a client of this crate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Since when, by the clock of whoever wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The fencing token, where the Lease tells it: not of another client's leader, nor of the first of a Lease made on the
    /// spot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// How often the leadership has passed on since the Lease was made.
    pub transitions: i32,
    /// What it [publishes](crate::Hold::publish) of itself: where it can be reached, for example.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

impl Leader {
    pub(super) fn of(record: &Record) -> Option<Self> {
        let holder = record.holder.as_ref()?;
        Some(Self {
            identity: holder.identity.clone(),
            host: holder.id.as_ref().map(|id| id.session.host().to_owned()),
            since: holder.acquired,
            token: holder.token,
            transitions: record.transitions,
            payload: holder.payload.clone(),
        })
    }
}

/// A stream of leaders: who leads now, and then whenever that, or what the leader publishes, changes. `None`: nobody leads.
///
/// What has been seen for a short time only may be left out; what is seen last is always told. A leader that has died
/// stands there until another takes over: nobody can tell death from silence sooner.
///
/// The stream has no end. It watches, and reads again every lease duration and whenever the watch breaks.
pub struct Leaders(BoxStream<'static, Option<Leader>>);

impl std::fmt::Debug for Leaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Leaders").finish_non_exhaustive()
    }
}

impl Leaders {
    pub(super) async fn begin(access: Access, every: Duration) -> Result<Self, ReadError> {
        let record = access.read().await?;
        let mut eye = Eye {
            access,
            every,
            floor: Version::default(),
            record: None,
            told: None,
            first: true,
            sights: None,
            failures: 0,
            read_at: clock::moment() + every,
        };
        eye.has_read(record);
        let leaders = futures::stream::unfold(eye, |mut eye| async move { Some((eye.next().await, eye)) });
        Ok(Self(leaders.boxed()))
    }

    /// The next leader, or `None` when nobody leads any more. The first answer comes at once.
    ///
    /// # Cancel safety
    /// Nothing is lost: called again, it goes on where it was.
    pub async fn changed(&mut self) -> Option<Leader> {
        self.0.next().await.flatten()
    }
}

impl Stream for Leaders {
    type Item = Option<Leader>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

struct Eye {
    access: Access,
    every: Duration,
    /// The highest version seen. Anything older that a watch shows is old news.
    floor: Version,
    record: Option<Record>,
    told: Option<Leader>,
    /// Nothing has been told yet.
    first: bool,
    sights: Option<BoxStream<'static, Result<Sight, Failure>>>,
    /// Of watches, one after the other.
    failures: u32,
    read_at: Moment,
}

impl Eye {
    async fn next(&mut self) -> Option<Leader> {
        loop {
            let leader = self.record.as_ref().and_then(Leader::of);
            if std::mem::take(&mut self.first) || self.told != leader {
                self.told.clone_from(&leader);
                return leader;
            }
            self.look().await;
        }
    }

    async fn look(&mut self) {
        // After a failure the version may be too old to begin with.
        let from = self.record.as_ref().map(|record| record.version).filter(|_| self.failures == 0);
        let (store, name) = (&self.access.client.inner().shared.store, &self.access.lease);
        let sights = self.sights.get_or_insert_with(|| store.watch(name, None, from));
        let sight = tokio::select! {
            sight = sights.next() => sight,
            () = clock::sleep_until(self.read_at) => return self.read().await,
        };
        match sight {
            Some(Ok(Sight::Shows(lease))) => {
                self.failures = 0;
                if let Ok(record) = Record::parse(*lease)
                    && record.version > self.floor
                {
                    self.floor = record.version;
                    self.record = Some(record);
                }
            }
            Some(Ok(Sight::Hides(version))) if version > self.floor => {
                self.floor = version;
                self.read().await;
            }
            Some(Ok(Sight::Hides(_) | Sight::Reached(_))) => {}
            Some(Err(_)) | None => {
                self.sights = None;
                clock::sleep((Duration::from_millis(100) * (1 << self.failures.min(7))).min(self.every)).await;
                self.failures += 1;
                self.read().await;
            }
        }
    }

    async fn read(&mut self) {
        self.read_at = clock::moment() + self.every;
        match self.access.read().await {
            Ok(record) => self.has_read(record),
            Err(error) => debug!(%error, "the leader could not be read; it is tried again"),
        }
    }

    /// A consistent read counts whatever was seen before: also where a restored backup has set the history back.
    fn has_read(&mut self, record: Option<Record>) {
        let version = |record: Option<&Record>| record.map(|record| record.version);
        if version(record.as_ref()) != version(self.record.as_ref()) {
            // What the watch has not shown yet may be older than this, or it is deaf.
            self.sights = None;
        }
        if let Some(version) = version(record.as_ref()) {
            self.floor = version;
        }
        self.record = record;
    }
}
