//! One history by hand for each kind of violation, and one that is all right.

use super::*;
use crate::torture::history::{Line, What};

mod shared;

fn line(from: Nanos, to: Nanos, what: What) -> Line {
    Line { span: Span { from, to }, what }
}

fn waiting(at: Nanos) -> Line {
    line(at, at, What::Waiting { lock: "a".to_owned(), share: Share::Lock })
}

fn acquired(from: Nanos, to: Nanos, token: u64, id: &str) -> Line {
    line(from, to, What::Acquired { token, id: id.to_owned() })
}

fn checked(from: Nanos) -> Line {
    line(from, from + 1, What::Checked)
}

fn written(at: Nanos, counter: u64) -> [Line; 2] {
    [line(at, at, What::Fencing { counter }), line(at, at + 1, What::Fenced { outcome: Outcome::Written { counter } })]
}

fn history(worker: &str, lines: impl IntoIterator<Item = Line>) -> History {
    History { worker: worker.to_owned(), lines: lines.into_iter().collect() }
}

/// Held from `from` to `from + 20`, with a number written under it.
fn hold(worker: &str, from: Nanos, token: u64, counter: u64) -> History {
    let id = format!("{worker}.{token}");
    let [begun, done] = written(from + 10, counter);
    history(
        worker,
        [waiting(from - 5), acquired(from - 5, from, token, &id), checked(from), begun, done, checked(from + 20)],
    )
}

fn stored(counter: u64, token: u64) -> BTreeMap<String, Stored> {
    BTreeMap::from([("a".to_owned(), Stored { counter, token })])
}

fn run(histories: Vec<History>, stored: BTreeMap<String, Stored>) -> Run {
    Run { histories, stored, slack: 5, ..Run::default() }
}

fn violations(run: &Run) -> Vec<String> {
    check(run).violations.into_iter().map(|violation| violation.told).collect()
}

#[track_caller]
fn only(run: &Run, words: &str) {
    let violations = violations(run);
    assert!(violations.len() == 1 && violations[0].contains(words), "{words}: {violations:#?}");
}

fn broke(id: &str, from: Nanos) -> FaultLine {
    let span = Span { from, to: from + 1 };
    let broke = vec![id.to_owned()];
    FaultLine { span, kind: "lock-broken".into(), whom: "a".into(), healed: false, broke, permits: None }
}

#[test]
fn holds_one_after_the_other_are_all_right() {
    let run = run(vec![hold("x", 100, 7, 1), hold("y", 200, 9, 2), hold("z", 300, 12, 3)], stored(3, 12));
    let verdict = check(&run);
    assert_eq!(verdict.violations, []);
    assert_eq!((verdict.holds, verdict.fenced, verdict.checks), (3, 3, 6));
}

#[test]
fn two_guards_at_the_same_time_are_seen() {
    let run = run(vec![hold("x", 100, 7, 1), hold("y", 119, 9, 2)], stored(2, 9));
    only(&run, "two guards of a were valid at the same time: x.7");
}

