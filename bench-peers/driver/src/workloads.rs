//! What is measured: the same for everybody, one after the other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout};

use crate::audit::Audit;
use crate::contestants::{Contestant, Family, LEASEHOLD};
use crate::peer::{Mark, Peer, SOON, first};
use crate::results::{Figure, quantile};
use crate::stage::Stage;

/// How long a turn is held while it is looked whether two hold at once, by everybody alike. Timers make it up to a
/// millisecond more.
const HELD: Duration = Duration::from_millis(1);

/// How long and how often.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Cycles of one whom nobody is in the way of, and for how long at most.
    pub(crate) cycles: (u32, Duration),
    /// How many contend, and for how long.
    pub(crate) contenders: Vec<(usize, Duration)>,
    /// How many contend, and for how long, while it is looked whether two hold it at once.
    pub(crate) overlaps: (usize, Duration),
    /// Whether those who have few turns are watched for longer.
    pub(crate) patient: bool,
    /// Contenders are left to find into it for so long at most and for a quarter of their time, where there is no queue.
    pub(crate) warm_up: Duration,
    /// Hand-offs, and for how long at most.
    pub(crate) hand_offs: (u32, Duration),
    /// For how long idle processes are watched, and those measured that look seldom.
    pub(crate) idle: Duration,
    /// How many locks one process takes, for how long it may, and for how long it is watched then.
    pub(crate) held: (u32, Duration, Duration),
}

/// What a peer was doing when its requests are counted.
struct Count {
    figure: Figure,
    user: String,
    from: Timestamp,
    to: Timestamp,
    /// By what the number is divided.
    by: f64,
}

/// One pass over everything.
pub(crate) struct Run<'a> {
    stage: &'a Stage,
    plan: &'a Plan,
    number: u32,
    /// Of so many.
    runs: u32,
    figures: Vec<Figure>,
    counts: Vec<Count>,
}

/// What came out of a pass, but for what the API server knows.
pub(crate) struct Finished {
    figures: Vec<Figure>,
    counts: Vec<Count>,
}

impl Finished {
    /// Adds what the API server was asked, once it has written it all down.
    pub(crate) async fn settle(mut self, audit: &mut Audit) -> Result<Vec<Figure>> {
        sleep(Duration::from_secs(1)).await;
        audit.read()?;
        for Count { mut figure, user, from, to, by } in self.counts {
            figure.n = audit.count(&user, from, to);
            figure.value = ratio(figure.n, by);
            print(&figure);
            self.figures.push(figure);
        }
        audit.forget();
        Ok(self.figures)
    }
}

fn print(figure: &Figure) {
    let Figure { run, workload, contestant, metric, value, n } = figure;
    println!("{run:>4}  {workload:14} {contestant:28} {metric:20} {value:>12.3}  (n={n})");
}

/// What has been asked of a server by now, by one peer.
struct Asked {
    at: Timestamp,
    redis: Option<u64>,
    /// By the peer's own count.
    own: Option<i64>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(stage: &'a Stage, plan: &'a Plan, number: u32, runs: u32) -> Self {
        Self { stage, plan, number, runs, figures: Vec::new(), counts: Vec::new() }
    }

    fn figure(&self, workload: &str, contestant: &Contestant, metric: &str, value: f64, n: u64) -> Figure {
        Figure {
            run: self.number,
            workload: workload.to_owned(),
            contestant: contestant.id.to_owned(),
            metric: metric.to_owned(),
            value,
            n,
        }
    }

    fn add(&mut self, workload: &str, contestant: &Contestant, metric: &str, value: f64, n: u64) {
        let figure = self.figure(workload, contestant, metric, value, n);
        print(&figure);
        self.figures.push(figure);
    }

    async fn asked(&self, contestant: &Contestant, own: Option<i64>) -> Result<Asked> {
        Ok(Asked { at: Timestamp::now(), redis: self.stage.redis_commands(contestant).await?, own })
    }

