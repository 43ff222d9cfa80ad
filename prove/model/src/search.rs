//! Breadth first through all states of a scenario: what is found is found by a shortest path.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use leasehold::clock;

use super::ending::{Stragglers, follow};
use super::invariants::{Violation, judge};
use super::scenario::Scenario;
use super::story;
use super::world::{Effects, World};

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) states: usize,
    pub(super) transitions: u64,
    pub(super) depth: usize,
    /// States that were followed to their fair end.
    pub(super) ends: u64,
    pub(super) longest_wait: Duration,
    pub(super) took: Duration,
    /// It gave up before it had seen all.
    pub(super) cut: bool,
    /// A violation, told.
    pub(super) violation: Option<String>,
}

/// Fingerprints are hashes already.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are hashed");
    }

    fn write_u64(&mut self, print: u64) {
        self.0 = print;
    }
}

/// Of each state the one that it was first reached from, and by which of its moves.
type Seen = HashMap<u64, (u64, u16), BuildHasherDefault<AsIs>>;

/// Searches a scenario to its bounds, or until something is wrong, or it has seen `most` states.
pub(super) fn search(scenario: &Scenario, most: usize) -> Outcome {
    let begin = clock::moment();
    let mut outcome = Outcome::default();
    let mut seen = Seen::default();
    let first = World::new(scenario);
    seen.insert(first.print(), (0, 0));
    let mut level = vec![first];
    'search: while !level.is_empty() && outcome.depth < scenario.depth {
        let mut next = Vec::new();
        for world in level.drain(..) {
            let from = world.print();
            let moves = world.moves(scenario);
            let followed = from % scenario.sample == 0 || (moves.is_empty() && from % (scenario.sample / 4 + 1) == 0);
            if followed && let Err((violation, stragglers)) = ends_well(&world, scenario, &mut outcome) {
                let path = path(&seen, from);
                let told = story::tell(scenario, &path, None, Some(stragglers), &violation);
                outcome.violation = Some(told);
                break 'search;
            }
            for (number, action) in moves.iter().enumerate() {
                let mut after = world.clone();
                let mut effects = Effects::default();
                after.apply(action, scenario, &mut effects);
                outcome.transitions += 1;
                let number = u16::try_from(number).expect("few moves");
                if let Err(violation) = judge(&after, &effects, scenario) {
                    let told = story::tell(scenario, &path(&seen, from), Some(number), None, &violation);
                    outcome.violation = Some(told);
                    break 'search;
                }
                if let std::collections::hash_map::Entry::Vacant(entry) = seen.entry(after.print()) {
                    entry.insert((from, number));
                    next.push(after);
                }
            }
            if seen.len() >= most {
                outcome.cut = true;
                break 'search;
            }
        }
        level = next;
        outcome.depth += 1;
    }
    outcome.states = seen.len();
    outcome.took = clock::moment().since(begin);
    outcome
}

fn ends_well(world: &World, scenario: &Scenario, outcome: &mut Outcome) -> Result<(), (Violation, Stragglers)> {
    for stragglers in [Stragglers::Lost, Stragglers::Last] {
        if matches!(stragglers, Stragglers::Last) && world.late.is_empty() {
            continue;
        }
        let waited = follow(world.clone(), scenario, stragglers, |_, _, _| {});
        let waited = waited.map_err(|violation| (violation, stragglers))?;
        outcome.ends += 1;
        outcome.longest_wait = outcome.longest_wait.max(waited);
    }
    Ok(())
}

/// The moves that lead to a state from the beginning.
fn path(seen: &Seen, to: u64) -> Vec<u16> {
    let mut path = Vec::new();
    let mut at = to;
    while let Some((from, number)) = seen.get(&at).filter(|(from, _)| *from != 0) {
        path.push(*number);
        at = *from;
    }
    path.reverse();
    path
}
