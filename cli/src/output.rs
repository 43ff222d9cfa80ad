//! What goes to standard output.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::exit::Failure;

pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| Failure::internal(&error))
}

/// On one line, for programs.
pub(crate) fn compact(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()))
}

pub(crate) fn yaml(value: &impl Serialize) -> Result<String, Failure> {
    serde_yaml_ng::to_string(value).map_err(|error| Failure::internal(&error))
}

/// Writes to standard output. Whoever closes it has read enough.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_on(text).map(drop)
}

/// The same, and whether there is still somebody who reads.
pub(crate) fn print_on(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    let text = if out.is_terminal() { shown(text) } else { text.into() };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::internal(&error)),
    }
}

/// What JSON and YAML leave as it is, though a terminal would obey it or turn its direction, as JSON may have it as well.
fn shown(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(obeyed) {
        return text.into();
    }
    let mut shown = String::new();
    for c in text.chars() {
        if obeyed(c) {
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn json_at_a_terminal_means_the_same_and_does_nothing_to_it() {
        let value = Value::from("a\u{9b}2J\u{7f}\u{202e}b\u{2066} Übung 🦀");
        let text = json(&value).ok().unwrap();
        let on_terminal = shown(&text);
        assert_eq!(on_terminal, "\"a\\u009b2J\\u007f\\u202eb\\u2066 Übung 🦀\"\n");
        assert_eq!(serde_json::from_str::<Value>(&on_terminal).unwrap(), value);
        assert_eq!(shown("NAME\n\u{1b}[1mé\u{1b}[0m\n"), "NAME\n\u{1b}[1mé\u{1b}[0m\n");
    }
}
