//! Clients that wait for each other in a circle: found on what they say on the Leases, over all namespaces that are watched.

use std::collections::{BTreeMap, BTreeSet};

use leasehold::protocol::deadlock::{Deadlock, Place as Node, Step, deadlocks};
use leasehold::protocol::{Moment, Waiter, write};

use super::Place;
use super::decide::{Deed, DeedKind};
use super::incidents::Incident;
use super::lock::Lock;
use super::state::Warden;

/// Of how many characters at most a circle is shown to a waiter.
const LONGEST_CIRCLE: usize = 1000;

impl Warden {
    /// Looks for deadlocks, and notes on each followed resource that is in one what was not known before. Those that are
    /// new.
    ///
    /// It costs little while nobody who waits says that he holds something.
    pub fn find_deadlocks(&mut self, now: Moment) -> Vec<Deadlock> {
        let says = |place: &&Place| self.locks[*place].record.waiters.iter().any(|waiter| !waiter.holds.is_empty());
        let found = if self.locks.keys().any(|place| says(&place)) { self.circles() } else { Vec::new() };
        let new: Vec<Deadlock> = found.iter().filter(|deadlock| !self.deadlocks.contains(deadlock)).cloned().collect();
        let before = std::mem::replace(&mut self.deadlocks, found);
        for deadlock in &new {
            for place in places_of(deadlock) {
                self.note_incidents(&place, [Incident::Deadlock(deadlock.clone())]);
                self.touch(&place, now);
            }
        }
        let over = before.iter().filter(|deadlock| !self.deadlocks.contains(deadlock));
        for place in over.flat_map(places_of).collect::<Vec<_>>() {
            self.tell_of(&place);
        }
        self.choose(&before, now);
        new
    }

    fn circles(&self) -> Vec<Deadlock> {
        let queues =
            self.locks.iter().filter(|(_, lock)| !lock.record.waiters.is_empty() || lock.record.upgrading.is_some());
        let queues: BTreeMap<String, &Lock> = queues.map(|(place, lock)| (place.to_string(), lock)).collect();
        let nodes: Vec<Node> = queues.iter().map(|(name, lock)| Node::of(name, &lock.record)).collect();
        deadlocks(&nodes)
    }

    /// Of each circle that was there before, too, the youngest waiter whose lock wants that is to give up. Events of
    /// several Leases come one after the other: what was seen once may never have been.
    fn choose(&mut self, before: &[Deadlock], now: Moment) {
        self.giving_up.clear();
        for deadlock in self.deadlocks.iter().filter(|deadlock| before.contains(deadlock)) {
            let waits = |step: &Step| {
                let place = place_of(step)?;
                let lock = self.locks.get(&place)?;
                let waiter = lock.record.waiters.iter().find(|waiter| waiter.id.to_string() == step.waiter)?;
                lock.record.policy.breaks_deadlocks.then(|| (waiter.ticket, waiter.id.clone(), place))
            };
            if let Some((_, id, place)) = deadlock.steps.iter().filter_map(waits).max() {
                let circle = deadlock.to_string().chars().take(LONGEST_CIRCLE).collect();
                self.giving_up.entry(place).or_default().insert(id, circle);
            }
        }
        let untold = self.giving_up.keys().filter(|place| self.give_up(place).is_some());
        for place in untold.cloned().collect::<Vec<_>>() {
            self.alarms.set_by(&place, now);
        }
    }

    /// Tells one who waits here that it is to give up, if it is and was not told.
    pub(super) fn give_up(&self, place: &Place) -> Option<Deed> {
        let (record, chosen) = (&self.locks.get(place)?.record, self.giving_up.get(place)?);
        let told = |waiter: &&Waiter| waiter.told_to_give_up.is_none() && chosen.contains_key(&waiter.id);
        let waiter = record.waiters.iter().find(told).filter(|_| record.policy.breaks_deadlocks)?;
        let circle = chosen[&waiter.id].clone();
        let write = write::give_up(record, waiter, &circle);
        Some(Deed { kind: DeedKind::GiveUp { waiter: waiter.id.clone(), circle }, write, passed_over: 0 })
    }
}

fn places_of(deadlock: &Deadlock) -> BTreeSet<Place> {
    deadlock.steps.iter().filter_map(place_of).collect()
}

