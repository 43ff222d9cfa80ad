//! Sessions whose processes are known to have ended.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use leasehold::protocol::observer::Request;
use leasehold::protocol::record::Pod;
use leasehold::protocol::{Moment, Version, Write};

use super::Place;
use super::state::Warden;

/// For how long evidence is kept. A session that is not heard of has ended without it by then, and one that was heard of
/// since is none of it.
const KEPT: Duration = Duration::from_mins(5);
/// How often what is older is forgotten.
const TIDIED: Duration = Duration::from_mins(1);

/// A Pod, in its namespace.
type Home = (String, Pod);

/// What is known of the Pods in which sessions' processes run.
#[derive(Debug, Default)]
pub(super) struct Homes {
    /// Those whose processes have ended: what said so first, and when it was heard.
    ended: HashMap<Home, (Version, Moment)>,
    /// Who says that its process runs there.
    sessions: HashMap<Home, BTreeSet<Place>>,
    tidied: Moment,
}

impl Warden {
    /// Every process of this Pod has ended for good, as the Pod of this version proves. It was received at `now`.
    pub fn pod_ended(&mut self, namespace: &str, pod: Pod, version: Version, now: Moment) {
        let homes = &mut self.homes;
        if now.since(homes.tidied) >= TIDIED {
            homes.ended.retain(|_, (_, since)| now.since(*since) < KEPT);
            homes.tidied = now;
        }
        let home = (namespace.to_owned(), pod);
        // What is written to the Pod later says nothing new, and is not to outweigh what a session has done since.
        homes.ended.entry(home.clone()).or_insert((version, now));
        for place in homes.sessions.get(&home).cloned().unwrap_or_default() {
            self.touch(&place, now);
        }
    }

    /// Of how many Pods that have ended it is remembered.
    #[cfg(test)]
    pub(super) fn known_to_have_ended(&self) -> usize {
        self.homes.ended.len()
    }

    /// A session says that its process runs there.
    pub(super) fn note_home(&mut self, place: &Place, pod: Option<&Pod>) {
        let Some(session) = self.sessions.get_mut(place).filter(|session| session.home.as_ref() != pod) else {
            return;
        };
        let before = std::mem::replace(&mut session.home, pod.cloned());
        self.leave_home(place, before);
        if let Some(pod) = pod {
            let home = (place.namespace.clone(), pod.clone());
            self.homes.sessions.entry(home).or_default().insert(place.clone());
        }
    }

    /// Forgets a session.
    pub(super) fn drop_session(&mut self, place: &Place) {
        if let Some(session) = self.sessions.remove(place) {
            self.leave_home(place, session.home);
        }
    }

    fn leave_home(&mut self, place: &Place, pod: Option<Pod>) {
        let Some(home) = pod.map(|pod| (place.namespace.clone(), pod)) else { return };
        if let Some(sessions) = self.homes.sessions.get_mut(&home) {
            sessions.remove(place);
            if sessions.is_empty() {
                self.homes.sessions.remove(&home);
            }
        }
    }

    /// The write that ends a session whose process is known to have ended.
    pub(super) fn end_by_evidence(&self, place: &Place) -> Option<Write> {
        let session = self.sessions.get(place)?;
        let home = (place.namespace.clone(), session.home.clone()?);
        let (version, _) = self.homes.ended.get(&home)?;
        let by = format!("{}: every container of Pod {} has terminated", self.by, home.1.name);
        match session.observer.end_by_evidence(*version, &by)? {
            Request::End(write) => Some(write),
            Request::Read => None,
        }
    }
}
