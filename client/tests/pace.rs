//! What waiting and contending cost: how often a session is renewed, and when a lock is looked at again.

use std::collections::VecDeque;
use std::time::Duration;

use leasehold::protocol::contender::{Answer, Contender, Next, Wish};
use leasehold::protocol::record::SessionRecord;
use leasehold::protocol::session::{self, Request, Session, waiting_duration};
use leasehold::protocol::{LONGEST_SESSION, Moment, Now, Record, Version, Write};
use proptest::prelude::*;
use serde_json::{Value, json};

const D: Duration = Duration::from_secs(30);

fn at(millis: u64) -> Now {
    Now {
        moment: Moment::from_start(Duration::from_millis(1_000_000 + millis)),
        stamp: "2026-01-01T00:00:00Z".parse().unwrap(),
    }
}

/// What the API server keeps of a session: each write makes another version.
fn kept(write: &Write, version: u64) -> SessionRecord {
    let (Write::Create(lease) | Write::Replace(lease)) = write else { panic!("{write:?}") };
    let mut lease = lease.clone();
    lease.metadata.uid = Some("u".to_owned());
    lease.metadata.resource_version = Some(version.to_string());
    SessionRecord::parse(*lease).unwrap()
}

fn opened() -> Session {
    opened_for(D, Duration::ZERO)
}

fn opened_for(duration: Duration, grace: Duration) -> Session {
    let mut session = Session::new("a_b".parse().unwrap(), duration, grace);
    let Some(Request::Write(post)) = session.poll(at(0)) else { panic!("it is to be opened") };
    session.answer(session::Answer::Is(Box::new(kept(&post, 1))), at(0).moment);
    session
}

/// For how long it is renewed, and when, over so many seconds; it is held, or not, as `held` says of each second.
fn renewals(session: &mut Session, seconds: u64, held: impl Fn(u64) -> bool) -> Vec<(u64, Duration)> {
    let mut renewals = Vec::new();
    for second in 1..=seconds {
        if held(second) {
            session.holds();
        }
        if let Some(Request::Write(renewal)) = session.poll(at(second * 1000)) {
            let record = kept(&renewal, second + 1);
            renewals.push((second, record.duration));
            session.answer(session::Answer::Is(Box::new(record)), at(second * 1000).moment);
        }
    }
    renewals
}

#[test]
fn a_session_by_which_something_is_held_is_renewed_each_third_of_its_duration() {
    assert_eq!(renewals(&mut opened(), 30, |_| true), [(10, D), (20, D), (30, D)]);
}

#[test]
fn a_session_that_only_waits_is_renewed_a_quarter_as_often() {
    let long = Duration::from_secs(60);
    assert_eq!(renewals(&mut opened(), 100, |_| false), [(10, long), (50, long), (90, long)]);
    // What is granted after a while is renewed as ever from the next renewal on.
    assert_eq!(renewals(&mut opened(), 70, |second| second > 45), [(10, long), (50, D), (60, D), (70, D)]);
    assert_eq!(waiting_duration(Duration::from_secs(40)), LONGEST_SESSION);
    assert_eq!(waiting_duration(LONGEST_SESSION), LONGEST_SESSION);
}

#[test]
fn a_session_that_only_waits_is_renewed_in_time_whatever_its_grace() {
    for (duration, grace) in [(40, 20), (45, 20), (50, 25), (59, 0), (59, 19), (30, 19), (10, 6), (60, 30), (5, 0)] {
        let (duration, grace) = (Duration::from_secs(duration), Duration::from_secs(grace));
        let mut session = opened_for(duration, grace);
        for tick in 1..4_000 {
            if let Some(Request::Write(renewal)) = session.poll(at(tick * 100)) {
                session.answer(session::Answer::Is(Box::new(kept(&renewal, tick + 1))), at(tick * 100).moment);
                let (until, next) = (session.deadline().unwrap(), session.wake_at().unwrap());
                // As much time is left for other attempts as a holder has.
                let usual =
                    leasehold::protocol::deadline(at(0).moment, duration, grace).since(at(0).moment + duration / 3);
                assert!(until.since(next) >= usual.mul_f64(0.99), "{duration:?} with {grace:?}: {next:?} of {until:?}");
            }
            assert_eq!(session.loss(), None, "{duration:?} with {grace:?} after {tick} tenths of a second");
        }
    }
}