/// For what is waited there.
fn place_of(step: &Step) -> Option<Place> {
    step.name.split_once('/').map(|(namespace, name)| Place::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::coordination::v1::Lease;
    use leasehold::protocol::{Kind, Now};
    use serde_json::json;

    use super::super::state::{Task, What};
    use super::*;
    use crate::leases::Failure;

    fn lock(namespace: &str, version: u64, holder: &str, waiter: &str, holds: &str) -> Lease {
        let mut annotations = json!({ format!("join.leasehold.dev/{waiter}"): version.to_string() });
        if !holds.is_empty() {
            annotations[format!("holds.leasehold.dev/{waiter}")] = json!(holds);
        }
        serde_json::from_value(json!({ "metadata": { "name": "a", "namespace": namespace, "uid": namespace,
            "resourceVersion": version.to_string(), "labels": { "leasehold.dev/kind": "lock" }, "annotations": annotations },
            "spec": { "holderIdentity": holder } }))
        .unwrap()
    }

    #[test]
    fn a_circle_through_two_namespaces_is_told_once_on_each_resource_in_it() {
        let mut warden = Warden::new("test");
        let (one, two) = (Place::new("one", "a"), Place::new("two", "a"));
        let now = Moment::default();
        warden.follow(&one, Kind::Lock);
        warden.saw(lock("one", 5, "x_x.1", "y_y.2", ""), now);
        warden.saw(lock("two", 6, "y_y.1", "x_x.2", "x_x.1"), now);
        assert!(warden.find_deadlocks(now).is_empty(), "one of them has not said what it holds");
        warden.saw(lock("one", 7, "x_x.1", "y_y.2", "y_y.1"), now);
        let found = warden.find_deadlocks(now);
        assert_eq!(found.len(), 1);
        let told = found[0].to_string();
        assert!(told.contains("\"one/a\"") && told.contains("\"two/a\""), "{told}");
        assert_eq!(warden.take_incidents(&one, Kind::Lock), [Incident::Deadlock(found[0].clone())]);
        assert!(warden.take_incidents(&two, Kind::Lock).is_empty(), "nobody follows it");
        // The same is nothing new, until it was over.
        assert!(warden.find_deadlocks(now).is_empty() && !warden.has_incidents(&one, Kind::Lock));
        warden.saw(lock("two", 8, "y_y.1", "w_w.2", ""), now);
        assert!(warden.find_deadlocks(now).is_empty());
        warden.saw(lock("two", 9, "y_y.1", "x_x.2", "x_x.1"), now);
        assert_eq!(warden.find_deadlocks(now).len(), 1);
    }

    /// Who is asked to give up where, by the requests that the warden would send.
    fn asked(warden: &mut Warden, now: Moment) -> Vec<(Place, String)> {
        warden.find_deadlocks(now);
        asked_after(warden, now)
    }

    fn asked_after(warden: &mut Warden, now: Moment) -> Vec<(Place, String)> {
        let now = Now { moment: now, stamp: Timestamp::UNIX_EPOCH };
        let tasks: Vec<Task> = std::iter::from_fn(|| warden.poll(now)).collect();
        let asked = tasks.iter().filter_map(|task| match &task.what {
            What::Do(Deed { kind: DeedKind::GiveUp { waiter, circle }, .. }) => {
                assert!(circle.contains(&waiter.to_string()), "{circle}");
                Some((task.place.clone(), waiter.to_string()))
            }
            _ => None,
        });
        let asked = asked.collect();
        // Each is answered as refused, so that it may be tried again.
        for task in tasks {
            warden.answer(&task, Err(Failure::Refused), now.moment);
        }
        asked
    }

    #[test]
    fn the_youngest_of_those_whose_locks_want_it_is_to_give_up_until_it_was_told() {
        let (one, two) = (Place::new("one", "a"), Place::new("two", "a"));
        let breaks = |mut lease: Lease, also: &[(&str, &str)]| {
            let annotations = lease.metadata.annotations.get_or_insert_default();
            annotations.insert("leasehold.dev/on-deadlock".to_owned(), "break-youngest".to_owned());
            annotations.extend(also.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
            lease
        };
        let first = |version| lock("one", version, "x_x.1", "y_y.2", "y_y.1");
        let second = |version| lock("two", version, "y_y.1", "x_x.2", "x_x.1");
        let now = Moment::default();
        for (what, leases, wanted) in [
            ("nobody wants it", [first(5), second(6)], vec![]),
            ("both want it", [breaks(first(5), &[]), breaks(second(6), &[])], vec![(two.clone(), "x_x.2".to_owned())]),
            ("the older one's wants it", [breaks(first(5), &[]), second(6)], vec![(one.clone(), "y_y.2".to_owned())]),
            (
                "it was told",
                [breaks(first(5), &[]), breaks(second(6), &[("deadlock.leasehold.dev/x_x.2", "told")])],
                vec![],
            ),
        ] {
            let mut warden = Warden::new("test");
            for lease in leases {
                warden.saw(lease, now);
            }
            assert_eq!(asked(&mut warden, now), [], "{what}: it was seen only once");
            assert_eq!(asked(&mut warden, now), wanted, "{what}");
        }
        let mut warden = Warden::new("test");
        warden.follow(&one, Kind::Lock);
        warden.saw(breaks(first(5), &[]), now);
        warden.saw(second(6), now);
        assert_eq!((asked(&mut warden, now).len(), asked(&mut warden, now).len()), (0, 1));
        // Another was to see to it meanwhile.
        warden.set_acts(false, now);
        warden.set_acts(true, now);
        let now = now + std::time::Duration::from_mins(1);
        warden.saw(breaks(first(5), &[]), now);
        assert_eq!(asked_after(&mut warden, now), [], "nobody has looked since");
        assert_eq!((asked(&mut warden, now).len(), asked(&mut warden, now).len()), (0, 1));
        assert!(warden.troubles(&one).deadlock.is_some() && warden.troubles(&two).deadlock.is_some());
        warden.take_changed();
        // It has gone of its own accord.
        warden.saw(lock("two", 8, "y_y.1", "w_w.2", ""), now);
        warden.take_changed();
        assert_eq!(asked(&mut warden, now), []);
        assert_eq!(warden.troubles(&one).deadlock, None);
        assert_eq!(warden.take_changed(), [(one, Kind::Lock)], "whoever tells of it is to know that it is over");
    }
}
