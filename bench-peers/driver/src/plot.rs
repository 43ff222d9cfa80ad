//! Plots as plain SVG, to be read on white and on black.

use std::fmt::Write as _;

/// One bar: a name, the median, and from where to where runs went.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// What it is all about.
    pub(crate) ours: bool,
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 250.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 46.0;
const STEP: f64 = 24.0;

/// Text is grey, which stands out from both; whoever asks for dark gets it lighter.
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#57606a}.title{font-weight:600}.axis{stroke:#8c959f;stroke-opacity:.35}\
.ours{fill:#1a7f37}.other{fill:#6e7f99}.range{stroke:#57606a;stroke-width:1.5}\
@media(prefers-color-scheme:dark){text{fill:#9da7b3}.ours{fill:#3fb950}.other{fill:#768aa8}.range{stroke:#c9d1d9}}";

/// Horizontal bars on a logarithmic axis, as long as the median, with a line from the least to the most.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    let positive = || bars.iter().flat_map(|bar| [bar.least, bar.most]).filter(|value| *value > 0.0);
    let low = positive().fold(f64::INFINITY, f64::min).log10().floor();
    let (low, high) = if low.is_finite() { (low, positive().fold(0.0, f64::max).log10().ceil()) } else { (0.0, 1.0) };
    let high = if high > low { high } else { low + 1.0 };
    let place = |value: f64| {
        let part = if value > 0.0 { ((value.log10() - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 };
        LEFT + part * (WIDTH - LEFT - RIGHT)
    };
    #[expect(clippy::cast_precision_loss, reason = "there are few bars")]
    let bottom = TOP + STEP * bars.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"{title}\">\n<style>{STYLE}</style>\n<text class=\"title\" x=\"8\" y=\"18\">{title}</text>\n",
        height = bottom + 12.0,
        title = escaped(title),
    );
    let mut power = low;
    while power <= high {
        let x = place(10_f64.powf(power));
        let _ = writeln!(svg, "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>");
        let label = short(10_f64.powf(power));
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", TOP - 6.0);
        power += 1.0;
    }
    let mut y = TOP;
    for bar in bars {
        let (middle, class) = (y + STEP / 2.0, if bar.ours { "ours" } else { "other" });
        let (from, to) = (place(bar.least), place(bar.most));
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            middle + 4.5,
            escaped(&bar.name)
        );
        let width = place(bar.median) - LEFT;
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{}\"/>",
            y + 4.0,
            STEP - 8.0
        );
        if bar.most > bar.least {
            let _ = writeln!(
                svg,
                "<line class=\"range\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>"
            );
        }
        let after = place(bar.median).max(to) + 6.0;
        let _ = writeln!(svg, "<text x=\"{after:.1}\" y=\"{:.1}\">{}</text>", middle + 4.5, short(bar.median));
        y += STEP;
    }
    svg.push_str("</svg>\n");
    svg
}

/// Three digits that count, or all before the point.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if size == 0.0 => "0".to_owned(),
        _ if size >= 10_000.0 => whole(value),
        _ if size >= 100.0 => format!("{value:.0}"),
        _ if size >= 10.0 => format!("{value:.1}"),
        _ if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Without what is behind the point.
pub(crate) fn whole(value: f64) -> String {
    grouped(&format!("{value:.0}"))
}

/// A comma between thousands.
fn grouped(digits: &str) -> String {
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.0123, 0.5, 2.345, 23.45, 234.5, 2345.6, 23_456.7, 1_234_567.0].map(short);
        assert_eq!(all, ["0", "0.012", "0.50", "2.35", "23.4", "234", "2346", "23,457", "1,234,567"]);
    }

    #[test]
    fn a_longer_bar_is_more_and_nothing_has_no_length() {
        let bar = |median: f64| Bar { name: "a<b".to_owned(), median, least: median, most: median, ours: false };
        let svg = bars("t", &[bar(1.0), bar(100.0), bar(0.0)]);
        let widths: Vec<f64> = svg
            .lines()
            .filter_map(|line| line.strip_prefix("<rect")?.split_once("width=\"")?.1.split_once('"')?.0.parse().ok())
            .collect();
        assert_eq!(widths, [0.0, WIDTH - LEFT - RIGHT, 0.0]);
        assert!(svg.contains("a&lt;b"), "{svg}");
    }
}
