//! The page of arithmetic, `docs/scale.md`: all its figures are of runs, and where there is none it says so.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// What is reckoned with. The page says so.
const NODES: f64 = 5000.0;
const LOCKS: f64 = 100_000.0;
/// Cycles a second in the whole cluster, half of them contended.
const CYCLES: f64 = 100.0;
const WAITERS: f64 = 1000.0;
/// Renewals of all sessions a second, and writes with those of cycles.
const HEARTBEATS: f64 = NODES * 0.1;
const WRITES: f64 = HEARTBEATS + 2.0 * CYCLES;
/// Who watches all Leases: two replicas of the operator, and the controller manager for its nodes.
const WATCHERS: f64 = 3.0;
/// So many of the locks that a process holds are watched.
const HOLD_WATCHES: f64 = 8.0;
/// For how long etcd keeps what was before: kube-apiserver compacts so often, and keeps as much again.
const HISTORY: f64 = 600.0;
/// What stands in for a figure that no run has given yet.
const MISSING: &str = "*not measured yet*";

#[derive(Deserialize)]
struct Measured {
    name: String,
    value: f64,
}

/// Figures by name, and which of them were asked for.
#[derive(Default)]
struct Figures {
    values: BTreeMap<String, f64>,
}

/// Writes the page and, beside it, the figures that it is made of.
pub(crate) fn write(from: &[PathBuf], page: &Path) -> Result<()> {
    let mut figures = Figures::default();
    for path in from {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        figures.add(&text).with_context(|| format!("{} is not what this program wrote", path.display()))?;
    }
    std::fs::write(page, figures.page())?;
    let text = serde_json::to_string_pretty(&figures.kept())? + "\n";
    Ok(std::fs::write(page.with_extension("json"), text)?)
}

impl Figures {
    fn add(&mut self, text: &str) -> Result<()> {
        let measured: Vec<Measured> = serde_json::from_str(text)?;
        self.values.extend(measured.into_iter().map(|figure| (figure.name, figure.value)));
        Ok(())
    }

