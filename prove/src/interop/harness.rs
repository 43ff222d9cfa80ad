//! The processes, and what befalls them.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Api;
use leasehold::clock;
use leasehold::protocol::{Moment, Record};
use leasehold_testkit::{Cluster, Namespace, Process, Program, Signal, bin};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::Options;
use super::history::{Findings, History, Said, Side, Sight, Teller, check};
use crate::report::Report;

/// The lease's duration on both sides, and how client-go keeps it up.
pub const LEASE: Duration = Duration::from_secs(4);
const RENEW_DEADLINE: Duration = Duration::from_millis(2500);
const RETRY_PERIOD: Duration = Duration::from_millis(500);
/// By when a client-go leader that runs gives up, from its last renewal on.
const GOOD_FOR: Duration = RENEW_DEADLINE.saturating_add(RETRY_PERIOD);
/// Who waits looks at the Lease this often, and so has last seen it change up to so much later than that was.
const LOOK: Duration = Duration::from_millis(1334);
/// What a busy machine adds.
const MARGIN: Duration = Duration::from_secs(3);
/// By when a dead leader has been followed.
const PATIENCE: Duration = LEASE.saturating_add(LOOK).saturating_add(MARGIN);

/// So many of each side. They differ by their number.
const CONTENDERS: usize = 3;
/// By how many seconds the wall clocks of ours are ahead: their values mean nothing.
const AHEAD: [i64; CONTENDERS] = [3600, 0, -3600];
/// Whether those of client-go's free the Lease when they step down. Only one that does not is ever stopped: one that does
/// frees it even if somebody else has taken it meanwhile and it has not noticed. Its `release` writes over whatever it
/// reads, so long as it believed itself the leader before.
const FREES: [bool; CONTENDERS] = [false, true, true];
/// The pause of a client-go process that has stepped down. Without one it would be first again.
const REST: Duration = Duration::from_millis(1500);
const TICK: Duration = Duration::from_millis(20);
const NAME: &str = "contended";

const BUILD_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/interop/build.sh");

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What the contenders' words show.
    pub findings: Findings,
    /// What was done to them.
    pub deeds: Deeds,
    /// What chance began with.
    pub seed: u64,
    /// How long they contended.
    pub lasted: Duration,
}

/// How often which was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deeds {
    /// A leader of client-go's was asked to step down.
    pub releases: usize,
    /// One of ours was killed and replaced.
    pub kills_ours: usize,
    /// One of client-go's was.
    pub kills_client_go: usize,
    /// One of ours was stopped for a while.
    pub stops_ours: usize,
    /// One of client-go's was.
    pub stops_client_go: usize,
}

impl Outcome {
    /// The same as figures.
    #[must_use]
    pub fn report(&self) -> Report {
        let (findings, deeds) = (&self.findings, &self.deeds);
        let mut report = Report::default();
        let mut figure = |what: &str, value: String| report.figure("interop", what, value);
        figure("seed", self.seed.to_string());
        figure("lasted", format!("{:.0?}", self.lasted));
        figure("turns, ours", findings.ours.to_string());
        figure("turns, client-go's", findings.client_go.to_string());
        figure("from ours to client-go's", findings.ours_to_client_go.to_string());
        figure("from client-go's to ours", findings.client_go_to_ours.to_string());
        figure("asked to step down", deeds.releases.to_string());
        figure("killed and replaced, ours", deeds.kills_ours.to_string());
        figure("killed and replaced, client-go's", deeds.kills_client_go.to_string());
        figure("of these while leading", findings.killed_leaders.to_string());
        figure("stopped for a while, ours", deeds.stops_ours.to_string());
        figure("stopped for a while, client-go's", deeds.stops_client_go.to_string());
        figure("longest time without a leader", format!("{:.2?}", findings.worst_gap));
        figure("longest time from a leader's death", format!("{:.2?}", findings.worst_after_kill));
        figure("client-go woke late", findings.woke_late.to_string());
        figure("client-go woke late beside another", findings.woke_late_beside_another.to_string());
        findings.violations.iter().for_each(|violation| report.violation(violation));
        report
    }
}

