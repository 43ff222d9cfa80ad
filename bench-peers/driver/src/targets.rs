//! What Leasehold is held to, and whether it was met.

use std::fmt::Write as _;

use crate::contestants::{ALL, FLOOR, LEASEHOLD};
use crate::results::{Entry, Results};

/// One of them.
#[derive(Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) wanted: String,
    pub(crate) measured: String,
    /// Not known where it was not measured.
    pub(crate) met: Option<bool>,
}

/// How much longer than etcd's a hand-off may take to count as equal.
const MATCHED: f64 = 1.1;

pub(crate) fn targets(results: &Results) -> Vec<Target> {
    let ratio = |of, to| results.ratio(of, to).map(|spread| spread.median);
    let value = |workload, metric| results.spread(workload, LEASEHOLD, metric).map(|spread| spread.median);
    let uncontended = ratio(["uncontended", LEASEHOLD, "median_ms"], ["uncontended", FLOOR, "median_ms"]);
    let hand_off = ratio(["handoff", LEASEHOLD, "median_ms"], ["handoff", FLOOR, "median_ms"]);
    let crowd = ratio(["contended-128", LEASEHOLD, "cycles_per_s"], ["uncontended", LEASEHOLD, "cycles_per_s"]);
    let etcd = ratio(["handoff", LEASEHOLD, "median_ms"], ["handoff", "etcd", "median_ms"]);
    let mut targets = vec![
        at_most("an uncontended cycle, as a multiple of two PUTs", 1.05, uncontended),
        at_most("a hand-off, as a multiple of a PUT and its event", 1.3, hand_off),
        at_least("cycles a second of 128 contenders, as a multiple of one's", 0.5, crowd),
        at_most("requests a second of a holder of 10,000 locks", 0.5, many_held(results)),
        at_most("requests a second of an idle holder with nine waiters", 0.5, value("idle", "requests_per_s")),
        at_most("a hand-off, as a multiple of the etcd mutex's", MATCHED, etcd),
    ];
    let contended = contended(results);
    for workload in &contended {
        let requests = |id| results.spread(workload, id, "requests_per_cycle").map(|spread| spread.median);
        let met = requests(LEASEHOLD).zip(requests("etcd")).map(|(ours, etcd)| ours < etcd);
        targets.push(Target {
            what: format!("requests a cycle, {} contenders", workload.trim_start_matches("contended-")),
            wanted: "fewer than the etcd mutex".to_owned(),
            measured: both(requests(LEASEHOLD), requests("etcd"), "etcd mutex"),
            met,
        });
    }
    let overlaps =
        results.figures.iter().filter(|figure| figure.metric == "overlaps" && figure.contestant == LEASEHOLD);
    let overlaps: Vec<f64> = overlaps.map(|figure| figure.value).collect();
    let most = (!overlaps.is_empty()).then(|| overlaps.iter().sum());
    targets.push(at_most("two hold one lock at the same time", 0.0, most));
    targets.push(beats(results, "uncontended", "median_ms", "a cycle's time", Better::Less));
    for workload in &contended {
        targets.push(beats(results, workload, "cycles_per_s", "cycles a second", Better::More));
    }
    targets.push(beats(results, "handoff", "median_ms", "time", Better::Less));
    targets.push(beats(results, "crash-equal", "seconds", "seconds, all leases 15 s", Better::Less));
    let what = "requests a second, all leases 15 s";
    targets.push(beats(results, "idle-equal", "requests_per_s", what, Better::Less));
    targets.push(beats(results, "idle", "requests_per_s", "requests a second", Better::Less));
    targets.push(beats(
        results,
        "held",
        "requests_per_s_and_10000",
        "requests a second and 10,000 locks",
        Better::Less,
    ));
    targets
}

/// The workloads in which many want one lock, in order.
pub(crate) fn contended(results: &Results) -> Vec<String> {
    let number = |figure: &crate::results::Figure| figure.workload.strip_prefix("contended-")?.parse::<u32>().ok();
    let numbers: std::collections::BTreeSet<u32> = results.figures.iter().filter_map(number).collect();
    numbers.into_iter().map(|number| format!("contended-{number}")).collect()
}

/// Nothing where it could not hold so many.
fn many_held(results: &Results) -> Option<f64> {
    let still = results.spread("held", LEASEHOLD, "still_held")?;
    let requests = results.spread("held", LEASEHOLD, "requests_per_s")?;
    (still.least >= 10_000.0).then_some(requests.median)
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.2}"))
}

fn both(ours: Option<f64>, theirs: Option<f64>, whose: &str) -> String {
    format!("{}; {whose} {}", number(ours), number(theirs))
}

fn at_most(what: &str, limit: f64, measured: Option<f64>) -> Target {
    let met = measured.map(|measured| measured <= limit);
    Target { what: what.to_owned(), wanted: format!("≤ {limit}"), measured: number(measured), met }
}

fn at_least(what: &str, limit: f64, measured: Option<f64>) -> Target {
    let met = measured.map(|measured| measured >= limit);
    Target { what: what.to_owned(), wanted: format!("≥ {limit}"), measured: number(measured), met }
}

#[derive(Clone, Copy)]
enum Better {
    Less,
    More,
}

