use std::io::Write as _;
use std::process::{Command, Stdio};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::model::EdgeKind;
use super::*;

/// Who holds it: an identity and how much of it.
type Holder<'a> = (&'a str, &'a str);
/// Who waits: an identity, how much it wants, and what it says that it holds.
type Waiter<'a> = (&'a str, &'a str, &'a str);

fn record(namespace: &str, name: &str, kind: &str, holders: &[Holder<'_>], waiters: &[Waiter<'_>]) -> Record {
    let lease_name = leasehold::protocol::name::lease_name(name).unwrap();
    let mut annotations = json!({ "leasehold.dev/id": name, "leasehold.dev/permits": "2" });
    let mut holder = String::new();
    for (identity, share) in holders {
        if kind == "lock" {
            (*identity).clone_into(&mut holder);
        } else {
            kind.clone_into(&mut holder);
            annotations[format!("holder.leasehold.dev/{identity}")] = json!("1");
            annotations[format!("want.leasehold.dev/{identity}")] = json!(share);
        }
    }
    for (n, (identity, share, holds)) in waiters.iter().enumerate() {
        annotations[format!("join.leasehold.dev/{identity}")] =
            json!((usize::from(name.as_bytes()[0]) * 100 + n).to_string());
        annotations[format!("want.leasehold.dev/{identity}")] = json!(share);
        annotations[format!("holds.leasehold.dev/{identity}")] = json!(holds);
    }
    let lease = json!({
        "metadata": { "name": lease_name, "namespace": namespace, "uid": name, "resourceVersion": "99",
            "labels": { "leasehold.dev/kind": kind }, "annotations": annotations },
        "spec": { "holderIdentity": holder, "acquireTime": "2026-11-21T08:54:47.250000Z" },
    });
    Record::parse(serde_json::from_value(lease).unwrap()).unwrap()
}

