//! All that was seen of the locks, and what is seen of the API server. Pure: it is told what time it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::Record;
use leasehold::protocol::record::Broken;
use serde::Serialize;

use super::timeline::{Role, Seen, Stay, Timelines};
use crate::view::LockView;

/// Which kind of resource a Lease belongs to, and which one: `<kind>/<name>/<uid>`. The operator writes it.
const OWNER: &str = "leasehold.dev/owner";

/// Which lock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) namespace: String,
    pub(super) lease: String,
}

impl Key {
    /// Of `<namespace>/<lease>`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (namespace, lease) = text.split_once('/')?;
        let plain = |part: &str| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
            !part.is_empty() && part.len() <= 253 && part.chars().all(is_plain)
        };
        let key = Self { namespace: namespace.to_owned(), lease: lease.to_owned() };
        (plain(namespace) && plain(lease)).then_some(key)
    }

    fn of(lease: &Lease) -> Self {
        Self {
            namespace: lease.metadata.namespace.clone().unwrap_or_default(),
            lease: lease.metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.lease)
    }
}

/// A lock as it was seen last.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) view: LockView,
    /// `None`: the Lease cannot be read.
    pub(super) record: Option<Arc<Record>>,
    pub(super) problem: Option<String>,
    /// The kind and the name of its custom resource, if it has one.
    pub(super) resource: Option<(String, String)>,
}

/// Whether the API server is heard of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Server {
    pub(super) heard: bool,
    /// When it was heard of last, where it is not now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// All that was seen.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) locks: BTreeMap<Key, Seat>,
    pub(super) timelines: Timelines,
    pub(super) server: Server,
    heard_at: Timestamp,
    /// It grows with each change.
    version: u64,
}

impl Board {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            locks: BTreeMap::new(),
            timelines: Timelines::new(now),
            server: Server { heard: true, since: None, why: None },
            heard_at: now,
            version: 0,
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// What is held or waited for.
    pub(super) fn in_use(&self) -> Vec<Arc<Record>> {
        let records = self.locks.values().filter_map(|seat| seat.record.as_ref());
        records.filter(|record| record.is_held() || !record.waiters.is_empty()).cloned().collect()
    }

    /// These are all that there are.
    pub(super) fn relist(&mut self, leases: Vec<Lease>, now: Timestamp) {
        let there: BTreeSet<_> = leases.iter().map(Key::of).collect();
        let left: Vec<_> = self.locks.keys().filter(|key| !there.contains(key)).cloned().collect();
        for key in left {
            self.remove(&key, now, Seen::Later);
        }
        for lease in leases {
            self.put(lease, now, Seen::Later);
        }
        self.timelines.sighted(now);
        self.heard(now);
    }

    /// It was made, or has changed.
    pub(super) fn changed(&mut self, lease: Lease, now: Timestamp) {
        self.put(lease, now, Seen::Live);
        self.heard(now);
    }

    pub(super) fn deleted(&mut self, lease: &Lease, now: Timestamp) {
        self.remove(&Key::of(lease), now, Seen::Live);
        self.heard(now);
    }

    /// The API server has answered something, whatever it was.
    pub(super) fn heard(&mut self, now: Timestamp) {
        self.heard_at = now;
        if !self.server.heard {
            self.server = Server { heard: true, since: None, why: None };
            self.version += 1;
        }
    }

    /// It could not be asked, or does not let itself be asked.
    pub(super) fn silent(&mut self, why: &str) {
        let silent = Server { heard: false, since: Some(self.heard_at), why: Some(why.to_owned()) };
        self.timelines.blind(self.heard_at);
        if self.server != silent {
            self.server = silent;
            self.version += 1;
        }
    }

    fn put(&mut self, lease: Lease, now: Timestamp, seen: Seen) {
        let key = Key::of(&lease);
        let uid = lease.metadata.uid.clone().unwrap_or_default();
        let known = self.locks.get(&key);
        let seat = Seat::of(lease);
        if let (Some(Seat { record: Some(old), .. }), Some(new)) = (known, &seat.record)
            && old.uid == new.uid
            && old.version >= new.version
        {
            return;
        }
        let broken = |seat: &Seat| seat.record.as_ref().and_then(|record| Broken::of(&record.lease));
        let broken = broken(&seat).filter(|new| known.is_some_and(|known| broken(known).as_ref() != Some(new)));
        self.timelines.see(&key, &uid, seat.stays(), now, seen);
        if let Some(broken) = broken {
            let what = format!("{} broke the hold of {}: {}", broken.by, broken.holder, broken.reason);
            self.timelines.mark(&key, now, &what);
        }
        self.locks.insert(key, seat);
        self.version += 1;
    }

