//! Who waits for whom: which waiters can never be let in, because those who are in their way wait as well.
//!
//! A waiter may say what its task holds elsewhere ([`HOLDS`](super::record::HOLDS)); that it gives back only when it is
//! let in. From what stands on all Leases at one time it follows who is stuck: everybody at first; then whoever finds room
//! once all have let go who are not stuck is not stuck either, and so on until nothing changes (the reduction of a
//! wait-for graph: Holt, *Some Deadlock Properties of Computer Systems*, 1972). It holds for semaphores as well, where a
//! circle alone proves nothing: another holder may give its permits back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{HolderId, Mode, Record, Ticket};

/// One lock, semaphore or read-write lock, and who waits for it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name.
    pub name: String,
    capacity: u32,
    holders: Vec<(String, Mode)>,
    waiters: Vec<Waits>,
}

/// Somebody who waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Its identity.
    pub who: String,
    /// Its place in the queue. `None`: it stands behind all, and only its own process knows.
    pub ticket: Option<Ticket>,
    /// What it wants.
    pub mode: Mode,
    /// What its task holds elsewhere.
    pub holds: BTreeSet<String>,
}

impl Place {
    /// What stands on a Lease.
    #[must_use]
    pub fn of(name: &str, record: &Record) -> Self {
        let ids = |ids: &[HolderId]| ids.iter().map(ToString::to_string).collect();
        let mut waiters: Vec<_> = record
            .waiters
            .iter()
            .map(|waiter| Waits {
                who: waiter.id.to_string(),
                ticket: Some(waiter.ticket),
                mode: waiter.want.mode,
                holds: ids(&waiter.holds),
            })
            .collect();
        // A reader that wants to write waits before all others, for all others.
        if let Some(id) = &record.upgrading {
            let who = id.to_string();
            let ticket = Some(Ticket::default());
            waiters.insert(0, Waits { holds: [who.clone()].into(), who, ticket, mode: Mode::Write });
        }
        let holders = record.holders().map(|holder| (holder.identity.clone(), holder.mode)).collect();
        Self { name: name.to_owned(), capacity: record.capacity, holders, waiters }
    }

    /// This one waits here, if it does, and holds this elsewhere, whether it has said so or not.
    pub fn holds_elsewhere(&mut self, who: &str, holds: impl IntoIterator<Item = String>) -> bool {
        let waits = self.waiters.iter_mut().find(|waits| waits.who == who);
        waits.map(|waits| waits.holds.extend(holds)).is_some()
    }

    /// Somebody else waits, behind all others.
    pub fn also(&mut self, waits: Waits) {
        self.waiters.push(waits);
    }

    /// Who of the holders is in this one's way for ever, where `stuck` tells which holders never let go.
    fn in_the_way<'a>(&'a self, waits: &Waits, stuck: impl Fn(&str) -> bool) -> Vec<&'a str> {
        let others = self.holders.iter().filter(|(identity, _)| *identity != waits.who && stuck(identity));
        let others: Vec<_> = others.collect();
        let held = others.iter().map(|(_, mode)| mode.permits(self.capacity)).fold(0, u32::saturating_add);
        let upgradeable = |mode: Mode| mode == Mode::Upgradeable && waits.mode == Mode::Upgradeable;
        let fits = waits.mode.permits(self.capacity) <= self.capacity.saturating_sub(held)
            && !others.iter().any(|(_, mode)| upgradeable(*mode));
        if fits { Vec::new() } else { others.into_iter().map(|(identity, _)| identity.as_str()).collect() }
    }
}

/// Some who wait for each other in a circle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadlock {
    /// Each is in the way of the one before it, and the first in that of the last. The oldest is the first.
    ///
    /// None where only the operator has seen the circle, and has told a waiter of it.
    pub steps: Vec<Step>,
    /// What the operator has told of it, for people.
    pub told: Option<String>,
}

