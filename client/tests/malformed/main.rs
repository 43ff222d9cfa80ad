//! Leases that people have written by hand, wrongly: reading them fails in order or not at all, and a client that contends
//! for such a lock neither falls over them, nor takes what is not free, nor asks without end.

mod leases;

use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::contender::{Answer, Contender, Denial, Next, Notice, Wish};
use leasehold::protocol::deadlock::{Place, deadlocks};
use leasehold::protocol::observer::End;
use leasehold::protocol::record::SessionRecord;
use leasehold::protocol::{HolderId, Kind, Mode, Moment, Now, Record, SessionId, Write, grant};
use leasehold::testing::ApiServer;
use leasehold::{Failure, MemoryStore, Store as _};
use proptest::prelude::*;
use proptest::sample::select;

const D: Duration = Duration::from_secs(10);
/// So many requests at one time are more than there can be use for.
const MANY: usize = 60;

#[derive(Clone, Debug)]
enum Step {
    /// Somebody writes this, whatever stands there.
    Put(Box<Lease>),
    Remove,
    /// A watch shows how it is.
    Show,
    Pass(u64),
    Start(Kind, Mode, Option<u64>),
    Leave,
    Keep,
    Publish(String),
    Verdict(&'static str, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let modes = &[
        (Kind::Lock, Mode::Permits(1)),
        (Kind::Semaphore, Mode::Permits(1)),
        (Kind::Semaphore, Mode::Permits(3)),
        (Kind::ReadWriteLock, Mode::Read),
        (Kind::ReadWriteLock, Mode::Upgradeable),
        (Kind::ReadWriteLock, Mode::Write),
    ];
    let own = prop_oneof![3 => Just(None), 1 => (1..60_u64).prop_map(Some)];
    prop_oneof![
        6 => leases::lease("a").prop_map(|lease| Step::Put(Box::new(lease))),
        1 => Just(Step::Remove),
        2 => Just(Step::Show),
        5 => (1..9000_u64).prop_map(Step::Pass),
        5 => (select(&modes[..]), own).prop_map(|((kind, mode), own)| Step::Start(kind, mode, own)),
        2 => Just(Step::Leave),
        1 => Just(Step::Keep),
        1 => select(&["", "a < b & c", "at work"][..]).prop_map(|text| Step::Publish(text.to_owned())),
        2 => (select(&["live_x1", "pod_y2", "gone_z3"][..]), any::<bool>())
            .prop_map(|(session, ended)| Step::Verdict(session, ended)),
    ]
}

struct World {
    store: MemoryStore,
    contender: Contender,
    now: Now,
    me: HolderId,
    /// What the contender knows is how it is.
    fresh: bool,
}

impl World {
    fn new() -> Self {
        let now = Now { moment: Moment::from_start(Duration::from_hours(1)), stamp: Timestamp::UNIX_EPOCH };
        let me = HolderId { session: SessionId::new("me", "q9"), n: 0 };
        let contender = Contender::new("a".to_owned(), D, Duration::ZERO, 7);
        Self { store: ApiServer::new().store("ns"), contender, now, me, fresh: false }
    }

    fn read(&self) -> Option<Lease> {
        self.store.read("a").now_or_never().unwrap().ok()
    }

