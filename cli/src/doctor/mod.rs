//! `doctor`: checks an installation, and says what to do about what it finds.
//!
//! Each group of checks has a file of its own: `look` asks the API server, and `judge`, which is pure, says what that means.
//! Nothing is written to the cluster but reviews of the caller's own rights, which are stored nowhere.

mod census;
mod definitions;
mod extras;
mod fetch;
mod forms;
mod leftovers;
mod living;
mod operator;
mod report;
mod resources;
mod rights;
mod server;
mod site;
#[cfg(test)]
mod tests;
mod text;

use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use kube::{Client, Config};
use leasehold::clock;

use crate::args::{ClusterArgs, duration};
use crate::config;
use crate::exit::{self, Failure, chain, say};
use crate::output::{json, print, yaml};
use crate::view::Style;
use census::{Census, Sight};
use fetch::{Look, Miss, Stages};
use operator::Wanted;
use report::{Finding, Report, Verdict};
use server::{Answer, Clock};
use site::Site;

/// Nobody waits for longer.
const LONGEST_WATCH: Duration = Duration::from_hours(1);

pub(crate) const ABOUT: &str = "\
Check an installation, and say what to do

Looks at the API server, the caller's rights, the custom resources' definitions, the operator, every Lease of locks and \
sessions, and what is installed beside. Each finding is ok, note, warning, failed, or skipped where the caller has no right to \
look, and says what to do about it.

It changes nothing. Whether a holder is dead cannot be told by one look: nobody here believes another machine's timestamp. \
With --watch-for it looks a second time, and what has not been renewed for its whole duration in between is dead.";

pub(crate) const EXAMPLES: &str = "\
Exit codes:
  0    nothing failed (and by --fail-on warning: nothing is to be warned of)
  1    something did
  69   the API server cannot be reached
  77   the API server does not accept the credentials

Examples:
  # The namespace of the context
  kubectl leasehold doctor

  # Everything, as JSON, what is in order left out
  kubectl leasehold doctor -A -q -o json

  # Whether holders that look silent are dead
  kubectl leasehold doctor -n ops --watch-for 30s";

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Look at Leases and resources of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How to show it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Format,
    /// Show warnings and failures only, and say nothing meanwhile
    #[arg(short, long)]
    quiet: bool,
    /// Where the operator is
    #[arg(long, value_name = "NAME", default_value = "leasehold-system")]
    operator_namespace: String,
    /// Look again after so long (1s to 1h), or as soon as it can be told of all whether they live
    #[arg(long, value_name = "DUR", value_parser = watch)]
    watch_for: Option<Duration>,
    /// From which verdict on the exit code is 1
    #[arg(long, value_enum, value_name = "VERDICT", default_value = "failed")]
    fail_on: FailOn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Failed,
    Warning,
}

fn watch(text: &str) -> Result<Duration, String> {
    let watch = duration(text)?;
    if (Duration::from_secs(1)..=LONGEST_WATCH).contains(&watch) {
        Ok(watch)
    } else {
        Err("not between 1s and 1h".to_owned())
    }
}

pub(crate) async fn run(cluster: &ClusterArgs, args: &DoctorArgs) -> Result<u8, Failure> {
    let mut config = config::load(cluster).await?;
    // What fails is to be told, and not tried again behind its back.
    config.default_retry = false;
    let site = site(&config, cluster, args);
    let client = Client::try_from(config).map_err(|error| Failure::usage(chain(&error)))?;
    let stages = Stages::default();
    let (findings, code) = tokio::select! {
        found = examine(&site, &client, args, &stages) => found,
        never = stages.tell(args.quiet) => match never {},
    };
    let mut report = Report::new(&site, &findings);
    let fails = match args.fail_on {
        FailOn::Failed => report.verdict >= Verdict::Failed,
        FailOn::Warning => report.verdict >= Verdict::Warning,
    };
    if args.quiet {
        report.only_bad();
    }
    match args.output {
        Format::Json => print(&json(&report)?)?,
        Format::Yaml => print(&yaml(&report)?)?,
        Format::Text => print(&text::text(&report, Style::of_stdout(), !args.quiet))?,
    }
    Ok(code.unwrap_or(if fails { exit::BAD } else { 0 }))
}

