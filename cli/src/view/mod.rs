//! A lock, semaphore or read-write lock as people and scripts see it.

use jiff::{SignedDuration, Timestamp};
use leasehold::protocol::{Holder, Kind, Liveness, Record, Waiter, Want, name};
use serde::Serialize;

mod table;
mod text;

pub(crate) use table::{Columns, Style, table};
pub(crate) use text::describe;

/// What stands in a table's cell where there is nothing to say.
const NOTHING: &str = "-";

/// What `-o json` and `-o yaml` show. The shape is documented in `docs/cli.md`, and only ever gets more fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LockView {
    /// By which clients name it: that of its Lease, or the resource id of which that is made.
    pub(crate) name: String,
    /// Where it stands.
    pub(crate) lease_name: String,
    pub(crate) namespace: String,
    /// `lock`, `semaphore` or `rwlock`.
    pub(crate) kind: &'static str,
    pub(crate) state: State,
    /// Of a semaphore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) permits: Option<PermitsView>,
    /// First come first. A lock has one at most.
    pub(crate) holders: Vec<HolderView>,
    /// The reader that waits to become the writer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upgrading: Option<String>,
    /// First come first.
    pub(crate) waiters: Vec<WaiterView>,
    /// When its Lease was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<Timestamp>,
}

/// Whether somebody stands on the Lease as its holder. Whether that holder is alive cannot be told by one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum State {
    Held,
    Free,
}

