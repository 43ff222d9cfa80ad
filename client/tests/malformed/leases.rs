//! Leases as nobody of ours would write them: every field that means something, with any value that an API server takes,
//! and some that it does not.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, MicroTime, ObjectMeta};
use leasehold::protocol::policy;
use leasehold::protocol::record::{
    DEADLOCK, DEFAULT_DURATION, ENDED_BY, ENDED_FOR, EPHEMERAL, EVICT_ON_REQUEST, FORMAT, HOLDER, HOLDS, ID, JOIN,
    KIND, LIVENESS, PAYLOAD, PERMITS, POD, POD_UID, REQUEST, UPGRADE, WANT,
};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const PREFIXES: &[&str] = &[JOIN, JOIN, WANT, HOLDS, HOLDER, HOLDER, UPGRADE, PAYLOAD, REQUEST, DEADLOCK];
const KEYS: &[&str] = &[
    PERMITS,
    PERMITS,
    LIVENESS,
    EPHEMERAL,
    EVICT_ON_REQUEST,
    DEFAULT_DURATION,
    FORMAT,
    ID,
    POD,
    POD_UID,
    ENDED_FOR,
    ENDED_BY,
    policy::MIN_DURATION,
    policy::MAX_DURATION,
    policy::MAX_HOLD,
    policy::LOCK_DELAY,
    policy::MAX_WAITERS,
    policy::RECLAIM,
    policy::ON_DEADLOCK,
    policy::ALLOWED,
];
/// What follows a prefix: acquisitions, and what is none.
const IDS: &[&str] = &[
    "live_x1.1",
    "live_x1.2",
    "live_x1.4294967295",
    "pod_y2.1",
    "pod_y2.2",
    "gone_z3.1",
    "gone_z3.01",
    "gone_z3",
    "pod_y2.-1",
    "pod_y2.4294967296",
    "p.o.d_y2.1",
    "POD_Y2.1",
    "pod-y2",
    "1",
];
const SESSIONS: &[&str] = &["live_x1", "pod_y2", "gone_z3", "p.o.d_y2", "POD_Y2", "x"];
const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "2",
    "07",
    "-1",
    "1.5",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "18446744073709551614",
    "18446744073709551615",
    "18446744073709551616",
    "true",
    "false",
    "True",
    "own",
    "kept",
    "read",
    "upgradeable",
    "write",
    "write own=4294967295 since=9999-12-31T23:59:59Z kept",
    "4294967295 own=0",
    "0 own=1",
    "1 own=1 kept",
    "read since=-009999-01-02T01:59:59Z",
    "2 since=tomorrow own",
    "0 me now",
    "4294967295 me for ever",
    "30",
    "expiry",
    "never",
    "evidence",
    "break-youngest",
    "live_x1.1 pod_y2.1",
    "pod_y2.1",
    "user:me\ngroup:",
    "\u{0}",
    "läuft schön 🔒",
];

fn value() -> impl Strategy<Value = String> {
    prop_oneof![8 => select(VALUES).prop_map(str::to_owned), 1 => any::<String>(), 2 => any::<u64>().prop_map(|n| n.to_string())]
}

/// A qualified name, as the API server demands of a key; and now and then any text.
fn annotation() -> impl Strategy<Value = (String, String)> {
    let named = (select(PREFIXES), select(IDS)).prop_map(|(prefix, id)| format!("{prefix}{id}"));
    let plain = select(KEYS).prop_map(str::to_owned);
    let other = "[a-z~]{1,8}(\\.dev/[A-Za-z0-9_.]{1,8})?";
    (prop_oneof![8 => named, 6 => plain, 1 => other], value())
}

fn label() -> impl Strategy<Value = (String, String)> {
    let kind = select(&["lock", "semaphore", "rwlock", "session", "", "Lock", "barrier"][..]);
    let told = (select(SESSIONS), value()).prop_map(|(session, value)| (format!("{HOLDER}{session}"), value));
    prop_oneof![3 => kind.prop_map(|kind| (KIND.to_owned(), kind.to_owned())), 3 => told]
}

/// No API server writes a year of other than four digits.
fn time() -> impl Strategy<Value = MicroTime> {
    let times = &["0001-01-02T00:00:00Z", "9999-12-30T22:00:00Z", "2026-01-01T00:00:00.000001Z"][..];
    select(times).prop_map(|time| MicroTime(time.parse().unwrap()))
}

fn number() -> impl Strategy<Value = i32> {
    prop_oneof![Just(1), Just(5), Just(i32::MAX), Just(0), Just(-1), Just(i32::MIN), any::<i32>()]
}

fn spec() -> impl Strategy<Value = LeaseSpec> {
    let nobody = &["", "semaphore", "rwlock", "lock", "elected"][..];
    let identity = prop_oneof![
        4 => select(IDS).prop_map(str::to_owned),
        3 => select(nobody).prop_map(str::to_owned),
        2 => select(SESSIONS).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let fields =
        (option::of(identity), option::of(number()), option::of(number()), option::of(time()), option::of(time()));
    fields.prop_map(|(holder_identity, lease_duration_seconds, lease_transitions, acquire_time, renew_time)| {
        LeaseSpec {
            holder_identity,
            lease_duration_seconds,
            lease_transitions,
            acquire_time,
            renew_time,
            ..LeaseSpec::default()
        }
    })
}

/// Of this name, and never of a uid or a version.
pub(crate) fn lease(name: &'static str) -> impl Strategy<Value = Lease> {
    let map = |pairs: Vec<(String, String)>| (!pairs.is_empty()).then(|| pairs.into_iter().collect::<BTreeMap<_, _>>());
    let annotations = prop::collection::vec(annotation(), 0..14).prop_map(map);
    let labels = prop::collection::vec(label(), 0..5).prop_map(map);
    let tracked = prop_oneof![Just(None), Just(Some(Vec::new())), Just(Some(vec![ManagedFieldsEntry::default()]))];
    (annotations, labels, tracked, spec()).prop_map(move |(annotations, labels, managed_fields, spec)| Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations,
            labels,
            managed_fields,
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    })
}

/// Any uid, any version, any name, and perhaps no spec at all.
#[allow(dead_code, reason = "not everybody who includes this wants what no API server has")]
pub(crate) fn broken_lease() -> impl Strategy<Value = Lease> {
    let names =
        &["a", "session-", "session-.", "session-live.x1", "session-a.b.c", "session-é.x", "session--.x", "."][..];
    let text = option::of(value());
    (lease("a"), option::of(select(names)), text, option::of(value()), any::<bool>()).prop_map(
        |(mut lease, name, uid, version, bare)| {
            lease.metadata.name = name.map(str::to_owned);
            lease.metadata.namespace = Some("ns".to_owned());
            lease.metadata.uid = uid;
            lease.metadata.resource_version = version;
            lease.spec = lease.spec.filter(|_| !bare);
            lease
        },
    )
}
