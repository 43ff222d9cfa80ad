//! All Leases of locks and sessions at one moment, parsed; and what a second look tells of who lives.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::ListParams;
use leasehold::clock::now;
use leasehold::protocol::record::{KIND, KIND_SESSION, SESSION_PREFIX, SessionRecord};
use leasehold::protocol::{Holder, LONGEST_SESSION, Liveness, Moment, Record, SessionId};

use super::fetch::{Look, Miss, api, ask, list};
use super::server::Clock;

/// By how much a timestamp may be off before anything is said of it.
pub(super) const SLACK: SignedDuration = SignedDuration::from_secs(5);

/// So many sessions that were not listed are asked for by name, so many at a time.
const ASKED: usize = 1000;
const AT_A_TIME: usize = 8;

/// Namespace and name of a Lease.
pub(super) type Place = (String, String);

/// All Leases as they were at one moment.
#[derive(Clone, Debug)]
pub(super) struct Census {
    /// Before that moment, by this machine's clocks.
    pub(super) begun: Moment,
    pub(super) stamp: Timestamp,
    /// When all of it had been received.
    pub(super) ended: Moment,
    pub(super) locks: Vec<Record>,
    pub(super) sessions: BTreeMap<Place, SessionRecord>,
    pub(super) unreadable: Vec<Unreadable>,
    /// Sessions that something names, and that were not there when they were asked for by name.
    pub(super) absent: BTreeSet<Place>,
}

/// A Lease that this program cannot read.
#[derive(Clone, Debug)]
pub(super) struct Unreadable {
    pub(super) lease: Lease,
    pub(super) why: String,
}

/// Lists all that are labelled as ours. It is one consistent state: later pages are of the first one's version. A session that
/// is missing there may have lost its label, so it is asked for by name.
pub(super) async fn take(client: &Client, namespace: Option<&str>) -> Look<Census> {
    let begun = now();
    let leases = list(&api::<Lease>(client, namespace), ListParams::default().labels(KIND)).await?;
    let mut census = Census::of(leases, begun.moment, begun.stamp, begun.moment);
    let missing = census.missing().into_iter().take(ASKED).map(|place| async move {
        let answer = ask(api::<Lease>(client, Some(&place.0)).get_opt(&place.1)).await;
        (place, answer)
    });
    let answers: Vec<_> = futures::stream::iter(missing).buffer_unordered(AT_A_TIME).collect().await;
    for (place, answer) in answers {
        census.asked(place, answer);
    }
    census.ended = now().moment;
    Ok(census)
}

pub(super) fn place_of(lease: &Lease) -> Place {
    (lease.metadata.namespace.clone().unwrap_or_default(), lease.metadata.name.clone().unwrap_or_default())
}

impl Census {
    pub(super) fn of(leases: Vec<Lease>, begun: Moment, stamp: Timestamp, ended: Moment) -> Self {
        let (locks, sessions, unreadable, absent) = Default::default();
        let mut all = Self { begun, stamp, ended, locks, sessions, unreadable, absent };
        for lease in leases {
            let place = place_of(&lease);
            let kind = lease.metadata.labels.as_ref().and_then(|labels| labels.get(KIND));
            // Clients know a session's Lease by its name.
            let parsed = if place.1.starts_with(SESSION_PREFIX) || kind.is_some_and(|kind| kind == KIND_SESSION) {
                SessionRecord::parse(lease.clone()).map(|record| drop(all.sessions.insert(place, record)))
            } else {
                Record::parse(lease.clone()).map(|record| all.locks.push(record))
            };
            if let Err(error) = parsed {
                all.unreadable.push(Unreadable { lease, why: error.why.into_owned() });
            }
        }
        all.locks.sort_by_cached_key(|lock| place_of(&lock.lease));
        all
    }

    /// Sessions that something names, and of which nothing is known.
    fn missing(&self) -> BTreeSet<Place> {
        let unknown = |place: &Place| !self.sessions.contains_key(place) && !self.cannot_be_read(place);
        self.named().into_iter().filter(unknown).collect()
    }

    fn cannot_be_read(&self, place: &Place) -> bool {
        self.unreadable.iter().any(|one| place_of(&one.lease) == *place)
    }

    /// What came of asking for a session by name. Where it could not be asked for, nothing is known of it.
    fn asked(&mut self, place: Place, answer: Look<Option<Lease>>) {
        match answer {
            Ok(Some(lease)) => match SessionRecord::parse(lease.clone()) {
                Ok(record) => drop(self.sessions.insert(place, record)),
                Err(error) => self.unreadable.push(Unreadable { lease, why: error.why.into_owned() }),
            },
            Ok(None) | Err(Miss::Absent) => drop(self.absent.insert(place)),
            Err(_) => {}
        }
    }

