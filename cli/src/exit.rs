//! How this program ends: with a message, and with a code that a script can tell apart.

use std::fmt;

use crate::view::printable;

/// Something that was checked is not as it should be.
pub(crate) const BAD: u8 = 1;
/// Wrong usage (`EX_USAGE`).
pub(crate) const USAGE: u8 = 64;
/// The API server cannot be reached (`EX_UNAVAILABLE`).
pub(crate) const UNREACHABLE: u8 = 69;
/// Something is wrong with this program or with what the API server answered (`EX_SOFTWARE`).
pub(crate) const INTERNAL: u8 = 70;
/// The lock was not acquired (`EX_TEMPFAIL`).
pub(crate) const NOT_ACQUIRED: u8 = 75;
/// The lock was lost while the command ran.
pub(crate) const LOST: u8 = 76;
/// The user may not do that (`EX_NOPERM`).
pub(crate) const FORBIDDEN: u8 = 77;
/// What a handle names is over.
pub(crate) const OVER: u8 = 79;
/// There is a deadlock, and whoever asks wants to hear of it by the code.
pub(crate) const DEADLOCK: u8 = 80;
/// The command cannot be run.
pub(crate) const CANNOT_RUN: u8 = 126;
/// The command was not found.
pub(crate) const NOT_FOUND: u8 = 127;

/// The code of what a signal ended, as shells have it.
pub(crate) fn of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Why this program ends without having done what it was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// For people. Empty where there is nothing to say.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// It ends because of a signal, and whoever sent it knows why.
    pub(crate) fn signal(signal: i32) -> Self {
        Self::new(of_signal(signal), "")
    }

    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(INTERNAL, chain(error))
    }
}

/// An error with what caused it, without saying twice what an error says of its cause itself.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Says something to the person or the log behind standard error.
///
/// Others wrote some of it: it does nothing to a terminal. Where nobody reads it any more, that is no reason to end.
pub(crate) fn say(message: impl fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "leasehold: {}", lines(&message.to_string()));
}

/// Line by line as a terminal may have it.
fn lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        #[derive(Debug)]
        struct Outer(&'static str, std::io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.1)
            }
        }
        let refused = || std::io::Error::other("refused");
        assert_eq!(chain(&Outer("cannot connect", refused())), "cannot connect: refused");
        assert_eq!(chain(&Outer("cannot connect: refused", refused())), "cannot connect: refused");
    }

    #[test]
    fn what_an_api_server_says_does_nothing_to_a_terminal() {
        assert_eq!(lines("forbidden: \u{1b}[2J\u{9b}no\nThis needs"), "forbidden: \\u{1b}[2J\\u{9b}no\nThis needs");
    }

    #[test]
    fn signals_have_the_codes_of_shells() {
        assert_eq!((of_signal(15), of_signal(9), of_signal(64)), (143, 137, 192));
    }
}
