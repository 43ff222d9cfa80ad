//! A process that takes locks again and again, works under them, and writes down what it did.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use leasehold::{AcquireError, Client, Lock, LockGuard};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::history::{Journal, Line, Nanos, Outcome, Span, What, now};

/// How a worker works.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The file to write its history to.
    #[arg(long)]
    pub history: PathBuf,
    /// The folder of the files that all workers append to. With a file named `quiet` in it they behave.
    #[arg(long)]
    pub folder: PathBuf,
    /// The kubeconfig of another way to the API server, for writes that are fenced.
    #[arg(long)]
    pub direct: PathBuf,
    /// A lock to contend for; may be given more than once.
    #[arg(long = "lock", required = true)]
    pub locks: Vec<String>,
    /// The session's duration, in seconds.
    #[arg(long)]
    pub session: u64,
    /// Let holds live by the lock's own Lease.
    #[arg(long)]
    pub own: bool,
    /// The seed of its choices.
    #[arg(long)]
    pub seed: u64,
}

/// One holder in so many does not look whether it still holds.
const CARELESS: f64 = 1.0 / 20.0;
/// One hold in so many is a long one: longer than a session lasts without renewals. More are where nothing goes wrong,
/// and so nobody is to lose a lock.
const LONG: f64 = 1.0 / 25.0;
const LONG_IN_QUIET: f64 = 1.0 / 6.0;
/// How many waits are cancelled, and how many have a limit.
const CANCELLED: f64 = 0.08;
const LIMITED: f64 = 0.1;
/// Steps of work under one hold.
const STEPS: u32 = 3;
/// For how long an answer is waited for where tokens are compared.
const ANSWER: Duration = Duration::from_millis(1500);

#[derive(Debug)]
struct Worker {
    options: Options,
    journal: Journal,
    chance: StdRng,
    cells: Api<ConfigMap>,
}

/// Works until SIGTERM.
pub async fn work(options: Options) -> Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let client = Client::builder()
        .kube_config(kube::Config::infer().await?)
        .session_duration(Duration::from_secs(options.session))
        .build()?;
    let locks = options.locks.iter().map(|name| {
        let lock = client.lock(name);
        let own = Duration::from_secs(options.session);
        if options.own { lock.lease_duration(own) } else { lock }.build()
    });
    let locks = locks.collect::<Result<Vec<Lock>, _>>()?;
    let mut worker = Worker {
        journal: Journal::create(&options.history)?,
        chance: StdRng::seed_from_u64(options.seed),
        cells: cells(&options.direct).await?,
        options,
    };
    loop {
        let pause = worker.millis(1, 12);
        let lock = &locks[worker.chance.random_range(0..locks.len())];
        let begun = now();
        let waiting = async {
            sleep(pause).await;
            worker.tell(now(), What::Waiting { lock: lock.name().to_owned() })?;
            worker.acquire(lock).await
        };
        let got = tokio::select! {
            biased;
            _ = end.recv() => None,
            got = waiting => Some(got?),
        };
        match got {
            Some(Some(guard)) => worker.hold(guard).await?,
            Some(None) => sleep(Duration::from_millis(100)).await,
            None => {
                worker.tell(begun, What::GaveUp { why: "it is to end".to_owned() })?;
                break;
            }
        }
    }
    client.shutdown().await;
    worker.tell(now(), What::Ended)
}

/// The objects where tokens are compared, by connections that nothing else uses.
async fn cells(kubeconfig: &Path) -> Result<Api<ConfigMap>> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // A write that is sent twice could be counted twice.
    config.default_retry = false;
    Ok(Api::default_namespaced(kube::Client::try_from(config)?))
}