#[test]
fn a_renewal_whose_answer_did_not_come_is_sent_again_and_read_only_where_that_is_refused() {
    let mut session = opened();
    let version = |request: &Option<Request>| match request {
        Some(Request::Write(Write::Replace(lease))) => lease.metadata.resource_version.clone(),
        other => panic!("{other:?}"),
    };
    let first = session.poll(at(10_000));
    assert_eq!(version(&first).as_deref(), Some("1"));
    session.answer(session::Answer::Unclear, at(12_000).moment);
    assert!(session.poll(at(12_000)).is_none(), "it pauses");
    assert_eq!(version(&session.poll(at(12_500))).as_deref(), Some("1"));
    // The one before had been carried out.
    session.answer(session::Answer::Refused, at(12_600).moment);
    assert!(matches!(session.poll(at(12_600)), Some(Request::Read)));
    session.answer(session::Answer::Unclear, at(12_700).moment);
    assert!(matches!(session.poll(at(13_700)), Some(Request::Read)), "what stands there is still not known");
    let (deadline, Some(Request::Write(first))) = (session.deadline(), first) else { panic!("a write") };
    session.answer(session::Answer::Is(Box::new(kept(&first, 2))), at(13_800).moment);
    assert_eq!(session.deadline(), deadline, "whose renewal that was is not known");
    assert_eq!(version(&session.poll(at(13_800))).as_deref(), Some("2"));
}

#[test]
fn a_renewal_may_take_half_of_the_time_that_is_left() {
    let (session, usual) = (opened(), Duration::from_secs(5));
    let deadline = session.deadline().unwrap();
    for (second, half) in [(0, true), (10, true), (19, true), (20, false), (24, false)] {
        let left = deadline.since(at(second * 1000).moment);
        let limit = session.time_limit(at(second * 1000).moment, usual);
        assert_eq!(limit, if half { left / 2 } else { usual }, "after {second} s");
    }
    // Never more than all of it.
    assert_eq!(session.time_limit(at(27_000).moment, usual), deadline.since(at(27_000).moment));
}

/// Sessions of an API server that does one request after the other, each in 40 ms, also those that were given up, and stands
/// still from the 30th to the 38th second: how many of them are lost.
fn lost_beside(sessions: u64, given_up_are_carried_out: bool) -> usize {
    const STEP: u64 = 40;
    struct One {
        session: Session,
        stored: SessionRecord,
        sent: Option<(u64, Duration)>,
    }
    let begins = |n: u64| n * 10_000 / sessions;
    let mut all: Vec<Option<One>> = (0..sessions).map(|_| None).collect();
    let mut queue = VecDeque::new();
    for time in (0..2_000).map(|step| step * STEP) {
        let now = at(time);
        for (n, one) in (0..).zip(&mut all).filter(|(n, _)| begins(*n) <= time) {
            let one = one.get_or_insert_with(|| {
                let mut session = Session::new("a_b".parse().unwrap(), D, Duration::ZERO);
                let Some(Request::Write(post)) = session.poll(now) else { panic!("it is to be opened") };
                let stored = kept(&post, 1);
                session.answer(session::Answer::Is(Box::new(stored.clone())), now.moment);
                One { session, stored, sent: None }
            });
            if one.sent.is_some_and(|(sent, limit)| at(sent).moment + limit <= now.moment) {
                one.sent = None;
                one.session.answer(session::Answer::Unclear, now.moment);
            }
            one.session.holds();
            if one.session.wake_at().is_some_and(|wake| wake <= now.moment)
                && let Some(request) = one.session.poll(now)
            {
                one.sent = Some((time, one.session.time_limit(now.moment, D / 6)));
                queue.push_back((n, time, request));
            }
        }
        if (30_000..38_000).contains(&time) {
            continue;
        }
        let Some((n, sent, request)) = queue.pop_front() else { continue };
        let Some(one) = all.get_mut(usize::try_from(n).unwrap()).and_then(Option::as_mut) else { continue };
        let heard = one.sent.is_some_and(|(last, _)| last == sent);
        let answer = match request {
            Request::Write(Write::Replace(lease))
                if lease.metadata.resource_version != Some(one.stored.version.to_string()) =>
            {
                session::Answer::Refused
            }
            Request::Write(write) if heard || given_up_are_carried_out => {
                one.stored = kept(&write, one.stored.version.0 + 1);
                session::Answer::Is(Box::new(one.stored.clone()))
            }
            Request::Write(_) | Request::Read => session::Answer::Is(Box::new(one.stored.clone())),
        };
        if heard {
            one.sent = None;
            one.session.answer(answer, now.moment);
        }
    }
    all.iter().flatten().filter(|one| one.session.loss().is_some()).count()
}

