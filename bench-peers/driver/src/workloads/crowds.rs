//! Many who want one lock.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep};

use super::{Run, ratio, seconds, whole};
use crate::contestants::{Contestant, Family};
use crate::peer::{Peer, SOON};

/// How long a turn is held while it is looked whether two hold at once, by everybody alike. Timers make it up to a
/// millisecond more.
const HELD: Duration = Duration::from_millis(1);

impl Run<'_> {
    /// Many want the same, each with a connection of its own, all the time.
    pub(crate) async fn contended(&mut self, contestant: &Contestant, contenders: usize, time: Duration) -> Result<()> {
        let workload = format!("contended-{contenders}");
        let time = if self.plan.patient { time.max(Duration::from_secs(contestant.patience)) } else { time };
        let mut peer = self.opened(contestant, &self.lock(&workload), contenders, false).await?;
        peer.ask("start 0", "started", SOON).await?;
        self.warm_up(&mut peer, contestant, time).await?;
        let (etcd, before) = (self.stage.etcd_messages().await?, peer.mark().await?);
        let from = self.asked(contestant, before.requests).await?;
        sleep(time).await;
        let after = peer.mark().await?;
        let to = self.asked(contestant, after.requests).await?;
        let etcd = self.stage.etcd_messages().await?.saturating_sub(etcd);
        peer.ask("stop", "stopped", SOON).await?;
        let shares: Vec<u64> =
            after.acquired.iter().zip(&before.acquired).map(|(after, before)| whole(after - before)).collect();
        let cycles: u64 = shares.iter().sum();
        let add = [
            ("cycles_per_s", ratio(cycles, seconds(&before, &after))),
            ("fewest", ratio(shares.iter().copied().min().unwrap_or(0), 1.0)),
            ("most", ratio(shares.iter().copied().max().unwrap_or(0), 1.0)),
            ("fairness", fairness(&shares)),
        ];
        for (metric, value) in add {
            self.add(&workload, contestant, metric, value, cycles);
        }
        if cycles == 0 {
            return Ok(());
        }
        if contestant.family == Family::Etcd {
            // Its own count includes what the API server asks of it.
            self.add(&workload, contestant, "requests_by_etcd", ratio(etcd, ratio(cycles, 1.0)), etcd);
        }
        self.count((&workload, contestant, "requests_per_cycle"), (&from, &to), ratio(cycles, 1.0))
    }

    /// Whether two ever hold it at once: many want the same, and hold it long enough for another to be seen beside them. How
    /// quick that is counts nowhere.
    pub(crate) async fn overlaps(&mut self, contestant: &Contestant) -> Result<()> {
        let (contenders, time) = self.plan.overlaps;
        let mut peer = self.opened(contestant, &self.lock("overlaps"), contenders, false).await?;
        peer.ask(&format!("start {}", HELD.as_millis()), "started", SOON).await?;
        sleep(time).await;
        let mark = peer.mark().await?;
        peer.ask("stop", "stopped", SOON).await?;
        let turns = whole(mark.acquired.iter().sum());
        // Where nobody held it, it is not known.
        ensure!(turns > 0, "nobody had a turn within {time:?}");
        self.add("overlaps", contestant, "turns", ratio(turns, 1.0), turns);
        self.add("overlaps", contestant, "overlaps", ratio(whole(mark.overlaps), 1.0), turns);
        Ok(())
    }

    /// Until everybody has had two turns, and so has a session, a connection and a place in the queue. Where there is no
    /// queue some never have a turn: then for a moment and a quarter of the time that is measured.
    async fn warm_up(&self, peer: &mut Peer, contestant: &Contestant, time: Duration) -> Result<()> {
        let limit = if contestant.queues { SOON } else { self.plan.warm_up + time / 4 };
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if peer.mark().await?.acquired.iter().all(|&turns| turns >= 2) {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        ensure!(!contestant.queues, "not everybody had two turns within {limit:?}");
        Ok(())
    }
}

/// The fewest turns as a part of the most.
fn fairness(shares: &[u64]) -> f64 {
    let (fewest, most) = (shares.iter().copied().min().unwrap_or(0), shares.iter().copied().max().unwrap_or(0));
    ratio(fewest, ratio(most, 1.0))
}
