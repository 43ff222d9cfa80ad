//! The session's driver: one heartbeat for all that a client holds or waits for.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, warn};

use crate::clock;
use crate::error::{ApiError, LossReason};
use crate::protocol::record::{Pod, SessionRecord};
use crate::protocol::session::{Answer, Loss, Request, Session};
use crate::protocol::{HolderId, LATEST_COMMIT, Now, SessionId, renew_interval, write};
use crate::store::{Failure, Store, within};
use crate::task::Tasks;
use crate::telemetry;
use crate::validity::Validity;

/// What a client's sessions are like.
#[derive(Clone, Debug)]
pub(crate) struct SessionOptions {
    pub(crate) tasks: Tasks,
    pub(crate) host: String,
    pub(crate) duration: Duration,
    pub(crate) grace: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) contact_timeout: Duration,
    /// From so many waiters on a lock's queue is folded.
    pub(crate) fold_from: usize,
    /// The Pod in which this process runs, where that is known for certain.
    pub(crate) pod: Option<Pod>,
}

/// A client's session: opened when it is needed, closed when it is not, followed by another when it is lost.
#[derive(Debug)]
pub(crate) struct Sessions {
    store: Arc<dyn Store>,
    options: SessionOptions,
    current: tokio::sync::Mutex<Option<Arc<Live>>>,
    /// Those that stay until nobody uses them any more.
    given_up: Mutex<Vec<Arc<Live>>>,
    closed: AtomicBool,
}

/// One session that has been opened.
#[derive(Debug)]
pub(crate) struct Live {
    id: SessionId,
    validity: Arc<Validity>,
    acquisitions: AtomicU32,
    uses: AtomicUsize,
    /// Somebody has begun to use it since that was last asked.
    used: AtomicBool,
    /// So many holds live by it.
    holds: AtomicUsize,
    /// Something has been held by it since that was last asked.
    held: AtomicBool,
    /// It is to be renewed now, or, once it is over or given up, looked at whether it is still used.
    nudge: Notify,
    renewals: Mutex<Vec<oneshot::Sender<()>>>,
    /// Something sent in its name may still come true: it is to be ended, not removed.
    unclear: AtomicBool,
    /// Nothing new is to be begun by it.
    given_up: AtomicBool,
    /// It is not to be waited for until nobody uses it any more.
    closing: CancellationToken,
    /// Its Lease is gone, as far as that can be done.
    closed: CancellationToken,
}

/// A session in use. It is renewed as long as there is one of these.
#[derive(Debug)]
pub(crate) struct SessionUse(Arc<Live>);

impl Clone for SessionUse {
    fn clone(&self) -> Self {
        self.0.uses.fetch_add(1, Ordering::AcqRel);
        Self(self.0.clone())
    }
}

impl Drop for SessionUse {
    fn drop(&mut self) {
        if self.0.uses.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        // The session's task waits for this only once the session is over. Either it finds no use then, or it is found over here.
        fence(Ordering::SeqCst);
        if self.0.validity.is_over() || self.0.given_up.load(Ordering::Acquire) {
            self.0.nudge.notify_one();
        }
    }
}

/// A session by which something is held. One by which nothing is, but only waited for, is renewed less often.
#[derive(Debug)]
pub(crate) struct Holding(SessionUse);

impl Holding {
    pub(crate) fn new(session: SessionUse) -> Self {
        session.0.holds.fetch_add(1, Ordering::AcqRel);
        session.0.held.store(true, Ordering::Release);
        Self(session)
    }
}

impl std::ops::Deref for Holding {
    type Target = SessionUse;

    fn deref(&self) -> &SessionUse {
        &self.0
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.0.0.holds.fetch_sub(1, Ordering::AcqRel);
    }
}

impl SessionUse {
    pub(crate) fn id(&self) -> &SessionId {
        &self.0.id
    }

    pub(crate) fn validity(&self) -> &Arc<Validity> {
        &self.0.validity
    }

    /// An id for an acquisition, never used before.
    pub(crate) fn next_acquisition(&self) -> HolderId {
        HolderId { session: self.0.id.clone(), n: self.0.acquisitions.fetch_add(1, Ordering::Relaxed) }
    }

