//! The graph as trees of text: each lock with who holds it and who waits for it, and under those what they hold themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::Timestamp;

use super::model::{Edge, EdgeKind, Graph, Node, NodeKind};
use super::words::of_share;
use crate::view::{Style, ago, printable};

/// How deep trees are: what is further down begins a tree of its own.
const DEEPEST: usize = 5;
/// Of so many in a row who wait and hold nothing, those between the first and the last are counted only.
const MOST_ALIKE: usize = 8;

struct Drawing<'a> {
    nodes: BTreeMap<&'a str, &'a Node>,
    /// By the lock: those who hold it, then those who wait, in the order of the queue.
    at: BTreeMap<&'a str, Vec<&'a Edge>>,
    /// By the client: what it holds.
    holds: BTreeMap<&'a str, Vec<&'a str>>,
    /// In which circles a client waits for something.
    circles: BTreeMap<(&'a str, &'a str), Vec<usize>>,
    /// Who waits for something.
    waits: BTreeSet<&'a str>,
    drawn: BTreeSet<&'a str>,
    /// What is to begin a tree of its own.
    later: Vec<&'a str>,
    with_namespace: bool,
    style: Style,
    now: Timestamp,
    text: String,
}

/// Draws it. Each lock stands there once; the others refer to it.
pub(super) fn draw(graph: &Graph, with_namespace: bool, style: Style, now: Timestamp) -> String {
    let mut drawing = Drawing {
        nodes: graph.nodes.iter().map(|node| (&*node.id, node)).collect(),
        at: BTreeMap::new(),
        holds: BTreeMap::new(),
        circles: BTreeMap::new(),
        waits: BTreeSet::new(),
        drawn: BTreeSet::new(),
        later: Vec::new(),
        with_namespace,
        style,
        now,
        text: String::new(),
    };
    for edge in &graph.edges {
        drawing.at.entry(&edge.to).or_default().push(edge);
        match edge.kind {
            EdgeKind::Holds => drawing.holds.entry(&edge.from).or_default().push(&edge.to),
            EdgeKind::Waits => drop(drawing.waits.insert(&edge.from)),
        }
    }
    for (n, circle) in graph.circles.iter().enumerate() {
        for step in circle.chunks_exact(2) {
            drawing.circles.entry((&step[0], &step[1])).or_default().push(n + 1);
        }
    }
    // At the top is what nobody waits for something else with; then where circles begin; then whatever is left.
    let locks = || graph.nodes.iter().filter(|node| node.kind != NodeKind::Client).map(|node| &*node.id);
    let stuck = |lock: &&str| {
        let edges = drawing.at.get(*lock).into_iter().flatten();
        edges.filter(|edge| edge.kind == EdgeKind::Holds).any(|edge| drawing.waits.contains(&*edge.from))
    };
    let free: Vec<&str> = locks().filter(|lock| !stuck(lock)).collect();
    let circles = graph.circles.iter().filter_map(|circle| circle.get(1)).map(|id| &**id);
    for lock in free.into_iter().chain(circles).chain(locks()) {
        drawing.tree(lock);
    }
    for (n, circle) in graph.circles.iter().enumerate() {
        drawing.circle(n, circle, &graph.texts[n]);
    }
    drawing.text
}

impl<'a> Drawing<'a> {
    fn tree(&mut self, lock: &'a str) {
        self.later.push(lock);
        while let Some(lock) = self.later.pop() {
            if self.nodes.contains_key(lock) && !self.drawn.contains(lock) {
                if !self.text.is_empty() {
                    self.text.push('\n');
                }
                self.lock(lock, "", "", 0);
            }
        }
    }

    /// A lock, and what stands at it. `first` stands before its own line, `rest` before all others.
    fn lock(&mut self, id: &'a str, first: &str, rest: &str, depth: usize) {
        self.drawn.insert(id);
        let line = self.style.bold(&self.title(id));
        let permits = self.nodes[id].permits;
        let permits = permits.map_or(String::new(), |p| format!(", {} of {} permits held", p.held, p.total));
        let _ = writeln!(self.text, "{first}{line}{permits}");
        let edges = self.at.get(id).cloned().unwrap_or_default();
        if !edges.iter().any(|edge| edge.kind == EdgeKind::Holds) {
            let _ = writeln!(self.text, "{rest}{}held by nobody", if edges.is_empty() { "`-- " } else { "|-- " });
        }
        let mut groups = groups(&edges, |edge| self.is_plain(edge)).into_iter().peekable();
        while let Some(group) = groups.next() {
            let (branch, below) = if groups.peek().is_some() { ("|-- ", "|   ") } else { ("`-- ", "    ") };
            let _ = match group {
                [edge] if edge.kind == EdgeKind::Holds => writeln!(self.text, "{rest}{branch}{}", self.holder(edge)),
                [edge] => {
                    self.waiter(edge, &format!("{rest}{branch}"), &format!("{rest}{below}"), depth);
                    Ok(())
                }
                group => writeln!(self.text, "{rest}{branch}{}", self.some(group)),
            };
        }
    }

    /// Some who hold or wait for the same, and for nothing else.
    fn some(&self, edges: &[&Edge]) -> String {
        let [first, .., last] = edges else { return String::new() };
        let (share, n) = (of_share(first), edges.len());
        match first.kind {
            EdgeKind::Holds => format!("held by {n} more{share}"),
            EdgeKind::Waits => {
                let of = |edge: &Edge| edge.place.unwrap_or_default();
                format!("{}. to {}. wait{share}", of(first), of(last))
            }
        }
    }

