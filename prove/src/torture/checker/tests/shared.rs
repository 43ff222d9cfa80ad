//! Semaphores and read-write locks: a history for each rule that breaks it, and one that does not.

use Share::{Permits, Read, Upgradeable, Write};

use super::*;

const ALL: u32 = 3;

/// Asked for at `from`, there from `from + 5` on, and held until `to`.
fn has(worker: &str, share: Share, from: Nanos, to: Nanos, token: u64) -> History {
    asked(worker, share, from, from + 5, to, token)
}

/// Asked for at `from`, there from `got` on, and held until `to`.
fn asked(worker: &str, share: Share, from: Nanos, got: Nanos, to: Nanos, token: u64) -> History {
    let waiting = line(from, from, What::Waiting { lock: "a".to_owned(), share });
    history(worker, [waiting, acquired(from, got, token, &format!("{worker}.{token}")), checked(got), checked(to)])
}

/// Becomes something else at this time, in ten, and is that until `to`.
fn becomes(mut history: History, share: Share, at: Nanos, to: Nanos, token: u64) -> History {
    history.lines.extend([line(at, at + 10, What::Changed { share, token }), checked(at + 10), checked(to)]);
    history
}

fn shared(histories: impl IntoIterator<Item = History>) -> Run {
    Run { permits: ALL, ..run(histories.into_iter().collect(), BTreeMap::new()) }
}

/// From then on there are so many permits; `healed`: as many as before.
fn permits(permits: u32, from: Nanos, healed: bool) -> FaultLine {
    let span = Span { from, to: from + 1 };
    FaultLine { span, kind: "permits".into(), whom: "a".into(), healed, broke: Vec::new(), permits: Some(permits) }
}

#[test]
fn as_many_permits_as_there_are_can_be_held_and_more_cannot() {
    let all = [has("x", Permits(2), 100, 200, 7), has("y", Permits(1), 110, 190, 9)];
    let verdict = check(&shared(all.clone()));
    assert_eq!((verdict.violations.len(), verdict.most_permits), (0, 3));
    let more = shared(all.into_iter().chain([has("z", Permits(1), 150, 160, 11)]));
    only(&more, "of a, more permits were held than there are: Permits(2) by x.7");
}

#[test]
fn permits_that_were_given_back_in_part_are_free_and_not_before() {
    let first = becomes(has("x", Permits(2), 100, 130, 7), Permits(1), 140, 200, 7);
    let late = shared([first.clone(), has("y", Permits(2), 120, 190, 9)]);
    only(&late, "more permits were held than there are");
    // It may have given one back as soon as it began to.
    assert_eq!(violations(&shared([first, has("y", Permits(2), 130, 190, 9)])), [""; 0]);
}

#[test]
fn what_a_person_broke_counts_no_more() {
    let all =
        [has("x", Permits(2), 100, 200, 7), has("y", Permits(1), 110, 190, 9), has("z", Permits(2), 150, 160, 11)];
    let mut run = shared(all);
    run.faults = vec![broke("x.7", 140)];
    let verdict = check(&run);
    assert_eq!((verdict.violations.len(), verdict.excused), (0, 1));
    run.faults = vec![broke("y.9", 140)];
    only(
        &run,
        "more permits were held than there are: Permits(2) by x.7 (token 7, x) at 0.000000..0.000000; Permits(2)",
    );
    run.faults = vec![broke("x.7", 170)];
    only(&run, "more permits were held");
}

#[test]
fn nobody_is_let_in_where_as_many_are_held_as_there_are_now() {
    let (x, y) = (has("x", Permits(1), 100, 300, 7), has("y", Permits(1), 110, 300, 9));
    let mut run = shared([x.clone(), y.clone(), has("z", Permits(1), 160, 170, 11)]);
    assert_eq!(violations(&run), [""; 0]);
    run.faults = vec![permits(2, 150, false), permits(ALL, 400, true)];
    only(&run, "somebody was let in where a had 2 permits");
    // One was broken, and another can have its permit.
    run.faults.push(broke("x.7", 155));
    assert_eq!(check(&run).let_in_while_shrunk, 1);
    assert_eq!(violations(&run), [""; 0]);
    // What was held before may be more than there are, also where it is looked at for the first time.
    let mut run = shared([x.clone(), y.clone(), has("z", Permits(1), 149, 170, 11)]);
    run.faults = vec![permits(2, 150, false), permits(ALL, 400, true)];
    assert_eq!(violations(&run), [""; 0]);
    // There are more again.
    run.faults = vec![permits(2, 120, false), permits(ALL, 140, true)];
    assert_eq!(violations(&run), [""; 0]);
}

#[test]
fn a_waiter_that_cannot_have_been_let_in_before_was_let_in_while_there_were_fewer_permits() {
    // All are held when the permits are changed. Who gets one of these later came in after that.
    let x = has("x", Permits(1), 100, 160, 7);
    let y = has("y", Permits(2), 110, 300, 9);
    let z = asked("z", Permits(1), 120, 180, 200, 11);
    let mut run = shared([x, y, z.clone()]);
    run.faults = vec![permits(2, 150, false), permits(ALL, 400, true)];
    only(&run, "somebody was let in where a had 2 permits");
    // It may have been let in before the permits were changed, and heard of it later.
    let x = has("x", Permits(1), 100, 145, 7);
    let y = has("y", Permits(2), 110, 300, 9);
    let mut run = shared([x, y, z]);
    run.faults = vec![permits(2, 150, false), permits(ALL, 400, true)];
    assert_eq!((violations(&run).len(), check(&run).let_in_while_shrunk), (0, 0));
}

