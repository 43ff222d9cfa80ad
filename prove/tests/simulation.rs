//! A slice of the simulation, for every run of the tests. `make prove` runs more of it.

use leasehold_prove::simulation::{self, Options};

#[test]
fn no_guarantee_is_broken_on_a_simulated_network() {
    let options = Options { seeds: 50, ..Options::default() };
    let report = simulation::run(&options).unwrap();
    assert!(report.violations().is_empty(), "{report}");
}