    /// Those of the parts that the page is about.
    fn kept(&self) -> Vec<serde_json::Value> {
        let part = |name: &str| ["growth_", "cost_", "operator_idle_"].iter().any(|part| name.starts_with(part));
        let kept = self.values.iter().filter(|(name, _)| part(name));
        kept.map(|(name, value)| serde_json::json!({ "name": name, "value": value })).collect()
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    /// By how much a figure grows for each one more, from one size to another.
    fn slope(&self, crowd: &str, figure: &str, sizes: (u32, u32)) -> Option<f64> {
        let at = |size: u32| self.get(&format!("growth_{crowd}_{size}_{figure}"));
        Some((at(sizes.1)? - at(sizes.0)?) / f64::from(sizes.1 - sizes.0))
    }

    fn page(&self) -> String {
        let mut page = String::from(HEAD);
        for row in self.requests().into_iter().chain(self.servers()) {
            let _ = writeln!(page, "| {} |", row.join(" | "));
        }
        let capacity = self.get("cost_puts_64_per_s");
        let _ = write!(
            page,
            "\n## Where it breaks first\n\nIn this order, as far as the figures say:\n\n\
             1. **Writes a second.** {WRITES:.0} of at most {} that this machine's API server and etcd carry out\n   \
             (`cost_puts_64_per_s`; clients on the same cores, etcd without syncing): {}. Heartbeats are {:.0} % of them. They grow\n   \
             with the number of processes, not of locks, and shrink with D: sessions of 60 s halve them, and a killed holder's\n   \
             lock passes on after twice as long. A start of all at once costs more: there are the openings, and ten seconds after\n   \
             its acquisition the first watch of what each holds, by a connection of its own. The table is of 50 that begin in a\n   \
             second. What a restart of the API server, or some seconds of silence, does to thousands of processes is in\n   \
             [architecture](architecture.md).\n{TAIL}",
            show(capacity, 0),
            unit(capacity.map(|most| 100.0 * WRITES / most), 0, "%"),
            100.0 * HEARTBEATS / WRITES,
        );
        page + &self.growth()
    }

    /// What the API server is asked, and what it tells.
    fn requests(&self) -> Vec<[String; 4]> {
        let told = |name: &str, digits| format!("`{name}`: {}", show(self.get(name), digits));
        let row =
            |what: &str, formula: &str, here: String, check: String| [what.to_owned(), formula.to_owned(), here, check];
        let name = "growth_locks_held_10000_idle_reads_per_s";
        let held = NODES * HOLD_WATCHES;
        vec![
            row(
                "sessions' heartbeats",
                "N · 3 / D",
                per_second(Some(HEARTBEATS)),
                told("growth_sessions_5000_heartbeats_per_s", 1),
            ),
            row(
                "beside them, for comparison: the nodes' own heartbeats, each 10 s",
                "N / 10",
                per_second(Some(NODES / 10.0)),
                "Kubernetes' default".to_owned(),
            ),
            row(
                "beginnings of watches of what is held: of eight locks at most in each process, anew each 290 s",
                "N · 8 / 290",
                per_second(Some(NODES * HOLD_WATCHES / 290.0)),
                format!("{}, of one lock each, when all have begun", told("growth_sessions_5000_idle_reads_per_s", 1)),
            ),
            row(
                "looks at what is held besides, one after the other, twelve locks or 10,000",
                "N · 3 / D",
                per_second(Some(HEARTBEATS)),
                format!("{} by one process", told(name, 2)),
            ),
            row(
                "writes for cycles",
                "2 · C",
                per_second(Some(2.0 * CYCLES)),
                format!(
                    "{}; {} (without the join)",
                    told("growth_sessions_5000_cycle_writes", 2),
                    told("growth_waiters_1000_hand_off_writes", 2)
                ),
            ),
            row(
                "watch events for those who watch all Leases",
                "(N · 3 / D + 2 · C) · A",
                per_second(Some(WRITES * WATCHERS)),
                format!("{}, of five sessions", told("operator_idle_events_per_s_10000", 2)),
            ),
            row(
                "watch events for clients",
                "3 · C / 2",
                per_second(Some(1.5 * CYCLES)),
                format!("{} (without the join)", told("growth_waiters_1000_hand_off_events", 2)),
            ),
            row(
                "watches",
                "8 · N; W, and one for each session that the first four of a queue have before them, at most 10 a lock; A",
                format!("{:.0} to {:.0}", held + WAITERS + WATCHERS, held + 3.5 * WAITERS + WATCHERS),
                "by the protocol; their memory below".to_owned(),
            ),
        ]
    }

    /// What that takes of the servers.
    fn servers(&self) -> Vec<[String; 4]> {
        let kib = |crowd, figure, sizes| self.slope(crowd, figure, sizes).map(|mb| mb * 1024.0);
        let lock = kib("locks_held", "etcd_mb", (1, 10_000));
        let session = kib("sessions", "etcd_mb", (1, 5000));
        let stands = lock.zip(session).map(|(lock, session)| (LOCKS * lock + NODES * (session - lock)) / 1024.0);
        let version = self.get("cost_renewals_etcd_bytes");
        let history = version.map(|bytes| WRITES * HISTORY * bytes / 1024.0 / 1024.0);
        let memory = [
            kib("locks_held", "apiserver_mb", (1, 10_000)),
            kib("sessions", "apiserver_mb", (1, 5000)),
            kib("waiters", "apiserver_mb", (1, 1000)),
        ];
        // What shrinks tells nothing.
        let memory = memory.map(|each| each.map(|kib: f64| kib.max(0.0)));
        let all = match memory {
            [Some(lock), Some(session), Some(waiter)] => {
                Some((LOCKS * lock + NODES * HOLD_WATCHES * (session - lock) + WAITERS * waiter) / 1024.0)
            }
            _ => None,
        };
        let cpu = |load: &str, of: &str| self.get(&format!("cost_{load}_cpu_{of}"));
        let heartbeats = |of| cpu("renewals", of).map(|ms| ms / 1000.0 * HEARTBEATS);
        let cycles = |of| Some(f64::midpoint(cpu("cycles", of)?, cpu("hand_offs", of)?) / 1000.0 * CYCLES);
        let etcd = heartbeats("etcd").zip(cycles("etcd")).map(|(one, other)| one + other);
        let row =
            |what: &str, formula: &str, here: String, check: String| [what.to_owned(), formula.to_owned(), here, check];
        vec![
            row(
                "API server's processors, heartbeats",
                "N · 3 / D · CPU of a renewal",
                cores(heartbeats("apiserver")),
                "`cost_renewals_cpu_apiserver`".to_owned(),
            ),
            row(
                "API server's processors, cycles",
                "C · CPU of a cycle",
                cores(cycles("apiserver")),
                "`cost_cycles_cpu_apiserver`, `cost_hand_offs_cpu_apiserver`".to_owned(),
            ),
            row("etcd's processors, both", "the same", cores(etcd), "`cost_…_cpu_etcd`".to_owned()),
            row(
                "etcd: what stands there",
                "L · a lock + N · a session",
                unit(stands, 0, "MiB"),
                format!(
                    "slopes of `etcd_mb`: a lock {}, a session with a lock {}",
                    unit(lock, 2, "KiB"),
                    unit(session, 2, "KiB")
                ),
            ),
            row(
                "etcd: what was before, until it is compacted",
                "writes a second · 600 s · a version",
                unit(history, 0, "MiB"),
                format!("`cost_renewals_etcd_bytes`: {}", unit(version, 0, "B")),
            ),
            row(
                "API server's memory",
                "L · a lock + 8 · N · a session with its watch + W · a waiter",
                unit(all, 0, "MiB"),
                format!("slopes of `apiserver_mb`: {}", memory.map(|each| unit(each, 1, "KiB")).join(", ")),
            ),
            row(
                "a client's memory, for each lock",
                "",
                unit(kib("locks_held", "clients_mb", (1, 10_000)), 1, "KiB"),
                "slope of `clients_mb`".to_owned(),
            ),
        ]
    }

    /// What got worse with what there is beside it.
    fn growth(&self) -> String {
        let mut text = String::from(GROWTH);
        for (crowd, operation, sizes) in OPERATIONS {
            let value = |size: u32, figure| self.get(&format!("growth_{crowd}_{size}_{operation}_{figure}"));
            let each = |figure, digits| {
                let all: Vec<String> = sizes.iter().map(|size| show(value(*size, figure), digits)).collect();
                if all.iter().all(|one| one == MISSING) { MISSING.to_owned() } else { all.join(", ") }
            };
            let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
            let _ = writeln!(
                text,
                "| {} of {} | {} | {} | {} | {} | {} |",
                sizes.join(", "),
                crowd.replace('_', " "),
                operation.replace('_', " "),
                each("ms", 2),
                each("writes", 1),
                each("reads", 1),
                each("events", 1),
            );
        }
        text + WHY
    }
}

/// What is measured beside whom, and beside how many.
const OPERATIONS: [(&str, &str, &[u32]); 6] = [
    ("locks_held", "cycle", &[1, 100, 10_000]),
    ("sessions", "cycle", &[1, 100, 5000]),
    ("waiters", "join_and_leave", &[1, 100, 1000]),
    ("waiters", "hand_off", &[1, 100, 1000]),
    ("holders_of_a_semaphore", "cycle", &[1, 100, 1000]),
    ("namespaces", "cycle", &[1, 100]),
];

fn show(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| MISSING.to_owned(), |value| format!("{value:.digits$}"))
}

