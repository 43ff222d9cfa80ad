//! From one who has it to the next who waits.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};

use super::{Run, ratio, sorted_millis, whole};
use crate::contestants::{Contestant, Lasts};
use crate::peer::SOON;
use crate::results::quantile;
use crate::stage::{At, Stage};

impl Run<'_> {
    /// From a release until the only waiter has it, in another process, there and back.
    pub(crate) async fn hand_off(&mut self, contestant: &Contestant) -> Result<()> {
        let (rounds, limit) = self.plan.hand_offs;
        let took = hand_offs(self.stage, contestant, At::Main, &self.lock("handoff"), rounds, limit).await?;
        self.add_hand_offs("handoff", contestant, &took);
        Ok(())
    }

    pub(super) fn add_hand_offs(&mut self, workload: &str, contestant: &Contestant, took: &HandOffs) {
        let n = took.millis.len() as u64;
        for (metric, part) in [("median_ms", 0.5), ("p95_ms", 0.95)] {
            if let Some(value) = quantile(&took.millis, part) {
                self.add(workload, contestant, metric, value, n);
            }
        }
        self.add(workload, contestant, "overlaps", ratio(took.overlaps, 1.0), n);
    }

    /// A bare PUT's event in another process.
    pub(crate) async fn floor_event(&mut self, floor: &Contestant) -> Result<()> {
        let (rounds, limit) = self.plan.hand_offs;
        let name = self.lock("handoff");
        self.stage.lease(floor, At::Main, &name).await?;
        let (mut writes, mut watches) =
            (self.stage.peer(floor, At::Main, Lasts::Own).await?, self.stage.peer(floor, At::Main, Lasts::Own).await?);
        watches.open(&name, 1, false).await?;
        writes.open(&name, 1, false).await?;
        let (mut took, end) = (HandOffs::default(), Instant::now() + limit);
        while took.millis.len() < rounds as usize && Instant::now() < end {
            watches.acquire(0).await?;
            settle(floor.settle).await;
            let begun = writes.release(0).await?;
            took.record(begun, watches.acquired(0, SOON).await?);
        }
        took.finish();
        self.add_hand_offs("handoff", floor, &took);
        Ok(())
    }

    /// Tasks of one process, by one client: hand-off between two, and the same task again and again.
    pub(crate) async fn in_process(&mut self, contestant: &Contestant) -> Result<()> {
        let (rounds, limit) = self.plan.hand_offs;
        let mut peer = self.opened(contestant, &self.lock("in-process"), 2, true).await?;
        let (mut took, end) = (HandOffs::default(), Instant::now() + limit);
        peer.acquire(0).await?;
        peer.acquired(0, SOON).await?;
        let mut turn = [0, 1];
        while took.millis.len() < rounds as usize && Instant::now() < end {
            peer.acquire(turn[1]).await?;
            settle(contestant.settle).await;
            let begun = peer.release(turn[0]).await?;
            took.record(begun, peer.acquired(turn[1], SOON).await?);
            turn.swap(0, 1);
        }
        peer.release(turn[0]).await?;
        took.finish();
        self.add_hand_offs("in-process", contestant, &took);
        let (rounds, limit) = self.plan.cycles;
        let answer = peer.ask(&format!("cycle {rounds} {}", limit.as_millis()), "cycled", SOON + limit).await?;
        let again = sorted_millis(&answer[1..]);
        let median = quantile(&again, 0.5).context("a cycle")?;
        self.add("in-process", contestant, "reacquire_ms", median, again.len() as u64);
        Ok(())
    }
}

#[derive(Default)]
pub(super) struct HandOffs {
    millis: Vec<f64>,
    /// How often the next had it before the one before let go.
    overlaps: u64,
}

impl HandOffs {
    fn record(&mut self, released: i64, acquired: i64) {
        if acquired < released {
            self.overlaps += 1;
        } else {
            self.millis.push(ratio(whole(acquired - released), 1e6));
        }
    }

    fn finish(&mut self) {
        self.millis.sort_by(f64::total_cmp);
    }
}

/// Two processes hand a lock to and fro.
pub(super) async fn hand_offs(
    stage: &Stage,
    contestant: &Contestant,
    at: At,
    lock: &str,
    rounds: u32,
    limit: Duration,
) -> Result<HandOffs> {
    stage.lease(contestant, at, lock).await?;
    let mut turn = [stage.peer(contestant, at, Lasts::Own).await?, stage.peer(contestant, at, Lasts::Own).await?];
    for peer in &mut turn {
        peer.open(lock, 1, false).await?;
    }
    let (mut took, end) = (HandOffs::default(), Instant::now() + limit);
    turn[0].acquire(0).await?;
    turn[0].acquired(0, SOON).await?;
    while took.millis.len() < rounds as usize && Instant::now() < end {
        turn[1].acquire(0).await?;
        settle(contestant.settle).await;
        let begun = turn[0].release(0).await?;
        // Longer than any lease lasts. The first is always waited for.
        let acquired = turn[1].acquired(0, Duration::from_secs(75)).await?;
        took.record(begun, acquired);
        turn.swap(0, 1);
    }
    took.finish();
    Ok(took)
}

/// Leaves a waiter alone for so many milliseconds, and up to as many more.
async fn settle(least: u64) {
    sleep(Duration::from_millis(rand::random_range(least..=2 * least))).await;
}
