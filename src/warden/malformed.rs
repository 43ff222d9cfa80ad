//! Leases that people have written by hand, wrongly: the warden neither falls over them nor takes anything from the living,
//! and comes to rest.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::memory::ApiServer;
use leasehold::protocol::record::{KIND, KIND_SESSION, SessionRecord};
use leasehold::protocol::{HolderId, Liveness, Moment, Now, Record, SessionId, Write, write};
use leasehold::{MemoryStore, Store as _};
use proptest::prelude::*;

#[path = "../../client/tests/malformed/leases.rs"]
mod leases;

use super::{DeedKind, Place, Task, Warden, What};
use crate::leases::Failure;

const NAMESPACE: &str = "ns";
/// Of locks, and of sessions, of which some are none.
const NAMES: &[&str] =
    &["a", "b", "s", "session-pod.y2", "session-p.o.d.y2", "session-", "session-x", "session-gone.z3"];
const LIVE: &str = "live_x1";
/// How long that session lives. It is renewed more often.
const D: Duration = Duration::from_secs(10);
/// So many requests at one time are more than there can be use for.
const MANY: usize = 400;

#[derive(Clone, Debug)]
enum Step {
    /// Somebody writes this, whatever stands there.
    Put(Box<Lease>),
    Remove(usize),
    /// The watch shows how it is.
    Show(usize),
    /// The watch shows something that never was.
    Dream(Box<Lease>),
    Relist,
    Pass(u64),
    Work,
    /// So many requests are sent, and none is answered.
    Lose(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let lease = (0..NAMES.len()).prop_flat_map(|which| leases::lease(NAMES[which]));
    let which = 0..NAMES.len();
    prop_oneof![
        8 => lease.prop_map(|lease| Step::Put(Box::new(lease))),
        1 => which.clone().prop_map(Step::Remove),
        4 => which.prop_map(Step::Show),
        1 => leases::broken_lease().prop_map(|lease| Step::Dream(Box::new(lease))),
        2 => Just(Step::Relist),
        4 => (1..4000_u64).prop_map(Step::Pass),
        4 => Just(Step::Work),
        1 => (1..4_usize).prop_map(Step::Lose),
    ]
}

struct World {
    store: MemoryStore,
    warden: Warden,
    now: Now,
    live: SessionRecord,
}

impl World {
    fn new() -> Self {
        let now = Now { moment: Moment::from_start(Duration::from_hours(1)), stamp: Timestamp::UNIX_EPOCH };
        let store = ApiServer::new().store(NAMESPACE);
        let id: SessionId = LIVE.parse().unwrap();
        let open = write::open_session(&id, D, now.stamp);
        let lease = store.write(&id.lease_name(), &open).now_or_never().unwrap().unwrap().unwrap();
        let live = SessionRecord::parse(lease.clone()).unwrap();
        let mut warden = Warden::new("operator test");
        warden.saw(lease, now.moment);
        Self { store, warden, now, live }
    }

    fn read(&self, name: &str) -> Option<Lease> {
        self.store.read(name).now_or_never().unwrap().ok()
    }

    fn write(&self, name: &str, write: &Write) -> Result<Option<Lease>, Failure> {
        self.store.write(name, write).now_or_never().unwrap()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Put(lease) => self.put(*lease),
            Step::Remove(which) => self.remove(NAMES[which]),
            Step::Show(which) => self.show(NAMES[which]),
            // A session that lives is not shown as another: nobody but the API server has its uid and its version.
            Step::Dream(lease) if lease.metadata.name.as_deref() == Some("session-live.x1") => {}
            Step::Dream(lease) => self.warden.saw(*lease, self.now.moment),
            Step::Relist => {
                let mut there = std::collections::HashSet::new();
                for name in NAMES.iter().copied().chain(["session-live.x1"]) {
                    if let Some(lease) = self.read(name) {
                        self.warden.saw(lease, self.now.moment);
                        there.insert(Place::new(NAMESPACE, name));
                    }
                }
                self.warden.relisted(None, &there, self.now.moment);
            }
            Step::Pass(ms) => self.pass(Duration::from_millis(ms)),
            Step::Work => self.work(),
            Step::Lose(count) => {
                for _ in 0..count {
                    let Some(task) = self.warden.poll(self.now) else { break };
                    self.warden.answer(&task, Err(Failure::Unclear("lost".to_owned())), self.now.moment);
                }
            }
        }
    }

    /// What the API server would refuse is not written.
    fn put(&mut self, mut lease: Lease) {
        let name = lease.metadata.name.clone().unwrap();
        lease.metadata.namespace = Some(NAMESPACE.to_owned());
        if let Some(there) = self.read(&name) {
            lease.metadata.uid = there.metadata.uid;
            lease.metadata.resource_version = there.metadata.resource_version;
            lease.metadata.creation_timestamp = there.metadata.creation_timestamp;
            let _ = self.write(&name, &Write::Replace(Box::new(lease)));
        } else {
            let _ = self.write(&name, &Write::Create(Box::new(lease)));
        }
        self.show(&name);
    }

