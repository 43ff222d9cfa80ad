//! The command line.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The operator of Leasehold: distributed locks in the Kubernetes API server.
#[derive(Debug, Parser)]
#[command(name = "leasehold-operator", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `run` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How `run` runs.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator until SIGTERM or SIGINT.
    Run(RunArgs),
    /// Print the definitions of custom resources as YAML.
    Crds {
        /// Only this one, as in `semaphore`; otherwise all of them.
        name: Option<String>,
    },
}

/// How the operator runs.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// A namespace to work in; may be given more than once. Without it: all namespaces.
    #[arg(long = "namespace", short = 'n', value_name = "NAME", env = "LEASEHOLD_NAMESPACES", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Where to serve /metrics, /healthz and /readyz. Port 0 takes a free one; the log names it.
    #[arg(long, value_name = "ADDRESS", env = "LEASEHOLD_METRICS_ADDR", default_value = "0.0.0.0:8080")]
    pub metrics_addr: SocketAddr,
    /// Watch Pods, and end the sessions of those whose containers have all terminated. With `false` dead clients are
    /// found by their silence alone.
    #[arg(
        long,
        value_name = "BOOL",
        env = "LEASEHOLD_EVIDENCE",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub evidence: bool,
    /// Let one replica at a time act, and the others only watch. With `false` each acts.
    #[arg(
        long,
        value_name = "BOOL",
        env = "LEASEHOLD_LEADER_ELECTION",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub leader_election: bool,
    /// The Lease by which the replicas elect their leader.
    #[arg(long, value_name = "NAME", env = "LEASEHOLD_LEADER_ELECTION_LEASE", default_value = "leasehold-operator")]
    pub leader_election_lease: String,
    /// The namespace of that Lease. Without it: that of the pod's service account, or of the kubeconfig's context.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    pub leader_election_namespace: Option<String>,
    /// What to log, as in `info,leasehold_operator=debug`.
    #[arg(long, value_name = "FILTER", env = "LEASEHOLD_LOG", default_value = "info")]
    pub log: String,
    /// How to log.
    #[arg(long, value_name = "FORMAT", env = "LEASEHOLD_LOG_FORMAT", default_value = "human")]
    pub log_format: LogFormat,
    /// What this process is called in Events and on tombstones; the pod's name is usual.
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "leasehold-operator")]
    pub name: String,
    /// The collector that traces are exported to by OTLP over HTTP, as in `http://collector:4318`. Without it none are.
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

impl RunArgs {
    /// Where traces are exported to, if anywhere.
    #[must_use]
    pub fn traces_to(&self) -> Option<&str> {
        #[cfg(feature = "otlp")]
        return self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty());
        #[cfg(not(feature = "otlp"))]
        None
    }
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    Human,
    /// One JSON object a line.
    Json,
}
