//! Several things at once, of several kinds, named in opposite orders.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::stage::Stage;

const SOON: Duration = Duration::from_secs(60);
/// How many transfers each of the two makes.
const EACH: usize = 4;

/// How many transfers were made.
pub(crate) async fn perform(stage: &Stage, semaphore: &str) -> Result<usize> {
    println!(
        "\nTwo move money in opposite directions, each with both accounts, a connection and a look at the rates.\n"
    );
    let mut clerks = Vec::new();
    let orders = [
        "--lock account-1 --semaphore S --read rates --lock account-2 -- ./transfer.sh account-1 account-2",
        "--lock account-2 --read rates --lock account-1 --semaphore S -- ./transfer.sh account-2 account-1",
    ];
    for (name, order) in ["clerk-1", "clerk-2"].into_iter().zip(orders) {
        let rounds = (1..=EACH).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let run =
            format!("kubectl leasehold run {}", order.replace("--semaphore S", &format!("--semaphore {semaphore}")));
        clerks.push(stage.worker().start(name, &format!("for n in {rounds}; do {run} || exit; done"))?);
    }
    for clerk in &mut clerks {
        clerk.wait_success(SOON).await?;
    }
    stage.worker().run("cat account-1 account-2", 0).await?;
    let balances = [stage.read("account-1")?, stage.read("account-2")?];
    ensure!(balances == ["100\n", "100\n"], "CHECK FAILED: something was lost: {balances:?}");
    Ok(2 * EACH)
}
