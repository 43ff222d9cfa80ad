//! What its process has left there stays for its time, whether the operator is restarted or not, and then goes.

use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold::clock;
use leasehold_operator::crd::State;

use crate::support::Scene;

#[tokio::test]
async fn what_is_kept_outlives_its_process_and_the_operator_and_is_cleared_up_then() -> Result<()> {
    const KEPT: Duration = Duration::from_secs(8);
    let mut scene = Scene::new().await?;
    scene.lock("standing").await?;
    let user = scene.user("keeper")?;
    let begun = clock::moment();
    for name in ["standing", "on-the-spot"] {
        user.lock(name).build()?.acquire().await?.keep(KEPT).await?;
    }
    user.shutdown().await;
    scene.status("standing", |status| status.state == Some(State::Held)).await?;
    // The next one has seen nothing of it, and counts anew.
    scene.operator.process.kill();
    let _another = scene.another_operator().await?;
    scene.status("standing", |status| status.state == Some(State::Free)).await?;
    let after = clock::moment().since(begun);
    ensure!(after >= KEPT, "it was cleared away after {after:?}");
    scene.no_lease("on-the-spot").await?;
    Ok(())
}
