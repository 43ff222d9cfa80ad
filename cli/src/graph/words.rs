//! What drawings say of nodes and edges.

use super::model::{Edge, EdgeKind, Node, NodeKind};

/// What stands in a node, by lines.
pub(super) fn of_node(node: &Node, with_namespace: bool) -> Vec<String> {
    if node.kind != NodeKind::Client {
        let permits = node.permits.map(|permits| format!("{} of {} permits held", permits.held, permits.total));
        let name = format!("{} {}", node.kind.name(), node.full_name(with_namespace));
        return std::iter::once(name).chain(permits).collect();
    }
    let identities = node.identities.iter().filter(|identity| **identity != node.name);
    std::iter::once(&node.name).chain(identities).cloned().collect()
}

/// What stands beside an arrow.
pub(super) fn of_edge(edge: &Edge) -> String {
    let word = match (edge.kind, edge.kept, edge.place) {
        (EdgeKind::Holds, false, _) => "held by".to_owned(),
        (EdgeKind::Holds, true, _) => "left held by".to_owned(),
        (EdgeKind::Waits, _, Some(place @ 1..)) => format!("waits, {place}."),
        (EdgeKind::Waits, ..) => "waits before all".to_owned(),
    };
    word + &of_share(edge)
}

/// ` for 2 permits`, ` to read`, or nothing where there is only one way to hold it.
pub(super) fn of_share(edge: &Edge) -> String {
    match edge.share.as_deref() {
        None => String::new(),
        Some("upgradeable") => " to read, upgradeable".to_owned(),
        Some("1") => " for 1 permit".to_owned(),
        Some(share) if share.parse::<u32>().is_ok() => format!(" for {share} permits"),
        Some(share) => format!(" to {share}"),
    }
}