    fn remove(&mut self, key: &Key, now: Timestamp, seen: Seen) {
        if self.locks.remove(key).is_some() {
            self.timelines.gone(key, now, seen);
            self.version += 1;
        }
    }
}

impl Seat {
    fn of(lease: Lease) -> Self {
        let key = Key::of(&lease);
        let owner = lease.metadata.annotations.as_ref().and_then(|annotations| annotations.get(OWNER));
        let resource = owner.and_then(|owner| {
            let mut parts = owner.splitn(3, '/');
            let (kind, name) = (parts.next()?, parts.next()?);
            // Whoever may write Leases may write this too, and it becomes a part of requests with other rights.
            is_name(name).then(|| (kind.to_owned(), name.to_owned()))
        });
        match Record::parse(lease) {
            Ok(record) => Self { view: LockView::of(&record), record: Some(Arc::new(record)), problem: None, resource },
            Err(malformed) => {
                let view = LockView::absent(&key.lease, &key.lease, &key.namespace);
                Self { view, record: None, problem: Some(malformed.to_string()), resource }
            }
        }
    }

    fn stays(&self) -> Vec<Stay> {
        let upgrading = self.view.upgrading.iter().map(|identity| Stay {
            identity: identity.clone(),
            role: Role::Waits,
            share: Some("write".to_owned()),
        });
        let holders = self.view.holders.iter().map(|holder| Stay {
            identity: holder.identity.clone(),
            role: Role::Holds,
            share: holder.share.clone(),
        });
        let waiters = self.view.waiters.iter().map(|waiter| Stay {
            identity: waiter.identity.clone(),
            role: Role::Waits,
            share: waiter.wants.clone(),
        });
        holders.chain(upgrading).chain(waiters).collect()
    }
}

