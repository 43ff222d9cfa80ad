//! Leader election: of many replicas one does the work, and another takes over when it stops or dies.
//!
//! An [`Election`] is a lock whose holder lives by the Lease's own record: holder, duration, time of the last renewal.
//! That is the form which client-go's leader election reads and writes, so both can contend for one Lease.
//! Candidates queue up; one that steps down hands the leadership straight to the first of them.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use std::time::Duration;
//! use leasehold::{CancellationToken, Client, MemoryStore};
//!
//! // In production: Client::try_default().await?
//! let client = Client::builder().store(Arc::new(MemoryStore::new())).build()?;
//! let election = client.election("reports").build()?;
//!
//! // Who leads, now and whenever that changes. It only reads.
//! let mut leaders = election.observe().await?;
//! assert_eq!(leaders.changed().await, None);
//!
//! // The process is told to stop, by SIGTERM for example.
//! let stop = CancellationToken::new();
//!
//! // Campaigns, works while it leads, and campaigns again when the leadership is lost. When it is told to stop it steps
//! // down, so that another takes over at once.
//! let written = election
//!     .run_whenever_leading(stop.clone(), async |leading| {
//!         let mut written = Vec::new();
//!         while !leading.ending().is_cancelled() && written.len() < 3 {
//!             // The token grows with every leader: what is written to refuses a smaller one than it has seen.
//!             written.push(leading.token());
//!         }
//!         written
//!     })
//!     .await?;
//! assert_eq!(written.map(|written| written.len()), Some(3));
//! assert!(!election.is_leader());
//!
//! // Or by hand.
//! let leadership = election.campaign().await?;
//! assert!(election.is_leader());
//! leadership.check()?;
//! leadership.step_down().await?;
//! # client.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What is guaranteed
//!
//! What is guaranteed of every lock: never do two leaders pass their [`check`](crate::Hold::check) at the same time, tokens
//! grow, and candidates are served first come, first served. [`Election::run_while_leading`] adds: no poll of the work
//! begins after the deadline before which nobody else can lead, and the work has been told `grace` earlier.
//!
//! client-go guarantees less to others than it gets from them: a leader of its kind that was paused for longer than its
//! lease leads on for a moment after it wakes. Tokens protect from that, too.
//!
//! # Times
//!
//! | client-go | here | default |
//! | --- | --- | --- |
//! | `LeaseDuration` | [`lease_duration`](ElectionBuilder::lease_duration) | 15 s |
//! | `RenewDeadline` | the lease duration less [`grace`](ElectionBuilder::grace): then the work is told to end | 12 s |
//! | `RetryPeriod` | a third of the lease duration: so often the leader renews, and the first candidates look | 5 s |
//! | `JitterFactor` | nothing to be set: only those near the head of the queue look so often | |
//!
//! A leader that is killed is followed after the lease duration and at most one third more; one that steps down, at once.
//!
//! # Costs
//!
//! The leader sends a write every third of the lease duration and its client's heartbeat; a candidate sends its client's
//! heartbeat, and has one watch and a read every third of the lease duration (fewer if it is far back); whoever observes has one
//! watch, which shows each renewal, and one read every lease duration.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::access::Progress;
use crate::client::Client;
use crate::error::{AcquireError, OptionsError, ReadError, ReleaseError, TryAcquireError};
use crate::hold::Hold;
use crate::lock::{Lock, LockGuard};

#[cfg(feature = "controller")]
mod controller;
mod health;
mod held;
mod leader;
mod pod_label;
mod run;

pub use health::{ElectionHealth, Unhealthy};
pub use held::LabelledPod;
pub use leader::{Leader, Leaders};
pub use pod_label::{LabelState, PodLabel};
pub use run::{Leading, RunError};

use pod_label::{Labeller, PREFIX};

/// Options of an [`Election`].
#[derive(Debug)]
#[must_use]
pub struct ElectionBuilder {
    client: Client,
    name: String,
    lease_duration: Duration,
    grace: Option<Duration>,
    label: Option<PodLabel>,
}

