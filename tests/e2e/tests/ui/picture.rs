//! The picture of the page in the documents: `make screenshot` takes it anew.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use leasehold::{Client, MultiLock};
use leasehold_testkit::eventually;
use tokio::time::sleep;

use crate::browser::Browser;
use crate::support::{SOON, Scene};

/// How long is worked before the picture is taken.
const LIVELY: Duration = Duration::from_secs(100);

async fn work(client: Client, name: &'static str, rounds: u64, payload: &'static str) -> Result<()> {
    let lock = client.lock(name).build()?;
    loop {
        let guard = lock.acquire().await?;
        guard.publish(payload).await?;
        sleep(Duration::from_millis(3000 + 1700 * rounds)).await;
        guard.release().await?;
        sleep(Duration::from_millis(2000 + 900 * rounds)).await;
    }
}

#[tokio::test]
#[ignore = "it takes a minute and writes docs/ui.png: make screenshot"]
async fn a_picture_of_the_page() -> Result<()> {
    let scene = Scene::new().await?;
    let ui = scene.ui(&[]).await?;
    let client = |host: &str| -> Result<Client> {
        let builder = Client::builder().kube_config(scene.namespace.config()).namespace(scene.namespace.name());
        Ok(builder.host(host).without_pod().build()?)
    };
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..4 {
        tasks.spawn(work(client(&format!("web-{n}"))?, "orders", n, "step 3 of 7: invoices"));
    }
    for n in 0..2 {
        tasks.spawn(work(client(&format!("batch-{n}"))?, "nightly-report", n + 2, "customers A to F"));
    }
    let mut held = Vec::new();
    for (n, name) in ["backup", "migrations", "order:payment:4711", "search-index"].into_iter().enumerate() {
        let client = client(&format!("worker-{n}"))?;
        let guard = client.lock(name).build()?.acquire().await?;
        held.push((client, guard));
    }
    let mut shared = Vec::new();
    for n in 0..3 {
        let client = client(&format!("import-{n}"))?;
        let semaphore = client.semaphore("db-connections").with_permits(5).build()?;
        let catalog = client.read_write_lock("catalog")?;
        let guard = MultiLock::new().permits(&semaphore, 1).read(&catalog).build()?.acquire_timeout(SOON).await?;
        shared.push((client, guard));
    }
    let writer = client("publisher-0")?;
    let catalog = writer.read_write_lock("catalog")?;
    tasks.spawn(async move { catalog.write().await.map(drop).map_err(Into::into) });
    let browser = Browser::start(1200, 600).await?;
    browser.open(&format!("{}#/lock/{}/orders", ui.url, scene.namespace.name())).await?;
    sleep(LIVELY).await;
    eventually(SOON, "a moment at which somebody waits", async || {
        let waits = browser.eval("document.querySelectorAll('ol.waiters li').length").await?;
        anyhow::ensure!(waits.as_u64() >= Some(2), "{waits}");
        Ok(())
    })
    .await?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ui.png");
    browser.screenshot(&path).await?;
    tasks.abort_all();
    Ok(())
}
