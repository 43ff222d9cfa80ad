//! Writes that are not for the writer to make. Each is refused by the policies, and passes without them.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use leasehold::protocol::SessionId;
use leasehold_testkit::{Account, Cluster, Namespace};
use serde_json::{Value, json};

use super::{bind, rules};

/// Whoever is attacked. It is no Pod's name here, and need not be.
const VICTIM: &str = "victim_0a1b2c3dk3j9x2m1";
/// Another who waits.
const OTHER: &str = "other_4e5f6071k3j9x2m1";

/// A write to a Lease.
enum Form {
    /// What is changed, by a JSON Patch.
    Change(Vec<Value>),
    /// The Lease is to be made, instead of the one that stands there.
    Create(Value),
    Delete,
}

/// What is attempted, on which Lease, and what the refusal has to say.
struct Attack {
    name: &'static str,
    before: Value,
    form: Form,
    message: &'static str,
}

fn path(map: &str, key: &str) -> String {
    format!("/metadata/{map}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn annotate(key: &str, value: &str) -> Value {
    json!({ "op": "add", "path": path("annotations", key), "value": value })
}

fn unannotate(key: &str) -> Value {
    json!({ "op": "remove", "path": path("annotations", key) })
}

fn label(key: &str, value: &str) -> Value {
    json!({ "op": "add", "path": path("labels", key), "value": value })
}

fn unlabel(key: &str) -> Value {
    json!({ "op": "remove", "path": path("labels", key) })
}

/// Sets it to the Lease's resourceVersion.
fn dated(map: &str, key: &str) -> Value {
    json!({ "op": "copy", "from": "/metadata/resourceVersion", "path": path(map, key) })
}

fn spec(field: &str, value: impl Into<Value>) -> Value {
    json!({ "op": "add", "path": format!("/spec/{field}"), "value": value.into() })
}

fn join(id: &str) -> String {
    format!("join.leasehold.dev/{id}")
}

fn want(id: &str) -> String {
    format!("want.leasehold.dev/{id}")
}

fn holder(id: &str) -> String {
    format!("holder.leasehold.dev/{id}")
}

/// A Lease of this kind with these annotations, its name still to be given.
fn lease(kind: &str, annotations: &[(&str, &str)], spec: &Value) -> Value {
    let mut all = json!({ "leasehold.dev/format": "1" });
    for (key, value) in annotations {
        all[*key] = json!(value);
    }
    json!({ "metadata": { "labels": { "leasehold.dev/kind": kind }, "annotations": all }, "spec": spec })
}

/// A lock that is held by this acquisition of this session, or free, with waiters by these ids in their order.
fn lock(session: &str, waiters: &[&str]) -> Value {
    let joins: Vec<(String, String)> =
        waiters.iter().enumerate().map(|(n, id)| (join(id), (n + 2).to_string())).collect();
    let joins: Vec<(&str, &str)> = joins.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let holding = if session.is_empty() { String::new() } else { format!("{session}.1") };
    let mut lock = lease("lock", &joins, &json!({ "holderIdentity": holding, "leaseTransitions": 3 }));
    if !session.is_empty() {
        lock["metadata"]["labels"][holder(session)] = json!("1");
    }
    lock
}

/// The same with this annotation.
fn with(mut lease: Value, key: &str, value: &str) -> Value {
    lease["metadata"]["annotations"][key] = json!(value);
    lease
}

/// The lock goes from `from` to this acquisition, as by a grant.
fn passes(from: &str, session: &str, n: u32, queued: bool) -> Vec<Value> {
    let id = format!("{session}.{n}");
    let mut ops = vec![spec("holderIdentity", id.as_str()), spec("leaseTransitions", 4)];
    ops.extend((!from.is_empty()).then(|| unlabel(&holder(from))));
    ops.push(dated("labels", &holder(session)));
    ops.extend(queued.then(|| unannotate(&join(&id))));
    ops
}

fn locks(me: &str) -> Vec<Attack> {
    const NAME: &str = "in the name of";
    const ORDER: &str = "the first who waits";
    const RESOURCE: &str = "follow from the custom resource";
    let (victim, other, mine) = (format!("{VICTIM}.1"), format!("{OTHER}.1"), format!("{me}.1"));
    let held = || lock(VICTIM, &[&other]);
    let free = |waiters: &[&str]| lock("", waiters);
    let ours = |waiters: &[&str]| lock(me, waiters);
    let change = Form::Change;
    let on_the_spot = |lease: Value| with(lease, "leasehold.dev/ephemeral", "true");
    let created = |session: &str| {
        let mut lock = on_the_spot(lock(session, &[]));
        lock["metadata"]["labels"][holder(session)] = json!("");
        lock["spec"]["leaseTransitions"] = json!(0);
        lock
    };
    let attack = |name, before, form, message| Attack { name, before, form, message };
    vec![
        attack("take what is held", held(), change(passes(VICTIM, me, 2, false)), NAME),
        attack(
            "take what is held, as one who waits",
            lock(VICTIM, &[&mine]),
            change(passes(VICTIM, me, 1, true)),
            NAME,
        ),
        attack(
            "release what another holds",
            held(),
            change(vec![spec("holderIdentity", ""), spec("leaseTransitions", 4), unlabel(&holder(VICTIM))]),
            NAME,
        ),
        attack("hand on what another holds", held(), change(passes(VICTIM, OTHER, 1, true)), NAME),
        attack(
            "renew what another holds",
            held(),
            change(vec![spec("renewTime", "2030-01-01T00:00:00.000000Z")]),
            NAME,
        ),
        attack("keep what another holds", held(), change(vec![annotate("leasehold.dev/liveness", "kept")]), NAME),
        attack(
            "speak for another",
            held(),
            change(vec![annotate(&format!("payload.leasehold.dev/{victim}"), "x")]),
            NAME,
        ),
        attack("take another off the queue", held(), change(vec![unannotate(&join(&other))]), NAME),
        attack("queue another", held(), change(vec![dated("annotations", &join(&format!("{VICTIM}.2")))]), NAME),
        attack("say what another wants", held(), change(vec![annotate(&want(&other), "1 own=5")]), NAME),
        attack(
            "say what another holds elsewhere",
            held(),
            change(vec![annotate(&format!("holds.leasehold.dev/{other}"), &mine)]),
            NAME,
        ),
        attack(
            "call another a deadlock's victim",
            held(),
            change(vec![annotate(&format!("deadlock.leasehold.dev/{other}"), "x")]),
            "operator's to write",
        ),
        attack("queue before those who wait", held(), change(vec![annotate(&join(&mine), "1")]), "a waiter's ticket"),
        attack(
            "move up",
            lock(VICTIM, &[&other, &mine]),
            change(vec![annotate(&join(&mine), "1")]),
            "a waiter's ticket",
        ),
        attack("take what is free past those who wait", free(&[&other]), change(passes("", me, 1, false)), ORDER),
        attack("take what is free as the second", free(&[&other, &mine]), change(passes("", me, 1, true)), ORDER),
        attack("grant what is free to the second", free(&[&mine, &other]), change(passes("", OTHER, 1, true)), ORDER),
        attack("hand on to the second", ours(&[&victim, &other]), change(passes(me, OTHER, 1, true)), ORDER),
        attack(
            "hand on to the second and forget the first",
            ours(&[&victim, &other]),
            change([passes(me, OTHER, 1, true), vec![unannotate(&join(&victim))]].concat()),
            NAME,
        ),
        attack("hand on to one who does not wait", ours(&[]), change(passes(me, VICTIM, 1, false)), NAME),
        attack(
            "forge the fencing token",
            free(&[]),
            change([passes("", me, 1, false), vec![label(&holder(me), "9223372036854775807")]].concat()),
            "the fencing token follows",
        ),
        attack(
            "forge it later",
            ours(&[]),
            change(vec![label(&holder(me), "9223372036854775807")]),
            "the fencing token follows",
        ),
        attack(
            "blur the label of a holder",
            held(),
            change(vec![unlabel(&holder(VICTIM))]),
            "the fencing token follows",
        ),
        attack(
            "take it without a new tenancy",
            free(&[]),
            change(vec![spec("holderIdentity", mine.as_str()), dated("labels", &holder(me))]),
            "leaseTransitions is one more",
        ),
        attack("count a tenancy", ours(&[]), change(vec![spec("leaseTransitions", 9)]), "leaseTransitions is one more"),
        attack(
            "take it as somebody else's client",
            free(&[]),
            change(vec![spec("holderIdentity", "elected"), spec("leaseTransitions", 4)]),
            NAME,
        ),
        attack(
            "renew what nobody holds",
            free(&[]),
            change(vec![spec("renewTime", "2030-01-01T00:00:00.000000Z")]),
            "nobody's to renew",
        ),
        attack(
            "take the label off",
            held(),
            change(vec![unlabel("leasehold.dev/kind")]),
            "the label leasehold.dev/kind",
        ),
        attack(
            "make it another kind",
            held(),
            change(vec![label("leasehold.dev/kind", "semaphore")]),
            "the label leasehold.dev/kind",
        ),
        attack(
            "make it a session's",
            held(),
            change(vec![label("leasehold.dev/kind", "session")]),
            "leasehold.dev/kind",
        ),
        attack("make it of no kind", held(), change(vec![label("leasehold.dev/kind", "none")]), "leasehold.dev/kind"),
        attack(
            "make another's Lease a lock",
            json!({ "metadata": { "labels": { "a": "b" } }, "spec": { "holderIdentity": "elected" } }),
            change(vec![label("leasehold.dev/kind", "lock")]),
            "the label leasehold.dev/kind",
        ),
        attack(
            "change what its resource wants",
            held(),
            change(vec![annotate("leasehold.dev/max-hold-seconds", "1")]),
            RESOURCE,
        ),
        attack(
            "allow oneself",
            with(held(), "leasehold.dev/allowed-subjects", "user:jane"),
            change(vec![unannotate("leasehold.dev/allowed-subjects")]),
            RESOURCE,
        ),
        attack(
            "let it go when it is free",
            held(),
            change(vec![annotate("leasehold.dev/ephemeral", "true")]),
            RESOURCE,
        ),
        attack("call it another's", held(), change(vec![annotate("leasehold.dev/id", "another")]), RESOURCE),
        attack(
            "wipe a break's traces",
            with(held(), "leasehold.dev/broken-by", "jane"),
            change(vec![unannotate("leasehold.dev/broken-by")]),
            "the verb \"break\"",
        ),
        attack(
            "own it",
            held(),
            change(vec![json!({ "op": "add", "path": "/metadata/ownerReferences", "value":
            [{ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u" }] })]),
            "owners and finalizers",
        ),
        attack(
            "keep it from going",
            held(),
            change(vec![json!({ "op": "add", "path": "/metadata/finalizers", "value": ["example.com/x"] })]),
            "owners and finalizers",
        ),
        attack("delete it", held(), Form::Delete, "a lock's Lease is deleted by"),
        attack(
            "delete one that was made on the spot",
            on_the_spot(held()),
            Form::Delete,
            "a lock's Lease is deleted by",
        ),
        attack(
            "delete one's own under who waits",
            on_the_spot(ours(&[&other])),
            Form::Delete,
            "a lock's Lease is deleted by",
        ),
        attack("delete one's own that is to stay", ours(&[]), Form::Delete, "a lock's Lease is deleted by"),
        attack("create it in another's name", Value::Null, Form::Create(created(VICTIM)), NAME),
        attack(
            "create one that stays",
            Value::Null,
            Form::Create({
                let mut lock = created(me);
                lock["metadata"]["annotations"] = json!({});
                lock
            }),
            "one that is made on the spot says so",
        ),
        attack(
            "create it with a resource's annotations",
            Value::Null,
            Form::Create(with(created(me), "leasehold.dev/max-waiters", "0")),
            RESOURCE,
        ),
        attack("create it with who waits", Value::Null, Form::Create(with(created(me), &join(&mine), "")), ORDER),
        attack(
            "create it under a wrong id",
            Value::Null,
            Form::Create(with(created(me), "leasehold.dev/id", "x")),
            RESOURCE,
        ),
        attack(
            "have who does not let go evicted",
            with(held(), "leasehold.dev/evict-on-request", "true"),
            change(vec![annotate(&format!("request.leasehold.dev/{victim}"), "1 me now")]),
            "asking takes the permission to break",
        ),
        attack(
            "ask one who holds nothing",
            held(),
            change(vec![annotate(&format!("request.leasehold.dev/{other}"), "1 me now")]),
            "only a holder can be asked",
        ),
        attack(
            "queue though one is not listed",
            with(held(), "leasehold.dev/allowed-subjects", "user:jane\ngroup:admins"),
            change(vec![dated("annotations", &join(&mine))]),
            "is not among those who may acquire this",
        ),
        attack(
            "take it though one is not listed",
            with(free(&[]), "leasehold.dev/allowed-subjects", "user:jane"),
            change(passes("", me, 1, false)),
            "is not among those who may acquire this",
        ),
        attack(
            "break it",
            held(),
            change(
                [
                    passes(VICTIM, OTHER, 1, true),
                    vec![
                        annotate("leasehold.dev/broken-by", "system:admin"),
                        annotate("leasehold.dev/broken-holder", &victim),
                        annotate("leasehold.dev/broken-at", "2030-01-01T00:00:00Z"),
                        annotate("leasehold.dev/break-reason", "x"),
                    ],
                ]
                .concat(),
            ),
            "may not break this",
        ),
    ]
}

fn shared(me: &str) -> Vec<Attack> {
    const NAME: &str = "in the name of";
    let (victim, other, mine) = (format!("{VICTIM}.1"), format!("{OTHER}.1"), format!("{me}.1"));
    let attack = |name, before, form, message| Attack { name, before, form: Form::Change(form), message };
    let of = |kind: &str, annotations: &[(String, &str)]| {
        let all: Vec<_> = annotations.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        lease(kind, &all, &json!({ "holderIdentity": kind, "leaseTransitions": 3 }))
    };
    let permits = || ("leasehold.dev/permits".to_owned(), "2");
    let semaphore = |more: &[(String, &str)]| of("semaphore", &[&[permits()], more].concat());
    let one_of_two = || semaphore(&[(holder(&victim), "1"), (want(&victim), "1")]);
    // One of two is free, one waits for two and another for one.
    let queued = || {
        semaphore(&[
            (holder(&victim), "1"),
            (join(&format!("{VICTIM}.2")), "2"),
            (want(&format!("{VICTIM}.2")), "2"),
            (join(&mine), "3"),
        ])
    };
    let rwlock = |held: &str| of("rwlock", &[(holder(&victim), "1"), (want(&victim), held)]);
    let bump = || spec("leaseTransitions", 4);
    let enters = |wants: &str| vec![bump(), dated("annotations", &holder(&mine)), annotate(&want(&mine), wants)];
    const SINCE: &str = "since=2030-01-01T00:00:00Z";
    vec![
        attack("take more than there is", one_of_two(), enters(&format!("2 {SINCE}")), "more than there are permits"),
        attack("take what nobody can count", one_of_two(), enters("some"), "nothing that can be wanted"),
        attack("take no permits at all", one_of_two(), enters("0"), "nothing that can be wanted"),
        attack(
            "take past those who wait",
            queued(),
            vec![bump(), dated("annotations", &holder(&format!("{me}.2")))],
            "in their order",
        ),
        attack(
            "go ahead of the first",
            queued(),
            [enters(&format!("1 {SINCE}")), vec![unannotate(&join(&mine))]].concat(),
            "in their order",
        ),
        attack(
            "give back another's",
            one_of_two(),
            vec![unannotate(&holder(&victim)), unannotate(&want(&victim))],
            NAME,
        ),
        attack(
            "take over another's",
            one_of_two(),
            [enters(&format!("2 {SINCE}")), vec![unannotate(&holder(&victim))]].concat(),
            NAME,
        ),
        attack(
            "make another's less",
            semaphore(&[(holder(&victim), "1"), (want(&victim), "2")]),
            vec![annotate(&want(&victim), "1")],
            NAME,
        ),
        attack(
            "make one's own more",
            semaphore(&[(holder(&victim), "1"), (holder(&mine), "2")]),
            vec![annotate(&want(&mine), "2")],
            "more than there are permits",
        ),
        attack(
            "be granted more than was asked for",
            semaphore(&[(join(&mine), "2")]),
            [enters(&format!("2 {SINCE}")), vec![unannotate(&join(&mine))]].concat(),
            "granted what it asked for",
        ),
        attack(
            "grant another what stays for ever",
            semaphore(&[(join(&other), "2")]),
            vec![
                bump(),
                dated("annotations", &holder(&other)),
                unannotate(&join(&other)),
                annotate(&want(&other), &format!("1 {SINCE} kept")),
            ],
            "granted what it asked for",
        ),
        attack(
            "make more permits",
            one_of_two(),
            vec![annotate("leasehold.dev/permits", "9")],
            "follow from the custom resource",
        ),
        attack("let in whoever", one_of_two(), vec![bump(), dated("annotations", &holder(&other))], NAME),
        attack(
            "forge the fencing token",
            one_of_two(),
            vec![bump(), annotate(&holder(&mine), "9223372036854775807")],
            "fencing token follows",
        ),
        attack(
            "go in unnoticed",
            one_of_two(),
            vec![dated("annotations", &holder(&mine))],
            "leaseTransitions is one more",
        ),
        attack(
            "tell who has nothing to do with it",
            one_of_two(),
            vec![label(&holder(OTHER), "")],
            "the label of a session",
        ),
        attack("read beside a writer", rwlock("write"), enters(&format!("read {SINCE}")), "a writer is alone"),
        attack("write beside a reader", rwlock("read"), enters(&format!("write {SINCE}")), "a writer is alone"),
        attack(
            "be a second that can write",
            rwlock("upgradeable"),
            enters(&format!("upgradeable {SINCE}")),
            "a writer is alone",
        ),
        attack(
            "write without waiting for readers",
            of(
                "rwlock",
                &[(holder(&victim), "1"), (want(&victim), "read"), (holder(&mine), "2"), (want(&mine), "upgradeable")],
            ),
            vec![bump(), dated("annotations", &holder(&mine)), annotate(&want(&mine), &format!("write {SINCE}"))],
            "a writer is alone",
        ),
        attack(
            "read while one waits to write",
            of(
                "rwlock",
                &[
                    (holder(&victim), "1"),
                    (want(&victim), "upgradeable"),
                    (format!("upgrade.leasehold.dev/{victim}"), "2"),
                ],
            ),
            enters(&format!("read {SINCE}")),
            "a writer is alone",
        ),
        attack(
            "have another wait to write",
            rwlock("upgradeable"),
            vec![dated("annotations", &format!("upgrade.leasehold.dev/{victim}"))],
            NAME,
        ),
    ]
}

fn sessions(me: &str) -> Vec<(SessionId, Attack)> {
    const NAME: &str = "in the name of";
    let session = |holder: &str| {
        json!({ "metadata": { "labels": { "leasehold.dev/kind": "session" }, "annotations": { "leasehold.dev/format": "1" } },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 30 } })
    };
    let annotated = |lease, key: &str| with(lease, key, "another");
    let change = Form::Change;
    let attack = |of: &str, name, before, form, message| {
        (of.parse::<SessionId>().expect("a session"), Attack { name, before, form, message })
    };
    let long = |holder: &str| {
        let mut long = session(holder);
        long["spec"]["leaseDurationSeconds"] = json!(3600);
        long
    };
    vec![
        attack(VICTIM, "end another's session", session(VICTIM), change(vec![spec("holderIdentity", "")]), NAME),
        attack(
            VICTIM,
            "renew another's session",
            session(VICTIM),
            change(vec![spec("renewTime", "2030-01-01T00:00:00.000000Z")]),
            NAME,
        ),
        attack(VICTIM, "delete another's session", session(VICTIM), Form::Delete, NAME),
        attack(VICTIM, "sweep another's tombstone", session(""), Form::Delete, NAME),
        attack(VICTIM, "open another's session", Value::Null, Form::Create(session(VICTIM)), NAME),
        attack(VICTIM, "open a session beside its name", Value::Null, Form::Create(session(me)), NAME),
        attack(
            me,
            "be somebody else in one's own session",
            Value::Null,
            Form::Create(session(VICTIM)),
            "names the session as its holder",
        ),
        attack(me, "come back", session(""), change(vec![spec("holderIdentity", me)]), "never comes back"),
        attack(me, "last for long", Value::Null, Form::Create(long(me)), "1 to 60 s"),
        attack(me, "last for ever", session(me), change(vec![spec("leaseDurationSeconds", 3600)]), "1 to 60 s"),
        attack(
            me,
            "be in another Pod",
            Value::Null,
            Form::Create(annotated(session(me), "leasehold.dev/pod-uid")),
            "the Pod that the writer's token is bound to",
        ),
        attack(
            me,
            "move to another Pod",
            session(me),
            change(vec![annotate("leasehold.dev/pod", "another")]),
            "the Pod that the writer's token is bound to",
        ),
        attack(me, "hide a session", session(me), change(vec![unlabel("leasehold.dev/kind")]), "is a session's"),
        attack(
            me,
            "call a lock a session",
            Value::Null,
            Form::Create(lease("lock", &[("leasehold.dev/ephemeral", "true")], &json!({ "holderIdentity": me }))),
            "strict mode:",
        ),
    ]
}

/// A Pod's view of a namespace: it has the shipped permissions on Leases, and is nobody's administrator.
struct Side {
    admin: Api<Lease>,
    attacker: Api<Lease>,
    me: String,
    _account: Account,
}

impl Side {
    async fn new(namespace: &Namespace) -> Result<Self> {
        let account = namespace.pod_account("mallory", rules()).await?;
        let meta = &account.pod().context("a Pod")?.metadata;
        let uid = meta.uid.as_deref().context("a uid")?;
        let me = SessionId::of_pod("mallory", uid, "k3j9x2m1").to_string();
        let attacker = Api::namespaced(account.client()?, namespace.name());
        Ok(Self { admin: namespace.api(), attacker, me, _account: account })
    }

    /// Makes the Lease as it was before, and writes to it as the attacker.
    async fn attempt(&self, name: &str, attack: &Attack) -> Result<Result<(), kube::Error>> {
        let named = |lease: &Value| -> Result<Lease> {
            let mut lease = lease.clone();
            lease["metadata"]["name"] = json!(name);
            Ok(serde_json::from_value(lease)?)
        };
        if !attack.before.is_null() {
            self.admin.create(&PostParams::default(), &named(&attack.before)?).await?;
        }
        Ok(match &attack.form {
            Form::Change(ops) => {
                let patch = serde_json::from_value(Value::Array(ops.clone()))?;
                self.attacker.patch(name, &PatchParams::default(), &Patch::<()>::Json(patch)).await.map(drop)
            }
            Form::Create(lease) => self.attacker.create(&PostParams::default(), &named(lease)?).await.map(drop),
            Form::Delete => self.attacker.delete(name, &DeleteParams::default()).await.map(drop),
        })
    }

    /// All attacks, each with the name of its Lease.
    fn attacks(&self) -> Vec<(String, Attack)> {
        let locks = locks(&self.me).into_iter().chain(shared(&self.me)).enumerate();
        let locks = locks.map(|(n, attack)| (format!("lease-{n}"), attack));
        let sessions = sessions(&self.me).into_iter().enumerate().map(|(n, (session, attack))| {
            // Each its own: the random part is anybody's to choose.
            let session: SessionId = format!("{session}{n}").parse().expect("a session");
            let rename = |value: &Value| {
                let renamed = value.to_string();
                let renamed =
                    renamed.replace(&self.me, &format!("{}{n}", self.me)).replace(VICTIM, &format!("{VICTIM}{n}"));
                serde_json::from_str(&renamed).expect("it was JSON before")
            };
            let form = match &attack.form {
                Form::Change(ops) => Form::Change(ops.iter().map(rename).collect()),
                Form::Create(lease) => Form::Create(rename(lease)),
                Form::Delete => Form::Delete,
            };
            (session.lease_name(), Attack { before: rename(&attack.before), form, ..attack })
        });
        locks.chain(sessions).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_for_the_writer_is_refused_by_the_policies_and_passes_without_them() -> Result<()> {
    let cluster = Cluster::shared().await?;
    let (strict, open) = (cluster.namespace("attacked").await?, cluster.namespace("attacked-open").await?);
    bind(&strict).await?;
    let (strict, open) = (Side::new(&strict).await?, Side::new(&open).await?);
    let (mut failures, mut count) = (Vec::new(), 0);
    for ((name, attack), (open_name, same)) in strict.attacks().into_iter().zip(open.attacks()) {
        count += 1;
        if let Err(error) = open.attempt(&open_name, &same).await? {
            failures.push(format!("{}: without the policies: {error}", attack.name));
        }
        match strict.attempt(&name, &attack).await? {
            Err(kube::Error::Api(status))
                if status.code == 403
                    && status.message.contains("ValidatingAdmissionPolicy 'leasehold-strict-")
                    && status.message.contains(attack.message) => {}
            outcome => failures.push(format!("{}: {outcome:?} (wanted: {})", attack.name, attack.message)),
        }
    }
    ensure!(failures.is_empty(), "of {count}:\n{}", failures.join("\n"));
    if count < 80 {
        bail!("there are only {count} attacks");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_others_are_not_looked_at() -> Result<()> {
    let strict = Cluster::shared().await?.namespace("others").await?;
    bind(&strict).await?;
    let side = Side::new(&strict).await?;
    // As client-go's leader election does, and whatever else there is.
    for name in ["controller", "session-manager", "node-1"] {
        let lease = serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "holderIdentity": "a" } }))?;
        let mut lease: Lease = side.attacker.create(&PostParams::default(), &lease).await?;
        lease.spec.get_or_insert_default().holder_identity = Some("another".to_owned());
        side.attacker.replace(name, &PostParams::default(), &lease).await?;
        side.attacker.delete(name, &DeleteParams::default()).await?;
    }
    Ok(())
}
