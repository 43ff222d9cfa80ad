//! Watching other sessions: whose locks may be taken over, and when.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;
use tracing::{debug, info};

use crate::clock;
use crate::protocol::observer::{End, Observer, Request, Verdict};
use crate::protocol::record::SessionRecord;
use crate::protocol::{LONGEST_SESSION, Moment, SessionId};
use crate::store::{Failure, Sight, Store, within};
use crate::task::Tasks;

/// A tombstone that this client made is removed after so long.
///
/// By then nothing of its process can come true, and whoever waits for a lock that names it has seen it ended.
const SWEEP_AFTER: Duration = Duration::from_secs(600);

/// What can be said of a session, and if it has ended, how.
pub(crate) type Word = (Verdict, Option<End>);
/// For so long after it was forbidden to end a session this client leaves that to others (`config/strict`).
const LEFT_TO_OTHERS: Duration = Duration::from_secs(60);

/// An observer that ends by itself remembers what it saw. One that ends with its runtime leaves nothing behind that looks
/// like an observer.
struct Gone {
    observers: Arc<Observers>,
    session: SessionId,
    verdict: watch::Sender<Word>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        let mut watched = self.observers.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(watched.get(&self.session), Some(Entry::Watched(verdict)) if verdict.same_channel(&self.verdict)) {
            watched.remove(&self.session);
        }
    }
}

/// All the sessions that a client has an eye on.
#[derive(Debug)]
pub(crate) struct Observers {
    store: Arc<dyn Store>,
    /// Who it is that ends a session, for people.
    host: String,
    request_timeout: Duration,
    tasks: Tasks,
    watched: Mutex<HashMap<SessionId, Entry>>,
}

/// What was seen of a session stays for a while after nobody looks any more: it may be asked for again, and "unchanged
/// since then" needs the *then*.
#[derive(Debug)]
enum Entry {
    Watched(watch::Sender<Word>),
    Remembered(Observer, Moment),
}