#[test]
fn readers_are_together_and_a_writer_is_alone() {
    let readers = [has("x", Read, 100, 200, 7), has("y", Upgradeable, 110, 190, 9), has("z", Read, 120, 130, 11)];
    let verdict = check(&shared(readers.clone()));
    assert_eq!((verdict.violations.len(), verdict.most_readers), (0, 3));
    let with_writer = |from| shared(readers.iter().cloned().chain([has("w", Write, from, from + 50, 20)]));
    only(&with_writer(160), "of a, a writer was not alone: Read by x.7");
    assert_eq!(violations(&with_writer(195)), [""; 0]);
    let reader_later = shared([has("w", Write, 100, 200, 7), has("x", Read, 150, 160, 9)]);
    only(&reader_later, "a writer was not alone");
}

#[test]
fn one_reader_alone_can_become_the_writer() {
    let two = |from| shared([has("x", Upgradeable, 100, 200, 7), has("y", Upgradeable, from, 300, 9)]);
    only(&two(150), "two readers could become the writer");
    assert_eq!(violations(&two(195)), [""; 0]);
}

#[test]
fn whoever_becomes_the_writer_is_alone_from_then_on() {
    let writer = becomes(has("x", Upgradeable, 100, 120, 7), Write, 130, 200, 20);
    let reader = |from, to| has("y", Read, from, to, 9);
    only(&shared([writer.clone(), reader(105, 150)]), "a writer was not alone");
    assert_eq!(violations(&shared([writer.clone(), reader(105, 138)])), [""; 0]);
    // Until it is the writer it is still a reader, and so it is when it has been the writer.
    only(&shared([writer.clone(), has("y", Write, 121, 128, 9)]), "a writer was not alone");
    let reads_again = becomes(writer, Upgradeable, 210, 300, 20);
    only(&shared([reads_again.clone(), has("y", Write, 207, 212, 30)]), "a writer was not alone");
    assert_eq!(violations(&shared([reads_again.clone(), has("y", Read, 215, 220, 30)])), [""; 0]);
    assert_eq!(
        check(&shared([reads_again])).by_sort,
        [("to read, upgradeable", 1), ("upgraded", 1), ("downgraded", 1)].into()
    );
}

#[test]
fn whoever_asks_later_has_the_larger_token() {
    let two = |from, token| shared([has("x", Permits(1), 100, 300, 7), has("y", Permits(1), from, 300, token)]);
    assert_eq!(violations(&two(106, 9)), [""; 0]);
    only(&two(106, 7), "a token of a is not larger than one before: y.7 was let in with 7 when x.7 had 7");
    only(&two(106, 5), "a token of a is not larger");
    // They asked at the same time: one write can have let in both, and who made the Lease can have been told late.
    assert_eq!(violations(&two(104, 7)), [""; 0]);
    assert_eq!(violations(&two(104, 5)), [""; 0]);
}

#[test]
fn becoming_the_writer_takes_a_larger_token_and_becoming_less_does_not() {
    let first = has("x", Upgradeable, 100, 120, 7);
    let others = has("y", Read, 106, 125, 9);
    let upgraded = |token| shared([becomes(first.clone(), Write, 130, 200, token), others.clone()]);
    assert_eq!(violations(&upgraded(20)), [""; 0]);
    let found = violations(&upgraded(7));
    assert!(found.iter().any(|told| told.contains("x.7 was let in with 7 when y.9 had 9")), "{found:#?}");
    let less = becomes(has("x", Permits(2), 100, 120, 7), Permits(1), 130, 200, 7);
    assert_eq!(violations(&shared([less, has("y", Permits(1), 106, 125, 9)])), [""; 0]);
}

#[test]
fn of_two_that_exclude_each_other_the_later_one_has_the_larger_token() {
    // Both asked at the same time, and had it one after the other.
    let two = |token| shared([has("x", Read, 100, 140, 7), asked("y", Write, 101, 150, 200, token)]);
    assert_eq!(violations(&two(9)), [""; 0]);
    only(&two(5), "of a, whoever came later has the smaller token: Read by x.7");
    let found = violations(&two(7));
    assert!(found.iter().any(|told| told.contains("the token 7 of a was given to x.7 and to y.7")), "{found:#?}");
    // It was let in first, a person took it away, and its holder looked at it only then.
    let mut run = two(5);
    run.faults = vec![broke("y.5", 145)];
    assert_eq!((violations(&run).len(), check(&run).excused), (0, 1));
}

#[test]
fn what_a_writer_wrote_is_not_lost() {
    let with_numbers = |counter| {
        let mut first = has("x", Write, 100, 140, 7);
        first.lines.extend(written(141, 1));
        let mut second = has("y", Write, 150, 190, 9);
        second.lines.extend(written(191, counter));
        Run { stored: stored(counter, 9), ..shared([first, second]) }
    };
    let verdict = check(&with_numbers(2));
    assert_eq!((verdict.violations.len(), verdict.fenced, verdict.fenced_by_writers), (0, 0, 2));
    only(&with_numbers(1), "both x.7 and y.9");
}

#[test]
fn a_change_is_no_acquisition() {
    let changed = becomes(has("x", Permits(2), 100, 120, 7), Permits(1), 130, 200, 7);
    let verdict = check(&shared([changed]));
    assert_eq!(
        (verdict.holds, verdict.by_sort["of permits"], verdict.by_sort["permits given back in part"]),
        (1, 1, 1)
    );
}
