//! What the documents say of the repository, compared with it. That their Rust compiles is seen by the crate's doctests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files below a folder that end so, by their paths.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found
}

/// All documents, with their paths.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = files(&root().join("docs"), ".md");
    paths.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"].map(|path| root().join(path)));
    paths.into_iter().map(|path| (path.clone(), read(path))).collect()
}

/// What stands between single backticks. Blocks of code are left out.
fn spans(text: &str) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).collect();
    prose.split('`').skip(1).step_by(2).map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Blocks of code: how they are marked, and what they say.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
}

// ------------------------------------------------------------------------------------------------------------- messages

/// The string literals of Rust source, as the program has them. Comments are left out.
fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find(['"', '/', '\'']) {
        rest = &rest[at..];
        if rest.starts_with("//") {
            rest = rest.split_once('\n').map_or("", |(_, next)| next);
        } else if let Some(next) = rest.strip_prefix("'\"'").or_else(|| rest.strip_prefix("'\\\"'")) {
            rest = next;
        } else if rest.starts_with('"') {
            let (literal, next) = literal(&rest[1..]);
            found.push(literal);
            rest = next;
        } else {
            rest = &rest[1..];
        }
    }
    found
}

fn literal(text: &str) -> (String, &str) {
    let mut literal = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (literal, &text[at + 1..]),
            '\\' => match chars.next() {
                Some((next, '\n')) => {
                    let line = &text[next + 1..];
                    let indent = line.len() - line.trim_start().len();
                    chars.by_ref().take(indent).for_each(drop);
                }
                Some((_, 'n')) => literal.push('\n'),
                Some((_, c)) => literal.push(c),
                None => break,
            },
            c => literal.push(c),
        }
    }
    (literal, "")
}

/// A message with `…` for what varies, whether a document or a format string says it.
fn pattern(message: &str) -> String {
    let mut pattern = String::new();
    let mut rest = message;
    while let Some((before, after)) = rest.split_once('{') {
        pattern.push_str(before);
        pattern.push('…');
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    pattern.push_str(rest);
    let pattern = pattern.replace("\"…\"", "…").split_whitespace().collect::<Vec<_>>().join(" ");
    pattern.replace("… …", "…")
}

#[test]
fn every_message_that_is_explained_is_one_that_is_said() {
    let mut said: Vec<String> = Vec::new();
    for folder in ["client/src", "cli/src", "src"] {
        for path in files(&root().join(folder), ".rs") {
            said.extend(literals(&read(path)).iter().map(|literal| pattern(literal)));
        }
    }
    let guide = read(root().join("docs/troubleshooting.md"));
    let (mut symptoms, mut checked) = (0, 0);
    for symptom in guide.split("\n### ").skip(1) {
        symptoms += 1;
        let (heading, why) = symptom.split_once('\n').expect("a symptom is explained");
        assert!(why.contains("**Do:**"), "nothing is said that can be done about: {heading}");
        if why.trim_start().starts_with("*From ") {
            continue; // Others say it.
        }
        for message in spans(symptom) {
            let command = ["kubectl ", "etcdutl ", "cargo ", "run "].iter().any(|command| message.starts_with(command));
            if message.matches(' ').count() < 2 || command || message.contains(['=', '<']) {
                continue;
            }
            checked += 1;
            let message = pattern(&message);
            let fixed = message.trim_matches(['…', ' ', ':']);
            assert!(said.iter().any(|said| said.contains(fixed)), "nothing says {fixed:?} (under {heading:?})");
        }
    }
    assert!(symptoms >= 20 && checked >= 20, "{symptoms} symptoms, {checked} messages");
}

#[test]
fn literals_and_patterns_are_found() {
    let source = r#"
        // "no"
        fn f() -> char { say("a \"b\" {}", 1); '"' }
        const LONG: &str = "one \
            two {name:?} {0}\n";
    "#;
    assert_eq!(literals(source), ["a \"b\" {}", "one two {name:?} {0}\n"]);
    assert_eq!(pattern("one two \"{name}\" {0}: {{\n"), "one two …: …");
}

// --------------------------------------------------------------------------------------------------------- code and make

#[test]
fn every_rust_block_of_a_document_is_compiled() {
    let library = read(root().join("client/src/lib.rs"));
    for (path, text) in documents() {
        for (mark, block) in blocks(&text) {
            if !mark.starts_with("rust") {
                continue;
            }
            assert!(!mark.contains("ignore"), "{}: a block is ignored:\n{block}", path.display());
            let relative = path.strip_prefix(root()).unwrap().display().to_string();
            // The package has a README of its own, which is the repository's.
            let included = match relative.as_str() {
                "README.md" => "include_str!(\"../README.md\")".to_owned(),
                _ => format!("include_str!(\"../../{relative}\")"),
            };
            assert!(library.contains(&included), "{relative} has Rust in it and is not among the doctests");
        }
    }
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = read(root().join("Makefile"));
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|line| line.split_once(':')).map(|(target, _)| target).collect();
    let mut named = 0;
    for (path, text) in documents() {
        let shell = blocks(&text).into_iter().filter(|(mark, _)| ["sh", "console"].contains(mark));
        let lines = shell.flat_map(|(_, block)| block.lines()).map(|line| line.trim_start_matches("$ ").to_owned());
        for command in lines.chain(spans(&text)) {
            let Some(arguments) = command.strip_prefix("make ") else { continue };
            let words = arguments.split_whitespace().take_while(|word| !word.starts_with('#'));
            for target in words.filter(|word| !word.contains('=')) {
                named += 1;
                assert!(targets.contains(target), "{}: there is no target {target:?} to make", path.display());
            }
        }
    }
    assert!(named > 5, "{named}");
}

