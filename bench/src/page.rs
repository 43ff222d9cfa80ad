//! The page of arithmetic, `docs/scale.md`: all its figures are of runs, and where there is none it says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// What is reckoned with. The page says so.
const NODES: f64 = 5000.0;
const LOCKS: f64 = 100_000.0;
/// Cycles a second in the whole cluster, half of them contended.
const CYCLES: f64 = 100.0;
const WAITERS: f64 = 1000.0;
/// Renewals of a session a second.
const HEARTBEAT: f64 = 0.1;
/// Who watches all Leases: two replicas of the operator, and the controller manager for its nodes.
const WATCHERS: f64 = 3.0;
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
        let heartbeats = NODES * HEARTBEAT;
        let others = self.get("growth_sessions_5000_idle_reads_per_s").map(|of| of * NODES / 5000.0);
        let checks = self.get("growth_locks_held_10000_idle_reads_per_s");
        let writes = heartbeats + 2.0 * CYCLES;
        let lock_kib = self.slope("locks_held", "etcd_mb", (1, 10_000)).map(|mb| mb * 1024.0);
        let session_kib = self.slope("sessions", "etcd_mb", (1, 5000)).map(|mb| mb * 1024.0);
        let lock_memory = self.slope("locks_held", "apiserver_mb", (1, 10_000)).map(|mb| mb * 1024.0);
        let session_memory = self.slope("sessions", "apiserver_mb", (1, 5000)).map(|mb| mb * 1024.0);
        let waiter_memory = self.slope("waiters", "apiserver_mb", (1, 1000)).map(|mb| mb * 1024.0);
        let client_memory = self.slope("locks_held", "clients_mb", (1, 10_000)).map(|mb| mb * 1024.0);
        let renewal_bytes = self.get("cost_renewals_etcd_bytes");
        let capacity = self.get("cost_puts_64_per_s");
        let cpu = |load: &str, of: &str| self.get(&format!("cost_{load}_cpu_{of}"));
        let heartbeat_cpu = |of| cpu("renewals", of).map(|ms| ms / 1000.0 * heartbeats);
        let cycle_cpu = |of| {
            let (alone, handed) = (cpu("cycles", of)?, cpu("hand_offs", of)?);
            Some((alone + handed) / 2.0 / 1000.0 * CYCLES)
        };
        let mut page = String::from(HEAD);
        let mut row = |cells: [String; 4]| page.push_str(&format!("| {} |\n", cells.join(" | ")));
        let text = str::to_owned;
        row([text("sessions' heartbeats"), text("N · 3 / D"), per_second(Some(heartbeats)), {
            let told = self.get("growth_sessions_5000_heartbeats_per_s");
            format!("`growth_sessions_5000_heartbeats_per_s`: {}", show(told, 1))
        }]);
        row([
            text("beside them, for comparison: the nodes' own heartbeats, each 10 s"),
            text("N / 10"),
            per_second(Some(NODES / 10.0)),
            { text("Kubernetes' default") },
        ]);
        row([
            text("looks at what is held, by those who hold one lock each"),
            text("N · looks of one"),
            per_second(others),
            { text("`growth_sessions_5000_idle_reads_per_s`") },
        ]);
        row([
            text("the same of one process, however many locks it holds"),
            text("as measured with 10,000"),
            per_second(checks),
            { text("`growth_locks_held_10000_idle_reads_per_s`") },
        ]);
        row([text("writes for cycles"), text("2 · C"), per_second(Some(2.0 * CYCLES)), {
            let [alone, handed] =
                [self.get("growth_sessions_5000_cycle_writes"), self.get("growth_waiters_1000_hand_off_writes")];
            format!(
                "`growth_sessions_5000_cycle_writes`: {}; `growth_waiters_1000_hand_off_writes` (without the join): {}",
                show(alone, 2),
                show(handed, 2)
            )
        }]);
        row([
            text("watch events for those who watch all Leases"),
            text("(N · 3 / D + 2 · C) · A"),
            per_second(Some(writes * WATCHERS)),
            {
                let told = self.get("operator_idle_events_per_s_10000");
                format!("`operator_idle_events_per_s_10000`, of five sessions: {}", show(told, 2))
            },
        ]);
        row([text("watch events for clients"), text("3 · C / 2"), per_second(Some(1.5 * CYCLES)), {
            let told = self.get("growth_waiters_1000_hand_off_events");
            format!("`growth_waiters_1000_hand_off_events` (without the join): {}", show(told, 2))
        }]);
        row([
            text("watches"),
            text("W, and one for each session that the first four of a queue have before them, at most 10 a lock; A"),
            { format!("{:.0} to {:.0}", WAITERS + WATCHERS, 3.5 * WAITERS + WATCHERS) },
            text("by the protocol; their memory below"),
        ]);
        row([
            text("API server's processors, heartbeats"),
            text("N · 3 / D · CPU of a renewal"),
            cores(heartbeat_cpu("apiserver")),
            text("`cost_renewals_cpu_apiserver`"),
        ]);
        row([
            text("API server's processors, cycles"),
            text("C · CPU of a cycle"),
            cores(cycle_cpu("apiserver")),
            text("`cost_cycles_cpu_apiserver`, `cost_hand_offs_cpu_apiserver`"),
        ]);
        row([
            text("etcd's processors, both"),
            text("the same"),
            cores(heartbeat_cpu("etcd").zip(cycle_cpu("etcd")).map(|(one, other)| one + other)),
            text("`cost_…_cpu_etcd`"),
        ]);
        row([
            text("etcd: what stands there"),
            text("L · a lock + N · a session"),
            {
                let stands =
                    lock_kib.zip(session_kib).map(|(lock, session)| (LOCKS * lock + NODES * (session - lock)) / 1024.0);
                unit(stands, 0, "MiB")
            },
            {
                format!(
                    "slopes of `etcd_mb`: a lock {}, a session with a lock {}",
                    unit(lock_kib, 2, "KiB"),
                    unit(session_kib, 2, "KiB")
                )
            },
        ]);
        row([
            text("etcd: what was before, until it is compacted"),
            text("writes a second · 600 s · a version"),
            { unit(renewal_bytes.map(|bytes| writes * HISTORY * bytes / 1024.0 / 1024.0), 0, "MiB") },
            format!("`cost_renewals_etcd_bytes`: {}", unit(renewal_bytes, 0, "B")),
        ]);
        row([
            text("API server's memory"),
            text("L · a lock + N · a session + W · a waiter"),
            {
                let all = lock_memory.zip(session_memory).zip(waiter_memory);
                let all =
                    all.map(|((lock, session), waiter)| LOCKS * lock + NODES * (session - lock) + WAITERS * waiter);
                unit(all.map(|kib| kib / 1024.0), 0, "MiB")
            },
            {
                format!(
                    "slopes of `apiserver_mb`: {}, {}, {}",
                    unit(lock_memory, 1, "KiB"),
                    unit(session_memory, 1, "KiB"),
                    unit(waiter_memory, 1, "KiB")
                )
            },
        ]);
        row([
            text("a client's memory, for each lock"),
            String::new(),
            unit(client_memory, 1, "KiB"),
            text("slope of `clients_mb`"),
        ]);
        let share = capacity.map(|most| 100.0 * writes / most);
        page.push_str(&format!(
            "\n## Where it breaks first\n\nIn this order, as far as the figures say:\n\n\
             1. **Writes a second.** {writes:.0} of at most {} that this machine's API server and etcd carry out \
             (`cost_puts_64_per_s`; clients on the same cores, etcd without syncing): {}. Heartbeats are {:.0} % of them. They grow \
             with the number of processes, not of locks, and shrink with D: sessions of 60 s halve them, and a killed holder's \
             lock passes on after twice as long.\n{TAIL}",
            show(capacity, 0),
            unit(share, 0, "%"),
            100.0 * heartbeats / writes,
        ));
        page.push_str(&self.growth());
        page
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
            text.push_str(&format!(
                "| {} of {} | {} | {} | {} | {} | {} |\n",
                sizes.join(", "),
                crowd.replace('_', " "),
                operation.replace('_', " "),
                each("ms", 2),
                each("writes", 1),
                each("reads", 1),
                each("events", 1),
            ));
        }
        text
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
2. **One name.** All that concerns one lock is written to one object, one after the other: the table below shows what a join and a
   hand-off cost where many wait. [Limits](limits.md) says how many fit, and what to do beyond.
3. **Watch events.** Each write is sent to everybody who watches all Leases, so a third watcher makes a half more of them.
   Clients watch by name, and are sent what concerns them.
4. **etcd's size.** What was written within the last ten minutes counts, not only what stands: heartbeats far more than locks.
   etcd takes 2 GiB unless told otherwise, and recommends at most 8.

The locks themselves cost room and next to nothing else: a lock that is held and not wanted by anybody causes no write. A\nprocess reads what it holds now and then, to see whether it was broken: at most about once in three seconds, however much it holds.
";

const GROWTH: &str = "
## What grows

The cost of one operation beside more and more others (`make bench ARGS=\"--only growth\"`, which prints it as multiples of a bare PUT
in the same run as well, and marks what grows).

| beside | operation | ms | writes | reads | events |
| --- | --- | --- | --- | --- | --- |
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
