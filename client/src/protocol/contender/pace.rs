//! When to look again though nothing happens, and how long to pause after a failure.

use std::time::Duration;

use super::super::{Kind, Liveness, Moment, Record, renew_interval};
use super::{Contender, Known, NEAR, Stage, Turn};

/// So many of a lock's waiters see all that happens to it, if they wait for long: an event goes to each of them.
const SEE_ALL: usize = 16;

impl Contender {
    /// Whether so little has happened for so long that this client, far back in the queue, sees itself to whether the
    /// holder lives: the further back, the longer, so that not all begin at once.
    pub(super) fn is_stuck(&self, now: Moment) -> bool {
        let (Some(turn), Known::Present(record)) = (&self.turn, &self.known) else { return self.stuck };
        now >= self.stuck_from(turn, record).unwrap_or(now)
    }

    /// When it will be so, if nothing moves until then.
    pub(super) fn stuck_from(&self, turn: &Turn, record: &Record) -> Option<Moment> {
        let places = u32::try_from(record.position(&turn.id).unwrap_or(0) / NEAR).unwrap_or(u32::MAX);
        let (_, _, since) = self.front.as_ref()?;
        Some(*since + self.session_duration.saturating_mul(places))
    }

    /// A lock's waiter that would look again watches all that happens from now on instead, if there are not too many
    /// before it: a watch that begins with what is there then shows as much as a read.
    pub(super) fn settle_down(&mut self, now: Moment) {
        let (Some(turn), Known::Present(record)) = (&mut self.turn, &self.known) else { return };
        let waits = record.kind == Kind::Lock && turn.stage == Stage::Waiting;
        let position = record.position(&turn.id);
        let near = position.is_some_and(|position| position < SEE_ALL);
        let settled = self.exits.is_empty() && self.ghosts.is_empty();
        let relies = turn.quiet && self.sees_all && position != Some(0) && settled;
        if waits && near && !turn.quiet && now >= self.read_at.max(self.retry_at) {
            turn.quiet = true;
            self.look_again(now);
        } else if waits && relies != self.relies_on_watch && now >= self.retry_at {
            self.look_again(now);
        }
    }

    /// Something is known now: when to look again though nothing happens.
    pub(super) fn look_again(&mut self, now: Moment) {
        self.retry_at = now;
        let every = renew_interval(self.session_duration);
        let waiting = self.turn.as_ref().filter(|turn| turn.stage == Stage::Waiting);
        // The first in the queue looks for itself all the same: where a watch is deaf, somebody has to.
        let first = |turn: &Turn| matches!(&self.known, Known::Present(record) if record.position(&turn.id) == Some(0));
        let watched = match waiting {
            Some(turn) => turn.quiet && self.sees_all && !first(turn),
            None => self.watched && self.turn.is_none() && !self.holds.is_empty(),
        };
        self.relies_on_watch = watched && self.exits.is_empty() && self.ghosts.is_empty();
        let every = match (waiting, &self.known) {
            _ if self.relies_on_watch => every * 9,
            (Some(turn), Known::Present(record)) => {
                let every = record.holders().fold(every, |every, holder| match holder.liveness {
                    Liveness::Own(duration) => every.min(renew_interval(duration)),
                    Liveness::Session(_) => every,
                });
                match record.position(&turn.id).unwrap_or(0) {
                    0..4 => every,
                    4..16 => every * 2,
                    _ => every * 4,
                }
            }
            _ => every,
        };
        self.read_at = now + every.mul_f64(0.9 + 0.1 * self.random());
    }

    /// The pause after so many failures.
    pub(super) fn backoff(&mut self, failures: u32) -> Duration {
        let most = renew_interval(self.session_duration).min(Duration::from_secs(2));
        let pause = Duration::from_millis(20) * (1 << failures.min(8));
        pause.min(most).mul_f64(0.75 + 0.5 * self.random())
    }

    /// A number from 0 to 1. Marsaglia's xorshift: it need not be good, only different from client to client.
    #[expect(clippy::cast_precision_loss, reason = "only so much precision is wanted")]
    fn random(&mut self) -> f64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        (self.jitter >> 32) as f64 / f64::from(u32::MAX)
    }
}