/// One of those who wait for each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Who waits: its identity.
    pub waiter: String,
    /// For what: its name.
    pub name: String,
    /// Its place in the queue. `None`: only its own process knows that it waits.
    pub ticket: Option<Ticket>,
    /// The hold that is in its way: its identity. `None`: it is the next one's place in the queue.
    pub held_by: Option<String>,
}

impl Deadlock {
    /// One of which the operator has told.
    #[must_use]
    pub fn told(circle: String) -> Self {
        Self { steps: Vec::new(), told: Some(circle) }
    }

    /// Whether it is this one who has come last.
    #[must_use]
    pub fn is_youngest(&self, who: &str) -> bool {
        // Who has no ticket has not come yet, as far as the others know.
        let age = |step: &&Step| (step.ticket.is_none(), step.ticket, step.waiter.clone());
        self.steps.iter().max_by_key(age).is_some_and(|step| step.waiter == who)
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn includes(&self, who: &str) -> bool {
        self.steps.iter().any(|step| step.waiter == who)
    }
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(told) = &self.told {
            return f.write_str(told);
        }
        for (n, step) in self.steps.iter().enumerate() {
            let next = &self.steps[(n + 1) % self.steps.len()].waiter;
            f.write_str(if n == 0 { "" } else { "; " })?;
            write!(f, "{} waits for {:?}", step.waiter, step.name)?;
            match &step.held_by {
                Some(hold) if hold == next => write!(f, ", held by it")?,
                Some(hold) if self.steps.len() == 1 => write!(f, ", held by itself as {hold}")?,
                Some(hold) => write!(f, ", held as {hold} by {next}")?,
                None => write!(f, " behind {next}")?,
            }
        }
        Ok(())
    }
}