fn unit(value: Option<f64>, digits: usize, unit: &str) -> String {
    value.map_or_else(|| MISSING.to_owned(), |value| format!("{value:.digits$} {unit}"))
}

fn per_second(value: Option<f64>) -> String {
    unit(value, 0, "a second")
}

fn cores(value: Option<f64>) -> String {
    unit(value, 2, "of a core")
}

const HEAD: &str = "\
# What a large cluster costs its API server

How to reckon what locks cost an API server before there are that many, and what was measured to check it. This page is written by
`make page` from the figures of `make bench` (in [scale.json](scale.json)); where no run has given a figure yet it says so. The
names in `this type` are those of the figures. They are of one small machine that carries etcd, the API server and all clients: how
many there are of each request does not depend on it, times and processors do.

The example: **N = 5,000** nodes, one process on each, with a session of **D = 30 s**; **L = 100,000** locks held, twenty by each
process; **W = 1,000** waiters; **C = 100** cycles a second in the whole cluster, half of them contended; **A = 3** who watch all Leases:
two replicas of the operator, and the controller manager, which watches the Leases of nodes in this way.

| | formula | here | measured, to check it |
| --- | --- | --- | --- |
";

const TAIL: &str = "\
2. **Watches of what is held.** Each has a connection of its own, and takes of the API server what a session with one lock takes
   (its slope of `apiserver_mb`): eight for each process are most of its memory. A client that holds one lock has one.