impl ElectionBuilder {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self { client, name, lease_duration: Duration::from_secs(15), grace: None, label: None }
    }

    /// How long others leave a leader in peace after its last renewal: whole seconds, at least 1. Default: 15.
    ///
    /// It is renewed every third of it. All candidates of one election should say the same; each leader's own counts
    /// while it leads.
    pub fn lease_duration(mut self, duration: Duration) -> Self {
        self.lease_duration = duration;
        self
    }

    /// How long before the leadership can pass on the work is told to end, where no renewal succeeds: at most half of the
    /// lease duration (less the client's own [`grace`](crate::ClientBuilder::grace)). Default: a fifth of it, so 3 s of 15.
    ///
    /// So long the work may also take to end when it is told to [stop](Election::run_whenever_leading). It concerns
    /// [`run_while_leading`](Election::run_while_leading) and its like alone.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Labels the Pod that this runs in while it leads, so that a Service can select it. Default: no label.
    ///
    /// See [`PodLabel`] for what a Service then sees.
    pub fn label_pod(mut self, label: PodLabel) -> Self {
        self.label = Some(label);
        self
    }

    /// Makes the election. No request is sent.
    ///
    /// # Errors
    /// [`OptionsError`] where the name is empty, longer than 1024 bytes or has control characters, options do not go together, or the Pod to be labelled is not known.
    pub fn build(self) -> Result<Election, OptionsError> {
        // What the client says of other locks is not meant for this one.
        let lock = self.client.lock(&self.name).lease_duration(self.lease_duration).renewal(true);
        let lock = lock.wait_limit(None).build()?;
        let most = (self.lease_duration / 2).saturating_sub(self.client.inner().shared.grace);
        let grace = self.grace.unwrap_or_else(|| (self.lease_duration / 5).min(most));
        if grace > most {
            let problem = format!("{grace:?} leaves no time to renew: at most {most:?} are possible");
            return Err(OptionsError::new("grace", problem));
        }
        let label = self.label.map(|label| Labeller::new(label, &self.client, PREFIX, &self.name)).transpose()?;
        let inner = Inner { lock, lease_duration: self.lease_duration, grace, label, seat: Mutex::default() };
        Ok(Election { inner: Arc::new(inner) })
    }
}

/// An election that replicas of a program hold among themselves, by its name.
///
/// Clones are one candidate: whether [it leads](Self::is_leader) is asked of any of them. Candidates lead in the order in
/// which the API server took their joins, as with a [`Lock`]; one that has led queues up again at the end.
///
/// # When to use something else
/// A [`Lock`] is cheaper where many are held at a time: it lives by the client's one heartbeat. Take an election where one
/// of several replicas is to work all the time, or where client-go contends for the same Lease.
#[derive(Clone, Debug)]
pub struct Election {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    lock: Lock,
    lease_duration: Duration,
    grace: Duration,
    label: Option<Labeller>,
    /// What this candidate leads by, until it lets go of it.
    seat: Mutex<Option<Arc<Hold>>>,
}

impl Inner {
    fn seat(&self) -> MutexGuard<'_, Option<Arc<Hold>>> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This candidate leads as long as this is kept, and as long as it is not [lost](Hold::lost).
///
/// Dropping it gives the leadership up in the background. [`step_down`](Self::step_down) does so and says how it went. What
/// else can be done with it is that of every [`Hold`].
#[must_use = "the leadership is given up as soon as this is dropped"]
#[derive(Debug)]
pub struct Leadership {
    election: Election,
    hold: Arc<Hold>,
}

impl std::ops::Deref for Leadership {
    type Target = Hold;

    fn deref(&self) -> &Hold {
        &self.hold
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        // Whoever still has a part in the hold does not keep it.
        self.hold.abandon();
        self.leave_seat();
    }
}

impl Leadership {
    /// Hands the leadership to the next candidate, or frees the Lease if there is none.
    ///
    /// Where the Pod is labelled the label goes first, if that takes no longer than two seconds.
    ///
    /// # Cancel safety
    /// Cancelled, it goes on in the background.
    ///
    /// # Errors
    /// [`ReleaseError::Lost`] where the leadership had been lost before; [`ReleaseError::Unsettled`] where no clear answer came
    /// in time. Either way it is gone, and nothing is to be repeated.
    pub async fn step_down(self) -> Result<(), ReleaseError> {
        self.leave_seat();
        if let Some(label) = &self.election.inner.label {
            label.withdrawn().await;
        }
        self.hold.give_up(None).await
    }

    /// From here on nobody is told that this candidate leads.
    fn leave_seat(&self) {
        let inner = &self.election.inner;
        inner.seat().take_if(|seat| Arc::ptr_eq(seat, &self.hold));
        if let Some(label) = &inner.label {
            label.withdraw(&self.hold);
        }
    }
}

impl Election {
    /// The election's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.lock.name()
    }

