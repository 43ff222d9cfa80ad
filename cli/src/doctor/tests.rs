//! Whole reports, of a healthy installation and of a sick one.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::census::tests::{NOW, lock, session, sight};
use super::*;

/// Everything that a caller without any rights sees.
fn all(leases: &[Value]) -> All {
    let forbidden = || Miss::Forbidden("User \"jane\" cannot list resource \"x\" in API group \"y\"".to_owned());
    All {
        answer: Answer {
            version: Ok(serde_json::from_value(json!({
                "major": "1", "minor": "36", "gitVersion": "v1.36.3", "buildDate": "", "compiler": "", "gitCommit": "",
                "gitTreeState": "", "goVersion": "", "platform": "",
            }))
            .unwrap()),
            took: Duration::from_millis(3),
            clock: Some(Clock { ahead: SignedDuration::ZERO, give_or_take: SignedDuration::from_millis(500) }),
        },
        caller: Ok(serde_json::from_value(json!({"username": "jane", "groups": ["system:authenticated"]})).unwrap()),
        definitions: definitions::Seen {
            served: Err(Miss::Absent),
            definitions: (0..3).map(|_| Err(Miss::Absent)).collect(),
        },
        rights: rights::Seen {
            leases: vec![Ok(true); 6],
            list: Ok(true),
            resources: vec![Ok(true); 3],
            breaks: vec![Ok(false); 3],
        },
        operator: operator::Seen {
            lease: Ok(None),
            deployment: Ok(None),
            pods: Ok(Vec::new()),
            elsewhere: Vec::new(),
            at: NOW.parse().unwrap(),
            before: None,
        },
        resources: Vec::new(),
        extras: extras::Seen {
            policies: Err(forbidden()),
            bindings: Err(forbidden()),
            schema: Ok(None),
            level: Ok(None),
            strict: Ok(Vec::new()),
        },
        sight: Ok(sight(leases)),
    }
}

fn healthy() -> All {
    all(&[
        lock("backup", "web-0_x1.1", json!({})),
        session("session-web-0.x1", "web-0_x1", "2026-11-22T05:59:55.000000Z"),
    ])
}

fn sick() -> All {
    let mut later = lock("later", "", json!({"leasehold.dev/format": "2"}));
    later["metadata"]["resourceVersion"] = "9".into();
    let mut sick = all(&[
        lock("backup", "web-0_x1.1", json!({"join.leasehold.dev/gone_z3.1": "6"})),
        session("session-web-0.x1", "web-0_x1", "2026-11-22T05:50:00.000000Z"),
        session("session-old.x9", "", "2026-11-21T06:00:00.000000Z"),
        later,
    ]);
    sick.rights.leases[3] = Ok(false);
    sick.answer.clock =
        Some(Clock { ahead: SignedDuration::from_secs(40), give_or_take: SignedDuration::from_millis(500) });
    sick
}

fn report(all: &All) -> Report {
    Report::new(&Site::example(), &all.judge(&Site::example(), NOW.parse().unwrap()))
}

#[test]
fn texts() {
    let text = |all: &All, style| text::text(&report(all), style, true);
    insta::assert_snapshot!("healthy", text(&healthy(), Style::Plain));
    insta::assert_snapshot!("sick", text(&sick(), Style::Plain));
    let coloured = text(&healthy(), Style::Coloured);
    insta::assert_snapshot!("healthy_coloured", coloured.escape_debug().to_string().replace("\\n", "\n"));
}

#[test]
fn what_scripts_read() {
    insta::assert_snapshot!("healthy_json", json(&report(&healthy())).unwrap());
    insta::assert_snapshot!("sick_json", json(&report(&sick())).unwrap());
    let mut quiet = report(&sick());
    quiet.only_bad();
    insta::assert_snapshot!("sick_quiet_yaml", yaml(&quiet).unwrap());
}

#[test]
fn a_server_that_does_not_answer_is_told_alone() {
    let finding = server::unreachable(&Site::example(), &Miss::Failed("refused".to_owned()));
    insta::assert_snapshot!("unreachable", text::text(&Report::new(&Site::example(), &[finding]), Style::Plain, true));
}

#[test]
fn every_finding_that_is_not_in_order_says_what_to_do() {
    for all in [healthy(), sick()] {
        for finding in all.judge(&Site::example(), NOW.parse().unwrap()) {
            assert!(finding.verdict == Verdict::Ok || finding.fix.is_some(), "{finding:?}");
        }
    }
}