/// The path of the client-go program. Builds it where that has to be done, which takes a minute; progress goes to
/// standard error. Blocks.
///
/// # Errors
/// Where it cannot be built.
pub fn client_go_program() -> Result<PathBuf> {
    let mut build = std::process::Command::new(BUILD_SCRIPT);
    build.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::inherit());
    let output = build.output().with_context(|| format!("cannot run {BUILD_SCRIPT}"))?;
    ensure!(output.status.success(), "the client-go program could not be built ({BUILD_SCRIPT}: {})", output.status);
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}

/// Starts contenders for Leases of one namespace.
#[derive(Debug)]
pub struct Arena {
    namespace: Namespace,
    folder: tempfile::TempDir,
    client_go: PathBuf,
}

impl Arena {
    /// In a namespace of its own of the shared cluster.
    ///
    /// # Errors
    /// Where there is no cluster, or a program is missing.
    pub async fn new() -> Result<Self> {
        let client_go = tokio::task::spawn_blocking(client_go_program).await??;
        let namespace = Cluster::shared().await?.namespace("interop").await?;
        let folder = tempfile::tempdir()?;
        let account = namespace.service_account("contender", rules()).await?;
        account.write_kubeconfig(&folder.path().join("kubeconfig"))?;
        Ok(Self { namespace, folder, client_go })
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Starts a process that contends by client-go's leader election, rests for so long after it was asked to step down,
    /// and frees the Lease then or does not.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn client_go(&self, who: &str, name: &str, rest: Duration, frees: bool) -> Result<Process> {
        let flag = |name: &str, value: Duration| format!("--{name}={}ms", value.as_millis());
        Program::new(&self.client_go)
            .arg(format!("--kubeconfig={}", self.folder.path().join("kubeconfig").display()))
            .args([format!("--namespace={}", self.namespace.name()), format!("--name={name}")])
            .args([format!("--identity={who}"), flag("lease-duration", LEASE), flag("renew-deadline", RENEW_DEADLINE)])
            .args([flag("retry-period", RETRY_PERIOD), flag("rest", rest)])
            .arg(format!("--release-on-cancel={frees}"))
            .named(who)
            .start()
    }

    /// Starts a process that contends by this project's client, with its wall clock so many seconds ahead, and holds the
    /// lock each time for so many milliseconds.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn ours(&self, who: &str, name: &str, ahead: i64, hold: RangeInclusive<u64>, seed: u64) -> Result<Process> {
        Program::new(bin("interop-worker")?)
            .arg("--kubeconfig")
            .arg(self.folder.path().join("kubeconfig"))
            .args(["--name", name, "--host", who, "--lease", &LEASE.as_secs().to_string()])
            .args([format!("--ahead={ahead}"), format!("--seed={seed}")])
            .args([format!("--hold-at-least={}", hold.start()), format!("--hold={}", hold.end())])
            .named(who)
            .start()
    }
}

/// What contenders need, and no more.
fn rules() -> Vec<PolicyRule> {
    vec![PolicyRule {
        api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
        resources: Some(vec!["leases".to_owned()]),
        verbs: ["get", "watch", "create", "update", "patch", "delete"].map(str::to_owned).into(),
        ..PolicyRule::default()
    }]
}

struct Contender {
    side: Side,
    who: String,
    number: usize,
    process: Process,
    teller: Teller,
    /// It is stopped until then.
    stopped: Option<Moment>,
    /// When its present turn is over, if it has to be asked to step down.
    step_down: Option<(Moment, Moment)>,
}