// ----------------------------------------------------------------------------------------------------------------- links

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn anchors(text: &str) -> BTreeSet<String> {
    let prose: String = text.split("```").step_by(2).collect();
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let mut followed = 0;
    for (path, text) in documents() {
        let prose: String = text.split("```").step_by(2).collect();
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") {
                continue;
            }
            followed += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link} leads nowhere", path.display());
            if !heading.is_empty() {
                assert!(anchors(&read(target)).contains(heading), "{}: {link} has no such heading", path.display());
            }
        }
    }
    assert!(followed > 20, "{followed}");
}

// --------------------------------------------------------------------------------------------------------------- figures

/// The cells of the row that begins so, but for that first one.
fn row(text: &str, first: &str) -> Vec<String> {
    let line = text.lines().find(|line| line.starts_with(&format!("| {first}"))).unwrap_or_else(|| panic!("{first}"));
    line.trim_matches('|').split('|').skip(1).map(|cell| cell.trim().to_owned()).collect()
}

/// The numbers in a cell.
fn numbers(cell: &str) -> Vec<f64> {
    cell.split(|c: char| !c.is_ascii_digit() && c != '.').filter_map(|number| number.parse().ok()).collect()
}

#[test]
fn what_follows_from_a_sessions_duration_follows_from_the_rules() {
    use leasehold::protocol::{Moment, deadline, renew_interval};
    use std::time::Duration;

    let guide = read(root().join("docs/guide.md"));
    let rows =
        ["with sessions of", "a killed holder's lock", "a holder survives", "writes of one process", "writes of 1,000"];
    let [durations, passes, survives, one, thousand] = rows.map(|first| row(&guide, first));
    assert_eq!(durations.len(), 5);
    for (n, duration) in durations.iter().enumerate() {
        let duration = Duration::from_secs_f64(numbers(duration)[0]);
        let interval = renew_interval(duration).as_secs_f64();
        let start = Moment::from_start(Duration::from_secs(1000));
        let lives = deadline(start, duration, Duration::ZERO).since(start).as_secs_f64();
        let about = |said: f64, is: f64| assert!((0.0..1.0).contains(&(said - is)), "{duration:?}: {said} for {is}");
        about(numbers(&passes[n])[0], duration.as_secs_f64() + interval);
        let [least, most] = numbers(&survives[n])[..] else { panic!("{:?}", survives[n]) };
        // These are told as less than they are.
        about(lives - interval, least);
        about(lives, most);
        for (said, processes) in [(&one[n], 1.0), (&thousand[n], 1000.0)] {
            assert!((numbers(said)[0] * interval / processes - 1.0).abs() < 1e-6, "{duration:?}: {said}");
        }
    }
}
