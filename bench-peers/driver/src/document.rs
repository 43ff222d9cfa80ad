//! The document and its plots, from results alone: no figure in it can come from anywhere else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::contestants::{FLOOR, LEASEHOLD};
use crate::plot::{self, Bar, short};
use crate::results::{Entry, Results, Spread};
use crate::targets::{contended, targets};

/// Every file by its path below the folder with the results.
pub(crate) fn files(results: &Results) -> BTreeMap<String, String> {
    let mut document = Document { results, text: String::new(), files: BTreeMap::new() };
    document.write();
    let Document { text, mut files, .. } = document;
    files.insert("benchmarks.md".to_owned(), text.replace("\n\n\n", "\n\n"));
    files
}

/// Writes them beside the results.
pub(crate) fn write(results: &Results, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder.join("benchmarks"))?;
    for (name, text) in files(results) {
        std::fs::write(folder.join(&name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

/// Whether they are there as these results have them.
pub(crate) fn check(results: &Results, folder: &Path) -> Result<()> {
    for (name, text) in files(results) {
        if std::fs::read_to_string(folder.join(&name)).unwrap_or_default() != text {
            bail!("{name} is not what benchmarks.json says; write it anew with --from, and no figure by hand");
        }
    }
    Ok(())
}

struct Document<'a> {
    results: &'a Results,
    text: String,
    files: BTreeMap<String, String>,
}

const HEAD: &str = "\
# Benchmarks

Leasehold beside what else there is, measured in one run on one machine, with the same API server and the same etcd (what was
measured again in another is named in the conditions, and is of one run as well, everybody in it). All of this page is written by `make bench-peers` from [benchmarks.json](benchmarks.json), which has every figure of every run; nothing
in it is written by hand. How it measures is in [bench-peers/README.md](../bench-peers/README.md).

A figure is the median of the runs, with the least and the most in brackets. Factors are taken within a run. The floor is two bare
PUTs of a Lease where it is about cycles, and a PUT and its watch event in another process where it is about hand-offs.
";

impl Document<'_> {
    fn write(&mut self) {
        self.text.push_str(HEAD);
        if self.results.quick {
            self.text.push_str("\n**A smoke run: these figures are worth nothing.**\n");
        }
        self.text.push_str("\n## Conditions\n\n");
        let mut rows: Vec<Vec<String>> =
            self.results.conditions.iter().map(|(title, value)| vec![title.clone(), value.clone()]).collect();
        rows.push(vec!["runs".to_owned(), self.results.runs.to_string()]);
        let parts: Vec<String> = self.results.parts.iter().map(|(part, took)| format!("{part} {took:.0} s")).collect();
        rows.push(vec!["time taken, all runs".to_owned(), parts.join(", ")]);
        self.table(&["", ""], &rows);
        self.targets();
        self.contestants();
        self.uncontended();
        self.contended();
        self.overlaps();
        self.hand_off();
        self.crash();
        self.idle();
        self.held();
        self.in_process();
        if !self.results.notes.is_empty() {
            self.text.push_str("\n## What did not go as it should\n\n");
            for note in &self.results.notes {
                let _ = writeln!(self.text, "- {}", cell(note));
            }
        }
    }

    fn targets(&mut self) {
        self.text.push_str("\n## Targets\n\n");
        let rows: Vec<Vec<String>> = targets(self.results)
            .into_iter()
            .map(|target| {
                let met = match target.met {
                    Some(true) => "yes",
                    Some(false) => "**no**",
                    None => "**not known**",
                };
                vec![target.what, target.wanted, target.measured, met.to_owned()]
            })
            .collect();
        self.table(&["", "target", "measured", "met?"], &rows);
    }

    fn contestants(&mut self) {
        self.text.push_str("\n## Who takes part\n\n");
        let entries = self.results.contestants.iter();
        let rows: Vec<Vec<String>> =
            entries.map(|entry| vec![entry.name.clone(), entry.version.clone(), entry.options.clone()]).collect();
        self.table(&["", "version", "options"], &rows);
    }

    fn uncontended(&mut self) {
        self.section(
            "A cycle that nobody is in the way of",
            "One process acquires and releases, again and again. What a cycle asks of its server is counted at the API \
             server by its audit log, by the client of etcd, and by Redis. These do not count alike: the audit log has one \
             for each watch, the client of etcd one for each message that it sends, streams included, and what a watch \
             tells counts for nobody.",
        );
        let rows = self.rows("uncontended", |this, entry| {
            vec![
                this.value("uncontended", entry, "median_ms"),
                this.value("uncontended", entry, "p95_ms"),
                this.factor("uncontended", entry, "median_ms", FLOOR),
                this.factor("uncontended", entry, "median_ms", LEASEHOLD),
                this.value("uncontended", entry, "cycles_per_s"),
                this.value("uncontended", entry, "requests_per_cycle"),
            ]
        });
        self.table(&["", "ms", "95 % within, ms", "× floor", "× Leasehold", "cycles/s", "requests"], &rows);
        self.plot("uncontended", "median_ms", "A cycle that nobody is in the way of, ms");
    }

    fn contended(&mut self) {
        let workloads = contended(self.results);
        self.section(
            "Many want one lock",
            "So many contend without a pause, in one process, each with a connection of its own. Turns are of those who \
             had the fewest and the most in the time.",
        );
        for workload in &workloads {
            let contenders = workload.trim_start_matches("contended-");
            let _ = writeln!(self.text, "\n### {contenders} contenders\n");
            let rows = self.rows(workload, |this, entry| {
                let turns = [this.plain(workload, entry, "fewest"), this.plain(workload, entry, "most")];
                vec![
                    this.value(workload, entry, "cycles_per_s"),
                    this.factor(workload, entry, "cycles_per_s", LEASEHOLD),
                    turns.join("/"),
                    this.value(workload, entry, "requests_per_cycle"),
                ]
            });
            self.table(&["", "cycles/s", "× Leasehold", "fewest/most turns", "requests a cycle"], &rows);
            self.plot(workload, "cycles_per_s", &format!("{contenders} contenders, cycles a second"));
        }
    }

    fn overlaps(&mut self) {
        self.section(
            "Two at once",
            "Eight contend for one lock as above, in a crowd of its own, and everybody alike holds it for 1 to 2 ms in each \
             turn, so that a second holder would be met; above, where it is let go at once, one would hardly be. *Overlaps* \
             is how often one had acquired while another held, the most of all runs, counted in the process itself; it must \
             be 0.",
        );
        let rows = self.rows("overlaps", |this, entry| {
            vec![this.plain("overlaps", entry, "turns"), this.most("overlaps", entry, "overlaps")]
        });
        self.table(&["", "turns", "overlaps"], &rows);
    }

    fn hand_off(&mut self) {
        self.section(
            "Hand-off to an idle waiter",
            "One process holds the lock and one waits; from the beginning of the release until the other has it, to and \
             fro. Waiters that look now and then, or sleep until a lease ends, are met at any moment between. Those that \
             seldom look are measured while the others are idle.",
        );
        let rows = self.rows("handoff", |this, entry| {
            let n = this.results.spread("handoff", &entry.id, "median_ms").map(|spread| spread.n.to_string());
            vec![
                this.value("handoff", entry, "median_ms"),
                this.value("handoff", entry, "p95_ms"),
                this.factor("handoff", entry, "median_ms", FLOOR),
                this.factor("handoff", entry, "median_ms", LEASEHOLD),
                n.unwrap_or_default(),
                this.most("handoff", entry, "overlaps"),
            ]
        });
        self.table(&["", "ms", "95 % within, ms", "× floor", "× Leasehold", "hand-offs", "overlaps"], &rows);
        self.plot("handoff", "median_ms", "Hand-off to an idle waiter, ms");
    }

    fn crash(&mut self) {
        self.section(
            "A holder crashes",
            "The process that holds the lock is killed (SIGKILL), and one waits in another; until the other has it. The \
             holder is killed when it has held for a second and a part of the lease's duration, which is the same for \
             everybody in a run and another in each run: who renews seldom leaves an older lease behind, which ends sooner, \
             so look at the most as well. First with leases of 15 s for everybody; then of the length that each has by \
             itself. Leasehold's operator, which hands on at once where a Pod is known to have ended, does \
             not run.",
        );
        let both = [("crash-equal", "every lease lasts 15 s"), ("crash", "leases as long as each has them")];
        for (workload, what) in both {
            let _ = writeln!(self.text, "\n### {}\n", capital(what));
            let rows = self.rows(workload, |this, entry| {
                vec![
                    this.value(workload, entry, "seconds"),
                    this.factor(workload, entry, "seconds", LEASEHOLD),
                    this.value(workload, entry, "leases"),
                ]
            });
            self.table(&["", "s", "× Leasehold", "lease durations"], &rows);
            self.plot(
                workload,
                "seconds",
                &format!("A holder crashes: until the next has the lock, in seconds; {what}"),
            );
        }
    }

    fn idle(&mut self) {
        self.section(
            "Nothing to do",
            "One holds and nine wait, each with a connection of its own; nothing happens. Requests \
             a second of all ten, from 60 to 100 s on, when everybody has found its pace: with leases of 15 s for \
             everybody, and of the length that each has by itself (see who takes part). Longer leases are renewed less \
             often, and take as much longer to pass on after a crash.",
        );
        let both = [("idle-equal", "every lease lasts 15 s"), ("idle", "leases as long as each has them")];
        for (workload, what) in both {
            let _ = writeln!(self.text, "\n### {}\n", capital(what));
            let rows = self.rows(workload, |this, entry| {
                let value = this.value(workload, entry, "requests_per_s");
                vec![value, this.factor(workload, entry, "requests_per_s", LEASEHOLD)]
            });
            self.table(&["", "requests/s", "× Leasehold"], &rows);
            self.plot(
                workload,
                "requests_per_s",
                &format!("One idle holder and nine waiters, requests a second; {what}"),
            );
        }
    }

    fn held(&mut self) {
        self.section(
            "Very many locks of one process",
            "One process, by one connection, takes 10,000 locks, or as many as it can within 8 s (Leasehold six times as long), \
             and holds them. Requests are counted from 10 to 40 s after that, in which every lease of up to 30 s is renewed; who \
             still held them in the end believes so itself. Where options make no difference to who holds, one of each \
             takes part.",
        );
        let rows = self.rows("held", |this, entry| {
            vec![
                this.plain("held", entry, "locks"),
                this.value("held", entry, "acquired_in_s"),
                this.plain("held", entry, "still_held"),
                this.value("held", entry, "requests_per_s"),
                this.value("held", entry, "requests_per_s_and_10000"),
            ]
        });
        self.table(&["", "locks taken", "in s", "still held", "requests/s", "requests/s for each 10,000"], &rows);
        self.plot("held", "requests_per_s_and_10000", "Locks held by one process, requests a second for each 10,000");
    }

    fn in_process(&mut self) {
        self.section(
            "Within one process",
            "Two tasks of one client hand a lock to each other; and one task acquires and releases again and again while no \
             other process wants it.",
        );
        let rows = self.rows("in-process", |this, entry| {
            vec![
                this.value("in-process", entry, "median_ms"),
                this.value("in-process", entry, "p95_ms"),
                this.value("in-process", entry, "reacquire_ms"),
            ]
        });
        self.table(&["", "hand-off, ms", "95 % within, ms", "a cycle, ms"], &rows);
    }

    fn section(&mut self, title: &str, about: &str) {
        let _ = writeln!(self.text, "\n## {title}\n\n{}\n", folded(about));
    }

    /// A row for each who was measured.
    fn rows(&self, workload: &str, row: impl Fn(&Self, &Entry) -> Vec<String>) -> Vec<Vec<String>> {
        let measured = |entry: &&Entry| {
            self.results.figures.iter().any(|figure| figure.workload == workload && figure.contestant == entry.id)
        };
        let named = |entry: &Entry| {
            let mut cells = vec![entry.name.clone()];
            cells.extend(row(self, entry));
            cells
        };
        let entries = entries(self.results);
        entries.into_iter().filter(|entry| measured(entry)).map(named).collect()
    }

    fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        self.text.push_str(&line(head.iter().map(|&title| title.to_owned()).collect()));
        self.text.push_str(&line(head.iter().map(|_| "---".to_owned()).collect()));
        for row in rows {
            self.text.push_str(&line(row.iter().map(|text| cell(text)).collect()));
        }
    }

    fn plot(&mut self, workload: &str, metric: &str, title: &str) {
        let bar = |entry: &Entry| {
            let spread = self.results.spread(workload, &entry.id, metric)?;
            let Spread { median, least, most, .. } = spread;
            Some(Bar { name: entry.name.clone(), median, least, most, ours: entry.id.starts_with(LEASEHOLD) })
        };
        let bars: Vec<Bar> = entries(self.results).into_iter().filter_map(bar).collect();
        if bars.is_empty() {
            return;
        }
        let file = format!("benchmarks/{workload}.svg");
        let _ = writeln!(self.text, "\n![{title}]({file})");
        self.files.insert(file, plot::bars(title, &bars));
    }

    fn value(&self, workload: &str, entry: &Entry, metric: &str) -> String {
        self.results.spread(workload, &entry.id, metric).map_or_else(nothing, ranged)
    }

    /// A count, without the ends.
    fn plain(&self, workload: &str, entry: &Entry, metric: &str) -> String {
        let spread = self.results.spread(workload, &entry.id, metric);
        spread.map_or_else(nothing, |spread| plot::whole(spread.median))
    }

    /// The most of all runs.
    fn most(&self, workload: &str, entry: &Entry, metric: &str) -> String {
        let spread = self.results.spread(workload, &entry.id, metric);
        spread.map_or_else(nothing, |spread| plot::whole(spread.most))
    }

    fn factor(&self, workload: &str, entry: &Entry, metric: &str, of: &str) -> String {
        if entry.id == of {
            return "1".to_owned();
        }
        let ratio = self.results.ratio([workload, &entry.id, metric], [workload, of, metric]);
        ratio.map_or_else(nothing, |ratio| short(ratio.median))
    }
}