/// Lets both sides contend, and judges what they say. It ends early when something is wrong.
///
/// # Errors
/// Where a process cannot be started, ends by itself, or says what cannot be read.
pub async fn contend(options: &Options) -> Result<Outcome> {
    let arena = Arena::new().await?;
    let seed = options.seed.unwrap_or_else(rand::random);
    eprintln!("interop: {CONTENDERS} of ours and {CONTENDERS} of client-go's contend, seed {seed}");
    let mut run = Run::new(arena, seed)?;
    let sights = Arc::new(Mutex::new(Vec::new()));
    let watching = tokio::spawn(watch(run.arena.namespace.api(), sights.clone()));
    let begun = clock::moment();
    let mut told = begun;
    while clock::moment().since(begun) < options.duration {
        run.step().await?;
        tokio::time::sleep(TICK).await;
        if clock::moment().since(told) >= Duration::from_secs(10) {
            told = clock::moment();
            eprintln!("interop: {:3.0} s, {}", told.since(begun).as_secs_f64(), run.progress());
            if !check(&run.so_far(), PATIENCE).violations.is_empty() {
                break;
            }
        }
    }
    let (mut history, deeds) = run.finish().await?;
    watching.abort();
    history.sights.clone_from(&sights.lock().unwrap_or_else(PoisonError::into_inner));
    let lasted = history.end.since(begun);
    Ok(Outcome { findings: check(&history, PATIENCE), deeds, seed, lasted })
}