    /// Renews the session now. Resolves when a renewal has been carried out; never if the session is lost.
    pub(crate) fn renew(&self) -> oneshot::Receiver<()> {
        let (done, renewed) = oneshot::channel();
        self.0.renewals.lock().unwrap_or_else(PoisonError::into_inner).push(done);
        self.0.nudge.notify_one();
        renewed
    }

    /// Something of the session's stays that this client cannot take away. Nothing new is begun by it, and when nothing is
    /// held by it any more it is ended, so that others do that.
    pub(crate) fn give_up(&self) {
        self.set_unclear();
        self.0.given_up.store(true, Ordering::Release);
    }

    /// Something sent in the session's name may still come true.
    pub(crate) fn set_unclear(&self) {
        self.0.unclear.store(true, Ordering::Release);
    }
}

impl Sessions {
    pub(crate) fn new(store: Arc<dyn Store>, options: SessionOptions) -> Arc<Self> {
        Arc::new(Self {
            store,
            options,
            current: tokio::sync::Mutex::default(),
            given_up: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// The session, opened if there is none.
    pub(crate) async fn enter(self: &Arc<Self>) -> Result<SessionUse, ApiError> {
        let mut current = self.current.lock().await;
        if self.closed.load(Ordering::Acquire) {
            return Err(ApiError::Unavailable { message: "the client was shut down".to_owned() });
        }
        let is_left = |live: &Arc<Live>| live.given_up.load(Ordering::Acquire);
        if let Some(live) = current.as_ref().filter(|live| live.validity.check().is_ok() && !is_left(live)) {
            live.uses.fetch_add(1, Ordering::AcqRel);
            live.used.store(true, Ordering::Release);
            return Ok(SessionUse(live.clone()));
        }
        if let Some(live) = current.take_if(|live| is_left(live)) {
            let mut others = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
            others.retain(|other| !other.closed.is_cancelled());
            others.push(live);
        }
        let give_up = clock::moment() + self.options.contact_timeout;
        let mut pause = Duration::from_millis(20);
        loop {
            // In a task of its own: whoever asks may go away while the answer is on its way.
            let opening = self.options.tasks.spawn({
                let sessions = self.clone();
                async move { sessions.open().await }
            });
            let failure = match opening.await {
                Ok(Ok(session)) => {
                    *current = Some(session.0.clone());
                    return Ok(session);
                }
                Ok(Err(failure)) => failure,
                Err(error) => Failure::Unclear(error.to_string()),
            };
            let message = failure.to_string();
            match failure {
                Failure::Forbidden(_) => return Err(ApiError::Forbidden { message }),
                // A namespace that is not there answers so. It will not come by waiting.
                Failure::Invalid(_) => return Err(ApiError::Invalid { message }),
                Failure::Absent => {
                    let message = "the namespace does not exist".to_owned();
                    return Err(ApiError::Invalid { message });
                }
                Failure::Refused | Failure::Throttled(_) | Failure::Unclear(_) => {}
            }
            if clock::moment() + pause >= give_up || self.closed.load(Ordering::Acquire) {
                return Err(ApiError::Unavailable { message });
            }
            debug!(message, "no session could be opened yet");
            clock::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Opens a session under a new name. One whose opening is unclear is given up: its name is not used again.
    async fn open(self: &Arc<Self>) -> Result<SessionUse, Failure> {
        let id = match &self.options.pod {
            Some(pod) => SessionId::of_pod(&self.options.host, &pod.uid, &random_name::<8>()),
            None => SessionId::new(&self.options.host, &format!("u{}", random_name::<9>())),
        };
        let session = Session::new(id.clone(), self.options.duration, self.options.grace);
        let mut session = session.in_pod(self.options.pod.clone());
        let now = clock::now();
        let Some(Request::Write(post)) = session.poll(now) else {
            return Err(Failure::Unclear("the session is not to be opened".to_owned()));
        };
        let name = id.lease_name();
        let timeout = self.options.request_timeout;
        let lease = within(timeout, self.store.write(&name, &post)).await;
        let may_stand = matches!(lease, Ok(_) | Err(Failure::Unclear(_)));
        let opened = lease.and_then(|lease| lease.ok_or(Failure::Absent).and_then(parse)).and_then(|record| {
            session.answer(Answer::Is(Box::new(record)), clock::moment());
            session.deadline().ok_or_else(|| Failure::Unclear("the session was opened too late".to_owned()))
        });
        if may_stand && opened.is_err() {
            self.remove_later(id.clone());
        }
        let deadline = opened?;
        debug!(session = %id, "opened a session");
        let live = Arc::new(Live {
            id,
            validity: Arc::new(Validity::until(deadline)),
            acquisitions: AtomicU32::new(1),
            uses: AtomicUsize::new(1),
            used: AtomicBool::new(false),
            holds: AtomicUsize::new(0),
            held: AtomicBool::new(false),
            nudge: Notify::new(),
            renewals: Mutex::default(),
            unclear: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
        });
        // However its task ends, with its runtime for example, nobody believes in the session after it.
        self.options.tasks.spawn(drive(self.clone(), session, Over(live.clone())));
        Ok(SessionUse(live))
    }

    /// Removes a session that was given up, once it can no longer come to be.
    fn remove_later(self: &Arc<Self>, id: SessionId) {
        let sessions = Arc::downgrade(self);
        self.options.tasks.spawn(async move {
            clock::sleep(LATEST_COMMIT).await;
            if let Some(sessions) = sessions.upgrade() {
                let _ = sessions.remove(&id, false).await;
            }
        });
    }

    /// Closes the session whether it is used or not, and opens no other: what is held by it is lost.
    ///
    /// `unsettled` says that something done in its name has not been answered. It returns when the session's Lease has
    /// gone, or cannot be removed.
    pub(crate) async fn close(&self, unsettled: bool) {
        self.closed.store(true, Ordering::Release);
        let mut all = std::mem::take(&mut *self.given_up.lock().unwrap_or_else(PoisonError::into_inner));
        all.extend(self.current.lock().await.clone());
        for live in &all {
            live.unclear.fetch_or(unsettled, Ordering::AcqRel);
            live.validity.lose(LossReason::Released);
            live.closing.cancel();
        }
        for live in all {
            live.closed.cancelled().await;
        }
    }

    /// Removes a session's Lease, or ends it if something that was sent in its name may still come true.
    async fn remove(&self, id: &SessionId, unclear: bool) -> Result<(), Failure> {
        let name = id.lease_name();
        let lease = match within(self.options.request_timeout, self.store.read(&name)).await {
            Err(Failure::Absent) => return Ok(()),
            lease => lease?,
        };
        let record = parse(lease)?;
        if unclear && record.ended {
            return Ok(());
        }
        let write = if unclear {
            write::end_session(&record, "its process shut down with a request still unanswered")
        } else {
            write::remove_session(&record)
        };
        within(self.options.request_timeout, self.store.write(&name, &write)).await.map(drop)
    }
}

struct Over(Arc<Live>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.validity.lose(LossReason::Expired);
        self.0.closed.cancel();
    }
}

/// Runs one session until it is lost or nobody uses it.
async fn drive(sessions: Arc<Sessions>, mut session: Session, over: Over) {
    let live = &over.0;
    let name = session.id().lease_name();
    let mut in_flight: Option<BoxFuture<'_, Answer>> = None;
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
    let mut last_used = clock::moment();
    loop {
        let now = clock::now();
        let in_use = live.uses.load(Ordering::Acquire) > 0;
        if live.used.swap(false, Ordering::AcqRel) || in_use {
            last_used = now.moment;
        }
        if in_flight.is_none() && !in_use {
            let idle = now.moment.since(last_used) >= renew_interval(sessions.options.duration);
            // Others pass over what it leaves behind as soon as it has ended.
            if (idle || live.given_up.load(Ordering::Acquire)) && retire(&sessions, live).await {
                break;
            }
        }
        if live.held.swap(false, Ordering::AcqRel) || live.holds.load(Ordering::Acquire) > 0 {
            session.holds();
        }
        // Also while an answer is awaited: this is what notices that the deadline has passed.
        if let Some(request) = session.poll(now) {
            in_flight = Some(send(&sessions, &session, &name, request, now));
        }
        let deadline = match (session.deadline(), session.loss()) {
            (Some(deadline), _) => deadline,
            (None, loss) => {
                let reason = if loss == Some(Loss::Ended) { LossReason::SessionEnded } else { LossReason::Expired };
                warn!(session = %live.id, %reason, "the session is lost, and with it all that is held by it");
                live.validity.lose(reason);
                break;
            }
        };
        let wake = session.wake_at().unwrap_or(deadline);
        tokio::select! {
            biased;
            answer = async { in_flight.as_mut().expect("polled only if there is one").await }, if in_flight.is_some() => {
                in_flight = None;
                let renewed = session.deadline();
                session.answer(answer, clock::moment());
                if let Some(deadline) = session.deadline() {
                    let _ = live.validity.extend_to(deadline);
                    if Some(deadline) != renewed {
                        renewed.inspect(|before| telemetry::renewed("session", *before));
                        answer_all(&mut waiting, ());
                    }
                }
            }
            () = clock::sleep_until_deadline(wake.min(deadline)) => {}
            () = live.nudge.notified() => {
                waiting.append(&mut live.renewals.lock().unwrap_or_else(PoisonError::into_inner));
                if !waiting.is_empty() {
                    session.renew_now(clock::moment());
                }
            }
            () = live.validity.lost().cancelled() => break,
        }
    }
    drop(in_flight);
    // Whoever holds something by a lost session has been told. Its Lease stands until they have let go.
    // Either this finds that they have, or they find the session over, and nudge.
    fence(Ordering::SeqCst);
    while live.uses.load(Ordering::Acquire) > 0 && !live.closing.is_cancelled() {
        tokio::select! {
            biased;
            () = live.nudge.notified() => {}
            () = live.closing.cancelled() => {}
        }
    }
    let unclear = live.unclear.load(Ordering::Acquire);
    for _ in 0..3 {
        match sessions.remove(&live.id, unclear).await {
            Ok(()) => return,
            Err(failure) => debug!(session = %live.id, %failure, "the session's Lease could not be removed yet"),
        }
        clock::sleep(Duration::from_millis(200)).await;
    }
}

/// Closes a session that nobody uses, unless somebody has just begun to.
async fn retire(sessions: &Sessions, live: &Arc<Live>) -> bool {
    let mut current = sessions.current.lock().await;
    if live.uses.load(Ordering::Acquire) > 0 {
        return false;
    }
    if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, live)) {
        *current = None;
    }
    live.validity.lose(LossReason::Released);
    true
}

fn send<'a>(
    sessions: &'a Sessions,
    session: &Session,
    name: &'a str,
    request: Request,
    now: Now,
) -> BoxFuture<'a, Answer> {
    let limit = session.time_limit(now.moment, sessions.options.request_timeout);
    let span = telemetry::renewal_span(name);
    async move {
        let answer = match &request {
            Request::Read => within(limit, sessions.store.read(name)).await.map(Some),
            Request::Write(write) => within(limit, sessions.store.write(name, write)).await,
        };
        match (answer.and_then(|lease| lease.ok_or(Failure::Absent)).and_then(parse), &request) {
            (Ok(record), _) => Answer::Is(Box::new(record)),
            (Err(Failure::Absent), Request::Read) => Answer::Absent,
            // The write was refused, or found nothing: a read will tell why.
            (Err(Failure::Refused | Failure::Absent), Request::Write(_)) => Answer::Refused,
            (Err(failure), _) => {
                warn!(%failure, "the session's renewal did not succeed; it is tried again");
                Answer::Unclear
            }
        }
    }
    .inspect(telemetry::renewal)
    .instrument(span)
    .boxed()
}

fn parse(lease: k8s_openapi::api::coordination::v1::Lease) -> Result<SessionRecord, Failure> {
    SessionRecord::parse(lease).map_err(|malformed| Failure::Invalid(malformed.to_string()))
}

/// Answers all who ask. One who does not listen any more need not be told.
pub(crate) fn answer_all<T: Copy>(askers: &mut Vec<oneshot::Sender<T>>, answer: T) {
    for asker in askers.drain(..) {
        let _ = asker.send(answer);
    }
}

fn random_name<const LENGTH: usize>() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let random = crate::task::random();
    (0..LENGTH).map(|place| char::from(LETTERS[usize::from((random >> (5 * place)).to_le_bytes()[0] % 32)])).collect()
}
