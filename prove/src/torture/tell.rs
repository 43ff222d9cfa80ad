//! What a run has to say in the end.

use std::fmt::Write as _;

use super::checker::{Run, Verdict, Violation};
use super::history::{Nanos, What};
use super::stage::{Stage, faketime};
use super::{Course, LAYER, Options};
use crate::report::Report;

/// How much of the histories is shown around a violation, and how much before it.
const SHOWN: usize = 60;
const BEFORE: Nanos = 500_000_000;
/// How many violations are shown with their histories, and how many at all.
const TOLD: usize = 5;
const NAMED: usize = 30;

pub(super) fn report(
    options: &Options,
    stage: &Stage,
    course: &Course,
    run: &Run,
    verdict: &Verdict,
    tombstones: usize,
) -> Report {
    let mut report = Report::default();
    let mut figure = |what: &str, value: String| report.figure(LAYER, what, value);
    let lines = || run.histories.iter().flat_map(|history| &history.lines);
    let told = |wanted: fn(&What) -> bool| lines().filter(|line| wanted(&line.what)).count();
    figure("seconds of faults", options.duration.to_string());
    figure("workers' processes", run.histories.len().to_string());
    figure("acquisitions", verdict.holds.to_string());
    for (sort, count) in &verdict.by_sort {
        figure(&format!("… {sort}"), count.to_string());
    }
    figure("most permits held at the same time", format!("{} of {}", verdict.most_permits, run.permits));
    figure("most readers at the same time", verdict.most_readers.to_string());
    figure("let in while there were fewer permits", verdict.let_in_while_shrunk.to_string());
    figure("acquired and released", told(|what| matches!(what, What::Released { clean: true })).to_string());
    figure("holds lost", told(|what| matches!(what, What::Lost { .. })).to_string());
    figure("waits given up", told(|what| matches!(what, What::GaveUp { .. })).to_string());
    figure("successful checks", verdict.checks.to_string());
    figure("unfenced writes after a check", verdict.appends.to_string());
    figure("… stopped between check and write", verdict.late.to_string());
    let careless = told(|what| matches!(what, What::Appended { polite: false }));
    let stalled = told(|what| *what == What::Stalled);
    figure("holders of what is shared that stalled", stalled.saturating_sub(careless).to_string());
    figure("holders of locks that did not look", careless.to_string());
    figure("… unfenced writes into another's hold", verdict.overlaps.to_string());
    figure("fenced writes", verdict.fenced.to_string());
    figure("fenced writes of who had a read-write lock to write", verdict.fenced_by_writers.to_string());
    figure("fenced writes refused", verdict.refused.to_string());
    figure("fenced writes unclear", verdict.unclear.to_string());
    figure("overlaps made by a person", verdict.excused.to_string());
    figure("longest wait", seconds(verdict.longest));
    for (quiet, (worst, turns)) in run.quiet.iter().zip(&verdict.served) {
        figure(&format!("longest without a lock {}", quiet.when), seconds(*worst));
        figure(&format!("most turns of others in one wait {}", quiet.when), turns.to_string());
    }
    figure("operator ended by itself", stage.operator.ended.to_string());
    figure("tombstones left", tombstones.to_string());
    figure("faults", course.by_kind.values().sum::<u32>().to_string());
    figure("kinds of faults", course.by_kind.len().to_string());
    for (kind, count) in &course.by_kind {
        figure(&format!("fault: {}", kind.name()), count.to_string());
    }
    if faketime().is_none() {
        figure("fault: wall clock stepped", "skipped: no libfaketime".to_owned());
    }
    let begun = lines().map(|line| line.span.from).min().unwrap_or(0);
    if let Some(first) = verdict.violations.iter().map(|violation| violation.at.from).min() {
        figure("first violation after", seconds(first.saturating_sub(begun)));
    }
    figure("violations found", verdict.violations.len().to_string());
    for (n, violation) in verdict.violations.iter().take(NAMED).enumerate() {
        let told = &violation.told;
        report.violation(if n < TOLD { format!("{told}\n{}", excerpt(run, violation)) } else { told.clone() });
    }
    if !verdict.violations.is_empty() {
        report.violation(format!("the histories are in {}", stage.folder.path().display()));
    }
    report
}

fn seconds(nanos: Nanos) -> String {
    let millis = nanos / 1_000_000;
    format!("{}.{:03} s", millis / 1000, millis % 1000)
}

/// What the histories tell of the time around a violation.
fn excerpt(run: &Run, violation: &Violation) -> String {
    let (from, to) = (violation.at.from.saturating_sub(BEFORE), violation.at.to + BEFORE / 5);
    let within = |line: super::history::Span| line.from <= to && line.to >= from;
    let mut lines: Vec<(Nanos, String)> = Vec::new();
    for history in &run.histories {
        let shown = history.lines.iter().filter(|line| within(line.span));
        lines.extend(shown.map(|line| (line.span.to, format!("{:7} {line}", history.worker))));
    }
    let faults = run.faults.iter().filter(|line| within(line.span));
    lines.extend(faults.map(|line| (line.span.to, format!("{:7} {line}", "FAULT"))));
    lines.sort();
    let skipped = lines.len().saturating_sub(SHOWN);
    let mut out = format!("around {} ({skipped} earlier lines left out):\n", violation.at);
    for (_, line) in &lines[skipped..] {
        let _ = writeln!(out, "    {line}");
    }
    out
}
