//! Whether the documents name subcommands, options and exit codes that there are, and all of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;

use crate::args::Cli;

fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let all = docs.chain([root.join("README.md")]).filter(|path| path.extension().is_some_and(|end| end == "md"));
    all.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// What is written as code and begins with `kubectl leasehold`, up to where another program's own arguments begin.
fn commands(text: &str) -> Vec<Vec<String>> {
    let code = text.split("```").enumerate().flat_map(|(n, part)| match n % 2 {
        0 => part.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect::<Vec<_>>(),
        _ => part.lines().map(str::to_owned).collect(),
    });
    let after = code.flat_map(|code| code.split("kubectl leasehold ").skip(1).map(str::to_owned).collect::<Vec<_>>());
    let words = |command: String| -> Vec<String> {
        let end =
            [" -- ", "|", "#", ")", "\"$("].iter().filter_map(|end| command.find(end)).min().unwrap_or(command.len());
        command[..end].split_whitespace().map(str::to_owned).collect()
    };
    after.map(words).filter(|words| !words.is_empty()).collect()
}

#[test]
fn what_documents_call_exists() {
    let mut cli = Cli::command();
    cli.build();
    let (mut called, mut options) = (0, 0);
    for (path, text) in documents() {
        for words in commands(&text) {
            let shown = format!("{}: kubectl leasehold {}", path.display(), words.join(" "));
            // Options may stand before the subcommand.
            let Some(command) = words.iter().find_map(|word| cli.find_subcommand(word)) else {
                assert!(words[0].starts_with('…') || words[0].starts_with('-'), "{shown}: no such subcommand");
                continue;
            };
            called += 1;
            for option in words.iter().filter(|word| word.starts_with('-') && word.len() > 1) {
                let name = option.trim_start_matches('-').split('=').next().unwrap();
                let known = command.get_arguments().any(|argument| {
                    let long = option.starts_with("--") && argument.get_long() == Some(name);
                    let short = |short| !option.starts_with("--") && name.starts_with(short);
                    long || argument.get_short().is_some_and(short)
                });
                assert!(known, "{shown}: no option {option}");
                options += 1;
            }
        }
    }
    assert!(called > 10 && options > 5, "{called} commands, {options} options");
}

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

#[test]
fn every_command_and_option_is_documented() {
    let (page, readme) = (text("docs/cli.md"), text("README.md"));
    let headings: Vec<&str> = page.lines().filter(|line| line.starts_with("## ")).collect();
    let mut cli = Cli::command();
    cli.build();
    let mut missing = Vec::new();
    for command in cli.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let name = command.get_name();
        if !headings.iter().any(|heading| heading.split([' ', ',']).any(|word| word == name)) {
            missing.push(format!("docs/cli.md has no heading for {name}"));
        }
        if !readme.contains(&format!("kubectl leasehold {name}")) {
            missing.push(format!("README.md does not name kubectl leasehold {name}"));
        }
        let options = command.get_arguments().filter(|option| !option.is_hide_set()).filter_map(clap::Arg::get_long);
        for option in options.filter(|option| !matches!(*option, "help" | "version")) {
            let stands = page.match_indices(&format!("--{option}")).any(|(at, found)| {
                !page[at + found.len()..].starts_with(|next: char| next.is_ascii_alphanumeric() || next == '-')
            });
            if !stands {
                missing.push(format!("docs/cli.md does not name --{option} of {name}"));
            }
        }
    }
    assert_eq!(missing, [] as [String; 0]);
}

/// The numbers of tables' first columns, but for 0, which is no failure.
fn codes(text: &str) -> BTreeSet<u8> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    cells
        .flat_map(|cell| {
            cell.split(", ").filter_map(|word| word.trim().parse().ok()).filter(|code| *code > 0).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn every_exit_code_is_documented() {
    let source = include_str!("exit.rs");
    let constants = source.lines().filter_map(|line| line.strip_prefix("pub(crate) const ")?.split(" = ").nth(1));
    let known: BTreeSet<u8> = constants.map(|code| code.trim_end_matches(';').parse().unwrap()).collect();
    assert!(known.contains(&crate::exit::LOST) && known.len() > 8, "{known:?}");
    assert_eq!(codes(&text("docs/cli.md")), known);
    let mut cli = Cli::command();
    cli.build();
    let mut told = BTreeSet::new();
    for command in cli.get_subcommands() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let help = help.split_once("Exit codes:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap());
        let codes = help.lines().filter_map(|line| line.split_whitespace().next()?.parse::<u8>().ok());
        told.extend(codes.filter(|code| *code > 0));
    }
    assert!(told.len() > 5 && told.is_subset(&known), "{told:?}");
}

#[test]
fn an_option_that_does_not_exist_is_seen() {
    let text =
        "`kubectl leasehold run a --no-wiat -- ./b --c` and\n```sh\nx=\"$(kubectl leasehold name d)\" -o e\n```\n";
    assert_eq!(commands(text), [vec!["run", "a", "--no-wiat"], vec!["name", "d"]]);
}
