//! Names that are no object's, on an API server that has its own mind about those.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use leasehold::protocol::name::lease_name;
use leasehold::{AcquireError, TryAcquireError};

use crate::support::{lock, namespace, record};

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_with_one_id_exclude_each_other() -> Result<()> {
    let (namespace, _dump) = namespace("names").await?;
    let long = "é/".repeat(341) + "!";
    for id in ["order:payment:4711", "🦀", "session-x", "Session", &long] {
        let (one, two) = (lock(&namespace, id)?, lock(&namespace, id)?);
        let guard = one.acquire().await?;
        let error = two.try_acquire().await.expect_err("it is held");
        ensure!(matches!(&error, TryAcquireError::Held { name, .. } if name == id), "{error}");
        let seen = record(&namespace, &lease_name(id)?).await?.expect("it is held");
        assert_eq!(seen.resource_id.as_deref(), Some(id));
        assert_eq!(seen.lease_name(), guard.lease_name());
        let before = guard.token();
        let (waited, released) = tokio::join!(two.acquire(), async {
            while one.status().await?.waiters.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(guard.release().await?)
        });
        released?;
        let next = waited?;
        ensure!(next.token() > before && next.name() == id);
        // One that differs in a letter that the Lease's name does not show is another lock.
        lock(&namespace, &id.to_uppercase().replace([':', '🦀', '!'], "?"))?.try_acquire().await?.release().await?;
        next.release().await?;
        ensure!(record(&namespace, &lease_name(id)?).await?.is_none(), "the Lease of {id:?} stays");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_part_of_the_name_and_a_free_lock_is_waited_for() -> Result<()> {
    let (namespace, _dump) = namespace("prefix").await?;
    let builder = leasehold::Client::builder().kube_config(namespace.config()).namespace(namespace.name());
    let ours = builder.key_prefix("team-a/").build()?.lock("db").build()?;
    let plain = lock(&namespace, "team-a/db")?;
    let guard = ours.acquire().await?;
    ensure!(guard.name() == "team-a/db" && guard.lease_name() == plain.lease_name());
    ensure!(plain.is_locked().await? && !lock(&namespace, "db")?.is_locked().await?);
    let free = tokio::spawn(async move { plain.wait_until_free().await });
    ensure!(!free.is_finished());
    guard.release().await?;
    tokio::time::timeout(crate::support::SOON, free).await???;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_name_is_told_before_anything_is_asked() -> Result<()> {
    let (namespace, _dump) = namespace("nonames").await?;
    let error = lock(&namespace, &"x".repeat(1025)).expect_err("it is too long").to_string();
    ensure!(error.contains("a name of 1025 bytes is too long: 1 to 1024 bytes are possible"), "{error}");
    let error = lock(&namespace, "a\nb").expect_err("it has a line break").to_string();
    ensure!(error.contains("the character at byte 1 is a control character"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_says_it_is_anothers_is_not_shared() -> Result<()> {
    let (namespace, _dump) = namespace("anothers").await?;
    let lease = serde_json::from_value(serde_json::json!({
        "metadata": {"name": lease_name("a:b")?, "annotations": {"leasehold.dev/id": "a-b:c"}},
    }))?;
    namespace.api::<Lease>().create(&kube::api::PostParams::default(), &lease).await?;
    let error = lock(&namespace, "a:b")?.acquire().await.expect_err("it is another's");
    ensure!(matches!(error, AcquireError::Api { .. }) && !error.is_retryable(), "{error}");
    ensure!(
        error.to_string().contains("is that of \"a-b:c\" (annotation leasehold.dev/id), not of \"a:b\""),
        "{error}"
    );
    Ok(())
}
