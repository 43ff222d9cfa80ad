//! The command lines of what looks, asks and waits.

use std::time::Duration;

use clap::{Args, ValueEnum};
use clap_complete::ArgValueCandidates;

use super::duration;
use crate::complete;

pub(super) const NAME_ABOUT: &str = "\
Print the name of the Lease on which a lock, semaphore or read-write lock stands

A lock can be named by any text; a Lease cannot. Where the text is no object's name, its Lease has a name that is made \
of it, and says in the annotation leasehold.dev/id what it is for. Nothing is asked of the cluster.";

pub(super) const NAME_EXAMPLES: &str = "\
Examples:
  # Look at the Lease itself
  kubectl get lease \"$(kubectl leasehold name order:payment:4711)\" -o yaml";

pub(super) const ASK_ABOUT: &str = "\
Ask whoever holds something to let go

Holders are told who asks, why, and in what time, and decide themselves. One that has not let go in that time is \
evicted only where the custom resource says so (spec.releaseRequests: Evict), and by the operator.";

pub(super) const ASK_EXAMPLES: &str = "\
Examples:
  # Could the backup make room?
  kubectl leasehold ask backup --within 2m --reason 'the migration is due'

  # One of those who hold permits
  kubectl leasehold ask db-connections --holder web-0_k3j9x2m1qa.7";

pub(super) const WAIT_ABOUT: &str = "\
Wait until a lock, semaphore or read-write lock is free, or held

It takes nothing and stands in no queue: it watches. Of a semaphore `free` means that a permit is free, `held` that somebody \
holds one. What it says may be over by the time it is heard: use `run` to do something under a lock.";

pub(super) const WAIT_EXAMPLES: &str = "\
Exit codes:
  0    it is so
  75   it was not so within the timeout

Examples:
  kubectl leasehold wait backup --for free --timeout 10m && ./restore
  kubectl leasehold wait leader --for holder=web-0";

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Only those whose Leases have such labels (key=value, key!=value, key in (a,b), …)
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// Instead of a table
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<ListFormat>,
    /// Go on, and show each that changes
    #[arg(short, long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The lock, semaphore or read-write lock
    #[arg(add = ArgValueCandidates::new(complete::names))]
    pub(crate) name: String,
    /// Instead of text
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<ListFormat>,
    /// Go on, and show it whenever it changes
    #[arg(short, long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The lock, semaphore or read-write lock
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// The lock, semaphore or read-write lock
    #[arg(add = ArgValueCandidates::new(complete::names))]
    pub(crate) name: String,
    /// In what time to let go: 1s to 24h
    #[arg(long, value_name = "DUR", value_parser = duration, default_value = "30s")]
    pub(crate) within: Duration,
    /// What for, so that people understand
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
    /// Only this one of several holders, by its identity [default: all]
    #[arg(long, value_name = "IDENTITY")]
    pub(crate) holder: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The lock, semaphore or read-write lock
    #[arg(add = ArgValueCandidates::new(complete::names))]
    pub(crate) name: String,
    /// What for: free, held, or holder=ID, where ID is a holder's identity or its pod's or host's name
    #[arg(long = "for", value_name = "WHAT", value_parser = awaited)]
    pub(crate) awaited: Awaited,
    /// Give up after so long (30s, 5m, 1h30m) [default: wait for ever]
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// What `wait` waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    Free,
    Held,
    Holder(String),
}

impl std::fmt::Display for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Free => f.write_str("free"),
            Self::Held => f.write_str("held"),
            Self::Holder(id) => write!(f, "held by {id}"),
        }
    }
}

fn awaited(text: &str) -> Result<Awaited, String> {
    match (text, text.split_once('=')) {
        ("free", _) => Ok(Awaited::Free),
        ("held", _) => Ok(Awaited::Held),
        (_, Some(("holder", id))) if !id.is_empty() => Ok(Awaited::Holder(id.to_owned())),
        _ => Err("one of free, held, holder=ID is expected".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    Json,
    Yaml,
    /// lease.coordination.k8s.io/NAME, one a line
    Name,
    /// A table with more columns
    Wide,
}
