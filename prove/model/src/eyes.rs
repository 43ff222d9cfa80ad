//! Observers of sessions, as `observers.rs` of the client drives them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use leasehold::protocol::observer::{End, Observer, Request as Wanted, Verdict};
use leasehold::protocol::{Moment, SessionId, Version};

use super::wire::{Place, Reply, Request, Server, What};

/// A request on its way, or its answer on its way back.
#[derive(Clone, Debug, Hash)]
pub(super) struct Call {
    pub(super) request: Arc<Request>,
    /// By the world's time.
    pub(super) sent: Duration,
    pub(super) reply: Option<Reply>,
}

impl Call {
    pub(super) fn new(place: Place, what: What, sent: Duration) -> Self {
        Self { request: Request::new(place, what), sent, reply: None }
    }
}

/// One session under observation.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Eye {
    observer: Observer,
    pub(super) call: Option<Call>,
    /// There is a watch, and this is the version that it has shown last. What happens between two looks at a watch is
    /// shown as one event: only the last of them counts.
    pub(super) shown: Option<Version>,
    told: (Verdict, Option<End>),
    /// Somebody still wants to know.
    wanted: bool,
}

/// All the sessions that somebody has an eye on.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Eyes {
    pub(super) open: BTreeMap<SessionId, Eye>,
    remembered: BTreeMap<SessionId, Observer>,
}

impl Eyes {
    /// These are to be observed from now on, and no others.
    pub(super) fn observe(&mut self, wanted: &BTreeSet<SessionId>) {
        for (session, eye) in &mut self.open {
            eye.wanted = wanted.contains(session);
        }
        // Whatever is on its way is waited for first.
        let closed: Vec<_> = self.open.iter().filter(|(_, eye)| !eye.wanted && eye.call.is_none()).collect();
        let closed: Vec<_> = closed.into_iter().map(|(session, _)| session.clone()).collect();
        for session in closed {
            if let Some(eye) = self.open.remove(&session) {
                self.remembered.insert(session, eye.observer);
            }
        }
        for session in wanted {
            if !self.open.contains_key(session) {
                let observer = self.remembered.remove(session).map(|mut observer| {
                    observer.hint_gone();
                    observer
                });
                let observer = observer.unwrap_or_default();
                self.open.insert(session.clone(), Eye { observer, wanted: true, ..Eye::default() });
            }
        }
    }

    /// Lets every observer do what is due. Returns what is to be told of whom.
    pub(super) fn look(&mut self, now: Moment, real: Duration, by: &str) -> Vec<(SessionId, Option<End>)> {
        let mut news = Vec::new();
        for (session, eye) in &mut self.open {
            if eye.call.is_none() && eye.wanted && eye.observer.verdict() != Verdict::Ended {
                let place = Place::Session(session.clone());
                eye.call = eye.observer.poll(now, by).map(|wanted| match wanted {
                    Wanted::Read => Call::new(place, What::Read, real),
                    Wanted::End(write) => Call::new(place, What::Write(write), real),
                });
            }
            let word = (eye.observer.verdict(), eye.observer.end());
            if eye.wanted && eye.told != word && word.0 != Verdict::Unknown {
                eye.told = word;
                news.push((session.clone(), word.1));
            }
        }
        news
    }

    pub(super) fn verdict(&self, session: &SessionId) -> Verdict {
        self.open.get(session).map_or(Verdict::Unknown, |eye| eye.observer.verdict())
    }

    /// When there is something to do if nothing else happens.
    pub(super) fn wake_at(&self) -> Option<Moment> {
        let looking = self.open.values().filter(|eye| eye.wanted && eye.call.is_none());
        looking.filter_map(|eye| eye.observer.wake_at()).min()
    }

    /// An answer has come; `None` says that it is not known what became of the request.
    pub(super) fn answer(&mut self, session: &SessionId, reply: Option<&Reply>, now: Moment) {
        let Some(eye) = self.open.get_mut(session) else { return };
        let Some(call) = eye.call.take() else { return };
        match (call.request.is_read(), reply) {
            (true, Some(Reply::Is(stored))) => {
                eye.observer.read(stored.session().cloned(), now);
                eye.shown.get_or_insert(stored.version);
            }
            (true, Some(Reply::Absent)) => eye.observer.read(None, now),
            (true, _) => {}
            (false, Some(Reply::Is(stored))) => {
                if let Some(record) = stored.session() {
                    eye.observer.ended(record.clone(), now);
                }
            }
            (false, _) => eye.observer.refused(),
        }
    }

    /// Whether a watch on this session has something to show.
    pub(super) fn has_news(&self, session: &SessionId, server: &Server) -> bool {
        let place = Place::Session(session.clone());
        let eye = self.open.get(session).filter(|eye| eye.call.is_none());
        eye.and_then(|eye| eye.shown).is_some_and(|shown| server.version(&place) > shown)
    }

    /// The watch on this session shows what there is.
    pub(super) fn show(&mut self, session: &SessionId, server: &Server, now: Moment) {
        let place = Place::Session(session.clone());
        let Some(eye) = self.open.get_mut(session) else { return };
        eye.shown = Some(server.version(&place));
        match server.get(&place).and_then(|stored| stored.session()) {
            Some(record) => eye.observer.saw(record.clone(), now),
            None => eye.observer.hint_gone(),
        }
    }

    /// All watches have broken off.
    pub(super) fn break_watches(&mut self) {
        for eye in self.open.values_mut().filter(|eye| eye.shown.is_some()) {
            eye.shown = None;
            eye.observer.hint_gone();
        }
    }
}