/// Whether an object can have this name: a DNS subdomain of RFC 1123.
fn is_name(name: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_label = |label: &str| {
        let label = label.as_bytes();
        label.first().is_some_and(|c| is_plain(*c))
            && label.last().is_some_and(|c| is_plain(*c))
            && label.iter().all(|c| is_plain(*c) || *c == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(in crate::ui) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A lock's Lease: of this version, held by the first, waited for by the others.
    pub(in crate::ui) fn lock(name: &str, uid: &str, version: u64, holder: &str, waiters: &[&str]) -> Lease {
        let join = |(ticket, waiter): (u64, &&str)| (format!("join.leasehold.dev/{waiter}"), json!(ticket.to_string()));
        let annotations: serde_json::Map<String, Value> = (version * 1000..).zip(waiters).map(join).collect();
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "ops", "uid": uid, "resourceVersion": version.to_string(),
                "labels": {"leasehold.dev/kind": "lock"}, "annotations": annotations,
            },
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 30},
        }))
        .unwrap()
    }

    pub(in crate::ui) fn key(lease: &str) -> Key {
        Key { namespace: "ops".to_owned(), lease: lease.to_owned() }
    }

    fn spans(board: &Board, lease: &str) -> Vec<Value> {
        let history = serde_json::to_value(board.timelines.of(&key(lease))).unwrap();
        history["spans"].as_array().cloned().unwrap_or_default()
    }

    #[test]
    fn a_relist_removes_what_has_gone_and_leaves_what_is_the_same() {
        let mut board = Board::new(at(0));
        board.relist(vec![lock("a", "1", 5, "x_x.1", &[]), lock("b", "2", 6, "x_x.2", &[])], at(1));
        let version = board.version();
        board.relist(vec![lock("a", "1", 5, "x_x.1", &[]), lock("b", "2", 6, "x_x.2", &[])], at(2));
        assert_eq!(board.version(), version, "nothing has changed");
        board.relist(vec![lock("b", "2", 9, "y_y.1", &[])], at(3));
        assert!(board.version() > version);
        assert_eq!(board.locks.keys().cloned().collect::<Vec<_>>(), [key("b")]);
        assert_eq!(spans(&board, "a")[0]["endedBefore"], true);
        assert_eq!(
            (&spans(&board, "b")[0]["endedBefore"], &spans(&board, "b")[1]["beganBefore"]),
            (&true.into(), &true.into())
        );
    }

    #[test]
    fn what_is_older_than_what_was_seen_is_ignored_but_of_a_lease_made_again() {
        let mut board = Board::new(at(0));
        board.changed(lock("a", "1", 20, "x_x.1", &[]), at(1));
        board.changed(lock("a", "1", 19, "y_y.1", &[]), at(2));
        assert_eq!(board.locks[&key("a")].view.holders[0].identity, "x_x.1");
        board.deleted(&lock("a", "1", 18, "", &[]), at(3));
        assert!(board.locks.is_empty());
        board.changed(lock("a", "2", 30, "y_y.1", &[]), at(4));
        assert_eq!(board.locks[&key("a")].view.holders[0].identity, "y_y.1");
        let ends: Vec<_> = spans(&board, "a").iter().map(|span| span["to"].clone()).collect();
        assert_eq!(ends, [json!("1970-01-01T00:00:03Z"), Value::Null]);
    }

    #[test]
    fn silence_counts_from_when_it_was_heard_last() {
        let mut board = Board::new(at(0));
        board.heard(at(5));
        let version = board.version();
        board.silent("refused");
        board.silent("refused");
        assert_eq!(board.version(), version + 1);
        assert_eq!((board.server.heard, board.server.since), (false, Some(at(5))));
        board.heard(at(9));
        assert_eq!(board.server, Server { heard: true, since: None, why: None });
    }

    #[test]
    fn what_cannot_be_read_is_shown_with_why() {
        let mut board = Board::new(at(0));
        let mut lease = lock("a", "1", 5, "x_x.1", &[]);
        lease.metadata.annotations = Some([("leasehold.dev/format".to_owned(), "99".to_owned())].into());
        board.changed(lease, at(1));
        let seat = &board.locks[&key("a")];
        assert!(seat.record.is_none() && seat.problem.as_ref().unwrap().contains("cannot be read"), "{seat:?}");
    }

    #[test]
    fn a_break_is_marked_when_it_is_seen() {
        let mut board = Board::new(at(0));
        board.changed(lock("a", "1", 5, "x_x.1", &[]), at(1));
        let mut lease = lock("a", "1", 6, "", &[]);
        let broken = [("by", "jane"), ("at", "2026-11-21T09:00:00Z"), ("holder", "x_x.1")];
        let mut annotations: BTreeMap<_, _> =
            broken.iter().map(|(key, value)| (format!("leasehold.dev/broken-{key}"), (*value).to_owned())).collect();
        annotations.insert("leasehold.dev/break-reason".to_owned(), "it hangs".to_owned());
        lease.metadata.annotations = Some(annotations);
        board.changed(lease, at(2));
        let history = serde_json::to_value(board.timelines.of(&key("a"))).unwrap();
        assert_eq!(history["marks"][0]["what"], "jane broke the hold of x_x.1: it hangs");
    }

    #[test]
    fn what_cannot_be_a_name_names_no_resource() {
        let resource = |owner: &str| {
            let mut lease = lock("a", "1", 5, "", &[]);
            lease.metadata.annotations = Some([(OWNER.to_owned(), owner.to_owned())].into());
            Seat::of(lease).resource
        };
        let named = |name: &str| Some(("Semaphore".to_owned(), name.to_owned()));
        let longest = "a".repeat(253);
        for name in ["a", "job-1", "0.a-b.c", &longest] {
            assert_eq!(resource(&format!("Semaphore/{name}/uid")), named(name));
        }
        let too_long = "a".repeat(254);
        for name in [
            "", "..", ".", "a..b", "a.", "-a", "a-", "A", "a_b", "a b", "a%2fb", "a?x=1", "a,b=c", "é", "a\n",
            &too_long,
        ] {
            assert_eq!(resource(&format!("Semaphore/{name}/uid")), None, "{name:?}");
        }
        assert_eq!(resource("Semaphore"), None);
    }

    #[test]
    fn keys_are_names_of_objects() {
        assert_eq!(Key::parse("ops/a.b-c").unwrap().to_string(), "ops/a.b-c");
        for bad in ["", "a", "/a", "a/", "a/b/c", "a/b?c", "a/..\u{0}"] {
            assert!(Key::parse(bad).is_none(), "{bad:?}");
        }
    }
}