    pub(super) fn count(&self) -> usize {
        self.locks.len() + self.sessions.len() + self.unreadable.len()
    }

    fn lock(&self, lease: &Lease) -> Option<&Record> {
        let place = place_of(lease);
        let at = self.locks.binary_search_by(|lock| place_of(&lock.lease).cmp(&place)).ok()?;
        self.locks.get(at)
    }

    /// For how long all would have to be watched to know for each whether it lives.
    pub(super) fn longest(&self) -> Duration {
        let sessions = self.sessions.values().map(|session| session.duration);
        let absent = self.absent.iter().map(|_| LONGEST_SESSION);
        sessions.chain(absent).chain(self.locks.iter().flat_map(own_durations)).max().unwrap_or_default()
    }

    /// The sessions that hold something or wait for something, by their Leases.
    pub(super) fn named(&self) -> BTreeSet<Place> {
        let of = |lock: &Record| -> Vec<Place> {
            let (namespace, _) = place_of(&lock.lease);
            lock.ids().map(|id| (namespace.clone(), id.session.lease_name())).collect()
        };
        self.locks.iter().flat_map(of).collect()
    }
}

fn own_durations(lock: &Record) -> impl Iterator<Item = Duration> {
    lock.holders().filter_map(|holder| match &holder.liveness {
        Liveness::Own(duration) => Some(*duration),
        Liveness::Session(_) => None,
    })
}

/// What is known of who lives.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    pub(super) census: Census,
    /// What was seen before, and the time in between: counted from when the first had been received to when the second was
    /// asked for.
    before: Option<(Census, Duration)>,
    pub(super) clock: Option<Clock>,
}

/// What can be said of whoever lives by a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It was renewed lately, as it says itself, or while this watched.
    Alive,
    /// It has not been renewed for so long by its own timestamp. Whether that is true only watching tells.
    Silent(SignedDuration),
    /// It has not changed for the whole of its duration while this watched.
    Dead,
    /// It has been ended, and cannot be renewed.
    Ended,
    /// Its Lease is not there. Whether it has been away for as long as it may count as alive only watching tells.
    Absent,
    /// Its Lease was not there for the whole of the longest session while this watched.
    Gone,
    /// Its Lease cannot be read here.
    Unknown,
}

impl Sight {
    pub(super) fn new(census: Census, before: Option<Census>, clock: Option<Clock>) -> Self {
        let before = before.map(|before| {
            let time = census.begun.since(before.ended);
            (before, time)
        });
        Self { census, before, clock }
    }

    /// The time when this was looked at, by the API server's clock where that is known.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.map_or(self.census.stamp, |clock| clock.at(self.census.stamp))
    }

    /// By how much a timestamp may be off, as far as this machine is to blame.
    fn slack(&self) -> SignedDuration {
        SLACK + self.clock.map_or(SignedDuration::ZERO, |clock| clock.give_or_take)
    }

    /// For how long this watched.
    pub(super) fn watched(&self) -> Option<Duration> {
        self.before.as_ref().map(|(_, time)| *time)
    }

    pub(super) fn of_session(&self, namespace: &str, id: &SessionId) -> Life {
        let place = (namespace.to_owned(), id.lease_name());
        match self.census.sessions.get(&place) {
            Some(session) => self.of_record(session),
            None if !self.census.absent.contains(&place) => Life::Unknown,
            None if self.was_absent(&place) => Life::Gone,
            None => Life::Absent,
        }
    }

    /// Whether it was not there either when this looked before, and that is as long ago as a session can last.
    fn was_absent(&self, place: &Place) -> bool {
        let before = self.before.as_ref();
        before.is_some_and(|(before, time)| *time >= LONGEST_SESSION && before.absent.contains(place))
    }

    /// Whether an ended one stood there just so for the whole of its duration while this watched.
    pub(super) fn stood(&self, session: &SessionRecord) -> bool {
        self.is_unchanged(session) == Some(true) && self.watched() >= Some(session.duration)
    }

    /// Whether it is as it was seen before, if anything was looked at before.
    fn is_unchanged(&self, session: &SessionRecord) -> Option<bool> {
        let (before, _) = self.before.as_ref()?;
        let before = before.sessions.get(&place_of(&session.lease));
        Some(before.is_some_and(|before| before.uid == session.uid && before.version == session.version))
    }

    pub(super) fn of_record(&self, session: &SessionRecord) -> Life {
        if session.ended {
            return Life::Ended;
        }
        let renewed = session.lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        // Nobody but its process writes there, and that to renew it.
        self.judge(self.is_unchanged(session), renewed, session.duration)
    }

    /// Of a holder that lives by its own record for so long.
    pub(super) fn of_own(&self, record: &Record, holder: &Holder, duration: Duration) -> Life {
        let before = self.before.as_ref().map(|(before, _)| {
            let before = before.lock(&record.lease);
            before.is_some_and(|before| {
                let known = before.holders().find(|known| known.identity == holder.identity);
                known.is_some_and(|known| {
                    known.renewed == holder.renewed && before.tenancy_of(known) == record.tenancy_of(holder)
                })
            })
        });
        self.judge(before, holder.renewed, duration)
    }

    /// `unchanged`: whether it is what was seen before, if anything was looked at before.
    fn judge(&self, unchanged: Option<bool>, renewed: Option<Timestamp>, duration: Duration) -> Life {
        match unchanged {
            Some(true) if self.watched() >= Some(duration) => return Life::Dead,
            Some(false) => return Life::Alive,
            Some(true) | None => {}
        }
        let age = renewed.map(|renewed| self.now().duration_since(renewed));
        let lives_for = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        match age {
            Some(age) if age > lives_for.saturating_add(self.slack()) => Life::Silent(age),
            _ => Life::Alive,
        }
    }

    /// By how much a timestamp is in the future, where that is worth a word.
    pub(super) fn ahead(&self, stamp: Timestamp) -> Option<SignedDuration> {
        let took = SignedDuration::try_from(self.census.ended.since(self.census.begun)).unwrap_or_default();
        let ahead = stamp.duration_since(self.now());
        (ahead > self.slack() + took).then_some(ahead)
    }
}