    /// Waits until this candidate leads, as long as it takes.
    ///
    /// While it waits it rides out outages of the API server.
    ///
    /// # Cancel safety
    /// Cancelled, it withdraws the candidature, or gives back what it was just granted, in the background.
    ///
    /// # Errors
    /// [`AcquireError::Api`] where the API server forbids it, or was never reached within the contact timeout;
    /// [`AcquireError::HeldByThisTask`] where this task leads already and would wait for itself.
    pub async fn campaign(&self) -> Result<Leadership, AcquireError> {
        self.campaign_with_progress(None, |_| {}).await
    }

    /// Waits until this candidate leads, and at most so long.
    ///
    /// # Cancel safety
    /// As [`campaign`](Self::campaign).
    ///
    /// # Errors
    /// [`AcquireError::TimedOut`] after the limit; otherwise as [`campaign`](Self::campaign).
    pub async fn campaign_timeout(&self, limit: Duration) -> Result<Leadership, AcquireError> {
        self.campaign_with_progress(Some(limit), |_| {}).await
    }

    /// Waits as [`campaign`](Self::campaign) or [`campaign_timeout`](Self::campaign_timeout) does, and tells how the wait is
    /// going whenever that changes.
    ///
    /// # Cancel safety
    /// As [`campaign`](Self::campaign).
    ///
    /// # Errors
    /// As [`campaign_timeout`](Self::campaign_timeout).
    pub async fn campaign_with_progress(
        &self,
        limit: Option<Duration>,
        progress: impl FnMut(Progress),
    ) -> Result<Leadership, AcquireError> {
        self.begin();
        self.inner.lock.acquire_with_progress(limit, progress).await.map(|guard| self.take_seat(guard))
    }

    /// Leads if that can be done now: nobody leads, and nobody waits to.
    ///
    /// # Cancel safety
    /// As [`campaign`](Self::campaign).
    ///
    /// # Errors
    /// [`TryAcquireError::Held`] where somebody leads or is ahead; otherwise what the API server had against it.
    pub async fn try_campaign(&self) -> Result<Leadership, TryAcquireError> {
        self.begin();
        self.inner.lock.try_acquire().await.map(|guard| self.take_seat(guard))
    }

    /// Whether this candidate leads, by this machine's clock and at this very moment. It costs no request.
    ///
    /// It is never true after the time from which somebody else could lead. What is begun upon it may still end after that
    /// time: see [`Leading::guard`] and the [fencing token](Hold::token).
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.inner.seat().as_ref().is_some_and(|hold| hold.check().is_ok())
    }

    /// Who leads, as far as the Lease tells. It costs one read.
    ///
    /// # Cancel safety
    /// It only reads.
    ///
    /// # Errors
    /// [`ReadError`] where the Lease could not be read.
    pub async fn leader(&self) -> Result<Option<Leader>, ReadError> {
        let record = self.inner.lock.access.read().await?;
        Ok(record.as_ref().and_then(Leader::of))
    }

    /// Who leads, now and whenever that changes: see [`Leaders`]. It costs one read and one watch, and then a read every
    /// lease duration; the watch shows each renewal and each join.
    ///
    /// # Cancel safety
    /// It only reads.
    ///
    /// # Errors
    /// [`ReadError`] where the Lease could not be read at first. Later outages are ridden out.
    pub async fn observe(&self) -> Result<Leaders, ReadError> {
        Leaders::begin(self.inner.lock.access.clone(), self.inner.lease_duration).await
    }

    /// For a liveness probe: see [`ElectionHealth`]. `tolerance` is how long after the end of a leadership this process may take
    /// to let go of it; 20 s are usual.
    #[must_use]
    pub fn health(&self, tolerance: Duration) -> ElectionHealth {
        ElectionHealth::new(self.inner.clone(), tolerance)
    }

    /// How the Pod's label stands. `None` where no Pod is to be labelled.
    #[must_use]
    pub fn label_state(&self) -> Option<LabelState> {
        self.inner.label.as_ref().map(Labeller::state)
    }

    fn begin(&self) {
        if let Some(label) = &self.inner.label {
            label.begin();
        }
    }

    fn take_seat(&self, guard: LockGuard) -> Leadership {
        let hold = Arc::new(guard.0);
        *self.inner.seat() = Some(hold.clone());
        if let Some(label) = &self.inner.label {
            label.lead(&hold);
        }
        Leadership { election: self.clone(), hold }
    }
}
