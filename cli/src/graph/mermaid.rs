//! The graph for Mermaid, which Markdown viewers draw.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::model::{EdgeKind, Graph, NodeKind};
use super::words;
use crate::view::printable;

/// Arrows go from who waits to what it waits for, and from there to who holds it: a circle is a circle of arrows.
pub(super) fn draw(graph: &Graph, with_namespace: bool) -> String {
    let mut text = "flowchart LR\n".to_owned();
    let in_circles: BTreeSet<&String> = graph.circles.iter().flatten().collect();
    let (mut numbers, mut stuck) = (BTreeMap::new(), Vec::new());
    for (n, node) in graph.nodes.iter().enumerate() {
        numbers.insert(&*node.id, n);
        let (open, close) = if node.kind == NodeKind::Client { ("([\"", "\"])") } else { ("[\"", "\"]") };
        let lines = words::of_node(node, with_namespace);
        let lines: Vec<String> = lines.iter().map(|line| quoted(line)).collect();
        let _ = writeln!(text, "  n{n}{open}{}{close}", lines.join("<br/>"));
        stuck.extend(in_circles.contains(&node.id).then(|| format!("n{n}")));
    }
    let (mut count, mut circular) = (0, Vec::new());
    for edge in &graph.edges {
        let (Some(client), Some(lock)) = (numbers.get(&*edge.from), numbers.get(&*edge.to)) else { continue };
        let (from, arrow, to) = match edge.kind {
            EdgeKind::Holds => (lock, "-->", client),
            EdgeKind::Waits => (client, "-.->", lock),
        };
        let _ = writeln!(text, "  n{from} {arrow}|\"{}\"| n{to}", quoted(&words::of_edge(edge)));
        circular.extend(edge.deadlocked.then(|| count.to_string()));
        count += 1;
    }
    if !stuck.is_empty() {
        let _ = writeln!(text, "  classDef stuck stroke:#c00,stroke-width:3px\n  class {} stuck", stuck.join(","));
    }
    if !circular.is_empty() {
        let _ = writeln!(text, "  linkStyle {} stroke:#c00,stroke-width:3px", circular.join(","));
    }
    text
}

/// For a text in quotes: whatever might mean something there is written as a number.
fn quoted(line: &str) -> String {
    let mut text = String::new();
    for c in printable(line).chars() {
        let is_plain = c.is_alphanumeric() || matches!(c, ' ' | '.' | ',' | ':' | '/' | '-' | '_' | '(' | ')');
        if is_plain {
            text.push(c);
        } else {
            let _ = write!(text, "#{};", u32::from(c));
        }
    }
    text
}