#[test]
fn a_long_hold_is_seen_to_overlap_a_later_one_with_another_in_between() {
    let mut long = hold("x", 100, 7, 1);
    long.lines.push(checked(400));
    let found = violations(&run(vec![long, hold("y", 200, 9, 2), hold("z", 300, 12, 3)], stored(3, 12)));
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn a_write_right_after_a_check_belongs_to_the_hold_and_a_late_one_does_not() {
    let with_write = |from, to| {
        let mut first = hold("x", 100, 7, 1);
        first.lines.push(line(from, to, What::Appended { polite: true }));
        run(vec![first, hold("y", 123, 9, 2)], stored(2, 9))
    };
    only(&with_write(121, 125), "two guards");
    let verdict = check(&with_write(140, 141));
    assert_eq!((verdict.violations.len(), verdict.late), (0, 1));
}

#[test]
fn an_overlap_is_excused_only_if_the_older_hold_was_the_one_broken() {
    let mut run = run(vec![hold("x", 100, 7, 1), hold("y", 115, 9, 2)], stored(2, 9));
    run.faults = vec![broke("x.7", 112)];
    assert_eq!((violations(&run).len(), check(&run).excused), (0, 1));
    run.faults = vec![broke("y.9", 112)];
    only(&run, "two guards");
    run.faults = vec![broke("x.7", 125)];
    only(&run, "two guards");
}

#[test]
fn careless_writes_that_overlap_are_counted_and_no_violation() {
    let mut careless = hold("x", 100, 7, 1);
    careless.lines.push(line(130, 205, What::Stalled));
    careless.lines.push(line(205, 206, What::Appended { polite: false }));
    let verdict = check(&run(vec![careless, hold("y", 200, 9, 2)], stored(2, 9)));
    assert_eq!((verdict.violations.len(), verdict.overlaps), (0, 1));
}

#[test]
fn a_check_that_succeeds_after_a_stall_is_seen() {
    let mut careless = hold("x", 100, 7, 1);
    careless.lines.push(line(130, 230, What::Stalled));
    careless.lines.push(checked(230));
    only(&run(vec![careless, hold("y", 200, 9, 2)], stored(2, 9)), "two guards");
}

#[test]
fn a_token_given_twice_is_seen() {
    let found = violations(&run(vec![hold("x", 100, 7, 1), hold("y", 200, 7, 2)], stored(2, 7)));
    assert!(found.iter().any(|told| told.contains("the token 7 of a was given to")), "{found:#?}");
}

#[test]
fn a_token_that_shrinks_is_seen() {
    let shrunk = history("y", [waiting(195), acquired(195, 200, 3, "y.3"), checked(200), checked(210)]);
    let mut run = run(vec![hold("x", 100, 7, 1), shrunk], stored(1, 7));
    only(&run, "a token of a is smaller than one before: y.3 has 3");
    run.faults = vec![broke("x.7", 112)];
    only(&run, "a token of a is smaller");
}

#[test]
fn a_number_told_to_two_is_a_lost_update() {
    only(&run(vec![hold("x", 100, 7, 1), hold("y", 200, 9, 1)], stored(1, 9)), "both x.7 and y.9");
}

#[test]
fn a_number_that_is_not_there_in_the_end_is_a_lost_update() {
    only(&run(vec![hold("x", 100, 7, 1), hold("y", 200, 9, 2)], stored(1, 9)), "updates of a are lost");
}

#[test]
fn a_number_nobody_wrote_is_seen_unless_a_write_was_unclear() {
    let mut first = hold("x", 100, 7, 1);
    only(&run(vec![first.clone(), hold("y", 200, 9, 3)], stored(3, 9)), "nobody wrote these numbers of a: [2]");
    first.lines.push(line(115, 115, What::Fencing { counter: 2 }));
    let verdict = check(&run(vec![first, hold("y", 200, 9, 3)], stored(3, 9)));
    assert_eq!((verdict.violations.len(), verdict.unclear), (0, 1));
}

#[test]
fn a_fenced_write_with_a_smaller_token_after_a_larger_one_is_seen() {
    let mut careless = hold("x", 100, 7, 1);
    careless.lines.extend(written(250, 3));
    only(
        &run(vec![careless, hold("y", 200, 9, 2)], stored(3, 9)),
        "number 2 of a was written with token 9, and number 3",
    );
}

#[test]
fn a_stored_token_that_went_back_is_seen() {
    only(&run(vec![hold("x", 100, 7, 1)], stored(1, 5)), "the token stored for a is 5");
}

#[test]
fn a_refusal_while_the_lock_is_held_is_seen() {
    let refused = |at| line(at, at + 1, What::Fenced { outcome: Outcome::Refused { stored: 8 } });
    let mut held = hold("x", 100, 7, 1);
    held.lines.insert(5, refused(115));
    let mut run_held = run(vec![held], stored(1, 7));
    only(&run_held, "was refused while it held a");
    run_held.faults = vec![broke("x.7", 112)];
    assert_eq!(violations(&run_held), [""; 0], "a person let somebody else in");
    run_held.faults = vec![broke("x.7", 118)];
    only(&run_held, "was refused while it held a");
    let mut stale = hold("x", 100, 7, 1);
    stale.lines.push(refused(300));
    let verdict = check(&run(vec![stale], stored(1, 7)));
    assert_eq!((verdict.violations.len(), verdict.refused), (0, 1));
}

#[test]
fn who_gets_no_lock_after_the_last_fault_is_seen() {
    let mut run = run(vec![hold("x", 100, 7, 1), hold("y", 200, 9, 2)], stored(2, 9));
    let live = vec!["x".to_owned(), "y".to_owned()];
    let quiet = |limit| vec![Quiet { when: "then", from: 150, to: 400, limit, live: live.clone(), turns: 4 }];
    run.quiet = quiet(300);
    only(&run, "x got no lock for 0 ms then");
    run.histories.push(hold("x", 350, 11, 3));
    run.stored = stored(3, 11);
    only(&run, "x got no lock");
    run.quiet = quiet(360);
    assert_eq!(check(&run).served, [(200, 0)]);
    assert_eq!(violations(&run), [""; 0]);
}

#[test]
fn who_is_passed_over_is_seen() {
    let mut histories: Vec<History> = (0..6).map(|n| hold("x", 100 + 50 * n, 7 + n, n + 1)).collect();
    histories.push(history("y", [waiting(98), acquired(98, 500, 40, "y.40"), checked(500)]));
    let mut run = run(histories, stored(6, 12));
    run.quiet = vec![Quiet { when: "then", from: 90, to: 600, limit: 600, live: Vec::new(), turns: 5 }];
    only(&run, "y was passed over then: 6 others got a");
    run.quiet[0].turns = 6;
    assert_eq!(violations(&run), [""; 0]);
}

#[test]
fn who_still_waits_in_the_end_is_seen() {
    let endless = history("y", [waiting(120), line(120, 700, What::GaveUp { why: "it is to end".to_owned() })]);
    let mut run = run(vec![hold("x", 100, 7, 1), hold("x", 450, 9, 2), endless], stored(2, 9));
    let live = vec!["x".to_owned(), "y".to_owned()];
    let quiet = |from, to, limit| Quiet { when: "then", from, to, limit, live: live.clone(), turns: 4 };
    run.quiet = vec![quiet(90, 300, 300), quiet(300, 600, 460)];
    let found = violations(&run);
    assert!(found.iter().any(|told| told == "y still waited for a (Lock) in the end"), "{found:#?}");
    // It has not waited for longer than anybody may have to.
    run.quiet = vec![quiet(90, 300, 600), quiet(300, 600, 600)];
    assert!(violations(&run).iter().all(|told| !told.contains("still waited")));
    // It was killed, and another process is there since.
    run.quiet = vec![quiet(90, 300, 300), quiet(300, 600, 460)];
    run.quiet.iter_mut().for_each(|quiet| quiet.live = vec!["x".to_owned()]);
    assert_eq!(violations(&run), [""; 0]);
}

#[test]
fn a_hold_that_was_taken_away_by_nobody_is_seen() {
    let mut held = hold("x", 100, 7, 1);
    held.lines.push(line(130, 131, What::Lost { why: "somebody took it away".to_owned(), taken: true }));
    let mut run = run(vec![held], stored(1, 7));
    only(&run, "x.7 was told that somebody took a away, and nobody did");
    run.faults = vec![broke("x.7", 125)];
    assert_eq!(violations(&run), [""; 0]);
    run.faults = vec![broke("y.9", 125), broke("x.7", 140)];
    only(&run, "x.7 was told");
}