/// The floor is one, whatever it is measured by.
fn entries(results: &Results) -> Vec<&Entry> {
    let mut entries: Vec<&Entry> = Vec::new();
    for entry in &results.contestants {
        if entries.iter().all(|other| other.id != entry.id) {
            entries.push(entry);
        }
    }
    entries
}

fn capital(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    first.to_uppercase() + rest
}

fn nothing() -> String {
    "–".to_owned()
}

fn ranged(spread: Spread) -> String {
    if spread.least < spread.most {
        format!("{} ({}–{})", short(spread.median), short(spread.least), short(spread.most))
    } else {
        short(spread.median)
    }
}

/// What would end a cell does not.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// In lines of at most 120 characters.
fn folded(text: &str) -> String {
    let (mut out, mut width) = (String::new(), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > 120 {
            out.push('\n');
            width = 0;
        } else if width > 0 {
            out.push(' ');
            width += 1;
        }
        out.push_str(word);
        width += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Figure;

    fn results() -> Results {
        let entry = |id: &str| Entry {
            id: id.to_owned(),
            name: format!("the {id}"),
            version: "1|2".to_owned(),
            options: String::new(),
            kubernetes: true,
        };
        let figure = |run, contestant: &str, value| Figure {
            run,
            workload: "uncontended".to_owned(),
            contestant: contestant.to_owned(),
            metric: "median_ms".to_owned(),
            value,
            n: 3,
        };
        Results {
            contestants: vec![entry(FLOOR), entry(LEASEHOLD)],
            figures: vec![figure(1, FLOOR, 2.0), figure(1, LEASEHOLD, 4.0), figure(2, LEASEHOLD, 5.0)],
            ..Results::default()
        }
    }

    #[test]
    fn a_figure_has_its_ends_and_factors() {
        let text = &files(&results())["benchmarks.md"];
        assert!(text.contains("| the leasehold | 4.50 (4.00–5.00) | – | 2.00 | 1 | – | – |"), "{text}");
        assert!(text.contains("1\\|2"), "{text}");
        assert!(!text.contains("worth nothing"), "{text}");
    }

    #[test]
    fn two_at_once_are_told_of_with_the_most_of_all_runs() {
        let mut results = results();
        for (run, value) in [(1, 0.0), (2, 3.0), (3, 0.0)] {
            let of = Figure { workload: "overlaps".to_owned(), run, ..results.figures[1].clone() };
            results.figures.push(Figure { metric: "turns".to_owned(), value: 100.0, ..of.clone() });
            results.figures.push(Figure { metric: "overlaps".to_owned(), value, ..of });
        }
        let text = &files(&results)["benchmarks.md"];
        assert!(text.contains("## Two at once") && text.contains("| the leasehold | 100 | 3 |"), "{text}");
    }

    #[test]
    fn a_changed_figure_is_found() -> Result<()> {
        let (folder, results) = (tempfile::tempdir()?, results());
        write(&results, folder.path())?;
        check(&results, folder.path())?;
        let page = folder.path().join("benchmarks.md");
        std::fs::write(&page, std::fs::read_to_string(&page)?.replace("4.50", "3.50"))?;
        assert!(check(&results, folder.path()).is_err());
        Ok(())
    }
}
