//! One client's part in a lock, step by step: answers that come late, never, or from the past.

use std::time::Duration;

use jiff::Timestamp;
use leasehold::protocol::contender::{Answer, Contender, Denial, Loss, Next, Notice, Refusal, Wish};
use leasehold::protocol::observer::End;
use leasehold::protocol::write::{self, Term};
use leasehold::protocol::{HolderId, Kind, Mode, Moment, Now, Record, Version, Write};
use leasehold::{Failure, MemoryStore, Store};
use serde_json::{Value, json};

const D: Duration = Duration::from_secs(30);

fn at(seconds: u64) -> Now {
    let moment = Moment::from_start(Duration::from_secs(1000 + seconds));
    Now { moment, stamp: "2026-01-01T00:00:00Z".parse().unwrap() }
}

fn id(id: &str) -> HolderId {
    id.parse().unwrap()
}

/// The lock's Lease at this version. A holder that is not one of this crate's has no session.
fn record(version: u64, holder: &str, annotations: Value) -> Box<Record> {
    let mut lease = json!({
        "metadata": { "name": "a", "uid": "u", "resourceVersion": version.to_string() },
        "spec": {
            "holderIdentity": holder,
            "leaseTransitions": 1,
            "leaseDurationSeconds": D.as_secs(),
            "renewTime": "2026-01-01T00:00:00.000000Z",
        },
    });
    lease["metadata"]["annotations"] = annotations;
    if let Some((session, _)) = holder.rsplit_once('.') {
        lease["metadata"]["labels"] = json!({ format!("holder.leasehold.dev/{session}"): "1" });
    }
    Box::new(Record::parse(serde_json::from_value(lease).unwrap()).unwrap())
}

fn own() -> Value {
    json!({ "leasehold.dev/liveness": "own" })
}

fn contender() -> Contender {
    Contender::new("a".to_owned(), D, Duration::ZERO, 7)
}

/// The end of a session that has fallen silent.
fn silent() -> End {
    End { since: at(0).moment, by_evidence: false, duration: D, version: None }
}

fn wish() -> Wish {
    Wish::default()
}

/// It reads now, and is answered this at once.
fn reads(contender: &mut Contender, seconds: u64, answer: Answer) {
    let next = contender.poll(at(seconds));
    assert!(matches!(next, Next::Read | Next::Check), "at {seconds} s it should read: {next:?}");
    contender.answer(answer, at(seconds).moment);
}

/// It writes now, and is answered this some time later.
fn writes(contender: &mut Contender, seconds: u64, answer: Answer, answered: u64) {
    let next = contender.poll(at(seconds));
    assert!(matches!(next, Next::Write(_)), "at {seconds} s it should write: {next:?}");
    contender.answer(answer, at(answered).moment);
}

fn notices(contender: &mut Contender) -> Vec<Notice> {
    std::iter::from_fn(|| contender.next_notice()).collect()
}

#[test]
fn taking_back_a_leftover_is_no_renewal() {
    let mut contender = contender();
    let wish = Wish { own_duration: Some(D), renewal: false, ..wish() };
    contender.start(id("me_x.1"), wish.clone(), at(0).moment);
    reads(&mut contender, 0, Answer::Is(record(10, "somebody", json!({}))));
    writes(&mut contender, 0, Answer::Unclear("lost".to_owned()), 1);
    contender.leave_all();
    reads(&mut contender, 2, Answer::Is(record(11, "", json!({}))));
    contender.poll(at(2));
    let left = notices(&mut contender);
    assert!(matches!(left[..], [Notice::Left { clean: true, .. }]), "the wait is not over: {left:?}");

    contender.start(id("me_x.2"), wish, at(3).moment);
    writes(&mut contender, 3, Answer::Is(record(12, "me_x.2", own())), 3);
    contender.poll(at(3));
    let acquired = notices(&mut contender);
    assert!(matches!(acquired[..], [Notice::Acquired { .. }]), "not acquired: {acquired:?}");

    // The join of the first acquisition comes true after all. What takes it back says nothing of the hold's term.
    let mut leftover = own();
    leftover["join.leasehold.dev/me_x.1"] = json!("12");
    reads(&mut contender, 25, Answer::Is(record(13, "me_x.2", leftover)));
    writes(&mut contender, 25, Answer::Is(record(14, "me_x.2", own())), 25);
    let told = notices(&mut contender);
    assert!(told.is_empty(), "a write that did not renew the hold counted as a renewal: {told:?}");
    contender.poll(at(34));
    let told = notices(&mut contender);
    assert!(
        matches!(told[..], [Notice::Lost { loss: Loss::Expired, .. }]),
        "the hold outlived its fixed term: {told:?}"
    );
}