    fn holder(&self, edge: &Edge) -> String {
        let share = of_share(edge);
        let kept = if edge.kept { ", which has left it held" } else { "" };
        // By the clock of whoever wrote it.
        let since = edge.since.map_or(String::new(), |at| format!(" since {at:.0} ({} ago)", ago(Some(at), self.now)));
        format!("held by {}{kept}{share}{since}", self.who(edge))
    }

    /// Who waits, and under it what it holds.
    fn waiter(&mut self, edge: &'a Edge, first: &str, rest: &str, depth: usize) {
        let place = match edge.place {
            Some(0) | None => "before all: ".to_owned(),
            Some(n) => format!("{n}. "),
        };
        let held: BTreeSet<&str> = self.holds.get(&*edge.from).into_iter().flatten().copied().collect();
        let circles = self.circles.get(&(&*edge.from, &*edge.to)).into_iter().flatten();
        let circles = circles.map(|n| self.style.alarm(&format!(" [circle {n}]"))).collect::<String>();
        let share = of_share(edge);
        let _ = write!(self.text, "{first}{place}{} waits{share}{circles}", self.who(edge));
        let (below, above): (Vec<&str>, Vec<&str>) =
            held.into_iter().filter(|id| *id != edge.to).partition(|id| !self.drawn.contains(id) && depth < DEEPEST);
        for (n, id) in above.iter().enumerate() {
            let word = if n == 0 { ", and holds" } else { "," };
            let _ = write!(self.text, "{word} {}", self.title(id));
            self.later.extend((!self.drawn.contains(id)).then_some(*id));
        }
        let word = match (below.is_empty(), above.is_empty()) {
            (true, _) => "",
            (false, true) => ", and holds",
            (false, false) => ", and",
        };
        let _ = writeln!(self.text, "{word}");
        let last = below.len().saturating_sub(1);
        for (n, id) in below.into_iter().enumerate() {
            let (branch, under) = if n < last { ("|-- ", "|   ") } else { ("`-- ", "    ") };
            // It may have been drawn under the one before it.
            if self.drawn.contains(id) {
                let _ = writeln!(self.text, "{rest}{branch}{}, as above", self.title(id));
            } else {
                self.lock(id, &format!("{rest}{branch}"), &format!("{rest}{under}"), depth + 1);
            }
        }
    }

    /// A deadlock in words, a line for each who waits.
    fn circle(&mut self, n: usize, circle: &[String], words: &str) {
        let title = format!("circle {} is a deadlock:", n + 1);
        let _ = writeln!(self.text, "\n{}", self.style.alarm(&title));
        let steps: Vec<&[String]> = circle.chunks_exact(2).collect();
        let edge = |client: &str, lock: &str, kind| {
            let edges = self.at.get(lock).into_iter().flatten();
            edges.copied().find(|edge| edge.from == client && edge.kind == kind)
        };
        let lines: Option<Vec<String>> = steps
            .iter()
            .zip(steps.iter().cycle().skip(1))
            .map(|(step, next)| {
                let waits = self.who(edge(&step[0], &step[1], EdgeKind::Waits)?);
                let way = match edge(&next[0], &step[1], EdgeKind::Holds) {
                    Some(holds) => format!("held by {}", self.who(holds)),
                    None if steps.len() == 1 => return None,
                    None => format!("behind {}", self.who(edge(&next[0], &step[1], EdgeKind::Waits)?)),
                };
                Some(format!("  {waits} waits for {}, {way}\n", self.title(&step[1])))
            })
            .collect();
        // One that goes through what is not seen here is told as the operator tells it.
        self.text += &lines.map_or_else(|| format!("  {}\n", printable(words)), |lines| lines.concat());
    }

    /// Whether it holds this or waits for it, and for nothing else.
    fn is_plain(&self, edge: &Edge) -> bool {
        let other = match edge.kind {
            EdgeKind::Holds => edge.kept || self.waits.contains(&*edge.from),
            EdgeKind::Waits => edge.place == Some(0) || self.holds.contains_key(&*edge.from),
        };
        !other && !edge.deadlocked
    }

    fn title(&self, id: &str) -> String {
        let node = self.nodes[id];
        format!("{} {}", node.kind.name(), printable(&node.full_name(self.with_namespace)))
    }

    /// `web-0 (web-0_k3j9x2m1qa.7)`.
    fn who(&self, edge: &Edge) -> String {
        let name = self.nodes.get(&*edge.from).map_or("", |node| &*node.name);
        let identity = printable(&edge.identity);
        if name == edge.identity { identity } else { format!("{} ({identity})", printable(name)) }
    }
}

/// Each alone, but for many in a row that are plain: of those the first and the last are alone.
fn groups<'a, 'b>(edges: &'b [&'a Edge], is_plain: impl Fn(&Edge) -> bool) -> Vec<&'b [&'a Edge]> {
    let mut groups = Vec::new();
    let alike = |one: &&Edge, other: &&Edge| one.kind == other.kind && one.share == other.share;
    for run in edges.chunk_by(|one, other| alike(one, other) && is_plain(one) && is_plain(other)) {
        match run {
            [first @ .., _] if run.len() > MOST_ALIKE => {
                let (first, between) = first.split_at(1);
                groups.extend([first, between, &run[run.len() - 1..]]);
            }
            _ => groups.extend(run.chunks(1)),
        }
    }
    groups
}