/// A duration for people, in whole seconds.
pub(super) fn told(duration: SignedDuration) -> String {
    format!("{:#}", SignedDuration::from_secs(duration.as_secs()))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(in super::super) const NOW: &str = "2026-11-22T06:00:00Z";

    pub(in super::super) fn census(leases: &[Value]) -> Census {
        at(leases, 1000, NOW)
    }

    fn at(leases: &[Value], seconds: u64, stamp: &str) -> Census {
        let leases = leases.iter().map(|lease| serde_json::from_value(lease.clone()).unwrap()).collect();
        let moment = Moment::from_start(Duration::from_secs(seconds));
        let mut census = Census::of(leases, moment, stamp.parse().unwrap(), moment);
        // Whatever was not listed is not there.
        census.absent = census.missing();
        census
    }

    pub(in super::super) fn sight(leases: &[Value]) -> Sight {
        Sight::new(census(leases), None, None)
    }

    /// Looked at again after so many seconds, in which nothing has changed.
    pub(in super::super) fn watched(leases: &[Value], seconds: u64) -> Sight {
        Sight::new(at(leases, 1000 + seconds, NOW), Some(census(leases)), None)
    }

    pub(in super::super) fn session(name: &str, holder: &str, renewed: &str) -> Value {
        json!({
            "metadata": {
                "name": name, "namespace": "ops", "uid": name, "resourceVersion": "5",
                "labels": {"leasehold.dev/kind": "session"}, "annotations": {"leasehold.dev/format": "1"},
            },
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 30, "renewTime": renewed},
        })
    }

    #[expect(clippy::needless_pass_by_value, reason = "it is written on the spot")]
    pub(in super::super) fn lock(name: &str, holder: &str, annotations: Value) -> Value {
        let mut labels = json!({"leasehold.dev/kind": "lock"});
        if let Some((session, _)) = holder.rsplit_once('.') {
            labels[format!("holder.leasehold.dev/{session}")] = "7".into();
        }
        json!({
            "metadata": {
                "name": name, "namespace": "ops", "uid": name, "resourceVersion": "8",
                "labels": labels, "annotations": annotations,
            },
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 30, "leaseTransitions": 3,
                "acquireTime": "2026-11-22T05:59:50.000000Z", "renewTime": "2026-11-22T05:59:50.000000Z"},
        })
    }

    #[test]
    fn only_watching_for_the_whole_duration_tells_that_somebody_is_dead() {
        let leases = [session("session-web-0.x1", "web-0_x1", "2026-11-22T05:50:00.000000Z")];
        let id: SessionId = "web-0_x1".parse().unwrap();
        let of = |sight: Sight| sight.of_session("ops", &id);
        assert_eq!(of(sight(&leases)), Life::Silent(SignedDuration::from_mins(10)));
        assert_eq!(of(watched(&leases, 29)), Life::Silent(SignedDuration::from_mins(10)));
        assert_eq!(of(watched(&leases, 30)), Life::Dead);
        // Whatever its clock says, it was renewed in between.
        let mut before = leases[0].clone();
        before["metadata"]["resourceVersion"] = "4".into();
        let now = at(&leases, 2000, NOW);
        assert_eq!(of(Sight::new(now.clone(), Some(census(&[before])), None)), Life::Alive);
        // It was not there before.
        assert_eq!(of(Sight::new(now, Some(census(&[])), None)), Life::Alive);
        assert_eq!(sight(&leases).of_session("other", &id), Life::Unknown);
        let ended = session("session-web-0.x1", "", "2026-11-22T05:50:00.000000Z");
        assert_eq!(of(watched(&[ended], 100)), Life::Ended);
    }

    #[test]
    fn a_session_that_is_not_listed_is_absent_only_where_it_is_not_there_by_name() {
        let (held, listed) = ([lock("a", "web-0_x1.1", json!({}))], session("session-web-0.x1", "web-0_x1", NOW));
        let id: SessionId = "web-0_x1".parse().unwrap();
        let after = |answer: Look<Option<Lease>>| {
            let leases = held.iter().map(|lease| serde_json::from_value(lease.clone()).unwrap()).collect();
            let moment = Moment::from_start(Duration::from_secs(1000));
            let mut census = Census::of(leases, moment, NOW.parse().unwrap(), moment);
            let [place] = &Vec::from_iter(census.missing())[..] else { panic!() };
            census.asked(place.clone(), answer);
            (census.longest(), Sight::new(census, None, None).of_session("ops", &id))
        };
        assert_eq!(after(Ok(None)), (LONGEST_SESSION, Life::Absent));
        assert_eq!(after(Err(Miss::Absent)).1, Life::Absent);
        assert_eq!(after(Err(Miss::Failed("no answer".to_owned()))).1, Life::Unknown);
        let mut unlabelled = listed.clone();
        unlabelled["metadata"]["labels"] = json!({});
        assert_eq!(after(Ok(Some(serde_json::from_value(unlabelled).unwrap()))).1, Life::Alive);
    }

    #[test]
    fn who_has_no_session_is_gone_only_after_the_longest_session() {
        let held = [lock("a", "web-0_x1.1", json!({}))];
        let id: SessionId = "web-0_x1".parse().unwrap();
        let of = |sight: Sight| sight.of_session("ops", &id);
        assert_eq!([of(sight(&held)), of(watched(&held, 59))], [Life::Absent, Life::Absent]);
        assert_eq!(of(watched(&held, 60)), Life::Gone);
        // It was there when this looked before.
        let before = [held[0].clone(), session("session-web-0.x1", "web-0_x1", NOW)];
        assert_eq!(of(Sight::new(at(&held, 2000, NOW), Some(census(&before)), None)), Life::Absent);
    }

    #[test]
    fn the_api_servers_clock_counts_where_it_is_known() {
        let leases = [session("session-web-0.x1", "web-0_x1", "2026-11-22T06:09:50.000000Z")];
        let (alone, ten) = (sight(&leases), SignedDuration::from_mins(10));
        assert_eq!(alone.ahead(ten_to()), Some(SignedDuration::from_secs(590)));
        let clock = Clock { ahead: ten, give_or_take: SignedDuration::from_secs(1) };
        let by_server = Sight::new(census(&leases), None, Some(clock));
        assert_eq!(by_server.ahead(ten_to()), None);
        let id: SessionId = "web-0_x1".parse().unwrap();
        assert_eq!(by_server.of_session("ops", &id), Life::Alive);
    }

    #[test]
    fn a_join_does_not_renew_an_own_record() {
        let own = json!({"leasehold.dev/liveness": "own"});
        let before = lock("a", "web-0_x1.1", own.clone());
        let mut now = lock("a", "web-0_x1.1", own);
        now["metadata"]["resourceVersion"] = "9".into();
        now["metadata"]["annotations"]["join.leasehold.dev/web-1_x2.1"] = "8".into();
        let of = |now: &Value| {
            let sight =
                Sight::new(at(std::slice::from_ref(now), 1030, NOW), Some(census(std::slice::from_ref(&before))), None);
            let record = &sight.census.locks[0];
            sight.of_own(record, record.holder.as_ref().unwrap(), Duration::from_secs(30))
        };
        assert_eq!(of(&now), Life::Dead);
        now["spec"]["renewTime"] = "2026-11-22T05:59:55.000000Z".into();
        assert_eq!(of(&now), Life::Alive);
        // Another tenancy of the same holder.
        let mut again = before.clone();
        again["spec"]["leaseTransitions"] = 4.into();
        assert_eq!(of(&again), Life::Alive);
    }

    fn ten_to() -> Timestamp {
        "2026-11-22T06:09:50Z".parse().unwrap()
    }

    #[test]
    fn it_is_known_how_long_to_watch() {
        let kept = json!({"leasehold.dev/liveness": "own"});
        let leases = [session("session-web-0.x1", "web-0_x1", NOW), lock("a", "web-0_x1.1", kept)];
        let mut long = leases.clone();
        long[1]["spec"]["leaseDurationSeconds"] = 45.into();
        assert_eq!(census(&leases).longest(), Duration::from_secs(30));
        assert_eq!(census(&long).longest(), Duration::from_secs(45));
        assert_eq!(census(&[]).longest(), Duration::ZERO);
    }
}
