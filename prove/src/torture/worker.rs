//! A process that takes locks, and parts of what several can hold, again and again, works under them, and writes down what
//! it did.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use leasehold::{AcquireError, ApiError, Client, Hold, LockGuard};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::guard::{Guard, Handle};
use super::history::{Journal, Line, Nanos, Outcome, Span, What, now};
use super::sharing::Names;

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
    /// A semaphore to contend for.
    #[arg(long)]
    pub semaphore: String,
    /// How many permits it has.
    #[arg(long)]
    pub permits: u32,
    /// A read-write lock to contend for.
    #[arg(long)]
    pub read_write_lock: String,
    /// The session's duration, in seconds.
    #[arg(long)]
    pub session: u64,
    /// Let holds live by the lock's own Lease, and permits by themselves.
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
pub(super) struct Worker {
    pub(super) options: Options,
    journal: Journal,
    pub(super) chance: StdRng,
    cells: Api<ConfigMap>,
    /// It does not say how many permits there are: somebody has changed that.
    pub(super) as_it_is: bool,
}

/// Works until SIGTERM.
pub async fn work(options: Options) -> Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let client = Client::builder()
        .kube_config(kube::Config::infer().await?)
        .session_duration(Duration::from_secs(options.session))
        .build()?;
    let names = Names::new(&options, &client)?;
    let mut worker = Worker {
        journal: Journal::create(&options.history)?,
        chance: StdRng::seed_from_u64(options.seed),
        cells: cells(&options.direct).await?,
        as_it_is: false,
        options,
    };
    loop {
        let pause = worker.millis(1, 12);
        let handle = worker.choose(&names);
        let begun = now();
        let waiting = async {
            sleep(pause).await;
            worker.tell(now(), What::Waiting { lock: handle.name().to_owned(), share: handle.share() })?;
            worker.acquire(&handle).await
        };
        let got = tokio::select! {
            biased;
            _ = end.recv() => None,
            got = waiting => Some(got?),
        };
        match got {
            Some(Some(Guard::Lock(guard))) => worker.hold(guard).await?,
            Some(Some(guard)) => worker.share(guard).await?,
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
    pub(super) fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.chance.random_range(least..=most))
    }

    fn is_quiet(&self) -> bool {
        self.options.folder.join("quiet").exists()
    }

    pub(super) fn tell(&mut self, from: Nanos, what: What) -> Result<()> {
        self.journal.write(&Line { span: Span { from, to: now() }, what })
    }

    async fn acquire(&mut self, handle: &Handle<'_>) -> Result<Option<Guard>> {
        let from = now();
        let fate: f64 = if self.is_quiet() { 1.0 } else { self.chance.random() };
        let limit = self.millis(50, self.options.session * 1500);
        let got = if fate < CANCELLED {
            // Cancelled by dropping the future, at any point.
            timeout(limit / 8, handle.acquire()).await.map_err(|_| "cancelled".to_owned())
        } else if fate < CANCELLED + LIMITED {
            Ok(handle.acquire_timeout(limit).await)
        } else {
            Ok(handle.acquire().await)
        };
        let why = match got {
            Ok(Ok(guard)) => {
                self.tell(from, What::Acquired { token: guard.token(), id: guard.holder_identity() })?;
                println!("acquired {}", handle.name());
                return Ok(Some(guard));
            }
            Ok(Err(AcquireError::TimedOut { .. })) => "timed out".to_owned(),
            Ok(Err(error)) => {
                // There are not as many permits as it said, or nobody has said how many there are.
                if matches!(error, AcquireError::Api { source: ApiError::Invalid { .. }, .. }) {
                    self.as_it_is = !self.as_it_is;
                }
                error.to_string()
            }
            Err(why) => why,
        };
        self.tell(from, What::GaveUp { why })?;
        Ok(None)
    }

    /// Whether it does not look, and whether it holds for long.
    pub(super) fn manner(&mut self) -> (bool, bool) {
        let quiet = self.is_quiet();
        let careless = !quiet && self.chance.random_bool(CARELESS);
        (careless, self.chance.random_bool(if quiet { LONG_IN_QUIET } else { LONG }))
    }

    /// Works under the lock, and gives it back.
    async fn hold(&mut self, guard: LockGuard) -> Result<()> {
        let (careless, long) = self.manner();
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
    pub(super) fn check(&mut self, guard: &Hold) -> Result<bool> {
        let from = now();
        match guard.check() {
            Ok(()) => self.tell(from, What::Checked).map(|()| true),
            Err(lost) => self.tell_lost(from, &lost).map(|()| false),
        }
    }

    /// Checks before each write. Whether the lock is still held after the last.
    async fn steps(&mut self, guard: &Hold) -> Result<bool> {
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
    pub(super) async fn stay(&mut self, guard: &Hold) -> Result<bool> {
        for _ in 0..self.chance.random_range(10..=self.options.session * 18) {
            sleep(Duration::from_millis(100)).await;
            if !self.check(guard)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Does nothing for longer than anything held lasts, renewals included.
    pub(super) fn doze(&mut self) -> Result<()> {
        let from = now();
        std::thread::sleep(Duration::from_secs(self.options.session) + self.millis(200, 2500));
        self.tell(from, What::Stalled)
    }

    /// Dozes, and then writes without looking.
    async fn stall(&mut self, guard: &Hold) -> Result<()> {
        self.doze()?;
        self.append(guard, false)?;
        // What a check would have said: nothing has run since that could have told the guard.
        self.check(guard)?;
        self.fence(guard).await?;
        self.check(guard).map(drop)
    }

    /// A write to what looks at no token.
    fn append(&mut self, guard: &Hold, polite: bool) -> Result<()> {
        let from = now();
        let mut file = File::options().create(true).append(true).open(self.options.folder.join(guard.name()))?;
        file.write_all(format!("{} {}\n", guard.token(), guard.holder_identity()).as_bytes())?;
        self.tell(from, What::Appended { polite })
    }

    /// A write to what refuses a token smaller than the largest it has seen: one more is stored there, with the token.
    pub(super) async fn fence(&mut self, guard: &Hold) -> Result<()> {
        let from = now();
        let outcome = match timeout(ANSWER, self.cells.get(guard.name())).await {
            Ok(Ok(cell)) => self.store(guard, cell).await?,
            Ok(Err(error)) => Outcome::Failed { why: error.to_string() },
            Err(_) => Outcome::Failed { why: "it could not be read".to_owned() },
        };
        self.tell(from, What::Fenced { outcome })
    }

    async fn store(&mut self, guard: &Hold, mut cell: ConfigMap) -> Result<Outcome> {
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
