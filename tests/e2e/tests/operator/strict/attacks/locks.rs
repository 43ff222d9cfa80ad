//! On locks.

use serde_json::{Value, json};

use super::{
    Attack, Form, OTHER, VICTIM, annotate, dated, holder, join, label, lock, passes, spec, unannotate, unlabel, want,
    with,
};

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn locks(me: &str) -> Vec<Attack> {
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
        attack(
            "queue others in one key",
            held(),
            change(vec![annotate("queue.leasehold.dev/1", &format!("{VICTIM}.2=1"))]),
            "is the operator's to write",
        ),
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
            "hand on without a label, for a moment",
            ours(&[&other]),
            change(vec![
                spec("holderIdentity", other.as_str()),
                spec("leaseTransitions", 4),
                unlabel(&holder(me)),
                unannotate(&join(&other)),
                spec("leaseDurationSeconds", 1),
            ]),
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