fn site(config: &Config, cluster: &ClusterArgs, args: &DoctorArgs) -> Site {
    Site {
        context: config::context().map(str::to_owned),
        kubeconfig: cluster.kubeconfig.as_ref().map(|file| file.display().to_string()),
        server: config.cluster_url.to_string(),
        namespace: config.default_namespace.clone(),
        all: args.all_namespaces,
        operator_namespace: args.operator_namespace.clone(),
        strict: std::collections::BTreeSet::new(),
    }
}

/// Looks at everything, and judges it. The code is that of an API server that does not answer.
async fn examine(site: &Site, client: &Client, args: &DoctorArgs, stages: &Stages) -> (Vec<Finding>, Option<u8>) {
    let answer = match stages.at("the API server", server::look(client)).await {
        Ok(answer) => answer,
        Err(miss) => {
            let code = match miss {
                Miss::Rejected(_) | Miss::Forbidden(_) => exit::FORBIDDEN,
                Miss::Absent | Miss::Failed(_) => exit::UNREACHABLE,
            };
            return (vec![server::unreachable(site, &miss)], Some(code));
        }
    };
    let namespace = (!site.all).then_some(&*site.namespace);
    let (caller, definitions, rights, operator, resources, extras, sight) = tokio::join!(
        stages.at("the caller", server::caller(client)),
        stages.at("definitions", definitions::look(client)),
        stages.at("rights", rights::look(client, namespace)),
        stages.at("the operator", operator::look(client, &site.operator_namespace, args.watch_for)),
        stages.at("resources", resources::look(client, namespace)),
        stages.at("policies", extras::look(client, namespace)),
        stages.at("Leases", sight(client, namespace, args, answer.clock)),
    );
    let all = All { answer, caller, definitions, rights, operator, resources, extras, sight };
    (all.judge(site, clock::now().stamp), None)
}

/// One look at all Leases, or two where they are to be watched.
async fn sight(client: &Client, namespace: Option<&str>, args: &DoctorArgs, clock: Option<Clock>) -> Look<Sight> {
    let first = census::take(client, namespace).await?;
    let time = args.watch_for.map(|time| time.min(first.longest())).filter(|time| !time.is_zero());
    let Some(time) = time else { return Ok(Sight::new(first, None, clock)) };
    if !args.quiet {
        say(format_args!("watching {} Leases for {time:.0?}", first.count()));
    }
    clock::sleep_until(clock::moment() + time).await;
    let second: Census = census::take(client, namespace).await?;
    Ok(Sight::new(second, Some(first), clock))
}

/// Everything that was looked at.
struct All {
    answer: Answer,
    caller: Look<UserInfo>,
    definitions: definitions::Seen,
    rights: rights::Seen,
    operator: operator::Seen,
    resources: resources::Seen,
    extras: extras::Seen,
    sight: Look<Sight>,
}

impl All {
    fn judge(&self, site: &Site, now: Timestamp) -> Vec<Finding> {
        let strict = self.extras.strict.iter().flatten().cloned().collect();
        let site = &Site { strict, ..site.clone() };
        let clock = self.answer.clock;
        let by_server = clock.map_or(now, |clock| clock.at(now));
        let name = self.caller.as_ref().ok().and_then(|user| user.username.as_deref());
        let wanted = Wanted { defined: self.definitions.serves_any(), strict: self.extras.is_strict() };
        let mut found = server::judge(site, &self.answer);
        found.push(server::judge_caller(site, &self.caller));
        found.extend(definitions::judge(site, &self.definitions));
        found.extend(rights::judge(site, &self.rights, name, wanted.strict, wanted.defined));
        found.extend(operator::judge(site, &self.operator, wanted, clock));
        if wanted.defined {
            found.extend(resources::judge(site, &self.resources, by_server));
        }
        match &self.sight {
            Ok(sight) => {
                found.extend(forms::judge(site, &sight.census));
                found.extend(living::judge(site, sight));
                found.extend(leftovers::judge(site, sight));
            }
            Err(miss) => found.push(miss.finding(forms::CHECK, forms::whole(site))),
        }
        found.extend(extras::judge(site, &self.extras));
        found
    }
}
