//! As much of a program's head as tells what it runs on.

use anyhow::{Context as _, Result, bail, ensure};

/// A segment that names the dynamic linker.
const INTERPRETER: u32 = 3;

/// What a program that is linked statically for Linux runs on, by the name that images have for it.
///
/// # Errors
/// Where it is none, or needs a dynamic linker, which the image does not have.
pub(crate) fn static_architecture(program: &[u8]) -> Result<&'static str> {
    // 64 bits, little-endian.
    ensure!(program.starts_with(b"\x7fELF\x02\x01"), "it is no program for Linux of 64 bits");
    let architecture = match number(program, 18, 2)? {
        62 => "amd64",
        183 => "arm64",
        other => bail!("it is for a machine that is not known here (ELF {other})"),
    };
    let (table, size, count) = (number(program, 32, 8)?, number(program, 54, 2)?, number(program, 56, 2)?);
    for n in 0..count {
        let kind = number(program, table + n * size, 4)?;
        ensure!(
            kind != u64::from(INTERPRETER),
            "it is linked dynamically: build it with RUSTFLAGS=\"-C target-feature=+crt-static\" and --target, as `make image` does"
        );
    }
    Ok(architecture)
}

/// The number of so many bytes that stands there.
fn number(program: &[u8], at: u64, bytes: usize) -> Result<u64> {
    let at = usize::try_from(at)?;
    let found = at.checked_add(bytes).and_then(|end| program.get(at..end)).context("it is cut off")?;
    Ok(found.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(machine: u8, segments: &[u8]) -> Vec<u8> {
        let mut program = vec![0; 64 + 56 * segments.len()];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (program[18], program[32], program[54]) = (machine, 64, 56);
        program[56] = u8::try_from(segments.len()).unwrap();
        for (n, kind) in segments.iter().enumerate() {
            program[64 + 56 * n] = *kind;
        }
        program
    }

    #[test]
    fn only_a_program_that_needs_nothing_is_taken() {
        assert_eq!(static_architecture(&program(62, &[1, 2])).unwrap(), "amd64");
        assert_eq!(static_architecture(&program(183, &[1])).unwrap(), "arm64");
        let refused = |program: &[u8]| static_architecture(program).unwrap_err().to_string();
        assert!(refused(&program(62, &[1, 3])).contains("dynamically"));
        assert!(refused(&program(40, &[])).contains("ELF 40"));
        assert!(refused(&program(62, &[1, 1])[..100]).contains("cut off"));
        assert!(refused(b"#!/bin/sh").contains("no program"));
        // This test itself is linked dynamically.
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(refused(&this).contains("dynamically"));
    }
}
