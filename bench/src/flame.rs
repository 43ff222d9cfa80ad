//! A flame graph: who calls whom, as wide as the time that is spent there. Callers stand above what they call.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::profile::package;

const WIDTH: f64 = 1400.0;
const ROW: f64 = 17.0;
/// What would be narrower than this is left out.
const NARROWEST: f64 = 0.4;
/// How wide a letter is.
const LETTER: f64 = 6.6;

/// One function, called by the way that leads to it.
#[derive(Default)]
struct Node {
    value: f64,
    calls: BTreeMap<String, Node>,
}

impl Node {
    fn add(&mut self, stack: &[String], value: f64) {
        self.value += value;
        if let [caller, called @ ..] = stack {
            self.calls.entry(caller.clone()).or_default().add(called, value);
        }
    }

    fn depth(&self, scale: f64) -> usize {
        let wide = self.calls.values().filter(|call| call.value * scale >= NARROWEST);
        wide.map(|call| call.depth(scale) + 1).max().unwrap_or(0)
    }
}

/// The graph as SVG, of stacks with the outermost caller first, and how many milliseconds each was met in.
pub(crate) fn graph(title: &str, stacks: &[(Vec<String>, f64)]) -> String {
    let mut root = Node::default();
    for (stack, value) in stacks {
        root.add(stack, *value);
    }
    let scale = if root.value > 0.0 { WIDTH / root.value } else { 0.0 };
    #[expect(clippy::cast_precision_loss, reason = "a stack is not that deep")]
    let height = (root.depth(scale) + 2) as f64 * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"4\" y=\"13\">{}</text>\n",
        escape(&format!("{title}: {:.0} ms of a processor; point at a function for its name", root.value))
    );
    draw(&mut svg, &root, (0.0, ROW), (scale, root.value));
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, node: &Node, at: (f64, f64), of: (f64, f64)) {
    let ((mut x, y), (scale, all)) = (at, of);
    for (name, call) in &node.calls {
        let width = call.value * scale;
        if width >= NARROWEST {
            let told = format!("{name}: {:.0} ms, {:.1} %", call.value, 100.0 * call.value / all);
            let _ = writeln!(
                svg,
                "<g><title>{}</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{}\" \
                 stroke=\"white\" stroke-width=\"0.5\"/>{}</g>",
                escape(&told),
                ROW - 1.0,
                colour(package(name)),
                label(name, x, y, width)
            );
            draw(svg, call, (x, y + ROW), of);
        }
        x += width;
    }
}

/// As much of a name's end as there is room for.
fn label(name: &str, x: f64, y: f64, width: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of letters")]
    let room = (width / LETTER) as usize;
    let short = name.rsplit('/').next().unwrap_or(name);
    if room < 3 {
        return String::new();
    }
    let cut: String = short.chars().take(room).collect();
    format!("<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", x + 2.0, y + 12.0, escape(&cut))
}

/// The same for all of a package.
fn colour(package: &str) -> String {
    let sum = package.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    format!("hsl({}, 70%, {}%)", sum % 60, 62 + sum / 60 % 18)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_as_wide_as_the_time_spent_in_it() {
        let stack = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let svg = graph("all", &[(stack(&["main.main", "net/http.serve"]), 30.0), (stack(&["main.main"]), 10.0)]);
        assert!(svg.contains("<title>main.main: 40 ms, 100.0 %</title><rect x=\"0.0\" y=\"17.0\" width=\"1400.0\""));
        assert!(
            svg.contains("<title>net/http.serve: 30 ms, 75.0 %</title><rect x=\"0.0\" y=\"34.0\" width=\"1050.0\"")
        );
        assert_eq!(svg.matches("<g>").count(), 2);
    }
}
