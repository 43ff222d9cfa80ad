use super::*;

const PATIENCE: Duration = Duration::from_secs(7);
const GOOD_FOR: Duration = Duration::from_secs(3);

fn at(seconds: u64) -> Moment {
    Moment::from_start(Duration::from_secs(seconds))
}

fn ours(begun: u64, until: u64, token: u64) -> Turn {
    let who = format!("ours-{token}");
    Turn { side: Side::Ours, who, begun: at(begun), until: at(until), token: Some(token) }
}

fn client_go(begun: u64, until: u64) -> Turn {
    Turn { side: Side::ClientGo, who: "client-go".to_owned(), begun: at(begun), until: at(until), token: None }
}

fn sight(uid: &str, transitions: i32, holder: &str) -> Sight {
    Sight { uid: uid.to_owned(), version: 1, transitions, holder: holder.to_owned() }
}

fn judged(turns: Vec<Turn>) -> Findings {
    check(&History { said: Said { turns, late: vec![] }, end: at(1000), ..History::default() }, PATIENCE)
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
        let said = Said { turns, late: vec![] };
        check(&History { said, kills: vec![at(at_)], end: at(end), ..History::default() }, PATIENCE)
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

fn tell(side: Side, lines: &[&str]) -> Said {
    let mut teller = Teller::new(side, "x", GOOD_FOR);
    for line in lines {
        teller.hear(line).unwrap();
    }
    teller.finish()
}

#[test]
fn a_turn_lasts_until_the_last_word_of_it() {
    let lines =
        ["waiting", "leading 1000000000 7", "still 1500000000", "stopped 9000000000 lost", "leading 9500000000 8"];
    let turns = tell(Side::Ours, &lines).turns;
    assert_eq!(turns.len(), 2);
    assert_eq!((turns[0].begun, turns[0].token), (at(1), Some(7)));
    assert_eq!(turns[0].until, at(1) + Duration::from_millis(500), "it was over at some time before it said so");
    assert_eq!(turns[1].until, turns[1].begun);
}

#[test]
fn what_cannot_be_read_is_not_passed_over() {
    for line in ["leading", "leading soon 7", "leading 1", "still 1"] {
        assert!(Teller::new(Side::Ours, "x", GOOD_FOR).hear(line).is_err(), "{line}");
    }
}

#[test]
fn a_leader_of_client_go_that_could_not_renew_is_kept_apart() {
    let second = |n: u64| n * 1_000_000_000;
    let line = |word: &str, at: u64, renewed: u64| format!("{word} {} {}", second(at), second(renewed));
    // It is stopped from 2 to 7, and passed over; at 9 it has the Lease again, without having noticed.
    let lines = [line("leading", 1, 1), line("still", 2, 1), line("still", 7, 1), line("still", 8, 1)];
    let lines: Vec<_> = lines.into_iter().chain([line("still", 9, 9), line("still", 12, 9)]).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let said = tell(Side::ClientGo, &lines);
    assert_eq!(said.turns, [client_go_x(1, 2), client_go_x(9, 12)]);
    assert_eq!(said.late, [client_go_x(7, 8)]);

    let beside = |turn: Turn| {
        let mut said = said.clone();
        said.turns.push(turn);
        let findings = check(&History { said, end: at(1000), ..History::default() }, PATIENCE);
        (findings.violations.len(), findings.woke_late, findings.woke_late_beside_another)
    };
    assert_eq!(beside(ours(5, 8, 1)), (0, 1, 1));
    assert_eq!(beside(ours(5, 6, 1)), (0, 1, 0));
    assert_eq!(beside(ours(2, 6, 1)), (1, 1, 0), "what it said before it was stopped counts");
    assert_eq!(beside(ours(5, 9, 1)), (1, 1, 1), "and so does what it says after it has renewed");
}

#[test]
fn a_leader_of_client_go_that_got_the_lease_anew_without_noticing_has_two_turns() {
    let lines = ["leading 1000000000 1000000000", "still 2000000000 1000000000", "still 9000000000 8900000000"];
    let said = tell(Side::ClientGo, &lines);
    assert_eq!((said.turns, said.late.len()), (vec![client_go_x(1, 2), client_go_x(9, 9)], 0));
    let lines = ["leading 1000000000 1000000000", "still 2000000000 1000000000", "still 4000000000 3900000000"];
    assert_eq!(tell(Side::ClientGo, &lines).turns, [client_go_x(1, 4)], "renewed in time");
}

#[test]
fn a_leader_of_client_go_that_was_stopped_before_it_heard_of_its_lead_is_kept_apart() {
    let said = tell(Side::ClientGo, &["leading 9000000000 1000000000", "still 9500000000 1000000000"]);
    assert_eq!((said.turns.len(), said.late.len()), (0, 1));
}

#[test]
fn ours_is_taken_at_its_word_however_long_it_was_stopped() {
    let said = tell(Side::Ours, &["leading 1000000000 7", "still 9000000000"]);
    assert_eq!((said.turns[0].until, said.late.len()), (at(9), 0));
}

fn client_go_x(begun: u64, until: u64) -> Turn {
    Turn { who: "x".to_owned(), ..client_go(begun, until) }
}
