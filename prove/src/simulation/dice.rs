//! Everything that is left to chance, from one seed.

use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Random numbers that are the same in every run with the same seed.
#[derive(Debug)]
pub(super) struct Dice(StdRng);

impl Dice {
    /// Dice of their own for `what`: what others draw does not change what these do.
    pub(super) fn new(seed: u64, what: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ what);
        let _ = rng.random::<u64>();
        Self(rng)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0.random()
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    pub(super) fn from<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub(super) fn between(&mut self, range: Range<f64>) -> f64 {
        self.0.random_range(range)
    }

    /// A time in milliseconds. Short ones are as likely as long ones: it is even on a logarithmic scale.
    pub(super) fn millis(&mut self, range: Range<u64>) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "they are small")]
        let (low, high) = ((range.start.max(1) as f64).ln(), (range.end as f64).ln());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they are small and positive")]
        let millis = if low < high { self.between(low..high).exp() as u64 } else { range.start };
        Duration::from_millis(millis)
    }
}
