//! `break`: what others hold is taken from them.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use clap::Args;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Config};
use leasehold::protocol::name::lease_name;
use leasehold::protocol::{Kind, Record};
use leasehold::{BreakError, Client, ReadError};

use crate::backend;
use crate::exit::{self, Failure, chain, say};
use crate::read::within_limit;
use crate::view::printable;

pub(crate) const ABOUT: &str = "\
Break what others hold

Takes a lock, or what is held of a semaphore or a read-write lock, from its holder, who may be alive: it goes to who waits \
for it, or is free. Who did it, when and why stands on the Lease from then on, and the operator tells it as an Event.

The former holder may still be at work until it notices, which takes a renew interval at most if it can reach the API \
server. Only what compares fencing tokens is safe until then: the next holder has a larger one. Whoever can wait should \
ask first (kubectl leasehold ask).

Where the namespace is in strict mode this takes the verb \"break\" on the resource in API group leasehold.dev, as in the \
ClusterRole leasehold-breaker.";

pub(crate) const EXAMPLES: &str = "\
Examples:
  # Its node is gone, and nobody is to wait
  kubectl leasehold break backup --reason 'node-7 is gone for good'

  # The permits of one holder, by its id
  kubectl leasehold break db-connections --holder web-0_1a2b3c4dk3j9x2m1.7 --reason 'it hangs' --yes";

const VERBS: [&str; 3] = ["get", "update", "patch"];

#[derive(Debug, Args)]
pub(crate) struct BreakArgs {
    /// What is held: a lock, a semaphore, a read-write lock
    name: String,
    /// What for: it stands on the Lease, for people (up to 256 bytes)
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The hold of this id only. Needed where several hold it
    #[arg(long, value_name = "ID", conflicts_with = "all_holders")]
    holder: Option<String>,
    /// All that is held of it, where several hold it
    #[arg(long)]
    all_holders: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

/// Breaks, and says whose holds were broken. Nobody to break is no failure: there is nobody in the way.
pub(crate) async fn run(config: Config, args: &BreakArgs) -> Result<u8, Failure> {
    if args.reason.trim().is_empty() {
        return Err(Failure::usage("--reason is empty: say what for, people will want to know"));
    }
    let name = &args.name;
    let Some(record) = read(config.clone(), name).await? else {
        say(format_args!("nobody holds {name}"));
        return Ok(0);
    };
    let meant = |identity: &&str| args.holder.as_deref().is_none_or(|holder| holder == *identity);
    let holders: Vec<&str> = record.holders().map(|holder| holder.identity.as_str()).collect();
    let concerned: Vec<&str> = holders.iter().copied().filter(meant).collect();
    if concerned.is_empty() {
        let who = args.holder.as_deref().unwrap_or("nobody");
        let not = if args.holder.is_some() { "does not hold" } else { "holds" };
        say(format_args!("{who} {not} {name}"));
        return Ok(0);
    }
    if concerned.len() > 1 && !args.all_holders {
        return Err(Failure::usage(format!(
            "{} hold {name}: name one by --holder, or break all with --all-holders\n  {}",
            concerned.len(),
            concerned.iter().map(|holder| printable(holder)).collect::<Vec<_>>().join("\n  ")
        )));
    }
    if !args.yes {
        confirm(name, &record, &concerned)?;
    }
    let namespace = config.default_namespace.clone();
    let client = Client::builder().namespace(namespace).kube_config(config).build();
    let client = client.map_err(|error| Failure::usage(chain(&error)))?;
    // Whoever has come since was not asked about.
    let mut broken = Vec::new();
    for holder in concerned {
        broken.extend(client.break_holds(name, Some(holder), &args.reason).await.map_err(refused)?);
    }
    for identity in &broken {
        say(format_args!(
            "broke what {} held of {name}; it may be at work still until it notices",
            printable(identity)
        ));
    }
    if broken.is_empty() {
        say(format_args!("nobody holds {name} any more who did"));
    }
    Ok(0)
}

fn refused(error: BreakError) -> Failure {
    match error {
        BreakError::Api { source, .. } | BreakError::Read(ReadError::Api { source, .. }) => {
            backend::refused(&source, &VERBS)
        }
        error @ BreakError::Options(_) => Failure::usage(chain(&error)),
        error => Failure::internal(&error),
    }
}

async fn read(config: Config, name: &str) -> Result<Option<Record>, Failure> {
    let lease_name = lease_name(name).map_err(|error| Failure::usage(chain(&error)))?;
    let namespace = config.default_namespace.clone();
    let client = kube::Client::try_from(config).map_err(|error| Failure::usage(chain(&error)))?;
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    let lease = within_limit(leases.get_opt(&lease_name), "get").await?;
    let Some(lease) = lease else { return Ok(None) };
    let record = Record::parse(lease).map_err(|error| Failure::internal(&error))?;
    match record.is_of_another(name) {
        Some(why) => Err(Failure::usage(why)),
        None => Ok(Some(record)),
    }
}

/// Says what is about to be done, and asks.
fn confirm(name: &str, record: &Record, concerned: &[&str]) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("nobody can be asked here: say --yes"));
    }
    let next = match (record.kind, record.waiters.first()) {
        (_, None) => "nobody waits, so it is free then".to_owned(),
        (Kind::Lock, Some(first)) => format!("{} has it then", first.id),
        (_, Some(first)) => format!("{} is the first who waits for it", first.id),
    };
    say(format_args!("this breaks what {} of {name}: {next}.", held_by(concerned)));
    say(
        "Whoever holds it may be at work, and stay so until it notices. Only what compares fencing tokens is safe then.",
    );
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "leasehold: break it? [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let _ = io::stdin().lock().read_line(&mut answer);
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(exit::NOT_ACQUIRED, "nothing was broken")),
    }
}

fn held_by(concerned: &[&str]) -> String {
    match concerned {
        [one] => format!("{} holds", printable(one)),
        all => format!("{} hold", printable(&all.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_do_nothing_to_a_terminal() {
        assert_eq!(held_by(&["a\n\u{1b}b"]), "a\\n\\u{1b}b holds");
        assert_eq!(held_by(&["a\u{7}", "b"]), "a\\u{7}, b hold");
    }
}
