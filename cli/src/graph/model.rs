//! Who holds what and who waits for what, as nodes and edges.
//!
//! Whether some wait for each other in a circle is told by [`deadlocks`], which the operator and the clients ask too.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use leasehold::protocol::deadlock::{Deadlock, Place, deadlocks};
use leasehold::protocol::{HolderId, Kind, Record};
use serde::Serialize;

use crate::view::{LockView, PermitsView};

/// What `graph -o json` shows. The shape is documented in `docs/cli.md`, and only ever gets more fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) edges: Vec<Edge>,
    /// Deadlocks, by the ids of nodes: who waits, for what, who is in its way there, for what that one waits, and so on;
    /// the last is in the way of the first. The oldest waiter is the first.
    ///
    /// Of one that only the operator has seen whole: who was told of it, and for what that one waits.
    pub(crate) circles: Vec<Vec<String>>,
    /// The same in words.
    pub(crate) texts: Vec<String>,
}

/// Something that can be held, or somebody who can hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Node {
    /// Within this graph, and the same as long as it stands there.
    pub(crate) id: String,
    pub(crate) kind: NodeKind,
    /// By which clients name it; of a client its Pod or host, or its identity where that does not tell.
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// Where it stands. Not of a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lease_name: Option<String>,
    /// Of a semaphore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) permits: Option<PermitsView>,
    /// The session by which a client lives, where its identity tells it. One process can be several clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<String>,
    /// A client's, as they stand on the Leases.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) identities: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NodeKind {
    Lock,
    Semaphore,
    Rwlock,
    /// One task of a process, as far as the Leases tell: an acquisition, and all that it says that it holds.
    Client,
}

/// From a client to what it holds, or waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Edge {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) kind: EdgeKind,
    /// As it stands on the Lease.
    pub(crate) identity: String,
    /// Of what several can have: a number of permits, or `read`, `upgradeable`, `write`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) share: Option<String>,
    /// Of a holder, by the clock of whoever wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Timestamp>,
    /// Of a waiter: its place in the queue. 1 is the next; a reader that waits to become the writer is before all, at 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<usize>,
    /// Its process has left it held for a fixed time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) kept: bool,
    /// It is a part of a deadlock.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) deadlocked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EdgeKind {
    Holds,
    Waits,
}

impl NodeKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lock => Kind::Lock.name(),
            Self::Semaphore => Kind::Semaphore.name(),
            Self::Rwlock => Kind::ReadWriteLock.name(),
            Self::Client => "client",
        }
    }
}

impl From<Kind> for NodeKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Lock => Self::Lock,
            Kind::Semaphore => Self::Semaphore,
            Kind::ReadWriteLock => Self::Rwlock,
        }
    }
}

impl Graph {
    /// What stands on all these Leases, which are to be seen at one time.
    pub(crate) fn of(records: &[impl Borrow<Record>]) -> Self {
        let records: Vec<&Record> = records.iter().map(Borrow::borrow).collect();
        let mut tasks = Tasks::of(&records);
        let (mut graph, mut clients): (Self, BTreeMap<String, Node>) = Default::default();
        for record in &records {
            let (lock, edges) = node_and_edges(record, &mut tasks);
            graph.nodes.push(lock);
            for (client, edge) in edges {
                clients.entry(edge.from.clone()).or_insert(client).identities.insert(edge.identity.clone());
                graph.edges.push(edge);
            }
        }
        graph.nodes.extend(clients.into_values());
        graph.find_circles(&records, &mut tasks);
        graph
    }

    /// Whether names need their namespaces.
    pub(crate) fn has_several_namespaces(&self) -> bool {
        self.nodes.windows(2).any(|pair| pair[0].namespace != pair[1].namespace)
    }

