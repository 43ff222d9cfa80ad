//! On semaphores and read-write locks.

use serde_json::{Value, json};

use super::{
    Attack, Form, OTHER, VICTIM, annotate, dated, holder, join, label, lease, owned, spec, unannotate, want, with,
};

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn shared(me: &str) -> Vec<Attack> {
    const NAME: &str = "in the name of";
    const SINCE: &str = "since=2030-01-01T00:00:00Z";
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
    let mut made = semaphore(&[(holder(&mine), "")]);
    made["spec"]["leaseTransitions"] = json!(0);
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
        attack(
            "queue before those who wait",
            queued(),
            vec![annotate(&join(&format!("{me}.2")), "1")],
            "a waiter's ticket",
        ),
        attack(
            "choose among the ways to hold",
            one_of_two(),
            vec![spec("leaseDurationSeconds", 1)],
            "not for what is shared",
        ),
        attack(
            "call another a deadlock's victim",
            queued(),
            vec![annotate(&format!("deadlock.leasehold.dev/{VICTIM}.2"), "x")],
            "operator's to write",
        ),
        attack(
            "ask one who holds nothing",
            one_of_two(),
            vec![annotate(&format!("request.leasehold.dev/{other}"), "1 me now")],
            "only a holder can be asked",
        ),
        attack(
            "have who does not let go evicted",
            with(one_of_two(), "leasehold.dev/evict-on-request", "true"),
            vec![annotate(&format!("request.leasehold.dev/{victim}"), "1 me now")],
            "asking takes the permission to break",
        ),
        attack(
            "queue though one is not listed",
            with(one_of_two(), "leasehold.dev/allowed-subjects", "group:x"),
            vec![dated("annotations", &join(&mine))],
            "is not among those",
        ),
        attack(
            "enter though one is not listed",
            with(one_of_two(), "leasehold.dev/allowed-subjects", "user:x"),
            enters("1"),
            "is not among those",
        ),
        attack("own it", one_of_two(), vec![owned()], "owners and finalizers"),
        attack(
            "break it",
            one_of_two(),
            vec![
                unannotate(&holder(&victim)),
                unannotate(&want(&victim)),
                annotate("leasehold.dev/broken-by", "x"),
                annotate("leasehold.dev/broken-holder", &victim),
                annotate("leasehold.dev/broken-at", "2030-01-01T00:00:00Z"),
                annotate("leasehold.dev/break-reason", "x"),
            ],
            "may not break this",
        ),
        attack(
            "let nobody in",
            semaphore(&[(holder(&mine), "1")]),
            vec![dated("annotations", &format!("upgrade.leasehold.dev/{mine}"))],
            "can become the writer",
        ),
        attack(
            "speak for whom one lets in",
            semaphore(&[(join(&other), "2")]),
            vec![
                bump(),
                dated("annotations", &holder(&other)),
                unannotate(&join(&other)),
                annotate(&want(&other), &format!("1 {SINCE}")),
                annotate(&format!("payload.leasehold.dev/{other}"), "x"),
            ],
            NAME,
        ),
        Attack { name: "delete it", before: one_of_two(), form: Form::Delete, message: "the Lease is deleted by" },
        Attack {
            name: "delete it under another who holds it",
            before: with(one_of_two(), "leasehold.dev/ephemeral", "true"),
            form: Form::Delete,
            message: "the Lease is deleted by",
        },
        Attack {
            name: "create one that stays",
            before: Value::Null,
            form: Form::Create(made),
            message: "leasehold.dev/ephemeral",
        },
    ]
}