fn lock(name: &str, holder: &str, waiters: &[Waiter<'_>]) -> Record {
    record("shop", name, "lock", &[(holder, "1")], waiters)
}

/// Two in a circle, who waits behind them, and a semaphore that somebody holds who waits for nothing.
fn records() -> Vec<Record> {
    vec![
        lock(
            "accounts",
            "billing_k3j9x2m1qa.1",
            &[("shipping_zz00000001.2", "1", "shipping_zz00000001.1"), ("web-1_zz00000002.7", "1", "")],
        ),
        lock("backup", "cron_aaaaaaaaaa.1", &[]),
        record(
            "shop",
            "db",
            "semaphore",
            &[("web-0_bbbbbbbbbb.3", "2")],
            &[("report_cccccccccc.5", "1", "report_cccccccccc.4"), ("web-2_dddddddddd.1", "2", "")],
        ),
        lock("free", "", &[]),
        lock("month:2026-11", "report_cccccccccc.4", &[("web-3_eeeeeeeeee.1", "1", "")]),
        lock("orders", "shipping_zz00000001.1", &[("billing_k3j9x2m1qa.2", "1", "billing_k3j9x2m1qa.1")]),
    ]
}

fn drawn(graph: &Graph) -> String {
    let now: Timestamp = "2026-11-21T09:00:00Z".parse().unwrap();
    ascii::draw(graph, graph.has_several_namespaces(), Style::Plain, now)
}

fn ids(graph: &Graph) -> Vec<&str> {
    graph.nodes.iter().map(|node| &*node.id).collect()
}

#[test]
fn drawings() {
    let graph = Graph::of(&records()).waited_for();
    insta::assert_snapshot!("ascii", drawn(&graph));
    insta::assert_snapshot!("dot", dot::draw(&graph, false));
    insta::assert_snapshot!("mermaid", mermaid::draw(&graph, false));
    insta::assert_snapshot!("json", json(&graph).unwrap());
}

#[test]
fn the_document_shows_what_is_drawn() {
    let text = include_str!("../../../docs/cli.md");
    let sample = drawn(&Graph::of(&records()).waited_for());
    assert!(text.contains(&format!("$ kubectl leasehold graph\n{sample}```")), "docs/cli.md does not show:\n{sample}");
}

#[test]
fn those_who_wait_for_each_other_are_a_circle_until_one_does_not_say_what_it_holds() {
    let graph = Graph::of(&records());
    let billing = "client:billing_k3j9x2m1qa.1";
    let shipping = "client:shipping_zz00000001.1";
    assert_eq!(graph.circles, [[shipping, "shop/accounts", billing, "shop/orders"]]);
    assert!(graph.texts[0].starts_with("shipping_zz00000001.2 waits for \"accounts\", held as billing_k3j9x2m1qa.1"));
    let stuck: Vec<_> = graph.edges.iter().filter(|edge| edge.deadlocked).map(|edge| &*edge.identity).collect();
    assert_eq!(
        stuck,
        ["billing_k3j9x2m1qa.1", "shipping_zz00000001.2", "shipping_zz00000001.1", "billing_k3j9x2m1qa.2"]
    );
    let mut records = records();
    records[5] = lock("orders", "shipping_zz00000001.1", &[("billing_k3j9x2m1qa.2", "1", "")]);
    let graph = Graph::of(&records);
    assert!(graph.circles.is_empty() && graph.edges.iter().all(|edge| !edge.deadlocked));
    assert!(ids(&graph).contains(&"client:billing_k3j9x2m1qa.2"), "it may be another task");
}

#[test]
fn a_circle_through_a_queue_and_one_of_which_only_the_operator_knows() {
    let behind = [
        record("shop", "a", "rwlock", &[("r_r.1", "read")], &[("z_z.1", "write", "z_z.9"), ("x_x.2", "read", "x_x.1")]),
        lock("b", "x_x.1", &[("r_r.2", "1", "r_r.1")]),
    ];
    insta::assert_snapshot!("behind", drawn(&Graph::of(&behind)));
    let mut lease = (*lock("a", "x_x.1", &[("y_y.2", "1", "y_y.1")]).lease).clone();
    let circle =
        "y_y.2 waits for \"shop/a\", held as x_x.1 by x_x.2; x_x.2 waits for \"far/b\", held as y_y.1 by y_y.2";
    lease.metadata.annotations.get_or_insert_default().insert("deadlock.leasehold.dev/y_y.2".into(), circle.into());
    let graph = Graph::of(&[Record::parse(lease).unwrap()]);
    assert_eq!((&graph.texts[..], graph.circles[0].len()), (&[circle.to_owned()][..], 2));
    insta::assert_snapshot!("told", drawn(&graph));
}

#[test]
fn several_who_read_and_one_of_them_waits_to_write() {
    let mut lease = (*record("shop", "a", "rwlock", &[("x_x.1", "read"), ("y_y.1", "upgradeable")], &[]).lease).clone();
    lease.metadata.annotations.get_or_insert_default().insert("upgrade.leasehold.dev/y_y.1".into(), "5".into());
    insta::assert_snapshot!(drawn(&Graph::of(&[Record::parse(lease).unwrap()])), @r"
    rwlock a
    |-- held by x (x_x.1) to read
    |-- held by y (y_y.1) to read, upgradeable
    `-- before all: y (y_y.1) waits to write
    ");
}

#[test]
fn a_long_queue_is_counted_and_a_deep_one_begins_anew() {
    let names: Vec<String> = (1..=40).map(|n| format!("web-{n}_a{n}.1")).collect();
    let waiters: Vec<Waiter<'_>> = names.iter().map(|name| (&**name, "1", "")).collect();
    insta::assert_snapshot!(drawn(&Graph::of(&[lock("a", "x_x.1", &waiters)])), @r"
    lock a
    |-- held by x (x_x.1) since 2026-11-21T08:54:47Z (5m12s ago)
    |-- 1. web-1 (web-1_a1.1) waits
    |-- 2. to 39. wait
    `-- 40. web-40 (web-40_a40.1) waits
    ");

    let chain: Vec<Record> = (0..40)
        .map(|n| {
            let (holder, waiter) = (format!("h{n}_x.1"), format!("h{}_x.2", n + 1));
            lock(&format!("lock-{n}"), &holder, &[(&waiter, "1", &format!("h{}_x.1", n + 1))])
        })
        .collect();
    let text = drawn(&Graph::of(&chain));
    for n in 0..40 {
        let title = |line: &&str| line.ends_with(&format!("lock lock-{n}")) && !line.contains("waits");
        assert_eq!(text.lines().filter(title).count(), 1, "{n}: {text}");
    }
    assert!(text.lines().all(|line| line.chars().count() < 120), "{text}");
}

#[test]
fn what_is_asked_for_is_shown_with_what_is_connected_with_it() {
    let shown = |names: &[&str], held: bool, selected: Option<&[&str]>| {
        let args = GraphArgs {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            all_namespaces: false,
            selector: None,
            output: Format::Ascii,
            held,
            fail_on_deadlock: false,
        };
        let selected: Option<BTreeSet<_>> =
            selected.map(|names| names.iter().map(|&name| ("shop".to_owned(), name.to_owned())).collect());
        let (graph, absent) = args.choose(Graph::of(&records()), selected.as_ref());
        let locks: Vec<String> = graph.locks().map(|node| node.name.clone()).collect();
        (locks.join(" "), absent.cloned().collect::<Vec<_>>().join(" "), graph.circles.len())
    };
    let of = |locks: &str, absent: &str, circles| (locks.to_owned(), absent.to_owned(), circles);
    assert_eq!(shown(&[], false, None), of("accounts db month:2026-11 orders", "", 1));
    assert_eq!(shown(&[], true, None), of("accounts backup db month:2026-11 orders", "", 1));
    assert_eq!(shown(&["orders"], false, None), of("accounts orders", "", 1));
    assert_eq!(shown(&["month:2026-11", "nothing"], false, None), of("db month:2026-11", "nothing", 0));
    assert_eq!(shown(&["free"], false, None), of("free", "", 0));
    assert_eq!(shown(&[], false, Some(&["db", "backup"])), of("db month:2026-11", "", 0));
    assert_eq!(shown(&["orders"], false, Some(&["db"])), of("", "", 0));
}

#[test]
fn two_of_one_name_in_two_namespaces_are_two() {
    let records = [
        record("one", "a", "lock", &[("leader", "1")], &[("x_x.2", "1", "x_x.1")]),
        record("two", "a", "lock", &[("leader", "1")], &[]),
    ];
    let graph = Graph::of(&records);
    assert_eq!(ids(&graph), ["one/a", "two/a", "client:one/leader", "client:two/leader", "client:x_x.1"]);
    assert!(drawn(&graph).starts_with("lock one/a\n"), "{}", drawn(&graph));
}

/// What names may be like.
const NAMES: [&str; 9] = [
    r#"a "quoted" \"name\""#,
    r"back\slash\nand\",
    "]) end --> n0[\"x\"]",
    "Übung №5 🦀 日本",
    "a & b &lt; <b>c</b> &amp;",
    "#quot; #35; #",
    "%%{init: {}}%% ; `code`",
    "$HOME {a|b}",
    "turned \u{202e}round",
];

fn strange() -> (Vec<String>, Graph) {
    let records: Vec<Record> =
        NAMES.iter().map(|name| lock(name, "x_x.1", &[("y_y.1", "1", ""), ("z_z.1", "1", "")])).collect();
    (NAMES.iter().map(|name| format!("lock {}", printable(name))).collect(), Graph::of(&records))
}

#[test]
fn strange_names_are_texts_in_dot() {
    let (names, graph) = strange();
    let text = dot::draw(&graph, false);
    let label = |line: &str| {
        let quoted = line.split_once("label=\"")?.1;
        let mut text = String::new();
        let mut chars = quoted.chars();
        loop {
            match chars.next().unwrap_or_else(|| panic!("no end of the label: {line}")) {
                '"' => return Some(text.replace("&amp;", "&")),
                '\\' => match chars.next()? {
                    'n' => text.push('\n'),
                    c @ ('"' | '\\') => text.push(c),
                    c => panic!("\\{c} in {line}"),
                },
                c => text.push(c),
            }
        }
    };
    let labels: Vec<String> = text.lines().filter(|line| line.contains("shape=box")).filter_map(label).collect();
    assert_eq!(labels, names);
    assert!(text.starts_with("digraph leasehold {\n") && text.ends_with("\n}\n"), "{text}");
}

/// What Graphviz itself makes of it, where it is installed.
#[test]
fn graphviz_reads_what_is_meant() {
    let (names, graph) = strange();
    let dot = Command::new("dot").arg("-Tsvg").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut dot) = dot else {
        eprintln!("graphviz is not installed: what it makes of the graph was not seen");
        return;
    };
    dot.stdin.take().unwrap().write_all(dot::draw(&graph, false).as_bytes()).unwrap();
    let outcome = dot.wait_with_output().unwrap();
    assert!(outcome.status.success(), "{outcome:?}");
    let svg = String::from_utf8(outcome.stdout).unwrap();
    let number = |text: &str| text.strip_prefix('#').and_then(|n| char::from_u32(n.parse().ok()?));
    let plain = |text: &str| {
        let mut parts = text.split('&');
        let mut plain = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once(';').unwrap();
            let c = match name {
                "quot" => '"',
                "amp" => '&',
                "lt" => '<',
                "gt" => '>',
                "apos" => '\'',
                "nbsp" => ' ',
                other => number(other).unwrap_or_else(|| panic!("&{other};")),
            };
            plain.extend([c]);
            plain += rest;
        }
        plain.replace('\u{a0}', " ")
    };
    let texts: Vec<String> = svg
        .lines()
        .filter_map(|line| Some(plain(line.strip_prefix("<text ")?.split_once('>')?.1.split_once("</text>")?.0)))
        .collect();
    for name in names {
        assert!(texts.contains(&name), "no {name:?} in {texts:#?}");
    }
    let edges = svg.matches("class=\"edge\"").count();
    assert_eq!(edges, graph.edges.len());
}