/// Reads the Lease again and again.
async fn watch(leases: Api<Lease>, sights: Arc<Mutex<Vec<Sight>>>) {
    loop {
        if let Ok(Some(lease)) = leases.get_opt(NAME).await
            && let Ok(record) = Record::parse(lease)
        {
            let sight = Sight {
                uid: record.uid,
                version: record.version.0,
                transitions: record.transitions,
                holder: record.holder.map(|holder| holder.identity).unwrap_or_default(),
            };
            let mut sights = sights.lock().unwrap_or_else(PoisonError::into_inner);
            if sights.last() != Some(&sight) {
                sights.push(sight);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A run that is going on.
struct Run {
    arena: Arena,
    chance: StdRng,
    contenders: Vec<Contender>,
    started: usize,
    history: History,
    deeds: Deeds,
    next_deed: Moment,
}

impl Run {
    fn new(arena: Arena, seed: u64) -> Result<Self> {
        let mut run = Self {
            arena,
            chance: StdRng::seed_from_u64(seed),
            contenders: Vec::new(),
            started: 0,
            history: History::default(),
            deeds: Deeds::default(),
            next_deed: clock::moment() + LEASE,
        };
        for number in 0..CONTENDERS {
            for side in [Side::Ours, Side::ClientGo] {
                let contender = run.start(side, number)?;
                run.contenders.push(contender);
            }
        }
        Ok(run)
    }

    fn start(&mut self, side: Side, number: usize) -> Result<Contender> {
        self.started += 1;
        let (who, process) = match side {
            Side::Ours => {
                let who = format!("ours-{}", self.started);
                let process = self.arena.ours(&who, NAME, AHEAD[number], 0..=7000, self.chance.random())?;
                (who, process)
            }
            Side::ClientGo => {
                let who = format!("client-go-{}", self.started);
                let process = self.arena.client_go(&who, NAME, REST, FREES[number])?;
                (who, process)
            }
        };
        let teller = Teller::new(side, &who, GOOD_FOR);
        Ok(Contender { side, who, number, process, teller, stopped: None, step_down: None })
    }

    fn progress(&self) -> String {
        let leader = self.leader().map_or("nobody", |leader| &self.contenders[leader].who);
        let deeds = self.deeds;
        format!(
            "{leader} leads; {} asked to step down, {} killed, {} stopped",
            deeds.releases,
            deeds.kills_ours + deeds.kills_client_go,
            deeds.stops_ours + deeds.stops_client_go,
        )
    }

    /// Who leads, as far as has been said.
    fn leader(&self) -> Option<usize> {
        self.contenders.iter().position(|contender| contender.stopped.is_none() && contender.teller.leads().is_some())
    }

    async fn step(&mut self) -> Result<()> {
        for contender in &mut self.contenders {
            contender.listen()?;
            contender.keep_going()?;
            self.deeds.releases += usize::from(contender.end_turn(&mut self.chance)?);
        }
        // One thing at a time, and only when somebody leads again.
        let quiet = self.contenders.iter().all(|contender| contender.stopped.is_none());
        let Some(leader) = self.leader().filter(|_| quiet && clock::moment() >= self.next_deed) else { return Ok(()) };
        let target = if self.chance.random_bool(0.7) {
            leader
        } else {
            let others: Vec<_> = (0..self.contenders.len()).filter(|other| *other != leader).collect();
            *others.choose(&mut self.chance).context("there are others")?
        };
        let Contender { side, number, .. } = self.contenders[target];
        if self.chance.random_bool(0.4) || (side == Side::ClientGo && FREES[number]) {
            self.kill(target).await?;
        } else {
            self.stop(target)?;
        }
        self.next_deed = clock::moment() + Duration::from_millis(self.chance.random_range(2000..6000));
        Ok(())
    }

    async fn kill(&mut self, target: usize) -> Result<()> {
        let (side, number) = (self.contenders[target].side, self.contenders[target].number);
        let replacement = self.start(side, number)?;
        let killed = std::mem::replace(&mut self.contenders[target], replacement);
        self.history.take_in(killed.end().await?);
        self.history.kills.push(clock::moment());
        match side {
            Side::Ours => self.deeds.kills_ours += 1,
            Side::ClientGo => self.deeds.kills_client_go += 1,
        }
        Ok(())
    }

    /// Stops a process, for a time around the lease's duration and beyond.
    fn stop(&mut self, target: usize) -> Result<()> {
        let pause = LEASE.mul_f64(self.chance.random_range(0.6..1.7));
        let contender = &mut self.contenders[target];
        contender.process.signal(Signal::STOP)?;
        contender.stopped = Some(clock::moment() + pause);
        match contender.side {
            Side::Ours => self.deeds.stops_ours += 1,
            Side::ClientGo => self.deeds.stops_client_go += 1,
        }
        Ok(())
    }

    /// What has been said by now, without the Lease.
    fn so_far(&self) -> History {
        let mut history = History { sights: Vec::new(), end: clock::moment(), ..self.history.clone() };
        self.contenders.iter().for_each(|contender| history.take_in(contender.teller.clone().finish()));
        history
    }

    async fn finish(mut self) -> Result<(History, Deeds)> {
        self.history.end = clock::moment();
        for contender in self.contenders {
            self.history.take_in(contender.end().await?);
        }
        Ok((self.history, self.deeds))
    }
}

impl Contender {
    fn listen(&mut self) -> Result<()> {
        for line in self.process.drain_lines() {
            self.teller.hear(&line).map_err(anyhow::Error::msg)?;
        }
        if let Some(status) = self.process.try_wait()? {
            bail!("{} ended by itself ({status}):\n{}", self.who, self.process.output());
        }
        Ok(())
    }

    /// Lets it run on when it has been stopped for long enough.
    fn keep_going(&mut self) -> Result<()> {
        if self.stopped.is_some_and(|until| clock::moment() >= until) {
            self.process.signal(Signal::CONT)?;
            self.stopped = None;
        }
        Ok(())
    }

    /// client-go leads until it is asked to step down, which is done after a while. Ours does so by itself.
    fn end_turn(&mut self, chance: &mut StdRng) -> Result<bool> {
        let Some(begun) = self.teller.leads().filter(|_| self.side == Side::ClientGo).map(|turn| turn.begun) else {
            self.step_down = None;
            return Ok(false);
        };
        match self.step_down {
            Some((turn, at)) if turn == begun => {
                let due = clock::moment() >= at && self.stopped.is_none();
                if due {
                    self.process.signal(Signal::USR1)?;
                    // Once a turn: it may take a while.
                    self.step_down = Some((begun, at + LEASE * 4));
                }
                Ok(due)
            }
            _ => {
                let hold = Duration::from_millis(chance.random_range(0..4000));
                self.step_down = Some((begun, begun + hold));
                Ok(false)
            }
        }
    }

    /// Kills it, and takes in what it said to the last.
    async fn end(mut self) -> Result<Said> {
        self.process.signal(Signal::KILL)?;
        self.process.wait_exit(Duration::from_secs(30)).await?;
        for line in self.process.drain_lines() {
            self.teller.hear(&line).map_err(anyhow::Error::msg)?;
        }
        Ok(self.teller.finish())
    }
}
