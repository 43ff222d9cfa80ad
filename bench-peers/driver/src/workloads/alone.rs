//! One process, and nobody in its way.

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;

use super::{Asked, Run, ratio, seconds, sorted_millis, whole};
use crate::contestants::{Contestant, LEASEHOLD, Lasts};
use crate::peer::{SOON, first};
use crate::results::quantile;
use crate::stage::At;

impl Run<'_> {
    /// Acquires and releases, and nobody is in the way.
    pub(crate) async fn uncontended(&mut self, contestant: &Contestant) -> Result<()> {
        let (rounds, limit) = self.plan.cycles;
        let mut peer = self.opened(contestant, &self.lock("uncontended"), 1, false).await?;
        // Connections and sessions are made, and the code is in memory.
        peer.ask(&format!("cycle {} {}", rounds.div_ceil(10).min(20), limit.as_millis() / 4), "cycled", SOON).await?;
        let from = self.asked(contestant, None).await?;
        let answer = peer.ask(&format!("cycle {rounds} {}", limit.as_millis()), "cycled", SOON + limit).await?;
        let to = self.asked(contestant, None).await?;
        let (sent, took) = (first(&answer)?, sorted_millis(&answer[1..]));
        let cycles = took.len() as u64;
        ensure!(cycles > 0, "no cycle within {limit:?}");
        let add = [("median_ms", 0.5), ("p95_ms", 0.95)];
        for (metric, part) in add {
            self.add("uncontended", contestant, metric, quantile(&took, part).context("a cycle")?, cycles);
        }
        self.add("uncontended", contestant, "cycles_per_s", 1000.0 * ratio(cycles, took.iter().sum()), cycles);
        let own = |sent: i64| (sent >= 0).then_some(sent);
        let (from, to) = (Asked { own: own(sent).map(|_| 0), ..from }, Asked { own: own(sent), ..to });
        self.count(("uncontended", contestant, "requests_per_cycle"), (&from, &to), ratio(cycles, 1.0))
    }

    /// One process holds very many locks.
    pub(crate) async fn held(&mut self, contestant: &Contestant) -> Result<()> {
        let (count, limit, pause, time) = self.plan.held;
        // What it is held to is to hold all of them.
        let limit = if contestant.id == LEASEHOLD { limit * 6 } else { limit };
        let mut peer = self.stage.peer(contestant, At::Main, Lasts::Own).await?;
        if contestant.needs_lease && contestant.id != LEASEHOLD {
            for number in 0..count {
                // Once: they stay.
                let _ = self.stage.lease(contestant, At::Main, &format!("held-{number}")).await;
            }
        }
        let command = format!("hold {count} 64 {}", limit.as_millis());
        let [held, _, took] = peer.ask(&command, "holding", limit + SOON).await?[..] else {
            anyhow::bail!("three numbers are missing");
        };
        // Whoever has just taken them finds its pace.
        sleep(pause).await;
        let before = peer.mark().await?;
        let from = self.asked(contestant, before.requests).await?;
        sleep(time).await;
        let after = peer.mark().await?;
        let to = self.asked(contestant, after.requests).await?;
        let still = whole(first(&peer.ask("held", "held", SOON).await?)?);
        // It is measured in every run, and a process that is killed leaves them behind.
        if contestant.id == LEASEHOLD {
            peer.ask("free", "freed", limit).await?;
        }
        self.add("held", contestant, "locks", ratio(whole(held), 1.0), 1);
        self.add("held", contestant, "still_held", ratio(still, 1.0), 1);
        self.add("held", contestant, "acquired_in_s", ratio(whole(took), 1e9), 1);
        self.count(("held", contestant, "requests_per_s"), (&from, &to), seconds(&before, &after))?;
        self.count(("held", contestant, "requests_per_s_and_10000"), (&from, &to), {
            seconds(&before, &after) * ratio(still.max(1), 10_000.0)
        })
    }
}
