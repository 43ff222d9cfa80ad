//! The small scenarios of the model, searched to their bounds.

use leasehold_model::{Options, run};

#[test]
fn the_protocol_keeps_its_promises_in_every_order_of_events() {
    let options = Options { quick: true, most: usize::MAX, ..Options::default() };
    let report = run(&options).expect("it can be run");
    assert!(report.violations().is_empty(), "{report}");
    let figures = report.to_string();
    let states = figures.lines().find(|line| line.contains("states in all")).expect("how many states there were");
    let states: u64 = states.split('|').nth(3).and_then(|figure| figure.trim().parse().ok()).expect("a number");
    assert!(states > 50_000, "only {states} states were reached:\n{figures}");
}
