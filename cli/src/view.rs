//! A lock as people and scripts see it.

use std::fmt::Write as _;

use comfy_table::{Table, TableStyle};
use jiff::{SignedDuration, Timestamp};
use leasehold::protocol::{Holder, Liveness, Record, Waiter, name};
use serde::Serialize;

/// What stands in a table's cell where there is nothing to say.
const NOTHING: &str = "-";

/// A lock, as `-o json` and `-o yaml` show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LockView {
    /// By which clients name it: that of its Lease, or the resource id of which that is made.
    pub(crate) name: String,
    /// Where it stands.
    pub(crate) lease_name: String,
    pub(crate) namespace: String,
    pub(crate) state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) holder: Option<HolderView>,
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HolderView {
    pub(crate) identity: String,
    /// The holder's pod or host, where the identity tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
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
}

impl LockView {
    /// What the lock's Lease says.
    pub(crate) fn of(record: Record) -> Self {
        let meta = &record.lease.metadata;
        let lease_name = record.lease_name().to_owned();
        // Others may have written there what they like.
        let id = record.resource_id.filter(|id| name::lease_name(id).is_ok_and(|name| name == lease_name));
        Self {
            name: id.unwrap_or_else(|| lease_name.clone()),
            namespace: meta.namespace.clone().unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            lease_name,
            state: if record.holder.is_some() { State::Held } else { State::Free },
            holder: record.holder.map(HolderView::of),
            waiters: record.waiters.iter().map(WaiterView::of).collect(),
        }
    }

    /// A lock without a Lease: nobody has it, and naming it is enough to take it.
    pub(crate) fn absent(name: &str, lease_name: &str, namespace: &str) -> Self {
        Self {
            name: name.to_owned(),
            lease_name: lease_name.to_owned(),
            namespace: namespace.to_owned(),
            state: State::Free,
            holder: None,
            waiters: Vec::new(),
            created: None,
        }
    }

    /// `held by web-0 since 2026-11-21T09:00:00Z (5m12s ago)`, or that nobody holds it.
    pub(crate) fn held_by(&self, now: Timestamp) -> String {
        match &self.holder {
            None => "held by nobody just now".to_owned(),
            Some(holder) => match holder.since {
                None => format!("held by {}", holder.short()),
                Some(since) => format!("held by {} since {}", holder.short(), when(since, now)),
            },
        }
    }
}

impl HolderView {
    fn of(holder: Holder) -> Self {
        let (session, lease_duration_seconds) = match holder.liveness {
            Liveness::Session(session) => (Some(session.lease_name()), None),
            Liveness::Own(duration) => (None, Some(duration.as_secs())),
        };
        Self {
            host: holder.id.map(|id| id.session.host().to_owned()),
            identity: holder.identity,
            since: holder.acquired,
            token: holder.token,
            session,
            lease_duration_seconds,
            payload: holder.payload,
            release_request: holder.request.map(|request| RequestView {
                within_seconds: request.within.as_secs(),
                by: request.by,
                reason: request.reason,
            }),
        }
    }

    fn short(&self) -> &str {
        self.host.as_deref().unwrap_or(&self.identity)
    }
}

impl WaiterView {
    fn of(waiter: &Waiter) -> Self {
        Self { identity: waiter.id.to_string(), host: waiter.id.session.host().to_owned() }
    }
}

/// A table of locks, in the manner of kubectl.
pub(crate) fn table(locks: &[LockView], with_namespace: bool, now: Timestamp) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    let mut header = vec!["NAME", "STATE", "HOLDER", "SINCE", "WAITERS", "AGE"];
    if with_namespace {
        header.insert(0, "NAMESPACE");
    }
    table.set_header(header);
    for lock in locks {
        let holder = lock.holder.as_ref();
        let mut row = vec![
            printable(&lock.name),
            format!("{:?}", lock.state),
            holder.map_or(NOTHING, HolderView::short).to_owned(),
            ago(holder.and_then(|holder| holder.since), now),
            lock.waiters.len().to_string(),
            ago(lock.created, now),
        ];
        if with_namespace {
            row.insert(0, lock.namespace.clone());
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

/// One lock, for a person.
pub(crate) fn describe(lock: &LockView, now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{:<11}{value}", format!("{key}:"));
    };
    line("Name", &printable(&lock.name));
    if lock.lease_name != lock.name {
        line("Lease", &lock.lease_name);
    }
    line("Namespace", &lock.namespace);
    line("State", &format!("{:?}", lock.state));
    if let Some(holder) = &lock.holder {
        match &holder.host {
            Some(host) => line("Holder", &format!("{host} ({})", holder.identity)),
            None => line("Holder", &holder.identity),
        }
        line("Since", &holder.since.map_or(NOTHING.to_owned(), |since| when(since, now)));
        if let Some(token) = holder.token {
            line("Token", &token.to_string());
        }
        if let Some(session) = &holder.session {
            line("Liveness", &format!("by its session, Lease {session}"));
        }
        if let Some(seconds) = holder.lease_duration_seconds {
            line("Liveness", &format!("by its own renewals, for {seconds}s each"));
        }
        // Others wrote these: they may not do anything to a terminal.
        if let Some(payload) = &holder.payload {
            line("Payload", &payload.escape_debug().to_string());
        }
        if let Some(request) = &holder.release_request {
            let RequestView { by, within_seconds, reason } = request;
            line("Asked", &format!("by {by} to let go within {within_seconds}s: {reason}").escape_debug().to_string());
        }
    }
    line("Waiters", &lock.waiters.len().to_string());
    for (place, waiter) in lock.waiters.iter().enumerate() {
        let _ = writeln!(text, "  {}. {} ({})", place + 1, waiter.host, waiter.identity);
    }
    text
}

/// A name as a terminal may have it: what does not print, or turns the direction of what does, is written as it is in Rust.
fn printable(name: &str) -> String {
    let quotes = ['"', '\'', '\\'];
    let part = |part: &str| {
        let plain = part.trim_end_matches(quotes);
        format!("{}{}", plain.escape_debug(), &part[plain.len()..])
    };
    name.split_inclusive(quotes).map(part).collect()
}

fn when(then: Timestamp, now: Timestamp) -> String {
    format!("{then:.0} ({} ago)", elapsed(now.duration_since(then)))
}

fn ago(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map_or(NOTHING.to_owned(), |then| elapsed(now.duration_since(then)))
}

/// A duration with the precision that kubectl shows. The clock that wrote a time may be ahead of this one.
fn elapsed(duration: SignedDuration) -> String {
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
        LockView::of(Record::parse(serde_json::from_value(lease).unwrap()).unwrap())
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
        insta::assert_snapshot!("table", table(&locks(), false, now()));
        insta::assert_snapshot!("table_all_namespaces", table(&locks(), true, now()));
    }

    #[test]
    fn status_texts() {
        let mut text = String::new();
        for lock in locks().iter().chain([&LockView::absent("unheard of", "unheard-of--abc", "default")]) {
            text += &describe(lock, now());
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
        let [backup, _, free, ..] = &locks()[..] else { panic!() };
        insta::assert_snapshot!(backup.held_by(now()), @"held by web-0 since 2026-11-21T08:54:47Z (5m12s ago)");
        insta::assert_snapshot!(free.held_by(now()), @"held by nobody just now");
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