    fn remove(&mut self, name: &str) {
        if let Some(there) = self.read(name) {
            let meta = there.metadata;
            let version = meta.resource_version.unwrap().parse().unwrap();
            self.write(name, &Write::Delete { uid: meta.uid.unwrap(), version }).unwrap();
        }
    }

    fn show(&mut self, name: &str) {
        let place = Place::new(NAMESPACE, name);
        match self.read(name) {
            // The watch shows only what is labelled.
            Some(lease) if lease.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(KIND)) => {
                self.warden.saw(lease, self.now.moment);
            }
            _ => self.warden.out_of_sight(&place, self.now.moment),
        }
    }

    /// Time goes by, and one session is renewed all the while.
    fn pass(&mut self, time: Duration) {
        self.now.moment = self.now.moment + time;
        let name = self.live.id.lease_name();
        let renewed = self.write(&name, &write::renew_session(&self.live, self.live.duration, self.now.stamp));
        let lease = renewed.expect("a session that is renewed in time is nobody else's to write").unwrap();
        self.live = SessionRecord::parse(lease.clone()).unwrap();
        self.warden.saw(lease, self.now.moment);
    }

    /// Everything is carried out that is asked for, until nothing is.
    fn work(&mut self) {
        for sent in 0.. {
            let Some(task) = self.warden.poll(self.now) else { return };
            assert!(sent < MANY, "it comes to no rest: {task:#?}");
            let answer = self.carry_out(&task);
            self.warden.answer(&task, answer, self.now.moment);
        }
    }

    fn carry_out(&mut self, task: &Task) -> Result<Option<Lease>, Failure> {
        let name = &task.place.name;
        let before = self.read(name);
        let (write, deed) = match &task.what {
            What::Read => return before.map(Some).ok_or(Failure::Absent),
            What::End(write) | What::EndByEvidence(write) | What::Sweep(write) => (write, None),
            What::Do(deed) => (&deed.write, Some(deed)),
        };
        assert!(*name != self.live.id.lease_name(), "who lives was ended: {write:?}");
        let known = self.warden.locks.get(&task.place).map(|lock| lock.record.version);
        let answer = self.write(name, write);
        let (Some(deed), Some(before)) = (deed, before) else { return answer };
        let before = Record::parse(before).unwrap();
        // What is as it was seen is as its conditions want it, and the API server takes what is made of it.
        if known == Some(before.version) {
            answer.as_ref().unwrap_or_else(|error| panic!("{error:?}: {}\n{}", told(write), json(&*before.lease)));
        }
        if let Ok(after) = &answer {
            let after = after.clone().map(|lease| Record::parse(lease).unwrap());
            assert_eq!(
                missing(&before, after.as_ref()),
                Vec::<HolderId>::new(),
                "{:?} {}\n{}",
                deed.kind,
                told(write),
                json(&*before.lease)
            );
            if let (DeedKind::Grant { to }, Some(after)) = (&deed.kind, &after) {
                assert!(
                    to.iter().all(|id| after.is_held_by(id)),
                    "{:?} {}\n{}",
                    deed.kind,
                    told(write),
                    json(&*before.lease)
                );
            }
        }
        answer
    }
}

fn told(write: &Write) -> String {
    if let Write::Patch(patch) = write { json(patch) } else { format!("{write:?}") }
}

fn json(what: &impl serde::Serialize) -> String {
    serde_json::to_string(what).unwrap()
}

/// Whoever lives, held it or waited for it before, and does neither any more though nobody may take that from him.
fn missing(before: &Record, after: Option<&Record>) -> Vec<HolderId> {
    let lives = |id: &&HolderId| id.session.as_str() == LIVE;
    let holders = before.holders().filter(|holder| {
        let asked = before.evicts_on_request && holder.request.is_some();
        matches!(holder.liveness, Liveness::Session(_)) && !asked && before.policy.max_hold.is_none()
    });
    let before = holders.filter_map(|holder| holder.id.as_ref()).chain(before.waiters.iter().map(|waiter| &waiter.id));
    let there: Vec<&HolderId> = after.into_iter().flat_map(Record::ids).collect();
    before.filter(lives).filter(|id| !there.contains(id)).cloned().collect()
}

fn run(steps: Vec<Step>) {
    let mut world = World::new();
    for step in steps {
        world.take(step);
    }
    for _ in 0..40 {
        world.pass(D / 3);
        world.take(Step::Relist);
        world.work();
        world.warden.find_deadlocks(world.now.moment);
    }
    world.warden.census();
}

#[test]
fn what_nobody_of_ours_would_write_is_told_by_its_kind() {
    let kinds: BTreeMap<String, String> = [(KIND.to_owned(), KIND_SESSION.to_owned())].into();
    let lease = Lease {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some("a".to_owned()),
            labels: Some(kinds),
            ..Default::default()
        },
        spec: None,
    };
    run(vec![Step::Put(Box::new(lease)), Step::Work]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_stands_there_it_harms_nobody_who_lives_and_comes_to_rest(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        run(steps);
    }
}
