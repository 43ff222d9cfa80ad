//! The warden against clients that live and die at random, on a clock of the test's own.
//!
//! Watch events come late, requests are carried out late, and answers get lost. Whatever happens, nobody who renews in
//! time is ended or taken off a lock; and when all is over nobody who is dead stands in anybody's way.

mod world;

use std::time::Duration;

use leasehold::protocol::record::{ENDED_BY, SessionRecord};
use proptest::prelude::*;

use self::world::World;
use super::state::{Done, Task, What};

const D: Duration = Duration::from_secs(10);
const CLIENTS: usize = 4;
/// Two locks, a semaphore, and two locks with policies.
const LOCKS: [&str; 5] = ["a", "b", SEMAPHORE, DELAYED, NEVER];
const SEMAPHORE: &str = "s";
/// What a holder had that fell silent is given to nobody for a while, and nobody holds it for long.
const DELAYED: &str = "delayed";
const DELAY: Duration = Duration::from_secs(4);
const LONGEST: Duration = Duration::from_secs(5);
/// What a dead holder had is given to nobody.
const NEVER: &str = "never";
const PERMITS: u32 = 3;
const NAMESPACE: &str = "ns";

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Renew(usize),
    Die(usize),
    /// With all that its Pod has run. Whoever comes back to that Pod then should not be there, and lives all the same.
    Terminate(usize),
    /// The watch of Pods shows this many of those that have terminated.
    ShowPods(usize),
    /// Somebody deletes the Lease of a session that is dead anyway.
    Vanish(usize),
    /// Somebody who knows that it is dead ends its session.
    Witness(usize),
    Join(usize, usize),
    Leave(usize, usize),
    /// The watch shows what has changed of this many Leases.
    Show(usize),
    /// The watch begins anew and lists everything.
    Relist,
    Poll,
    /// The oldest request but so many is carried out, and answered.
    Answer(usize),
    /// The same, but the answer is lost, and perhaps the request too.
    Lose(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    let lock = 0..LOCKS.len();
    prop_oneof![
        3 => (50..4000_u64).prop_map(Step::Pass),
        4 => client.clone().prop_map(Step::Renew),
        1 => client.clone().prop_map(Step::Die),
        1 => client.clone().prop_map(Step::Vanish),
        2 => client.clone().prop_map(Step::Terminate),
        2 => (1..3_usize).prop_map(Step::ShowPods),
        1 => client.clone().prop_map(Step::Witness),
        1 => Just(Step::Relist),
        4 => (client.clone(), lock.clone()).prop_map(|(client, lock)| Step::Join(client, lock)),
        2 => (client, lock).prop_map(|(client, lock)| Step::Leave(client, lock)),
        4 => (1..6_usize).prop_map(Step::Show),
        6 => Just(Step::Poll),
        6 => (0..3_usize).prop_map(Step::Answer),
        1 => (0..3_usize, any::<bool>()).prop_map(|(which, carried)| Step::Lose(which, carried)),
    ]
}

fn run(steps: &[Step]) {
    let mut world = World::new();
    for step in steps {
        world.take(step);
    }
    world.settle();
    world.check_all_is_well();
}

/// Until its session has been read nothing is granted to a waiter. That it lives has to be news, too.
#[test]
fn a_waiter_that_turns_out_to_live_gets_the_lock_of_the_dead() {
    use Step::{Answer, Join, Pass, Poll, Show};
    let dead = [Show(2), Show(2), Pass(3449), Join(2, 0), Pass(6551), Poll, Poll, Pass(1108)];
    let new = [Join(0, 1), Poll, Answer(0), Answer(0), Answer(0), Join(0, 0), Join(0, 0), Show(4)];
    run(&[&dead[..], &new[..], &[Poll, Poll, Show(1), Poll]].concat());
}

fn terminated(world: &mut World) -> Vec<Task> {
    world.take(&Step::Join(0, 0));
    world.show(usize::MAX);
    while let Some(task) = world.warden.poll(world.now) {
        let answer = world.carry_out(&task);
        world.warden.answer(&task, answer, world.now.moment);
    }
    world.take(&Step::Terminate(0));
    world.show_pods(1);
    world.warden.poll(world.now).into_iter().collect()
}

#[test]
fn whose_pod_has_terminated_is_ended_and_evicted_without_any_time_passing() {
    let mut world = World::new();
    let task = terminated(&mut world).pop().expect("there is evidence");
    assert!(matches!(task.what, What::EndByEvidence(_)), "{task:?}");
    let ended = world.carry_out(&task);
    let record = SessionRecord::parse(ended.clone().unwrap().unwrap()).unwrap();
    let by = record.lease.metadata.annotations.as_ref().unwrap()[ENDED_BY].clone();
    assert_eq!(by, "operator test: every container of Pod pod-0 has terminated");
    assert!(record.ended && record.by_evidence);
    let done = world.warden.answer(&task, ended, world.now.moment);
    assert_eq!(done, Some(Done::SessionEnded { by_evidence: true }));
    let task = world.warden.poll(world.now).expect("it is to be evicted");
    assert!(matches!(task.what, What::Do(_)), "{task:?}");
    world.requests.push(task);
    world.settle();
    world.check_all_is_well();
}

/// A process that was started in that Pod though it was over has nothing to fear, and neither has one that renews.
#[test]
fn whoever_is_heard_of_after_the_evidence_lives() {
    let mut world = World::new();
    world.show(usize::MAX);
    world.take(&Step::Terminate(0));
    world.clients[0].alive = true;
    world.renew(0);
    world.show_pods(1);
    let mut answers = 0;
    while let Some(task) = world.warden.poll(world.now) {
        let answer = world.carry_out(&task);
        world.warden.answer(&task, answer, world.now.moment);
        answers += 1;
        assert!(answers < 10, "it tries again and again: {task:?}");
    }
    world.show(usize::MAX);
    assert!(world.warden.poll(world.now).is_none());
}

#[test]
fn who_only_keeps_watch_leaves_it_to_others_and_acts_when_it_is_his_turn() {
    let mut world = World::new();
    world.warden.set_acts(false, world.now.moment);
    assert!(terminated(&mut world).is_empty(), "it wrote");
    world.warden.set_acts(true, world.now.moment);
    let task = world.warden.poll(world.now).expect("it knows");
    assert!(matches!(task.what, What::EndByEvidence(_)), "{task:?}");
}

#[test]
fn evidence_may_come_before_its_session_is_seen_and_is_forgotten_in_the_end() {
    let mut world = World::new();
    world.take(&Step::Terminate(0));
    world.show_pods(1);
    assert!(world.warden.poll(world.now).is_none());
    world.show(usize::MAX);
    let task = world.warden.poll(world.now).expect("it was kept");
    assert!(matches!(task.what, What::EndByEvidence(_)), "{task:?}");
    assert_eq!(world.warden.known_to_have_ended(), 1);
    world.pass(Duration::from_mins(6));
    world.take(&Step::Terminate(1));
    world.show_pods(1);
    assert_eq!(world.warden.known_to_have_ended(), 1, "the old one is forgotten");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn only_the_dead_are_taken_off_and_all_of_them_in_the_end(steps in prop::collection::vec(step(), 1..150)) {
        run(&steps);
    }
}