/// The permits of a semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PermitsView {
    pub(crate) total: u32,
    pub(crate) held: u32,
    pub(crate) available: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HolderView {
    pub(crate) identity: String,
    /// The holder's pod or host, where the identity tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    /// What it has of what several can have: a number of permits, or `read`, `upgradeable`, `write`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) share: Option<String>,
    /// By the clock of whoever wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Timestamp>,
    /// The fencing token, where the Lease tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<u64>,
    /// The Lease of the session by which the holder lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<String>,
    /// For how long each renewal of the lock's own Lease keeps it, where the holder lives by those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lease_duration_seconds: Option<u64>,
    /// Its process has left it there until its time has passed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) kept: bool,
    /// What the holder publishes of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<String>,
    /// Who asks it to let go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) release_request: Option<RequestView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestView {
    pub(crate) by: String,
    pub(crate) within_seconds: u64,
    pub(crate) reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WaiterView {
    pub(crate) identity: String,
    pub(crate) host: String,
    /// What it waits for, as a holder's `share`. Not of a lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wants: Option<String>,
}

impl LockView {
    /// What the Lease says.
    pub(crate) fn of(record: &Record) -> Self {
        let meta = &record.lease.metadata;
        let lease_name = record.lease_name().to_owned();
        let share = |mode| (record.kind != Kind::Lock).then(|| Want { mode, ..Want::default() }.to_string());
        let holders: Vec<_> = record.holders().map(|holder| HolderView::of(holder, share(holder.mode))).collect();
        let permits =
            PermitsView { total: record.capacity, held: record.held_permits(), available: record.available_permits() };
        let id = record.resource_id.as_deref().filter(|id| is_name_of(id, &lease_name));
        Self {
            name: id.unwrap_or(&lease_name).to_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            kind: record.kind.name(),
            state: if holders.is_empty() { State::Free } else { State::Held },
            permits: (record.kind == Kind::Semaphore).then_some(permits),
            upgrading: record.upgrading.as_ref().map(ToString::to_string),
            waiters: record.waiters.iter().map(|waiter| WaiterView::of(waiter, share(waiter.want.mode))).collect(),
            holders,
            lease_name,
        }
    }

    /// What has no Lease: nobody has it, and naming it is enough to take it.
    pub(crate) fn absent(name: &str, lease_name: &str, namespace: &str) -> Self {
        Self {
            name: name.to_owned(),
            lease_name: lease_name.to_owned(),
            namespace: namespace.to_owned(),
            kind: Kind::Lock.name(),
            state: State::Free,
            permits: None,
            holders: Vec::new(),
            upgrading: None,
            waiters: Vec::new(),
            created: None,
        }
    }

    /// `held by web-0 since 2026-11-21T09:00:00Z (5m12s ago)`, or that nobody holds it.
    pub(crate) fn held_by(&self, now: Timestamp) -> String {
        let [first, others @ ..] = &self.holders[..] else { return "held by nobody just now".to_owned() };
        let who = match others.len() {
            0 => printable(first.short()),
            n => format!("{} and {n} more", printable(first.short())),
        };
        let kept = if first.kept { ", which has left it held for a fixed time," } else { "" };
        match first.since {
            None => format!("held by {who}{kept}"),
            Some(since) => format!("held by {who}{kept} since {}", when(since, now)),
        }
    }

    /// Whether somebody of this identity, or from this pod or host, holds it.
    pub(crate) fn is_held_by(&self, id: &str) -> bool {
        self.holders.iter().any(|holder| holder.identity == id || holder.host.as_deref() == Some(id))
    }

    /// How much of it is held: `2/5`, `3 read`, `write`.
    pub(crate) fn share(&self) -> String {
        match (&self.permits, &self.holders[..]) {
            (Some(PermitsView { total, held, .. }), _) => format!("{held}/{total}"),
            (None, []) => NOTHING.to_owned(),
            (None, [holder]) => holder.share.clone().unwrap_or_else(|| "exclusive".to_owned()),
            (None, all) => format!("{} read", all.len()),
        }
    }
}

impl HolderView {
    fn of(holder: &Holder, share: Option<String>) -> Self {
        let (session, lease_duration_seconds) = match &holder.liveness {
            Liveness::Session(session) => (Some(session.lease_name()), None),
            Liveness::Own(duration) => (None, Some(duration.as_secs())),
        };
        Self {
            host: holder.id.as_ref().map(|id| id.session.host().to_owned()),
            identity: holder.identity.clone(),
            share,
            since: holder.acquired,
            token: holder.token,
            session,
            lease_duration_seconds,
            kept: holder.kept,
            payload: holder.payload.clone(),
            release_request: holder.request.as_ref().map(|request| RequestView {
                within_seconds: request.within.as_secs(),
                by: request.by.clone(),
                reason: request.reason.clone(),
            }),
        }
    }

    pub(crate) fn short(&self) -> &str {
        self.host.as_deref().unwrap_or(&self.identity)
    }
}

impl WaiterView {
    fn of(waiter: &Waiter, wants: Option<String>) -> Self {
        Self { identity: waiter.id.to_string(), host: waiter.id.session.host().to_owned(), wants }
    }
}

/// A name as a terminal may have it: what does not print, or turns the direction of what does, is written as it is in Rust.
pub(crate) fn printable(name: &str) -> String {
    let quotes = ['"', '\'', '\\'];
    let part = |part: &str| {
        let plain = part.trim_end_matches(quotes);
        format!("{}{}", plain.escape_debug(), &part[plain.len()..])
    };
    name.split_inclusive(quotes).map(part).collect()
}

/// Whether what is named so stands on this Lease. Others may have written there what they like.
fn is_name_of(id: &str, lease_name: &str) -> bool {
    name::lease_name(id).is_ok_and(|name| name == lease_name)
}

/// By which clients name it, for a command to be typed. `None` where that would be another, or nothing.
pub(crate) fn name_to_type(record: &Record) -> Option<&str> {
    let lease_name = record.lease_name();
    Some(record.resource_id.as_deref().unwrap_or(lease_name)).filter(|id| is_name_of(id, lease_name))
}

fn when(then: Timestamp, now: Timestamp) -> String {
    format!("{then:.0} ({} ago)", elapsed(now.duration_since(then)))
}

pub(crate) fn ago(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map_or(NOTHING.to_owned(), |then| elapsed(now.duration_since(then)))
}

/// A duration with the precision that kubectl shows. The clock that wrote a time may be ahead of this one.
pub(crate) fn elapsed(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |major: i64, unit: char, minor: i64, small: char| {
        if minor == 0 { format!("{major}{unit}") } else { format!("{major}{unit}{minor}{small}") }
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => pair(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, 'd', hours % 24, 'h'),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-11-21T09:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn view(lease: serde_json::Value) -> LockView {
        LockView::of(&Record::parse(serde_json::from_value(lease).unwrap()).unwrap())
    }

    fn locks() -> Vec<LockView> {
        vec![
            view(json!({
                "metadata": {
                    "name": "backup", "namespace": "ops", "uid": "1", "resourceVersion": "815",
                    "creationTimestamp": "2026-11-18T07:00:00Z",
                    "labels": {"leasehold.dev/kind": "lock", "holder.leasehold.dev/web-0_k3j9x2m1qa": "811"},
                    "annotations": {
                        "join.leasehold.dev/web-2_zz00000001.0": "814",
                        "join.leasehold.dev/web-1_zz00000002.3": "813",
                    },
                },
                "spec": {
                    "holderIdentity": "web-0_k3j9x2m1qa.7", "leaseDurationSeconds": 30,
                    "acquireTime": "2026-11-21T08:54:47.250000Z",
                },
            })),
            view(json!({
                "metadata": {
                    "name": "controller", "namespace": "ops", "uid": "2", "resourceVersion": "9",
                    "creationTimestamp": "2026-09-01T00:00:00Z",
                },
                "spec": {
                    "holderIdentity": "controller-manager-7c9_3b1f", "leaseDurationSeconds": 15,
                    "acquireTime": "2026-11-21T06:00:00.000000Z", "renewTime": "2026-11-21T08:59:59.000000Z",
                },
            })),
            view(json!({
                "metadata": {
                    "name": "nightly-report", "namespace": "default", "uid": "3", "resourceVersion": "10",
                    "creationTimestamp": "2026-11-21T08:59:30Z",
                },
                "spec": {"holderIdentity": ""},
            })),
            view(json!({
                "metadata": {
                    "name": "order-payment-4711--u5aja2xsokmdklzq54c4iifvzd", "namespace": "shop", "uid": "4",
                    "resourceVersion": "11", "creationTimestamp": "2026-11-21T08:59:30Z",
                    "annotations": {"leasehold.dev/id": "order:payment:4711"},
                },
                "spec": {"holderIdentity": ""},
            })),
            view(json!({
                "metadata": {
                    "name": "db", "namespace": "shop", "uid": "6", "resourceVersion": "40",
                    "creationTimestamp": "2026-11-21T08:00:00Z", "labels": {"leasehold.dev/kind": "semaphore"},
                    "annotations": {
                        "leasehold.dev/permits": "5",
                        "holder.leasehold.dev/web-0_k3j9x2m1qa.1": "20",
                        "want.leasehold.dev/web-0_k3j9x2m1qa.1": "2 since=2026-11-21T08:10:00Z",
                        "payload.leasehold.dev/web-0_k3j9x2m1qa.1": "step 3 of 7\u{7}",
                        "holder.leasehold.dev/web-1_zz00000002.2": "30",
                        "want.leasehold.dev/web-1_zz00000002.2": "1 own=3600 since=2026-11-21T08:20:00Z kept",
                        "join.leasehold.dev/web-2_zz00000001.0": "35",
                        "want.leasehold.dev/web-2_zz00000001.0": "3",
                    },
                },
                "spec": {"holderIdentity": "semaphore"},
            })),
            view(json!({
                "metadata": {
                    "name": "catalog", "namespace": "shop", "uid": "7", "resourceVersion": "50",
                    "creationTimestamp": "2026-11-21T08:00:00Z", "labels": {"leasehold.dev/kind": "rwlock"},
                    "annotations": {
                        "holder.leasehold.dev/web-0_k3j9x2m1qa.4": "41",
                        "want.leasehold.dev/web-0_k3j9x2m1qa.4": "read since=2026-11-21T08:10:00Z",
                        "holder.leasehold.dev/web-1_zz00000002.5": "42",
                        "want.leasehold.dev/web-1_zz00000002.5": "upgradeable since=2026-11-21T08:11:00Z",
                        "upgrade.leasehold.dev/web-1_zz00000002.5": "43",
                    },
                },
                "spec": {"holderIdentity": "rwlock"},
            })),
            // It is not the Lease of what it says.
            view(json!({
                "metadata": {
                    "name": "web", "namespace": "shop", "uid": "5", "resourceVersion": "12",
                    "creationTimestamp": "2026-11-21T08:59:30Z", "annotations": {"leasehold.dev/id": "db"},
                },
                "spec": {"holderIdentity": ""},
            })),
        ]
    }

    #[test]
    fn tables() {
        let plain = |columns| table(&locks(), columns, Style::Plain, true, now());
        insta::assert_snapshot!("table", plain(Columns::default()));
        insta::assert_snapshot!("table_all_namespaces", plain(Columns { namespace: true, wide: false }));
        insta::assert_snapshot!("table_wide", plain(Columns { namespace: false, wide: true }));
        let coloured = table(&locks(), Columns::default(), Style::Coloured, false, now());
        insta::assert_snapshot!("table_coloured", coloured.escape_debug().to_string().replace("\\n", "\n"));
    }

    #[test]
    fn status_texts() {
        let mut text = String::new();
        for lock in locks().iter().chain([&LockView::absent("unheard of", "unheard-of--abc", "default")]) {
            text += &describe(lock, Style::Plain, now());
            text += "---\n";
        }
        insta::assert_snapshot!("status", text);
    }

    #[test]
    fn status_json() {
        insta::assert_snapshot!("status_json", serde_json::to_string_pretty(&locks()).unwrap());
    }

    #[test]
    fn status_yaml() {
        insta::assert_snapshot!("status_yaml", serde_yaml_ng::to_string(&locks()).unwrap());
    }

    #[test]
    fn who_holds_it() {
        let [backup, _, free, _, db, ..] = &locks()[..] else { panic!() };
        insta::assert_snapshot!(backup.held_by(now()), @"held by web-0 since 2026-11-21T08:54:47Z (5m12s ago)");
        insta::assert_snapshot!(free.held_by(now()), @"held by nobody just now");
        insta::assert_snapshot!(db.held_by(now()), @"held by web-0 and 1 more since 2026-11-21T08:10:00Z (50m ago)");
        assert!(db.is_held_by("web-1") && db.is_held_by("web-0_k3j9x2m1qa.1") && !db.is_held_by("web-2"));
    }

    #[test]
    fn an_identity_does_nothing_to_a_terminal_and_has_no_line_of_its_own() {
        let mut locks = locks();
        locks[1].holders[0].identity = "a\n\u{1b}[2Jb".to_owned();
        let shown = "a\\n\\u{1b}[2Jb";
        let rows = table(&locks, Columns::default(), Style::Plain, true, now());
        assert_eq!(rows.lines().count(), locks.len() + 1, "{rows}");
        assert!(rows.contains(shown) && rows.lines().any(|line| line.starts_with("web ")), "{rows}");
        for text in [describe(&locks[1], Style::Plain, now()), locks[1].held_by(now())] {
            assert!(text.contains(shown) && !text.contains('\u{1b}'), "{text}");
        }
    }

    #[test]
    fn a_name_to_type_is_never_that_of_another() {
        let names: Vec<_> = [("db", Some("web")), ("web", None), ("order:payment:4711", None)]
            .map(|(id, lease)| {
                let lease = lease.map_or_else(|| name::lease_name(id).unwrap(), Into::into);
                let lease = json!({"metadata": {"name": lease, "uid": "1", "resourceVersion": "8",
                    "annotations": {"leasehold.dev/id": id}}});
                let record = Record::parse(serde_json::from_value(lease).unwrap()).unwrap();
                name_to_type(&record).map(str::to_owned)
            })
            .into();
        assert_eq!(names, [None, Some("web".to_owned()), Some("order:payment:4711".to_owned())]);
    }

    #[test]
    fn a_name_does_nothing_to_a_terminal() {
        assert_eq!(printable("it's \"Übung\" №5\\🦀 a\u{301}"), "it's \"Übung\" №5\\🦀 a\u{301}");
        assert_eq!(printable("a\u{1b}[2J\u{202e}b"), "a\\u{1b}[2J\\u{202e}b");
    }

    #[test]
    fn durations_are_as_exact_as_kubectl_has_them() {
        let texts: Vec<_> = [-3, 0, 119, 120, 599, 600, 10_799, 10_800, 28_700, 28_800, 172_800, 691_199, 691_200]
            .into_iter()
            .map(|seconds| elapsed(SignedDuration::from_secs(seconds)))
            .collect();
        insta::assert_snapshot!(texts.join(" "), @"0s 0s 119s 2m 9m59s 10m 179m 3h 7h58m 8h 2d 7d23h 8d");
    }
}
