//! Where the API server spends its time while locks are taken: a table by package, and flame graphs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use leasehold::clock;
use leasehold_testkit::Cluster;
use tokio::process::Command;

use crate::flame;
use crate::load::Load;
use crate::measure::{Bench, ratio};
use crate::usage::Servers;

/// So many hold one semaphore: what the benchmark of growth ends with. (Where as many begin to contend for one lock at once, a
/// release is not settled in time.)
const CROWD: usize = 1000;

/// How many packages the table has.
const PACKAGES: usize = 20;

/// Callers first, and milliseconds of a processor.
type Stacks = Vec<(Vec<String>, f64)>;

/// Profiles the API server under each load, for so long, and writes into the folder what came out.
pub(crate) async fn profile(
    bench: &mut Bench,
    cluster: &Cluster,
    time: Duration,
    folder: &Path,
    only: &[String],
) -> Result<()> {
    fs::create_dir_all(folder)?;
    let servers = Servers::of(cluster).await.context("a cluster of this program's own")?;
    let mut text = String::from("# Where the API server spends its time\n");
    let few = [Load::Puts(1), Load::Puts(64), Load::Renewals, Load::Cycles, Load::Contenders(2), Load::Contenders(128)];
    let last = Load::Holders(CROWD);
    let names: Vec<String> = few.iter().chain([&last]).map(|load| load.name()).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
        bail!("there is no load {unknown}: {} can be profiled", names.join(", "));
    }
    for load in few.into_iter().chain([last]).filter(|load| only.is_empty() || only.contains(&load.name())) {
        let name = load.name();
        eprintln!("{}", load.operation());
        let running = bench.start(load).await?;
        let (done, begun, before) = (running.done(), clock::moment(), servers.spent()?);
        let raw = folder.join(format!("{name}.pb.gz"));
        fetch(cluster, time, &raw).await?;
        let (count, took) = (running.done() - done, clock::moment().since(begun).as_secs_f64());
        let spent = servers.spent()? - before;
        // The last go down with the control plane: a thousand would be minutes in each other's way.
        if load != last {
            running.stop().await?;
        }
        let stacks = stacks(&traces(&raw).await?)?;
        let each = |seconds: f64| 1000.0 * seconds / ratio(count, 1);
        let _ = write!(
            text,
            "\n## {}\n\n{:.0} a second. Of a processor each takes the clients {:.3} ms, the API server {:.3} ms and etcd \
             {:.3} ms. [Flame graph]({name}.svg).\n\n{}",
            load.operation(),
            ratio(count, 1) / took,
            each(spent.clients),
            each(spent.apiserver),
            each(spent.etcd),
            table(&stacks, count)
        );
        bench.report.add(&format!("profile_{name}_cpu_apiserver"), each(spent.apiserver), "ms", None, count);
        fs::write(folder.join(format!("{name}.svg")), flame::graph(&load.operation(), &stacks))?;
        // Each as soon as it is known: the last ones take minutes, and may come to nothing.
        fs::write(folder.join("profile.md"), &text)?;
    }
    println!("{text}\nwritten to {}", folder.display());
    Ok(())
}

/// A processor's profile of the API server over so long.
async fn fetch(cluster: &Cluster, time: Duration, to: &Path) -> Result<()> {
    let status = Command::new(cluster.kubectl_path().await?)
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig_path())
        .args(["get", "--raw", &format!("/debug/pprof/profile?seconds={}", time.as_secs().max(1))])
        .stdin(Stdio::null())
        .stdout(fs::File::create(to)?)
        .kill_on_drop(true)
        .status()
        .await?;
    ensure!(status.success(), "no profile of the API server: {status}");
    Ok(())
}

