//! The graph for Graphviz.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::model::{EdgeKind, Graph, NodeKind};
use super::words;
use crate::view::printable;

/// Arrows go from who waits to what it waits for, and from there to who holds it: a circle is a circle of arrows.
pub(super) fn draw(graph: &Graph, with_namespace: bool) -> String {
    let mut text = "digraph leasehold {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n  \
                    edge [fontname=\"sans-serif\", fontsize=10];\n"
        .to_owned();
    let circular: BTreeSet<&String> = graph.circles.iter().flatten().collect();
    let mut numbers = BTreeMap::new();
    for (n, node) in graph.nodes.iter().enumerate() {
        numbers.insert(&*node.id, n);
        let shape = if node.kind == NodeKind::Client { "ellipse" } else { "box" };
        let lines: Vec<String> = words::of_node(node, with_namespace).iter().map(|line| quoted(line)).collect();
        let colour = if circular.contains(&node.id) { ", color=red" } else { "" };
        let _ = writeln!(text, "  n{n} [shape={shape}, label=\"{}\"{colour}];", lines.join("\\n"));
    }
    for edge in &graph.edges {
        let (Some(client), Some(lock)) = (numbers.get(&*edge.from), numbers.get(&*edge.to)) else { continue };
        let (from, to, style) = match edge.kind {
            EdgeKind::Holds => (lock, client, "solid"),
            EdgeKind::Waits => (client, lock, "dashed"),
        };
        let colour = if edge.deadlocked { ", color=red, penwidth=2" } else { "" };
        let label = quoted(&words::of_edge(edge));
        let _ = writeln!(text, "  n{from} -> n{to} [label=\"{label}\", style={style}{colour}];");
    }
    if !graph.texts.is_empty() {
        let lines = graph.texts.iter().map(|words| format!("deadlock: {}\\l", quoted(words)));
        let _ = writeln!(text, "  label=\"{}\";\n  labeljust=l;", lines.collect::<String>());
    }
    text + "}\n"
}

/// For a label in quotes: there a backslash begins a command, and an ampersand a letter's name.
fn quoted(line: &str) -> String {
    let mut text = String::new();
    for c in printable(line).chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '&' => text.push_str("&amp;"),
            c => text.push(c),
        }
    }
    text
}