    fn write(&self, write: &Write) -> Result<Option<Lease>, Failure> {
        self.store.write("a", write).now_or_never().unwrap()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Put(lease) => self.put(*lease),
            Step::Remove => {
                if let Some(there) = self.read() {
                    let version = there.metadata.resource_version.unwrap().parse().unwrap();
                    self.write(&Write::Delete { uid: there.metadata.uid.unwrap(), version }).unwrap();
                    self.fresh = false;
                }
            }
            Step::Show => {
                if let Some(Ok(record)) = self.read().map(Record::parse) {
                    self.contender.saw(record, self.now.moment);
                    self.fresh = true;
                }
            }
            Step::Pass(ms) => self.now.moment = self.now.moment + Duration::from_millis(ms),
            Step::Start(kind, mode, own) => {
                if self.contender.is_idle() {
                    self.me.n += 1;
                    let permits = (kind == Kind::Semaphore).then_some(3);
                    let own_duration = own.map(Duration::from_secs);
                    let wish = Wish { kind, mode, permits, own_duration, ..Wish::default() };
                    self.contender.start(self.me.clone(), wish, self.now.moment);
                }
            }
            Step::Leave => self.contender.leave(&self.me.clone()),
            Step::Keep => self.contender.keep(&self.me.clone(), D),
            Step::Publish(text) => {
                self.contender.publish(&self.me.clone(), text);
            }
            Step::Verdict(session, ended) => {
                let end = End { since: self.now.moment, by_evidence: false, duration: D, version: None };
                self.contender.verdict(session.parse().unwrap(), ended.then_some(end));
            }
        }
        self.work();
    }

    /// What the API server would refuse is not written.
    fn put(&mut self, mut lease: Lease) {
        lease.metadata.namespace = Some("ns".to_owned());
        let write = match self.read() {
            Some(there) => {
                lease.metadata.uid = there.metadata.uid;
                lease.metadata.resource_version = there.metadata.resource_version;
                lease.metadata.creation_timestamp = there.metadata.creation_timestamp;
                Write::Replace(Box::new(lease))
            }
            None => Write::Create(Box::new(lease)),
        };
        self.fresh &= self.write(&write).is_err();
    }

    /// Everything is carried out that is asked for, until nothing is.
    fn work(&mut self) {
        for sent in 0.. {
            let next = self.contender.poll(self.now);
            self.check_notices();
            let answer = match &next {
                Next::Wait(_) => return,
                Next::Read | Next::Check => self.store.read("a").now_or_never().unwrap().map(Some),
                Next::Write(write) => {
                    let answer = self.write(write);
                    // What is as it was seen is as its conditions want it, and the API server takes what is made of it.
                    let bad = matches!(&answer, Err(Failure::Refused | Failure::Invalid(_)));
                    assert!(!(bad && self.fresh), "{answer:?}: {}\n{}", told(write), json(&self.read()));
                    answer
                }
            };
            assert!(sent < MANY, "it asks without end: {next:?}\n{}", json(&self.read()));
            let answer = match answer {
                // Of a later format, as the driver tells it.
                Ok(Some(lease)) => Record::parse(lease).map_or_else(
                    |malformed| Answer::Denied(Denial::Invalid, malformed.to_string()),
                    |record| Answer::Is(Box::new(record)),
                ),
                Ok(None) => Answer::Removed,
                Err(Failure::Absent) => Answer::Absent,
                Err(Failure::Refused) => Answer::Refused,
                Err(Failure::Invalid(why)) => Answer::Denied(Denial::Invalid, why),
                Err(failure) => panic!("{failure:?}"),
            };
            self.fresh = !matches!(answer, Answer::Refused);
            self.contender.answer(answer, self.now.moment);
            self.check_notices();
        }
    }

    /// Whoever is told that he has it stands there.
    fn check_notices(&mut self) {
        while let Some(notice) = self.contender.next_notice() {
            if let Notice::Acquired { id, .. } = notice {
                let lease = self.read();
                let record = lease.clone().map(|lease| Record::parse(lease).unwrap());
                assert!(record.is_some_and(|record| record.is_held_by(&id)), "{id}\n{}", json(&lease));
            }
        }
    }
}

fn told(write: &Write) -> String {
    if let Write::Patch(patch) = write { json(patch) } else { format!("{write:?}") }
}

fn json(what: &impl serde::Serialize) -> String {
    serde_json::to_string(what).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_lease_is_read_or_told_to_be_none(lease in leases::broken_lease()) {
        let _ = SessionRecord::parse(lease.clone());
        if let Ok(record) = Record::parse(lease) {
            let round = grant::round(&record, |_| true, |_| false);
            prop_assert!(round.served.len() <= record.waiters.len());
            prop_assert!(record.available_permits() <= record.capacity);
            let _ = (record.bytes_to_come(), record.annotation_bytes(), record.ids().count(), record.held_permits());
            let _ = deadlocks(&[Place::of("a", &record), Place::of("b", &record)]);
        }
    }

    #[test]
    fn whatever_stands_there_a_client_holds_only_what_it_took_and_comes_to_rest(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        for _ in 0..40 {
            world.take(Step::Pass(5000));
        }
    }
}