3. **One name.** All that concerns one lock is written to one object, one after the other: the table below shows what a join and a
   hand-off cost where many wait. [Limits](limits.md) says how many fit, and what to do beyond.
4. **Watch events.** Each write is sent to everybody who watches all Leases, so a third watcher makes a half more of them.
   Clients watch by name, and are sent what concerns them.
5. **etcd's size.** What was written within the last ten minutes counts, not only what stands: heartbeats far more than locks.
   etcd takes 2 GiB unless told otherwise, and recommends at most 8.

The locks themselves cost room and next to nothing else: a lock that is held and not wanted by anybody causes no write. A\nprocess reads what it holds now and then, to see whether it was broken: at most once in a renew interval of ten seconds, however much it holds.
";

const GROWTH: &str = "
## What grows

The cost of one operation beside more and more others (`make bench`, its part `--only growth`, which prints it as multiples of a bare PUT
in the same run as well, and marks what grows).

| beside | operation | ms | writes | reads | events |
| --- | --- | --- | --- | --- | --- |
";

const WHY: &str = "
What else there is in the cluster (other locks, other sessions, other namespaces) costs an operation no request, and no more time
than it costs a bare PUT. What stands on the same Lease does cost time. Each waiter is a key there, or a part of one when the queue
has been folded, and each holder of a semaphore another (`growth_…_annotation_bytes` in [scale.json](scale.json)); the API server takes
a Lease as a whole in every write, and what that costs with 128 waiters, and where a thousand hold a semaphore, is in [costs](costs.md):
it is JSON, and the rules for the names of annotations, each checked anew. A thousand waiters have not been profiled. The writes
stay the same, two. By the protocol the events of a join go to those of the first sixteen waiters who have waited for long, the
first four look at the sessions of those ahead, and each of those who hold one semaphore reads it once in a renew interval: a
thousand are a hundred reads of the whole object a second, which is a reason to spread them over several names.
";

#[cfg(test)]
mod tests {
    use super::*;

    const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");

    #[test]
    fn the_page_is_what_its_figures_say() {
        let mut figures = Figures::default();
        figures.add(&std::fs::read_to_string(format!("{DOCS}/scale.json")).unwrap()).unwrap();
        let page = std::fs::read_to_string(format!("{DOCS}/scale.md")).unwrap();
        assert!(page == figures.page(), "docs/scale.md is not what docs/scale.json says; run: make page");
    }

    #[test]
    fn what_was_not_measured_is_not_made_up() {
        let page = Figures::default().page();
        assert!(page.contains(MISSING));
        let mut figures = Figures::default();
        figures.add(r#"[{ "name": "cost_puts_64_per_s", "value": 1400.0 }]"#).unwrap();
        assert!(figures.page().contains("700 of at most 1400"), "{}", figures.page());
        assert!(figures.page().contains("50 %"));
    }
}
