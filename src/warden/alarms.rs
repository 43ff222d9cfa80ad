//! When to look at what again.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use leasehold::protocol::Moment;

/// At most one alarm per key, the earliest first.
#[derive(Debug)]
pub(super) struct Alarms<K> {
    by_time: BTreeSet<(Moment, K)>,
    by_key: HashMap<K, Moment>,
}

impl<K> Default for Alarms<K> {
    fn default() -> Self {
        Self { by_time: BTreeSet::new(), by_key: HashMap::new() }
    }
}

impl<K: Clone + Ord + Hash> Alarms<K> {
    /// Sets the alarm of this key, instead of the one it may have.
    pub(super) fn set(&mut self, key: &K, at: Moment) {
        self.clear(key);
        self.by_key.insert(key.clone(), at);
        self.by_time.insert((at, key.clone()));
    }

    /// Sets the alarm of this key unless it has an earlier one.
    pub(super) fn set_by(&mut self, key: &K, at: Moment) {
        if self.by_key.get(key).is_none_or(|known| *known > at) {
            self.set(key, at);
        }
    }

    /// Removes the alarm of this key.
    pub(super) fn clear(&mut self, key: &K) {
        if let Some(known) = self.by_key.remove(key) {
            self.by_time.remove(&(known, key.clone()));
        }
    }

    /// Takes the earliest key whose time has come.
    pub(super) fn pop(&mut self, now: Moment) -> Option<K> {
        if self.by_time.first()?.0 > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    /// When the earliest alarm is.
    pub(super) fn next(&self) -> Option<Moment> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_key_has_one_alarm_and_the_earliest_comes_first() {
        let at = |seconds| Moment::from_start(Duration::from_secs(seconds));
        let mut alarms = Alarms::default();
        alarms.set(&"a", at(5));
        alarms.set(&"b", at(3));
        alarms.set(&"a", at(4));
        alarms.set_by(&"b", at(9));
        assert_eq!((alarms.next(), alarms.pop(at(2))), (Some(at(3)), None));
        assert_eq!((alarms.pop(at(5)), alarms.pop(at(5)), alarms.pop(at(5))), (Some("b"), Some("a"), None));
    }
}
