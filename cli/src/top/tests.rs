use jiff::ToSpan as _;
use leasehold::protocol::{Moment, Now, Record};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;

use super::keys::press;
use super::*;
use crate::view::LockView;

/// So many seconds after the beginning.
pub(super) fn at(seconds: i64) -> Now {
    let stamp: jiff::Timestamp = "2026-11-21T09:00:00Z".parse().unwrap();
    Now {
        moment: Moment::from_start(Duration::from_secs(1000 + seconds.unsigned_abs())),
        stamp: stamp + seconds.seconds(),
    }
}

fn view(name: &str, kind: &str, holders: &[&str], waiters: &[&str]) -> LockView {
    let lease_name = leasehold::protocol::name::lease_name(name).unwrap();
    let mut annotations = json!({ "leasehold.dev/id": name, "leasehold.dev/permits": "3" });
    let since = "2026-11-21T08:59:00Z";
    for identity in holders {
        let share = if kind == "rwlock" { "read" } else { "1" };
        annotations[format!("holder.leasehold.dev/{identity}")] = json!("1");
        annotations[format!("want.leasehold.dev/{identity}")] = json!(format!("{share} since={since}"));
    }
    for (n, identity) in waiters.iter().enumerate() {
        annotations[format!("join.leasehold.dev/{identity}")] = json!((10 + n).to_string());
    }
    let holder = if kind == "lock" { holders.first().copied().unwrap_or_default() } else { kind };
    let lease = json!({
        "metadata": { "name": lease_name, "namespace": "shop", "uid": name, "resourceVersion": "99",
            "labels": { "leasehold.dev/kind": kind }, "annotations": annotations },
        "spec": { "holderIdentity": holder, "acquireTime": "2026-11-21T08:59:00.000000Z" },
    });
    LockView::of(&Record::parse(serde_json::from_value(lease).unwrap()).unwrap())
}

pub(super) fn lock(name: &str, holders: &[&str], waiters: &[&str]) -> LockView {
    view(name, "lock", holders, waiters)
}

pub(super) fn held(name: &str, holder: &str) -> LockView {
    lock(name, &[holder], &[])
}

fn state() -> State {
    let mut state = State::new(at(0).moment, Sort::Busiest);
    let all = vec![
        lock("backup", &["cron-7_aaaaaaaaaa.1"], &[]),
        lock("idle", &[], &[]),
        lock("orders", &["web-0_bbbbbbbbbb.1"], &["web-1_cccccccccc.1", "web-2_dddddddddd.1"]),
        lock("日本語のロック\u{202e}", &["ホスト\u{1b}[2J"], &[]),
        view("db", "semaphore", &["web-0_bbbbbbbbbb.7", "web-1_cccccccccc.8"], &["web-3_eeeeeeeeee.9"]),
        view("catalog", "rwlock", &["web-0_bbbbbbbbbb.4", "web-1_cccccccccc.5"], &[]),
    ];
    state.saw(Seen::All(all), at(0).moment);
    state.saw(Seen::One(Box::new(lock("orders", &["web-1_cccccccccc.1"], &["web-2_dddddddddd.1"]))), at(50).moment);
    state
}

fn screen(state: &mut State, width: u16, height: u16, now: Now) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    state.refresh(now);
    terminal.draw(|frame| draw::draw(frame, state, "in namespace shop", false, now)).unwrap();
    // Without any columns it cannot be shown as a text.
    if width == 0 { String::new() } else { terminal.backend().to_string() }
}

fn keys(state: &mut State, codes: impl IntoIterator<Item = KeyCode>, now: Now) -> Next {
    codes.into_iter().fold(Next::GoOn, |_, code| {
        let next = press(state, KeyEvent::from(code), now);
        state.refresh(now);
        next
    })
}

fn typed(text: &str) -> Vec<KeyCode> {
    text.chars().map(KeyCode::Char).collect()
}

/// Which ones are on the screen, by the second column where there are names.
fn names(state: &mut State, now: Now) -> Vec<String> {
    state.refresh(now);
    state.order().iter().map(|key| key.1.clone()).collect()
}

