//! Where nobody has anything to do: all contestants at the same time.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::handoff::{HandOffs, hand_offs};
use super::{Asked, Run, asked, ratio, seconds, whole};
use crate::contestants::{Contestant, EQUAL, Lasts};
use crate::peer::SOON;
use crate::stage::{At, Stage};

/// Whoever crashes has held for so many seconds at most: everybody has renewed by then.
const LONGEST_HOLD: f64 = 30.0;

/// What was done beside everybody else, by one contestant.
struct Beside {
    /// With leases as it has them, and as long as everybody's.
    idle: [Option<Result<(Asked, Asked, f64)>>; 2],
    crash: [Option<Result<f64>>; 2],
    hand_offs: Option<Result<HandOffs>>,
}

/// How long leases last, and by what name that is measured.
const BOTH: [(Lasts, &str, At); 2] = [(Lasts::Own, "", At::Main), (Lasts::Equally, EQUAL, At::Equal)];

impl Run<'_> {
    /// Where nobody has anything to do, or looks seldom: one holder with nine waiters; holders that crash; hand-offs to
    /// waiters that sleep. All contestants at the same time, and what fails.
    ///
    /// Crashes with leases of everybody's own length take long, and are left out unless `crash_own`.
    pub(crate) async fn aside(&mut self, contestants: &[&Contestant], crash_own: bool) -> Vec<String> {
        // The same for everybody, and another in each run: how old the lease is then makes most of the difference.
        let moment = (f64::from(self.number - 1) + rand::random_range(0.0..1.0)) / f64::from(self.runs);
        let this = &*self;
        let each = contestants.iter().map(|&contestant| this.beside(contestant, moment, crash_own));
        let all = join_all(each).await;
        let mut failures = Vec::new();
        for (&contestant, beside) in contestants.iter().zip(all) {
            if let Err(error) = self.record(contestant, beside, &mut failures) {
                failures.push(format!("{}, aside: {error:#}", contestant.id));
            }
        }
        failures
    }

    async fn beside(&self, contestant: &Contestant, moment: f64, crash_own: bool) -> Beside {
        let (stage, idle) = (self.stage, self.plan.idle);
        let idles = BOTH.map(|(lease, name, at)| {
            let lock = self.lock(&format!("idle{name}"));
            async move {
                let left_out = lease == Lasts::Equally && contestant.is_equal_anyway();
                if left_out { None } else { Some(idle_requests(stage, contestant, (at, lease), &lock, idle).await) }
            }
        });
        let crashes = BOTH.map(|(lease, name, _)| {
            let lock = self.lock(&format!("crash{name}"));
            async move {
                let left_out = match lease {
                    Lasts::Own => !crash_own && !contestant.is_equal_anyway(),
                    Lasts::Equally => contestant.is_equal_anyway(),
                };
                if left_out { None } else { Some(crash(stage, contestant, lease, &lock, moment).await) }
            }
        });
        let lock = self.lock("aside");
        let slow = async {
            if contestant.slow {
                Some(hand_offs(stage, contestant, At::Aside, &lock, u32::MAX, idle.mul_f64(0.7)).await)
            } else {
                None
            }
        };
        let ([idle, idle_equal], [crash, crash_equal]) = (idles, crashes);
        let (idle, idle_equal, crash, crash_equal, hand_offs) =
            tokio::join!(idle, idle_equal, crash, crash_equal, slow);
        Beside { idle: [idle, idle_equal], crash: [crash, crash_equal], hand_offs }
    }

    /// What is the same whether leases last equally long or not counts as both.
    fn record(&mut self, contestant: &Contestant, beside: Beside, failures: &mut Vec<String>) -> Result<()> {
        let mut failed =
            |what: &str, error: anyhow::Error| failures.push(format!("{}, {what}: {error:#}", contestant.id));
        let names = |name: &'static str| if contestant.is_equal_anyway() { vec!["", EQUAL] } else { vec![name] };
        for ((_, name, _), idled) in BOTH.into_iter().zip(beside.idle) {
            match idled {
                Some(Ok((from, to, time))) => {
                    for name in names(name) {
                        self.count((&format!("idle{name}"), contestant, "requests_per_s"), (&from, &to), time)?;
                    }
                }
                Some(Err(error)) => failed("idle", error),
                None => {}
            }
        }
        for ((lease, name, _), crashed) in BOTH.into_iter().zip(beside.crash) {
            match crashed {
                Some(Ok(seconds)) => {
                    for name in names(name) {
                        let workload = format!("crash{name}");
                        self.add(&workload, contestant, "seconds", seconds, 1);
                        self.add(&workload, contestant, "leases", seconds / contestant.lease(lease), 1);
                    }
                }
                Some(Err(error)) => failed("crash", error),
                None => {}
            }
        }
        match beside.hand_offs {
            Some(Ok(took)) => self.add_hand_offs("handoff", contestant, &took),
            Some(Err(error)) => failed("hand-off", error),
            None => {}
        }
        Ok(())
    }
}

/// What ten cost who have nothing to do but to hold and to wait, and in how many seconds. Some look at each other first, or
/// find a slower pace: they have half as long again before.
async fn idle_requests(
    stage: &Stage,
    contestant: &Contestant,
    (at, lease): (At, Lasts),
    lock: &str,
    time: Duration,
) -> Result<(Asked, Asked, f64)> {
    stage.lease(contestant, at, lock).await?;
    let mut peer = stage.peer(contestant, at, lease).await?;
    peer.open(lock, 10, false).await?;
    peer.acquire(0).await?;
    peer.acquired(0, SOON).await?;
    for waiter in 1..10 {
        peer.acquire(waiter).await?;
    }
    sleep(time * 3 / 2).await;
    let before = peer.mark().await?;
    let from = asked(stage, contestant, at, before.requests).await?;
    sleep(time).await;
    let after = peer.mark().await?;
    let to = asked(stage, contestant, at, after.requests).await?;
    Ok((from, to, seconds(&before, &after)))
}

/// From the SIGKILL of a holder until a waiter in another process has the lock, in seconds. It is killed when it has
/// held for a second and a part of its lease's duration, or of half a minute where that lasts longer.
async fn crash(stage: &Stage, contestant: &Contestant, lease: Lasts, lock: &str, moment: f64) -> Result<f64> {
    stage.lease(contestant, At::Aside, lock).await?;
    let (mut holder, mut waiter) =
        (stage.peer(contestant, At::Aside, lease).await?, stage.peer(contestant, At::Aside, lease).await?);
    holder.open(lock, 1, false).await?;
    waiter.open(lock, 1, false).await?;
    holder.acquire(0).await?;
    holder.acquired(0, SOON).await?;
    waiter.acquire(0).await?;
    let lasts = contestant.lease(lease);
    sleep(Duration::from_secs(1).mul_f64(1.0 + moment * lasts.min(LONGEST_HOLD))).await;
    let killed = holder.kill().await?;
    let limit = Duration::from_secs(1).mul_f64(lasts * 3.0 + 10.0);
    let acquired = waiter.acquired(0, limit).await?;
    ensure!(acquired >= killed, "the waiter had the lock before the holder was killed");
    Ok(ratio(whole(acquired - killed), 1e9))
}

/// All at the same time, their results in order.
async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pinned: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut over = true;
        for (future, result) in &mut pinned {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *result = Some(value),
                    std::task::Poll::Pending => over = false,
                }
            }
        }
        if over { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    pinned.into_iter().filter_map(|(_, result)| result).collect()
}
