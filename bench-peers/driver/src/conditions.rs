//! On what and with what it was measured.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use jiff::Timestamp;

use crate::contestants::{Contestant, Family};
use crate::stage::Stage;

const CARGO_LOCK: &str = include_str!("../../Cargo.lock");
const GO_MOD: &str = include_str!("../../go/go.mod");

/// Title and value of each, in order.
pub(crate) async fn conditions(stage: &Stage, arguments: &str) -> Result<Vec<(String, String)>> {
    let kubernetes = stage.cluster.client()?.apiserver_version().await?;
    let optimized = if cfg!(debug_assertions) { "no: a debug build, its figures are worth nothing" } else { "yes" };
    let conditions = [
        ("date", Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()),
        ("machine", format!("{}, {} cores, {}", processor(), cores(), memory())),
        ("kernel", format!("Linux {}", read("/proc/sys/kernel/osrelease").trim())),
        ("load at the start", load()),
        ("commit", commit()),
        ("optimized", optimized.to_owned()),
        ("called as", format!("bench-peers {arguments}").trim().to_owned()),
        ("Kubernetes", format!("{}: one API server, audited", kubernetes.git_version)),
        ("etcd", format!("{}: one member, `--unsafe-no-fsync`, by a socket", stage.etcd_version().await?)),
        ("Redis", stage.redis().unwrap_or("none here").to_owned()),
        ("Go", output("go", &["env", "GOVERSION"], Path::new("."))),
    ];
    Ok(conditions.into_iter().map(|(title, value)| (title.to_owned(), value)).collect())
}

/// How busy the machine is, and so whether figures mean anything.
pub(crate) fn load() -> String {
    read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn processor() -> String {
    field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn memory() -> String {
    let kilobytes = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kilobytes: u64 = kilobytes.trim_end_matches(" kB").parse().unwrap_or(0);
    format!("{} GiB", kilobytes / 1024 / 1024)
}

fn commit() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"], here);
    let changed = output("git", &["status", "--porcelain", "--untracked-files=no"], here);
    if changed.is_empty() { commit } else { format!("{commit}, changed") }
}

/// What a program says, nothing if it says nothing.
fn output(program: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Of the crate, module or server that a contestant is.
pub(crate) fn version(contestant: &Contestant, redis: Option<&str>) -> String {
    let id = contestant.id.trim_end_matches("-best");
    match (contestant.family, id) {
        (Family::Floor, _) => format!("kube {}", locked("kube", "5.")),
        (Family::Etcd, _) => format!("client {}", required("go.etcd.io/etcd/client/v3")),
        (Family::Redis, _) => {
            let server = redis.and_then(|said| said.split_whitespace().find_map(|word| word.strip_prefix("v=")));
            format!("crate {}, server {}", locked("redis", ""), server.unwrap_or("?"))
        }
        (Family::Kubernetes, "client-go") => required("k8s.io/client-go"),
        (Family::Kubernetes, id) if id.starts_with("leasehold") => locked("leasehold", ""),
        (Family::Kubernetes, id) => locked(id, ""),
    }
}

/// The version of a crate that begins so.
fn locked(name: &str, begins: &str) -> String {
    let wanted = format!("name = \"{name}\"");
    let versions = CARGO_LOCK.split("[[package]]").filter(|package| package.lines().any(|line| line == wanted));
    let version = |package: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix("version = \""))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    versions.filter_map(version).find(|version| version.starts_with(begins)).unwrap_or_default()
}

/// The version of a Go module.
fn required(module: &str) -> String {
    let line = GO_MOD.lines().find_map(|line| line.trim().strip_prefix(module)?.strip_prefix(' '));
    line.and_then(|rest| rest.split_whitespace().next()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contestants::ALL;

    #[test]
    fn every_contestant_has_a_version() {
        for contestant in ALL {
            let version = version(contestant, Some("Redis server v=7.0.15 sha=0"));
            assert!(version.contains(|c: char| c.is_ascii_digit()), "{}: {version:?}", contestant.id);
        }
    }
}
