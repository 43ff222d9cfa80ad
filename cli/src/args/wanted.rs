//! What is to be acquired: one kind of thing by its names, or several kinds, each by an option of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

use super::duration;

/// What stands for the value of an option that has none. Nothing on a command line can.
const BARE: &str = "\0";

/// One thing to be acquired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) what: What,
}

/// As what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Lock,
    Semaphore { permits: u32, size: Option<u32> },
    Read,
    Write,
}

impl Wanted {
    /// As people call it.
    pub(crate) fn noun(&self) -> &'static str {
        match self.what {
            What::Lock => "lock",
            What::Semaphore { .. } => "semaphore",
            What::Read | What::Write => "read-write lock",
        }
    }
}

/// As what names are acquired, and what else is.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is acquired [default: locks]")]
struct Options {
    /// A lock, beside what other options name
    #[arg(long, value_name = "NAME")]
    lock: Vec<String>,
    /// Permits of a semaphore: of this one, or without a name here of all NAMEs
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = BARE)]
    semaphore: Vec<String>,
    /// So many permits of the semaphore named before [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), action = clap::ArgAction::Append)]
    permits: Vec<u32>,
    /// How many permits there are in all, where no custom resource says so. All who use the semaphore say the same
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), action = clap::ArgAction::Append)]
    size: Vec<u32>,
    /// A read-write lock, beside other readers: this one, or all NAMEs
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = BARE)]
    read: Vec<String>,
    /// A read-write lock, alone: this one, or all NAMEs
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = BARE)]
    write: Vec<String>,
    /// Rely on it that no two machines' clocks differ by more than this (1s to 24h): then what was kept can be taken as
    /// soon as its time has passed, by a program that was not there to watch it. Where clocks differ by more, two can hold
    #[arg(long, value_name = "DUR", value_parser = duration, conflicts_with_all = ["read", "write"])]
    max_clock_skew: Option<Duration>,
}

/// An option, in the order of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Kind(What, String),
    Permits(u32),
    Size(u32),
}

/// What is acquired, as it stands on the command line.
#[derive(Debug)]
pub(crate) struct KindArgs {
    said: Vec<Said>,
    pub(crate) max_clock_skew: Option<Duration>,
}

impl Args for KindArgs {
    fn augment_args(command: Command) -> Command {
        Options::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::augment_args_for_update(command)
    }
}

impl FromArgMatches for KindArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let Options { lock, semaphore, permits, size, read, write, max_clock_skew } =
            Options::from_arg_matches(matches)?;
        let mut said = BTreeMap::new();
        let mut add = |option: &str, all: Vec<Said>| {
            said.extend(matches.indices_of(option).into_iter().flatten().zip(all));
        };
        let kind = |what: What, names: Vec<String>| names.into_iter().map(|name| Said::Kind(what, name)).collect();
        add("lock", kind(What::Lock, lock));
        add("semaphore", kind(What::Semaphore { permits: 1, size: None }, semaphore));
        add("read", kind(What::Read, read));
        add("write", kind(What::Write, write));
        add("permits", permits.into_iter().map(Said::Permits).collect());
        add("size", size.into_iter().map(Said::Size).collect());
        Ok(Self { said: said.into_values().collect(), max_clock_skew })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl KindArgs {
    /// All that is to be acquired, in the order of the command line.
    ///
    /// NAMEs are all of one kind, which an option without a value says. Where options name something there are no other
    /// names: `--read a b` would leave open what b is.
    pub(crate) fn wanted(&self, names: &[String]) -> Result<Vec<Wanted>, String> {
        let by_option = self.said.iter().any(|said| matches!(said, Said::Kind(_, name) if name != BARE));
        match (names, by_option) {
            (_, false) => self.of_one_kind(names),
            ([], true) => self.of_several_kinds(),
            ([name, ..], true) => Err(format!(
                "of what kind {name} is has to be said beside what other options name: --lock {name}, --semaphore {name}, \
                 --read {name} or --write {name}"
            )),
        }
    }

    fn of_one_kind(&self, names: &[String]) -> Result<Vec<Wanted>, String> {
        let mut kind: Option<What> = None;
        for said in &self.said {
            let Said::Kind(what, _) = said else { continue };
            if let Some(other) = kind {
                return Err(format!(
                    "{} and {} do not go together without names: name what is meant, as in {} NAME",
                    option(other),
                    option(*what),
                    option(*what)
                ));
            }
            kind = Some(*what);
        }
        let mut what = kind.unwrap_or(What::Lock);
        let (mut permits, mut size) = (None, None);
        for said in &self.said {
            match said {
                Said::Kind(..) => {}
                Said::Permits(n) => once("--permits", &mut permits, *n)?,
                Said::Size(n) => once("--size", &mut size, *n)?,
            }
        }
        what = with(what, permits, size)?;
        match (names, kind) {
            ([], Some(kind)) => Err(format!("nothing is named: {} NAME", option(kind))),
            ([], None) => Err("nothing is named that could be acquired: NAME, or --lock NAME".to_owned()),
            (names, _) => Ok(names.iter().map(|name| Wanted { name: name.clone(), what }).collect()),
        }
    }

    fn of_several_kinds(&self) -> Result<Vec<Wanted>, String> {
        let mut all: Vec<(Wanted, Option<u32>, Option<u32>)> = Vec::new();
        for said in &self.said {
            match said {
                Said::Kind(what, name) if name == BARE => {
                    return Err(format!("nothing is named: {} NAME, as with the others", option(*what)));
                }
                Said::Kind(what, name) => all.push((Wanted { name: name.clone(), what: *what }, None, None)),
                Said::Permits(n) => {
                    let (_, permits, _) = all.last_mut().ok_or_else(|| misplaced("--permits"))?;
                    once("--permits", permits, *n)?;
                }
                Said::Size(n) => {
                    let (_, _, size) = all.last_mut().ok_or_else(|| misplaced("--size"))?;
                    once("--size", size, *n)?;
                }
            }
        }
        let whole = |(wanted, permits, size): (Wanted, Option<u32>, Option<u32>)| {
            let what = with(wanted.what, permits, size)?;
            Ok(Wanted { what, ..wanted })
        };
        all.into_iter().map(whole).collect()
    }
}

