//! What was measured, as it is kept: everything in the document is made from this.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::contestants::LEASEHOLD;

/// All of a run of the benchmark.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Results {
    /// A smoke run: too short for anything but to see that everything works.
    pub(crate) quick: bool,
    pub(crate) runs: u32,
    /// What it was measured on and with: title and value, in order.
    pub(crate) conditions: Vec<(String, String)>,
    pub(crate) contestants: Vec<Entry>,
    /// How many seconds each part took, of all runs together.
    pub(crate) parts: BTreeMap<String, f64>,
    pub(crate) figures: Vec<Figure>,
    /// What did not go as it should, and who was left out.
    pub(crate) notes: Vec<String>,
}

/// One who took part.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) options: String,
    /// Its locks are in the API server.
    pub(crate) kubernetes: bool,
}

/// One number of one run.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Figure {
    pub(crate) run: u32,
    pub(crate) workload: String,
    pub(crate) contestant: String,
    pub(crate) metric: String,
    pub(crate) value: f64,
    /// Of how many samples.
    pub(crate) n: u64,
}

/// A figure of all runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// Of how many samples in all.
    pub(crate) n: u64,
}

impl Spread {
    fn of(values: Vec<f64>, n: u64) -> Option<Self> {
        let mut values = values;
        values.sort_by(f64::total_cmp);
        Some(Self { median: quantile(&values, 0.5)?, least: *values.first()?, most: *values.last()?, n })
    }
}

/// Of values in order: what this part of them does not exceed; half way between two where there is no one in the middle.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[expect(clippy::cast_precision_loss, reason = "there are few")]
    let place = last as f64 * part;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and their number")]
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    Some(sorted[below] + (sorted[above] - sorted[below]) * place.fract())
}

/// What says of which workloads the figures are of another run.
const AGAIN: &str = "measured again";

impl Results {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not what this program wrote", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What another run measured takes the place of the same workloads here, whoever took part, and the conditions say so.
    /// Those in which Leasehold did not are no whole ones.
    pub(crate) fn replace_by(&mut self, other: Self) -> Result<()> {
        ensure!(!other.quick, "the figures of a smoke run are worth nothing");
        let own = other.figures.iter().filter(|figure| figure.contestant == LEASEHOLD);
        let workloads: BTreeSet<String> = own.map(|figure| figure.workload.clone()).collect();
        self.figures.retain(|figure| !workloads.contains(&figure.workload));
        let said = |title: &str| {
            let said = other.conditions.iter().find(|(other, _)| other == title);
            said.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let names = workloads.iter().cloned().collect::<Vec<_>>().join(", ");
        let [date, machine, commit] = ["date", "machine", "commit"].map(said);
        let told = format!("{names}: {date}, {machine}, commit {commit}, {} runs", other.runs);
        // What was said of them before holds no longer.
        for (_, before) in self.conditions.iter_mut().filter(|(title, _)| title == AGAIN) {
            let Some((names, how)) = before.split_once(": ") else { continue };
            let left: Vec<&str> = names.split(", ").filter(|name| !workloads.contains(*name)).collect();
            *before = if left.is_empty() { String::new() } else { format!("{}: {how}", left.join(", ")) };
        }
        self.conditions.retain(|(title, told)| title != AGAIN || !told.is_empty());
        self.conditions.push((AGAIN.to_owned(), told));
        self.parts.extend(other.parts);
        self.figures.extend(other.figures.into_iter().filter(|figure| workloads.contains(&figure.workload)));
        self.notes.extend(other.notes);
        Ok(())
    }

    fn values(&self, workload: &str, contestant: &str, metric: &str) -> BTreeMap<u32, (f64, u64)> {
        let wanted = |figure: &&Figure| {
            figure.workload == workload && figure.contestant == contestant && figure.metric == metric
        };
        self.figures.iter().filter(wanted).map(|figure| (figure.run, (figure.value, figure.n))).collect()
    }

    /// A figure over all runs.
    pub(crate) fn spread(&self, workload: &str, contestant: &str, metric: &str) -> Option<Spread> {
        let values = self.values(workload, contestant, metric);
        let n = values.values().map(|(_, n)| n).sum();
        Spread::of(values.values().map(|(value, _)| *value).collect(), n)
    }

    /// A figure as a multiple of another, run by run.
    pub(crate) fn ratio(&self, of: [&str; 3], to: [&str; 3]) -> Option<Spread> {
        let (of, to) = (self.values(of[0], of[1], of[2]), self.values(to[0], to[1], to[2]));
        let ratio = |(run, (value, _)): (&u32, &(f64, u64))| {
            let (other, _) = to.get(run)?;
            (*other > 0.0).then(|| value / other)
        };
        let ratios: Vec<f64> = of.iter().filter_map(ratio).collect();
        let n = ratios.len() as u64;
        Spread::of(ratios, n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(values: &[(u32, &str, f64)]) -> Results {
        let figure = |&(run, contestant, value): &(u32, &str, f64)| Figure {
            run,
            workload: "w".to_owned(),
            contestant: contestant.to_owned(),
            metric: "m".to_owned(),
            value,
            n: 2,
        };
        Results { figures: values.iter().map(figure).collect(), ..Results::default() }
    }

    #[test]
    fn what_was_measured_again_takes_the_place_of_what_was_there() {
        let mut whole = results(&[(1, LEASEHOLD, 3.0), (2, LEASEHOLD, 1.0), (1, "b", 9.0)]);
        let mut more = results(&[(1, LEASEHOLD, 5.0)]);
        more.conditions = vec![("commit".to_owned(), "abc".to_owned())];
        let mut other = more.figures[0].clone();
        other.workload = "other".to_owned();
        whole.figures.push(other.clone());
        // Leasehold has no part in that.
        other.contestant = "b".to_owned();
        more.figures.push(other);
        assert!(whole.replace_by(Results { quick: true, ..Results::default() }).is_err());
        whole.replace_by(more).unwrap();
        assert_eq!(whole.spread("w", LEASEHOLD, "m").map(|spread| (spread.least, spread.most)), Some((5.0, 5.0)));
        assert_eq!(whole.spread("w", "b", "m"), None);
        assert!(whole.spread("other", LEASEHOLD, "m").is_some() && whole.spread("other", "b", "m").is_none());
        let told = &whole.conditions[0].1;
        assert!(told.starts_with("w: ") && told.contains("commit abc"), "{told}");
    }

    #[test]
    fn a_spread_is_the_median_and_both_ends() {
        let results = results(&[(1, "a", 3.0), (2, "a", 1.0), (3, "a", 2.0), (1, "b", 9.0)]);
        assert_eq!(results.spread("w", "a", "m"), Some(Spread { median: 2.0, least: 1.0, most: 3.0, n: 6 }));
        assert_eq!(results.spread("w", "c", "m"), None);
    }

    #[test]
    fn a_ratio_is_taken_within_a_run() {
        let results = results(&[(1, "a", 3.0), (1, "b", 1.0), (2, "a", 8.0), (2, "b", 2.0), (3, "a", 9.0)]);
        let ratio = results.ratio(["w", "a", "m"], ["w", "b", "m"]);
        assert_eq!(ratio, Some(Spread { median: 3.5, least: 3.0, most: 4.0, n: 2 }));
    }

    #[test]
    fn quantiles_lie_between_values() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[1.0], 0.95), Some(1.0));
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.95), Some(4.8));
    }
}