#[test]
fn a_renewal_that_is_answered_after_the_deadline_revives_nothing() {
    let mut contender = contender();
    contender.start(id("me_x.2"), Wish { own_duration: Some(D), ..wish() }, at(0).moment);
    reads(&mut contender, 0, Answer::Absent);
    writes(&mut contender, 0, Answer::Is(record(12, "me_x.2", own())), 0);
    contender.poll(at(0));
    let acquired = notices(&mut contender);
    assert!(matches!(acquired[..], [Notice::Acquired { .. }]), "not acquired: {acquired:?}");

    // By 32 s the guard's check has failed and lost() has fired.
    writes(&mut contender, 28, Answer::Is(record(13, "me_x.2", own())), 32);
    contender.poll(at(32));
    let told = notices(&mut contender);
    assert!(matches!(told[..], [Notice::Lost { loss: Loss::Expired, .. }]), "it is not lost, and for good: {told:?}");
    for seconds in 33..60 {
        let next = contender.poll(at(seconds));
        assert!(!matches!(next, Next::Write(_)), "a lost hold is renewed at {seconds} s: {next:?}");
    }
}

/// The Lease of a semaphore with so many permits.
fn semaphore(version: u64, permits: u32, annotations: &Value) -> Box<Record> {
    let mut lease = json!({
        "metadata": { "name": "a", "uid": "u", "resourceVersion": version.to_string(),
            "labels": { "leasehold.dev/kind": "semaphore" }, "annotations": annotations },
        "spec": { "holderIdentity": "semaphore", "leaseTransitions": 1 },
    });
    lease["metadata"]["annotations"]["leasehold.dev/permits"] = json!(permits.to_string());
    Box::new(Record::parse(serde_json::from_value(lease).unwrap()).unwrap())
}

#[test]
fn who_waits_for_a_semaphore_that_is_deleted_does_not_make_one_without_permits() {
    let mut contender = contender();
    let wish = Wish { kind: Kind::Semaphore, mode: Mode::Permits(2), ..wish() };
    contender.start(id("me_x.1"), wish, at(0).moment);
    let held = json!({ "holder.leasehold.dev/you_y.1": "1" });
    reads(&mut contender, 0, Answer::Is(semaphore(8, 2, &held)));
    let mut queued = held;
    queued["join.leasehold.dev/me_x.1"] = json!("8");
    queued["want.leasehold.dev/me_x.1"] = json!("2");
    writes(&mut contender, 0, Answer::Is(semaphore(9, 2, &queued)), 0);
    reads(&mut contender, 10, Answer::Absent);
    let next = contender.poll(at(10));
    assert!(matches!(next, Next::Wait(_)), "nobody said how many permits there are: {next:?}");
    let told = notices(&mut contender);
    assert!(matches!(told[..], [Notice::Refused { why: Refusal::Denied(..), .. }]), "not refused: {told:?}");
}

#[test]
fn who_made_the_lease_on_the_spot_keeps_its_token_when_it_has_less() {
    let mut contender = contender();
    let wish = Wish { kind: Kind::Semaphore, mode: Mode::Permits(2), permits: Some(2), ..wish() };
    contender.start(id("me_x.1"), wish, at(0).moment);
    reads(&mut contender, 0, Answer::Absent);
    let held = |want: &str| json!({ "holder.leasehold.dev/me_x.1": "", "want.leasehold.dev/me_x.1": want });
    writes(&mut contender, 0, Answer::Is(semaphore(8, 2, &held("2"))), 0);
    contender.poll(at(0));
    let told = notices(&mut contender);
    assert!(matches!(told[..], [Notice::Acquired { token: 8, .. }]), "not acquired: {told:?}");
    contender.change(&id("me_x.1"), Mode::Permits(1));
    writes(&mut contender, 1, Answer::Is(semaphore(12, 2, &held("1"))), 1);
    contender.poll(at(1));
    let told = notices(&mut contender);
    assert!(matches!(told[..], [Notice::Changed { token: 8, .. }]), "it is no other tenancy: {told:?}");
}

