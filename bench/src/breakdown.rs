//! Where the time of a cycle and of a hand-off goes, and what each operation takes of processors and memory.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use futures::StreamExt as _;
use hdrhistogram::Histogram;
use leasehold::protocol::Moment;
use leasehold::{Client, Sight, Store as _, clock};
use leasehold_testkit::Cluster;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::allocations;
use crate::counting::CountingStore;
use crate::load::Load;
use crate::measure::{Bench, bare_put, ratio};
use crate::stamping::{Stamp, StampingStore, What};
use crate::usage::Servers;

/// Steps of an operation in order, each with how long it took.
struct Steps {
    what: &'static str,
    /// By name.
    times: Vec<(&'static str, Histogram<u64>)>,
    /// Rounds that were something else: a request more, for example.
    others: u64,
}

impl Steps {
    fn new(what: &'static str, names: &[&'static str]) -> Result<Self> {
        let times = names.iter().map(|name| Ok((*name, Histogram::new(3)?))).collect::<Result<_>>()?;
        Ok(Self { what, times, others: 0 })
    }

    fn record(&mut self, times: &[(Moment, Moment)]) -> Result<()> {
        for ((_, histogram), (from, to)) in self.times.iter_mut().zip(times) {
            histogram.record(u64::try_from(to.since(*from).as_nanos())?)?;
        }
        Ok(())
    }
}

/// A client whose requests are stamped.
struct Stamped {
    client: Client,
    stamps: UnboundedReceiver<Stamp>,
}

impl Stamped {
    fn new(bench: &Bench) -> Result<Self> {
        let (tell, stamps) = unbounded_channel();
        let store = CountingStore { store: bench.store()?, counts: Arc::default() };
        let store = StampingStore { store, tell };
        let client = Client::builder().store(Arc::new(store)).namespace(&bench.namespace).build()?;
        Ok(Self { client, stamps })
    }

    /// What happened to this Lease since the last look.
    fn take(&mut self, lease: &str) -> Vec<(What, Moment)> {
        let mut all = Vec::new();
        while let Ok(stamp) = self.stamps.try_recv() {
            if stamp.name == lease {
                all.push((stamp.what, stamp.at));
            }
        }
        all
    }
}

/// What an operation takes of processors and memory.
struct Cost {
    load: Load,
    per_second: f64,
    /// Milliseconds of a processor: of the clients, the API server and etcd.
    cpu: [f64; 3],
    allocations: f64,
    allocated: f64,
    /// What etcd has stored more, in bytes, the versions before included.
    stored: f64,
}

/// Measures all of it: steps in so many rounds, costs for so long each.
pub(crate) async fn breakdown(bench: &mut Bench, cluster: &Cluster, rounds: usize, time: Duration) -> Result<()> {
    let cycle = bench.cycle_steps(rounds).await?;
    let hand_off = bench.hand_off_steps(rounds / 2).await?;
    let mut costs = Vec::new();
    if let Some(servers) = Servers::of(cluster).await {
        for load in
            [Load::Puts(1), Load::Puts(64), Load::Renewals, Load::Cycles, Load::Contenders(2), Load::Contenders(128)]
        {
            costs.push(bench.cost(&servers, load, time).await?);
        }
    } else {
        eprintln!("somebody else runs this cluster: what its servers take is not known");
    }
    for steps in [&cycle, &hand_off] {
        println!("\n{}", bench.tell_steps(steps));
    }
    println!("\n{}", bench.tell_costs(&costs));
    Ok(())
}

impl Bench {
    async fn cycle_steps(&self, rounds: usize) -> Result<Steps> {
        const NAME: &str = "breakdown-cycle";
        let mut steps = Steps::new(
            "cycle",
            &[
                "acquire: called → request sent",
                "acquire: sent → answered",
                "acquire: answered → returned",
                "release: called → request sent",
                "release: sent → answered",
                "release: answered → returned",
                "all of it",
                "floor: a bare PUT",
            ],
        )?;
        let (store, mut floor) = (self.store()?, self.lease("breakdown-floor").await?);
        self.lease(NAME).await?;
        let mut stamped = Stamped::new(self)?;
        let lock = stamped.client.lock(NAME).build()?;
        for round in 0..rounds + rounds / 10 {
            let begun = clock::moment();
            floor = bare_put(&store, floor).await?;
            let put = clock::moment();
            stamped.take(NAME);
            let called = clock::moment();
            let guard = lock.acquire().await?;
            let acquired = clock::moment();
            guard.release().await?;
            let released = clock::moment();
            if round < rounds / 10 {
                continue;
            }
            let stamps = stamped.take(NAME);
            let [
                (What::WriteSent, sent),
                (What::WriteAnswered(true), answered),
                (What::WriteSent, sent_again),
                (What::WriteAnswered(true), answered_again),
            ] = stamps[..]
            else {
                steps.others += 1;
                continue;
            };
            steps.record(&[
                (called, sent),
                (sent, answered),
                (answered, acquired),
                (acquired, sent_again),
                (sent_again, answered_again),
                (answered_again, released),
                (called, released),
                (begun, put),
            ])?;
        }
        stamped.client.shutdown().await;
        Ok(steps)
    }