/// Whether all other contestants whose locks are in the API server do worse; a peer that was not measured leaves it open.
fn beats(results: &Results, workload: &str, metric: &str, what: &str, better: Better) -> Target {
    let value = |id: &str| results.spread(workload, id, metric).map(|spread| spread.median);
    let ours = value(LEASEHOLD);
    // Who holds just as another does is not measured twice.
    let alike = |entry: &Entry| workload == "held" && ALL.iter().any(|other| other.holds_alike && other.id == entry.id);
    let rivals: Vec<(&Entry, Option<f64>)> = results
        .contestants
        .iter()
        .filter(|entry| is_rival(entry) && !alike(entry))
        .map(|entry| (entry, value(&entry.id)))
        .collect();
    let nearest = rivals.iter().filter_map(|(entry, theirs)| Some((*entry, (*theirs)?))).min_by(|one, two| {
        let order = one.1.total_cmp(&two.1);
        if matches!(better, Better::Less) { order } else { order.reverse() }
    });
    let missing: Vec<&str> =
        rivals.iter().filter(|(_, theirs)| theirs.is_none()).map(|(entry, _)| entry.id.as_str()).collect();
    let beaten = ours.zip(nearest).map(|(ours, (_, theirs))| match better {
        Better::Less => ours < theirs,
        Better::More => ours > theirs,
    });
    let mut measured = nearest.map_or_else(|| number(ours), |(entry, theirs)| both(ours, Some(theirs), &entry.name));
    let turns = |id: &str, metric| results.spread(workload, id, metric).map(|spread| spread.median);
    if let (Better::More, Some((entry, _))) = (better, nearest)
        && let Some((fewest, most)) = turns(&entry.id, "fewest").zip(turns(&entry.id, "most"))
    {
        // A peer that starves all but one is as quick as one alone.
        let _ = write!(measured, " (turns of its contenders {fewest:.0} to {most:.0})");
    }
    if !missing.is_empty() {
        let _ = write!(measured, "; not measured: {}", missing.join(", "));
    }
    // One that beats it is a miss, whoever else was not measured.
    let met = if missing.is_empty() { beaten } else { beaten.filter(|beaten| !beaten) };
    Target {
        what: format!("{workload}: {what}"),
        wanted: "better than every Kubernetes peer".to_owned(),
        measured,
        met,
    }
}

fn is_rival(entry: &Entry) -> bool {
    entry.kubernetes && entry.id != FLOOR && !entry.id.starts_with(LEASEHOLD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Figure;

    fn results(values: &[(&str, &str, &str, f64)]) -> Results {
        let entry = |id: &str| Entry {
            id: id.to_owned(),
            name: id.to_owned(),
            version: String::new(),
            options: String::new(),
            kubernetes: id != "etcd",
        };
        let figure = |&(workload, contestant, metric, value): &(&str, &str, &str, f64)| Figure {
            run: 1,
            workload: workload.to_owned(),
            contestant: contestant.to_owned(),
            metric: metric.to_owned(),
            value,
            n: 1,
        };
        Results {
            contestants: ["floor", "leasehold", "leasehold-on-the-spot", "client-go", "etcd"].map(entry).to_vec(),
            figures: values.iter().map(figure).collect(),
            ..Results::default()
        }
    }

    fn met(results: &Results, begins: &str) -> Option<bool> {
        let found = targets(results).into_iter().find(|target| target.what.starts_with(begins));
        found.unwrap_or_else(|| panic!("no target {begins:?}")).met
    }

    #[test]
    fn a_miss_is_a_miss() {
        let cycle = |ours| {
            results(&[("uncontended", "leasehold", "median_ms", ours), ("uncontended", "floor", "median_ms", 2.0)])
        };
        assert_eq!(met(&cycle(2.1), "an uncontended cycle"), Some(true));
        assert_eq!(met(&cycle(2.2), "an uncontended cycle"), Some(false));
    }

    #[test]
    fn two_at_once_is_a_miss_wherever_it_was_seen() {
        let seen = |crowd, hand_off| {
            let told = [("overlaps", "leasehold", "overlaps", crowd), ("handoff", "leasehold", "overlaps", hand_off)];
            results(&told)
        };
        assert_eq!(met(&seen(0.0, 0.0), "two hold one lock"), Some(true));
        assert_eq!(met(&seen(1.0, 0.0), "two hold one lock"), Some(false));
        assert_eq!(met(&seen(0.0, 1.0), "two hold one lock"), Some(false));
        assert_eq!(met(&results(&[]), "two hold one lock"), None);
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        assert_eq!(met(&results(&[]), "an uncontended cycle"), None);
        assert_eq!(met(&results(&[("handoff", "leasehold", "median_ms", 1.0)]), "handoff: time"), None);
    }

    #[test]
    fn the_best_of_the_kubernetes_peers_counts() {
        let hand_off = |theirs| {
            results(&[
                ("handoff", "leasehold", "median_ms", 2.0),
                ("handoff", "client-go", "median_ms", theirs),
                ("handoff", "etcd", "median_ms", 1.0),
                ("handoff", "leasehold-on-the-spot", "median_ms", 1.0),
            ])
        };
        assert_eq!(met(&hand_off(3.0), "handoff: time"), Some(true));
        assert_eq!(met(&hand_off(1.5), "handoff: time"), Some(false));
    }

    #[test]
    fn ten_thousand_must_be_held_to_count() {
        let held = |still| {
            results(&[("held", "leasehold", "still_held", still), ("held", "leasehold", "requests_per_s", 0.4)])
        };
        assert_eq!(met(&held(10_000.0), "requests a second of a holder"), Some(true));
        assert_eq!(met(&held(9_999.0), "requests a second of a holder"), None);
    }
}
