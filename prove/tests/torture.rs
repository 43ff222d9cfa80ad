//! A short run of the torture: half a minute of real faults, seeded.

use leasehold_prove::torture::{self, Options};

#[test]
fn half_a_minute_of_real_faults_breaks_nothing() -> anyhow::Result<()> {
    let options = Options { duration: 25, seed: 7, workers: 8, every: 1.5, session: 3, keep: false };
    let report = torture::run(&options)?;
    println!("{report}");
    assert!(report.violations().is_empty(), "{report}");
    // The deck deals every kind once before it deals one again.
    let kinds = report.get("kinds of faults").and_then(|text| text.parse::<u32>().ok());
    assert!(kinds.is_some_and(|kinds| kinds >= 8), "{report}");
    Ok(())
}