    async fn hand_off_steps(&self, rounds: usize) -> Result<Steps> {
        const NAME: &str = "breakdown-hand-off";
        let mut steps = Steps::new(
            "hand-off",
            &[
                "release: called → PATCH sent",
                "release: sent → answered",
                "release: answered → returned",
                "PATCH sent → event at the waiter",
                "waiter: event → acquire returned",
                "all of it: release called → acquire returned",
                "floor: a PUT → its event",
            ],
        )?;
        let (store, watching) = (self.store()?, self.store()?);
        let mut floor = self.lease("breakdown-event").await?;
        let version = floor.metadata.resource_version.clone().context("a version")?.parse()?;
        let mut sights = watching.watch("breakdown-event", None, Some(version));
        self.lease(NAME).await?;
        let mut turn = [Stamped::new(self)?, Stamped::new(self)?];
        let mut guard = turn[0].client.lock(NAME).build()?.acquire().await?;
        for round in 0..rounds + rounds / 10 {
            let begun = clock::moment();
            let event = async {
                loop {
                    if let Sight::Shows(_) = sights.next().await.context("the watch ended")?? {
                        return anyhow::Ok(clock::moment());
                    }
                }
            };
            let (put, event) = futures::join!(bare_put(&store, floor), event);
            floor = put?;
            let floor_event = event?;
            let next = turn[1].client.lock(NAME).build()?;
            let looks = next.clone();
            let waits = tokio::spawn(async move { next.acquire().await.map(|guard| (guard, clock::moment())) });
            while looks.status().await?.waiters.is_empty() {}
            // The watch of whoever waits has begun.
            tokio::time::sleep(Duration::from_millis(10)).await;
            for one in &mut turn {
                one.take(NAME);
            }
            let called = clock::moment();
            guard.release().await?;
            let released = clock::moment();
            let (next, acquired) = waits.await??;
            guard = next;
            let gives = turn[0].take(NAME);
            let is_told = turn[1].take(NAME).into_iter().find(|(what, _)| *what == What::Event);
            turn.swap(0, 1);
            if round < rounds / 10 {
                continue;
            }
            let mut writes = gives.into_iter().filter(|(what, _)| *what != What::Event);
            let asked = [writes.next(), writes.next(), writes.next()];
            let ([Some((What::WriteSent, sent)), Some((What::WriteAnswered(true), answered)), None], Some((_, told))) =
                (asked, is_told)
            else {
                steps.others += 1;
                continue;
            };
            steps.record(&[
                (called, sent),
                (sent, answered),
                (answered, released),
                (sent, told),
                (told, acquired),
                (called, acquired),
                (begun, floor_event),
            ])?;
        }
        guard.release().await?;
        for one in turn {
            one.client.shutdown().await;
        }
        Ok(steps)
    }

    async fn cost(&self, servers: &Servers, load: Load, time: Duration) -> Result<Cost> {
        let running = self.start(load).await?;
        let stored = servers.stored().await?;
        let (done, begun, cpu) = (running.done(), clock::moment(), servers.spent()?);
        let (number, bytes) = allocations::so_far();
        tokio::time::sleep(time).await;
        let (number, bytes) = (allocations::so_far().0 - number, allocations::so_far().1 - bytes);
        let (count, took, cpu) = (running.done() - done, clock::moment().since(begun), servers.spent()? - cpu);
        let stored = servers.stored().await?.saturating_sub(stored);
        let more = running.done() - done;
        running.stop().await?;
        let each = |seconds: f64| seconds * 1000.0 / ratio(count, 1);
        Ok(Cost {
            load,
            per_second: ratio(count, 1) / took.as_secs_f64(),
            cpu: [each(cpu.clients), each(cpu.apiserver), each(cpu.etcd)],
            allocations: ratio(number, count),
            allocated: ratio(bytes, count),
            // What was done while etcd was asked counts as well.
            stored: ratio(stored, more),
        })
    }

    fn tell_steps(&mut self, steps: &Steps) -> Table {
        let mut table = Table::new();
        let title = format!("{} ({} rounds, {} otherwise)", steps.what, steps.times[0].1.len(), steps.others);
        table.load_style(ASCII_MARKDOWN).set_header([title.as_str(), "median, µs", "95 %, µs"]);
        for (number, (name, times)) in steps.times.iter().enumerate() {
            let micros = |part| Duration::from_nanos(times.value_at_quantile(part)).as_secs_f64() * 1e6;
            let figure = format!("breakdown_{}_{number} {name}", steps.what.replace('-', "_"));
            self.report.add(&figure, micros(0.5), "µs", None, times.len());
            table.add_row([(*name).to_owned(), format!("{:.0}", micros(0.5)), format!("{:.0}", micros(0.95))]);
        }
        right(&mut table, 1..3);
        table
    }

    fn tell_costs(&mut self, costs: &[Cost]) -> Table {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN).set_header([
            "",
            "1/s",
            "clients, CPU ms",
            "API server, CPU ms",
            "etcd, CPU ms",
            "allocations",
            "KiB allocated",
            "etcd stores, B",
        ]);
        for Cost { load, per_second, cpu, allocations, allocated, stored } in costs {
            let name = load.name().replace('-', "_");
            let figures = [
                ("per_s", *per_second, "1/s"),
                ("cpu_clients", cpu[0], "ms"),
                ("cpu_apiserver", cpu[1], "ms"),
                ("cpu_etcd", cpu[2], "ms"),
                ("allocations", *allocations, ""),
                ("allocated", *allocated, "B"),
                ("etcd_bytes", *stored, "B"),
            ];
            for (figure, value, unit) in figures {
                self.report.add(&format!("cost_{name}_{figure}"), value, unit, None, 1);
            }
            table.add_row([
                load.operation(),
                format!("{per_second:.0}"),
                format!("{:.3}", cpu[0]),
                format!("{:.3}", cpu[1]),
                format!("{:.3}", cpu[2]),
                format!("{allocations:.0}"),
                format!("{:.1}", allocated / 1024.0),
                format!("{stored:.0}"),
            ]);
        }
        right(&mut table, 1..8);
        table
    }
}

fn right(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}
