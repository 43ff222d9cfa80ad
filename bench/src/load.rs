//! What keeps a control plane busy while it is looked at where time goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::{Client, KubeStore, Permits, clock};
use tokio::task::JoinSet;

use crate::measure::{Bench, Target, What, bare_put};

/// An operation that is carried out again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// So many who put, each a Lease of its own: what everything else is held against.
    Puts(usize),
    /// Renewals of one session.
    Renewals,
    /// One client acquires and releases, and nobody is in the way.
    Cycles,
    /// So many contend for one lock. With two of them each cycle is a hand-off.
    Contenders(usize),
    /// One client takes a permit of a semaphore and gives it back, and so many others hold one.
    Holders(usize),
}

impl Load {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Puts(1) => "puts".to_owned(),
            Self::Puts(many) => format!("puts-{many}"),
            Self::Renewals => "renewals".to_owned(),
            Self::Cycles => "cycles".to_owned(),
            Self::Contenders(2) => "hand-offs".to_owned(),
            Self::Contenders(many) => format!("contenders-{many}"),
            Self::Holders(many) => format!("holders-{many}"),
        }
    }

    /// What is carried out, for people.
    pub(crate) fn operation(self) -> String {
        match self {
            Self::Puts(1) => "a bare PUT".to_owned(),
            Self::Puts(many) => format!("a bare PUT, {many} at a time"),
            Self::Renewals => "a renewal of a session".to_owned(),
            Self::Cycles => "an uncontended cycle".to_owned(),
            Self::Contenders(2) => "a cycle of two: a join and a hand-off".to_owned(),
            Self::Contenders(many) => format!("a cycle of {many} contenders"),
            Self::Holders(many) => format!("a cycle of a semaphore that {many} others hold"),
        }
    }
}

/// A load that is running.
pub(crate) struct Running {
    done: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    workers: JoinSet<Result<()>>,
    clients: Vec<Client>,
    /// By those who do nothing but hold.
    held: Vec<Permits>,
}

impl Running {
    /// How many operations have been carried out so far.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Errors
    /// What went wrong meanwhile.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.over.store(true, Ordering::SeqCst);
        while let Some(worker) = self.workers.join_next().await {
            worker??;
        }
        drop(self.held);
        // Few at a time: those who stand on one object are in each other's way.
        futures::stream::iter(self.clients)
            .for_each_concurrent(4, |client| async move { client.shutdown().await })
            .await;
        Ok(())
    }
}

impl Bench {
    /// Starts a load, and returns when everybody has had two turns.
    pub(crate) async fn start(&self, load: Load) -> Result<Running> {
        let lease = format!("load-{}-{}", load.name(), clock::moment().since_start().as_micros());
        let what = match load {
            Load::Holders(many) => What::Semaphore(u32::try_from(many)? + 1),
            _ => What::Lock,
        };
        self.make(&lease, what).await?;
        let (done, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let count = match load {
            Load::Puts(_) => 0,
            Load::Renewals | Load::Cycles => 1,
            Load::Contenders(many) => many,
            Load::Holders(many) => many + 1,
        };
        let clients: Vec<Client> = (0..count).map(|_| self.client(&Arc::default())).collect::<Result<_>>()?;
        let (mut workers, mut held) = (JoinSet::new(), Vec::new());
        let warm = Arc::new(AtomicU64::new(0));
        let worker = || Worker { done: done.clone(), over: over.clone(), warm: warm.clone() };
        match load {
            Load::Puts(many) => {
                for n in 0..many {
                    let own = self.lease(&format!("{lease}-{n}")).await?;
                    workers.spawn(puts(self.store()?, own, worker()));
                }
            }
            Load::Renewals => drop(workers.spawn(renewals(clients[0].clone(), lease.clone(), worker()))),
            Load::Cycles | Load::Contenders(_) => {
                for client in &clients {
                    workers.spawn(cycles(what.target(client, &lease)?, worker()));
                }
            }
            Load::Holders(many) => {
                for client in &clients[..many] {
                    held.push(client.semaphore(&lease).build()?.acquire(1).await?);
                    if held.len() % 100 == 0 {
                        eprintln!("{} of {many} hold a permit", held.len());
                    }
                }
                workers.spawn(cycles(what.target(&clients[many], &lease)?, worker()));
            }
        }
        let (all, begun) = (workers.len() as u64, clock::moment());
        while warm.load(Ordering::SeqCst) < all {
            ensure!(clock::moment().since(begun) < Duration::from_secs(300), "not everybody had two turns");
            if let Some(ended) = workers.try_join_next() {
                ended??;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Running { done, over, workers, clients, held })
    }
}

struct Worker {
    done: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    warm: Arc<AtomicU64>,
}

impl Worker {
    /// Whether it is not over yet, after so many turns of this one.
    fn goes_on(&self, turns: u64) -> bool {
        if turns > 0 {
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        if turns == 2 {
            self.warm.fetch_add(1, Ordering::SeqCst);
        }
        !self.over.load(Ordering::SeqCst)
    }
}

async fn puts(store: KubeStore, mut lease: Lease, worker: Worker) -> Result<()> {
    let mut turns = 0;
    while worker.goes_on(turns) {
        lease = bare_put(&store, lease).await?;
        turns += 1;
    }
    Ok(())
}

async fn renewals(client: Client, lease: String, worker: Worker) -> Result<()> {
    let (guard, mut turns) = (client.lock(lease).build()?.acquire().await?, 0);
    while worker.goes_on(turns) {
        guard.extend().await?;
        turns += 1;
    }
    Ok(guard.release().await?)
}

async fn cycles(target: Target, worker: Worker) -> Result<()> {
    let mut turns = 0;
    while worker.goes_on(turns) {
        target.cycle(|| {}).await?;
        turns += 1;
    }
    Ok(())
}