/// It can do a quarter more than they ask for: if all gave up soon and asked again, that would be too little.
#[test]
fn sessions_survive_an_api_server_that_stood_still_and_has_all_of_them_to_catch_up_with() {
    assert_eq!((lost_beside(200, true), lost_beside(200, false)), (0, 0));
}

proptest! {
    /// An observer counts the duration that it reads from when it reads it, which is not before the renewal was sent.
    #[test]
    fn a_session_is_never_believed_in_for_longer_than_the_last_renewal_that_was_sent_allows(
        steps in prop::collection::vec((0_u64..15_000, any::<bool>(), any::<bool>(), 0_u8..4), 1..60),
    ) {
        let mut session = opened();
        let mut now = 0;
        // Of what may have been carried out and is not known to have been overtaken: until when nobody takes it for dead.
        let (mut last, mut known) = (at(0).moment + D, at(0).moment + D);
        let mut version = 1;
        for (pause, held, now_please, answer) in steps {
            now += pause;
            if held {
                session.holds();
            }
            if now_please {
                session.renew_now(at(now).moment);
            }
            let record = session.record().cloned();
            if let Some(request) = session.poll(at(now)) {
                let told = match request {
                    // It had not been carried out.
                    Request::Read => session::Answer::Is(Box::new(record.unwrap())),
                    Request::Write(renewal) => {
                        version += 1;
                        let record = kept(&renewal, version);
                        last = at(now).moment + record.duration;
                        // Whichever of those that were sent is carried out: nobody takes it for dead before.
                        prop_assert!(last >= known, "for too short");
                        match answer {
                            0 => { last = known; session::Answer::Refused }
                            1 => session::Answer::Unclear,
                            _ => { known = last; session::Answer::Is(Box::new(record)) }
                        }
                    }
                };
                // Whether it was carried out or not: somebody may count from the one or from the other.
                if let Some(deadline) = session.deadline() {
                    prop_assert!(deadline < last.min(known).max(at(now).moment), "believed in until {deadline:?}, given {last:?} and {known:?}");
                }
                session.answer(told, at(now).moment);
            }
            let Some(deadline) = session.deadline() else { break };
            prop_assert!(deadline < last.min(known), "believed in until {deadline:?}, given {last:?} and {known:?}");
        }
    }
}

fn record(version: u64, holder: &str, annotations: &Value) -> Box<Record> {
    let mut lease = json!({
        "metadata": {
            "name": "a", "uid": "u", "resourceVersion": version.to_string(), "annotations": annotations,
            "labels": { "leasehold.dev/kind": "lock" },
        },
        "spec": { "holderIdentity": holder, "leaseTransitions": 1, "leaseDurationSeconds": 30 },
    });
    if let Some((session, _)) = holder.rsplit_once('.') {
        lease["metadata"]["labels"][format!("holder.leasehold.dev/{session}")] = json!("1");
    }
    Box::new(Record::parse(serde_json::from_value(lease).unwrap()).unwrap())
}

fn join(id: &str, ticket: u64) -> Value {
    json!({ "leasehold.dev/format": "1", format!("join.leasehold.dev/{id}"): ticket.to_string() })
}

fn contender() -> Contender {
    Contender::new("a".to_owned(), D, Duration::ZERO, 0)
}

/// It waits behind a holder from now on.
fn waiting() -> Contender {
    let mut contender = contender();
    contender.start("b_b.1".parse().unwrap(), Wish::default(), at(0).moment);
    assert!(matches!(contender.poll(at(0)), Next::Read));
    contender.answer(Answer::Is(record(5, "c_c.1", &json!({ "leasehold.dev/format": "1" }))), at(0).moment);
    assert!(matches!(contender.poll(at(0)), Next::Write(Write::Patch(_))), "it joins");
    contender.answer(Answer::Is(record(6, "c_c.1", &join("b_b.1", 5))), at(0).moment);
    assert!(matches!(contender.poll(at(0)), Next::Wait(_)));
    contender
}

#[test]
fn a_waiter_looks_at_nobodys_session_before_the_front_has_stood_still() {
    let mut contender = waiting();
    contender.set_watched(true, false);
    assert_eq!(contender.sessions_to_observe(at(900).moment).unwrap().len(), 0);
    let Next::Wait(Some(wake)) = contender.poll(at(900)) else { panic!("it waits") };
    assert_eq!(wake, at(1000).moment, "it comes back for it");
    assert_eq!(contender.sessions_to_observe(wake).unwrap().len(), 1);
}