impl Observers {
    pub(crate) fn new(store: Arc<dyn Store>, host: String, request_timeout: Duration, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self { store, host, request_timeout, tasks, watched: Mutex::default() })
    }

    /// Of these sessions those that are known to have ended: who looked at one for one lock need not wait at the next.
    pub(crate) fn ended<'a>(&self, sessions: impl Iterator<Item = &'a SessionId>) -> Vec<SessionId> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.is_empty() {
            return Vec::new();
        }
        let has_ended = |session: &&SessionId| match watched.get(*session) {
            Some(Entry::Watched(word)) => word.borrow().0 == Verdict::Ended,
            Some(Entry::Remembered(observer, _)) => observer.verdict() == Verdict::Ended,
            None => false,
        };
        sessions.filter(has_ended).cloned().collect()
    }

    /// Watches a session as long as the receiver lives, and ends it if it expires.
    pub(crate) fn observe(self: &Arc<Self>, session: &SessionId) -> watch::Receiver<Word> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let mut overdue = false;
        let observer = match watched.remove(session) {
            Some(Entry::Watched(verdict)) => {
                let receiver = verdict.subscribe();
                watched.insert(session.clone(), Entry::Watched(verdict));
                return receiver;
            }
            Some(Entry::Remembered(mut observer, _)) => {
                overdue = observer.wake_at().is_some_and(|at| clock::moment() >= at);
                // It may have been renewed since: what is remembered counts only if it still stands there.
                observer.hint_gone();
                observer
            }
            None => Observer::default(),
        };
        let now = clock::moment();
        watched.retain(
            |_, entry| !matches!(entry, Entry::Remembered(_, since) if now.since(*since) > LONGEST_SESSION * 2),
        );
        // What should have been renewed by now is looked at before anything is said of it: it may have to be ended.
        let word = if overdue { Word::default() } else { (observer.verdict(), observer.end()) };
        let (verdict, receiver) = watch::channel(word);
        watched.insert(session.clone(), Entry::Watched(verdict.clone()));
        self.tasks.spawn(self.clone().run(session.clone(), observer, verdict));
        receiver
    }

    async fn run(self: Arc<Self>, session: SessionId, mut observer: Observer, verdict: watch::Sender<Word>) {
        let _gone = Gone { observers: self.clone(), session: session.clone(), verdict: verdict.clone() };
        let name = session.lease_name();
        let mut sights = None;
        let mut failed_watches = 0_u32;
        let mut pause = Duration::ZERO;
        let mut left_until = Moment::default();
        loop {
            if self.forget(&session, &observer, &verdict) {
                return;
            }
            // Polled before it is asked: an absent session is taken for dead by nothing but the passing of time.
            let request = observer.poll(clock::moment(), &self.host);
            let told = (observer.verdict(), observer.end());
            let first = verdict.borrow().0 == Verdict::Unknown;
            if *verdict.borrow() != told && !(first && request.is_some()) {
                verdict.send_replace(told);
            }
            if told.0 == Verdict::Ended {
                verdict.closed().await;
                continue;
            }
            let is_left = |request: &Request| matches!(request, Request::End(_)) && clock::moment() < left_until;
            if let Some(request) = request.filter(|request| !is_left(request)) {
                clock::sleep(pause).await;
                let ends = matches!(request, Request::End(_));
                match self.carry_out(&session, &name, request, &mut observer).await {
                    Ok(version) => {
                        pause = Duration::ZERO;
                        if let (None, Some(from)) = (&sights, version) {
                            // After a failure the version may be too old to begin with.
                            let from = (failed_watches == 0).then_some(from);
                            sights = Some(self.store.watch(&name, None, from));
                        }
                    }
                    Err(Failure::Forbidden(why)) if ends => {
                        debug!(%session, why, "it is not for this client to end a session that has fallen silent");
                        left_until = clock::moment() + LEFT_TO_OTHERS;
                    }
                    Err(failure) => {
                        debug!(%session, %failure, "a session could not be looked at");
                        pause = (pause * 2).clamp(Duration::from_millis(50), Duration::from_secs(5));
                    }
                }
                continue;
            }
            let wake = observer.wake_at().map(|at| at.max(left_until));
            tokio::select! {
                biased;
                () = clock::sleep_until(wake.unwrap_or_default()), if wake.is_some() => {}
                () = verdict.closed() => {}
                sight = next(&mut sights) => match sight {
                    Some(Ok(Sight::Shows(lease))) => {
                        failed_watches = 0;
                        if let Ok(record) = SessionRecord::parse(*lease) {
                            observer.saw(record, clock::moment());
                        }
                    }
                    Some(Ok(Sight::Hides(_))) => observer.hint_gone(),
                    Some(Ok(Sight::Reached(_))) => {}
                    Some(Err(_)) | None => {
                        // Whatever was missed, a read shows; the watch goes on from there.
                        sights = None;
                        pause = (Duration::from_millis(100) * (1 << failed_watches.min(6))).min(LONGEST_SESSION / 12);
                        failed_watches += 1;
                        observer.hint_gone();
                    }
                },
            }
        }
    }

    /// Stops looking if nobody wants to know, and remembers what was seen.
    fn forget(&self, session: &SessionId, observer: &Observer, verdict: &watch::Sender<Word>) -> bool {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: nobody can subscribe in between. One receiver count of none is enough.
        if verdict.receiver_count() > 0 {
            return false;
        }
        watched.insert(session.clone(), Entry::Remembered(observer.clone(), clock::moment()));
        true
    }

    async fn carry_out(
        self: &Arc<Self>,
        session: &SessionId,
        name: &str,
        request: Request,
        observer: &mut Observer,
    ) -> Result<Option<crate::protocol::Version>, Failure> {
        match request {
            Request::Read => match within(self.request_timeout, self.store.read(name)).await {
                Ok(lease) => {
                    let record = parse(lease)?;
                    let version = record.version;
                    observer.read(Some(record), clock::moment());
                    Ok(Some(version))
                }
                Err(Failure::Absent) => {
                    observer.read(None, clock::moment());
                    Ok(None)
                }
                Err(failure) => Err(failure),
            },
            Request::End(write) => {
                let answer = within(self.request_timeout, self.store.write(name, &write)).await;
                match answer.and_then(|lease| parse(lease.ok_or(Failure::Absent)?)) {
                    Ok(record) => {
                        crate::telemetry::evicted();
                        info!(%session, "ended a session that had not been renewed for its whole duration");
                        observer.ended(record.clone(), clock::moment());
                        self.sweep_later(record);
                        Ok(None)
                    }
                    Err(failure) => {
                        observer.refused();
                        match failure {
                            Failure::Refused | Failure::Absent => Ok(None),
                            failure => Err(failure),
                        }
                    }
                }
            }
        }
    }

    /// Removes a tombstone in a while, if this client is still there.
    fn sweep_later(self: &Arc<Self>, record: SessionRecord) {
        let observers = Arc::downgrade(self);
        self.tasks.spawn(async move {
            clock::sleep(SWEEP_AFTER).await;
            if let Some(observers) = observers.upgrade() {
                let removal = crate::protocol::write::remove_session(&record);
                let name = record.id.lease_name();
                // Somebody else may have been first.
                let _ = within(observers.request_timeout, observers.store.write(&name, &removal)).await;
            }
        });
    }
}

async fn next<S: StreamExt + Unpin>(stream: &mut Option<S>) -> Option<S::Item> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

fn parse(lease: k8s_openapi::api::coordination::v1::Lease) -> Result<SessionRecord, Failure> {
    SessionRecord::parse(lease).map_err(|malformed| Failure::Invalid(malformed.to_string()))
}
