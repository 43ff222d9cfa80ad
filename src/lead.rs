//! Of several replicas one acts; the others keep watch, and know all that the one knows when it is their turn.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Config;
use leasehold::election::{Election, Leader, Leading, Unhealthy};
use leasehold::{AcquireError, ApiError};
use tokio_util::sync::CancellationToken;

use crate::args::RunArgs;

/// How long after the end of its leadership a replica may take to let go of it.
const TOLERANCE: Duration = Duration::from_secs(20);
/// When to look again who leads, if that could not be told.
const AGAIN: Duration = Duration::from_secs(1);

/// Who acts.
#[derive(Clone, Debug)]
pub(crate) enum Office {
    /// Every replica: there is no election.
    Everybodys,
    /// The one that is elected.
    Elected { client: leasehold::Client, election: Election },
}

impl Office {
    pub(crate) fn new(args: &RunArgs, config: &Config) -> Result<Self> {
        if !args.leader_election {
            return Ok(Self::Everybodys);
        }
        let namespace = args.leader_election_namespace.as_ref().unwrap_or(&config.default_namespace);
        let builder = leasehold::Client::builder().kube_config(config.clone()).namespace(namespace).host(&args.name);
        let client = builder.build().context("the configuration of the API server cannot be used")?;
        let election = client.election(&args.leader_election_lease).build().context("--leader-election-lease")?;
        Ok(Self::Elected { client, election })
    }

    /// Whether it is for this replica to act, at this very moment.
    pub(crate) fn is_ours(&self) -> bool {
        match self {
            Self::Everybodys => true,
            Self::Elected { election, .. } => election.is_leader(),
        }
    }

    pub(crate) fn check_health(&self) -> Result<(), Unhealthy> {
        match self {
            Self::Everybodys => Ok(()),
            Self::Elected { election, .. } => election.health(TOLERANCE).check(),
        }
    }

    /// Does the work whenever it is for this replica to act, until told to stop.
    pub(crate) async fn hold<Fut: Future<Output = ()>>(
        &self,
        ready: &Ready,
        stop: CancellationToken,
        mut work: impl FnMut(Option<Leading>) -> Fut,
    ) -> Result<()> {
        let Self::Elected { client, election } = self else {
            work(None).await;
            return Ok(());
        };
        let held = tokio::select! {
            held = election.run_whenever_leading(stop, |leading| work(Some(leading))) => held,
            () = follow(election, ready) => return Ok(()),
        };
        client.shutdown().await;
        match held {
            Err(AcquireError::Api { source: ApiError::Forbidden { message }, .. }) => Err(anyhow::anyhow!(message))
                .with_context(|| {
                    format!(
                        "no leader can be elected in namespace {}: bind config/rbac/leader_election_role.yaml there, name \
                         another --leader-election-namespace, or let each replica act by --leader-election=false",
                        client.namespace(),
                    )
                }),
            held => held.map(drop).context("no leader can be elected"),
        }
    }
}

/// Tells who leads, whenever that changes.
async fn follow(election: &Election, ready: &Ready) {
    loop {
        match election.observe().await {
            Ok(mut leaders) => loop {
                let leader = leaders.changed().await;
                let told = leader.as_ref().map_or("nobody", |Leader { identity, .. }| identity);
                tracing::info!(leader = told, ours = election.is_leader(), "elected");
                ready.state().somebody_leads |= leader.is_some();
            },
            Err(error) => {
                tracing::warn!(%error, "who leads could not be told");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Whether this replica does its part: acts, with all resources seen, or stands by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ready(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    somebody_leads: bool,
    /// While this replica acts. One for each controller: cancelled once it has seen all resources.
    seen: Option<Vec<CancellationToken>>,
}

impl Ready {
    /// This replica acts, and is ready when all of these are cancelled.
    pub(crate) fn acts(&self, seen: Vec<CancellationToken>) {
        self.state().seen = Some(seen);
    }

    pub(crate) fn stands_by(&self) {
        self.state().seen = None;
    }

    /// What it waits for, if it is not ready.
    pub(crate) fn waits_for(&self) -> Option<&'static str> {
        let state = self.state();
        match &state.seen {
            Some(seen) if seen.iter().all(CancellationToken::is_cancelled) => None,
            Some(_) => Some("the custom resources have not been listed yet: are the CRDs installed?\n"),
            None if state.somebody_leads => None,
            None => Some("no leader is known yet\n"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