impl Worker {
    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.chance.random_range(least..=most))
    }

    fn is_quiet(&self) -> bool {
        self.options.folder.join("quiet").exists()
    }

    fn tell(&mut self, from: Nanos, what: What) -> Result<()> {
        self.journal.write(&Line { span: Span { from, to: now() }, what })
    }

    async fn acquire(&mut self, lock: &Lock) -> Result<Option<LockGuard>> {
        let from = now();
        let fate: f64 = if self.is_quiet() { 1.0 } else { self.chance.random() };
        let limit = self.millis(50, self.options.session * 1500);
        let why = if fate < CANCELLED {
            // Cancelled by dropping the future, at any point.
            match timeout(limit / 8, lock.acquire()).await {
                Ok(got) => got.map_err(|error| error.to_string()),
                Err(_) => Err("cancelled".to_owned()),
            }
        } else if fate < CANCELLED + LIMITED {
            lock.acquire_timeout(limit).await.map_err(|error| match error {
                AcquireError::TimedOut { .. } => "timed out".to_owned(),
                error => error.to_string(),
            })
        } else {
            lock.acquire().await.map_err(|error| error.to_string())
        };
        match why {
            Ok(guard) => {
                self.tell(from, What::Acquired { token: guard.token(), id: guard.holder_identity() })?;
                println!("acquired {}", lock.name());
                Ok(Some(guard))
            }
            Err(why) => {
                self.tell(from, What::GaveUp { why })?;
                Ok(None)
            }
        }
    }

    /// Works under the lock, and gives it back.
    async fn hold(&mut self, guard: LockGuard) -> Result<()> {
        let quiet = self.is_quiet();
        let careless = !quiet && self.chance.random_bool(CARELESS);
        let long = self.chance.random_bool(if quiet { LONG_IN_QUIET } else { LONG });
        if self.steps(&guard).await? {
            if long && !self.stay(&guard).await? {
                return Ok(());
            }
            if careless {
                self.stall(&guard).await?;
            }
            let from = now();
            let clean = guard.release().await.is_ok();
            self.tell(from, What::Released { clean })?;
        }
        Ok(())
    }

    /// Looks at the guard, and says whether to go on.
    fn check(&mut self, guard: &LockGuard) -> Result<bool> {
        let from = now();
        let held = guard.check();
        self.tell(from, held.as_ref().map_or_else(|lost| What::Lost { why: lost.to_string() }, |()| What::Checked))?;
        Ok(held.is_ok())
    }

    /// Checks before each write. Whether the lock is still held after the last.
    async fn steps(&mut self, guard: &LockGuard) -> Result<bool> {
        for _ in 0..STEPS {
            if !self.check(guard)? {
                return Ok(false);
            }
            self.append(guard, true)?;
            sleep(self.millis(0, 10)).await;
            // Work that blocks: if the process is stopped in it, only the check stands between it and the next step.
            std::thread::sleep(self.millis(0, 10));
            if !self.check(guard)? {
                return Ok(false);
            }
            self.fence(guard).await?;
        }
        self.check(guard)
    }

    /// Holds on for a time that takes renewals, and looks often. Whether the lock is still held then.
    async fn stay(&mut self, guard: &LockGuard) -> Result<bool> {
        for _ in 0..self.chance.random_range(10..=self.options.session * 18) {
            sleep(Duration::from_millis(100)).await;
            if !self.check(guard)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Does nothing for longer than the lease lasts, renewals included, and then writes without looking.
    async fn stall(&mut self, guard: &LockGuard) -> Result<()> {
        let from = now();
        std::thread::sleep(Duration::from_secs(self.options.session) + self.millis(200, 2500));
        self.tell(from, What::Stalled)?;
        self.append(guard, false)?;
        // What a check would have said: nothing has run since that could have told the guard.
        self.check(guard)?;
        self.fence(guard).await?;
        self.check(guard).map(drop)
    }

    /// A write to what looks at no token.
    fn append(&mut self, guard: &LockGuard, polite: bool) -> Result<()> {
        let from = now();
        let mut file = File::options().create(true).append(true).open(self.options.folder.join(guard.name()))?;
        file.write_all(format!("{} {}\n", guard.token(), guard.holder_identity()).as_bytes())?;
        self.tell(from, What::Appended { polite })
    }

    /// A write to what refuses a token smaller than the largest it has seen: one more is stored there, with the token.
    async fn fence(&mut self, guard: &LockGuard) -> Result<()> {
        let from = now();
        let outcome = match timeout(ANSWER, self.cells.get(guard.name())).await {
            Ok(Ok(cell)) => self.store(guard, cell).await?,
            Ok(Err(error)) => Outcome::Failed { why: error.to_string() },
            Err(_) => Outcome::Failed { why: "it could not be read".to_owned() },
        };
        self.tell(from, What::Fenced { outcome })
    }

    async fn store(&mut self, guard: &LockGuard, mut cell: ConfigMap) -> Result<Outcome> {
        let data = cell.data.get_or_insert_default();
        let number = |key: &str| data.get(key).map_or(Ok(0), |text| text.parse::<u64>());
        let (counter, stored) = (number("counter")? + 1, number("token")?);
        if guard.token() < stored {
            return Ok(Outcome::Refused { stored });
        }
        data.insert("counter".to_owned(), counter.to_string());
        data.insert("token".to_owned(), guard.token().to_string());
        self.tell(now(), What::Fencing { counter })?;
        let post = PostParams::default();
        // The resourceVersion that was read goes with it: nobody has written in between, or it is refused.
        Ok(match timeout(ANSWER, self.cells.replace(guard.name(), &post, &cell)).await {
            Ok(Ok(_)) => Outcome::Written { counter },
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) => {
                Outcome::Failed { why: status.message }
            }
            Ok(Err(error)) => Outcome::Unclear { why: error.to_string() },
            Err(_) => Outcome::Unclear { why: "no answer in time".to_owned() },
        })
    }
}