    /// Of this graph what is connected with any of these, by edges or by a deadlock.
    pub(crate) fn around(self, chosen: impl Fn(&Node) -> bool) -> Self {
        let mut beside: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let edges = self.edges.iter().map(|edge| (edge.from.as_str(), edge.to.as_str()));
        let circles = self.circles.iter().flat_map(|circle| circle.windows(2).map(|pair| (&*pair[0], &*pair[1])));
        for (one, other) in edges.chain(circles) {
            beside.entry(one).or_default().push(other);
            beside.entry(other).or_default().push(one);
        }
        let mut open: Vec<&str> = self.nodes.iter().filter(|node| chosen(node)).map(|node| &*node.id).collect();
        let mut reached: BTreeSet<&str> = open.iter().copied().collect();
        while let Some(id) = open.pop() {
            open.extend(beside.get(id).into_iter().flatten().filter(|next| reached.insert(next)));
        }
        let reached: BTreeSet<String> = reached.into_iter().map(str::to_owned).collect();
        let told = self.circles.into_iter().zip(self.texts);
        let (circles, texts) = told.filter(|(circle, _)| circle.iter().any(|id| reached.contains(id))).unzip();
        Self {
            nodes: self.nodes.into_iter().filter(|node| reached.contains(&node.id)).collect(),
            edges: self.edges.into_iter().filter(|edge| reached.contains(&edge.from)).collect(),
            circles,
            texts,
        }
    }

    /// What is connected with somebody who waits.
    pub(crate) fn waited_for(self) -> Self {
        self.around_edges(|edge| edge.kind == EdgeKind::Waits)
    }

    /// All but what nobody holds or waits for.
    pub(crate) fn in_use(self) -> Self {
        self.around_edges(|_| true)
    }

    fn around_edges(self, chosen: impl Fn(&Edge) -> bool) -> Self {
        let clients = self.edges.iter().filter(|edge| chosen(edge)).map(|edge| edge.from.clone());
        let clients: BTreeSet<String> = clients.collect();
        self.around(|node| clients.contains(&node.id))
    }

    /// All but the clients.
    pub(crate) fn locks(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.kind != NodeKind::Client)
    }

    fn find_circles(&mut self, records: &[&Record], tasks: &mut Tasks) {
        // Without anybody who waits and says what it holds there is none, and it costs little to see that.
        if records.iter().flat_map(|record| &record.waiters).any(|waiter| !waiter.holds.is_empty()) {
            let queues = records.iter().filter(|record| !record.waiters.is_empty() || record.upgrading.is_some());
            let places: Vec<_> = queues.map(|record| Place::of(&lock_id(record), record)).collect();
            for deadlock in deadlocks(&places) {
                self.add_circle(deadlock, tasks);
            }
        }
        for record in records {
            for waiter in &record.waiters {
                let Some(told) = &waiter.told_to_give_up else { continue };
                let circle = [tasks.client(&waiter.id), lock_id(record)];
                if !self.circles.iter().any(|known| circle.iter().all(|id| known.contains(id))) {
                    self.circles.push(circle.into());
                    self.texts.push(told.clone());
                }
            }
        }
        let sides = |circle: &Vec<String>| {
            let next = circle.iter().cycle().skip(1).cloned();
            circle.iter().cloned().zip(next).collect::<Vec<_>>()
        };
        let sides: BTreeSet<(String, String)> = self.circles.iter().flat_map(sides).collect();
        for edge in &mut self.edges {
            let (from, to) = (edge.from.clone(), edge.to.clone());
            edge.deadlocked = sides.contains(&(from.clone(), to.clone())) || sides.contains(&(to, from));
        }
    }

    /// In whose steps names are those of nodes.
    fn add_circle(&mut self, mut deadlock: Deadlock, tasks: &mut Tasks) {
        let several = self.has_several_namespaces();
        let mut circle = Vec::new();
        for step in &mut deadlock.steps {
            let client = step.waiter.parse().map(|id| tasks.client(&id)).unwrap_or_default();
            circle.extend([client, step.name.clone()]);
            if let Some(node) = self.nodes.iter().find(|node| node.id == step.name) {
                step.name = node.full_name(several);
            }
        }
        self.circles.push(circle);
        self.texts.push(deadlock.to_string());
    }
}

