//! What is asked of every implementation, asked of clients of a real API server.

use std::sync::Arc;

use anyhow::Result;
use leasehold::provider::Provider;
use leasehold::testing::conformance::{self, Promises};

use crate::support::{client, namespace};

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_cluster_keep_every_promise() -> Result<()> {
    let (namespace, _dump) = namespace("conformance").await?;
    let process = async || Arc::new(client(&namespace, 30).expect("a client")) as Arc<dyn Provider>;
    conformance::all(process, Promises::all()).await;
    Ok(())
}
