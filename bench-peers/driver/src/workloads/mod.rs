//! What is measured: the same for everybody, one after the other.

mod alone;
mod aside;
mod crowds;
mod handoff;

use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use tokio::time::{sleep, timeout};

use crate::audit::Audit;
use crate::contestants::{Contestant, Lasts};
use crate::peer::{Mark, Peer};
use crate::results::Figure;
use crate::stage::{At, Stage};

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
    /// For how long idle processes are watched, when they have had half as long again, and those measured that look seldom.
    pub(crate) idle: Duration,
    /// How many locks one process takes, for how long it may, how long it is left alone then, and for how long it is watched.
    pub(crate) held: (u32, Duration, Duration, Duration),
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
    place: At,
    at: Timestamp,
    redis: Option<u64>,
    /// By the peer's own count.
    own: Option<i64>,
}

async fn asked(stage: &Stage, contestant: &Contestant, place: At, own: Option<i64>) -> Result<Asked> {
    let redis = stage.redis_commands(contestant, place).await?;
    Ok(Asked { place, at: Timestamp::now(), redis, own })
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

    /// Of a contestant in its main place.
    async fn asked(&self, contestant: &Contestant, own: Option<i64>) -> Result<Asked> {
        asked(self.stage, contestant, At::Main, own).await
    }

    /// Requests between two moments, divided. What the API server was asked is counted at the end of the run.
    fn count(&mut self, of: (&str, &Contestant, &str), times: (&Asked, &Asked), by: f64) -> Result<()> {
        let ((workload, contestant, metric), (from, to)) = (of, times);
        let own = to.own.zip(from.own).map(|(to, from)| to - from);
        let redis = to.redis.zip(from.redis).map(|(to, from)| to.saturating_sub(from));
        let known = own.map(whole).or(redis);
        if let Some(number) = known {
            self.add(workload, contestant, metric, ratio(number, by), number);
        } else if let Some(user) = self.stage.user(contestant, from.place)? {
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
        self.stage.lease(contestant, At::Main, lock).await?;
        let mut peer = self.stage.peer(contestant, At::Main, Lasts::Own).await?;
        peer.open(lock, contenders, shared).await?;
        Ok(peer)
    }
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

/// A difference of what only grows.
fn whole(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Nothing of nothing is nothing.
#[expect(clippy::cast_precision_loss, reason = "counts and times of a benchmark are small")]
fn ratio(number: u64, of: f64) -> f64 {
    if of > 0.0 { number as f64 / of } else { 0.0 }
}
