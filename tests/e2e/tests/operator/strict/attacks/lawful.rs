//! What looks like an attack and is none: the policies let it pass.

use anyhow::{Result, ensure};
use leasehold_testkit::Cluster;
use serde_json::{Value, json};

use super::{
    Attack, Form, OTHER, Side, VICTIM, annotate, dated, holder, join, label, lease, lock, passes, spec, unannotate,
    unlabel, want, with,
};
use crate::strict::bind;

#[expect(clippy::too_many_lines, reason = "a table")]
fn lawful(me: &str) -> Vec<Attack> {
    const SINCE: &str = "since=2030-01-01T00:00:00Z";
    let (victim, other, mine) = (format!("{VICTIM}.1"), format!("{OTHER}.1"), format!("{me}.1"));
    let said = |prefix: &str, id: &str| format!("{prefix}.leasehold.dev/{id}");
    let passes_by = |name, before, ops| Attack { name, before, form: Form::Change(ops), message: "" };
    // As the operator tells somebody to give up.
    let told = |lease: Value, session: &str| {
        let mut lease = with(lease, &said("deadlock", &format!("{session}.1")), "a circle");
        lease["metadata"]["labels"][holder(session)] = json!("");
        lease
    };
    let of = |kind: &str, annotations: &[(String, &str)]| {
        let all: Vec<_> = annotations.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        lease(kind, &all, &json!({ "holderIdentity": kind, "leaseTransitions": 3 }))
    };
    let grants = |id: &str, wants: &str| {
        vec![
            spec("leaseTransitions", 4),
            dated("annotations", &holder(id)),
            annotate(&want(id), &format!("{wants} {SINCE}")),
            unannotate(&join(id)),
            label(&holder(id.rsplit_once('.').map_or(id, |(session, _)| session)), ""),
        ]
    };
    let stale = |report: &str| {
        let permits = ("leasehold.dev/permits".to_owned(), "2");
        of("semaphore", &[permits, (holder(&victim), "1"), (said(report, &victim), &mine), (join(&other), "2")])
    };
    let gives_up = vec![unannotate(&join(&mine)), unannotate(&said("deadlock", &mine))];
    vec![
        passes_by(
            "give up when told to",
            told(lock(VICTIM, &[&mine]), me),
            [gives_up.clone(), vec![unlabel(&holder(me))]].concat(),
        ),
        passes_by(
            "give up before one has heard of it",
            told(lock(VICTIM, &[&mine]), me),
            vec![unannotate(&join(&mine))],
        ),
        passes_by(
            "hand on while the next but one is told",
            told(lock(me, &[&victim, &other]), OTHER),
            passes(me, VICTIM, 1, true),
        ),
        passes_by(
            "hand on and take the word off the next but one",
            told(lock(me, &[&victim, &other]), OTHER),
            [passes(me, VICTIM, 1, true), vec![unlabel(&holder(OTHER))]].concat(),
        ),
        passes_by(
            "hand on to who is told",
            told(lock(me, &[&other]), OTHER),
            [vec![unlabel(&holder(OTHER)), unannotate(&said("deadlock", &other))], passes(me, OTHER, 1, true)].concat(),
        ),
        passes_by(
            "hand on what one had by one's own record",
            with(lock(me, &[&other]), "leasehold.dev/liveness", "own"),
            [vec![unannotate("leasehold.dev/liveness"), spec("leaseDurationSeconds", 30)], passes(me, OTHER, 1, true)]
                .concat(),
        ),
        passes_by(
            "let in, and take off what was said of who came in before",
            stale("holds"),
            [grants(&other, "1"), vec![unannotate(&said("holds", &victim))]].concat(),
        ),
        passes_by(
            "let in, and take off what was said to who came in before",
            stale("deadlock"),
            [grants(&other, "1"), vec![unannotate(&said("deadlock", &victim))]].concat(),
        ),
        passes_by(
            "become the writer",
            of(
                "rwlock",
                &[
                    (holder(&mine), "1"),
                    (want(&mine), "upgradeable own=60"),
                    (join(&other), "2"),
                    (want(&other), "read"),
                ],
            ),
            vec![
                spec("leaseTransitions", 4),
                dated("annotations", &holder(&mine)),
                annotate(&want(&mine), &format!("write own=60 {SINCE}")),
            ],
        ),
        passes_by(
            "be one that can write again",
            of("rwlock", &[(holder(&mine), "1"), (want(&mine), "write")]),
            vec![annotate(&want(&mine), &format!("upgradeable {SINCE}"))],
        ),
        passes_by(
            "queue by the largest number",
            lock(VICTIM, &[]),
            vec![dated("annotations", &join(&format!("{me}.3999999999")))],
        ),
        passes_by(
            "say what one holds elsewhere",
            lock(VICTIM, &[&mine]),
            vec![annotate(&said("holds", &mine), &format!("{me}.7 {me}.8"))],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_looks_like_an_attack_passes() -> Result<()> {
    let strict = Cluster::shared().await?.namespace("lawful").await?;
    bind(&strict).await?;
    let side = Side::new(&strict).await?;
    let mut failures = Vec::new();
    for (n, attempt) in lawful(&side.me).into_iter().enumerate() {
        if let Err(error) = side.attempt(&format!("lease-{n}"), &attempt).await? {
            failures.push(format!("{}: {error}", attempt.name));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
