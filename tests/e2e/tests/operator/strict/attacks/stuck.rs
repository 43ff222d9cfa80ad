//! What would stay there in everybody's way, and what somebody would have beyond his turn.

use serde_json::{Value, json};

use super::{
    Attack, Form, OTHER, VICTIM, annotate, dated, holder, join, label, lease, lock, passes, spec, unannotate, unlabel,
    want, with,
};

const ID: &str = "no acquisition's id";
const ONE: &str = "one joins at a time";
const FOREIGN: &str = "none of Leasehold's";
const LONG: &str = "more than 1,024 characters";
const ELSEWHERE: &str = "says of itself what it holds elsewhere";

fn attack(name: &'static str, before: Value, ops: Vec<Value>, message: &'static str) -> Attack {
    Attack { name, before, form: Form::Change(ops), message }
}

fn of(kind: &str, annotations: &[(String, &str)]) -> Value {
    let all: Vec<_> = annotations.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    lease(kind, &all, &json!({ "holderIdentity": kind, "leaseTransitions": 3 }))
}

fn semaphore(annotations: &[(String, &str)]) -> Value {
    of("semaphore", &[&[("leasehold.dev/permits".to_owned(), "2")], annotations].concat())
}

fn said(prefix: &str, id: &str) -> String {
    format!("{prefix}.leasehold.dev/{id}")
}