#[test]
fn a_wait_that_is_given_up_leaves_the_next_one_of_a_free_lock_to_itself() {
    let mut contender = contender();
    contender.start(id("me_x.1"), wish(), at(0).moment);
    let queue = json!({ "join.leasehold.dev/me_x.1": "8", "join.leasehold.dev/you_y.1": "9" });
    reads(&mut contender, 0, Answer::Is(record(10, "somebody", queue)));
    contender.leave_all();
    writes(&mut contender, 1, Answer::Is(record(11, "", json!({ "join.leasehold.dev/you_y.1": "9" }))), 1);
    let next = contender.poll(at(1));
    assert!(matches!(next, Next::Wait(_)), "it grants what is not its own: {next:?}");
}

#[test]
fn an_api_server_that_was_set_back_is_believed() {
    let mut contender = contender();
    contender.start(id("me_x.1"), wish(), at(0).moment);
    let waiting = |version| record(version, "somebody", json!({ "join.leasehold.dev/me_x.1": "1" }));
    reads(&mut contender, 0, Answer::Is(waiting(100)));
    contender.poll(at(0));
    contender.saw(*waiting(50), at(0).moment);
    assert_eq!(contender.watch_from(), Some((Version(100), false)), "an old event is taken for news");

    // Its etcd was restored from a backup, which ended the watch. Versions begin where they were then.
    contender.doubt();
    let (mut now, mut reads) = (at(1), 0);
    while contender.watch_from() != Some((Version(50), false)) {
        match contender.poll(now) {
            Next::Read | Next::Check => {
                reads += 1;
                assert!(reads < 10, "it reads again and again, and believes nothing");
                contender.answer(Answer::Is(waiting(50)), now.moment);
            }
            Next::Wait(Some(then)) => now.moment = then,
            next => panic!("it should find out what is there now: {next:?}"),
        }
    }
    let next = contender.poll(now);
    assert!(matches!(next, Next::Wait(Some(_))), "it does not settle to what is there now: {next:?}");
}

#[test]
fn writes_that_are_refused_again_and_again_are_sent_less_and_less() {
    let mut contender = contender();
    contender.start(id("me_x.1"), wish(), at(0).moment);
    // Every read in between succeeds, which makes none of the refusals undone.
    let request = |contender: &mut Contender| {
        let answer = match contender.poll(at(1)) {
            Next::Wait(_) => return false,
            Next::Read | Next::Check => Answer::Is(record(50, "somebody", json!({}))),
            Next::Write(_) => Answer::Refused,
        };
        contender.answer(answer, at(1).moment);
        true
    };
    let requests = (0..20).take_while(|_| request(&mut contender)).count();
    assert!(requests > 2, "one refusal is what contention looks like: only {requests} requests");
    assert!(requests < 20, "it goes on and on without a pause");
}

#[test]
fn an_acquisition_whose_answer_was_lost_is_settled_while_it_is_held() {
    let mut contender = contender();
    contender.start(id("me_x.1"), wish(), at(0).moment);
    reads(&mut contender, 0, Answer::Absent);
    writes(&mut contender, 0, Answer::Unclear("lost".to_owned()), 0);
    for seconds in 1..=300 {
        if !matches!(contender.poll(at(seconds)), Next::Wait(_)) {
            contender.answer(Answer::Is(record(12, "me_x.1", json!({}))), at(seconds).moment);
        }
        assert!(contender.is_unclear() || seconds > 60, "it could still come true, and is forgotten after {seconds} s");
    }
    let told = notices(&mut contender);
    assert!(matches!(told[..], [Notice::Acquired { .. }]), "it is not held: {told:?}");
    assert!(!contender.is_unclear(), "what is held is taken for something that may still come true");
}