/// The profile as text, by Go's own tool.
async fn traces(raw: &PathBuf) -> Result<String> {
    let output = Command::new("go")
        .args(["tool", "pprof", "-traces", "-unit=ms"])
        .arg(raw)
        .env("GOWORK", "off")
        .stdin(Stdio::null())
        .output()
        .await
        .context("go, which reads profiles, cannot be run")?;
    ensure!(output.status.success(), "go tool pprof: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// What `go tool pprof -traces -unit=ms` says: stacks between rules, the innermost function first, with the time before it.
fn stacks(text: &str) -> Result<Stacks> {
    let mut all = Stacks::new();
    for block in text.split("-----------+").skip(1) {
        let mut stack = Vec::new();
        let mut value = None;
        for line in block.lines().skip(1) {
            let words = line.trim();
            // Labels stand before the stack, as in `key:  value`.
            match (value, words.split_once("ms ")) {
                (None, Some((number, name))) if number.parse::<f64>().is_ok() => {
                    value = number.parse::<f64>().ok();
                    stack.push(function(name));
                }
                (Some(_), _) if !words.is_empty() => stack.push(function(words)),
                _ => {}
            }
        }
        if let Some(value) = value {
            stack.reverse();
            all.push((stack, value));
        }
    }
    ensure!(!all.is_empty(), "the profile is empty");
    Ok(all)
}

fn function(name: &str) -> String {
    name.trim().trim_end_matches(" (inline)").to_owned()
}

/// The package of a function: `net/http` of `net/http.(*conn).serve`.
pub(crate) fn package(function: &str) -> &str {
    let generic = function.find('[').unwrap_or(function.len());
    let slash = function[..generic].rfind('/').map_or(0, |at| at + 1);
    function[slash..].find('.').map_or(function, |dot| &function[..slash + dot])
}

/// Of Go itself, and not of a package that asks it for something.
fn is_runtime(package: &str) -> bool {
    // What is written in assembly has no package, as `memeqbody`.
    let of_go = ["runtime", "sync", "reflect", "time"].contains(&package) || !package.contains(['.', '/']);
    of_go || package.starts_with("runtime/") || package.starts_with("internal/") || package.starts_with("sync/")
}

/// The packages on whose account most time is spent: their own, and the runtime's for memory, maps and the like. What the
/// runtime does for nobody in particular is its own.
fn table(stacks: &Stacks, operations: u64) -> String {
    #[derive(Default)]
    struct Time {
        charged: f64,
        own: f64,
        with_calls: f64,
    }
    let mut packages: BTreeMap<&str, Time> = BTreeMap::new();
    let mut all = 0.0;
    for (stack, value) in stacks {
        all += value;
        let Some(last) = stack.last() else { continue };
        packages.entry(package(last)).or_default().own += value;
        let names = stack.iter().map(|name| package(name));
        let on_account = names.clone().rfind(|name| !is_runtime(name)).unwrap_or("runtime");
        packages.entry(on_account).or_default().charged += value;
        for name in names.collect::<BTreeSet<_>>() {
            packages.entry(name).or_default().with_calls += value;
        }
    }
    let mut most: Vec<_> = packages.into_iter().collect();
    most.sort_by(|one, other| other.1.charged.total_cmp(&one.1.charged));
    let mut text = String::from(
        "| package | with the runtime's part | itself | with all it calls | µs each |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    for (package, time) in most.into_iter().take(PACKAGES) {
        let part = |value: f64| 100.0 * value / all;
        let each = 1000.0 * time.charged / ratio(operations.max(1), 1);
        let _ = writeln!(
            text,
            "| {package} | {:.1} % | {:.1} % | {:.1} % | {each:.1} |",
            part(time.charged),
            part(time.own),
            part(time.with_calls)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACES: &str = "\
File: kube-apiserver
Type: cpu
Duration: 1s, Total samples = 40ms ( 4.00%)
-----------+-------------------------------------------------------
      30ms   internal/runtime/syscall.Syscall6
             crypto/tls.(*Conn).Write
             net/http.(*conn).serve
-----------+-------------------------------------------------------
  thread:  1
      10ms   runtime.mallocgc (inline)
             net/http.(*conn).serve
-----------+-------------------------------------------------------
";

    #[test]
    fn traces_are_stacks() {
        let stacks = stacks(TRACES).unwrap();
        assert_eq!(stacks.len(), 2);
        assert_eq!(stacks[0].0[0], "net/http.(*conn).serve");
        assert_eq!(stacks[1], (vec!["net/http.(*conn).serve".to_owned(), "runtime.mallocgc".to_owned()], 10.0));
        assert!(super::stacks("").is_err());
    }

    #[test]
    fn time_is_told_by_package() {
        let text = table(&stacks(TRACES).unwrap(), 10);
        assert!(text.contains("| crypto/tls | 75.0 % | 0.0 % | 75.0 % | 3000.0 |"), "{text}");
        assert!(text.contains("| net/http | 25.0 % | 0.0 % | 100.0 % | 1000.0 |"), "{text}");
        assert!(text.contains("| internal/runtime/syscall | 0.0 % | 75.0 % |"), "{text}");
    }

    #[test]
    fn a_package_is_what_stands_before_the_function() {
        assert_eq!(package("net/http.(*conn).serve"), "net/http");
        assert_eq!(package("runtime.mallocgc"), "runtime");
        assert_eq!(package("k8s.io/apiserver/pkg/x.Do[go.shape.a/b.C]"), "k8s.io/apiserver/pkg/x");
        assert_eq!(package("main"), "main");
    }
}