/// The same, and somebody waits before it.
fn second() -> Contender {
    let mut contender = waiting();
    let mut both = join("b_b.1", 5);
    both["join.leasehold.dev/d_d.1"] = json!("4");
    contender.saw(*record(7, "c_c.1", &both), at(0).moment);
    let _ = contender.poll(at(0));
    contender
}

#[test]
fn a_waiter_that_waits_for_long_watches_everything_and_reads_no_more() {
    let mut contender = second();
    contender.set_watched(true, false);
    assert_eq!(contender.watch_from(), Some((Version(7), false)));
    assert!(matches!(contender.poll(at(10_000)), Next::Wait(_)), "instead of a read");
    assert!(contender.watch_from().unwrap().1);
    contender.set_watched(true, true);
    // Each minute the watch says how far it has come.
    for minute in 1..100 {
        let seconds = minute * 60_000;
        assert!(matches!(contender.poll(at(10_000 + seconds)), Next::Wait(_)), "in minute {minute}");
        contender.is_up_to_date(at(10_000 + seconds).moment);
    }
    // A watch that says nothing any more is not relied on for ever.
    assert!(matches!(contender.poll(at(100 * 60_000 + 40_000)), Next::Read));
}

#[test]
fn the_first_in_the_queue_looks_for_itself_whatever_a_watch_says() {
    let mut contender = waiting();
    contender.set_watched(true, false);
    assert!(matches!(contender.poll(at(10_000)), Next::Wait(_)), "a watch begins, which shows as much");
    contender.set_watched(true, true);
    let _ = contender.poll(at(10_001));
    contender.is_up_to_date(at(19_000).moment);
    assert!(matches!(contender.poll(at(20_000)), Next::Read));
}

#[test]
fn who_becomes_the_first_begins_to_look_for_itself() {
    let mut contender = second();
    contender.set_watched(true, false);
    let _ = contender.poll(at(10_000));
    contender.set_watched(true, true);
    let _ = contender.poll(at(10_001));
    // Whoever was before it has left, and it is told of that.
    contender.saw(*record(8, "c_c.1", &join("b_b.1", 5)), at(20_000).moment);
    assert!(matches!(contender.poll(at(20_000)), Next::Wait(_)));
    assert!(matches!(contender.poll(at(30_000)), Next::Read));
}

#[test]
fn who_tries_again_and_again_does_not_forget_since_when_it_is_held() {
    let mut contender = contender();
    let (one, two) = ("b_b.1".parse().unwrap(), "b_b.2".parse().unwrap());
    contender.start("b_b.1".parse().unwrap(), Wish::default(), at(0).moment);
    let _ = contender.poll(at(0));
    contender.answer(Answer::Is(record(5, "c_c.1", &json!({ "leasehold.dev/format": "1" }))), at(0).moment);
    let _ = contender.poll(at(0));
    contender.answer(Answer::Is(record(6, "c_c.1", &join("b_b.1", 5))), at(0).moment);
    contender.leave(&one);
    let _ = contender.poll(at(500));
    contender.answer(Answer::Is(record(7, "c_c.1", &json!({ "leasehold.dev/format": "1" }))), at(500).moment);
    let _ = contender.poll(at(500));
    contender.start("b_b.2".parse().unwrap(), Wish::default(), at(900).moment);
    let _ = contender.poll(at(900));
    contender.answer(Answer::Is(record(8, "c_c.1", &join("b_b.2", 7))), at(900).moment);
    let _ = contender.poll(at(1_000));
    assert!(contender.has(&two));
    assert_eq!(contender.sessions_to_observe(at(1_000).moment).unwrap().len(), 1, "its holder is looked at");
}

#[test]
fn a_waiter_without_a_watch_reads_each_renew_interval() {
    let mut contender = waiting();
    contender.set_watched(false, false);
    let _ = contender.poll(at(10_000));
    assert!(matches!(contender.poll(at(20_001)), Next::Read));
    contender.answer(Answer::Is(record(6, "c_c.1", &join("b_b.1", 5))), at(20_001).moment);
    assert!(matches!(contender.poll(at(21_000)), Next::Wait(_)));
    assert!(matches!(contender.poll(at(31_000)), Next::Read));
}