/// A holder that is to live by the lock's own record lives by its session until it has renewed for the first time.
/// Who has seen that session end, and has not read the lock since, does not know better.
#[tokio::test]
async fn a_holder_that_has_renewed_is_not_evicted_on_the_word_of_its_session() {
    for renewed in [false, true] {
        let store = MemoryStore::new();
        let mut lease = (*record(1, "h_x.1", json!({ "join.leasehold.dev/w_x.1": "1" })).lease).clone();
        lease.metadata.resource_version = None;
        let lease = store.write("a", &Write::Create(Box::new(lease))).await.unwrap().unwrap();
        let seen = Record::parse(lease).unwrap();
        if renewed {
            let renewal = write::renew(&seen, Term { duration: D, own: true }, "2026-01-01T00:00:05Z".parse().unwrap());
            store.write("a", &renewal).await.unwrap();
        }
        let eviction = write::grant(&seen, &id("w_x.1"), &[], "2026-01-01T00:00:06Z".parse().unwrap());
        match store.write("a", &eviction).await {
            Ok(_) => assert!(!renewed, "a holder was evicted that lives by its own record"),
            Err(Failure::Refused) => assert!(renewed, "a holder stays though its session has ended"),
            Err(failure) => panic!("{failure}"),
        }
    }
}

/// client-go's leader election compares records by their JSON, in which times have no fractions of a second.
#[test]
fn whoever_sees_whole_seconds_only_sees_every_renewal() {
    let term = Term { duration: D, own: true };
    let now = "2026-01-01T00:00:10.200000Z".parse().unwrap();
    for last in ["2026-01-01T00:00:09.9Z", "2026-01-01T00:00:10.1Z", "2026-01-01T00:00:10.9Z", "2026-01-01T01:00:00Z"] {
        let last: Timestamp = last.parse().unwrap();
        let mut record = record(10, "me_x.1", own());
        record.holder.as_mut().unwrap().renewed = Some(last);
        let Write::Patch(patch) = write::renew(&record, term, now) else { panic!("a renewal is a patch") };
        let patch = serde_json::to_value(patch).unwrap();
        let renewal = patch.as_array().unwrap().iter().find(|op| op["path"] == "/spec/renewTime").unwrap();
        let renewed: Timestamp = renewal["value"].as_str().unwrap().parse().unwrap();
        assert!(renewed >= now && renewed.as_second() > last.as_second(), "{last} is followed by {renewed}");
    }
}

/// What an admission policy answers to who may not evict.
fn forbidden() -> Answer {
    Answer::Denied(Denial::Forbidden, "it is the operator's".to_owned())
}

#[test]
fn whoever_may_not_evict_the_dead_waits_behind_them_and_tries_again_a_minute_later() {
    let mut me = contender();
    me.start(id("me_x.1"), wish(), at(0).moment);
    reads(&mut me, 0, Answer::Is(record(5, "dead_x.1", json!({}))));
    let joined = || record(6, "dead_x.1", json!({ "join.leasehold.dev/me_x.1": "5" }));
    assert!(matches!(me.poll(at(0)), Next::Write(Write::Patch(_))), "it joins");
    me.answer(Answer::Is(joined()), at(0).moment);
    let ended = id("dead_x.1").session;
    me.verdict(ended, Some(silent()));
    assert!(matches!(me.poll(at(1)), Next::Write(Write::Patch(_))), "it evicts");
    me.answer(forbidden(), at(1).moment);
    reads(&mut me, 1, Answer::Is(joined()));
    for seconds in (1..61).step_by(5) {
        match me.poll(at(seconds)) {
            Next::Wait(_) => {}
            Next::Read => me.answer(Answer::Is(joined()), at(seconds).moment),
            next => panic!("at {seconds} s it should wait: {next:?}"),
        }
    }
    assert!(me.next_notice().is_none(), "it has not been refused");
    assert!(matches!(me.poll(at(62)), Next::Write(Write::Patch(_))), "it tries again");
    // Whoever may has done it.
    me.answer(forbidden(), at(62).moment);
    reads(&mut me, 62, Answer::Is(record(7, "me_x.1", json!({}))));
    me.poll(at(62));
    assert!(matches!(me.next_notice(), Some(Notice::Acquired { .. })));
}

