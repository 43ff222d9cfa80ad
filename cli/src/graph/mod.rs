//! `graph`: who waits for what, and who holds that.

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};
use clap_complete::ArgValueCandidates;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::clock::now;
use leasehold::protocol::Record;

use crate::complete;
use crate::config;
use crate::exit::{self, Failure, chain, say};
use crate::output::{json, print};
use crate::read::{Leases, of_selector};
use crate::view::{Style, printable};

mod ascii;
mod dot;
mod mermaid;
pub(crate) mod model;
#[cfg(test)]
mod tests;
mod words;

use model::{Graph, Node};

pub(crate) const ABOUT: &str = "\
Draw who waits for what, and who holds that

Each lock stands there with who holds it and with its queue, and under each who waits what that one holds itself. Those who \
wait for each other in a circle, a deadlock, are marked, and told in words. What nobody waits for is left out, unless \
--held is given.

A circle is found as clients and the operator find it: once those in it have said on the Leases what they hold, which they do \
after a wait of 30 s (deadlock_after). Until then one process can stand there more than once, as holder and as waiter.";

pub(crate) const EXAMPLES: &str = "\
Exit codes:
  0    it was drawn
  80   with --fail-on-deadlock: there is a deadlock in what was drawn

Examples:
  # What hangs, and on whom
  kubectl leasehold graph -A

  # Only what has to do with one lock
  kubectl leasehold graph orders

  # As a picture
  kubectl leasehold graph -o dot | dot -Tsvg > graph.svg";

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    /// Only what is connected with these [default: all]
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(complete::names))]
    names: Vec<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only what is connected with those whose Leases have such labels (key=value, key!=value, key in (a,b), …)
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// How it is drawn, at a terminal and elsewhere
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "ascii")]
    output: Format,
    /// Also what is held and nobody waits for
    #[arg(long)]
    held: bool,
    /// Exit with 80 where there is a deadlock
    #[arg(long)]
    fail_on_deadlock: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Trees of text
    Ascii,
    /// For Graphviz
    Dot,
    /// For Markdown viewers
    Mermaid,
    Json,
}

pub(crate) async fn graph(leases: &Leases, args: &GraphArgs) -> Result<u8, Failure> {
    let selected = match &args.selector {
        None => None,
        Some(selector) => {
            let listed = leases.all(args.all_namespaces, Some(selector)).await;
            let (leases, _) = listed.map_err(|failure| of_selector(failure, Some(selector)))?;
            Some(leases.iter().map(place).collect())
        }
    };
    // Whatever is asked for, all are needed: a circle may lead through others.
    let (all, _) = leases.all(args.all_namespaces, None).await?;
    let place = if args.all_namespaces { config::of_context() } else { format!(" {}", leases.place()) };
    let (graph, absent) = args.choose(Graph::of(&parse(all)), selected.as_ref());
    for name in absent {
        say(format_args!("nobody holds {} or waits for it{place}", printable(name)));
    }
    if graph.nodes.is_empty() && args.names.is_empty() {
        say(format_args!("{}{place}", if args.held { "nobody holds anything" } else { "nobody waits" }));
    }
    let text = match args.output {
        Format::Ascii => ascii::draw(&graph, args.all_namespaces, Style::of_stdout(), now().stamp),
        Format::Dot => dot::draw(&graph, args.all_namespaces),
        Format::Mermaid => mermaid::draw(&graph, args.all_namespaces),
        Format::Json => json(&graph)?,
    };
    print(&text)?;
    Ok(if args.fail_on_deadlock && !graph.circles.is_empty() { exit::DEADLOCK } else { 0 })
}

impl GraphArgs {
    /// What of it is to be shown, and which names are not in it.
    fn choose<'a>(
        &'a self,
        graph: Graph,
        selected: Option<&BTreeSet<(String, String)>>,
    ) -> (Graph, impl Iterator<Item = &'a String>) {
        let is_named = |node: &Node, name: &String| node.name == *name || node.lease_name.as_ref() == Some(name);
        let there: Vec<bool> = self.names.iter().map(|name| graph.locks().any(|node| is_named(node, name))).collect();
        let absent = self.names.iter().zip(there).filter(|(_, there)| !there).map(|(name, _)| name);
        let is_asked_for = |node: &Node| {
            let Some(lease_name) = &node.lease_name else { return false };
            let named = self.names.is_empty() || self.names.iter().any(|name| is_named(node, name));
            named && selected.is_none_or(|selected| selected.contains(&(node.namespace.clone(), lease_name.clone())))
        };
        let is_whole = self.names.is_empty() && selected.is_none();
        let graph = if is_whole { graph } else { graph.around(is_asked_for) };
        let graph = match (self.names.is_empty(), self.held) {
            // What is named is shown, whatever there is to say of it.
            (false, _) => graph,
            (true, false) => graph.waited_for(),
            (true, true) => graph.in_use(),
        };
        (graph, absent)
    }
}

fn place(lease: &Lease) -> (String, String) {
    (lease.metadata.namespace.clone().unwrap_or_default(), lease.metadata.name.clone().unwrap_or_default())
}

/// What stands on them. Those of a later format are passed over, and named.
fn parse(leases: Vec<Lease>) -> Vec<Record> {
    let record = |lease| Record::parse(lease).map_err(|error| say(chain(&error))).ok();
    leases.into_iter().filter_map(record).collect()
}
