use super::*;

const PATIENCE: Duration = Duration::from_secs(7);
const SILENCE: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Moment {
    Moment::from_start(Duration::from_secs(seconds))
}

fn ours(begun: u64, until: u64, token: u64) -> Turn {
    let who = format!("ours-{token}");
    Turn { side: Side::Ours, who, begun: at(begun), until: at(until), late: None, token: Some(token) }
}

fn client_go(begun: u64, until: u64) -> Turn {
    Turn {
        side: Side::ClientGo,
        who: "client-go".to_owned(),
        begun: at(begun),
        until: at(until),
        late: None,
        token: None,
    }
}

fn sight(uid: &str, transitions: i32, holder: &str) -> Sight {
    Sight { uid: uid.to_owned(), version: 1, transitions, holder: holder.to_owned() }
}

fn judged(turns: Vec<Turn>) -> Findings {
    check(&History { turns, end: at(1000), ..History::default() }, PATIENCE)
}

fn only_violation(findings: &Findings) -> &str {
    let [violation] = &findings.violations[..] else { panic!("one violation: {:?}", findings.violations) };
    violation
}

#[test]
fn one_after_the_other_is_fine_and_counted() {
    let findings =
        judged(vec![client_go(20, 29), ours(10, 19, 5), ours(30, 31, 6), client_go(35, 40), ours(50, 60, 7)]);
    assert_eq!(findings.violations, Vec::<String>::new());
    assert_eq!((findings.ours, findings.client_go), (3, 2));
    assert_eq!((findings.ours_to_client_go, findings.client_go_to_ours), (2, 2));
    assert_eq!(findings.worst_gap, Duration::from_secs(10));
}

#[test]
fn two_leaders_at_a_time_are_seen_in_whatever_order_and_on_whatever_sides() {
    for turns in [
        vec![ours(10, 20, 5), client_go(20, 25)],
        vec![client_go(19, 30), ours(10, 20, 5)],
        vec![client_go(10, 20), client_go(15, 30)],
        vec![ours(10, 20, 5), ours(15, 30, 6)],
        // One that begins after a short one has ended, while a long one goes on.
        vec![ours(10, 100, 5), client_go(110, 120), client_go(90, 95)],
    ] {
        let findings = judged(turns);
        assert!(only_violation(&findings).starts_with("two leaders: "), "{findings:?}");
    }
    let both = judged(vec![ours(10, 100, 5), client_go(20, 30), client_go(40, 50)]);
    assert_eq!(both.violations.len(), 2, "the long one is beside each of them");
}

#[test]
fn a_token_that_does_not_grow_is_seen() {
    let findings = judged(vec![ours(10, 20, 5), client_go(21, 22), ours(30, 40, 5)]);
    assert!(only_violation(&findings).starts_with("tokens do not grow"));
    assert!(only_violation(&judged(vec![ours(10, 20, 5), ours(30, 40, 4)])).starts_with("tokens do not grow"));
}

#[test]
fn a_leader_that_was_killed_is_followed_in_time_or_that_is_seen() {
    let killed = |at_: u64, next: Vec<Turn>, end: u64| {
        let turns = [vec![ours(10, 20, 5)], next].concat();
        check(&History { turns, kills: vec![at(at_)], end: at(end), ..History::default() }, PATIENCE)
    };
    let findings = killed(21, vec![client_go(26, 40)], 100);
    assert_eq!(findings.violations, Vec::<String>::new());
    assert_eq!((findings.killed_leaders, findings.worst_after_kill), (1, Duration::from_secs(5)));
    assert!(only_violation(&killed(21, vec![client_go(29, 40)], 100)).starts_with("kill 1"));
    assert!(only_violation(&killed(21, vec![], 100)).starts_with("kill 1"), "nobody at all");
    assert_eq!(killed(21, vec![], 25).violations, Vec::<String>::new(), "the run ended before");
    let waiter = killed(15, vec![client_go(40, 50)], 100);
    assert_eq!((waiter.violations.len(), waiter.killed_leaders), (0, 0), "it was not the leader");
}

#[test]
fn transitions_grow_whenever_a_lease_passes() {
    let judged = |sights| check(&History { sights, ..History::default() }, PATIENCE);
    let fine = vec![
        sight("a", 0, "x"),
        sight("a", 0, ""),
        sight("a", 1, "y"),
        sight("a", 1, "y"),
        sight("a", 2, "y"),
        sight("b", 0, "x"),
    ];
    assert_eq!(judged(fine).violations, Vec::<String>::new());
    for wrong in [
        vec![sight("a", 1, "x"), sight("a", 0, "x")],
        vec![sight("a", 1, "x"), sight("a", 1, "y")],
        vec![sight("a", 1, ""), sight("a", 1, "y")],
    ] {
        assert!(only_violation(&judged(wrong)).starts_with("leaseTransitions"));
    }
}

fn tell(side: Side, lines: &[&str]) -> Vec<Turn> {
    let mut teller = Teller::new(side, "x", SILENCE);
    for line in lines {
        teller.hear(line).unwrap();
    }
    teller.finish()
}

#[test]
fn a_turn_lasts_until_the_last_word_of_it() {
    let lines =
        ["waiting", "leading 1000000000 7", "still 1500000000", "stopped 9000000000 lost", "leading 9500000000 8"];
    let turns = tell(Side::Ours, &lines);
    assert_eq!(turns.len(), 2);
    assert_eq!((turns[0].begun, turns[0].token), (at(1), Some(7)));
    assert_eq!(turns[0].until, at(1) + Duration::from_millis(500), "it was over at some time before it said so");
    assert_eq!(turns[1].until, turns[1].begun);
}

#[test]
fn what_cannot_be_read_is_not_passed_over() {
    for line in ["leading", "leading soon 7", "leading 1", "still 1"] {
        assert!(Teller::new(Side::Ours, "x", SILENCE).hear(line).is_err(), "{line}");
    }
}

#[test]
fn a_leader_of_client_go_that_could_not_run_is_kept_apart_and_ours_is_not() {
    let lines =
        ["leading 1000000000 7", "still 1500000000", "still 7000000000", "still 7500000000", "stopped 8000000000"];
    let [ours] = &tell(Side::Ours, &lines)[..] else { panic!("one turn") };
    assert_eq!((ours.late, ours.until), (None, at(7) + Duration::from_millis(500)));
    let theirs = tell(Side::ClientGo, &lines);
    assert_eq!(theirs[0].until, at(1) + Duration::from_millis(500));
    assert_eq!(theirs[0].late, Some((at(7), at(7) + Duration::from_millis(500))));

    let other = |begun, until| Turn { begun: at(begun), until: at(until), ..ours.clone() };
    let beside = judged(vec![theirs[0].clone(), other(6, 9)]);
    assert_eq!((beside.violations.len(), beside.woke_late, beside.woke_late_beside_another), (0, 1, 1));
    let alone = judged(vec![theirs[0].clone(), other(5, 6)]);
    assert_eq!((alone.violations.len(), alone.woke_late, alone.woke_late_beside_another), (0, 1, 0));
    let before = judged(vec![other(1, 9), other(1, 1), theirs[0].clone()]);
    assert!(!before.violations.is_empty(), "what it said before the silence counts");
}
