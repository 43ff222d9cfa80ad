//! The report for people.

use std::fmt::Write as _;

use super::report::{Report, Told, Verdict};
use crate::view::{Style, printable};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";
const RESET: &str = "\x1b[0m";

fn coloured(style: Style, code: &str, text: &str) -> String {
    match style {
        Style::Plain => text.to_owned(),
        Style::Coloured => format!("{code}{text}{RESET}"),
    }
}

/// One finding a line, and below it what to do about it; and last how many there are of each verdict.
pub(super) fn text(report: &Report, style: Style, summed_up: bool) -> String {
    let mut text = String::new();
    let mut check = "";
    for finding in &report.findings {
        if finding.check != check {
            check = finding.check;
            let _ = writeln!(text, "{}", coloured(style, BOLD, check));
        }
        one(&mut text, finding, style);
    }
    if summed_up {
        let _ = writeln!(text, "{}", summary(report));
    }
    text
}

fn one(text: &mut String, finding: &Told, style: Style) {
    let code = match finding.verdict {
        Verdict::Ok => GREEN,
        Verdict::Note => CYAN,
        Verdict::Skipped => DIM,
        Verdict::Warning => YELLOW,
        Verdict::Failed => RED,
    };
    let verdict = format!("{:<8}", finding.verdict.name());
    let _ = writeln!(text, "  {}{}", coloured(style, code, &verdict), finding.message);
    if let Some(fix) = &finding.fix {
        let _ = writeln!(text, "          fix: {}", printable(fix));
    }
    if let Some(command) = &finding.command {
        let _ = writeln!(text, "          $ {}", coloured(style, BOLD, &printable(command)));
    }
}

/// `12 ok, 1 note, 2 warnings, 0 failed, 1 skipped`.
fn summary(report: &Report) -> String {
    let count = |verdict: Verdict| report.counts.get(verdict.name()).copied().unwrap_or_default();
    let many = |verdict: Verdict| match count(verdict) {
        1 => format!("1 {}", verdict.name()),
        n => format!("{n} {}s", verdict.name()),
    };
    format!(
        "{} ok, {}, {}, {} failed, {} skipped",
        count(Verdict::Ok),
        many(Verdict::Note),
        many(Verdict::Warning),
        count(Verdict::Failed),
        count(Verdict::Skipped)
    )
}