/// The circles in which those wait who are at these places.
#[must_use]
pub fn deadlocks(places: &[Place]) -> Vec<Deadlock> {
    let everybody = places.iter().flat_map(|place| place.waiters.iter().map(move |waits| (place, waits)));
    let everybody: Vec<(&Place, &Waits)> = everybody.collect();
    // Who has said of a hold that it gives it back only when it is let in.
    let mut keeps: BTreeMap<&str, usize> = BTreeMap::new();
    for (n, (_, waits)) in everybody.iter().enumerate() {
        keeps.extend(waits.holds.iter().map(|hold| (hold.as_str(), n)));
    }
    let mut stuck = vec![true; everybody.len()];
    loop {
        let mut changed = false;
        let mut ahead_is_stuck = BTreeSet::new();
        for (n, (place, waits)) in everybody.iter().enumerate() {
            if !stuck[n] {
                continue;
            }
            let held_for_ever = |hold: &str| keeps.get(hold).is_some_and(|keeper| stuck[*keeper]);
            if ahead_is_stuck.contains(&place.name) || !place.in_the_way(waits, held_for_ever).is_empty() {
                ahead_is_stuck.insert(&place.name);
            } else {
                (stuck[n], changed) = (false, true);
            }
        }
        if !changed {
            break;
        }
    }
    // From whoever is stuck to one who is in its way, until one comes again: that is a circle.
    let next = |n: usize| -> Option<(usize, Option<String>)> {
        let (place, waits) = everybody[n];
        let held_for_ever = |hold: &str| keeps.get(hold).is_some_and(|keeper| stuck[*keeper]);
        let holder = place.in_the_way(waits, held_for_ever).first().map(|hold| (keeps[hold], Some((*hold).to_owned())));
        let ahead = || {
            let before = everybody[..n].iter().rposition(|(other, _)| other.name == place.name)?;
            stuck[before].then_some((before, None))
        };
        holder.or_else(ahead)
    };
    let mut found: Vec<Deadlock> = Vec::new();
    for start in (0..everybody.len()).filter(|n| stuck[*n]) {
        let mut path: Vec<(usize, Option<String>)> = Vec::new();
        let mut at = start;
        while let Some((to, hold)) = next(at) {
            if let Some(begin) = path.iter().position(|(before, _)| *before == at) {
                let circle = &path[begin..];
                let step = |(n, held_by): &(usize, Option<String>)| Step {
                    waiter: everybody[*n].1.who.clone(),
                    name: everybody[*n].0.name.clone(),
                    ticket: everybody[*n].1.ticket,
                    held_by: held_by.clone(),
                };
                let mut steps: Vec<_> = circle.iter().map(step).collect();
                // Wherever the circle was entered, it begins with the same: more than one of them may be upgrading.
                let age = |step: &Step| (step.ticket.is_none(), step.ticket, step.waiter.clone());
                let oldest = (0..steps.len()).min_by_key(|n| age(&steps[*n]));
                steps.rotate_left(oldest.unwrap_or_default());
                let deadlock = Deadlock { steps, told: None };
                if !found.contains(&deadlock) {
                    found.push(deadlock);
                }
                break;
            }
            path.push((at, hold));
            at = to;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A lock, or what the kind says, with holders and waiters: `identity mode holds…`.
    fn place(name: &str, kind: &str, permits: u32, holders: &[&str], waiters: &[&str]) -> Place {
        let mut annotations = json!({ "leasehold.dev/permits": permits.to_string() });
        let mut holder = kind.to_owned();
        for text in holders {
            let (id, mode) = text.split_once(' ').unwrap_or((text, "1"));
            if kind == "lock" {
                id.clone_into(&mut holder);
            } else {
                annotations[format!("holder.leasehold.dev/{id}")] = json!("1");
                annotations[format!("want.leasehold.dev/{id}")] = json!(mode);
            }
        }
        for (n, text) in waiters.iter().enumerate() {
            let mut words = text.split(' ');
            let (id, mode) = (words.next().unwrap(), words.next().unwrap_or("1"));
            let age = u64::try_from(n).unwrap() * 10 + u64::from(name.as_bytes()[0]);
            annotations[format!("join.leasehold.dev/{id}")] = json!(age.to_string());
            annotations[format!("want.leasehold.dev/{id}")] = json!(mode);
            annotations[format!("holds.leasehold.dev/{id}")] = json!(words.collect::<Vec<_>>().join(" "));
        }
        let lease = json!({ "metadata": { "name": name, "uid": "u", "resourceVersion": "99",
            "labels": { "leasehold.dev/kind": kind }, "annotations": annotations },
            "spec": { "holderIdentity": holder } });
        Place::of(name, &Record::parse(serde_json::from_value(lease).unwrap()).unwrap())
    }

    fn lock(name: &str, holder: &str, waiters: &[&str]) -> Place {
        place(name, "lock", 1, &[holder], waiters)
    }

    fn told(places: &[Place]) -> Vec<String> {
        deadlocks(places).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn two_who_hold_what_the_other_wants() {
        let places = [lock("a", "x_x.1", &["y_y.2 1 y_y.1"]), lock("b", "y_y.1", &["x_x.2 1 x_x.1"])];
        assert_eq!(
            told(&places),
            ["y_y.2 waits for \"a\", held as x_x.1 by x_x.2; x_x.2 waits for \"b\", held as y_y.1 by y_y.2"]
        );
        let deadlock = &deadlocks(&places)[0];
        assert!(deadlock.is_youngest("x_x.2") && !deadlock.is_youngest("y_y.2") && deadlock.includes("y_y.2"));
        // One of them does not say what it holds, or holds something else: it may let go.
        assert!(told(&[lock("a", "x_x.1", &["y_y.2"]), lock("b", "y_y.1", &["x_x.2 1 x_x.1"])]).is_empty());
        assert!(told(&[lock("a", "x_x.1", &["y_y.2 1 y_y.7"]), lock("b", "y_y.1", &["x_x.2 1 x_x.1"])]).is_empty());
    }

    #[test]
    fn three_in_a_circle_and_whoever_waits_behind_them_is_not_in_it() {
        let places = [
            lock("a", "x_x.1", &["z_z.2 1 z_z.1", "w_w.1"]),
            lock("b", "y_y.1", &["x_x.2 1 x_x.1"]),
            lock("c", "z_z.1", &["y_y.2 1 y_y.1"]),
        ];
        let found = deadlocks(&places);
        assert_eq!((found.len(), found[0].steps.len()), (1, 3));
        assert!(!found[0].includes("w_w.1"));
    }

    #[test]
    fn a_place_in_the_queue_can_be_in_the_way() {
        // x waits for a behind z, which waits for what x holds.
        let places = [
            place("a", "rwlock", 0, &["r_r.1 read"], &["z_z.1 write z_z.9", "x_x.2 read x_x.1"]),
            lock("b", "x_x.1", &["r_r.2 1 r_r.1"]),
        ];
        assert_eq!(
            told(&places),
            ["z_z.1 waits for \"a\", held as r_r.1 by r_r.2; r_r.2 waits for \"b\", held as x_x.1 by x_x.2; \
              x_x.2 waits for \"a\" behind z_z.1"]
        );
    }

    #[test]
    fn a_circle_of_permits_is_none_where_somebody_else_can_give_some_back() {
        let waits = ["y_y.2 1 y_y.1"];
        let stuck = lock("b", "y_y.1", &["x_x.2 1 x_x.1"]);
        let full = place("a", "semaphore", 1, &["x_x.1 1"], &waits);
        assert_eq!(deadlocks(&[full, stuck.clone()]).len(), 1);
        let other = place("a", "semaphore", 2, &["x_x.1 1", "w_w.1 1"], &waits);
        assert!(told(&[other, stuck.clone()]).is_empty());
        let too_few = place("a", "semaphore", 2, &["x_x.1 1", "w_w.1 1"], &["y_y.2 2 y_y.1"]);
        assert_eq!(deadlocks(&[too_few, stuck]).len(), 1);
    }

    #[test]
    fn readers_share_and_an_upgrade_waits_for_them() {
        let readers = place("a", "rwlock", 0, &["x_x.1 read"], &["y_y.2 read y_y.1"]);
        let other = lock("b", "y_y.1", &["x_x.2 1 x_x.1"]);
        assert!(told(&[readers, other.clone()]).is_empty(), "both can read");
        let writer = place("a", "rwlock", 0, &["x_x.1 read"], &["y_y.2 write y_y.1"]);
        assert_eq!(deadlocks(&[writer, other]).len(), 1);
    }

    #[test]
    fn a_circle_of_two_who_upgrade_is_one() {
        // Each reads both, says so, and waits to write one of them.
        let upgrading = |name: &str, id: &str, other: &str| {
            let mut place = place(name, "rwlock", 0, &[&format!("{id} upgradeable"), &format!("{other} read")], &[]);
            let waits = Waits {
                who: id.to_owned(),
                ticket: Some(Ticket::default()),
                mode: Mode::Write,
                holds: BTreeSet::new(),
            };
            place.also(waits);
            place
        };
        let mut places = [upgrading("a", "x_x.1", "y_y.2"), upgrading("b", "y_y.1", "x_x.2")];
        assert!(places[0].holds_elsewhere("x_x.1", ["x_x.2".to_owned()]));
        assert!(places[1].holds_elsewhere("y_y.1", ["y_y.2".to_owned()]));
        let told = told(&places);
        assert_eq!(told.len(), 1, "{told:?}");
    }

    #[test]
    fn who_waits_in_its_own_process_is_the_youngest() {
        let mut a = lock("a", "x_x.1", &[]);
        a.also(Waits {
            who: "here 1".to_owned(),
            ticket: None,
            mode: Mode::Permits(1),
            holds: ["y_y.1".to_owned()].into(),
        });
        let found = deadlocks(&[a, lock("b", "y_y.1", &["x_x.2 1 x_x.1"])]);
        assert!(found.len() == 1 && found[0].is_youngest("here 1"), "{found:?}");
        assert_eq!(found[0].steps[0].waiter, "x_x.2", "the oldest is the first");
    }
}
