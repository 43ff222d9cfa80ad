//! The one grant rule: holders, a queue and a capacity; as many from the head of the queue as fit.
//!
//! A mutex has one permit, and everybody wants one. A reader takes one of a great many, a writer all.

use super::record::{Holder, MOST_BYTES, Record, Waiter};
use super::want::{Kind, Mode};
use super::write::shared::Round;

/// How many waiters one command lets in or removes at most: each takes some operations of a patch, of which the API server
/// takes ten thousand.
const AT_ONCE: usize = 500;

/// Who can be let in, given who is dead.
///
/// The queue is served in its order, as long as the *next in line* fits. Nobody is overtaken: a large request at the head
/// waits, and everything behind it waits with it. While a holder waits to become the only one, nobody is let in.
#[must_use]
pub fn round(record: &Record, is_dead: impl Fn(&Holder) -> bool, has_ended: impl Fn(&Waiter) -> bool) -> Round<'_> {
    let (dead, alive): (Vec<_>, Vec<_>) = record.holders().partition(|holder| is_dead(holder));
    let permits = |mode: Mode| mode.permits(record.capacity);
    let held = alive.iter().map(|holder| permits(holder.mode)).fold(0, u32::saturating_add);
    let upgrading = record.upgrading.as_ref();
    let closed = upgrading.is_some_and(|id| alive.iter().any(|holder| holder.id.as_ref() == Some(id)));
    let mut upgradeable = alive.iter().any(|holder| holder.mode == Mode::Upgradeable);
    let mut round = Round { dead, free: record.capacity.saturating_sub(held), ..Round::default() };
    // What lets several in makes the object larger, and there is an end to that. A lock passes to one.
    let several = record.kind != Kind::Lock;
    let mut room = if several { MOST_BYTES.saturating_sub(record.annotation_bytes()) } else { MOST_BYTES };
    for waiter in &record.waiters {
        if several && round.served.len() + round.passed_over.len() >= AT_ONCE {
            round.next.get_or_insert(waiter);
            break;
        }
        if has_ended(waiter) {
            round.passed_over.push(waiter);
            continue;
        }
        let mode = waiter.want.mode;
        let fits =
            permits(mode) <= round.free && !(upgradeable && mode == Mode::Upgradeable) && waiter.growth() <= room;
        if closed || round.next.is_some() || !fits {
            round.next.get_or_insert(waiter);
            continue;
        }
        round.free -= permits(mode);
        room -= waiter.growth();
        upgradeable |= mode == Mode::Upgradeable;
        round.served.push(waiter);
    }
    if closed {
        round.free = 0;
    }
    round
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn queue(kind: &str, waiters: usize, filler: usize) -> Record {
        let mut annotations = json!({ "leasehold.dev/permits": "100000", "filler": "x".repeat(filler) });
        for n in 0..waiters {
            annotations[format!("join.leasehold.dev/pod_abc.{n}")] = json!((n + 1).to_string());
        }
        let lease = json!({ "metadata": { "name": "a", "uid": "u", "resourceVersion": "9999",
            "labels": { "leasehold.dev/kind": kind }, "annotations": annotations } });
        Record::parse(serde_json::from_value(lease).unwrap()).unwrap()
    }

    #[test]
    fn one_command_lets_in_no_more_than_the_api_server_takes() {
        let record = queue("semaphore", AT_ONCE + 7, 0);
        let served = round(&record, |_| false, |_| false);
        assert_eq!((served.served.len(), served.next.map(|next| next.ticket.0)), (AT_ONCE, Some(501)));
        let dead = round(&record, |_| false, |_| true);
        assert_eq!((dead.passed_over.len(), dead.next.map(|next| next.ticket.0)), (AT_ONCE, Some(501)));
        // The bytes are counted in advance, and none of those who are let in makes them more than that.
        let record = queue("semaphore", 50, 253 * 1024);
        let some = round(&record, |_| false, |_| false);
        let growth: usize = some.served.iter().map(|waiter| waiter.growth()).sum();
        assert!(!some.served.is_empty() && some.next.is_some());
        assert!(record.annotation_bytes() + growth <= MOST_BYTES, "{growth} more");
    }

    #[test]
    fn a_lock_passes_to_the_first_who_lives_however_many_have_died_before() {
        let record = queue("lock", AT_ONCE + 7, 200 * 1024);
        let last = record.waiters.last().unwrap();
        let round = round(&record, |_| false, |waiter| waiter.id != last.id);
        assert_eq!(round.served.first().map(|waiter| &waiter.id), Some(&last.id));
    }
}