#[test]
fn screens() {
    let mut state = state();
    insta::assert_snapshot!("table", screen(&mut state, 110, 10, at(60)));
    insta::assert_snapshot!("narrow", screen(&mut state, 44, 6, at(60)));
    keys(&mut state, [KeyCode::Down, KeyCode::Enter], at(60));
    insta::assert_snapshot!("queue", screen(&mut state, 80, 12, at(61)));
    keys(&mut state, [KeyCode::Esc, KeyCode::Char('?')], at(61));
    insta::assert_snapshot!("help", screen(&mut state, 90, 16, at(61)));
    keys(&mut state, [KeyCode::Esc], at(61));
    keys(&mut state, typed("/WEB-1"), at(61));
    state.saw(Seen::Lost("connection refused".into()), at(62).moment);
    insta::assert_snapshot!("filtered_and_lost", screen(&mut state, 90, 8, at(75)));
}

#[test]
fn what_cannot_be_read_is_told_of_on_the_screen() {
    let mut state = state();
    assert!(!screen(&mut state, 110, 10, at(60)).contains("cannot be read"));
    state.saw(Seen::Unreadable(vec![("shop".into(), "odd".into())]), at(60).moment);
    let text = screen(&mut state, 110, 10, at(60));
    assert!(text.contains("1 Lease cannot be read and is left out: see kubectl leasehold doctor"), "{text}");
    assert!(text.contains("NAME") && text.contains("orders"), "{text}");
}

#[test]
fn the_document_shows_what_is_printed() {
    let mut state = state();
    keys(&mut state, typed("/_"), at(60));
    let sample = columns::plain(&state, false, at(60));
    let text = include_str!("../../../docs/cli.md");
    assert!(
        text.contains(&format!("$ kubectl leasehold top --once --for 1m\n{sample}```")),
        "docs/cli.md lacks:\n{sample}"
    );
    for line in draw::HELP.lines().filter(|line| !line.is_empty()) {
        assert!(text.contains(line), "docs/cli.md lacks: {line}");
    }
}

#[test]
fn no_terminal_is_too_small() {
    for (width, height) in [(0, 0), (1, 1), (3, 2), (8, 3), (12, 4), (200, 1), (1, 60)] {
        let mut state = state();
        for view in [vec![], typed("?"), vec![KeyCode::Enter, KeyCode::Enter], vec![KeyCode::Char('/')]] {
            keys(&mut state, view, at(60));
            screen(&mut state, width, height, at(60));
            keys(&mut state, [KeyCode::Down, KeyCode::PageDown, KeyCode::Up], at(60));
        }
    }
}

#[test]
fn orders_and_filters() {
    let mut state = state();
    assert_eq!(names(&mut state, at(60))[..2], ["orders", "db"]);
    keys(&mut state, typed("s"), at(60));
    assert_eq!(state.sort, Sort::Held);
    assert_eq!(names(&mut state, at(60)).last().unwrap(), "idle");
    assert_eq!(names(&mut state, at(60))[4], "orders", "it was handed over just now");
    keys(&mut state, typed("s"), at(60));
    assert_eq!(names(&mut state, at(60))[..2], ["orders", "db"]);
    let many = lock("many", &["x_x.1"], &["y_y.1", "y_y.2"]);
    state.saw(Seen::One(Box::new(many)), at(60).moment);
    assert_eq!(names(&mut state, at(60))[..2], ["many", "orders"]);
    keys(&mut state, typed("s"), at(60));
    assert_eq!(names(&mut state, at(60))[..3], ["backup", "catalog", "db"]);
    keys(&mut state, typed("/WEB-0q"), at(60));
    assert!(names(&mut state, at(60)).is_empty(), "q is a letter there");
    keys(&mut state, [KeyCode::Backspace, KeyCode::Enter], at(60));
    assert_eq!(names(&mut state, at(60)), ["catalog", "db"]);
    assert_eq!(keys(&mut state, typed("/"), at(60)), Next::GoOn);
    keys(&mut state, [KeyCode::Esc], at(60));
    assert_eq!(names(&mut state, at(60)).len(), 7);
}

