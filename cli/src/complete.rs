//! Completion: names from the cluster, for shells that call this program and for kubectl.

use std::ffi::OsString;
use std::time::Duration;

use clap::CommandFactory as _;
use clap_complete::CompletionCandidate;

use crate::args::{Cli, ClusterArgs};
use crate::config;
use crate::exit::{self, Failure};
use crate::output::print;
use crate::read::Leases;

/// Nobody waits longer for a list of names.
const LIMIT: Duration = Duration::from_secs(3);
/// What tells kubectl that no files are meant (cobra's `ShellCompDirectiveNoFileComp`).
const NO_FILES: &str = ":4";

/// The names of what there is in the cluster and namespace that the rest of the command line names. None where that
/// cannot be told.
pub(crate) fn names() -> Vec<CompletionCandidate> {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let names = std::thread::spawn(move || -> Option<Vec<CompletionCandidate>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let looking = async {
            let config = config::load(&cluster(&words)).await.ok()?;
            let (locks, _) = Leases::new(config).ok()?.list(false, None).await.ok()?;
            let candidate = |lock: crate::view::LockView| {
                let help = format!("{} {:?}", lock.kind, lock.state).to_lowercase();
                CompletionCandidate::new(lock.name).help(Some(help.into()))
            };
            Some(locks.into_iter().map(candidate).collect())
        };
        runtime.block_on(async { tokio::time::timeout(LIMIT, looking).await.ok().flatten() })
    });
    names.join().ok().flatten().unwrap_or_default()
}

/// What an unfinished command line says of the cluster.
fn cluster(words: &[String]) -> ClusterArgs {
    let value = |names: &[&str]| {
        words.iter().enumerate().rev().find_map(|(at, word)| {
            let name = names.iter().find(|name| word.starts_with(**name))?;
            match &word[name.len()..] {
                "" => words.get(at + 1).cloned(),
                rest if name.starts_with("--") => rest.strip_prefix('=').map(str::to_owned),
                rest => Some(rest.trim_start_matches('=').to_owned()),
            }
        })
    };
    ClusterArgs {
        kubeconfig: value(&["--kubeconfig"]).map(Into::into),
        context: value(&["--context"]),
        namespace: value(&["--namespace", "-n"]).filter(|namespace| !namespace.is_empty()),
    }
}

/// For kubectl, by way of `kubectl_complete-leasehold`: one candidate a line, with what it is behind a tab, and last what
/// the shell is to make of them.
pub(crate) fn for_kubectl(words: &[OsString]) -> Result<u8, Failure> {
    let mut command = Cli::command();
    // The first word is this program itself.
    let words: Vec<OsString> = std::iter::once("kubectl-leasehold".into()).chain(words.iter().cloned()).collect();
    let last = words.len() - 1;
    let candidates = clap_complete::engine::complete(&mut command, words, last, None)
        .map_err(|error| Failure::new(exit::INTERNAL, error.to_string()))?;
    let mut text = String::new();
    for candidate in candidates.iter().filter(|candidate| !candidate.is_hide_set()) {
        text += &candidate.get_value().to_string_lossy();
        if let Some(help) = candidate.get_help() {
            text += "\t";
            text += help.to_string().lines().next().unwrap_or_default();
        }
        text += "\n";
    }
    print(&format!("{text}{NO_FILES}\n"))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_command_line_names_the_cluster() {
        let of = |text: &str| cluster(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let said = of("kubectl-leasehold -n ops --context=dev status --kubeconfig /k ");
        assert_eq!((said.namespace.as_deref(), said.context.as_deref()), (Some("ops"), Some("dev")));
        assert_eq!(said.kubeconfig, Some("/k".into()));
        assert_eq!(of("status --namespace=a -nb ").namespace.as_deref(), Some("b"));
        assert_eq!(of("status ").namespace, None);
    }
}