impl Node {
    /// Its name, with the namespace if there are several.
    pub(crate) fn full_name(&self, with_namespace: bool) -> String {
        if with_namespace { format!("{}/{}", self.namespace, self.name) } else { self.name.clone() }
    }
}

/// No client's id looks like this: a namespace has no colon.
fn lock_id(record: &Record) -> String {
    format!("{}/{}", record.lease.metadata.namespace.as_deref().unwrap_or_default(), record.lease_name())
}

/// What stands on one Lease: what it is for, and who holds it or waits for it.
fn node_and_edges(record: &Record, tasks: &mut Tasks) -> (Node, Vec<(Node, Edge)>) {
    let view = LockView::of(record);
    let mut end = |identity: &str, host: Option<&str>| {
        let id: Option<HolderId> = identity.parse().ok();
        // One acquisition is in one namespace only, but others may be called alike.
        let other = || format!("client:{}/{identity}", view.namespace);
        Node {
            session: id.as_ref().map(|id| id.session.to_string()),
            id: id.map_or_else(other, |id| tasks.client(&id)),
            kind: NodeKind::Client,
            name: host.unwrap_or(identity).to_owned(),
            namespace: view.namespace.clone(),
            lease_name: None,
            permits: None,
            identities: BTreeSet::new(),
        }
    };
    let mut edges = Vec::new();
    for holder in &view.holders {
        let client = end(&holder.identity, holder.host.as_deref());
        let edge = Edge {
            share: holder.share.clone(),
            since: holder.since,
            kept: holder.kept,
            ..Edge::new(&client, EdgeKind::Holds, &holder.identity, record)
        };
        edges.push((client, edge));
    }
    let host = |identity: &str| identity.parse::<HolderId>().ok().map(|id| id.session.host().to_owned());
    let upgrading = view.upgrading.iter().map(|identity| (0, identity.as_str(), Some("write".to_owned())));
    let waiters = view.waiters.iter().zip(1..).map(|(waiter, n)| (n, waiter.identity.as_str(), waiter.wants.clone()));
    for (place, identity, share) in upgrading.chain(waiters) {
        let client = end(identity, host(identity).as_deref());
        let edge = Edge { share, place: Some(place), ..Edge::new(&client, EdgeKind::Waits, identity, record) };
        edges.push((client, edge));
    }
    let lock = Node {
        id: lock_id(record),
        kind: record.kind.into(),
        name: view.name,
        namespace: view.namespace.clone(),
        lease_name: Some(view.lease_name),
        permits: view.permits,
        session: None,
        identities: BTreeSet::new(),
    };
    (lock, edges)
}

impl Edge {
    fn new(client: &Node, kind: EdgeKind, identity: &str, record: &Record) -> Self {
        Self {
            from: client.id.clone(),
            to: lock_id(record),
            kind,
            identity: identity.to_owned(),
            share: None,
            since: None,
            place: None,
            kept: false,
            deadlocked: false,
        }
    }
}

/// Which acquisitions are one task's, by what those say that wait: of each an earlier one, if it is not the first.
#[derive(Debug, Default)]
struct Tasks(BTreeMap<HolderId, HolderId>);

impl Tasks {
    fn of(records: &[&Record]) -> Self {
        let mut tasks = Self::default();
        for waiter in records.iter().flat_map(|record| &record.waiters) {
            for hold in &waiter.holds {
                let (one, other) = (tasks.first(&waiter.id), tasks.first(hold));
                if one != other {
                    tasks.0.insert(one.clone().max(other.clone()), one.min(other));
                }
            }
        }
        tasks
    }

    /// The first acquisition of the task whose this one is.
    fn first(&mut self, id: &HolderId) -> HolderId {
        let mut first = id.clone();
        while let Some(earlier) = self.0.get(&first) {
            first = earlier.clone();
        }
        // The next time it is found at once.
        let mut at = id.clone();
        while at != first {
            at = self.0.insert(at, first.clone()).unwrap_or_else(|| first.clone());
        }
        first
    }

    /// The id of its node.
    fn client(&mut self, id: &HolderId) -> String {
        format!("client:{}", self.first(id))
    }
}
