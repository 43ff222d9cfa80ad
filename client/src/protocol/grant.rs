//! The one grant rule: holders, a queue and a capacity; as many from the head of the queue as fit.
//!
//! A mutex has one permit, and everybody wants one. A reader takes one of a great many, a writer all.

use super::record::{Holder, Record, Waiter};
use super::want::Mode;
use super::write::shared::Round;

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
    for waiter in &record.waiters {
        if has_ended(waiter) {
            round.passed_over.push(waiter);
            continue;
        }
        let mode = waiter.want.mode;
        let fits = permits(mode) <= round.free && !(upgradeable && mode == Mode::Upgradeable);
        if closed || round.next.is_some() || !fits {
            round.next.get_or_insert(waiter);
            continue;
        }
        round.free -= permits(mode);
        upgradeable |= mode == Mode::Upgradeable;
        round.served.push(waiter);
    }
    if closed {
        round.free = 0;
    }
    round
}