#[test]
fn keys_that_end_it() {
    let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
    for (shown, esc, q) in [
        (vec![], Next::Quit, Next::Quit),
        (typed("/"), Next::GoOn, Next::GoOn),
        (typed("?"), Next::GoOn, Next::GoOn),
        (vec![KeyCode::Enter], Next::GoOn, Next::Quit),
    ] {
        for (key, wanted) in [
            (KeyEvent::from(KeyCode::Esc), esc),
            (KeyEvent::from(KeyCode::Char('q')), q),
            (control('c'), Next::Quit),
            (control('z'), Next::Suspend),
        ] {
            let mut state = state();
            state.refresh(at(60));
            keys(&mut state, shown.clone(), at(60));
            assert_eq!(press(&mut state, key, at(60)), wanted, "{:?} {key:?}", state.shown);
        }
    }
}

#[test]
fn what_is_chosen_stays_chosen_while_others_come_and_go() {
    let mut state = State::new(at(0).moment, Sort::Name);
    let all = (10..60).map(|n| held(&format!("lock-{n}"), "x_x.1")).collect();
    state.saw(Seen::All(all), at(0).moment);
    let chosen = |state: &mut State| {
        state.refresh(at(1));
        let (keys, at) = state.visible(10);
        (keys[0].1.clone(), keys[at].1.clone())
    };
    let of = |first: &str, chosen: &str| (first.to_owned(), chosen.to_owned());
    assert_eq!(chosen(&mut state), of("lock-10", "lock-10"));
    keys(&mut state, [KeyCode::PageDown, KeyCode::Down, KeyCode::Down], at(1));
    assert_eq!(chosen(&mut state), of("lock-13", "lock-22"));
    state.saw(Seen::One(Box::new(held("lock-05", "x_x.1"))), at(1).moment);
    assert_eq!(chosen(&mut state).1, "lock-22");
    keys(&mut state, [KeyCode::End], at(1));
    assert_eq!(chosen(&mut state), of("lock-50", "lock-59"));
    keys(&mut state, [KeyCode::PageUp], at(1));
    assert_eq!(chosen(&mut state), of("lock-49", "lock-49"));
    keys(&mut state, [KeyCode::Home], at(1));
    assert_eq!(chosen(&mut state), of("lock-05", "lock-05"));
    state.saw(Seen::One(Box::new(held("lock-01", "x_x.1"))), at(1).moment);
    assert_eq!(chosen(&mut state), of("lock-01", "lock-01"), "who has not chosen sees the first");
}

#[test]
fn a_pause_holds_what_is_shown() {
    let mut state = state();
    let before = screen(&mut state, 100, 9, at(60));
    keys(&mut state, typed("p"), at(60));
    state.saw(Seen::One(Box::new(lock("orders", &["web-2_dddddddddd.1"], &[]))), at(61).moment);
    let paused = screen(&mut state, 100, 9, at(70));
    assert_eq!(paused.replace("paused, busiest first", "busiest first        "), before);
    keys(&mut state, typed("p"), at(70));
    assert!(screen(&mut state, 100, 9, at(70)).contains("web-2"));
}

#[test]
fn of_ten_thousand_only_those_are_made_that_can_be_seen() {
    let mut state = State::new(at(0).moment, Sort::Busiest);
    let all = (0..10_000).map(|n| held(&format!("lock-{n}"), "x_x.1")).collect();
    state.saw(Seen::All(all), at(0).moment);
    let begin = now().moment;
    let text = screen(&mut state, 120, 40, at(1));
    eprintln!("10,000 locks are sorted and drawn in {:?}", now().moment.since(begin));
    assert_eq!((text.lines().count(), text.matches("lock-").count()), (40, 37));
    assert_eq!(state.visible(37).0.len(), 37);
}
