//! What the shared file proves.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

/// What was found in a file in which nothing overlapped.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) lines: usize,
    pub(crate) tenancies: usize,
    pub(crate) holders: usize,
    /// Tenancies that broke off: their worker was killed or stopped.
    pub(crate) broken_off: usize,
}

/// Checks that the work never overlapped and that tokens only grew.
///
/// Each line is `TOKEN NUMBER HOLDER`. As long as one worker holds the lock its lines are numbered 1, 2, 3 …, and no
/// line of anybody else, nor of an earlier token, stands between or behind them.
pub(crate) fn check(text: &str) -> Result<Verdict> {
    let mut tenancies = Vec::<(u64, u32, &str)>::new();
    let mut lines = 0;
    for (at, line) in text.lines().enumerate() {
        let mut words = line.split(' ');
        let mut word = || words.next().with_context(|| format!("line {}: {line:?}", at + 1));
        let (token, number, holder) = (word()?.parse::<u64>()?, word()?.parse::<u32>()?, word()?);
        match tenancies.last_mut() {
            Some((last, count, who)) if *last == token => {
                ensure!(*who == holder && number == *count + 1, "line {}: two at once: {line:?}", at + 1);
                *count = number;
            }
            last => {
                let before = last.map_or(0, |(token, _, _)| *token);
                ensure!(token > before, "line {}: token {token} after {before}: two at once", at + 1);
                ensure!(number == 1, "line {}: the work does not begin at its beginning: {line:?}", at + 1);
                tenancies.push((token, number, holder));
            }
        }
        lines += 1;
    }
    let host = |holder: &str| holder.split('_').next().unwrap_or_default().to_owned();
    Ok(Verdict {
        lines,
        holders: tenancies.iter().map(|(_, _, holder)| host(holder)).collect::<BTreeSet<_>>().len(),
        broken_off: tenancies.iter().filter(|(_, count, _)| *count < 20).count(),
        tenancies: tenancies.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn overlap_is_found() {
        assert!(check("5 1 a_x.1\n5 2 a_x.1\n9 1 b_x.1\n").is_ok());
        for bad in [
            "5 1 a_x.1\n9 1 b_x.1\n5 2 a_x.1\n", // went on after the next had begun
            "5 1 a_x.1\n5 1 a_x.1\n",            // twice by the same token
            "5 1 a_x.1\n5 2 b_x.1\n",            // two holders of one token
            "9 1 a_x.1\n5 1 b_x.1\n",            // a token that went back
            "5 1 a_x.1\n9 3 b_x.1\n",            // lines are missing
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
