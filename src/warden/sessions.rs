//! The warden's part in client sessions: observe them, end them, clear them away.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::observer::{Request, Verdict};
use leasehold::protocol::record::{Malformed, SessionRecord};
use leasehold::protocol::{LONGEST_SESSION, Moment, Now};

use super::Place;
use super::state::{Warden, What};

/// How often a tombstone is looked at, until it may be swept.
const SWEEP: Duration = Duration::from_secs(10);

impl Warden {
    pub(super) fn saw_session(&mut self, place: &Place, record: SessionRecord, now: Moment) {
        let session = self.sessions.entry(place.clone()).or_default();
        let before = session.observer.verdict();
        session.present = true;
        if std::mem::take(&mut session.unreadable)
            && let Some(attempts) = self.requests.get_mut(place)
        {
            attempts.not_before = now;
        }
        let pod = record.pod.clone();
        session.observer.saw(record, now);
        self.note_home(place, pod.as_ref());
        self.session_changed(place, before, now);
    }

    pub(super) fn read_session(&mut self, place: &Place, lease: Option<Lease>, now: Moment) {
        let record = match lease.map(SessionRecord::parse).transpose() {
            Ok(record) => record,
            Err(error) => return self.unreadable_session(place, &error, now),
        };
        if let Some(session) = self.sessions.get_mut(place) {
            let before = session.observer.verdict();
            session.present = record.is_some();
            let pod = record.as_ref().and_then(|record| record.pod.clone());
            session.observer.read(record, now);
            self.note_home(place, pod.as_ref());
            self.session_changed(place, before, now);
        }
    }

    /// What stands there is no session, or one of a later format. Where a lock names it, it may live: whatever is to be
    /// known of it is asked for again, but not at once, since the answer would be the same.
    pub(super) fn unreadable_session(&mut self, place: &Place, error: &Malformed, now: Moment) {
        tracing::warn!(%place, %error, "a session's Lease cannot be read and is left alone");
        if let Some(session) = self.sessions.get_mut(place) {
            session.unreadable = true;
            self.requests.entry(place.clone()).or_default().not_before = now + LONGEST_SESSION;
        }
    }

    /// What can be said of it was `before`. Is it something else now, the locks that name it are looked at again.
    fn session_changed(&mut self, place: &Place, before: Verdict, now: Moment) {
        self.touch(place, now);
        let session = self.sessions.get(place).filter(|session| session.observer.verdict() != before);
        for lock in session.map(|session| session.named_by.clone()).unwrap_or_default() {
            self.touch(&lock, now);
        }
    }

    pub(super) fn poll_session(&mut self, place: &Place, now: Now) -> Option<What> {
        let session = self.sessions.get_mut(place)?;
        if !session.present && session.named_by.is_empty() {
            self.drop_session(place);
            return None;
        }
        let before = session.observer.verdict();
        let request = session.observer.poll(now.moment, &self.by);
        let verdict = session.observer.verdict();
        let wake_at = session.observer.wake_at().filter(|at| *at > now.moment);
        self.session_changed(place, before, now.moment);
        self.alarms.clear(place);
        if let Some(write) = self.end_by_evidence(place) {
            return Some(What::EndByEvidence(write));
        }
        match request {
            Some(Request::Read) => return Some(What::Read),
            Some(Request::End(write)) => return Some(What::End(write)),
            None => {}
        }
        if verdict == Verdict::Ended {
            return self.poll_ended(place, now.moment);
        }
        if let Some(at) = wake_at {
            self.alarms.set(place, at);
        }
        None
    }

    /// A tombstone stays as long as anything names it, and for as long as its process could still be heard of.
    fn poll_ended(&mut self, place: &Place, now: Moment) -> Option<What> {
        let session = self.sessions.get(place)?;
        if !session.named_by.is_empty() {
            return None;
        }
        if let Some(write) = session.observer.sweepable(now) {
            return Some(What::Sweep(write));
        }
        self.alarms.set(place, now + SWEEP);
        None
    }
}