fn once(option: &str, place: &mut Option<u32>, n: u32) -> Result<(), String> {
    match place.replace(n) {
        None => Ok(()),
        Some(other) => Err(format!("{option} is said twice of the same: {other} and {n}")),
    }
}

fn with(what: What, permits: Option<u32>, size: Option<u32>) -> Result<What, String> {
    match (what, permits, size) {
        (What::Semaphore { .. }, permits, size) => Ok(What::Semaphore { permits: permits.unwrap_or(1), size }),
        (what, None, None) => Ok(what),
        (_, Some(_), _) => Err(misplaced("--permits")),
        (_, None, _) => Err(misplaced("--size")),
    }
}

fn misplaced(option: &str) -> String {
    format!("{option} is of a semaphore: it belongs behind the --semaphore that it is of")
}

fn option(what: What) -> &'static str {
    match what {
        What::Lock => "--lock",
        What::Semaphore { .. } => "--semaphore",
        What::Read => "--read",
        What::Write => "--write",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn wanted(args: &str) -> Result<Vec<Wanted>, String> {
        let cli = Cli::try_parse_from(format!("kubectl-leasehold run {args} -- ls").split(' '));
        match cli.map_err(|error| error.to_string())?.command {
            Command::Run(run) => run.wanted(),
            other => panic!("{other:?}"),
        }
    }

    fn of(name: &str, what: What) -> Wanted {
        Wanted { name: name.to_owned(), what }
    }

    fn permits(permits: u32, size: Option<u32>) -> What {
        What::Semaphore { permits, size }
    }

    #[test]
    fn names_are_of_one_kind() {
        assert_eq!(wanted("a b"), Ok(vec![of("a", What::Lock), of("b", What::Lock)]));
        assert_eq!(wanted("a b --read"), Ok(vec![of("a", What::Read), of("b", What::Read)]));
        assert_eq!(wanted("a --write --wait 1s"), Ok(vec![of("a", What::Write)]));
        let pool = Ok(vec![of("pool", permits(2, Some(5)))]);
        for alike in [
            "pool --semaphore --permits 2 --size 5",
            "pool --size 5 --permits 2 --semaphore",
            "--size=5 --semaphore --permits=2 pool",
            "--semaphore pool --permits 2 --size 5",
            "--semaphore=pool --size 5 --permits 2",
        ] {
            assert_eq!(wanted(alike), pool, "{alike}");
        }
        assert_eq!(wanted("--read table"), Ok(vec![of("table", What::Read)]));
    }

    #[test]
    fn kinds_are_mixed_where_each_is_named_by_its_option() {
        assert_eq!(
            wanted("--lock a --semaphore pool --permits 2 --read table --semaphore two --size 3 --write log --lock b"),
            Ok(vec![
                of("a", What::Lock),
                of("pool", permits(2, None)),
                of("table", What::Read),
                of("two", permits(1, Some(3))),
                of("log", What::Write),
                of("b", What::Lock),
            ])
        );
    }

    #[test]
    fn what_contradicts_itself_is_told() {
        let told: Vec<String> = [
            "--wait 1s",
            "--semaphore",
            "a --semaphore --read",
            "a --read --write",
            "a --permits 2",
            "a --size 2",
            "a --semaphore --permits 2 --permits 3",
            "a --lock b",
            "--read a b",
            "--lock a --read",
            "--permits 2 --semaphore a --lock b",
            "--lock b --size 2",
            "--semaphore a --size 2 --size 2",
        ]
        .into_iter()
        .map(|args| format!("run {args} -- ls\n    {}\n", wanted(args).unwrap_err()))
        .collect();
        insta::assert_snapshot!("contradictions", told.concat());
        for bad in ["--semaphore a --permits 0", "--lock", "a --max-clock-skew 1s --read", "--keep 1h --read a"] {
            assert!(wanted(bad).is_err(), "{bad}");
        }
    }
}