/// It holds the lock, nobody waits as far as it knows, and its release is refused.
fn outrun_holder(watched: bool) -> Contender {
    let mut contender = contender();
    let id = "b_b.1".parse().unwrap();
    contender.start("b_b.1".parse().unwrap(), Wish::default(), at(0).moment);
    assert!(matches!(contender.poll(at(0)), Next::Read));
    contender.answer(Answer::Is(record(5, "", &json!({ "leasehold.dev/format": "1" }))), at(0).moment);
    assert!(matches!(contender.poll(at(0)), Next::Write(Write::Replace(_))), "it acquires");
    contender.answer(Answer::Is(record(6, "b_b.1", &json!({ "leasehold.dev/format": "1" }))), at(0).moment);
    let _ = contender.poll(at(0));
    contender.set_watched(watched, false);
    contender.leave(&id);
    assert!(matches!(contender.poll(at(0)), Next::Write(Write::Replace(_))), "it releases");
    contender.answer(Answer::Refused, at(0).moment);
    contender
}

#[test]
fn a_holder_whose_release_was_outrun_waits_for_its_watch_to_show_why() {
    let mut contender = outrun_holder(true);
    assert!(matches!(contender.poll(at(0)), Next::Wait(_)));
    contender.saw(*record(7, "b_b.1", &join("c_c.1", 6)), at(1).moment);
    assert!(matches!(contender.poll(at(1)), Next::Write(Write::Patch(_))), "it hands on");
}

#[test]
fn a_holder_whose_release_was_outrun_reads_where_no_watch_shows_why() {
    assert!(matches!(outrun_holder(false).poll(at(0)), Next::Read));
    let mut silent = outrun_holder(true);
    assert!(matches!(silent.poll(at(0)), Next::Wait(_)));
    assert!(matches!(silent.poll(at(50)), Next::Read), "not for long");
    let mut ended = outrun_holder(true);
    ended.doubt();
    assert!(matches!(ended.poll(at(0)), Next::Read), "the watch has ended");
}

#[test]
fn a_holder_to_whom_a_join_was_shown_before_the_refusal_hands_on_at_once() {
    let mut contender = contender();
    let id = "b_b.1".parse().unwrap();
    contender.start("b_b.1".parse().unwrap(), Wish::default(), at(0).moment);
    let _ = contender.poll(at(0));
    contender.answer(Answer::Is(record(6, "b_b.1", &json!({ "leasehold.dev/format": "1" }))), at(0).moment);
    let _ = contender.poll(at(0));
    contender.leave(&id);
    assert!(matches!(contender.poll(at(0)), Next::Write(Write::Replace(_))), "it releases");
    contender.saw(*record(7, "b_b.1", &join("c_c.1", 6)), at(1).moment);
    contender.answer(Answer::Refused, at(2).moment);
    assert!(matches!(contender.poll(at(2)), Next::Write(Write::Patch(_))), "it hands on");
}

#[test]
fn an_acquisition_that_was_outrun_joins_without_another_look() {
    let mut contender = contender();
    contender.start("b_b.1".parse().unwrap(), Wish::default(), at(0).moment);
    assert!(matches!(contender.poll(at(0)), Next::Read));
    contender.answer(Answer::Is(record(5, "", &json!({ "leasehold.dev/format": "1" }))), at(0).moment);
    assert!(matches!(contender.poll(at(0)), Next::Write(Write::Replace(_))), "it acquires");
    contender.answer(Answer::Refused, at(0).moment);
    assert!(matches!(contender.poll(at(0)), Next::Write(Write::Patch(_))), "it joins");
    contender.answer(Answer::Refused, at(0).moment);
    // That was another Lease, or worse.
    assert!(matches!(contender.poll(at(5_000)), Next::Read));
}

#[test]
fn a_try_that_was_outrun_looks_who_was_faster() {
    let mut contender = contender();
    contender.start("b_b.1".parse().unwrap(), Wish { queue: false, ..Wish::default() }, at(0).moment);
    assert!(matches!(contender.poll(at(0)), Next::Read));
    contender.answer(Answer::Is(record(5, "", &json!({ "leasehold.dev/format": "1" }))), at(0).moment);
    assert!(matches!(contender.poll(at(0)), Next::Write(Write::Replace(_))), "it acquires");
    contender.answer(Answer::Refused, at(0).moment);
    assert!(matches!(contender.poll(at(0)), Next::Read));
}
