//! Clients that wait for each other in a circle: found on what they say on the Leases, over all namespaces that are watched.

use std::collections::BTreeMap;

use leasehold::protocol::Moment;
use leasehold::protocol::deadlock::{Deadlock, Place as Node, deadlocks};

use super::Place;
use super::state::{Incident, Warden};

impl Warden {
    /// Looks for deadlocks, and notes on each followed resource that is in one what was not known before. Those that are
    /// new.
    ///
    /// It costs little while nobody who waits says that he holds something.
    pub fn find_deadlocks(&mut self, now: Moment) -> Vec<Deadlock> {
        let says = |place: &&Place| self.locks[*place].record.waiters.iter().any(|waiter| !waiter.holds.is_empty());
        if !self.locks.keys().any(|place| says(&place)) {
            self.deadlocks.clear();
            return Vec::new();
        }
        let queues =
            self.locks.iter().filter(|(_, lock)| !lock.record.waiters.is_empty() || lock.record.upgrading.is_some());
        let places: BTreeMap<String, &Place> = queues.map(|(place, _)| (place.to_string(), place)).collect();
        let nodes: Vec<Node> = places.iter().map(|(name, place)| Node::of(name, &self.locks[*place].record)).collect();
        let found = deadlocks(&nodes);
        let new: Vec<Deadlock> = found.iter().filter(|deadlock| !self.deadlocks.contains(deadlock)).cloned().collect();
        let concerned = new.iter().flat_map(|deadlock| deadlock.steps.iter().map(move |step| (deadlock, step)));
        let concerned: Vec<_> = concerned
            .filter_map(|(deadlock, step)| Some(((*places.get(&step.name)?).clone(), deadlock.clone())))
            .collect();
        self.deadlocks = found;
        for (place, deadlock) in concerned {
            let kind = self.locks.get(&place).map(|lock| lock.record.kind);
            let kinds = self.followed.get_mut(&place).zip(kind);
            if let Some(incidents) = kinds.and_then(|(kinds, kind)| kinds.get_mut(&kind)) {
                incidents.push(Incident::Deadlock(deadlock));
            }
            self.touch(&place, now);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::Lease;
    use leasehold::protocol::Kind;
    use serde_json::json;

    use super::*;

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
}