#[test]
fn strange_names_are_texts_in_mermaid() {
    let (names, graph) = strange();
    let text = mermaid::draw(&graph, false);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("flowchart LR"));
    let plain = |quoted: &str| {
        let mut parts = quoted.split('#');
        let mut plain = parts.next().unwrap().to_owned();
        for part in parts {
            let (number, rest) = part.split_once(';').unwrap();
            plain.push(char::from_u32(number.parse().unwrap()).unwrap());
            plain += rest;
        }
        plain
    };
    // Nothing else can stand between quotes: no quote, no entity, no tag but for the end of a line, no directive.
    let is_text = |text: &str| {
        let rest = text.replace("<br/>", "");
        rest.chars().all(|c| c.is_alphanumeric() || " .,:/-_()#;".contains(c))
    };
    let number = |text: &str| text.strip_prefix('n').is_some_and(|n| n.parse::<usize>().is_ok());
    let (mut labels, mut edges) = (Vec::new(), 0);
    for line in lines {
        let line = line.strip_prefix("  ").unwrap();
        let node = line.split_once("[\"").filter(|(id, _)| number(id)).and_then(|(_, rest)| rest.strip_suffix("\"]"));
        let client =
            line.split_once("([\"").filter(|(id, _)| number(id)).and_then(|(_, rest)| rest.strip_suffix("\"])"));
        if let Some(label) = node {
            assert!(is_text(label), "{line}");
            labels.push(plain(label));
        } else if let Some(label) = client {
            assert!(is_text(label), "{line}");
        } else {
            let (from, rest) = line.split_once(' ').unwrap();
            let (label, to) = rest.split_once("|\"").unwrap().1.split_once("\"| ").unwrap();
            assert!(number(from) && number(to) && is_text(label), "{line}");
            edges += 1;
        }
    }
    assert_eq!(labels, names);
    assert_eq!(edges, graph.edges.iter().filter(|edge| matches!(edge.kind, EdgeKind::Holds | EdgeKind::Waits)).count());
}

#[test]
fn nothing_at_all() {
    let graph = Graph::default();
    assert_eq!(drawn(&graph), "");
    assert_eq!(mermaid::draw(&graph, false), "flowchart LR\n");
    assert_eq!(serde_json::from_str::<Value>(&json(&graph).unwrap()).unwrap()["nodes"], json!([]));
}
