//! Who waits for whom, as a page draws it: of all that is connected with somebody who waits, so much as can be looked at.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use leasehold::protocol::Record;
use serde::Serialize;

use crate::graph::model::Graph;

/// How many nodes a page draws.
const MOST_NODES: usize = 150;

/// A graph that can be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Drawn {
    #[serde(flatten)]
    graph: Graph,
    /// How many nodes were left out.
    more: usize,
}

impl Drawn {
    /// Of what is in use.
    pub(super) fn of(records: &[Arc<Record>]) -> Self {
        Self::cut(Graph::of(records).waited_for(), MOST_NODES)
    }

    /// Circles come first, then whatever is next to what is there already.
    fn cut(graph: Graph, most: usize) -> Self {
        let all = graph.nodes.len();
        if all <= most {
            return Self { graph, more: 0 };
        }
        let mut beside: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for edge in &graph.edges {
            beside.entry(&edge.from).or_default().push(&edge.to);
            beside.entry(&edge.to).or_default().push(&edge.from);
        }
        let mut chosen = BTreeSet::new();
        for start in graph.circles.iter().flatten().chain(graph.nodes.iter().map(|node| &node.id)) {
            let mut open = VecDeque::from([start.as_str()]);
            while let Some(id) = open.pop_front() {
                if chosen.len() < most && chosen.insert(id.to_owned()) {
                    open.extend(beside.get(id).into_iter().flatten());
                }
            }
        }
        let Graph { nodes, edges, circles, texts } = graph;
        let there = |id: &String| chosen.contains(id);
        let graph = Graph {
            nodes: nodes.into_iter().filter(|node| there(&node.id)).collect(),
            edges: edges.into_iter().filter(|edge| there(&edge.from) && there(&edge.to)).collect(),
            circles,
            texts,
        };
        Self { graph, more: all - chosen.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Board;
    use super::super::state::tests::{at, lock};
    use super::*;

    #[test]
    fn what_nobody_waits_for_is_not_drawn() {
        let mut board = Board::new(at(0));
        board.changed(lock("a", "1", 1, "x_aaaaaaaaaa.1", &[]), at(1));
        assert!(Drawn::of(&board.in_use()).graph.nodes.is_empty());
        board.changed(lock("b", "2", 2, "y_bbbbbbbbbb.1", &["z_cccccccccc.1"]), at(2));
        let drawn = Drawn::of(&board.in_use());
        assert_eq!((drawn.graph.nodes.len(), drawn.graph.edges.len(), drawn.more), (3, 2, 0));
    }

    #[test]
    fn a_circle_is_drawn_before_all_else() {
        let mut board = Board::new(at(0));
        for n in 0..100 {
            let waiter = format!("w-{n}_aaaaaaaaaa.1");
            board.changed(lock(&format!("a{n}"), "1", 1, &format!("h-{n}_aaaaaaaaaa.1"), &[&waiter]), at(1));
        }
        let circle = [(2, "y", "x_aaaaaaaaaa", "z_bbbbbbbbbb"), (3, "z", "z_bbbbbbbbbb", "x_aaaaaaaaaa")];
        for (version, name, holder, waiter) in circle {
            let mut lease = lock(name, "1", version, &format!("{holder}.1"), &[&format!("{waiter}.2")]);
            let annotations = lease.metadata.annotations.get_or_insert_default();
            annotations.insert(format!("holds.leasehold.dev/{waiter}.2"), format!("{waiter}.1"));
            board.changed(lease, at(1));
        }
        let drawn = Drawn::of(&board.in_use());
        assert_eq!((drawn.graph.circles.len(), drawn.graph.nodes.len()), (1, MOST_NODES));
        assert!(drawn.more > 0);
        let there: Vec<_> = drawn.graph.nodes.iter().map(|node| &node.id).collect();
        assert!(drawn.graph.circles[0].iter().all(|id| there.contains(&id)), "{:?}", drawn.graph.circles);
    }
}