/// Names that nobody reads, and so nobody takes off: of a session that has capital letters, or none of a number, or too
/// large a one, or one that is written otherwise, or a name that is too long.
fn unreadable(me: &str) -> [String; 6] {
    [
        format!("{me}X.1"),
        me.to_owned(),
        format!("{me}.9999999999"),
        format!("{me}.01"),
        format!("{me}.-1"),
        format!("{me}{}.1", "k".repeat(53 - me.len())),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn locks(me: &str) -> Vec<Attack> {
    let (victim, other, mine) = (format!("{VICTIM}.1"), format!("{OTHER}.1"), format!("{me}.1"));
    let held = || lock(VICTIM, &[&other]);
    let waits = || lock(VICTIM, &[&other, &mine]);
    let big = "x".repeat(200 * 1024);
    let told = |mut lease: Value, session: &str| {
        lease["metadata"]["labels"][holder(session)] = json!("");
        lease
    };
    let mut all: Vec<_> = unreadable(me)
        .iter()
        .map(|id| attack("queue as nobody", held(), vec![dated("annotations", &join(id))], ID))
        .collect();
    let capital = format!("{me}X");
    all.extend([
        attack("take it as nobody", lock("", &[]), passes("", &capital, 1, false), ID),
        attack(
            "take it by a number too large",
            lock("", &[]),
            {
                let mut ops = passes("", me, 1, false);
                ops.push(spec("holderIdentity", format!("{me}.9999999999")));
                ops
            },
            ID,
        ),
        attack("fill it", held(), vec![annotate("x.y/z", &big)], FOREIGN),
        attack("fill it under a like name", held(), vec![annotate("xleasehold.dev/z", "x")], "operator's to write"),
        attack(
            "fill it under a like prefix",
            held(),
            vec![annotate(&format!("join.x.leasehold.dev/{mine}"), "1")],
            "operator's to write",
        ),
        attack("say what another tool says", with(held(), "x.y/z", "1"), vec![annotate("x.y/z", "2")], FOREIGN),
        attack("take off what another tool says", with(held(), "x.y/z", "1"), vec![unannotate("x.y/z")], FOREIGN),
        attack("label it", held(), vec![label("x.y/z", "1")], FOREIGN),
        attack("label it as something of ours", held(), vec![label("leasehold.dev/x", "1")], FOREIGN),
        attack(
            "speak at length",
            lock(me, &[&other]),
            vec![annotate(&said("payload", &mine), &"x".repeat(1025))],
            LONG,
        ),
        attack("ask at length", held(), vec![annotate(&said("request", &victim), &format!("1 me {big}"))], LONG),
        attack("speak while waiting", waits(), vec![annotate(&said("payload", &mine), "x")], ONE),
        attack("want without waiting", held(), vec![annotate(&want(&mine), "1 own=5")], ONE),
        attack("want another thing while waiting", waits(), vec![annotate(&want(&mine), "1 own=5")], ONE),
        attack(
            "want no end of it",
            held(),
            vec![dated("annotations", &join(&mine)), annotate(&want(&mine), &format!("1 since={big}"))],
            ONE,
        ),
        attack(
            "queue twice at once",
            held(),
            vec![dated("annotations", &join(&mine)), dated("annotations", &join(&format!("{me}.2")))],
            ONE,
        ),
        attack("queue as who holds it", lock(me, &[]), vec![dated("annotations", &join(&mine))], ONE),
        attack("hold elsewhere without waiting", held(), vec![annotate(&said("holds", &mine), &mine)], ONE),
        attack("hold what another holds", waits(), vec![annotate(&said("holds", &mine), &victim)], ELSEWHERE),
        attack(
            "hold what another holds as well",
            waits(),
            vec![annotate(&said("holds", &mine), &format!("{me}.7 {victim}"))],
            ELSEWHERE,
        ),
        attack(
            "hand on to one who is to keep it",
            with(lock(me, &[&other]), "leasehold.dev/liveness", "kept"),
            passes(me, OTHER, 1, true),
            "lives by its session",
        ),
        attack(
            "hand on for a moment",
            lock(me, &[&other]),
            [passes(me, OTHER, 1, true), vec![spec("leaseDurationSeconds", 1)]].concat(),
            "lives by its session",
        ),
        attack(
            "take the word off another who waits",
            told(held(), OTHER),
            vec![unlabel(&holder(OTHER))],
            "the fencing token follows",
        ),
        attack(
            "take the label off who made it on the spot",
            told(held(), VICTIM),
            vec![unlabel(&holder(VICTIM))],
            "the fencing token follows",
        ),
        attack("give another the word", held(), vec![label(&holder(OTHER), "")], "the fencing token follows"),
        attack(
            "hand on and give another the word",
            lock(me, &[&other, &victim]),
            [passes(me, OTHER, 1, true), vec![label(&holder(VICTIM), "")]].concat(),
            "the fencing token follows",
        ),
    ]);
    all
}

pub(super) fn shared(me: &str) -> Vec<Attack> {
    const MORE: &str = "what is held becomes less";
    const SINCE: &str = "since=2030-01-01T00:00:00Z";
    let (victim, other, mine) = (format!("{VICTIM}.1"), format!("{OTHER}.1"), format!("{me}.1"));
    let bump = || spec("leaseTransitions", 4);
    let queued = || semaphore(&[(holder(&mine), "1"), (want(&mine), "1"), (join(&other), "2"), (want(&other), "2")]);
    let waits = || semaphore(&[(holder(&victim), "1"), (want(&victim), "2"), (join(&mine), "2")]);
    let reads = |held: &str| {
        of("rwlock", &[(holder(&mine), "1"), (want(&mine), held), (join(&other), "2"), (want(&other), "write")])
    };
    let read = || of("rwlock", &[(holder(&victim), "1"), (want(&victim), "write")]);
    let joins = || dated("annotations", &join(&mine));
    let mut all: Vec<_> = unreadable(me)
        .iter()
        .map(|id| attack("queue as nobody", waits(), vec![dated("annotations", &join(id))], ID))
        .collect();
    all.extend([
        attack(
            "enter by a number too large",
            semaphore(&[]),
            {
                let id = format!("{me}.9999999999");
                vec![bump(), dated("annotations", &holder(&id)), annotate(&want(&id), &format!("1 {SINCE}"))]
            },
            ID,
        ),
        attack("take more past those who wait", queued(), vec![annotate(&want(&mine), &format!("2 {SINCE}"))], MORE),
        attack(
            "read as one that can write",
            reads("read"),
            vec![annotate(&want(&mine), &format!("upgradeable {SINCE}"))],
            MORE,
        ),
        attack(
            "write having read",
            reads("read"),
            vec![bump(), dated("annotations", &holder(&mine)), annotate(&want(&mine), &format!("write {SINCE}"))],
            MORE,
        ),
        attack("hold what nobody can tell", reads("write"), vec![unannotate(&want(&mine))], ONE),
        attack("fill it", waits(), vec![annotate("x.y/z", &"x".repeat(200 * 1024))], FOREIGN),
        attack("label it", waits(), vec![label("x.y/z", "1")], FOREIGN),
        attack("take off what another tool says", with(waits(), "x.y/z", "1"), vec![unannotate("x.y/z")], FOREIGN),
        attack(
            "fill it with what one wants",
            queued(),
            vec![annotate(&want(&mine), &format!("1 since={}", "x".repeat(200 * 1024)))],
            "nothing that can be wanted",
        ),
        attack(
            "want longer than there is time",
            read(),
            vec![joins(), annotate(&want(&mine), "read own=4294967296")],
            "nothing that can be wanted",
        ),
        attack("speak at length", queued(), vec![annotate(&said("payload", &mine), &"x".repeat(1025))], LONG),
        attack("speak while waiting", waits(), vec![annotate(&said("payload", &mine), "x")], ONE),
        attack("want without waiting", queued(), vec![annotate(&want(&format!("{me}.2")), "1")], ONE),
        attack("want another thing while waiting", waits(), vec![annotate(&want(&mine), "2")], ONE),
        attack("take back what one wants", with(waits(), &want(&mine), "2"), vec![unannotate(&want(&mine))], ONE),
        attack("queue for what has been kept", read(), vec![joins(), annotate(&want(&mine), "read kept")], ONE),
        attack("queue for nothing", read(), vec![joins()], ONE),
        attack(
            "queue twice at once",
            waits(),
            vec![dated("annotations", &join(&format!("{me}.2"))), dated("annotations", &join(&format!("{me}.3")))],
            ONE,
        ),
        attack("queue as who holds it", queued(), vec![joins()], ONE),
        attack(
            "wait to be the writer while waiting",
            of("rwlock", &[(join(&mine), "2"), (want(&mine), "upgradeable")]),
            vec![dated("annotations", &said("upgrade", &mine))],
            ONE,
        ),
        attack("hold elsewhere without waiting", queued(), vec![annotate(&said("holds", &mine), &mine)], ONE),
        attack("hold what another holds", waits(), vec![annotate(&said("holds", &mine), &victim)], ELSEWHERE),
    ]);
    all
}