    /// Requests between two moments, divided. What the API server was asked is counted at the end of the run.
    fn count(&mut self, of: (&str, &Contestant, &str), times: (&Asked, &Asked), by: f64) -> Result<()> {
        let ((workload, contestant, metric), (from, to)) = (of, times);
        let own = to.own.zip(from.own).map(|(to, from)| to - from);
        let redis = to.redis.zip(from.redis).map(|(to, from)| to.saturating_sub(from));
        let known = own.map(whole).or(redis);
        if let Some(number) = known {
            self.add(workload, contestant, metric, ratio(number, by), number);
        } else if let Some(user) = self.stage.user(contestant)? {
            let figure = self.figure(workload, contestant, metric, 0.0, 0);
            self.counts.push(Count { figure, user, from: from.at, to: to.at, by });
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Finished {
        Finished { figures: self.figures, counts: self.counts }
    }

    /// A lock's name, that nobody has used before.
    fn lock(&self, workload: &str) -> String {
        format!("{workload}-{}", self.number)
    }

    async fn opened(&self, contestant: &Contestant, lock: &str, contenders: usize, shared: bool) -> Result<Peer> {
        self.stage.lease(contestant, false, lock).await?;
        let mut peer = self.stage.peer(contestant, false, false).await?;
        peer.open(lock, contenders, shared).await?;
        Ok(peer)
    }

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

    /// From a release until the only waiter has it, in another process, there and back.
    pub(crate) async fn hand_off(&mut self, contestant: &Contestant) -> Result<()> {
        let (rounds, limit) = self.plan.hand_offs;
        let took = hand_offs(self.stage, contestant, false, &self.lock("handoff"), rounds, limit).await?;
        self.add_hand_offs("handoff", contestant, &took);
        Ok(())
    }

    fn add_hand_offs(&mut self, workload: &str, contestant: &Contestant, took: &HandOffs) {
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
        self.stage.lease(floor, false, &name).await?;
        let (mut writes, mut watches) =
            (self.stage.peer(floor, false, false).await?, self.stage.peer(floor, false, false).await?);
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

    /// Where nobody has anything to do, or looks seldom: one holder with nine waiters; holders that crash; hand-offs to
    /// waiters that sleep. All contestants at the same time, and what fails.
    pub(crate) async fn aside(&mut self, contestants: &[&Contestant]) -> Vec<String> {
        let (stage, idle) = (self.stage, self.plan.idle);
        // The same for everybody, and another in each run: how old the lease is then makes most of the difference.
        let moment = (f64::from(self.number - 1) + rand::random_range(0.0..1.0)) / f64::from(self.runs);
        let (idle_name, crash_name, hand_off_name) = (self.lock("idle"), self.lock("crash"), self.lock("aside"));
        let each = contestants.iter().map(|&contestant| {
            let slow = async {
                if contestant.slow {
                    let took = hand_offs(stage, contestant, true, &hand_off_name, u32::MAX, idle.mul_f64(0.7)).await;
                    took.map(Some)
                } else {
                    Ok(None)
                }
            };
            async {
                tokio::join!(
                    idle_requests(stage, contestant, &idle_name, idle),
                    crash(stage, contestant, &crash_name, moment),
                    slow,
                )
            }
        });
        let all = join_all(each).await;
        let mut failures = Vec::new();
        for (&contestant, (idled, crashed, handed)) in contestants.iter().zip(all) {
            let mut failed =
                |what: &str, error: anyhow::Error| failures.push(format!("{}, {what}: {error:#}", contestant.id));
            match idled {
                Ok((before, after)) => {
                    let from = Asked { at: before.0, redis: before.1, own: before.2.requests };
                    let to = Asked { at: after.0, redis: after.1, own: after.2.requests };
                    let time = seconds(&before.2, &after.2);
                    if let Err(error) = self.count(("idle", contestant, "requests_per_s"), (&from, &to), time) {
                        failed("idle", error);
                    }
                }
                Err(error) => failed("idle", error),
            }
            match crashed {
                Ok(seconds) => {
                    self.add("crash", contestant, "seconds", seconds, 1);
                    self.add("crash", contestant, "leases", seconds / contestant.crash_lease, 1);
                }
                Err(error) => failed("crash", error),
            }
            match handed {
                Ok(Some(took)) => self.add_hand_offs("handoff", contestant, &took),
                Ok(None) => {}
                Err(error) => failed("hand-off", error),
            }
        }
        failures
    }

    /// One process holds very many locks.
    pub(crate) async fn held(&mut self, contestant: &Contestant) -> Result<()> {
        let (count, limit, time) = self.plan.held;
        // What it is held to is to hold all of them.
        let limit = if contestant.id == LEASEHOLD { limit * 6 } else { limit };
        let mut peer = self.stage.peer(contestant, false, false).await?;
        if contestant.needs_lease && contestant.id != LEASEHOLD {
            for number in 0..count {
                // Once: they stay.
                let _ = self.stage.lease(contestant, false, &format!("held-{number}")).await;
            }
        }
        let command = format!("hold {count} 64 {}", limit.as_millis());
        let [held, _, took] = peer.ask(&command, "holding", limit + SOON).await?[..] else {
            anyhow::bail!("three numbers are missing");
        };
        let before = peer.mark().await?;
        let from = self.asked(contestant, before.requests).await?;
        sleep(time).await;
        let after = peer.mark().await?;
        let to = self.asked(contestant, after.requests).await?;
        let still = whole(first(&peer.ask("held", "held", SOON).await?)?);
        self.add("held", contestant, "locks", ratio(whole(held), 1.0), 1);
        self.add("held", contestant, "still_held", ratio(still, 1.0), 1);
        self.add("held", contestant, "acquired_in_s", ratio(whole(took), 1e9), 1);
        self.count(("held", contestant, "requests_per_s"), (&from, &to), seconds(&before, &after))?;
        self.count(("held", contestant, "requests_per_s_and_10000"), (&from, &to), {
            seconds(&before, &after) * ratio(still.max(1), 10_000.0)
        })
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
struct HandOffs {
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
async fn hand_offs(
    stage: &Stage,
    contestant: &Contestant,
    aside: bool,
    lock: &str,
    rounds: u32,
    limit: Duration,
) -> Result<HandOffs> {
    stage.lease(contestant, aside, lock).await?;
    let mut turn = [stage.peer(contestant, aside, false).await?, stage.peer(contestant, aside, false).await?];
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

/// What ten cost who have nothing to do but to hold and to wait.
async fn idle_requests(
    stage: &Stage,
    contestant: &Contestant,
    lock: &str,
    time: Duration,
) -> Result<((Timestamp, Option<u64>, Mark), (Timestamp, Option<u64>, Mark))> {
    stage.lease(contestant, false, lock).await?;
    let mut peer = stage.peer(contestant, false, false).await?;
    peer.open(lock, 10, false).await?;
    peer.acquire(0).await?;
    peer.acquired(0, SOON).await?;
    for waiter in 1..10 {
        peer.acquire(waiter).await?;
    }
    sleep(Duration::from_secs(2)).await;
    let mark = peer.mark().await?;
    let before = (Timestamp::now(), stage.redis_commands(contestant).await?, mark);
    sleep(time).await;
    let mark = peer.mark().await?;
    let after = (Timestamp::now(), stage.redis_commands(contestant).await?, mark);
    Ok((before, after))
}

/// From the SIGKILL of a holder until a waiter in another process has the lock, in seconds. It is killed when it has
/// held for a part of its lease's duration, and a second.
async fn crash(stage: &Stage, contestant: &Contestant, lock: &str, moment: f64) -> Result<f64> {
    stage.lease(contestant, true, lock).await?;
    let (mut holder, mut waiter) =
        (stage.peer(contestant, true, true).await?, stage.peer(contestant, true, true).await?);
    holder.open(lock, 1, false).await?;
    waiter.open(lock, 1, false).await?;
    holder.acquire(0).await?;
    holder.acquired(0, SOON).await?;
    waiter.acquire(0).await?;
    sleep(Duration::from_secs(1).mul_f64(1.0 + moment * contestant.crash_lease)).await;
    let killed = holder.kill().await?;
    let limit = Duration::from_secs(1).mul_f64(contestant.crash_lease * 3.0 + 10.0);
    let acquired = waiter.acquired(0, limit).await?;
    ensure!(acquired >= killed, "the waiter had the lock before the holder was killed");
    Ok(ratio(whole(acquired - killed), 1e9))
}

/// Leaves a waiter alone for so many milliseconds, and up to as many more.
async fn settle(least: u64) {
    sleep(Duration::from_millis(rand::random_range(least..=2 * least))).await;
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

/// Gives up on a measurement that does not end.
pub(crate) async fn within<T>(limit: Duration, what: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, what).await.context("it did not end")?
}

fn seconds(from: &Mark, to: &Mark) -> f64 {
    ratio(whole(to.at - from.at), 1e9)
}

fn sorted_millis(nanos: &[i64]) -> Vec<f64> {
    let mut millis: Vec<f64> = nanos.iter().map(|&nanos| ratio(whole(nanos), 1e6)).collect();
    millis.sort_by(f64::total_cmp);
    millis
}

/// The fewest turns as a part of the most.
fn fairness(shares: &[u64]) -> f64 {
    let (fewest, most) = (shares.iter().copied().min().unwrap_or(0), shares.iter().copied().max().unwrap_or(0));
    ratio(fewest, ratio(most, 1.0))
}

/// A difference of what only grows.
fn whole(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Nothing of nothing is nothing.
#[expect(clippy::cast_precision_loss, reason = "counts and times of a benchmark are small")]
fn ratio(number: u64, of: f64) -> f64 {
    if of > 0.0 { number as f64 / of } else { 0.0 }
}