#[test]
fn a_try_that_may_not_evict_the_dead_is_told_that_they_hold_it_and_a_newcomer_joins() {
    for queue in [false, true] {
        let mut me = contender();
        me.start(id("me_x.1"), Wish { queue, ..wish() }, at(0).moment);
        let held = || Answer::Is(record(5, "dead_x.1", json!({})));
        // Somebody of this process has seen its session's end.
        me.verdict(id("dead_x.1").session, Some(silent()));
        reads(&mut me, 0, held());
        me.verdict(id("dead_x.1").session, Some(silent()));
        assert!(matches!(me.poll(at(0)), Next::Write(Write::Replace(_))), "it takes it over");
        me.answer(forbidden(), at(0).moment);
        reads(&mut me, 0, held());
        match (queue, me.poll(at(0)), me.next_notice()) {
            (false, _, Some(Notice::Refused { why: Refusal::Held { holder }, .. })) => assert_eq!(holder, "dead_x.1"),
            (true, Next::Write(Write::Patch(_)), None) => {}
            other => panic!("{other:?}"),
        }
        // What is forbidden for another reason is told as before.
        let mut other = contender();
        other.start(id("me_x.1"), Wish { queue, ..wish() }, at(0).moment);
        reads(&mut other, 0, Answer::Is(record(5, "", json!({}))));
        assert!(matches!(other.poll(at(0)), Next::Write(Write::Replace(_))));
        other.answer(forbidden(), at(0).moment);
        assert!(matches!(other.next_notice(), Some(Notice::Refused { why: Refusal::Denied(..), .. })));
    }
}

#[test]
fn what_was_refused_by_admission_is_decided_anew_and_sent_less_and_less() {
    let mut me = contender();
    let shared = |version| Answer::Is(semaphore(version, 1, &json!({ "holder.leasehold.dev/me_x.1": "1" })));
    me.start(id("me_x.1"), Wish { kind: Kind::Semaphore, mode: Mode::Permits(1), ..wish() }, at(0).moment);
    reads(&mut me, 0, shared(5));
    me.poll(at(0));
    assert!(matches!(me.next_notice(), Some(Notice::Acquired { .. })));
    me.leave(&id("me_x.1"));
    // A label that has come since, for example: what is refused once more after another look is sent more and more rarely.
    let (mut sent, mut read) = (0, true);
    for tenth in 0..600 {
        let now = Now { moment: at(1).moment + Duration::from_millis(100) * tenth, ..at(1) };
        for _ in 0..2 {
            match me.poll(now) {
                Next::Wait(_) => break,
                Next::Read | Next::Check => {
                    me.answer(shared(6 + u64::from(tenth)), now.moment);
                    read = true;
                }
                Next::Write(_) => {
                    assert!(std::mem::take(&mut read), "it sends again what was refused");
                    me.answer(Answer::Denied(Denial::Invalid, "a label is lacking".to_owned()), now.moment);
                    sent += 1;
                }
            }
        }
    }
    assert!((10..70).contains(&sent), "sent {sent} times within a minute");
}

