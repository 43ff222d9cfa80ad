//! Whether the documents name subcommands and options that there are.

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

#[test]
fn an_option_that_does_not_exist_is_seen() {
    let text =
        "`kubectl leasehold run a --no-wiat -- ./b --c` and\n```sh\nx=\"$(kubectl leasehold name d)\" -o e\n```\n";
    assert_eq!(commands(text), [vec!["run", "a", "--no-wiat"], vec!["name", "d"]]);
}