#[test]
fn what_stands_on_a_lease_that_cannot_be_read_any_more_is_given_up_and_looked_after() {
    let unreadable = || Answer::Denied(Denial::Invalid, "it is of format 2".to_owned());
    let queued = || record(6, "somebody", json!({ "join.leasehold.dev/me_x.1": "5" }));
    let seeks = |me: &mut Contender| {
        me.start(id("me_x.1"), wish(), at(0).moment);
        reads(me, 0, Answer::Is(record(5, "somebody", json!({}))));
    };
    let abandons = |me: &mut Contender, last: &str| {
        let told = notices(me);
        let abandoned = told.iter().any(|told| matches!(told, Notice::Abandoned { .. }));
        assert!(abandoned && me.is_unclear() && !me.is_engaged(), "{last}: {told:?}");
        // It is taken away when it can be.
        reads(me, 40, Answer::Is(queued()));
        assert!(matches!(me.poll(at(40)), Next::Write(Write::Patch(_))), "{last}: its place is left there");
    };

    let mut me = contender();
    seeks(&mut me);
    writes(&mut me, 0, Answer::Is(queued()), 0);
    me.poll(at(0));
    me.doubt();
    reads(&mut me, 11, unreadable());
    abandons(&mut me, "it waited");

    let mut me = contender();
    seeks(&mut me);
    // Carried out, and its answer cannot be read.
    writes(&mut me, 0, Answer::Unclear("it is of format 2".to_owned()), 0);
    reads(&mut me, 1, unreadable());
    abandons(&mut me, "it had asked");

    let mut me = contender();
    seeks(&mut me);
    writes(&mut me, 0, Answer::Is(queued()), 0);
    me.leave(&id("me_x.1"));
    me.doubt();
    reads(&mut me, 1, unreadable());
    abandons(&mut me, "it was leaving");

    // Nothing of this one stands there.
    let mut me = contender();
    me.start(id("me_x.1"), wish(), at(0).moment);
    reads(&mut me, 0, unreadable());
    assert!(matches!(notices(&mut me)[..], [Notice::Refused { .. }]) && me.is_idle());
}

#[test]
fn what_may_be_held_for_so_long_counts_from_when_it_is_known_and_ends_the_grace_before() {
    let grace = Duration::from_secs(5);
    let bounded = || json!({ "leasehold.dev/max-hold-seconds": "20", "leasehold.dev/liveness": "own" });
    let mut me = Contender::new("a".to_owned(), D, grace, 7);
    me.start(id("me_x.1"), Wish { own_duration: Some(D), ..wish() }, at(0).moment);
    reads(&mut me, 0, Answer::Is(record(5, "", bounded())));
    writes(&mut me, 0, Answer::Unclear("lost".to_owned()), 1);
    reads(&mut me, 2, Answer::Is(record(6, "me_x.1", bounded())));
    // It is confirmed by a renewal, which takes its time.
    writes(&mut me, 2, Answer::Is(record(7, "me_x.1", bounded())), 9);
    let told = notices(&mut me);
    let [Notice::Acquired { allowed_until: Some(until), .. }] = told[..] else { panic!("{told:?}") };
    let latest = at(2).moment + Duration::from_secs(20) - grace;
    assert!(until < latest && until + Duration::from_secs(1) > latest, "{until:?}");
    assert!(me.is_evicted_on_request(), "nobody looks whether it is evicted");

    let mut me = Contender::new("a".to_owned(), D, Duration::from_secs(20), 7);
    me.start(id("me_x.1"), wish(), at(0).moment);
    reads(&mut me, 0, Answer::Is(record(5, "", bounded())));
    me.poll(at(0));
    let told = notices(&mut me);
    assert!(matches!(&told[..], [Notice::Refused { why: Refusal::Denied(..), .. }]), "{told:?}");
}

/// A leader that nobody answers has to be there when somebody does.
#[test]
fn what_is_to_be_renewed_is_tried_at_least_every_two_seconds_or_so() {
    let mut me = contender();
    me.start(id("me_x.1"), Wish { own_duration: Some(D), renewal: true, ..wish() }, at(0).moment);
    reads(&mut me, 0, Answer::Is(record(10, "", json!({}))));
    writes(&mut me, 0, Answer::Is(record(12, "me_x.1", own())), 0);
    let mut now = at(10);
    for _ in 0..12 {
        let next = me.poll(now);
        assert!(matches!(next, Next::Read | Next::Write(_)), "it asks for nothing: {next:?}");
        me.answer(Answer::Unclear("lost".to_owned()), now.moment);
        let Next::Wait(Some(again)) = me.poll(now) else { panic!("it does not pause") };
        assert!(again.since(now.moment) <= Duration::from_millis(2500), "{:?}", again.since(now.moment));
        now.moment = again;
    }
}
